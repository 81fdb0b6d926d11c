"""The house's own Keras layers and regularizers."""

from tfsparse.layers.drop_path import DropPath
from tfsparse.layers.filter import Filter
from tfsparse.layers.penalty import SwitchDecay
from tfsparse.layers.scale import ArchitectureParameter, Scale
from tfsparse.layers.variational import (
    TWINS,
    VariationalConv1D,
    VariationalConv2D,
    VariationalDense,
    VariationalDepthwiseConv2D,
)
from tfsparse.layers.variational_scale import VariationalScale, certain

__all__ = [
    "TWINS",
    "ArchitectureParameter",
    "DropPath",
    "Filter",
    "Scale",
    "SwitchDecay",
    "VariationalConv1D",
    "VariationalConv2D",
    "VariationalDense",
    "VariationalDepthwiseConv2D",
    "VariationalScale",
    "certain",
]
