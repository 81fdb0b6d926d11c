"""The house's own Keras layers and regularizers."""

from tfsparse.layers.filter import Filter
from tfsparse.layers.penalty import SwitchDecay
from tfsparse.layers.scale import Scale

__all__ = ["Filter", "Scale", "SwitchDecay"]
