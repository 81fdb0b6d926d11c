"""Recurrent layers step by step, for the int8 converter, which crashes on loops.

A loop of fixed length becomes its steps one after the other, and the gates of a step are
matrices of their own: int8 keeps the slices of one matrix as floats.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfsparse.graph import trace

CELLS = (
    keras.layers.LSTMCell,
    keras.layers.GRUCell,
    keras.layers.SimpleRNNCell,
    keras.layers.StackedRNNCells,
)
"""Those whose steps are known."""


def can(call: trace.Call) -> bool:
    """Whether a call is a loop of fixed length whose steps are known."""
    layer = call.operation
    if not isinstance(layer, keras.layers.RNN | keras.layers.Bidirectional):
        return False
    if len(call.inputs) != 1 or call.inputs[0].shape[1] is None:
        return False
    inner: Any = [layer]
    if type(layer) is keras.layers.Bidirectional:
        if layer.merge_mode is None or layer.return_state:
            return False
        inner = [layer.forward_layer, layer.backward_layer]
    return all(
        isinstance(one, keras.layers.RNN)
        and not one.stateful
        and all(isinstance(cell, CELLS) for cell in _cells(one.cell))
        for one in inner
    )


def _cells(cell) -> list:
    """A cell, and those stacked in it."""
    return [cell, *(x for one in getattr(cell, "cells", ()) for x in _cells(one))]


class Steps(keras.layers.Layer):
    """Computes what a recurrent layer does, step by step; of converters alone.

    Args:
        layer: A recurrent layer, or a Bidirectional; its weights are shared.
    """

    def __init__(self, layer, **kwargs):
        super().__init__(**kwargs)
        self.layer = layer
        self.built = True

    def call(self, x, initial_state=None, mask=None, training=None):
        """The layer's outputs; nothing but `x` is ever given."""
        if not isinstance(self.layer, keras.layers.Bidirectional):
            return _run(self.layer, x)
        forward = _run(self.layer.forward_layer, x)
        backward = _run(self.layer.backward_layer, x)
        if self.layer.return_sequences:
            parts = ops.unstack(backward, axis=1)
            backward = ops.stack(parts[::-1], axis=1)
        return {
            "concat": lambda a, b: ops.concatenate([a, b], axis=-1),
            "sum": ops.add,
            "ave": lambda a, b: (a + b) / 2.0,
            "mul": ops.multiply,
        }[self.layer.merge_mode](forward, backward)


def _run(layer, x):
    """All steps of a recurrent layer."""
    steps = [x[:, number] for number in range(x.shape[1])]
    states = _initial(layer.cell, x)
    outputs = []
    for step in steps[::-1] if layer.go_backwards else steps:
        output, states = _step(layer.cell, step, states)
        outputs.append(output)
    found = ops.stack(outputs, axis=1) if layer.return_sequences else outputs[-1]
    return (found, *keras.tree.flatten(states)) if layer.return_state else found


def _initial(cell, x) -> list:
    """States of zeros."""
    if isinstance(cell, keras.layers.StackedRNNCells):
        return [_initial(one, x) for one in cell.cells]
    sizes = cell.state_size if isinstance(cell.state_size, list | tuple) else None
    sizes = [cell.state_size] if sizes is None else sizes
    return [ops.zeros((ops.shape(x)[0], size), x.dtype) for size in sizes]


def _step(cell, x, states: list) -> tuple[Any, list]:
    """Output and states of a cell after one step."""
    if isinstance(cell, keras.layers.StackedRNNCells):
        after = []
        for one, own in zip(cell.cells, states, strict=True):
            x, own = _step(one, x, own)
            after.append(own)
        return x, after
    if isinstance(cell, keras.layers.LSTMCell):
        return _lstm(cell, x, *states)
    if isinstance(cell, keras.layers.GRUCell):
        return _gru(cell, x, *states)
    h = ops.matmul(x, cell.kernel) + ops.matmul(states[0], cell.recurrent_kernel)
    h = cell.activation(h + cell.bias if cell.use_bias else h)
    return h, [h]


def _gate(cell, x, kernel, number: int, bias=None):
    """Input times one gate's columns of a kernel, and its part of a bias."""
    own = slice(number * cell.units, (number + 1) * cell.units)
    found = ops.matmul(x, kernel[:, own])
    return found if bias is None else found + bias[own]


def _lstm(cell, x, h, c):
    """i, f, o = s(x W + h U + b); c = f c + i a(x W + h U + b); h = o a(c)."""
    bias = cell.bias if cell.use_bias else None
    gates = [
        _gate(cell, x, cell.kernel, number, bias)
        + _gate(cell, h, cell.recurrent_kernel, number)
        for number in range(4)
    ]
    i, f, o = (cell.recurrent_activation(gates[number]) for number in (0, 1, 3))
    c = f * c + i * cell.activation(gates[2])
    h = o * cell.activation(c)
    return h, [h, c]


def _gru(cell, x, h):
    """z, r = s(x W + h U + b); h = z h + (1 - z) a(x W + r (h U)), or a(x W + (r h) U)."""
    outer, inner = (None, None) if not cell.use_bias else (cell.bias, None)
    if cell.use_bias and cell.reset_after:
        outer, inner = cell.bias[0], cell.bias[1]
    z, r = (
        cell.recurrent_activation(
            _gate(cell, x, cell.kernel, number, outer)
            + _gate(cell, h, cell.recurrent_kernel, number, inner)
        )
        for number in range(2)
    )
    new = _gate(cell, x, cell.kernel, 2, outer)
    if cell.reset_after:
        new += r * _gate(cell, h, cell.recurrent_kernel, 2, inner)
    else:
        new += _gate(cell, r * h, cell.recurrent_kernel, 2)
    h = z * h + (1.0 - z) * cell.activation(new)
    return h, [h]
