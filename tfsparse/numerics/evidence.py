"""Evidence maximisation with one prior variance a weight or group."""

from __future__ import annotations

import math

from keras import ops

ENTROPY_GAMMA = 1.0 / (2.0 * math.pi * math.e)
"""The prior variance, 0.0585, at which a Gaussian's entropy is 0."""


def evidence_slopes(gamma, curvature):
    """How the evidence's log-determinant rises with each prior variance.

    alpha = (gamma - C) / gamma^2 with C = (1 / gamma + H)^-1, without its cancellation:
    H / (1 + gamma H) for a diagonal H, diag(H (I + diag(gamma) H)^-1) for a whole one.
    The penalty of a group is then omega = sqrt(sum of its alpha), times its norm.

    Args:
        gamma: `(n,)` prior variances, not negative; or any shape for a diagonal H.
        curvature: H, the Hessian of the negative log-likelihood: `(n, n)`, or its diagonal
            in `gamma`'s shape, not negative.

    Returns:
        alpha, of `gamma`'s shape; H's diagonal where `gamma` is 0.

    Example:
        >>> float(evidence_slopes(ops.array(1.0), ops.array(3.0)))
        0.75

    Reference: BayesNAS, A.2.8 and B.0.3 to B.0.5 (misprint 16 of A.3.9 corrected).
    """
    if len(curvature.shape) == 2 and len(gamma.shape) == 1:
        whole = ops.eye(len(gamma), dtype=curvature.dtype) + gamma[:, None] * curvature
        return ops.diagonal(ops.matmul(curvature, ops.linalg.inv(whole)))
    return curvature / (1.0 + gamma * curvature)


def evidence_variance(norm, omega):
    """The prior variance that the evidence wants for a weight or group.

    gamma = ||w|| / omega, the minimum of ||w||^2 / gamma + omega^2 gamma; 0 where w is 0.

    Args:
        norm: ||w||, the size of a weight or the norm of a group.
        omega: Its penalty, of the same shape; a penalty of 0 counts as 1e-12.

    Returns:
        gamma, of that shape.

    Reference: BayesNAS, A.2.11 to A.2.13 and table S3.
    """
    return norm / ops.maximum(omega, 1e-12)


def joined_variance(own, *others):
    """The prior variance of a weight that is of use only where others are.

    gamma = (1 / s + sum_i 1 / s_i)^-1: no larger than the least of them.

    Args:
        own: s, the weight's own prior variance, not negative.
        others: Of each thing that it depends on, in that shape: an edge's own, the sum over
            all predecessors; inf where there is none.

    Returns:
        gamma, of that shape; 0 where one of them is 0.

    Example:
        >>> float(joined_variance(ops.array(1.0), ops.array(1.0), ops.array(0.5)))
        0.25

    Reference: BayesNAS, eqs. 6 and 8 (misprint 1 of eq. 6 corrected).
    """
    tiny = 1e-30
    inverse = 1.0 / ops.maximum(own, tiny)
    for other in others:
        inverse = inverse + 1.0 / ops.maximum(other, tiny)
    return 1.0 / inverse


def is_relevant(gamma):
    """Whether a weight or group stays: ln(2 pi e gamma) / 2 > 0.

    Args:
        gamma: Prior variances.

    Returns:
        Bools of that shape.

    Reference: BayesNAS, section 5.2 (the entropy criterion).
    """
    return gamma > ENTROPY_GAMMA
