"""Pure rules on tensors. No variables, no layers, no state; any Keras backend."""

from tfsparse.numerics.blocks import Block, Slice
from tfsparse.numerics.curvature import (
    activation_curvature,
    clamped,
    cross_entropy_curvature,
    cross_entropy_hessian,
    cross_entropy_root,
    dense_hessian,
    dense_recursion,
)
from tfsparse.numerics.evidence import (
    ENTROPY_GAMMA,
    evidence_slopes,
    evidence_variance,
    is_relevant,
)
from tfsparse.numerics.groups import (
    dykstra,
    group_shrinkage,
    prox_group_l2,
    safe_norm,
)
from tfsparse.numerics.switches import sign_variance
from tfsparse.numerics.variational import (
    LIMIT,
    gaussian_divergence,
    gaussian_kl,
    half_cauchy_kl,
    inverse_gamma_kl,
    log_alpha,
    log_uniform_divergence,
    log_uniform_kl,
    log_uniform_variance,
    significant_bits,
    warm_up,
    widest_gap,
)

__all__ = [
    "Block",
    "ENTROPY_GAMMA",
    "LIMIT",
    "Slice",
    "activation_curvature",
    "clamped",
    "cross_entropy_curvature",
    "cross_entropy_hessian",
    "cross_entropy_root",
    "dense_hessian",
    "dense_recursion",
    "dykstra",
    "evidence_slopes",
    "evidence_variance",
    "gaussian_divergence",
    "gaussian_kl",
    "group_shrinkage",
    "half_cauchy_kl",
    "inverse_gamma_kl",
    "is_relevant",
    "log_alpha",
    "log_uniform_divergence",
    "log_uniform_kl",
    "log_uniform_variance",
    "prox_group_l2",
    "safe_norm",
    "sign_variance",
    "significant_bits",
    "warm_up",
    "widest_gap",
]
