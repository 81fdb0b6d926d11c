"""A training's end: the method's last word, fitted to a target, and the strip."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tfsparse import budgets, records
from tfsparse.deploy import collect, connected, dead, probe
from tfsparse.engine import filling, limiting
from tfsparse.engine.prunable import prunable


def finish(
    model,
    method,
    limits: budgets.Limits | None = None,
    sizes: Mapping[str, int] | None = None,
    bounds: Mapping[str, float] | None = None,
):
    """Lowers a trained model and strips what the method gave up.

    Dead units go with their constants folded into biases; units that the method
    drops while they still work go as `mask` would have them.

    Args:
        model: The running model at the end of training.
        method: The method that prepared it; None strips what is dead.
        limits: Of the units that groups keep; None for none.
        sizes: Group name -> units in the untouched model, see `limiting.sizes_of`; by default
            those of this one.
        bounds: Measure -> absolute bound that what is left just fits; None for none.

    Returns:
        The small stock model and, by group, why dead units had to stay.

    Raises:
        StripError: The small model computes something else.
    """
    wanted: dict[str, np.ndarray] = {}
    groups = prunable(model, method.kinds if method else ("unit",))
    limits = limits or budgets.Limits()
    sizes = limiting.sizes_of(groups) if sizes is None else sizes
    if method is not None:
        wanted = decide(model, method, groups, limits, sizes, bounds or {})
    keep = wanted
    if not limits.trivial:
        if method is None:
            wanted = dead.dead_units(model)
        spared = budgets.spare_one(wanted)
        keep = limiting.limited(model, groups, spared, limits, sizes)
    small, reasons = collect.finish(model, keep, dead_stay=not limits.trivial)
    if any(row["share"] > 1 for row in filling.shares(small, bounds or {})):
        # A constant that no bias can hold keeps its unit, unless nothing reads it.
        filling.kill(model, groups, keep)
        small, reasons = collect.finish(model, keep, dead_stay=not limits.trivial)
    if not all(alive.any() for alive in wanted.values()):
        check_alive(small, None)
    return small, reasons


def decide(model, method, groups, limits, sizes, bounds) -> dict[str, np.ndarray]:
    """The method's last word on a trained model, fitted to a target: its masks.

    A method with levels sets that on which most stays of what fits; of another the
    weakest units go, as far as they must.

    Args:
        model: The running model at the end of training; what is dead in it is set to zero.
        method: The method that prepared it.
        groups: Its groups, of the method's kinds.
        limits, sizes, bounds: As for `finish`; no bounds for no target.
    """

    def share(keep) -> float:
        spared = budgets.spare_one(keep)
        left = filling.left(model, groups, spared, bounds, limits, sizes)
        return budgets.share(left, bounds)

    method.decide(model)
    levels = method.levels(model) if bounds else None
    if levels is not None and len(levels):
        _set_level(model, method, groups, levels[::-1], share)
    method.settle(model)
    keep = dict(method.keep(model, groups))
    if bounds and share(keep) > 1:
        fitted = filling.fitted_in_use(
            keep,
            filling.importance(model, method, groups, keep),
            share,
            filling.in_use(model, groups),
            filling.swaps(bounds),
        )
        keep = fitted or keep
    return keep


def _set_level(model, method, groups, levels, share: Callable[[Any], float]) -> None:
    """Sets the laxest level that fits; where that leaves much free, the one before it."""

    def used(step: int) -> float:
        method.set_level(model, levels[step])
        keep = method.keep(model, groups)
        if not all(alive.any() for alive in keep.values()):
            return 0.0
        try:
            return share(keep)
        except ValueError:  # units and features together would empty a layer
            return 0.0

    step = budgets.least(lambda n: used(n) <= 1, len(levels) - 1)
    if step is None:
        step = len(levels) - 1
    elif step and used(step) < filling.FILLED:
        step -= 1  # of which the weakest units go
    method.set_level(model, levels[step])


def check_alive(model, epoch: int | None) -> None:
    """Checks that outputs depend on inputs, after an epoch or, None, once stripped.

    Outputs that are alike on a few samples are a reason to look at the weights, no more:
    a saturated layer or inputs of another scale can make them so.

    Raises:
        TrainingError: No way of live units leads from input to output.
    """
    inputs = probe.random_inputs(model, np.random.default_rng(epoch or 0), samples=4)
    alike = all((x == x[:1]).all() for x in probe.run(model, inputs))
    if alike and not connected.connected(model):
        when = "once stripped" if epoch is None else f"after epoch {epoch + 1}"
        raise records.TrainingError(
            f"The network must stay alive. Received: {when} its output "
            "no longer depends on its input, everything between has died. "
            "Lower --strength, or set thresholds that keep more."
        )
