"""Limits of groups, where a method decides: how masks are brought within them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np

from tfsparse import budgets, records
from tfsparse.deploy import removal, variables
from tfsparse.deploy.lower import lower
from tfsparse.engine.prunable import prunable
from tfsparse.graph import find_groups, measure


def sizes_of(groups) -> dict[str, int]:
    """Group name -> units, of groups of units or features that are not frozen."""
    return {g.name: g.size for g in groups if not g.frozen and g.kind != "branch"}


def every_unit(groups, keep: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Masks for every free group; of those that `keep` does not name all units stay."""
    whole = {name: np.ones(size, bool) for name, size in sizes_of(groups).items()}
    return {**whole, **keep}


def limited(model, groups, keep, limits: budgets.Limits, sizes, trim: bool = True):
    """Masks within limits, of groups that the method has no verdict on, too."""
    if limits.trivial:
        return dict(keep)
    return limits.applied(
        every_unit(groups, keep), norms(model, groups), sizes, trim=trim
    )


SMALLEST = ("params", "macs", "weight_bytes", "units")
"""Measures whose least value is that of one unit in every group."""


def check_reach(model, bounds, limits: budgets.Limits, sizes) -> None:
    """Checks, before training, that a target leaves room for a network at all.

    Where whole branches may go, or single weights, no least value is known.

    Raises:
        ValueError: Even one unit in every group, within the limits, takes more.
    """
    groups = prunable(model, ("unit", "branch"))
    if any(g.kind == "branch" and not g.frozen for g in groups):
        return
    one = {g.name: np.arange(g.size) < 1 for g in groups if not g.frozen}
    keep = limited(model, groups, one, limits, sizes)
    left = budgets.with_units(measure(model, removal.plan(model, keep)), keep)
    for name, bound in bounds.items():
        if name in SMALLEST and left[name] > bound:
            if not one:
                why = (
                    "; ".join(f"{g.name}: {g.frozen}" for g in groups) or "it has none"
                )
                raise ValueError(
                    "`model` must have units that can be removed to meet a target. Received: "
                    f"{model.name!r} without any ({why})."
                )
            raise ValueError(
                f"`target` must be within reach. Received: {name}={bound:,.4g}; with one "
                f"unit in every group, within the limits, {left[name]:,} remain."
            )


def norms(model, groups) -> Callable[[str], np.ndarray]:
    """Group name -> L2 norm of the weights that write each unit, or read each feature.

    Of the model as stock layers: a switch, a factor or noise counts as what it leaves.
    """
    roles = {
        group.name: records.CONSUMER if group.kind == "feature" else records.PRODUCER
        for group in groups
    }

    @functools.cache
    def lowered():
        stock = lower(model)
        kinds = tuple({group.kind for group in groups})
        found = {group.name: group for group in find_groups(stock, kinds)}
        return found, variables.values_of(stock)

    def of(name: str) -> np.ndarray:
        found, values = lowered()
        squares = np.zeros(found[name].size)
        for member in found[name].members:
            if member.role == roles[name]:
                own = member.slices(values[member.path]).astype("float64")
                np.add.at(squares, member.units, np.square(own).sum(axis=1))
        return np.sqrt(squares)

    return of
