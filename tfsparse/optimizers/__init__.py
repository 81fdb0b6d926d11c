"""Optimizers, and what keeps them going when variables shrink."""

from tfsparse.optimizers.overlapping import GONE, OverlappingProxSGD
from tfsparse.optimizers.proxsgd import ProxDecay, ProxSGD
from tfsparse.optimizers.resize import recompile, resize

__all__ = [
    "GONE",
    "OverlappingProxSGD",
    "ProxDecay",
    "ProxSGD",
    "recompile",
    "resize",
]
