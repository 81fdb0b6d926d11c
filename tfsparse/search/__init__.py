"""SpArSe: search of architecture, hyper-parameters and pruning together."""

from tfsparse.search.inheritance import Inherited, inherit
from tfsparse.search.network import HyperNetwork, build, smallest
from tfsparse.search.own import named, searched
from tfsparse.search.sampler import EvolutionSampler, MorphSampler, RandomSampler
from tfsparse.search.space import Space, table_7

__all__ = [
    "EvolutionSampler",
    "HyperNetwork",
    "Inherited",
    "MorphSampler",
    "RandomSampler",
    "Space",
    "build",
    "inherit",
    "named",
    "searched",
    "smallest",
    "table_7",
]
