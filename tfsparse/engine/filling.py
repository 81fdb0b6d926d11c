"""A target is filled, not only met: the weakest units go by rank until the rest just fits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from tfsparse import budgets, records
from tfsparse.deploy import collect, finished, removal, variables
from tfsparse.engine import limiting
from tfsparse.graph import branches, find_groups, measure, trace
from tfsparse.methods import base
from tfsparse.nas import genotypes

NEARLY_FULL = 0.97
"""From that share of its target on, a choice is not made fuller."""

FILLED = 0.93
"""A training whose penalty took more than this leaves of the target has gone too far."""

WIDEST = 4.0
"""So many times a bound at most, before its square, may be wanted at first."""

NARROWER = (0.98, 0.96, 0.94, 0.9)
"""Where no wider bound fills, others are tried: who stays beside whom changes."""

LOOKS = 6
"""So often a bound is widened, where units that nothing uses any more go along."""

MOST_KEPT = 0.5
"""A group may lose up to that part of its units by rank, more where more of the whole goes: a
layer of one unit between wide ones would carry nothing."""

SWAPPED = 3
"""So many units of a group may go to make room for those of others."""

FEATURES = ":features"
"""How the names of groups of features end."""

Masks = dict[str, np.ndarray]


def left(
    model, groups, keep: Mapping[str, np.ndarray], bounds, limits, sizes
) -> dict[str, float]:
    """What is left of a model by measure, without what masks drop, and within limits.

    Args:
        model: A model, running or stock.
        groups: Its groups, of the kinds that are decided about.
        keep: Group name -> bool `(units,)`.
        bounds: Whose measures are wanted; those of the finished file are costly.
        limits: Of the units that groups keep.
        sizes: Group name -> units in the untouched model, see `limiting.sizes_of`.
    """
    keep = limiting.limited(model, groups, keep, limits, sizes)
    planned = removal.plan(model, keep)
    cost = measure(model, planned)
    found = budgets.with_units(cost, limiting.every_unit(groups, keep))
    if budgets.SEARCHED in bounds:
        found[budgets.SEARCHED] = operations(model, planned.lost)
    if set(budgets.FINISHED) & set(bounds):
        small = collect.finish(model, keep, dead_stay=True)[0]
        found |= finished.sizes(small, bounds)
    return found


def by_rank(facts: Mapping) -> dict[str, float]:
    """The bounds for which units may go by rank; operations never do.

    Args:
        facts: Of a stage that was given a target: `bounds`, and whether it `fills` them.
    """
    bounds = facts.get("bounds") or {}
    fills = facts.get("fills", True)
    return {k: v for k, v in bounds.items() if fills and k != budgets.SEARCHED}


def operations(model, lost: Mapping | None = None) -> int:
    """How many operations a search has left: those of cells, where the names of layers tell
    them, each kind's once; else the inputs of every Add.

    Args:
        model: A model.
        lost: Call -> numbers of its inputs that are dropped; None for none.
    """
    graph, lost = trace.read(model), lost or {}
    gone = branches.only_for(graph, lost)
    calls = [call for call in graph.calls if call not in gone]
    return genotypes.count(call.name for call in calls) or sum(
        number not in lost.get(call, ()) and not _is_sum(graph, tensor)
        for call in calls
        if type(call.operation) in branches.SUMS and len(call.inputs) > 1
        for number, tensor in enumerate(call.inputs)
    )


def _is_sum(graph, tensor) -> bool:
    """Whether a tensor is a sum, or a factor on one, that one call reads: its own inputs
    are counted.
    """
    while len(graph.readers.get(tensor, [])) == 1 and tensor in graph.writers:
        writer = graph.writers[tensor]
        if type(writer.operation) in branches.SUMS:
            return len(writer.inputs) > 1
        if not branches.passes(writer):
            return False
        tensor = writer.inputs[0]
    return False


def swaps(bounds: Mapping[str, float]) -> int:
    """How many units of a group may be swapped; none where each look makes a file."""
    return 0 if set(budgets.FINISHED) & set(bounds) else SWAPPED


def shares(small, bounds: Mapping[str, float]) -> list[dict]:
    """How full each measure of a target is, of a stock model from which nothing more goes.

    Returns:
        Rows of `measure`, `bound`, `left` and `share`, the left over the bound.
    """
    if not bounds:
        return []
    groups = find_groups(small, ("unit", "feature"))
    found = budgets.with_units(measure(small), limiting.every_unit(groups, {}))
    found |= finished.sizes(small, bounds) | {budgets.SEARCHED: operations(small)}
    return [
        {
            "measure": name,
            "bound": bound,
            "left": found[name],
            "share": budgets.share(found, {name: bound}),
        }
        for name, bound in bounds.items()
    ]


def fitted(
    keep: Mapping[str, np.ndarray],
    importance: Mapping[str, np.ndarray],
    share: Callable[[Masks], float],
    swapped: int = SWAPPED,
) -> Masks | None:
    """Masks that drop the weakest living units, just as many as a target wants.

    Units go in the order of their importance, all groups together, until the target is
    met; of those that went, the strongest come back where they still fit. Every group
    keeps its strongest: half of them or, where the whole has to shrink to less than that,
    as large a part as the whole; one where that does not fit.

    Args:
        keep: Group name -> bool `(units,)`, who lives.
        importance: Group name -> how much each unit matters, `(units,)`; comparable from
            group to group. Groups that it does not name stay as they are.
        share: Masks -> the largest ratio of what is left to its bound.
        swapped: Where ranking leaves gaps, up to so many more units of a group go to make
            room for those of others.

    Returns:
        The masks; None where not even one unit in every group fits.

    Example:
        >>> keep = {"a": np.ones(3, bool), "b": np.ones(2, bool)}
        >>> scores = {"a": np.array([0.1, 0.2, 0.9]), "b": np.array([0.5, 0.3])}
        >>> size = lambda m: (2 * m["a"].sum() + 3 * m["b"].sum()) / 8
        >>> {k: v.tolist() for k, v in fitted(keep, scores, size).items()}
        {'a': [False, False, True], 'b': [True, True]}
    """
    try:
        return _fitted(keep, importance, share, swapped)
    except ValueError:  # units and features together would empty a layer: features stay
        whole = {
            name: own | True if name.endswith(FEATURES) else own
            for name, own in keep.items()
        }
        units = {k: v for k, v in importance.items() if not k.endswith(FEATURES)}
        return _fitted(whole, units, share, swapped)


def fitted_in_use(
    keep: Mapping[str, np.ndarray],
    importance: Mapping[str, np.ndarray],
    share: Callable[[Masks], float],
    used: Callable[[Masks], Masks | None],
    swapped: int = SWAPPED,
) -> Masks | None:
    """As `fitted`, where zeros inside kernels let a removal take other units along.

    Masks that fit, and of which then much goes that nothing writes or reads any more, are
    made again for a wider bound, until what is used fits and fills.

    Args:
        keep, importance, share, swapped: As for `fitted`.
        used: Masks -> those of what is written and read under them; None where nothing
            passes any more.
    """
    best: Masks | None = None
    full, low, high = 0.0, 1.0, 0.0

    def within(factor: float) -> Masks | None:
        def wider(masks: Masks) -> float:
            return share(masks) / factor

        return fitted(keep, importance, wider, swapped)

    def look(factor: float) -> tuple[Masks, float] | None:
        found = within(factor)
        if found is None:
            return None
        alone = used(found)
        if alone is None:
            return found, 0.0
        # Without a feature a file may need a gather more: then it stays.
        found = alone if share(alone) <= 1 else found
        return found, share(found)

    for number in range(LOOKS + len(NARROWER)):
        widens = number < LOOKS
        factor = (low * high) ** 0.5 if high else low
        seen = look(factor if widens else NARROWER[number - LOOKS])
        if seen is None:
            continue
        found, now = seen
        if full < now <= 1 or best is None:
            best, full = found, now
        if FILLED <= now <= 1:
            break
        if widens:
            low, high = (factor, high) if now < 1 else (low, factor)
            # It may take more than what is free.
            high = high or min(WIDEST, 1 / max(now, 1 / WIDEST)) ** 2
    return best


def in_use(model, groups) -> Callable[[Masks], Masks | None]:
    """Masks -> those of what is still written and read once what they drop is gone.

    None where a group that lived is left without a unit: nothing passes any more.

    Args:
        model: A running model.
        groups: Its groups.
    """
    values = base.values_of(model)
    weights = {
        member.path: values[member.path] != 0
        for group in groups
        for member in group.members
        if member.role != records.CARRIER
    }

    def used(masks: Masks) -> Masks | None:
        while True:
            left = {path: own.copy() for path, own in weights.items()}
            for group in groups:
                for member in group.members:
                    gone = ~masks.get(group.name, np.ones(group.size, bool))
                    if member.path in left and gone.any():
                        own = left[member.path]
                        lost = np.zeros(len(variables.rows(own, member.axis)), bool)
                        lost[member.indices] = gone[member.units]
                        variables.zero(own, member.axis, lost)
            alive = base.used_units(groups, left)
            found = {name: own & alive.get(name, True) for name, own in masks.items()}
            if any(masks[k].any() and not own.any() for k, own in found.items()):
                return None
            if all((own == masks[name]).all() for name, own in found.items()):
                return found
            masks = found

    return used


def _fitted(keep, importance, share, swapped: int) -> Masks | None:
    """Where much has to go, no group loses a larger part than the whole; or else all but one."""
    part = min(MOST_KEPT, 1 / max(share(dict(keep)), 1.0))
    found = _fitted_above(keep, importance, share, swapped, part)
    return found or _fitted_above(keep, importance, share, swapped, 0.0)


def _fitted_above(keep, importance, share, swapped: int, part: float) -> Masks | None:
    waiting = {
        name: _but_the_strongest(scores, keep[name], part)
        for name, scores in importance.items()
        if name in keep
    }

    def masks(gone: Mapping[str, int]) -> Masks:
        found = {name: alive.copy() for name, alive in keep.items()}
        for name, count in gone.items():
            found[name][waiting[name][:count]] = False
        return found

    def refilled(gone: dict[str, int], closed: set[str]):
        """How full it is once the strongest that went and fit have come back; who went."""
        full = share(masks(gone))
        while full < NEARLY_FULL:
            names = [name for name, n in gone.items() if n and name not in closed]
            if not names:
                break
            last = {name: waiting[name][gone[name] - 1] for name in names}
            name = max(names, key=lambda name: importance[name][last[name]])
            fuller = {**gone, name: gone[name] - 1}
            more = share(masks(fuller))
            if more <= 1:
                full, gone = more, fuller
            else:  # the others of its group are as large
                closed.add(name)
        return full, gone

    order = sorted(
        (importance[name][unit], name) for name, own in waiting.items() for unit in own
    )

    def first(count: int) -> dict[str, int]:
        names = [name for _, name in order[:count]]
        return {name: names.count(name) for name in waiting}

    count = budgets.least(lambda n: share(masks(first(n))) <= 1, len(order))
    if count is None:
        return None
    ranked = refilled(first(count), set())
    full, gone = ranked
    swaps = [
        {**ranked[1], name: ranked[1][name] + more}
        for more in range(1, swapped + 1)
        for name, own in waiting.items()
        if ranked[1][name] + more <= len(own)
    ]
    for swap in swaps:  # some more of a group go, and others come back
        if full >= FILLED:
            break
        (name,) = (n for n in swap if swap[n] != ranked[1][n])
        _, others = refilled(swap, {name})
        fuller = refilled(others, set())
        full, gone = max((full, gone), fuller, key=lambda pair: pair[0])
    return masks(gone)


def _but_the_strongest(scores: np.ndarray, alive: np.ndarray, part: float):
    """Living units of a group, the weakest first, without the last ones: at least one."""
    living = np.flatnonzero(alive)
    kept = max(1, math.ceil(part * len(living) - 1e-9))
    return living[np.argsort(scores[living], kind="stable")][:-kept]


def kill(model, groups, keep: Mapping[str, np.ndarray]) -> None:
    """Zeroes all that writes, carries and reads the units that masks drop.

    Nothing reads a unit's constant any more, either, so that it can leave wherever it is.

    Args:
        model: A running model.
        groups: Its groups.
        keep: Group name -> bool `(units,)`.
    """
    held = {variable.path: variable for variable in model.variables}
    for group in groups:
        alive = keep.get(group.name)
        if alive is None or alive.all() or group.kind == "branch":
            continue
        for member in group.members:
            variable = held[member.path]
            value = np.array(variable)
            gone = np.zeros(len(variables.rows(value, member.axis)), bool)
            gone[member.indices] = ~alive[member.units]
            variables.zero(value, member.axis, gone)
            variable.assign(value)


def importance(model, method, groups, keep) -> dict[str, np.ndarray]:
    """Group name -> how much each unit matters: by the method, or the norm of what writes it.

    Args:
        model: The running model.
        method: The method that prepared it.
        groups: Its groups.
        keep: Group name -> bool `(units,)`; other groups are not ranked.
    """
    found = method.importance(model, groups)
    if found is None:
        norms = limiting.norms(model, groups)
        found = {
            group.name: norms(group.name)
            for group in groups
            if group.name in keep and group.kind != "branch"
        }
    return dict(found)
