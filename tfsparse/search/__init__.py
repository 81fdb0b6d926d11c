# ruff: noqa: E402 (what is missing is said before anything asks for it)
"""SpArSe: search of architecture, hyper-parameters and pruning together."""

import importlib.util

for _name, _package in {"optuna": "optuna", "keras_tuner": "keras-tuner"}.items():
    if importlib.util.find_spec(_name) is None:
        raise ImportError(
            f"`tfsparse.search` must have {_package}. Received: none; `pip install "
            "'tfsparse[search]'` brings it."
        )

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
    "Tuner",
    "build",
    "inherit",
    "named",
    "searched",
    "smallest",
    "table_7",
]


def __getattr__(name: str):
    """`Tuner`, once it is asked for: it runs the engine, which knows this room."""
    if name == "Tuner":
        from tfsparse.search.tuner import Tuner

        return Tuner
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
