"""Units that are dead already, and the constants that they still send on."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from tfsparse import records
from tfsparse.deploy import probe, removal
from tfsparse.graph import groups, trace

ROUNDING = 1e-6


def dead_units(model, tolerance: float = 0.0) -> dict[str, np.ndarray]:
    """Finds the units that no longer do anything.

    A unit is dead if the L2 norm of all its producer slices is at most `tolerance`
    (its output is then a constant), or that of all its consumer slices is.

    Args:
        model: A built Functional or Sequential Keras model.
        tolerance: Largest norm that counts as zero; not negative.

    Returns:
        Keep masks, group name -> bool array `(units,)`, for every group that is not
        frozen. Where all units of a group are dead, the first is kept.

    Raises:
        ValueError: `tolerance` is negative or not a number.

    Example:
        >>> small = strip(net, dead_units(net, tolerance=1e-6))
    """
    if not tolerance >= 0:
        raise ValueError(f"`tolerance` must be >= 0. Received: tolerance={tolerance}.")
    values = removal.values_of(model)
    keep = {}
    for group in groups.find_groups(model):
        if group.frozen:
            continue
        alive = np.ones(group.size, dtype=bool)
        for role in (records.PRODUCER, records.CONSUMER):
            if any(member.role == role for member in group.members):
                alive &= _norms(group, role, values) > tolerance
        alive[0] |= not alive.any()
        keep[group.name] = alive
    return keep


def _norms(group, role: str, values) -> np.ndarray:
    squares = np.zeros(group.size)
    for member in group.members:
        if member.role == role:
            rows = np.moveaxis(values[member.path], member.axis, 0)[member.indices]
            sums = np.square(rows.astype("float64")).reshape(len(rows), -1).sum(1)
            np.add.at(squares, member.units, sums)
    return np.sqrt(squares)


def fold(model, keep: removal.Keep):
    """Turns the constants of dropped units into biases of their consumers.

    Measures rather than derives: the model runs once, and each consumer is given
    the dropped channels alone. If its answer is the same at every position and for
    every input, that answer is a bias; if not, the units at fault stay.

    Args:
        model: The model in which the units to drop are dead, but still there.
        keep: Group name -> bool array `(units,)`, True = stays.

    Returns:
        The masks, with the units that must stay set True; the biases to add, layer
        name -> `(outputs,)`; and the reasons, group name -> sentence.
    """
    keep = {name: np.array(values) for name, values in keep.items()}
    reasons: dict[str, str] = {}
    if all(values.all() for values in keep.values()):
        return keep, {}, reasons
    reads = _consumer_inputs(model)
    while True:
        planned = removal.plan(model, keep)
        biases: dict[str, np.ndarray] = {}
        faults = []
        for call, values in reads:
            gone = ~planned.stays(call.inputs[0], -1)
            if not gone.any():
                continue
            bias, reason = _response(call, values, gone)
            name = call.operation.name
            if reason is None and name in biases and not _same(biases[name], bias):
                reason = f"{name!r} is shared, and a dead unit sends its calls unlike constants"
            if reason is not None:
                faults.append((call, values, reason))
            else:
                biases[name] = bias
        if not faults:
            biases = {name: bias for name, bias in biases.items() if bias.any()}
            return keep, biases, reasons
        for call, values, reason in faults:
            _keep_at_fault(planned, keep, reasons, call, values, reason)


def _same(first: np.ndarray, second: np.ndarray) -> bool:
    scale = max(1.0, float(np.abs(first).max()))
    return bool(np.abs(first - second).max() <= ROUNDING * scale)


def _keep_at_fault(planned, keep, reasons, call, values, reason) -> None:
    """Sets True the units that make a consumer's answer no constant.

    Those that do so alone; if none does alone, all that the consumer reads.
    """
    read, alone = [], []
    kinds = planned.analysis.axes[id(call.inputs[0])]
    for group in planned.analysis.groups:
        labels = kinds.get(group.kind, [None])[-1]
        if group.name not in keep or labels is None:
            continue
        for unit in np.flatnonzero(~keep[group.name]):
            channels = labels == planned.analysis.roots[group.name][unit]
            if channels.any():
                read.append((group.name, unit))
                if _response(call, values, channels)[1] is not None:
                    alone.append((group.name, unit))
    for name, unit in alone or read:
        keep[name][unit] = True
        reasons[name] = reason


def _consumer_inputs(model) -> list[tuple]:
    """Every call of a consumer with the values that it reads on random input."""
    found = trace.calls(model)
    read = {
        member.path
        for group in groups.find_groups(model, groups.KINDS)
        for member in group.members
        if member.role == records.CONSUMER
    }
    reading = [
        call
        for call in found
        if any(v.path in read for v in trace.variables_of(call.operation))
    ]
    if not reading:
        return []
    model = trace.functional(model)
    reader = keras.Model(model.input, [call.inputs[0] for call in reading])
    values = probe.run(reader, probe.random_inputs(model, np.random.default_rng(1)))
    return list(zip(reading, values, strict=True))


def _response(call, values, channels):
    """What a consumer makes of some channels alone: `(bias, None)`, or why none."""
    linear = linear_twin(call.operation)
    alone = np.where(channels, values, 0).astype(values.dtype)
    answer = linear(ops.convert_to_tensor(alone)) - linear(ops.zeros_like(alone))
    answer = ops.convert_to_numpy(answer)
    answer = answer.reshape(
        len(answer), -1, answer.shape[-1]
    )  # (samples, places, outputs)
    bias = answer[0, 0]
    rounding = ROUNDING * max(1.0, float(np.abs(answer).max()))
    if np.abs(answer - answer[:1]).max() > rounding:
        return (
            bias,
            f"a unit still sends {call.operation.name!r} what the input decides",
        )
    if np.abs(answer - bias).max() > rounding:
        return bias, (
            f"a dead unit sends a constant to {call.operation.name!r}, which sees it "
            "unevenly (zero padding), so no bias can replace it"
        )
    return bias, None


def linear_twin(layer):
    """The layer without its activation, sharing nothing, with the same weights."""
    config = layer.get_config()
    if "activation" in config:
        config["activation"] = "linear"
    twin = layer.__class__.from_config(config)
    twin.build(layer.get_build_config()["input_shape"])
    twin.set_weights(layer.get_weights())
    return twin
