"""Units that are dead already, and the constants that they still send on."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
from keras import ops

from tfsparse import records
from tfsparse.deploy import probe, removal
from tfsparse.graph import branches, groups, trace

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
    graph = trace.read(model)
    values = removal.values_of(graph)
    keep = {}
    for group in groups.find_groups(graph):
        if group.frozen:
            continue
        alive = np.ones(group.size, dtype=bool)
        for role in (records.PRODUCER, records.CONSUMER):
            if any(member.role == role for member in group.members):
                alive &= _norms(group, role, values) > tolerance
                if role == records.PRODUCER:
                    alive |= _norms(group, _INNER_BIAS, values) > tolerance
        alive[0] |= not alive.any()
        keep[group.name] = alive
    return keep | _dead_branches(graph, values, tolerance)


def _dead_branches(graph: trace.Graph, values, tolerance: float) -> dict:
    """Masks of the branch groups that have an input which no longer tells anything."""
    constant: set[trace.Tensor] = set()
    for call in graph.calls:
        inputs = [tensor in constant for tensor in call.inputs]
        if (inputs and all(inputs)) or _is_shut(graph, call, values, tolerance):
            constant.update(call.outputs)
    if not constant:
        return {}
    calls = {branches.name_of(call): call for call in graph.calls}
    masks = {}
    for group in branches.find(graph):
        alive = np.array([t not in constant for t in calls[group.name].inputs])
        alive[0] |= not alive.any()
        if not group.frozen and not alive.all():
            masks[group.name] = alive
    return masks


def _is_shut(graph, call, values, tolerance: float) -> bool:
    """Whether nothing of its input gets through a layer: kernels, or gamma, are zero."""
    layer = call.operation
    if isinstance(layer, keras.layers.BatchNormalization):
        own = [] if layer.gamma is None else [layer.gamma]
    elif isinstance(layer, keras.layers.PReLU):
        own = []
    else:
        own = [v for v in trace.variables_of(layer) if len(v.shape) > 1]
    arrays = [values[graph.paths[id(variable)]] for variable in own]
    return bool(arrays) and all(np.linalg.norm(x) <= tolerance for x in arrays)


def whole_branches(model, keep: removal.Keep):
    """Turns masks that leave nothing of a layer into the loss of its whole branch.

    Args:
        model: The model.
        keep: Group name -> bool array `(units,)`, True = stays.

    Returns:
        Masks without such groups, but with the branches that go; and, by branch
        group, what the masked branches still send on, `(channels,)`.

    Raises:
        ValueError: The layer stands in no branch that could go.
    """
    emptied = [k for k, v in keep.items() if np.size(v) and not np.any(v)]
    if not emptied:
        return keep, {}
    graph = trace.read(model)
    planned = removal.plan(graph, keep, empty=True)
    values = removal.masked(removal.values_of(graph), planned)
    masks = _dead_branches(graph, values, 0.0)
    calls = {branches.name_of(call): call for call in graph.calls}
    lost = {calls[k]: set(np.flatnonzero(~v).tolist()) for k, v in masks.items()}
    gone = {c.name for c in branches.only_for(graph, lost)} if lost else set()
    layer_of = {
        graph.paths[id(v)]: call.name
        for call in graph.calls
        for v in trace.variables_of(call.operation)
    }
    for group in planned.analysis.groups:
        if group.name in emptied and not {layer_of[p] for p in group.paths} <= gone:
            raise ValueError(
                f"`keep[{group.name!r}]` must leave at least one unit. Received: all "
                f"{group.size} dropped, and no branch that could go with them."
            )
    sent = _values(graph, [c.inputs[n] for c, ns in lost.items() for n in ns], values)
    constants = {}
    for name, mask in masks.items():
        constant, reason = _sent(calls[name], np.flatnonzero(~mask), sent)
        if reason is not None:
            raise ValueError(
                f"`keep` must leave at least one unit of {emptied}: {reason}."
            )
        constants[name] = constant
    kept = {
        k: v
        for k, v in keep.items()
        if k not in emptied and not {layer_of[p] for p in _paths(planned, k)} <= gone
    }
    return {**kept, **masks}, {k: c for k, c in constants.items() if c.any()}


def _paths(planned, name: str):
    return next(g.paths for g in planned.analysis.groups if g.name == name)


def _sent(call, numbers, values):
    """What inputs that are constants add up to per channel, or why they do not."""
    total = 0.0
    for number in numbers:
        value = values[call.inputs[number]]
        constant = value.reshape(-1, value.shape[-1])[0]
        if np.abs(value - constant).max() > ROUNDING * max(1.0, np.abs(value).max()):
            return None, (
                f"a dead branch sends {call.name!r} a constant that differs from place "
                "to place (zero padding)"
            )
        total = total + constant
    if branches.is_average(call.operation):
        total = total / len(call.inputs)
    return total, None


_INNER_BIAS = "inner bias"
"""Biases between two kernels of one attention layer: a unit of it that has one is no
constant that could be folded, as nothing outside the layer sees it."""


def _is_inner(group, member) -> bool:
    *layer, part, name = member.path.split("/")
    if name != "bias" or part not in ("query", "value", "gate") or not layer:
        return False
    inside = "/".join(layer) + "/"
    return any(
        m.role == records.CONSUMER and m.path.startswith(inside) for m in group.members
    )


def _norms(group, role: str, values) -> np.ndarray:
    squares = np.zeros(group.size)
    for member in group.members:
        if role == _INNER_BIAS:
            counts = member.role == records.CARRIER and _is_inner(group, member)
        else:
            counts = member.role == role
        if counts:
            rows = removal.rows(values[member.path], member.axis)[member.indices]
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
    analysis = groups.analyse(model, removal.kinds_in(keep))
    constants = _fold_branches(analysis.graph, keep, reasons)
    reads = _reads(analysis)
    while True:
        planned = removal.plan(model, keep, analysis)
        biases: dict[str, np.ndarray] = {}
        faults = []
        for read in reads:
            gone = ~_alive(planned, read)
            if not gone.any():
                continue
            bias, reason = read.response(gone)
            name = read.call.name
            if reason is None and name in biases and not _same(biases[name], bias):
                reason = f"{name!r} is shared, and a dead unit sends its calls unlike constants"
            if reason is not None:
                faults.append((read, reason))
            elif bias is not None:
                biases[name] = bias
        if not faults:
            biases |= constants
            biases = {name: bias for name, bias in biases.items() if bias.any()}
            return keep, biases, reasons
        for read, reason in faults:
            _keep_at_fault(planned, keep, reasons, read, reason)


def _fold_branches(graph, keep, reasons) -> dict[str, np.ndarray]:
    """The constants of dropped branches; a branch whose constant is uneven stays."""
    calls = {branches.name_of(call): call for call in graph.calls}
    dropped = {k: np.flatnonzero(~v) for k, v in keep.items() if k in calls}
    tensors = [calls[k].inputs[n] for k, numbers in dropped.items() for n in numbers]
    values = _values(graph, tensors)
    constants = {}
    for name, numbers in dropped.items():
        constant, reason = _sent(calls[name], numbers, values)
        if reason is None:
            constants[name] = np.asarray(constant)
        else:
            keep[name][:] = True
            reasons[name] = reason
    return constants


def _alive(planned, read) -> np.ndarray:
    stays = np.ones(len(read.labels), bool)
    for kind, alive in planned.wanted.items():
        labels = read.labels if kind == read.kind else None
        if labels is not None:
            stays &= (labels < 0) | alive[labels]
    return stays


def _same(first: np.ndarray, second: np.ndarray) -> bool:
    scale = max(1.0, float(np.abs(first).max()))
    return bool(np.abs(first - second).max() <= ROUNDING * scale)


def _keep_at_fault(planned, keep, reasons, read, reason) -> None:
    """Sets True the units that make a consumer's answer no constant.

    Those that do so alone; if none does alone, all that the consumer reads.
    """
    all_read, alone = [], []
    walk = planned.analysis.walks[read.kind]
    for name, roots in walk.units.items():
        if name not in keep:
            continue
        for unit in np.flatnonzero(~keep[name]):
            channels = read.labels == roots[unit]
            if channels.any():
                all_read.append((name, unit))
                if read.response(channels)[1] is not None:
                    alone.append((name, unit))
    for name, unit in alone or all_read:
        keep[name][unit] = True
        reasons[name] = reason


@dataclasses.dataclass(frozen=True, eq=False)
class _Read:
    """One input of one call where units end, with the values that it reads.

    Attributes:
        call: The call.
        kind: Which kind of labels.
        axis: The axis of the input that they are on.
        labels: Root labels on that axis.
        values: What the input was on random data.
        weights: Whether the units end in a kernel here, or in none (a gate).
        kernels: `(rows of a kernel that reads units, their root labels)`.
    """

    call: trace.Call
    kind: str
    axis: int
    labels: np.ndarray
    values: np.ndarray
    weights: bool
    kernels: list

    def response(self, channels):
        """What the call makes of some channels alone: `(bias, None)`, or why none."""
        shape = [1] * self.values.ndim
        shape[self.axis] = len(channels)
        alone = np.where(channels.reshape(shape), self.values, 0)
        alone = alone.astype(self.values.dtype)
        layer, name = self.call.operation, self.call.name
        if not alone.any():  # a zero counts, too, where a shared layer has one bias
            linear = isinstance(layer, _LINEAR)
            outputs = self.call.outputs[0].shape[-1]
            return (np.zeros(outputs, "float32") if linear else None), None
        if not self.weights:
            return None, f"a dead unit sends {name!r} a constant that is not zero"
        if not isinstance(layer, _LINEAR):
            gone = self.labels[channels]
            if not any(rows[np.isin(own, gone)].any() for rows, own in self.kernels):
                return None, None
            return None, (
                f"a dead unit sends a constant to {name!r}, a "
                f"{type(layer).__name__} that has no bias to take it"
            )
        return _response(self.call, alone)


_LINEAR = (
    keras.layers.Dense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)
"""Layers whose bias can take what a kernel makes of a constant."""

_RECURRENT = (
    keras.layers.SimpleRNN,
    keras.layers.LSTM,
    keras.layers.GRU,
    keras.layers.Bidirectional,
    keras.layers.ConvLSTM1D,
    keras.layers.ConvLSTM2D,
    keras.layers.ConvLSTM3D,
)


def _reads(analysis) -> list[_Read]:
    """Every place where units end, with the values that it reads on random input."""
    graph = analysis.graph
    weights = removal.values_of(graph)
    places = []
    for kind, walk in analysis.walks.items():
        kernels: dict[str, list] = {}
        for (path, axis, role), labels in walk.members.items():
            if role == records.CONSUMER:
                kernels.setdefault(path, []).append(
                    (removal.rows(weights[path], axis), labels)
                )
        gates = {(layer, call, number) for layer, call, number, *_ in walk.gates}
        for call in graph.calls:
            own = [
                kernel
                for v in trace.variables_of(call.operation)
                for kernel in kernels.get(graph.paths[id(v)], [])
            ]
            read = list(call.inputs) if own else []
            if own and isinstance(call.operation, _RECURRENT):
                read.append(call.outputs[0])  # its own state, at the next step
            if not own:
                read = [
                    tensor
                    for number, tensor in enumerate(call.inputs)
                    if (call.name, call.index, number) in gates
                ]
            for tensor in read:
                for axis, labels in enumerate(analysis.axes[kind][tensor]):
                    if labels is not None:
                        places.append((call, kind, axis, labels, tensor, own))
    values = _values(graph, [place[4] for place in places])
    return [
        _Read(call, kind, axis, labels, values[tensor], bool(own), own)
        for call, kind, axis, labels, tensor, own in places
    ]


def _values(graph: trace.Graph, tensors, weights=None) -> dict:
    """What these tensors are on random input, with these weights."""
    wanted = list(dict.fromkeys(tensors))
    if not wanted:
        return {}
    inputs = probe.random_inputs(graph, np.random.default_rng(1))
    weights = weights or removal.values_of(graph)
    return dict(zip(wanted, probe.replay(graph, weights, inputs, wanted), strict=True))


def _response(call, alone):
    """The bias that a linear layer needs for these values, or why there is none."""
    linear = linear_twin(call.operation)
    answer = linear(ops.convert_to_tensor(alone)) - linear(ops.zeros_like(alone))
    answer = ops.convert_to_numpy(answer)
    answer = answer.reshape(
        len(answer), -1, answer.shape[-1]
    )  # (samples, places, outputs)
    bias = answer[0, 0]
    rounding = ROUNDING * max(1.0, float(np.abs(answer).max()))
    if np.abs(answer - answer[:1]).max() > rounding:
        return bias, f"a unit still sends {call.name!r} what the input decides"
    if np.abs(answer - bias).max() > rounding:
        return bias, (
            f"a dead unit sends a constant to {call.name!r}, which sees it "
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
