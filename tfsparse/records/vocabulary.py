"""Words that rooms share: what a setting may be called, on both sides of it."""

from __future__ import annotations

TASKS = ("classification", "binary", "multilabel", "regression", "reconstruction")
"""What is predicted: one class of several; yes or no; several labels at once; numbers; the
input itself."""

CURVATURES = ("recursive", "averaged", "gauss_newton", "hutchinson")
"""How a diagonal Hessian may be estimated, see `tfsparse.curvature`."""

SWITCH_FORMS = ("relu", "signed")
"""How a switch kills a unit, see `layers.Filter`."""

SCALE_PRIORS = ("normal_jeffreys", "horseshoe")
"""Priors of random factors on units, see `layers.VariationalScale`."""

TAUS = ("constant", "group", "element")
"""The curvature that a proximal step divides by, see `optimizers.ProxSGD`."""

SCALINGS = {"none": 0.0, "sqrt": 0.5, "inverse_sqrt": -0.5}
"""Name -> exponent of a group's size in the strength of its penalty."""

GONE = 1e30
"""The factor on a group's penalty that prunes it for good."""

LOG_ALPHA_LIMIT = 8.0
"""Log alpha lies within it, both ways, see `numerics.variational`."""

CRITERIA = ("l1", "l2", "bn_scale", "taylor", "fpgm", "activation", "random")
"""How much a unit of a trained model matters, see `deploy.criteria`."""
