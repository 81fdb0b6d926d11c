"""Rules of what only moves values: reshapes, transposes, slices, splits, paddings.

Where a value goes is not written down for each operation but seen: the operation runs
on an array that holds, instead of values, the label of each index.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

from tfsparse.graph import trace
from tfsparse.graph.rules import counting
from tfsparse.graph.rules.registry import nothing, register_rule, unknown

UNKNOWN_SIZE = 12
"""Stands for a size that is not known yet; divisible, as reshapes often ask."""

BATCH = 2

_FILL, _OTHER = 0, 1
"""What a padding puts in, and what is no unit; a label is itself + 2."""


def size(tensor) -> tuple[int, ...]:
    """A tensor's shape with numbers for unknown sizes."""
    batch, *rest = tensor.shape
    return (batch or BATCH, *(n or UNKNOWN_SIZE for n in rest))


def run(call, arrays, operation=None) -> list[np.ndarray]:
    """What the call makes of integer arrays."""
    operation = operation or call.operation
    args, kwargs = call.fill([ops.convert_to_tensor(a, "int32") for a in arrays])
    outputs = operation.call(*args, **kwargs)
    return [ops.convert_to_numpy(x) for x in keras.tree.flatten(outputs)]


def moved(walk, call, axes):
    """Follows labels through any move that leaves one axis to tell the unit."""
    results = nothing(call)
    if getattr(call.operation, "constant_values", None):  # a padding of no zeros
        return unknown(walk, call, axes)
    for axis in range(max(map(len, axes), default=0)):
        held = [x[axis] if axis < len(x) else None for x in axes]
        if all(labels is None for labels in held):
            continue
        arrays = [np.full(size(t), _OTHER, np.int32) for t in call.inputs]
        for number, labels in enumerate(held):
            if labels is not None:
                shape = np.ones(arrays[number].ndim, int)
                shape[axis] = len(labels)
                arrays[number] = arrays[number] + (labels + 1).reshape(shape)
        together = np.concatenate([x for x in held if x is not None])
        try:
            outputs = run(call, arrays)
        except Exception:  # any backend's own class: sizes do not fit
            walk.freeze(together, f"{call.name!r} moves them where sizes are unknown")
            continue
        for result, array in zip(results, outputs, strict=True):
            _place(walk, call, together, result, array)
    return results


def _place(walk, call, labels, result, array) -> None:
    """Finds the output axis that tells the unit; `array` holds label + 2."""
    units = np.unique(array[array > _OTHER])
    if not len(units):
        return
    known = len(np.unique(labels[labels >= 0]))
    if known > 1 and len(units) == 1:
        walk.freeze(labels, f"{call.name!r} picks one of them")
        return
    target = _deciding(array)
    if target is None:
        target = _split(walk, array)
        if target is None:
            walk.freeze(labels, f"{call.name!r} spreads a unit over two axes")
            return
    if result[target] is not None:
        walk.freeze(labels, f"{call.name!r} joins two axes that have units")
        return
    rows = np.moveaxis(array, target, 0).reshape(array.shape[target], -1)
    own = np.maximum(rows.max(axis=1) - 1 - _OTHER, -1)
    result[target] = own.astype(int)
    if len(units) < known:  # a slice: something of it has to stay
        walk.least(call, own)


def _deciding(array: np.ndarray) -> int | None:
    """The axis whose index alone tells the label, the last such axis; zeros fill up."""
    for axis in reversed(range(1, array.ndim)):
        rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
        highest = rows.max(axis=1, keepdims=True)
        if ((rows == highest) | (rows == _FILL)).all():
            return axis
    return None


def _split(walk, array: np.ndarray) -> int | None:
    """An axis was split in two: the units of one of them become one, its whole slices.

    Chooses the axis that leaves most units; the first one of equals (whole heads).
    """
    best, most = None, 1
    for axis in range(1, array.ndim):
        rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
        if (rows <= _OTHER).any():
            return None
        distinct = [np.unique(row) for row in rows]
        apart = sum(len(d) for d in distinct) == len(np.unique(array))
        if apart and len(rows) > most and max(len(d) for d in distinct) > 1:
            best, most = axis, len(rows)
    if best is not None:
        for row in np.moveaxis(array, best, 0).reshape(array.shape[best], -1):
            walk.join(np.unique(row).astype(int) - 1 - _OTHER)
    return best


def _shape(call, left) -> dict:
    tensor = call.outputs[0]
    shape = [
        -1 if n is None else int(left.kept(tensor, axis + 1).sum())
        for axis, n in enumerate(tensor.shape[1:])
    ]
    config = call.operation.get_config()
    if "target_shape" in config:
        return {"target_shape": shape}
    old = list(config["newshape"])
    return {"newshape": [old[0], *shape]}


RESHAPE = trace.operation_class(lambda x: ops.reshape(x, (-1, 16)))
TAKE = trace.operation_class(lambda x: ops.take(x, [0, 1], axis=-1))

register_rule(layers.Reshape, RESHAPE, sizes=_shape, in_place=True)(moved)


@register_rule(layers.Flatten, in_place=True)
def _flatten(walk, call, axes):
    (labels,) = moved(walk, call, axes)
    source = walk.source(call.name, call.index, call.outputs[0].shape[-1])
    return [labels if source is None else [None, source]]


@register_rule(layers.InputLayer)
def _input(walk, call, axes):
    return nothing(call)


def _take(walk, call, axes):
    """`ops.take` with constant indices along one axis (feature gathers)."""
    if constant_indices(call) is None:
        return unknown(walk, call, axes)
    return moved(walk, call, axes)


def constant_indices(call) -> np.ndarray | None:
    """The constant positions that an `ops.take` call picks; None if it has none."""
    values = call.arguments.args[1:2] or (call.kwargs.get("indices"),)
    if values[0] is None or len(call.inputs) != 1:
        return None
    return np.asarray(values[0], dtype=int).reshape(-1)


register_rule(
    TAKE,
    index_bytes=lambda call, left: counting.INDEX_BYTES * left.size(call.outputs[0]),
)(_take)

_MOVES = {
    "squeeze": lambda x: ops.squeeze(ops.expand_dims(x, 1), 1),
    "expand_dims": lambda x: ops.expand_dims(x, 1),
    "transpose": lambda x: ops.transpose(x, (0, 2, 1)),
    "moveaxis": lambda x: ops.moveaxis(x, 1, 2),
    "swapaxes": lambda x: ops.swapaxes(x, 1, 2),
    "get_item": lambda x: x[:, 1:],
    "split": lambda x: ops.split(x, 2, axis=1),
    "flip": lambda x: ops.flip(x, axis=1),
    "roll": lambda x: ops.roll(x, 1, axis=1),
    "repeat": lambda x: ops.repeat(x, 2, axis=1),
    "tile": lambda x: ops.tile(x, (1, 2, 1)),
    "stack": lambda x: ops.stack([x, x], axis=1),
    "unstack": lambda x: ops.unstack(x, axis=1),
    "pad": lambda x: ops.pad(x, ((0, 0), (1, 0), (0, 0))),
    "ravel": lambda x: ops.ravel(x),
    "broadcast_to": lambda x: ops.broadcast_to(x, (2, 4, 4)),
    "slice": lambda x: ops.slice(x, (0, 0, 0), (1, 2, 2)),
}
MOVES = tuple({trace.operation_class(f) for f in _MOVES.values()})
"""Ops that only move values; their arguments may name indices of a shrunk axis."""

register_rule(*MOVES)(moved)
register_rule(trace.operation_class(_MOVES["stack"]), side_by_side=True)(moved)
register_rule(layers.Permute, layers.RepeatVector)(moved)
