"""Where a ranking is cut, so that what stays meets a budget."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np

from tfsparse import budgets
from tfsparse.ranking.counted import Counted

Masks = dict[str, np.ndarray]


def best(scores: np.ndarray, kept: int) -> np.ndarray:
    """The mask of so many of the largest scores; of equals the first stay. `(units,)` bool."""
    mask = np.zeros(len(scores), bool)
    mask[np.argsort(-np.asarray(scores), kind="stable")[:kept]] = True
    return mask


class Cut:
    """Drops the units of least score, as few as a budget wants.

    Args:
        sizes: Group name -> units that may go.
        least: Group name -> units that stay at least.
        cost: Units kept by group -> measure -> amount.
        bounds: Measure -> absolute bound.

    Attributes:
        least: Group name -> units that stay at least, one or more.

    Raises:
        ValueError: The bounds are out of reach; it says the least that remains.

    Example:
        >>> cut = Cut({"a": 4, "b": 4}, {"a": 1, "b": 1}, cost, {"macs": 900})
        >>> cut({"a": scores_of_a, "b": scores_of_b})["a"]
        array([ True,  True, False,  True])

    Reference: LeGR, section 3.1: units leave in the order of their scores until the cost is
    met; of a layer a tenth stays.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        least: Mapping[str, int],
        cost: Callable[[Mapping[str, int]], Mapping[str, float]],
        bounds: Mapping[str, float],
    ):
        self.sizes, self.bounds = dict(sizes), dict(bounds)
        self.least = {g: min(max(1, least.get(g, 1)), n) for g, n in sizes.items()}
        self._cost = cost
        self._names = list(self.sizes)
        self._owner = np.repeat(np.arange(len(sizes)), list(self.sizes.values()))
        left = cost(self.least)
        if not self.met(self.least):
            raise ValueError(
                f"`target` must be within reach. Received: {self.bounds}; with the units that "
                f"every group keeps at least, {dict(left)} remain."
            )

    @classmethod
    def of_counted(
        cls, counted: Counted, bounds: Mapping[str, float], share: float
    ) -> Cut:
        """A cut of a model's free groups of units.

        Args:
            counted: What the model costs, in the measures of the bounds at least.
            bounds: Measure -> absolute bound.
            share: Of every group's units, what stays at least.

        Raises:
            ValueError: No unit may go, or the bounds are out of reach.
        """
        if not counted.sizes:
            raise ValueError(
                "`model` must have units that may go. Received: none; every group is frozen."
            )
        least = {g: round(share * n) for g, n in counted.sizes.items()}
        cost = functools.partial(counted, names=[*bounds])
        return cls(counted.sizes, least, cost, bounds)

    def prices(self) -> dict[str, float]:
        """Group name -> what one unit of the whole network adds to the first bound measure."""
        name = next(iter(self.bounds))
        whole = self._cost({})[name]
        return {
            g: whole - self._cost({g: n - 1})[name] for g, n in self.sizes.items() if n
        }

    def met(self, kept: Mapping[str, int]) -> bool:
        """Whether so many units of every group are within the bounds."""
        amounts = self._cost(kept)
        return all(amounts[name] <= bound for name, bound in self.bounds.items())

    def __call__(self, scores: Mapping[str, np.ndarray]) -> Masks:
        """The masks: by group, True for the units that stay.

        Args:
            scores: Group name -> `(units,)`, comparable from group to group.
        """
        flat = np.concatenate([np.asarray(scores[name], float) for name in self._names])
        order = np.argsort(flat, kind="stable")
        may = self._may_go(order)
        order = order[may]  # in the order in which they go
        counts = np.array(list(self.sizes.values()))

        def kept(dropped: int) -> dict[str, int]:
            gone = np.bincount(self._owner[order[:dropped]], minlength=len(counts))
            return dict(zip(self._names, (counts - gone).tolist(), strict=True))

        # All of them meet it: the constructor looked.
        found = budgets.least(lambda n: self.met(kept(n)), len(order))
        mask = np.ones(len(flat), bool)
        mask[order[:found]] = False
        ends = np.cumsum(counts)[:-1]
        return dict(zip(self._names, np.split(mask, ends), strict=True))

    def _may_go(self, order: np.ndarray) -> np.ndarray:
        """Of units in the order of their scores, those whose group keeps enough without."""
        owner = self._owner[order]
        may = np.zeros(len(order), bool)
        for number, name in enumerate(self._names):
            own = np.flatnonzero(owner == number)
            may[own[: len(own) - self.least[name]]] = True
        return may
