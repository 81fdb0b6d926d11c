"""Removal while a model trains, and at its end. Knows no method and no optimizer."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tfsparse import budgets
from tfsparse.deploy import dead, fold, removal, variables
from tfsparse.deploy.lower import lower
from tfsparse.deploy.strip import removed
from tfsparse.graph import groups


@dataclasses.dataclass(frozen=True, eq=False)
class Collected:
    """What a removal from a running model left.

    Attributes:
        model: The smaller model, not compiled; the same object if nothing could leave.
        keep: Group name -> bool array `(units,)`, the masks carried out.
        reasons: Group name -> why dead units of it had to stay.
        pairs: Path of each new variable -> path of the old one that it was cut from.
        cuts: `(old path, value) -> value`, the part that stays: of weights, and alike
            of what an optimizer holds beside them.
    """

    model: Any
    keep: dict[str, np.ndarray]
    reasons: dict[str, str]
    pairs: dict[str, str] = dataclasses.field(default_factory=dict)
    cuts: Any = None


def collect(model, keep: removal.Keep) -> Collected:
    """Takes dead units out of a running model: neural garbage collection.

    Weights and BatchNorm statistics are cut alike. Units whose constant no bias can
    replace stay. The caller cuts the optimizer's slots with `pairs` and `cuts`, and
    compiles.

    Args:
        model: A model in which the units to drop are dead; it is not changed.
        keep: Group name -> bool array `(units,)`, True = stays.

    Returns:
        A `Collected`.

    Raises:
        StripError: The smaller model computes something else.

    Example:
        >>> found = collect(model, dead_units(model))
        >>> found.model.count_params() <= model.count_params()
        True
    """
    folded = fold.fold(model, keep)
    if all(alive.all() for alive in folded.keep.values()):
        return Collected(model, folded.keep, folded.reasons)
    done = removed(model, folded, proven=False, compared=True)
    pairs = {
        new.path: old.path
        for layer in model.layers
        if id(layer) in done.operations
        for old, new in variables.pair(layer, done.operations[id(layer)])
    }
    return Collected(done.model, folded.keep, folded.reasons, pairs, done.planned.cut)


def finish(model, keep: removal.Keep, *, dead_stay: bool = False):
    """Lowers a trained sparse model and strips what its method gave up.

    Dead units go with their constants folded into biases; units that the method drops
    while they still work go as `mask` would have them.

    Args:
        model: The running model at the end of training; it is not changed.
        keep: Group name -> bool array `(units,)`, the method's decision; of a group
            that is dropped as a whole the first unit stays, or its whole branch goes.
        dead_stay: Whether dead units stay that `keep` keeps, where sizes are asked for.

    Returns:
        The small stock model and, by group, why dead units had to stay.

    Raises:
        StripError: The small model computes something else.

    Example:
        >>> small, reasons = finish(sparse, {"conv": np.arange(8) < 4})
    """
    found = groups.find_groups(model, removal.kinds_in(keep))
    lowered = lower(model)
    alive = dead.dead_units(lowered)
    if dead_stay:
        alive = {name: own | keep.get(name, False) for name, own in alive.items()}
    folded = fold.fold(lowered, alive)
    decided = budgets.spare_one(keep)
    for name, own in alive.items():
        decided[name] = np.where(own, keep.get(name, own), folded.keep[name])
        if not decided[name].any():  # one that lives, or the zero that stands for all
            decided[name][int(own.argmax())] = True
    small = removed(lowered, fold.Folded(decided, folded.biases, folded.reasons)).model
    left = {variable.path for variable in small.variables}
    spared = {
        group.name: "all of it died, and a layer keeps one unit"
        for group in found
        # Others went with their whole branch.
        if group.name in keep
        and not keep[group.name].any()
        and any(m.path in left for m in group.members)
    }
    return small, {**spared, **folded.reasons}
