"""What a target means: parse, make absolute, share, met, bisect; and what limits a choice.

A target maps measures to what may remain: a fraction up to 1 of what there was, or an
absolute number. Measures are the fields of `Cost`, `units`, and `file_bytes` and
`arena_bytes` of the finished int8 file. The same names mean the same in training, in
`prune`, and on every command line.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tfsparse import options, records

COSTS = tuple(field.name for field in dataclasses.fields(records.Cost))
FINISHED = ("file_bytes", "arena_bytes")
"""Measures of the finished int8 file; it has to be made to know them."""

SEARCHED = "operations"
"""Measure of a search: operations that are left, those that cells share counted once."""

NOT_SEARCHED = (
    "`target` must hold operations only where a method's penalty switches operations off. "
    "Received: operations for a method or criterion that decides about units."
)

MEASURES = (*COSTS, "units", SEARCHED, *FINISHED)
"""All names that a target may hold; `units` are those of groups that are not frozen."""

EXAMPLE = "params=8000,macs=0.1"

FACTOR = 4.0
"""Between two strengths until one is too weak and another strong enough."""

TOLERANCE = 0.05, 0.1
"""A cost that falls short of its bound by up to that share of it is near enough, or exceeds
it by up to the second, which ranking takes away."""

NEARLY = 0.8
"""From that share on a cost below its bound is better than twice the bound."""

REACH = 4.0
"""Up to so many times its bound a cost may be brought down by ranking."""


def parse(text: str) -> dict[str, float] | None:
    """Reads `params=8000,macs=0.1`; None for an empty text.

    Raises:
        ValueError: A part is not `measure=number`, or as for `check`.

    Example:
        >>> parse("params=8000,macs=0.1")
        {'params': 8000.0, 'macs': 0.1}
    """
    target = options.numbers(text, "target", EXAMPLE) or None
    check(target)
    return target


def check(target: Mapping[str, float] | None) -> None:
    """Checks the names and numbers of a target; None is no target.

    Raises:
        ValueError: A measure is unknown, or a number is not positive.
    """
    if target is None:
        return
    if not isinstance(target, Mapping) or not target:
        raise ValueError(
            f"`target` must map measures among {list(MEASURES)} to numbers, or be None. "
            f"Received: {target!r}."
        )
    for name, value in target.items():
        real = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if name not in MEASURES or not real or not 0 < value < math.inf:
            raise ValueError(
                f"`target` must map a measure among {list(MEASURES)} to a positive number. "
                f"Received: {name}={value}."
            )


def absolute(
    target: Mapping[str, float] | None, whole: Mapping[str, float]
) -> dict[str, float]:
    """Turns fractions of what there was into absolute bounds; none for no target.

    Args:
        target: Measure -> what may remain.
        whole: Measure -> what there was, for every measure of the target.

    Raises:
        ValueError: As for `check`.

    Example:
        >>> absolute({"params": 0.5, "macs": 900.0}, {"params": 100, "macs": 5000})
        {'params': 50.0, 'macs': 900.0}
    """
    check(target)
    return {
        name: value * whole[name] if value <= 1 else value
        for name, value in (target or {}).items()
    }


def share(left: Mapping[str, float], bounds: Mapping[str, float]) -> float:
    """The largest ratio of what is left to its bound; up to 1 the target is met.

    Example:
        >>> share({"params": 60, "macs": 900}, {"params": 50.0, "macs": 900.0})
        1.2
    """
    unmet = 2.0  # of a bound of zero no share can be told
    return max(
        left[name] / bound if bound else unmet * (left[name] > 0)
        for name, bound in bounds.items()
    )


def met(left: Mapping[str, float], bounds: Mapping[str, float]) -> bool:
    """Whether a target is met; one without bounds never is."""
    return bool(bounds) and share(left, bounds) <= 1


# What limits a choice of units ------------------------------------------------------


@options.record
class Limits(options.Options):
    """How many units a group may keep, wherever units are chosen.

    Example:
        >>> Limits(round_to=4).count("conv", 20, 5)
        8
        >>> Limits(ratios={"conv*": 0.5}).count("conv1", 20, 5)
        10
    """

    part = "Limits of every group"

    round_to: int = options.field(
        1,
        "Every group keeps a multiple of so many units, where it is that large.",
        low=1,
    )
    minimum: int = options.field(1, "Every group keeps at least so many units.", low=1)
    ratios: str = options.pairs(
        "",
        "Shares of their units that groups keep, by patterns of the groups' names; the "
        "weakest units go, or the strongest of the dead stay, until it is so.",
        example="conv*=0.5,fc1=0.25",
        above=0,
        high=1,
    )

    @property
    def trivial(self) -> bool:
        """Whether nothing is limited."""
        return self == Limits()

    def count(self, name: str, size: int, wanted: int) -> int:
        """How many units a group keeps of which `wanted` of `size` would stay."""
        ratio = self.ratio_of(name)
        if ratio is not None:
            wanted = max(1, round(ratio * size))
        return self.rounded(wanted, size)

    def ratio_of(self, name: str) -> float | None:
        """The share of its units that a group keeps; None where none is set."""
        found = options.numbers(self.ratios, "ratios", "conv*=0.5")
        return options.own_number(name, found)

    def rounded(self, wanted: int, size: int) -> int:
        """A count that is a multiple, and no less than the minimum, up to the size."""
        wanted = max(wanted, self.minimum)
        return min(size, -(-wanted // self.round_to) * self.round_to)

    def check_names(self, names) -> None:
        """Checks that every pattern of `ratios` fits one of the groups' names.

        Raises:
            ValueError: One does not.
        """
        found = options.numbers(self.ratios, "ratios", "conv*=0.5")
        options.check_patterns("ratios", found, list(names))

    def applied(
        self,
        keep: Mapping[str, np.ndarray],
        scores: Callable[[str], np.ndarray],
        sizes: Mapping[str, int],
        trim: bool = True,
    ) -> dict[str, np.ndarray]:
        """Keep masks whose counts are within the limits.

        Args:
            keep: Group name -> bool `(units,)`, True = stays.
            scores: Group name -> how much each unit matters, `(units,)`; asked only where
                a mask has to change.
            sizes: Group name -> units that it has in the untouched model; shares are of
                these. Groups without an entry (branches) stay as they are.
            trim: Whether living units may go; if not, dead ones are spared alone.
        """
        found = {}
        for name, alive in keep.items():
            here = int(alive.sum())
            count = here
            if name in sizes:
                count = min(len(alive), self.count(name, sizes[name], here))
            if count > here or (trim and count < here):
                order = np.lexsort((-scores(name), ~alive))  # living first, then strong
                alive = np.isin(np.arange(len(alive)), order[:count])
            found[name] = alive
        return found


def spare_one(keep: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Keep masks in which every group keeps a unit: a layer never loses all."""
    spared = {}
    for name, alive in keep.items():
        spared[name] = alive.copy()
        spared[name][0] |= not alive.any()
    return spared


# Which choice just meets a target ----------------------------------------------------


def least(fits: Callable[[int], bool], steps: int) -> int | None:
    """The smallest whole number up to `steps` that fits, where all above it do.

    Returns:
        The number; None where not even `steps` fits.

    Example:
        >>> least(lambda n: n * n >= 50, 100)
        8
    """
    if not fits(steps):
        return None
    low, top = 0, steps
    while low < top:
        middle = (low + top) // 2
        if fits(middle):
            top = middle
        else:
            low = middle + 1
    return top


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


def bisect(
    trial: Callable[[int, float, int | None], tuple[float, bool]],
    start: float,
    trials: int,
    together: int = 1,
    run: Callable[[list[Callable[[], Any]]], list[Any]] | None = None,
) -> list[Trial]:
    """Bisects the logarithm of a strength until the cost is about its bound.

    Strengths are multiplied or divided by `FACTOR` until they enclose the target; then
    the geometric mean of the two nearest is tried, as cost falls while strength grows. Of
    several together each goes a step further, or they cut the bracket into equal parts.

    Args:
        trial: `(number, strength, parent) -> (cost, steady)`: what is left as a share of
            the target, and whether a stronger penalty may go on from there, that is,
            whether waiting would kill no more. `parent` is the strongest trial so far
            that was steady and too weak. A TrainingError counts as too strong.
        start: The first strength, positive.
        trials: How many may be made.
        together: How many strengths are chosen at a time.
        run: Runs functions that take nothing, `[f, ...] -> [result, ...]`, errors among
            the results; one after the other by default.

    Returns:
        All trials, in order.

    Raises:
        ValueError: `start` or `trials` is not positive.

    Example:
        >>> [t.strength for t in bisect(lambda n, mu, _: (1 / mu, False), 0.5, 9)]
        [0.5, 2.0, 1.0]

    Reference: GSparsity, appendices B.1 and E.
    """
    if not start > 0 or trials < 1:
        raise ValueError(
            f"A search must have a positive strength to start from and a trial or more. "
            f"Received: strength={start}, trials={trials}."
        )
    made: list[Trial] = []
    while len(made) < trials:
        several = min(together, trials - len(made))
        plans: list[tuple[int, float, int | None]] = []
        jobs: list[Callable[[], Any]] = []
        for number, strength in enumerate(_next(made, start, several), len(made)):
            weaker = [
                (t.strength, n)
                for n, t in enumerate(made)
                if t.cost > 1 and t.steady and t.strength < strength
            ]
            plans.append((number, strength, max(weaker)[1] if weaker else None))
            jobs.append(functools.partial(_tried, trial, *plans[-1]))
        found = (run or _in_turn)(jobs)
        for (_, strength, parent), result in zip(plans, found, strict=True):
            if isinstance(result, records.TrainingError):
                made.append(Trial(strength, 0.0, False, parent, str(result)))
            else:
                cost, steady = result
                made.append(Trial(strength, cost, steady, parent))
        if any(1 - TOLERANCE[0] <= t.cost <= 1 + TOLERANCE[1] for t in made):
            break
    return made


def _tried(trial, number: int, strength: float, parent: int | None):
    """What a trial returns, or the TrainingError that it raises."""
    try:
        return trial(number, strength, parent)
    except records.TrainingError as error:
        return error


def _in_turn(jobs):
    return [job() for job in jobs]


def _next(made: list[Trial], start: float, several: int) -> list[float]:
    """The strengths of the next trials."""
    steps = range(1, several + 1)
    if not made:
        return [start * FACTOR ** (step - 1) for step in steps]
    low = max((t.strength for t in made if t.cost > 1), default=None)
    high = min((t.strength for t in made if t.cost <= 1), default=None)
    if low is None and high is not None:
        return [high / FACTOR**step for step in steps]
    if high is None or low is None:
        return [(low or 1.0) * FACTOR**step for step in steps]
    if low >= high:  # not monotone here: seek below the weakest that was enough
        weaker = [t.strength for t in made if t.cost > 1 and t.strength < high]
        low = max(weaker, default=high / FACTOR)
    return [low * (high / low) ** (step / (several + 1)) for step in steps]


def best(made: list[Trial]) -> int:
    """Number of the trial that fills its bound and exceeds it by least.

    Ranking takes away what is too much, but brings nothing back: a trial below its bound is
    taken where it nearly fills it and the others exceed it twice, or where they are beyond
    `REACH` of it.

    Raises:
        TrainingError: There is none of either kind; names the nearest.
    """
    alive = [n for n, t in enumerate(made) if t.cost > 0]
    full = [n for n in alive if 1 - TOLERANCE[0] <= made[n].cost <= REACH]
    below = [n for n in alive if made[n].cost <= 1]
    least = min(full, key=lambda n: made[n].cost, default=None)
    most = max(below, key=lambda n: made[n].cost, default=None)
    nearly = most is not None and made[most].cost >= NEARLY
    if least is not None and not (nearly and made[least].cost > 2):
        return least
    if most is not None:
        return most
    words = f"none ({made[-1].error})"
    if alive:
        nearest = min((made[n] for n in alive), key=lambda trial: trial.cost)
        words = (
            f"{nearest.cost:.3g} times the target with strength {nearest.strength:.3g}"
        )
    raise records.TrainingError(
        f"`target` must be within reach of the penalty. Received: after {len(made)} "
        f"trial(s) the nearest is {words}. Allow more trials or ask for less."
    )


def with_units(cost: records.Cost, keep: Mapping[str, np.ndarray]) -> dict[str, float]:
    """What remains, by measure: a cost's fields, and the units that masks keep."""
    others = (":branches", ":features")
    units = sum(
        int(alive.sum()) for name, alive in keep.items() if not name.endswith(others)
    )
    return {**dataclasses.asdict(cost), "units": units}
