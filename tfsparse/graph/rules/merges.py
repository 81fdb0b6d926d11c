"""Rules of what brings tensors together: sums, products, concatenation, contraction."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

from tfsparse.graph import trace
from tfsparse.graph.rules.pointwise import is_array
from tfsparse.graph.rules.registry import register_rule, unknown


@register_rule(
    layers.Add,
    layers.Subtract,
    layers.Multiply,
    layers.Average,
    layers.Maximum,
    layers.Minimum,
)
def elementwise(walk, call, axes):
    """Index i of one input meets index i of the others."""
    flat = keras.tree.flatten((call.arguments.args, call.arguments.kwargs))
    if any(is_array(value) for value in flat):
        return unknown(walk, call, axes)  # x * [1, 2, 3]: a constant per channel
    (shape,) = (t.shape for t in call.outputs)
    result = []
    for axis in range(-len(shape), 0):
        meeting = []
        for tensor, labels in zip(call.inputs, axes, strict=True):
            if -axis > len(tensor.shape):
                continue
            if tensor.shape[axis] == 1 and shape[axis] != 1:
                walk.freeze(labels[axis], f"broadcast by {call.name!r}")
                continue
            meeting.append(labels[axis])
        merged = meeting[0] if meeting else None
        for labels in meeting[1:]:
            reason = f"meets a tensor without units in {call.name!r}"
            merged = walk.tie(merged, labels, reason)
        result.append(merged)
    return [result]


_BINARY = (
    "add subtract multiply divide true_divide divide_no_nan maximum minimum power mod "
    "floor_divide arctan2 hypot logaddexp fmax fmin equal not_equal greater "
    "greater_equal less less_equal fmod heaviside logaddexp2"
)
for _name in _BINARY.split():
    if hasattr(ops, _name):
        register_rule(trace.operation_class(getattr(ops, _name), inputs=2))(elementwise)


def _concatenated(walk, call, axes):
    rank = len(call.outputs[0].shape)
    along = call.operation.axis % rank
    result = []
    for axis in range(rank):
        parts = [labels[axis] for labels in axes]
        if axis == along:
            if all(labels is None for labels in parts):
                result.append(None)
                continue
            sizes = [tensor.shape[axis] for tensor in call.inputs]
            if None in sizes:
                for labels in parts:
                    walk.freeze(labels, f"{call.name!r} joins axes of unknown size")
                result.append(None)
                continue
            result.append(
                np.concatenate(
                    [
                        np.full(size, -1) if labels is None else labels
                        for labels, size in zip(parts, sizes, strict=True)
                    ]
                )
            )
            continue
        merged = parts[0]
        for part in parts[1:]:
            merged = walk.tie(merged, part, f"concatenated by {call.name!r}")
        result.append(merged)
    return [result]


register_rule(
    layers.Concatenate,
    trace.operation_class(lambda x, y: ops.concatenate([x, y], axis=1), inputs=2),
    side_by_side=True,
)(_concatenated)


def contract(walk, call, axes, specs, written: str):
    """An einsum of the inputs: letters that vanish are multiplied and summed.

    Units meet there in a product, so closing the first input's is enough.
    """
    labels: dict[str, np.ndarray | None] = {}
    for spec, x in zip(specs, axes, strict=True):
        for letter, own in zip(spec, x, strict=True):
            if letter in labels:
                reason = f"meets a tensor without units in {call.name!r}"
                labels[letter] = walk.tie(labels[letter], own, reason)
            else:
                labels[letter] = own
    for number, spec in enumerate(specs):
        for axis, letter in enumerate(spec):
            if letter not in written and labels[letter] is not None:
                if axes[number][axis] is not None:
                    walk.gate(call, number, axis, axes[number][axis])
    return [[labels[letter] for letter in written]]


def _terms(call, left, axes) -> int:
    """MACs of a product of two tensors: what comes out, times what is summed."""
    summed = [left.extent(call.inputs[0], axis) for axis in axes]
    return left.size(call.outputs[0]) * int(np.prod(summed, dtype=int))


def _dot_macs(call, left) -> int:
    axes = call.operation.axes
    return _terms(call, left, [axes if isinstance(axes, int) else axes[0]])


@register_rule(layers.Dot, macs=_dot_macs)
def _dot(walk, call, axes):
    layer = call.operation
    if layer.normalize or len(axes) != 2:
        return unknown(walk, call, axes)
    axis = layer.axes
    one, two = (axis, axis) if isinstance(axis, int) else axis
    first = [f"{n}" for n in range(len(axes[0]))]
    second = [chr(ord("a") + n) for n in range(len(axes[1]))]
    second[0] = first[0]
    second[two] = first[one]
    written = [c for c in first if c != first[one]]
    written += [c for c in second[1:] if c != first[one]]
    if len(call.outputs[0].shape) != len(written):  # vectors: (batch, 1)
        (labels,) = contract(walk, call, axes, (first, second), written)
        return [[*labels, None]]
    return contract(walk, call, axes, (first, second), written)


def _matmul(walk, call, axes):
    ranks = [len(x) for x in axes]
    if len(axes) != 2 or ranks[0] != ranks[1] or ranks[0] < 2:
        return unknown(walk, call, axes)
    if call.inputs[0].shape[1:-2] != call.inputs[1].shape[1:-2]:
        return unknown(walk, call, axes)
    lead = [f"{n}" for n in range(ranks[0] - 2)]
    return contract(
        walk, call, axes, ([*lead, "i", "j"], [*lead, "j", "k"]), [*lead, "i", "k"]
    )


register_rule(
    trace.operation_class(ops.matmul, inputs=2),
    macs=lambda call, left: _terms(call, left, [-1]),
)(_matmul)


def _einsum(walk, call, axes):
    equation = call.operation.subscripts.replace(" ", "")
    if "." in equation or "->" not in equation or equation.count(",") + 1 != len(axes):
        return unknown(walk, call, axes)
    read, written = equation.split("->")
    specs = read.split(",")
    if any(len(set(spec)) < len(spec) for spec in specs):
        return unknown(walk, call, axes)
    return contract(walk, call, axes, specs, written)


def _einsum_macs(call, left) -> int:
    read, written = call.operation.subscripts.replace(" ", "").split("->")
    spec = read.split(",")[0]
    return _terms(call, left, [k for k, c in enumerate(spec) if c not in written])


register_rule(
    trace.operation_class(lambda x, y: ops.einsum("abc,adc->abd", x, y), inputs=2),
    macs=_einsum_macs,
)(_einsum)
