"""What a search found: its front, where each point came from, and how much it covers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna

from tfsparse import budgets
from tfsparse.search import dominance
from tfsparse.search import sampler as sampling

ERROR = "error"
OBJECTIVES = (ERROR, *budgets.COSTS, *budgets.FINISHED)
"""What may be sought after; smaller is better."""


def front(study: optuna.Study) -> list:
    """Completed trials that no other is better than in everything, by their objectives."""
    return front_among(sampling.completed(study))


def front_among(trials: Sequence) -> list:
    """The same of some trials; what did not complete is left out."""
    done = [t for t in trials if t.values and np.isfinite(t.values).all()]
    values = np.array([trial.values for trial in done], float)
    return [done[number] for number in dominance.front_of(values)]


def lineage(study: optuna.Study, trial) -> list[dict[str, Any]]:
    """A trial's way from a random configuration: trials and the morphs between them."""
    return lineage_of(study.get_trials(deepcopy=False), trial)


def lineage_of(trials: Sequence, trial) -> list[dict[str, Any]]:
    """The same, of a study's trials."""
    by_number = {own.number: own for own in trials}
    found: list[dict[str, Any]] = []
    while trial is not None:
        attributes = trial.user_attrs
        found.append(
            {
                "trial": trial.number,
                "morphs": attributes.get(sampling.MORPHS, []),
                "values": trial.values,
            }
        )
        trial = by_number.get(attributes.get(sampling.PARENT, -1))
    return found[::-1]
