"""How each layer passes units: one small function per layer class.

A rule is `rule(walk, call, axes) -> axes of the outputs`. `axes` holds, for each
input tensor, a list with one entry per axis: None or an integer label per index.
`register_rule` adds one for a user's own layer; a layer may instead carry a method
`unit_rule(walk, call, axes)`.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

from tfsparse.graph import trace

ACROSS = {"softmax", "log_softmax", "sparsemax", "glu"}
"""Activations that mix the channels."""

_RULES: dict[type, object] = {}


def register_rule(*classes: type):
    """Decorator: registers the rule that says how a layer class passes units.

    Args:
        classes: The layer or op classes that the rule is for, subclasses not.

    Returns:
        A decorator that returns the rule unchanged.

    Example:
        >>> @register_rule(MyScale)                     # y = x * self.factor
        ... def my_scale(walk, call, axes):
        ...     walk.carry(call.operation.factor, 0, axes[0][-1])
        ...     return axes
    """

    def register(function):
        for cls in classes:
            _RULES[cls] = function
        return function

    return register


def rule_of(operation):
    """The rule for an operation: registered, its own, or the one that freezes."""
    if type(operation) in _RULES:
        return _RULES[type(operation)]
    if hasattr(operation, "unit_rule"):
        return operation.unit_rule
    return _unknown


def is_elementwise(activation) -> bool:
    """Whether a Keras activation treats every channel by itself, the same way."""
    name = getattr(activation, "__name__", None)
    known = getattr(keras.activations, name, None) if name else None
    return known is activation and name not in ACROSS


def _unknown(walk, call, axes):
    name = type(call.operation).__name__
    reason = (
        f"reaches {call.operation.name!r} of class {name}, for which no rule is "
        "registered (see tfsparse.register_rule)"
    )
    walk.freeze_all(axes, reason)
    return [[None] * len(t.shape) for t in call.outputs]


def _activate(walk, call, labels):
    """Applies the layer's own activation to the labels of its last axis."""
    activation = getattr(call.operation, "activation", None)
    if activation is not None and not is_elementwise(activation):
        name = getattr(activation, "__name__", type(activation).__name__)
        walk.freeze(
            labels, f"activation {name!r} of {call.operation.name!r} mixes units"
        )
    return labels


def _ends_chain(walk, call) -> bool:
    """True unless a BatchNorm alone reads this call's plain affine output."""
    activation = getattr(call.operation, "activation", None)
    if activation is not None and activation is not keras.activations.linear:
        return True
    reader = walk.only_reader(call)
    return reader is None or not isinstance(reader.operation, layers.BatchNormalization)


def _write(walk, call, labels):
    if _ends_chain(walk, call):
        walk.site(call, labels)
    return _activate(walk, call, labels)


# Layers with weights ------------------------------------------------------------


@register_rule(layers.Dense)
def _dense(walk, call, axes):
    layer, (x,) = call.operation, axes
    walk.consume(layer.kernel, 0, x[-1])
    out = walk.produce(layer.kernel, 1)
    walk.carry(layer.bias, 0, out)
    return [[*x[:-1], _write(walk, call, out)]]


def _channel_axis(layer, rank: int) -> int:
    return rank - 1 if layer.data_format == "channels_last" else 1


def _spatial_frozen(walk, layer, x, channel: int):
    for axis, labels in enumerate(x):
        if axis != channel:
            walk.freeze(labels, f"a spatial axis of {layer.name!r}")


@register_rule(layers.Conv1D, layers.Conv2D, layers.Conv3D)
def _conv(walk, call, axes):
    layer, (x,) = call.operation, axes
    channel, rank = _channel_axis(layer, len(x)), len(layer.kernel.shape)
    _spatial_frozen(walk, layer, x, channel)
    if layer.groups > 1:
        reason = f"read or written by the grouped convolution {layer.name!r}"
        walk.freeze(x[channel], reason)
    else:
        walk.consume(layer.kernel, rank - 2, x[channel])
    out = walk.produce(layer.kernel, rank - 1)
    walk.carry(layer.bias, 0, out)
    if layer.groups > 1:
        walk.freeze(out, reason)
    labels = [None] * len(x)
    labels[channel] = _write(walk, call, out)
    return [labels]


@register_rule(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
def _depthwise(walk, call, axes):
    layer, (x,) = call.operation, axes
    channel = _channel_axis(layer, len(x))
    _spatial_frozen(walk, layer, x, channel)
    labels = [None] * len(x)
    if x[channel] is not None:
        walk.carry(layer.kernel, len(layer.kernel.shape) - 2, x[channel])
        out = np.repeat(x[channel], layer.depth_multiplier)
        walk.carry(layer.bias, 0, out)
        if layer.bias is not None:
            _write(walk, call, out)
        labels[channel] = _activate(walk, call, out)
    return [labels]


@register_rule(layers.SeparableConv1D, layers.SeparableConv2D)
def _separable(walk, call, axes):
    layer, (x,) = call.operation, axes
    channel = _channel_axis(layer, len(x))
    _spatial_frozen(walk, layer, x, channel)
    rank = len(layer.depthwise_kernel.shape)
    if x[channel] is not None:
        walk.carry(layer.depthwise_kernel, rank - 2, x[channel])
        middle = np.repeat(x[channel], layer.depth_multiplier)
        walk.consume(layer.pointwise_kernel, rank - 2, middle)
    out = walk.produce(layer.pointwise_kernel, rank - 1)
    walk.carry(layer.bias, 0, out)
    labels = [None] * len(x)
    labels[channel] = _write(walk, call, out)
    return [labels]


@register_rule(layers.BatchNormalization)
def _batch_norm(walk, call, axes):
    layer, (x,) = call.operation, axes
    labels = x[layer.axis]
    if labels is not None:
        for variable in (
            layer.gamma,
            layer.beta,
            layer.moving_mean,
            layer.moving_variance,
        ):
            walk.carry(variable, 0, labels)
        if layer.axis in (-1, len(x) - 1) and _ends_chain(walk, call):
            walk.site(call, labels)
    return [list(x)]


@register_rule(layers.PReLU)
def _prelu(walk, call, axes):
    layer, (x,) = call.operation, axes
    for axis, labels in enumerate(x[1:]):
        if labels is not None and layer.alpha.shape[axis] == len(labels):
            walk.carry(layer.alpha, axis, labels)
    return [list(x)]


# Layers without weights ---------------------------------------------------------

_SAME = [
    layers.ReLU,
    layers.LeakyReLU,
    layers.ELU,
    layers.Dropout,
    layers.GaussianNoise,
    layers.GaussianDropout,
    layers.AlphaDropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.ActivityRegularization,
    layers.Identity,
]


@register_rule(*_SAME)
def _same(walk, call, axes):
    return [list(axes[0])]


@register_rule(layers.Activation)
def _activation(walk, call, axes):
    (x,) = axes
    for labels in x:
        _activate(walk, call, labels)
    return [list(x)]


@register_rule(layers.Softmax)
def _softmax(walk, call, axes):
    (x,), axis = axes, call.operation.axis
    for one in (axis,) if isinstance(axis, int) else axis:
        walk.freeze(x[one], f"{call.operation.name!r} normalises across units")
    return [list(x)]


@register_rule(layers.Rescaling)
def _rescaling(walk, call, axes):
    channels = call.outputs[0].shape[-1]
    for factor in (call.operation.scale, call.operation.offset):
        if np.shape(factor) not in ((), (channels,)):
            return _unknown(walk, call, axes)
    return [list(axes[0])]


@register_rule(
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.ZeroPadding3D,
)
def _spatial(walk, call, axes):
    layer, (x,) = call.operation, axes
    last = getattr(layer, "data_format", "channels_last") != "channels_first"
    channel = len(x) - 1 if last else 1
    _spatial_frozen(walk, layer, x, channel)
    labels = [None] * len(x)
    labels[channel] = x[channel]
    return [labels]


@register_rule(
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
)
def _global_pool(walk, call, axes):
    layer, (x,) = call.operation, axes
    channel = _channel_axis(layer, len(x))
    _spatial_frozen(walk, layer, x, channel)
    if layer.keepdims:
        labels = [None] * len(x)
        labels[channel] = x[channel]
        return [labels]
    return [[None, x[channel]]]


def _is_array(value) -> bool:
    return not isinstance(value, keras.KerasTensor) and bool(np.ndim(value))


def _elementwise(walk, call, axes):
    """Add, Multiply, Average, ...: index i of one input meets index i of the others."""
    if any(_is_array(value) for value in keras.tree.flatten(call.arguments.args)):
        return _unknown(walk, call, axes)  # x * [1, 2, 3]: a constant per channel
    (shape,) = (t.shape for t in call.outputs)
    result = []
    for axis in range(-len(shape), 0):
        meeting = []
        for tensor, labels in zip(call.inputs, axes, strict=True):
            if -axis > len(tensor.shape):
                continue
            if tensor.shape[axis] == 1 and shape[axis] != 1:
                walk.freeze(labels[axis], f"broadcast by {call.operation.name!r}")
                continue
            meeting.append(labels[axis])
        merged = meeting[0] if meeting else None
        for labels in meeting[1:]:
            reason = f"meets a tensor without units in {call.operation.name!r}"
            merged = walk.tie(merged, labels, reason)
        result.append(merged)
    return [result]


register_rule(
    layers.Add,
    layers.Subtract,
    layers.Multiply,
    layers.Average,
    layers.Maximum,
    layers.Minimum,
)(_elementwise)


@register_rule(layers.Concatenate)
def _concatenate(walk, call, axes):
    rank = len(call.outputs[0].shape)
    along = call.operation.axis % rank
    result = []
    for axis in range(rank):
        parts = [labels[axis] for labels in axes]
        if axis == along:
            full = [
                np.full(t.shape[axis] or 0, -1) if part is None else part
                for t, part in zip(call.inputs, parts, strict=True)
            ]
            known = any(part is not None for part in parts)
            result.append(np.concatenate(full) if known else None)
            continue
        merged = parts[0]
        for part in parts[1:]:
            merged = walk.tie(merged, part, f"concatenated by {call.operation.name!r}")
        result.append(merged)
    return [result]


def _reshape(walk, call, axes):
    """Follows labels through any reshape that keeps each unit's indices together."""
    (x,), before = axes, call.inputs[0].shape
    after = call.outputs[0].shape
    result = [None] * len(after)
    if all(labels is None for labels in x):
        return [result]
    if None in before[1:] or None in after[1:]:
        walk.freeze_all(
            axes, f"{call.operation.name!r} reshapes an axis of unknown size"
        )
        return [result]
    if np.prod(before[1:]) != np.prod(after[1:]):
        walk.freeze_all(axes, f"{call.operation.name!r} reshapes the batch axis")
        return [result]
    for axis in range(1, len(before)):
        if x[axis] is None:
            continue
        shape = [1] * (len(before) - 1)
        shape[axis - 1] = before[axis]
        labels = np.broadcast_to(x[axis].reshape(shape), before[1:]).reshape(after[1:])
        target = _axis_that_decides(labels)
        if target is None or result[target + 1] is not None:
            walk.freeze(
                x[axis], f"{call.operation.name!r} spreads a unit over two axes"
            )
            continue
        result[target + 1] = np.moveaxis(labels, target, 0).reshape(
            after[target + 1], -1
        )[:, 0]
    return [result]


def _axis_that_decides(labels: np.ndarray) -> int | None:
    """The axis whose index alone tells the label, the last such axis."""
    for axis in reversed(range(labels.ndim)):
        rows = np.moveaxis(labels, axis, 0).reshape(labels.shape[axis], -1)
        if (rows == rows[:, :1]).all():
            return axis
    return None


@register_rule(layers.Flatten)
def _flatten(walk, call, axes):
    (labels,) = _reshape(walk, call, axes)
    source = walk.source(call.operation.name, call.index, call.outputs[0].shape[-1])
    return [labels if source is None else [None, source]]


@register_rule(layers.InputLayer)
def _input(walk, call, axes):
    return [[None] * len(call.outputs[0].shape)]


def _take(walk, call, axes):
    """`ops.take` with constant indices along the last axis (feature gathers)."""
    operation, (x, *rest) = call.operation, axes
    indices = constant_indices(call)
    if rest or indices is None or operation.axis not in (-1, len(x) - 1):
        return _unknown(walk, call, axes)
    last = None if x[-1] is None else x[-1][indices]
    return [[*x[:-1], last]]


def constant_indices(call) -> np.ndarray | None:
    """The constant positions that an `ops.take` call picks; None if it has none."""
    values = call.arguments.args[1:2] or (call.kwargs.get("indices"),)
    if values[0] is None or len(call.inputs) != 1:
        return None
    return np.asarray(values[0], dtype=int).reshape(-1)


# Ops written as x + y, keras.ops.relu(x), ... ------------------------------------

_UNARY_OPS = [
    "relu relu6 leaky_relu elu selu gelu silu sigmoid tanh softplus softsign "
    "hard_sigmoid hard_silu hard_tanh celu log_sigmoid",
    "abs negative exp log1p expm1 sqrt square sign sin cos erf",
]
for _name in " ".join(_UNARY_OPS).split():
    register_rule(trace.operation_class(getattr(ops, _name)))(_same)
for _name in "add subtract multiply maximum minimum".split():
    _class = trace.operation_class(getattr(ops, _name), inputs=2)
    register_rule(_class)(_elementwise)
register_rule(layers.Reshape)(_reshape)
register_rule(trace.operation_class(lambda x: ops.reshape(x, (-1, 16))))(_reshape)
TAKE = trace.operation_class(lambda x: ops.take(x, [0, 1], axis=-1))
RESHAPE = trace.operation_class(lambda x: ops.reshape(x, (-1, 16)))
register_rule(TAKE)(_take)
