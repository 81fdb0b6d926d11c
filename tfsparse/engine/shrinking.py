"""Training that gets smaller as it goes: fit an epoch, remove the dead, go on."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from tfsparse import budgets, meters, optimizers, records
from tfsparse.deploy import collect as collecting
from tfsparse.deploy import dead, finished, probe, removal
from tfsparse.engine import limiting
from tfsparse.engine.context import Context
from tfsparse.graph import find_groups, measure

RETRACE_MACS = 5e10
"""What a removal costs (rebuild and retrace, about a second on two cores), in MACs.

A constant instead of a clock: the same seed must remove at the same epochs.
"""

TRAINING_PASSES = 3
"""Forward, and backward to inputs and to weights, in forward passes."""

STEADY_EPOCHS = 3
"""So many epochs without a death show that a penalty has killed what it can."""


@dataclasses.dataclass
class State:
    """Where shrinking stands after some epoch, beside the model and its history.

    Attributes:
        settled: The epoch from which the penalty is off; None while it is on.
        reasons: Group name -> why dead units of it had to stay.
        groups: Groups of the penalty before anything left.
        settling: What `discretisation` found as the penalty ended.
        loops: What the method told at the ends of epochs.
        removals: What left the running model so far.
        stopped: Whether a callback ended the training.
    """

    settled: int | None = None
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)
    groups: int = 0
    settling: list[dict] = dataclasses.field(default_factory=list)
    loops: list[dict] = dataclasses.field(default_factory=list)
    removals: list[records.Removal] = dataclasses.field(default_factory=list)
    stopped: bool = False

    def to_json(self) -> dict[str, Any]:
        """The state as JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> State:
        """What `to_json` wrote; what it does not know, it leaves out."""
        known = {field.name for field in dataclasses.fields(cls)}
        stored = {key: value for key, value in facts.items() if key in known}
        removals = [records.Removal(**entry) for entry in stored.pop("removals", [])]
        return cls(**stored, removals=removals)


@dataclasses.dataclass(frozen=True)
class Shrinking:
    """One training under a penalty, in which what dies leaves.

    Args:
        context: Trains an epoch.
        method: The method that prepared the model.
        epochs: Epochs in all.
        shrink_epochs: After that many the penalty is off.
        bounds: Measure -> absolute bound; the penalty ends as all are met. Empty for none.
        sizes: Group name -> units in the untouched model, see `limiting.sizes_of`.
        remove: Whether dead units leave the running model; of a method whose dead units
            grow back, those that died leave in any case as the penalty ends.
        until_settled: Whether to stop as the penalty ends, whatever epochs are left.
    """

    context: Context
    method: Any
    epochs: int
    shrink_epochs: int
    bounds: Mapping[str, float]
    sizes: Mapping[str, int]
    remove: bool = True
    until_settled: bool = False

    def prepared(self, model):
        """The model as the method trains it, compiled."""
        return prepare(self.context, self.method, model)

    def done(self, result: records.Result) -> bool:
        """Whether training ended before its last epoch."""
        state = State.from_json(result.facts)
        return state.stopped or (self.until_settled and state.settled is not None)

    def epoch(self, result: records.Result, epoch: int, bar) -> records.Result:
        """Trains one epoch, then lets the penalty end and the dead leave.

        Raises:
            TrainingError: Everything died, or the loss is not finite.
        """
        model, method = result.model, self.method
        state = State.from_json(result.facts)
        state.groups = state.groups or method.groups(model)
        if state.settled is None or method.stays:
            method.begin_epoch(model, epoch, self.context.samples)
        with meters.metered() as spent:
            rate = self._rate(state, epoch)
            logs = self.context.fit_epoch(model, "sparse", epoch, rate, bar)
        _check_loss(logs, epoch)
        check_alive(model, epoch)
        if state.settled is None:
            told = method.end_epoch(model, epoch, self.context.tools)
            state.loops += [told] if told else []
        groups = find_groups(model, method.kinds)
        keep = self._keep(model, groups)
        whole, cost = measure(model), measure(model, removal.plan(model, keep))
        entry: records.Epoch = {
            **{key: float(value) for key, value in logs.items()},  # type: ignore[typeddict-item]
            "live": {name: int(alive.sum()) for name, alive in keep.items()},
            "params": cost.params,
            "nonzero": whole.nonzero,
            "macs": cost.macs,
            "strength_on": state.settled is None or method.stays,
            **spent,
        }
        state.stopped = model.stop_training
        history = [*result.history, entry]
        if state.settled is None and (
            epoch + 1 >= self.shrink_epochs or self._met(model, keep)
        ):
            self._settle(model, state, epoch)
        saved = method.products * (whole.macs - cost.macs)
        if method.removes and self._is_worth_it(state, epoch, saved):
            model = self._collected(model, groups, keep, state, epoch)
        check_alive(model, epoch)  # before a dead model would be kept
        bar.note(f"{history[-1]['params']:,} parameters alive")
        return records.Result(model, history, {**result.facts, **state.to_json()})

    def amounts_of(self, model) -> dict[str, float]:
        """What there is of an untouched model of stock layers, for a target."""
        keep = limiting.every_unit(find_groups(model, self.method.kinds), {})
        found = budgets.with_units(measure(model), keep)
        return found | finished.sizes(model, self.bounds, untrained=True)

    def left(self, model) -> dict[str, float]:
        """What is left of a model by now, by measure, for the bounds."""
        groups = find_groups(model, self.method.kinds)
        return self._amounts(model, self._keep(model, groups))

    def _rate(self, state: State, epoch: int) -> float:
        """The learning rate of an epoch: constant under the penalty, then falling."""
        training, own = self.context.training, self.method.learning_rate
        if state.settled is None:
            first = own or training.learning_rate
            return (
                training.rate(first, epoch, self.epochs)
                if training.drop_every
                else first
            )
        first = own or training.settle_learning_rate
        return training.rate(first, epoch - state.settled, self.epochs - state.settled)

    def _keep(self, model, groups) -> dict[str, np.ndarray]:
        """The method's decision; what limits spare, stays."""
        keep = budgets.spare_one(self.method.keep(model, groups))
        return limiting.limited(
            model, groups, keep, self.context.limits, self.sizes, trim=False
        )

    def _amounts(self, model, keep) -> dict[str, float]:
        """What would be left without the dead, and within the limits."""
        groups = find_groups(model, self.method.kinds)
        keep = limiting.limited(model, groups, keep, self.context.limits, self.sizes)
        cost = measure(model, removal.plan(model, keep))
        found = budgets.with_units(cost, limiting.every_unit(groups, keep))
        if set(budgets.FINISHED) & set(self.bounds):
            small = collecting.finish(model, keep, dead_stay=True)[0]
            found |= finished.sizes(small, self.bounds)
        return found

    def _met(self, model, keep) -> bool:
        return bool(self.bounds) and budgets.met(
            self._amounts(model, keep), self.bounds
        )

    def _settle(self, model, state: State, epoch: int) -> None:
        """Ends the penalty; what it costs to set the dead to zero is noted."""
        rows = discretisation(model, self.method, self.context.test_score)
        gone = state.groups - self.method.groups(model)
        state.settling = [
            {**row, "dead": gone + row["dead"], "groups": state.groups} for row in rows
        ]
        self.method.settle(model)
        if not self.method.stays:
            self.method.set_strength(model, 0.0)
        state.settled = epoch + 1

    def _is_worth_it(self, state: State, epoch: int, saved_macs: int) -> bool:
        """Whether the dead leave now: as a removal pays, or for good as the penalty ends."""
        epochs_left = self.epochs - epoch - 1
        ending = state.settled == epoch + 1 and epochs_left > 0
        if ending and (self.method.regrows or self.until_settled):
            return True
        spared = saved_macs * TRAINING_PASSES * self.context.samples * epochs_left
        return self.remove and spared >= RETRACE_MACS

    def _collected(self, model, groups, keep, state: State, epoch: int):
        """The model without its dead units; the state is told what left."""
        started = time.perf_counter()
        self.method.settle(model)
        before = {g.name: g.size for g in groups}
        with self.context.scope():
            model, keep, state.reasons = collect(model, keep)
        removed = {
            name: before[name] - int(alive.sum())
            for name, alive in keep.items()
            if not alive.all()
        }
        if removed:
            now = measure(model)
            elapsed = time.perf_counter() - started
            state.removals.append(
                records.Removal(epoch + 1, removed, now.params, now.macs, elapsed)
            )
        return model


def prepare(context: Context, method, model):
    """The model as a method trains it, compiled.

    Raises:
        ValueError: The method has nothing to work on, asks for what the model or its loss
            does not have, or a limit names no group.
    """
    groups = find_groups(model, method.kinds)
    context.limits.check_names(limiting.sizes_of(groups))
    with context.scope():
        sparse = method.prepare(model, groups)
        rate = context.training.learning_rate
        context.compile(sparse, rate, method.optimizer(sparse, groups))
    method.check_tools(sparse, context.tools)
    return sparse


def steady(history: list[records.Epoch]) -> bool:
    """Whether no unit died in the last epochs under the penalty."""
    last = [entry["live"] for entry in history if entry["strength_on"]]
    return len(last) > STEADY_EPOCHS and last[-1] == last[-1 - STEADY_EPOCHS]


def discretisation(model, method, score: Callable[[Any], float | None]) -> list[dict]:
    """What it costs to set groups to zero, for each threshold that a method names.

    Args:
        model: The running model; it is left as it is.
        method: The method that prepared it.
        score: `model -> score`; None is told of nothing.

    Returns:
        Rows of `threshold` (None: the model as it is), `dead` (groups) and `score`; none
        for a method without thresholds, or where no score is told.

    Reference: GSparsity, Table 2.
    """
    if not method.thresholds or (first := score(model)) is None:
        return []
    rows = [{"threshold": None, "dead": 0, "score": first}]
    held = [*model.variables, *model.optimizer.variables]
    before = [keras.ops.convert_to_numpy(v) for v in held]
    for threshold in method.thresholds:
        gone = method.settle(model, threshold)
        rows.append(
            {
                "threshold": threshold,
                "dead": int(gone.sum()),
                "score": score(model),
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


def finish(
    model,
    method,
    limits: budgets.Limits | None = None,
    sizes: Mapping[str, int] | None = None,
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

    Returns:
        The small stock model and, by group, why dead units had to stay.

    Raises:
        StripError: The small model computes something else.
    """
    wanted: dict[str, np.ndarray] = {}
    groups = find_groups(model, method.kinds if method else ("unit",))
    if method is not None:
        method.decide(model)
        method.settle(model)
        wanted = dict(method.keep(model, groups))
    limits, keep = limits or budgets.Limits(), wanted
    if not limits.trivial:
        if method is None:
            wanted = dead.dead_units(model)
        sizes = limiting.sizes_of(groups) if sizes is None else sizes
        spared = budgets.spare_one(wanted)
        keep = limiting.limited(model, groups, spared, limits, sizes)
    small, reasons = collecting.finish(model, keep, dead_stay=not limits.trivial)
    if not all(alive.any() for alive in wanted.values()):
        check_alive(small, None)
    return small, reasons


def _check_loss(logs: Mapping[str, float], epoch: int) -> None:
    loss = logs.get("loss", 0.0)
    if not math.isfinite(loss):
        raise records.TrainingError(
            f"The loss must stay finite. Received: loss={loss} in epoch {epoch + 1}. "
            "Lower the learning rate, or look for nan in the data."
        )


def check_alive(model, epoch: int | None) -> None:
    """Checks that outputs depend on inputs, after an epoch or, None, once stripped.

    Raises:
        TrainingError: They do not.
    """
    inputs = probe.random_inputs(model, np.random.default_rng(epoch or 0), samples=4)
    if all((x == x[:1]).all() for x in probe.run(model, inputs)):
        when = "once stripped" if epoch is None else f"after epoch {epoch + 1}"
        raise records.TrainingError(
            f"The network must stay alive. Received: {when} its output "
            "no longer depends on its input, everything between has died. "
            "Lower --strength, or set thresholds that keep more."
        )
