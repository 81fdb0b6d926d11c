"""What is left of a model under masks, by measure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from tfsparse import budgets
from tfsparse.deploy import finished, removal
from tfsparse.deploy.strip import strip
from tfsparse.graph import groups, measure


def amounts(
    analysis: groups.Analysis, keep: Mapping[str, np.ndarray], names: Iterable[str]
) -> dict[str, float]:
    """What remains under masks, for the measures that a target names.

    Args:
        analysis: Of the model.
        keep: Group name -> bool `(units,)`, True = stays.
        names: Measures that are wanted; those of a finished file make one.

    Raises:
        ValueError: Operations are wanted, which only a search counts.
    """
    if budgets.SEARCHED in names:
        raise ValueError(budgets.NOT_SEARCHED)
    planned = removal.plan(analysis.graph, keep, analysis) if keep else None
    free = [g for g in analysis.groups if not g.frozen]
    alive = {g.name: keep.get(g.name, np.ones(g.size, bool)) for g in free}
    found = budgets.with_units(measure(analysis.graph, planned), alive)
    if set(budgets.FINISHED) & set(names):
        model = analysis.graph.model
        found |= finished.sizes(strip(model, keep) if keep else model, names)
    return found
