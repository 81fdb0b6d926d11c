"""Moves of values (reshapes, slices, takes) among the units that stay."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from tfsparse import records
from tfsparse.deploy.removal import Plan
from tfsparse.graph.rules import moves


def take(tensor, wanted, present, axis: int = -1):
    """Gathers old positions `wanted` from a tensor that holds `present` of them."""
    indices = np.searchsorted(present, wanted)
    if np.array_equal(indices, np.arange(len(present))):
        return tensor
    return ops.take(tensor, indices.tolist(), axis=axis)


def moved(item, planned: Plan, operation, args, kwargs):
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
