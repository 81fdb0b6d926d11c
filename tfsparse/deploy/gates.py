"""Multiplies dropped units by zero where they end without weights."""

from __future__ import annotations

import keras
from keras import ops

from tfsparse.deploy.removal import Plan
from tfsparse.graph import branches
from tfsparse.graph.rebuild import rebuild


def gated(planned: Plan):
    """A copy of the model, fresh weights, with the gates of dropped units closed.

    Returns:
        The copy and the dict `id(old operation) -> new operation`.
    """
    closed = planned.closed(only_surplus=False)

    def call(item, operation, args, kwargs):
        args, kwargs = close(item, planned, closed, args, kwargs)
        return with_constant(item, planned, operation(*args, **kwargs))

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


def close(item, planned, closed, args, kwargs):
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
            name = unused(planned, f"{item.name}_{item.index}_{number}_{place}_gate")
            scale = 0.0
            if axis is not None:
                shape = (len(stays), *[1] * (len(x.shape) - axis - 1))
                scale = stays.astype("float32").reshape(shape).tolist()
            x = keras.layers.Rescaling(scale, dtype=x.dtype, name=name)(x)
        tensors[number] = x
    args, new = item.fill(tensors)
    return args, {**kwargs, **new}


def with_constant(item, planned: Plan, outputs):
    """Adds what dropped branches still send on, one number for each channel."""
    constant = planned.constants.get(branches.name_of(item))
    if constant is None:
        return outputs
    if outputs.shape[-1] != len(constant):
        constant = constant[planned.kept(item.outputs[0], -1)]
    name = unused(planned, f"{item.name}_{item.index}_constant")
    added = keras.layers.Rescaling(
        1.0, constant.tolist(), dtype=outputs.dtype, name=name
    )
    return added(outputs)


def unused(planned: Plan, name: str) -> str:
    """The name, or with underlines behind it, if the model was stripped before."""
    taken = set(planned.graph.names.values())
    while name in taken:
        name += "_"
    return name
