"""Finds the strength of a penalty that just meets a target."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from tfsparse import records

FACTOR = 4.0
"""Between two strengths until one is too weak and another strong enough."""

TOLERANCE = 0.05
"""A cost that falls short of its bound by up to that share of it is near enough."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One strength that was tried.

    Attributes:
        strength: Of the penalty.
        cost: What was left, as a share of the target: up to 1 meets it.
        steady: Whether nothing more died at its end, so that a stronger trial may go on
            from it.
        parent: Number of the trial that it went on from; None from the start.
        error: Why nothing was left, if so.
    """

    strength: float
    cost: float
    steady: bool = False
    parent: int | None = None
    error: str | None = None


def search(
    trial: Callable[[int, float, int | None], tuple[float, bool]],
    start: float,
    trials: int,
) -> list[Trial]:
    """Bisects the logarithm of the strength until the cost is just below its bound.

    Strengths are multiplied or divided by `FACTOR` until they enclose the target; then
    the geometric mean of the two nearest is tried, as cost falls while strength grows.

    Args:
        trial: `(number, strength, parent) -> (cost, steady)`: what is left as a share of
            the target, and whether a stronger penalty may go on from there, that is,
            whether waiting would kill no more. `parent` is the strongest trial so far
            that was steady and too weak. A TrainingError counts as too strong.
        start: The first strength, positive.
        trials: How many may be made.

    Returns:
        All trials, in order.

    Raises:
        ValueError: `start` or `trials` is not positive.

    Example:
        >>> [t.strength for t in search(lambda n, mu, _: (1 / mu, False), 0.5, 9)]
        [0.5, 2.0, 1.0]

    Reference: GSparsity, appendices B.1 and E.
    """
    if not start > 0 or trials < 1:
        raise ValueError(
            f"A search must have a positive strength to start from and a trial or more. "
            f"Received: strength={start}, trials={trials}."
        )
    made: list[Trial] = []
    strength = start
    for number in range(trials):
        weaker = [
            (t.strength, n)
            for n, t in enumerate(made)
            if t.cost > 1 and t.steady and t.strength < strength
        ]
        parent = max(weaker)[1] if weaker else None
        try:
            cost, steady = trial(number, strength, parent)
            made.append(Trial(strength, cost, steady, parent))
        except records.TrainingError as error:
            made.append(Trial(strength, 0.0, False, parent, str(error)))
        if 1 - TOLERANCE <= made[-1].cost <= 1:
            break
        strength = _next(made)
    return made


def _next(made: list[Trial]) -> float:
    low = max((t.strength for t in made if t.cost > 1), default=None)
    high = min((t.strength for t in made if t.cost <= 1), default=None)
    if high is None:
        return low * FACTOR
    if low is None:
        return high / FACTOR
    if low >= high:  # not monotone here: seek below the weakest that was enough
        weaker = [t.strength for t in made if t.cost > 1 and t.strength < high]
        low = max(weaker, default=high / FACTOR)
    return math.sqrt(low * high)


def best(made: list[Trial]) -> int:
    """Number of the trial whose cost comes nearest to its bound from below.

    Raises:
        TrainingError: No trial met the target; names the nearest.
    """
    met = [n for n, t in enumerate(made) if 0 < t.cost <= 1]
    if met:
        return max(met, key=lambda n: made[n].cost)
    alive = [t for t in made if t.cost > 0]
    nearest = min(alive, key=lambda t: t.cost, default=None)
    words = f"none ({made[-1].error})"
    if nearest is not None:
        words = (
            f"{nearest.cost:.3g} times the target with strength {nearest.strength:.3g}"
        )
    raise records.TrainingError(
        f"`target` must be within reach of the penalty. Received: after {len(made)} "
        f"trial(s) the nearest is {words}. Allow more trials or ask for less."
    )
