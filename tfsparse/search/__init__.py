"""SpArSe: search of architecture, hyper-parameters and pruning together."""

from tfsparse.search.inheritance import Inherited, inherit
from tfsparse.search.network import HyperNetwork, build
from tfsparse.search.sampler import MorphSampler
from tfsparse.search.space import Space, table_7

__all__ = [
    "HyperNetwork",
    "Inherited",
    "MorphSampler",
    "Space",
    "build",
    "inherit",
    "table_7",
]
