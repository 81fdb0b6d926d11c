"""The house's own Keras layers and regularizers."""

from tfsparse.layers.filter import Filter
from tfsparse.layers.penalty import SwitchDecay

__all__ = ["Filter", "SwitchDecay"]
