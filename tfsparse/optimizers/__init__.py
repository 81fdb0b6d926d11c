"""Optimizers, and what keeps them going when variables shrink."""

from tfsparse.optimizers.resize import recompile, resize

__all__ = ["recompile", "resize"]
