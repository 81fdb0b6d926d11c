"""Optimizers, and what keeps them going when variables shrink."""

from tfsparse.optimizers.proxsgd import ProxDecay, ProxSGD
from tfsparse.optimizers.resize import recompile, resize

__all__ = ["ProxDecay", "ProxSGD", "recompile", "resize"]
