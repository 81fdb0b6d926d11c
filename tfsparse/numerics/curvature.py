"""Second derivatives of a loss, layer by layer, from the output backwards."""

from __future__ import annotations

from keras import ops


def cross_entropy_curvature(logits):
    """Diagonal of the Hessian of softmax cross-entropy by the logits: p (1 - p).

    Args:
        logits: `(batch, classes)`.

    Returns:
        `(batch, classes)`; it does not depend on the labels.

    Example:
        >>> cross_entropy_curvature(ops.zeros((1, 2))).tolist()
        [[0.25, 0.25]]
    """
    p = ops.softmax(logits)
    return p * (1.0 - p)


def cross_entropy_hessian(logits):
    """Hessian of softmax cross-entropy by the logits: diag(p) - p p^T.

    Args:
        logits: `(batch, classes)`.

    Returns:
        `(batch, classes, classes)`.
    """
    p = ops.softmax(logits)
    square = p[:, :, None] * p[:, None, :]
    return p[:, :, None] * ops.eye(p.shape[-1], dtype=p.dtype) - square


def cross_entropy_root(logits):
    """A root R of that Hessian, R R^T = diag(p) - p p^T: R = diag(sqrt p) - p sqrt(p)^T.

    Args:
        logits: `(batch, ..., classes)`.

    Returns:
        `(batch, ..., classes, classes)`.
    """
    p = ops.softmax(logits)
    root = ops.sqrt(p)
    return root[..., :, None] * ops.eye(p.shape[-1], dtype=p.dtype) - (
        p[..., :, None] * root[..., None, :]
    )


def dense_hessian(inputs, hessian):
    """Hessian by the kernel of y = x W, from that by y: x x^T (kron) H.

    Args:
        inputs: x, `(batch, inputs)`.
        hessian: H, `(batch, outputs, outputs)`.

    Returns:
        `(batch, inputs, outputs, inputs, outputs)`.

    Reference: BayesNAS, eq. C.1.2.
    """
    square = inputs[:, :, None] * inputs[:, None, :]
    return square[:, :, None, :, None] * hessian[:, None, :, None, :]


def dense_recursion(hessian, kernel, slope, bend, gradient):
    """The pre-activation Hessian one Dense further back.

    H_i = B W H_j W^T B + D, B = diag(sigma'(h_i)), D = diag(sigma''(h_i) dL/da_i), for
    a_i = sigma(h_i) and h_j = a_i W.

    Args:
        hessian: H_j, `(batch, outputs, outputs)`.
        kernel: W, `(inputs, outputs)`.
        slope, bend: sigma' and sigma'' at h_i, `(batch, inputs)`.
        gradient: dL/da_i, `(batch, inputs)`.

    Returns:
        H_i, `(batch, inputs, inputs)`.

    Reference: BayesNAS, eq. C.1.3.
    """
    back = ops.matmul(ops.matmul(kernel[None], hessian), ops.transpose(kernel)[None])
    own = ops.eye(slope.shape[-1], dtype=slope.dtype) * (bend * gradient)[:, :, None]
    return slope[:, :, None] * back * slope[:, None, :] + own


def activation_curvature(curvature, slope, bend, gradient):
    """Diagonal curvature in front of an activation: sigma'^2 H + sigma'' g.

    Args:
        curvature: H behind it.
        slope, bend: sigma' and sigma'' at its input.
        gradient: g, dL/da behind it.

    Returns:
        A tensor of their shape.

    Reference: BayesNAS, eq. C.1.5 (misprint 19 corrected).
    """
    return ops.square(slope) * curvature + bend * gradient


TINY = 1e-12
"""What a negative curvature becomes."""


def clamped(curvature):
    """Curvature without negative values, and how many there were.

    Evidence needs H >= 0: a negative one would make omega complex. It becomes tiny, not
    0, which would say that no sample reaches the weight.

    Args:
        curvature: Any shape.

    Returns:
        The clamped tensor, and the number of negative values.
    """
    negative = curvature < 0
    return ops.where(negative, TINY, curvature), ops.sum(ops.cast(negative, "int32"))
