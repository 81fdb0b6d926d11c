"""Rules of recurrent layers: a unit is one cell, with all its gates."""

from __future__ import annotations

import dataclasses

import numpy as np
from keras import layers

from tfsparse.graph.rebuild import config_of
from tfsparse.graph.rules import counting
from tfsparse.graph.rules.registry import activate, nothing, register_rule, unknown

GATES = {
    layers.SimpleRNN: 1,
    layers.LSTM: 4,
    layers.GRU: 3,
    layers.ConvLSTM1D: 4,
    layers.ConvLSTM2D: 4,
    layers.ConvLSTM3D: 4,
}
CONVOLUTIONAL = (layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D)
STEPPED = tuple(set(GATES) - set(CONVOLUTIONAL))


def _units(call, left) -> dict:
    layer = call.operation
    name = "filters" if isinstance(layer, CONVOLUTIONAL) else "units"
    return {name: left.shape(layer.cell.recurrent_kernel)[-2]}


def _macs(call, left) -> int:
    """MACs of both kernels at every step, and at every place of a ConvLSTM's output."""
    cell = call.operation.cell
    own = counting.elements(left, cell.kernel, cell.recurrent_kernel)
    steps = left.extent(call.inputs[0], 1)
    rank = len(cell.kernel.shape) - 2
    spatial = [n or 1 for n in call.outputs[0].shape[-1 - rank : -1]] if rank else []
    return steps * int(np.prod(spatial, dtype=int)) * own


def _takers(call, number: int) -> list:
    """Kernel and bias that read the sequence; states have no bias."""
    layer = call.operation
    sides = [layer]
    if isinstance(layer, layers.Bidirectional):
        sides = [layer.forward_layer, layer.backward_layer]
    if number != 0 or not all(type(side) in STEPPED for side in sides):
        return []
    return [(side.cell.kernel, side.cell.bias) for side in sides]


@register_rule(*GATES, sizes=_units, macs=_macs, folds=_takers, recurrent=True)
def _recurrent(walk, call, axes):
    layer, cell = call.operation, call.operation.cell
    x = axes[0]
    states = [axes[n] for n in call.numbers("initial_state")]
    if isinstance(layer, CONVOLUTIONAL) and layer.data_format == "channels_first":
        return unknown(walk, call, axes)
    out = _cells(walk, call, layer, cell, x)
    for labels in x[:-1]:
        walk.freeze(labels, f"a time or spatial axis of {call.name!r}")
    for state in states:
        out = _meet(walk, call, out, state[-1])
    return [[*[None] * (len(t.shape) - 1), out] for t in call.outputs]


def _meet(walk, call, out, state):
    if out is None:  # features do not reach states
        walk.freeze(state, f"the initial state of {call.name!r}")
        return None
    reason = f"{call.name!r} starts from a state without units"
    return walk.tie(out, state, reason)


def _cells(walk, call, layer, cell, x, suffix: str = ""):
    rank = len(cell.kernel.shape)
    walk.consume(cell.kernel, rank - 2, x[-1])
    if walk.kind != "unit":
        return None
    count = GATES[type(layer)]
    size = cell.recurrent_kernel.shape[-2]
    own = walk.new(size)
    gates = walk.produce(cell.kernel, rank - 1, suffix, np.tile(own, count))
    walk.produce(cell.recurrent_kernel, rank - 1, suffix, gates)
    walk.consume(cell.recurrent_kernel, rank - 2, own)
    bias = getattr(cell, "bias", None)
    if bias is not None:
        walk.carry(bias, len(bias.shape) - 1, gates)
    for name in ("activation", "recurrent_activation"):
        if hasattr(cell, name):
            activate(walk, call, own, getattr(cell, name))
    return own


def _both(call, left) -> dict:
    wrapper = call.operation
    config = config_of(wrapper, call.name)
    sides = {"layer": wrapper.forward_layer, "backward_layer": wrapper.backward_layer}
    result = {}
    for key, layer in sides.items():
        old = config.get(key) or {**config["layer"]}
        sizes = _units(dataclasses.replace(call, operation=layer), left)
        inner = {**layer.get_config(), **sizes}
        result[key] = {**old, "config": inner}
    return result


def _macs_of_both(call, left) -> int:
    wrapper = call.operation
    sides = (wrapper.forward_layer, wrapper.backward_layer)
    return sum(
        counting.macs(dataclasses.replace(call, operation=side), left) for side in sides
    )


@register_rule(
    layers.Bidirectional,
    sizes=_both,
    macs=_macs_of_both,
    folds=_takers,
    recurrent=True,
)
def _bidirectional(walk, call, axes):
    wrapper = call.operation
    forward, backward = wrapper.forward_layer, wrapper.backward_layer
    cells = type(forward) in GATES and type(backward) in GATES
    if not cells or call.numbers("initial_state"):
        return unknown(walk, call, axes)
    x = axes[0]
    for labels in x[:-1]:
        walk.freeze(labels, f"a time axis of {call.name!r}")
    one = _cells(walk, call, forward, forward.cell, x, ":forward")
    two = _cells(walk, call, backward, backward.cell, x, ":backward")
    if one is None:
        return nothing(call)
    if wrapper.merge_mode in ("concat", None):  # Keras infers twice the forward width
        walk.lanes(call, [(-1, (one,)), (-1, (two,))])
    if wrapper.merge_mode == "concat":
        outs = [np.concatenate([one, two])]
    elif wrapper.merge_mode is None:
        outs = [one, two]
    else:
        outs = [walk.tie(one, two)]
    if wrapper.return_state:
        half = (len(call.outputs) - len(outs)) // 2
        outs += [one] * half + [two] * half
    return [
        [*[None] * (len(t.shape) - 1), labels]
        for t, labels in zip(call.outputs, outs, strict=True)
    ]
