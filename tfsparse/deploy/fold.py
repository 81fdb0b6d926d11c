"""Folds the constants that dead units still send on into biases."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from keras import ops

from tfsparse import records
from tfsparse.deploy import dead, lost, probe, removal, variables
from tfsparse.graph import groups, trace
from tfsparse.graph.rules import LINEAR, rule_of


class Folded(NamedTuple):
    """What can leave once constants are folded.

    Attributes:
        keep: Group name -> bool array `(units,)`, units that must stay set True.
        biases: What to add, by path of a bias (or, where a branch goes, by name of its
            group).
        reasons: Group name -> why units of it must stay.
    """

    keep: dict[str, np.ndarray]
    biases: dict[str, np.ndarray]
    reasons: dict[str, str]


def fold(model, keep: removal.Keep) -> Folded:
    """Turns the constants of dropped units into biases of their consumers.

    Measures rather than derives: the model runs once, and each consumer is given
    the dropped channels alone. If its answer is the same at every position and for
    every input, that answer is a bias; if not, the units at fault stay.

    Args:
        model: The model in which the units to drop are dead, but still there.
        keep: Group name -> bool array `(units,)`, True = stays.

    Returns:
        A `Folded`.
    """
    keep = {name: np.array(values) for name, values in keep.items()}
    reasons: dict[str, str] = {}
    if all(values.all() for values in keep.values()):
        return Folded(keep, {}, reasons)
    analysis = groups.analyse(model, removal.kinds_in(keep))
    constants = lost.fold_branches(analysis.graph, keep, reasons)
    reads = _reads(analysis)
    while True:
        planned = removal.plan(model, keep, analysis)
        by_call: dict[tuple, dict[str, np.ndarray]] = {}
        faults = []
        gone = {kind: ~wanted for kind, wanted in planned.wanted.items()}
        for read in reads:
            if not read.mask(gone).any():
                continue
            found, reason = read.response(gone)
            own = by_call.setdefault((read.call.name, read.call.index), {})
            for path, bias in found.items():
                own[path] = own.get(path, 0) + bias
            if reason is not None:
                faults.append((read, reason))
        biases: dict[str, np.ndarray] = {}
        for read in reads:
            for path, bias in by_call.get(
                (read.call.name, read.call.index), {}
            ).items():
                if not _same(biases.setdefault(path, bias), bias):
                    faults.append(
                        (
                            read,
                            f"{read.call.name!r} is shared, and a dead unit sends its "
                            "calls unlike constants",
                        )
                    )
        if not faults:
            biases |= constants
            biases = {name: bias for name, bias in biases.items() if bias.any()}
            return Folded(keep, biases, reasons)
        for read, reason in faults:
            _keep_at_fault(planned, keep, reasons, read, reason)


def bias_path(graph: trace.Graph, layer) -> str:
    """The path of a layer's bias; one of its own for a layer that has none."""
    layer = _unwrapped(layer)
    bias = getattr(layer, "bias", None)
    if bias is not None:
        return graph.paths[id(bias)]
    return f"{graph.paths[id(trace.variables_of(layer)[0])]} (bias)"


def _same(first: np.ndarray, second: np.ndarray) -> bool:
    scale = max(1.0, float(np.abs(first).max()))
    return bool(np.abs(first - second).max() <= probe.ROUNDING * scale)


def _keep_at_fault(planned, keep, reasons, read, reason) -> None:
    """Sets True the units that make a consumer's answer no constant.

    Those that do so alone; if none does alone, all that the consumer reads.
    """
    all_read, alone = [], []
    for kind, walk in planned.analysis.walks.items():
        for name, roots in walk.units.items():
            for unit in np.flatnonzero(~keep[name]) if name in keep else ():
                gone = {kind: np.zeros(len(walk.roots), bool)}
                gone[kind][roots[unit]] = True
                if read.mask(gone).any():
                    all_read.append((name, unit))
                    if read.response(gone)[1] is not None:
                        alone.append((name, unit))
    for name, unit in alone or all_read:
        keep[name][unit] = True
        reasons[name] = reason


@dataclasses.dataclass(frozen=True, eq=False)
class _Read:
    """One input of one call where units end, and the values that are read there.

    Attributes:
        graph: The graph.
        call: The call.
        number: Which of its inputs; -1 for the state of a recurrent layer.
        values: What the input was on random data, of two sizes where it has any.
        labels: `(kind, axis, root labels)` of each labelled axis of the input.
        kernels: `(rows of a kernel that reads the units, kind, their root labels)`;
            none where they end without weights (a gate).
        moved: Root label -> whether a constant of it meets what may move it.
    """

    graph: trace.Graph
    call: trace.Call
    number: int
    values: list
    labels: list
    kernels: list
    moved: np.ndarray

    def mask(self, gone: dict[str, np.ndarray]) -> np.ndarray:
        """Where the input holds dropped units; it broadcasts against the values.

        Args:
            gone: Kind -> bool for each root label.
        """
        rank = self.values[0].ndim
        mask = np.zeros((1,) * rank, bool)
        for kind, axis, labels in self.labels:
            if kind in gone:
                shape = [1] * rank
                shape[axis] = len(labels)
                mask = mask | ((labels >= 0) & gone[kind][labels]).reshape(shape)
        return mask

    def response(self, gone: dict[str, np.ndarray]):
        """What the call makes of dropped units alone: biases by path, or why none."""
        biases: dict[str, np.ndarray] = {}
        for values in self.values:
            alone = np.where(self.mask(gone), values, 0).astype(values.dtype)
            found, reason = self._answer(alone, gone)
            if "unit" in gone:
                moved = np.where(
                    self.mask({"unit": gone["unit"] & self.moved}), values, 0
                )
                if moved.any():  # even if these samples did not
                    reason = reason or (
                        f"a unit still sends {self.call.name!r} what the input decides"
                    )
            if reason is not None:
                return {}, reason
            for path, bias in found.items():
                if not _same(biases.setdefault(path, bias), bias):
                    return {}, (
                        f"a dead unit sends {self.call.name!r} a constant that depends "
                        "on the size of the input"
                    )
        return biases, None

    def _answer(self, alone, gone):
        """The response to one array of values."""
        layer, name = self.call.operation, self.call.name
        if not self.kernels:
            reason = f"a dead unit sends {name!r} a constant that is not zero"
            return {}, reason if alone.any() else None
        if self.number < 0:
            reason = f"a dead unit of {name!r} keeps a state that is not zero"
            return {}, reason if alone.any() and self._is_read(gone) else None
        if rule_of(_unwrapped(layer)).folds == LINEAR and self._has_bias():
            return self._linear(alone)
        takers = self._takers()
        if takers and None not in takers:  # zeros count, too: a shared layer has one
            constant, reason = self._constant(alone)
            biases = {} if reason else {
                self.graph.paths[id(bias)]: _into(bias, kernel, constant)
                for kernel, bias in takers
            }  # fmt: skip
            return biases, reason
        if not alone.any() or not self._is_read(gone):
            return {}, None
        return {}, (
            f"a dead unit sends a constant to {name!r}, a "
            f"{type(layer).__name__} that has no bias to take it"
        )

    def _is_read(self, gone) -> bool:
        """Whether any kernel has weights for these units that are not zero."""
        return any(
            rows[(own >= 0) & gone[kind][own]].any()
            for rows, kind, own in self.kernels
            if kind in gone
        )

    def _has_bias(self) -> bool:
        """Whether the layer has a bias, or can be given one."""
        layer = self.call.operation
        bias = getattr(_unwrapped(layer), "bias", None)
        return bias is not None or hasattr(layer, "use_bias")

    def _linear(self, alone):
        """The bias that a linear layer needs for these values, or why there is none."""
        layer, name = _unwrapped(self.call.operation), self.call.name
        if layer is not self.call.operation:
            rank = len(trace.variables_of(layer)[0].shape)
            alone = alone.reshape(-1, *alone.shape[1 - rank :])
        path = bias_path(self.graph, layer)
        twin = linear_twin(layer)
        answer = twin(ops.convert_to_tensor(alone)) - twin(ops.zeros_like(alone))
        answer = ops.convert_to_numpy(answer)
        rounding = probe.ROUNDING * max(1.0, float(np.abs(answer).max()))
        if np.abs(answer - answer[:1]).max() > rounding:
            return {}, f"a unit still sends {name!r} what the input decides"
        bias = answer[0]
        own = bias.shape[-1:] if layer.bias is None else tuple(layer.bias.shape)
        own = (1,) * (bias.ndim - len(own)) + own
        for axis, size in enumerate(own):
            if size == 1:
                bias = bias.take([0], axis)
        if np.abs(answer - bias).max() > rounding:
            return {}, (
                f"a dead unit sends a constant to {name!r}, which sees it "
                "unevenly (zero padding), so no bias can replace it"
            )
        return {
            path: bias.reshape(
                bias.shape[-1:] if layer.bias is None else layer.bias.shape
            )
        }, None

    def _takers(self) -> list:
        """`(kernel, bias)` that read this input, by the layer's own record.

        None stands for a kernel without a bias.
        """
        folds = rule_of(self.call.operation).folds
        pairs = folds(self.call, self.number) if callable(folds) else []
        return [None if bias is None else (kernel, bias) for kernel, bias in pairs]

    def _constant(self, alone):
        """`(channels,)`, the same at every place and for every input, or why not."""
        rows = alone.reshape(-1, alone.shape[-1])
        rounding = probe.ROUNDING * max(1.0, float(np.abs(rows).max()))
        if np.abs(rows - rows[0]).max() > rounding:
            return None, f"a unit sends {self.call.name!r} what changes on the way"
        return rows[0], None


def _into(bias, kernel, constant: np.ndarray) -> np.ndarray:
    """What a bias has to take for a constant that its kernel no longer reads."""
    kernel = ops.convert_to_numpy(ops.cast(kernel, "float32"))
    sums = np.tensordot(constant, kernel, axes=1)
    result = np.zeros(bias.shape, sums.dtype)
    if result.ndim > sums.ndim:  # GRU: the first row belongs to the kernel
        result[0] = sums
    else:
        result += sums
    return result


def _unwrapped(layer):
    inner = rule_of(layer).inner
    return layer if inner is None else inner(layer)


def _reads(analysis) -> list[_Read]:
    """Every place where units end, with the values that it reads on random input."""
    graph = analysis.graph
    weights = variables.values_of(graph)
    kernels: dict[str, list] = {}
    gates = set()
    for kind, walk in analysis.walks.items():
        for (path, axis, role), labels in walk.members.items():
            if role == records.CONSUMER:
                rows = variables.rows(weights[path], axis)
                kernels.setdefault(path, []).append((rows, kind, labels))
        gates |= {(layer, call, number) for layer, call, number, *_ in walk.gates}
    places = []
    for call in graph.calls:
        own = [
            kernel
            for v in trace.variables_of(call.operation)
            for kernel in kernels.get(graph.paths[id(v)], [])
        ]
        read = [
            (number, tensor)
            for number, tensor in enumerate(call.inputs)
            if (own and tensor not in call.inputs[:number])
            or (call.name, call.index, number) in gates
        ]
        if own and rule_of(call.operation).recurrent:
            read.append((-1, call.outputs[0]))  # its own state, at the next step
        for number, tensor in read:
            labels = [
                (kind, axis, own_labels)
                for kind, axes in analysis.axes.items()
                for axis, own_labels in enumerate(axes[tensor])
                if own_labels is not None
            ]
            if labels:
                places.append((call, number, tensor, labels, own))
    values = probe.values_at(graph, [place[2] for place in places], weights)
    moved = np.zeros(0, bool)
    if "unit" in analysis.walks:
        _, moved = dead.stopped_and_moved(analysis, weights, 0.0)
    return [
        _Read(graph, call, number, values[tensor], labels, own, moved)
        for call, number, tensor, labels, own in places
    ]


def linear_twin(layer):
    """The layer in float32 without its activation, of the same weights, its own."""
    config = {**layer.get_config(), "dtype": "float32"}
    if "activation" in config:
        config["activation"] = "linear"
    twin = layer.__class__.from_config(config)
    twin.build(layer.get_build_config()["input_shape"])
    twin.set_weights(layer.get_weights())
    return twin
