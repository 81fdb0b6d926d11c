"""Groups of kind `branch`: the inputs of one Add or Average."""

from __future__ import annotations

import collections

import keras
import numpy as np
from keras import layers, ops

from tfsparse import records
from tfsparse.graph import trace

SUMS = (layers.Add, layers.Average, trace.operation_class(ops.add, inputs=2))
"""Operations whose inputs can go one by one; at least one stays."""


def find(graph: trace.Graph) -> list[records.UnitGroup]:
    """One group for each call of an Add or Average with two inputs or more."""
    found = []
    sums = [c for c in graph.calls if type(c.operation) in SUMS and len(c.inputs) > 1]
    private = {
        call: [only_for(graph, {call: {number}}) for number in range(len(call.inputs))]
        for call in sums
    }
    begins = {
        call: tuple(
            _beginning(graph, call.inputs[number], part, sums)
            for number, part in enumerate(private[call])
        )
        for call in sums
    }
    reading = _reading(private, begins)
    for call in sums:
        shapes = {tensor.shape[1:] for tensor in call.inputs}
        shapes.add(call.outputs[0].shape[1:])
        frozen = None
        if len(call.outputs[0].shape) < 2:
            frozen = f"{call.name!r} adds numbers, not channels"
        if len(shapes) > 1:
            frozen = f"{call.name!r} broadcasts inputs of unlike shapes"
        if len(set(call.inputs)) < len(call.inputs):
            frozen = f"{call.name!r} reads one tensor more than once"
        count = len(call.inputs)
        gates = tuple(
            records.Gate(call.name, call.index, number, None, (number,))
            for number in range(count)
        )
        members = tuple(
            records.Member(path, 0, records.PRODUCER, *_whole(variable, number))
            for number, path, variable in _own(graph, private[call])
        )
        ends = tuple(
            graph.writers[t].name if t in graph.writers else t.origin
            for t in call.inputs
        )
        output = call.outputs[0]
        shown = output in graph.outputs or any(
            reader not in reading[name_of(call)]
            for reader in graph.readers.get(output, [])
        )
        found.append(
            records.UnitGroup(
                name_of(call),
                "branch",
                count,
                frozen,
                members,
                (),
                gates,
                begins[call],
                ends,
                shown,
            )
        )
    return found


def _reading(private, begins) -> dict[str, set]:
    """Name of what an operation begins with -> the calls of all that do: they read it, and
    nothing else, as operations.
    """
    reading: dict[str, set] = collections.defaultdict(set)
    for call, parts in private.items():
        for part, source in zip(parts, begins[call], strict=True):
            reading[source] |= part or {call}
    return reading


def _beginning(graph: trace.Graph, last, calls, sums) -> str:
    """The name of what writes the one tensor that a branch's own calls read, or ''."""
    read = {t for c in calls for t in c.inputs} - {t for c in calls for t in c.outputs}
    read = read or {last}
    if len(read) > 1:
        return ""
    (tensor,) = read
    writer = graph.writers.get(tensor)
    if writer is None:
        return tensor.origin
    return name_of(writer) if writer in sums else f"{writer.name}_{writer.index}"


def operations(model) -> set[tuple[str, int, int]]:
    """Inputs of sums that are operations of their own: `(layer, call, input)`.

    Not those that are added as they are (identities, factors on them), nor sums of others,
    whose own inputs count.
    """
    graph = trace.read(model)
    found = set()
    for call in graph.calls:
        if type(call.operation) not in SUMS or len(call.inputs) < 2:
            continue
        for number, tensor in enumerate(call.inputs):
            own = only_for(graph, {call: {number}})
            writer = graph.writers.get(tensor)
            while writer is not None and writer in own and passes(writer):
                writer = graph.writers.get(writer.inputs[0])
            if (
                writer is not None
                and writer in own
                and type(writer.operation) not in SUMS
            ):
                found.add((call.name, call.index, number))
    return found


def passes(call) -> bool:
    """Whether a call hands on its input as it is, or times a factor."""
    kinds = layers.Identity | layers.Rescaling
    return isinstance(call.operation, kinds) or hasattr(call.operation, "lowered")


def name_of(call) -> str:
    """The name of the group of a call's inputs."""
    return f"{call.name}:branches{f'_{call.index}' if call.index else ''}"


def _whole(variable, number: int):
    size = variable.shape[0]
    return np.arange(size), np.full(size, number)


def _own(graph: trace.Graph, private) -> list[tuple]:
    """`(input number, path, variable)` of all weights that only one input needs."""
    own = []
    for number, calls in enumerate(private):
        lost = {id(c.operation) for c in calls}
        lost -= {id(c.operation) for c in graph.calls if c not in calls}
        own += [
            (number, graph.paths[id(variable)], variable)
            for c in calls
            if id(c.operation) in lost and c.index == 0
            for variable in trace.variables_of(c.operation)
            if len(variable.shape)
        ]
    return own


def only_for(graph: trace.Graph, dropped) -> set:
    """The calls that nothing needs once these inputs are dropped.

    Args:
        graph: The graph.
        dropped: Call -> set of input numbers that it no longer reads.
    """
    starts = [call.inputs[n] for call, numbers in dropped.items() for n in numbers]
    needless: set = set()
    waiting = [graph.writers[t] for t in starts if t in graph.writers]
    while waiting:
        call = waiting.pop()
        if call in needless or any(t in graph.outputs for t in call.outputs):
            continue
        if all(
            _reads_not(reader, tensor, dropped) or reader in needless
            for tensor in call.outputs
            for reader in graph.readers.get(tensor, [])
        ):
            needless.add(call)
            waiting += [graph.writers[t] for t in call.inputs if t in graph.writers]
    return needless


def _reads_not(reader, tensor, dropped) -> bool:
    gone = dropped.get(reader, ())
    return all(n in gone for n, t in enumerate(reader.inputs) if t == tensor)


def is_average(operation) -> bool:
    """Whether an operation divides by the number of its inputs."""
    return isinstance(operation, keras.layers.Average)
