"""What is better where several objectives count: fronts, volumes, scalarisations.

Rules over numbers alone; smaller is better in each objective.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


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


def tchebyshev(y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The largest weighted objective of each row: max_k lambda_k y_k.

    Example:
        >>> tchebyshev(np.array([[1.0, 4.0], [3.0, 1.0]]), np.array([1.0, 0.5])).tolist()
        [2.0, 3.0]

    Reference: Paria et al. 2019 (arXiv 1805.12168); SpArSe, section 2.
    """
    return (y * weights).max(axis=1)


def weights(rng: np.random.Generator, most: np.ndarray) -> np.ndarray:
    """Random weights of a scalarisation, 1 / lambda_k uniform in (0, b_k].

    Args:
        rng: Draws.
        most: b, `(objectives,)`: up to where an objective may be, the others being good.
    """
    return 1.0 / (most * (1.0 - rng.random(len(most))))
