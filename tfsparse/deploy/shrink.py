"""Builds the model that a plan leaves: new sizes, fewer inputs, gathered features."""

from __future__ import annotations

from collections.abc import Container

import keras
import numpy as np
from keras import ops

from tfsparse import records
from tfsparse.deploy.removal import Plan
from tfsparse.graph import branches, rules, trace
from tfsparse.graph.rebuild import LOST, clone, rebuild
from tfsparse.graph.rules import moves


def gated(planned: Plan):
    """A copy of the model, fresh weights, with the gates of dropped units closed.

    Returns:
        The copy and the dict `id(old operation) -> new operation`.
    """
    closed = planned.closed(only_surplus=False)

    def call(item, operation, args, kwargs):
        args, kwargs = _close(item, planned, closed, args, kwargs)
        return _with_constant(item, planned, operation(*args, **kwargs))

    return rebuild(planned.graph, call=call)


def closing(planned: Plan):
    """The same as `gated` does, for `probe.replay`."""
    closed = planned.closed(only_surplus=False)

    def change(call, given, outputs):
        if given is None:
            constant = planned.constants.get(branches.name_of(call))
            return outputs if constant is None else outputs + constant
        for number in range(len(given)):
            x = given[number]
            for axis, stays in closed.get((call.name, call.index, number), ()):
                shape = [1] * len(x.shape)
                if axis is not None:
                    shape[axis] = len(stays)
                x = x * ops.cast(stays.reshape(shape), x.dtype)
            given[number] = x
        return given

    return change


def _close(item, planned, closed, args, kwargs):
    """Multiplies a call's inputs by zero where their units are dropped."""
    numbers = [
        n for n in range(len(item.inputs)) if (item.name, item.index, n) in closed
    ]
    if not numbers:
        return args, kwargs
    tensors = [
        x
        for x in keras.tree.flatten((args, kwargs))
        if isinstance(x, keras.KerasTensor)
    ]
    for number in numbers:
        x = tensors[number]
        for place, (axis, stays) in enumerate(closed[item.name, item.index, number]):
            name = _unused(planned, f"{item.name}_{item.index}_{number}_{place}_gate")
            scale = 0.0
            if axis is not None:
                shape = (len(stays), *[1] * (len(x.shape) - axis - 1))
                scale = stays.astype("float32").reshape(shape).tolist()
            x = keras.layers.Rescaling(scale, dtype=x.dtype, name=name)(x)
        tensors[number] = x
    args, new = item.fill(tensors)
    return args, {**kwargs, **new}


def build(planned: Plan, bias_on: Container = ()):
    """Builds the model that `planned` leaves, with fresh weights.

    Args:
        planned: What stays.
        bias_on: Layers of the old model that get a bias.

    Returns:
        The smaller model and the dict `id(old operation) -> new operation`.
    """
    graph = planned.graph
    first_call = {id(c.operation): c for c in reversed(graph.calls)}
    present: dict[
        trace.Tensor, np.ndarray
    ] = {}  # old places on the last axis, now there
    needless = branches.only_for(graph, planned.lost) if planned.lost else set()
    closed = planned.closed(only_surplus=True)

    def sized(item, name):
        operation, change = item.operation, {}
        sizes = rules.sizes_of(operation)
        if sizes is not None:
            change = sizes(item, planned)
        elif hasattr(operation, "resized"):
            change = operation.resized(planned)
        if operation in bias_on:
            change = {**change, "use_bias": True}
        return clone(operation, name, change)

    def make(operation, name):
        return sized(first_call[id(operation)], name)

    def call(item, operation, args, kwargs):
        if item in planned.lost:
            outputs = _fewer(item, operation, planned, args, kwargs)
            return _with_constant(item, planned, outputs)
        args, kwargs = _close(item, planned, closed, args, kwargs)
        if type(item.operation) is moves.TAKE and _gathers(item):
            stays = planned.kept(item.outputs[0], -1)
            wanted = moves.constant_indices(item)[stays]
            return _take(args[0], wanted, present.get(item.inputs[0]))
        if type(item.operation) in (moves.TAKE, *moves.MOVES):
            return _move(item, planned, operation, args, kwargs)
        if (
            item.index
            and rules.sizes_of(item.operation)
            and not item.operation.variables
        ):
            operation = sized(item, f"{item.name}_{item.index}")
        if hasattr(item.operation, "resized_call"):
            stays = planned.kept(item.outputs[0], -1)
            kwargs = item.operation.resized_call(kwargs, stays, planned)
        return operation(*args, **kwargs)

    def after(old, new):
        if len(old.shape) < 2:
            return new
        stays = planned.kept(old, -1)
        if "feature" in planned.alive and _is_source(old, planned):
            units = np.flatnonzero(planned.kept(old, -1, ("unit",)))
            wanted = np.flatnonzero(stays)
            if len(wanted) < len(units):
                new = _take(new, wanted, units)
        elif _gathered(old, graph):
            stays = planned.kept(old, -1, ("unit",))
        present[old] = np.flatnonzero(stays)
        return new

    return rebuild(graph, make, call, after, lambda c: c not in needless)


def _fewer(item, operation, planned, args, kwargs):
    """What an Add or Average makes of the inputs that stay."""
    lost = planned.lost[item]
    tensors = [
        x
        for x in keras.tree.flatten((args, kwargs))
        if isinstance(x, keras.KerasTensor) or x is LOST
    ]
    count = len(tensors)
    tensors = [x for number, x in enumerate(tensors) if number not in lost]
    left = len(tensors)
    if left == 1:
        outputs = tensors[0]
    elif isinstance(operation, keras.layers.Layer):
        outputs = operation(tensors)
    else:
        outputs = operation(*tensors)
    if branches.is_average(operation):
        name = _unused(planned, f"{item.name}_{item.index}_share")
        share = keras.layers.Rescaling(left / count, dtype=outputs.dtype, name=name)
        outputs = share(outputs)
    return outputs


def _with_constant(item, planned: Plan, outputs):
    """Adds what dropped branches still send on, one number for each channel."""
    constant = planned.constants.get(branches.name_of(item))
    if constant is None:
        return outputs
    if outputs.shape[-1] != len(constant):
        constant = constant[planned.kept(item.outputs[0], -1)]
    name = _unused(planned, f"{item.name}_{item.index}_constant")
    added = keras.layers.Rescaling(
        1.0, constant.tolist(), dtype=outputs.dtype, name=name
    )
    return added(outputs)


def _unused(planned: Plan, name: str) -> str:
    """The name, or with underlines behind it, if the model was stripped before."""
    taken = set(planned.graph.names.values())
    while name in taken:
        name += "_"
    return name


def _gathers(item) -> bool:
    axis, rank = item.operation.axis, len(item.inputs[0].shape)
    return axis in (-1, rank - 1) and len(item.outputs[0].shape) == rank


def _gathered(tensor, graph) -> bool:
    reading = graph.readers.get(tensor, [])
    return (
        len(reading) == 1
        and type(reading[0].operation) is moves.TAKE
        and _gathers(reading[0])
    )


def _is_source(tensor, planned) -> bool:
    """Whether features are dropped here: a Flatten or an input, not gathered yet."""
    if _gathered(tensor, planned.graph) or len(tensor.shape) != 2:
        return False
    sources = {
        site.layer
        for group in planned.analysis.groups
        if group.kind == "feature"
        for site in group.sites
    }
    return tensor.origin in sources


def _take(tensor, wanted, present, axis: int = -1):
    """Gathers old positions `wanted` from a tensor that holds `present` of them."""
    indices = np.searchsorted(present, wanted)
    if np.array_equal(indices, np.arange(len(present))):
        return tensor
    return ops.take(tensor, indices.tolist(), axis=axis)


def _move(item, planned: Plan, operation, args, kwargs):
    """A move of values after a removal: as it was, or else a gather that does it.

    Both are tried out on arrays of indices, before and after the removal.
    """
    if all(
        planned.kept(t, a).all() for t in item.inputs for a in range(1, len(t.shape))
    ):
        return operation(*args, **kwargs)
    full, start = [], 0
    for tensor in item.inputs:
        shape = moves.size(tensor)
        count = int(np.prod(shape))
        full.append(np.arange(start, start + count, dtype=np.int32).reshape(shape))
        start += count
    left = [_reduce(a, t, planned) for a, t in zip(full, item.inputs, strict=True)]
    wanted = [
        _reduce(a, t, planned)
        for a, t in zip(moves.run(item, full), item.outputs, strict=True)
    ]
    try:
        received = moves.run(item, left, operation)
    except Exception:  # any backend's own class: the old arguments no longer fit
        received = []
    if len(received) == len(wanted) and all(
        np.array_equal(a, b) for a, b in zip(wanted, received, strict=True)
    ):
        return operation(*args, **kwargs)
    tensors = [
        x
        for x in keras.tree.flatten((args, kwargs))
        if isinstance(x, keras.KerasTensor)
    ]
    outputs = []
    for target in wanted:
        found = None
        for key, source in _starts(item, left):
            found = _gather(source, target)
            if found is not None:
                x = tensors[0] if key is None else tensors[0][key]
                indices, axis = found
                outputs.append(ops.take(x, indices.tolist(), axis=axis))
                break
        if found is None:
            raise records.StripError(
                f"{item.name!r} cannot be rebuilt for the units that stay. Received: "
                f"{type(item.operation).__name__} of shape {item.inputs[0].shape}; "
                "name its groups in `ignore`."
            )
    return outputs if len(outputs) > 1 else outputs[0]


def _starts(item, left):
    """What to gather from: the input, or the input sliced on its other axes."""
    if len(left) != 1:
        return
    yield None, left[0]
    key = item.kwargs.get("key", item.arguments.args[1:2])
    key = key[0] if isinstance(key, tuple) and len(key) == 1 else key
    if isinstance(key, tuple | list):
        rank = len(item.inputs[0].shape)
        if Ellipsis in key:
            at = list(key).index(Ellipsis)
            fill = [slice(None)] * (rank - len(key) + 1)
            key = (*key[:at], *fill, *key[at + 1 :])
        for place, part in enumerate(key):
            if isinstance(part, slice) and part != slice(None):
                other = (*key[:place], slice(None), *key[place + 1 :])
                yield other, left[0][other]


def _gather(source: np.ndarray, target: np.ndarray):
    """`(indices, axis)` of a take that makes `target` of `source`; None if none does."""
    if source.ndim != target.ndim:
        return None
    for axis in range(1, source.ndim):
        line = np.moveaxis(source, axis, 0).reshape(source.shape[axis], -1)[:, 0]
        want = np.moveaxis(target, axis, 0).reshape(target.shape[axis], -1)[:, 0]
        place = {value: k for k, value in enumerate(line.tolist())}
        if all(value in place for value in want.tolist()):
            indices = np.array([place[value] for value in want.tolist()], int)
            taken = np.take(source, indices, axis=axis)
            if np.array_equal(taken, target):
                return indices, axis
    return None


def _reduce(array: np.ndarray, tensor, planned: Plan) -> np.ndarray:
    for axis in range(1, array.ndim):
        stays = planned.kept(tensor, axis)
        if len(stays) == array.shape[axis]:
            array = np.compress(stays, array, axis=axis)
    return array
