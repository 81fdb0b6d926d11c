"""Optimizers, and what keeps them going when variables shrink."""

from tfsparse.optimizers.joint import JointOptimizer
from tfsparse.optimizers.overlapping import GONE, OverlappingProxSGD
from tfsparse.optimizers.proxsgd import ProxSGD
from tfsparse.optimizers.resize import (
    check_slots,
    recompile,
    resize,
    spare_decay,
)
from tfsparse.optimizers.schedules import ProxDecay

__all__ = [
    "GONE",
    "JointOptimizer",
    "OverlappingProxSGD",
    "ProxDecay",
    "ProxSGD",
    "recompile",
    "check_slots",
    "resize",
    "spare_decay",
]
