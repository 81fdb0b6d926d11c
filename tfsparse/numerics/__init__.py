"""Pure rules on tensors. No variables, no layers, no state; any Keras backend."""

from tfsparse.numerics.groups import group_shrinkage, prox_group_l2, safe_norm
from tfsparse.numerics.switches import sign_variance
from tfsparse.numerics.variational import (
    LIMIT,
    gaussian_kl,
    half_cauchy_kl,
    inverse_gamma_kl,
    log_alpha,
    log_uniform_kl,
    significant_bits,
    warm_up,
)

__all__ = [
    "LIMIT",
    "gaussian_kl",
    "group_shrinkage",
    "half_cauchy_kl",
    "inverse_gamma_kl",
    "log_alpha",
    "log_uniform_kl",
    "prox_group_l2",
    "safe_norm",
    "sign_variance",
    "significant_bits",
    "warm_up",
]
