"""Training that gets smaller as it goes: fit an epoch, remove the dead, go on."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from tfsparse import budgets, meters, optimizers, records
from tfsparse.deploy import collect as collecting
from tfsparse.deploy import finished, removal
from tfsparse.engine import filling, finishing, limiting
from tfsparse.engine.context import Context
from tfsparse.engine.prunable import prunable
from tfsparse.graph import measure

_LOG = logging.getLogger("tfsparse")

RETRACE_MACS = 5e10
"""What a removal costs (rebuild and retrace, about a second on two cores), in MACs.

A constant instead of a clock: the same seed must remove at the same epochs.
"""

RETRACED = 50
"""Up to so many layers a retrace costs that; more in proportion."""

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
        penalty_left: What the penalty left as it ended, as a share of the target, before
            units went by rank; None without a target.
        taken_back: The epoch in which everything died, if one was taken back.
        first_share: What there was before the first epoch, as a share of the target.
        ramped: The strength, once it has grown.
    """

    settled: int | None = None
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)
    groups: int = 0
    settling: list[dict] = dataclasses.field(default_factory=list)
    loops: list[dict] = dataclasses.field(default_factory=list)
    removals: list[records.Removal] = dataclasses.field(default_factory=list)
    stopped: bool = False
    penalty_left: float | None = None
    taken_back: int | None = None
    first_share: float | None = None
    ramped: float | None = None

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
        bounds: Measure -> absolute bound; the penalty ends as all are met, if it ends before
            training does. Empty for none.
        sizes: Group name -> units in the untouched model, see `limiting.sizes_of`.
        remove: Whether dead units leave the running model; of a method whose dead units
            grow back, those that died leave in any case as the penalty ends.
        trial: Whether to stop as the penalty ends, if it does before training, whatever
            epochs are left; an epoch that kills everything is then an error.
        fill: Whether what the penalty left is fitted to the bounds.
        ramp: Factor on the strength after an epoch that leaves too much of the way to the
            bounds.
    """

    context: Context
    method: Any
    epochs: int
    shrink_epochs: int
    bounds: Mapping[str, float]
    sizes: Mapping[str, int]
    remove: bool = True
    trial: bool = False
    fill: bool = True
    ramp: float = 1.0

    def prepared(self, model):
        """The model as the method trains it, compiled."""
        return prepare(self.context, self.method, model)

    def done(self, result: records.Result) -> bool:
        """Whether training ended before its last epoch."""
        state = State.from_json(result.facts)
        ended = state.settled is not None and not self.method.stays
        return state.stopped or (self.trial and ended)

    def epoch(self, result: records.Result, epoch: int, bar) -> records.Result:
        """Trains one epoch, then lets the penalty end and the dead leave.

        Raises:
            TrainingError: Everything died, or the loss is not finite.
        """
        model, method = result.model, self.method
        state = State.from_json(result.facts)
        state.groups = state.groups or method.groups(model)
        penalised = state.settled is None
        on = penalised or (method.stays and state.taken_back is None)
        # Before the first epoch no unit is weaker than another.
        before = _values(model) if on and epoch else None
        if on:
            method.begin_epoch(model, epoch, self.context.samples)
        with meters.metered() as spent:
            rate = self._rate(state, epoch)
            logs = self.context.fit_epoch(model, "sparse", epoch, rate, bar)
        _check_loss(logs, epoch)
        died = self._taken_back(model, before, state, epoch)
        if penalised and not died:
            told = method.end_epoch(model, epoch, self.context.tools)
            state.loops += [told] if told else []
            died = told is not None and self._taken_back(model, before, state, epoch)
        groups = prunable(model, method.kinds)
        keep = self._keep(model, groups)
        trims, last = False, died or epoch + 1 >= self.shrink_epochs
        left = self._share(model, groups, keep) if on and self._ends_at_target else None
        met = left is not None and left <= 1
        if penalised and (last or met):
            keep, trims = self._ended(model, groups, keep, before, state, epoch)
        elif left is not None:
            self._keep_pace(model, groups, keep, left, state, epoch)
        whole, cost = measure(model), measure(model, removal.plan(model, keep))
        entry: records.Epoch = {
            **{key: float(value) for key, value in logs.items()},  # type: ignore[typeddict-item]
            "live": {name: int(alive.sum()) for name, alive in keep.items()},
            "params": cost.params,
            "nonzero": whole.nonzero,
            "macs": cost.macs,
            "strength_on": on,
            **spent,
        }
        state.stopped = model.stop_training
        history = [*result.history, entry]
        saved = method.products * (whole.macs - cost.macs)
        saved //= max(1, len(model.layers) / RETRACED)
        if trims or self._may_leave(model, groups, keep, state, epoch, saved):
            model = self._collected(model, groups, keep, state, epoch)
        finishing.check_alive(model, epoch)  # before a dead model would be kept
        bar.note(f"{history[-1]['params']:,} parameters alive")
        return records.Result(model, history, {**result.facts, **state.to_json()})

    def trimmed(self, result: records.Result) -> records.Result:
        """A result whose penalty has ended, without the weakest units that do not fit."""
        model, state = result.model, State.from_json(result.facts)
        groups = prunable(model, self.method.kinds)
        keep, trims = self._fitted(model, groups, self._keep(model, groups), state)
        if not trims:
            return result
        model = self._collected(model, groups, keep, state, len(result.history) - 1)
        facts = {**result.facts, **state.to_json()}
        return records.Result(model, result.history, facts)

    def amounts_of(self, model) -> dict[str, float]:
        """What there is of an untouched model of stock layers, for a target."""
        keep = limiting.every_unit(prunable(model, self.method.kinds), {})
        found = budgets.with_units(measure(model), keep)
        found[budgets.SEARCHED] = filling.operations(model)
        return found | finished.sizes(model, self.bounds, untrained=True)

    def left(self, model) -> dict[str, float]:
        """What is left of a model by now, by measure, for the bounds."""
        groups = prunable(model, self.method.kinds)
        return self._amounts(model, groups, self._keep(model, groups))

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

    def _amounts(self, model, groups, keep) -> dict[str, float]:
        """What would be left without the dead, and within the limits."""
        limits = self.context.limits
        return filling.left(model, groups, keep, self.bounds, limits, self.sizes)

    def _share(self, model, groups, keep) -> float:
        """What would be left, as a share of the target."""
        return budgets.share(self._amounts(model, groups, keep), self.bounds)

    @property
    def _ends_at_target(self) -> bool:
        return bool(self.bounds) and not self.method.stays

    def _keep_pace(self, model, groups, keep, left: float, state, epoch: int) -> None:
        """Raises the strength where what is left falls behind a steady way to the target.

        With E epochs of the penalty, epoch e (from 0) may leave first^(1 - (e + 1) / E) of
        the target, where `first` is what there was.
        """
        if state.first_share is None:
            whole = {name: np.ones(len(alive), bool) for name, alive in keep.items()}
            state.first_share = self._share(model, groups, whole)
        wanted = state.first_share ** (1 - (epoch + 1) / self.shrink_epochs)
        strength = state.ramped or self.method.get_config().get(self.method.sparser)
        if self.ramp > 1 and strength and left > max(1.0, wanted):
            state.ramped = strength * self.ramp
            self.method.set_strength(model, state.ramped)

    def _ended(self, model, groups, keep, before, state: State, epoch: int):
        """Ends the penalty, and fits what is left to the target.

        Where the last epoch took too much of it, that epoch is taken back first.

        Returns:
            The masks, and whether they drop units that live.
        """
        fills = self._ends_at_target and self.fill
        if fills and before is not None:
            keep = self._with_epoch_taken_back(model, groups, keep, before)
        self._settle(model, state, epoch)
        if not fills:
            return keep, False
        return self._fitted(model, groups, keep, state)

    def _taken_back(self, model, before, state: State, epoch: int) -> bool:
        """Whether an epoch killed everything and was taken back, so that its penalty ends.

        Raises:
            TrainingError: It killed everything and cannot be taken back: the first one, or
                one of a trial.
        """
        try:
            finishing.check_alive(model, epoch)
        except records.TrainingError:
            if before is None or self.trial:
                raise
            _assign(model, before)
            finishing.check_alive(model, epoch)
            self.method.set_strength(model, 0.0)
            state.taken_back = epoch + 1
            said = (
                f"Everything died in epoch {epoch + 1}: it is taken back, and the penalty "
                f"ends here. Lower --{self.method.sparser} to let it choose for longer."
            )
            _LOG.warning(said)
            return True
        return False

    def _with_epoch_taken_back(self, model, groups, keep, before):
        """The masks, of before the epoch if that took too much of the target."""
        if self._share(model, groups, keep) >= filling.FILLED:
            return keep
        after = _values(model)
        _assign(model, before)
        more = self._keep(model, groups)
        if self._share(model, groups, more) > 1:
            return more
        _assign(model, after)  # was met before, too
        return keep

    def _fitted(self, model, groups, keep, state: State):
        """Masks that fit the target; what they drop besides the dead is dead from here on.

        Returns:
            The masks, and whether they drop units that live.
        """
        state.penalty_left = self._share(model, groups, keep)
        if state.penalty_left <= 1:
            return keep, False
        fitted = filling.fitted_in_use(
            keep,
            filling.importance(model, self.method, groups, keep),
            lambda masks: self._share(model, groups, masks),
            filling.in_use(model, groups),
            filling.swaps(self.bounds),
        )
        if fitted is None:  # the strip says so
            return keep, False
        fitted = limiting.limited(
            model, groups, fitted, self.context.limits, self.sizes, trim=False
        )
        filling.kill(model, groups, fitted)
        return fitted, True

    def _settle(self, model, state: State, epoch: int) -> None:
        """Ends the penalty; what it costs to set the dead to zero is noted."""
        rows = discretisation(model, self.method, self.context.score)
        gone = state.groups - self.method.groups(model)
        state.settling = [
            {**row, "dead": gone + row["dead"], "groups": state.groups} for row in rows
        ]
        if not self.method.stays:
            self.method.settle(model)
            self.method.set_strength(model, 0.0)
        state.settled = epoch + 1

    def _may_leave(self, model, groups, keep, state, epoch, saved_macs) -> bool:
        """Whether the dead leave now; not those that a target may bring back at the end."""
        if not self.method.removes or not self._is_worth_it(state, epoch, saved_macs):
            return False
        brings_back = bool(self.bounds) and self.fill and self.method.stays
        return not brings_back or self._share(model, groups, keep) > 1

    def _is_worth_it(self, state: State, epoch: int, saved_macs: int) -> bool:
        """Whether the dead leave now: as a removal pays, or for good as the penalty ends."""
        epochs_left = self.epochs - epoch - 1
        ending = state.settled == epoch + 1 and epochs_left > 0
        if ending and (self.method.regrows or self.trial):
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
    groups = prunable(model, method.kinds)
    context.limits.check_names(limiting.sizes_of(groups))
    with context.scope():
        sparse = method.prepare(model, groups)
        rate = context.training.learning_rate
        context.compile(sparse, rate, method.optimizer(sparse, groups))
        context.begin(sparse)
    optimizers.check_slots(sparse.optimizer, sparse.trainable_variables)
    method.check_tools(sparse, context.tools)
    return sparse


def _values(model) -> list[np.ndarray]:
    """All numbers of a running model, its optimizer's included."""
    held = [*model.variables, *model.optimizer.variables]
    return [keras.ops.convert_to_numpy(variable) for variable in held]


def _assign(model, values: list[np.ndarray]) -> None:
    """Brings back what `_values` read."""
    held = [*model.variables, *model.optimizer.variables]
    for variable, value in zip(held, values, strict=True):
        variable.assign(value)


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
    before = _values(model)
    for threshold in method.thresholds:
        gone = method.settle(model, threshold)
        rows.append(
            {
                "threshold": threshold,
                "dead": int(gone.sum()),
                "score": score(model),
            }
        )
        _assign(model, before)
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


def _check_loss(logs: Mapping[str, float], epoch: int) -> None:
    loss = logs.get("loss", 0.0)
    if not math.isfinite(loss):
        raise records.TrainingError(
            f"The loss must stay finite. Received: loss={loss} in epoch {epoch + 1}. "
            "Lower the learning rate, or look for nan in the data."
        )
