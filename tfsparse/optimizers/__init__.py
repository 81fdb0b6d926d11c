"""Optimizers, and what keeps them going when variables shrink."""

from tfsparse.optimizers.overlapping import GONE, OverlappingProxSGD
from tfsparse.optimizers.proxsgd import ProxDecay, ProxSGD
from tfsparse.optimizers.resize import recompile, resize, spare_decay

__all__ = [
    "GONE",
    "OverlappingProxSGD",
    "ProxDecay",
    "ProxSGD",
    "recompile",
    "resize",
    "spare_decay",
]
