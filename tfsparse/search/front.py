"""What a search found: its front, where each point came from, and how much it covers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna

from tfsparse import budgets
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
    return [done[number] for number in front_of(values)]


def front_of(values: np.ndarray) -> list[int]:
    """Rows that no other is better than in everything, in the order of their values.

    Args:
        values: `(points, objectives)`, smaller is better; of equal rows the first counts.

    Example:
        >>> front_of(np.array([[2, 5], [1, 9], [3, 5]]))
        [1, 0]
    """
    found, seen = [], set()
    for number, own in enumerate(values):
        no_worse = (values <= own).all(axis=1)
        if not (no_worse & (values < own).any(axis=1)).any():
            if tuple(own) not in seen:
                found.append(number)
                seen.add(tuple(own))
    return sorted(found, key=lambda number: tuple(values[number]))


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


def hypervolume(values: np.ndarray, reference: np.ndarray) -> float:
    """Volume below a reference point that points dominate, by slices along the last axis.

    Args:
        values: `(points, objectives)`, smaller is better.
        reference: `(objectives,)`; points that are not below it in everything do not count.

    Example:
        >>> hypervolume(np.array([[0.5, 0.5]]), np.ones(2))
        0.25
    """
    inside = values[(values < reference).all(axis=1)]
    if not len(inside):
        return 0.0
    if inside.shape[1] == 1:
        return float(reference[0] - inside.min())
    inside = inside[np.argsort(inside[:, -1], kind="stable")]
    ends = np.append(inside[1:, -1], reference[-1])
    slices = [
        (end - own[-1]) * hypervolume(inside[: number + 1, :-1], reference[:-1])
        for number, (own, end) in enumerate(zip(inside, ends, strict=True))
        if end > own[-1]
    ]
    return float(sum(slices))


def growth(
    values: Sequence[Sequence[float] | None], reference: np.ndarray
) -> list[float]:
    """The hypervolume after each trial, in shares of the box below the reference.

    Args:
        values: Objectives of each trial in turn; None of one that led nowhere.
        reference: `(objectives,)`, see `hypervolume`.

    Example:
        >>> growth([[0.5, 0.5], None, [0.25, 0.5]], np.ones(2))
        [0.25, 0.25, 0.375]
    """
    held = np.zeros((0, len(reference)))
    found, last = [], 0.0
    for own in values:
        if own is not None and np.isfinite(own).all():
            held = np.vstack([held, own])
            held = held[front_of(held)]
            last = hypervolume(held / reference, np.ones(len(reference)))
        found.append(last)
    return found


WORSE, BETTER_ONES = 1.25, 3
"""A trial is hopeless if so many others were better in everything, by that factor."""


def hopeless(own: Sequence[float], others: Sequence[Sequence[float]]) -> bool:
    """Whether a trial, halfway, is so far behind others there that it is not gone on with.

    It is if `BETTER_ONES` others had, after as many epochs, at most 1 / `WORSE` of its value
    in every objective.

    Args:
        own: Its objectives after half of its epochs, smaller is better.
        others: The same of trials before.

    Example:
        >>> hopeless((0.3, 900.0), [(0.2, 600.0)] * 3)
        True
        >>> hopeless((0.3, 900.0), [(0.2, 800.0)] * 3)   # not smaller by enough
        False
    """
    if not len(others):
        return False
    ahead = WORSE * np.asarray(others, float) <= np.asarray(own, float)
    return int(ahead.all(axis=1).sum()) >= BETTER_ONES
