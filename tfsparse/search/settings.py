"""What a user can set about a search."""

from __future__ import annotations

from tfsparse import budgets, options
from tfsparse.search.front import ERROR, OBJECTIVES
from tfsparse.search.sampler import SAMPLERS

METHODS = {"bayesian_compression": True, "sparse_vd": False}
"""Methods that trials prune by -> whether units go, or single weights."""

TABLE = "table_7"


@options.record
class SearchSettings(options.Options):
    """What is sought, and how hard."""

    part = "The search"

    workdir: str = options.field("runs/search", "Folder that every result goes to.")
    method: str = options.field(
        "bayesian_compression",
        "What prunes every trial: units, or single weights.",
        choices=tuple(METHODS),
    )
    objectives: str = options.patterns(
        "error,weight_bytes,working_memory_2",
        f"What is made small: {ERROR} (on validation) and any of "
        f"{', '.join(OBJECTIVES[1:])}.",
        example="error,weight_bytes",
    )
    bounds: str = options.pairs(
        "",
        "Up to where an objective matters, in its own unit.",
        example="weight_bytes=2000,working_memory_2=2000",
        above=0,
    )
    largest: str = options.pairs(
        "",
        "What a network may have before it is pruned; larger ones, which take long to train, "
        "are not tried.",
        example="macs=3e6,params=2e5",
        above=0,
    )
    model: str = options.field(
        TABLE,
        "What is searched: table_7, the space of the paper, or package.module:name of a "
        "keras_tuner.HyperModel of your own.",
    )
    trials: int = options.field(60, "How many configurations are tried.", low=1)
    startup: int = options.field(10, "How many of them are random, at first.", low=2)
    sampler: str = options.field(
        "morphs",
        "What comes after them: morphs that Gaussian processes choose; evolution, the "
        "children of good young trials; or random ones.",
        choices=tuple(SAMPLERS),
    )
    epochs: int = options.field(20, "Epochs of a trial.", low=1)
    stop_hopeless: bool = options.field(
        True,
        "Whether a trial ends halfway where three others had there at most four fifths of "
        "its value in every objective.",
    )
    polish: int = options.field(
        0,
        "Epochs that every point of the front is trained on for, following the most "
        "accurate one; 0 for none.",
        low=0,
    )
    polish_learning_rate: float = options.field(
        2e-3, "Learning rate of --polish, falling to 0 along a cosine.", above=0
    )
    workers: int = options.field(
        1,
        "So many processes work beside each other, each with its share of the cores.",
        low=1,
        high=256,
    )
    storage: str = options.field(
        "",
        "Database of the trials, such as postgresql+psycopg://user@host/name; by default a "
        "file of the workdir.",
    )
    seed: int = options.field(0, "Seed of everything random.", low=0, below=2**32)

    def names(self) -> tuple[str, ...]:
        """The objectives."""
        return tuple(options.listed(self.objectives))

    def limits(self) -> dict[str, float]:
        """The bounds, by objective."""
        return options.numbers(self.bounds, "bounds", "weight_bytes=2000")

    def trained(self) -> dict[str, float]:
        """What a network may have before it is pruned, by measure."""
        return options.numbers(self.largest, "largest", "macs=3e6")

    def check(self) -> None:
        """Checks objectives and bounds."""
        if strange := sorted(set(self.trained()) - set(budgets.COSTS)):
            raise ValueError(
                f"`largest` must be of {', '.join(budgets.COSTS)}. Received: {strange}."
            )
        names = self.names()
        if not names or len(set(names)) < len(names) or set(names) - set(OBJECTIVES):
            raise ValueError(
                f"`objectives` must join different names among {', '.join(OBJECTIVES)}. "
                f"Received: objectives={self.objectives!r}."
            )
        if strange := sorted(set(self.limits()) - set(names)):
            raise ValueError(
                f"`bounds` must be on objectives ({', '.join(names)}). Received: {strange}."
            )
