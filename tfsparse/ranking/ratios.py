"""Cuts by a share of every group: uniform ones, and those that a search of ratios chose."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tfsparse import budgets
from tfsparse.ranking.cut import Cut, Masks, best

STEPS = 1 << 12
"""Factors on the shares that are told apart."""


def by_shares(
    cut: Cut, shares: Mapping[str, float], scores: Mapping[str, np.ndarray]
) -> Masks:
    """Keeps the best of every group, as many as its share times a factor that fills the budget.

    Args:
        cut: Knows sizes, what stays at least, cost and bounds.
        shares: Group name -> share of its units, in (0, 1]; all alike for uniform pruning.
        scores: Group name -> `(units,)`, by which units of one group are ranked.

    Example:
        >>> by_shares(cut, dict.fromkeys(cut.sizes, 1.0), scores)   # uniform
    """
    most = 1.0 / min(shares.values())

    def kept(step: int) -> dict[str, int]:
        factor = most * (1 - step / STEPS)
        return {
            name: int(
                np.clip(round(size * shares[name] * factor), cut.least[name], size)
            )
            for name, size in cut.sizes.items()
        }

    step = budgets.least(lambda n: cut.met(kept(n)), STEPS) or 0
    return {name: best(scores[name], count) for name, count in kept(step).items()}
