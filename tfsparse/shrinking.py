"""Training that gets smaller as it goes: fit an epoch, remove the dead, go on."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import numbers
import time
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from tfsparse import meters, optimizers, records
from tfsparse.deploy import collect as collecting
from tfsparse.deploy import probe, removal
from tfsparse.deploy.collect import spare_one
from tfsparse.graph import find_groups, measure

RETRACE_MACS = 5e10
"""What a removal costs (rebuild and retrace, about a second on two cores), in MACs.

A constant instead of a clock: the same seed must remove at the same epochs.
"""

TRAINING_PASSES = 3
"""Forward, and backward to inputs and to weights, in forward passes."""


@dataclasses.dataclass
class State:
    """Where a shrinking run stands after some epoch; all that a checkpoint needs.

    Attributes:
        model: The running (sparse, compiled) model.
        history: One dict an epoch: Keras's logs, `live` (units of each group),
            `params`, `nonzero`, `macs`, `strength_on`, and what `meters.metered` measures.
        removals: What left the running model so far.
        settled: The epoch from which the penalty is off; None while it is on.
        reasons: Group name -> why dead units of it had to stay.
        groups: Groups of the penalty before anything left.
        settling: What `discretisation` found as the penalty ended.
        loops: What the method told at the ends of epochs.
    """

    model: Any
    history: list[dict] = dataclasses.field(default_factory=list)
    removals: list[records.Removal] = dataclasses.field(default_factory=list)
    settled: int | None = None
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)
    groups: int = 0
    settling: list[dict] = dataclasses.field(default_factory=list)
    loops: list[dict] = dataclasses.field(default_factory=list)


def run(
    state: State,
    method,
    fit_epoch: Callable[[Any, int], dict],
    *,
    epochs: int,
    shrink_epochs: int,
    target: Mapping[str, float] | None,
    samples: int,
    remove: bool = True,
    on_epoch: Callable[[State, int], None] | None = None,
    scope: Callable = contextlib.nullcontext,
    accuracy: Callable[[Any], float] | None = None,
    until_settled: bool = False,
    tools: records.Tools | None = None,
) -> State:
    """Goes on from `state` to the last epoch. The loop behind `fit_shrinking`.

    Args:
        state: A compiled, prepared model and the history so far.
        method: The method that prepared it.
        fit_epoch: `(model, epoch) -> logs`, trains one epoch.
        epochs: Epochs in all, those in `state.history` included.
        shrink_epochs: After that many the penalty is off.
        target: Measure -> absolute bound that ends the penalty when met, or None.
        samples: Training samples an epoch, to weigh removals.
        remove: Whether dead units leave the running model; of a method whose dead units
            grow back, those that died leave in any case as the penalty ends.
        on_epoch: Called after each epoch, to save and to show.
        scope: Context in which models are built (a tf.distribute scope).
        accuracy: `model -> accuracy`, to tell what it costs to set what died to zero;
            None for not telling.
        until_settled: Whether to stop as the penalty ends, whatever epochs are left.
        tools: What the method may ask for as an epoch ends.

    Returns:
        The same `state`, at its end.

    Raises:
        TrainingError: Everything died, or the loss is not finite.
    """
    method.check_epochs(epochs if method.stays else min(epochs, shrink_epochs))
    method.check_tools(state.model, tools)
    state.groups = state.groups or method.groups(state.model)
    for epoch in range(len(state.history), epochs):
        if state.settled is None or method.stays:
            method.begin_epoch(state.model, epoch, samples)
        with meters.metered() as spent:
            logs = fit_epoch(state.model, epoch)
        _check_loss(logs, epoch)
        _check_alive(state.model, epoch)
        if state.settled is None and (
            told := method.end_epoch(state.model, epoch, tools)
        ):
            state.loops.append(told)
        groups = find_groups(state.model, method.kinds)
        keep = spare_one(method.keep(state.model, groups))
        whole = measure(state.model)
        cost = measure(state.model, removal.plan(state.model, keep))
        state.history.append(
            {
                **{key: float(value) for key, value in logs.items()},
                "live": {name: int(alive.sum()) for name, alive in keep.items()},
                "params": cost.params,
                "nonzero": whole.nonzero,
                "macs": cost.macs,
                "strength_on": state.settled is None or method.stays,
                **spent,
            }
        )
        if state.settled is None:
            met = target is not None and share(cost, target) <= 1
            if met or epoch + 1 >= shrink_epochs:
                if accuracy is not None:
                    rows = discretisation(state.model, method, accuracy)
                    gone = state.groups - method.groups(state.model)
                    state.settling = [
                        {**r, "dead": gone + r["dead"], "groups": state.groups}
                        for r in rows
                    ]
                method.settle(state.model)
                if not method.stays:
                    method.set_strength(state.model, 0.0)
                state.settled = epoch + 1
        left, stop = epochs - epoch - 1, state.model.stop_training
        saved = method.products * (whole.macs - cost.macs)
        ending = state.settled == epoch + 1 and left > 0
        last = ending and (method.regrows or until_settled)
        if method.removes and ((remove and _pays(saved, samples, left)) or last):
            started = time.perf_counter()
            method.settle(state.model)
            before = {g.name: g.size for g in groups}
            with scope():
                state.model, keep, state.reasons = collect(state.model, keep)
            removed = {
                name: before[name] - int(alive.sum())
                for name, alive in keep.items()
                if not alive.all()
            }
            if removed:
                meters.release_memory()
                now = measure(state.model)
                elapsed = time.perf_counter() - started
                state.removals.append(
                    records.Removal(epoch + 1, removed, now.params, now.macs, elapsed)
                )
        _check_alive(state.model, epoch)  # before a dead model would be kept
        if on_epoch is not None:
            on_epoch(state, epoch)
        if stop or (until_settled and state.settled is not None):
            break
    return state


def discretisation(model, method, accuracy: Callable[[Any], float]) -> list[dict]:
    """What it costs to set groups to zero, for each threshold that a method names.

    Args:
        model: The running model; it is left as it is.
        method: The method that prepared it.
        accuracy: `model -> accuracy`.

    Returns:
        Rows of `threshold` (None: the model as it is), `dead` (groups) and `accuracy`;
        none for a method without thresholds.

    Reference: GSparsity, Table 2.
    """
    if not method.thresholds:
        return []
    rows = [{"threshold": None, "dead": 0, "accuracy": accuracy(model)}]
    held = [*model.variables, *model.optimizer.variables]
    before = [keras.ops.convert_to_numpy(v) for v in held]
    for threshold in method.thresholds:
        dead = method.settle(model, threshold)
        rows.append(
            {
                "threshold": threshold,
                "dead": int(dead.sum()),
                "accuracy": accuracy(model),
            }
        )
        for variable, value in zip(held, before, strict=True):
            variable.assign(value)
    return rows


def collect(model, keep):
    """Neural garbage collection: removes units from a running model.

    Weights, BatchNorm statistics and optimizer slots are sliced alike; the step
    count and the learning-rate schedule go on. Units whose constant no bias can
    replace stay.

    Args:
        model: A compiled model in which the units to drop are dead.
        keep: Group name -> bool array `(units,)`, True = stays.

    Returns:
        The model to go on with, the masks carried out, and the reasons of units
        that had to stay, by group.

    Raises:
        StripError: The smaller model computes something else.
    """
    done = collecting.collect(model, keep)
    if done.model is not model:
        optimizer = optimizers.resize(
            model.optimizer, done.model.trainable_variables, done.pairs, done.cuts
        )
        optimizers.recompile(done.model, model, optimizer)
    return done.model, done.keep, done.reasons


def finish(model, method):
    """Lowers a trained sparse model and strips what the method gave up.

    Dead units go with their constants folded into biases; units that the method
    drops while they still work go as `mask` would have them.

    Args:
        model: The running model at the end of training.
        method: The method that prepared it.

    Returns:
        The small stock model and, by group, why dead units had to stay.

    Raises:
        StripError: The small model computes something else.
    """
    method.decide(model)
    method.settle(model)
    wanted = method.keep(model, find_groups(model, method.kinds))
    small, reasons = collecting.finish(model, wanted)
    if not all(alive.any() for alive in wanted.values()):
        _check_alive(small, None)
    return small, reasons


def hold_zeros(model) -> None:
    """Makes every weight of a kernel that is zero stay zero while the model trains.

    Args:
        model: A model of stock layers; its kernels get a constraint.
    """
    for variable in model.trainable_variables:
        if len(variable.shape) > 1:
            there = (keras.ops.convert_to_numpy(variable) != 0).astype(variable.dtype)
            if not there.all():
                variable.constraint = lambda value, there=there: value * there


def absolute_target(target: Mapping[str, float] | None, cost: records.Cost):
    """Turns fractions of a cost (what remains) into absolute bounds.

    Raises:
        ValueError: A measure that `Cost` lacks, or a value that is not positive.
    """
    if target is None:
        return None
    known = [field.name for field in dataclasses.fields(records.Cost)]
    if not isinstance(target, Mapping) or not target:
        raise ValueError(
            f"`target` must map measures among {known} to numbers, or be None. Received: "
            f"{target!r}."
        )
    bounds = {}
    for name, value in target.items():
        if name not in known or not isinstance(value, numbers.Real) or not value > 0:
            raise ValueError(
                f"`target` must map a measure among {known} to a positive number. "
                f"Received: {name}={value}."
            )
        bounds[name] = value * getattr(cost, name) if value <= 1 else value
    return bounds


def share(cost: records.Cost, bounds: Mapping[str, float]) -> float:
    """The largest ratio of a cost to its absolute bound; up to 1 the target is met."""
    pairs = [(getattr(cost, name), bound) for name, bound in bounds.items()]
    unmet = 2.0  # of a bound of zero no share can be told
    return max(left / bound if bound else unmet * (left > 0) for left, bound in pairs)


STEADY_EPOCHS = 3
"""So many epochs without a death show that a penalty has killed what it can."""


def steady(history: list[dict]) -> bool:
    """Whether no unit died in the last epochs under the penalty."""
    last = [entry["live"] for entry in history if entry["strength_on"]]
    return len(last) > STEADY_EPOCHS and last[-1] == last[-1 - STEADY_EPOCHS]


def _pays(saved_macs: int, samples: int, epochs_left: int) -> bool:
    """Whether the MACs that a removal saves are worth its retrace."""
    return saved_macs * TRAINING_PASSES * samples * epochs_left >= RETRACE_MACS


def _check_loss(logs: Mapping[str, float], epoch: int) -> None:
    loss = logs.get("loss", 0.0)
    if not math.isfinite(loss):
        raise records.TrainingError(
            f"The loss must stay finite. Received: loss={loss} in epoch {epoch + 1}. "
            "Lower the learning rate, or look for nan in the data."
        )


def _check_alive(model, epoch: int | None) -> None:
    inputs = probe.random_inputs(model, np.random.default_rng(epoch or 0), samples=4)
    if all((x == x[:1]).all() for x in probe.run(model, inputs)):
        when = "once stripped" if epoch is None else f"after epoch {epoch + 1}"
        raise records.TrainingError(
            f"The network must stay alive. Received: {when} its output "
            "no longer depends on its input, everything between has died. "
            "Lower --strength, or set thresholds that keep more."
        )
