"""LeGR: one learned ranking of all units, cut at a budget."""

from __future__ import annotations

from tfsparse import options
from tfsparse.methods import base

SEARCHES = ("evolution", "ddpg", "random", "magnitude", "uniform", "amc")


@options.record
class LeGR(base.Method):
    """Learns an affine map of each layer's squared filter norms, and cuts all units by it.

    With one ranking s_i = alpha_l ||w_i||^2 + kappa_l of all filters, a network for any budget
    is what is left once the least of them are gone. Evolution finds alpha and kappa; a candidate
    is as good as the network that it cuts is on validation. The stage `rank` of a run
    searches, behind dense training.

    Example:
        >>> settings = Settings.of(LeGR(evaluations=200), DenseSettings(dense_epochs=10),
        ...                        RankSettings(target="macs=0.5"))
        >>> tfsparse.train.run(settings)

    Reference: LeGR (Chin et al. 2020), sections 3.1 and 3.2.
    """

    name = "legr"
    stages = (
        "dense", "rank", "strip", "finetune", "quantise", "export", "verify"
    )  # fmt: skip

    rank_search: str = options.field(
        "evolution",
        "How the ranking is found: evolution of the maps (LeGR); ddpg, an agent that chooses "
        "them layer by layer; or, to compare with: random maps, magnitude (none), uniform (the "
        "same share of every group), amc (an agent that chooses shares).",
        choices=SEARCHES,
    )
    evaluations: int = options.field(
        400, "Candidates that are evaluated, the first population included.", low=1
    )
    population: int = options.field(64, "Candidates that live at a time.", low=1)
    sample: int = options.field(
        16, "Of whom the best is the parent of the next, drawn with replacement.", low=1
    )
    least: float = options.field(
        0.1, "Share of every group's units that stays.", low=0, high=1
    )
    rank_steps: int = options.field(
        0, "Training steps of a cut network before it is judged (tau).", low=0
    )
    rank_learning_rate: float = options.field(
        0.01, "Learning rate of them, SGD with momentum 0.9.", above=0
    )
    rank_samples: int = options.field(
        2000, "Validation samples that a cut network is judged on, at most.", low=1
    )

    recalibrate: bool = options.field(
        False,
        "Whether BatchNorm's statistics are taken again: those of the samples at hand while "
        "a cut network is judged, those of training samples once it is cut. False as in the "
        "paper.",
    )

    @property
    def recalibrates(self) -> bool:
        """What `recalibrate` says."""
        return self.recalibrate

    def prepare(self, model, groups):
        """The model as it is: the ranking trains nothing."""
        from tfsparse.graph import rebuild

        return rebuild.copied(model)

    def keep(self, model, groups, tools=None):
        """What the ranking left: units that something writes."""
        return base.alive_units(groups, base.values_of(model))
