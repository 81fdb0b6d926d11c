"""How gradient and curvature pass each layer backwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tfsparse import gradients, numerics
from tfsparse.graph import trace


@dataclasses.dataclass
class Visit:
    """One call on the way back: what a rule needs, and where it puts what it finds."""

    call: Any
    inputs: list
    slope: Any
    bend: Any
    averaged: bool
    last: bool
    found: list = dataclasses.field(default_factory=list)

    def mean(self, x):
        """A tensor as this form carries it: its mean over the batch, or itself."""
        return ops.mean(x, axis=0, keepdims=True) if self.averaged else x

    def through(self, function, slope, bend):
        """Back through a function that picks, places or adds."""
        (own,) = gradients.pullback(function, self.inputs[:1], slope)
        return own, self.picked(function, bend)

    def picked(self, function, bend):
        """Curvature back through a function whose derivatives are 0 and 1."""
        x = self.inputs[0]
        if self.averaged:
            whole = ops.shape(function(x))
            bend = ops.broadcast_to(bend, whole)
        (own,) = gradients.pullback(function, [x], bend)
        return self.mean(own)

    def before_activation(self, activation, h):
        """Gradient and curvature at h, from those behind `activation`."""
        slope, bend = self.slope, self.bend
        _check_elementwise(self, activation)
        if activation in (None, keras.activations.linear) or self.last:
            return slope, bend
        first, second = gradients.slope_and_bend(activation, h)
        if self.averaged:
            count = ops.cast(ops.shape(h)[0], h.dtype)
            own = (
                self.mean(ops.square(first)) * bend + self.mean(second * slope) * count
            )
        else:
            own = numerics.activation_curvature(bend, first, second, slope)
        return first * slope, own


def _check_elementwise(visit: Visit, activation) -> None:
    """Raises a ValueError for a softmax that is not the model's last."""
    inner = getattr(activation, "activation", activation)
    soft = isinstance(activation, keras.layers.Softmax)
    if (soft or inner is keras.activations.softmax) and not visit.last:
        raise ValueError(
            "`curvature` must be gauss_newton or hutchinson for a softmax inside the model. "
            f"Received: {visit.call.name!r}."
        )


def _affine(visit: Visit):
    """Dense and convolutions: y = product(x, W) + b, then their activation."""
    layer, (x,) = visit.call.operation, visit.inputs
    kernel = ops.convert_to_tensor(layer.kernel)
    product = _product(layer)
    h = product(x, kernel)
    if layer.bias is not None:
        h = h + _broad(layer, layer.bias)
    slope, bend = visit.before_activation(layer.activation, h)
    (back,) = gradients.pullback(lambda t: product(t, kernel), [x], slope)
    square, squared = visit.mean(ops.square(x)), ops.square(kernel)
    curve, own = gradients.pullback(
        lambda t, k: product(t, squared) + product(square, k),
        [ops.zeros_like(square), ops.zeros_like(kernel)],
        bend,
    )
    visit.found.append((layer.kernel, own))
    if layer.bias is not None:
        axis = _channel_axis(layer, len(bend.shape))
        others = [a for a in range(len(bend.shape)) if a != axis]
        visit.found.append((layer.bias, ops.sum(bend, axis=others)))
    return [(back, curve)]


def _product(layer):
    """The layer's linear map, `(inputs, kernel) -> outputs`."""
    if hasattr(layer, "product"):  # a Bayesian twin
        return layer.product
    if isinstance(layer, keras.layers.Dense):
        return ops.matmul
    options = {
        "strides": list(layer.strides),
        "padding": layer.padding,
        "dilation_rate": layer.dilation_rate,
        "data_format": layer.data_format,
    }
    if isinstance(layer, keras.layers.DepthwiseConv1D | keras.layers.DepthwiseConv2D):
        options["strides"] = tuple(layer.strides)
        return lambda x, kernel: ops.depthwise_conv(x, kernel, **options)
    if layer.padding == "causal":
        before = layer.dilation_rate[0] * (layer.kernel_size[0] - 1)
        options["padding"] = "valid"
        pads = [(0, 0), (before, 0), (0, 0)]
        return lambda x, kernel: ops.conv(ops.pad(x, pads), kernel, **options)
    return lambda x, kernel: ops.conv(x, kernel, **options)


def _channel_axis(layer, rank: int) -> int:
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    return 1 if first else rank - 1


def _broad(layer, vector):
    """A vector over channels, to be added to outputs."""
    vector = ops.convert_to_tensor(vector)
    rank = len(layer.kernel.shape)
    if _channel_axis(layer, rank) == rank - 1:
        return vector
    return ops.reshape(vector, (-1,) + (1,) * (rank - 2))


def _norm(visit: Visit):
    """BatchNorm at inference: y = (x - mean) gamma / sqrt(variance + epsilon) + beta."""
    layer, (x,) = visit.call.operation, visit.inputs
    rank = len(x.shape)
    axis = layer.axis % rank
    shape = [1] * rank
    shape[axis] = -1
    others = [a for a in range(rank) if a != axis]
    root = ops.sqrt(layer.moving_variance + layer.epsilon)
    normal = (x - ops.reshape(layer.moving_mean, shape)) / ops.reshape(root, shape)
    factor = 1.0 / root if layer.gamma is None else layer.gamma / root
    factor = ops.reshape(factor, shape)
    if layer.gamma is not None:
        own = ops.sum(visit.mean(ops.square(normal)) * visit.bend, axis=others)
        visit.found.append((layer.gamma, own))
    if layer.beta is not None:
        visit.found.append((layer.beta, ops.sum(visit.bend, axis=others)))
    return [(visit.slope * factor, visit.bend * ops.square(factor))]


def _activation(visit: Visit):
    layer, (x,) = visit.call.operation, visit.inputs
    _check_elementwise(visit, layer)
    return [visit.before_activation(layer, x)]


def _average(visit: Visit):
    """Average pooling: a derivative of 1/n gives curvature 1/n^2."""
    layer, (x,) = visit.call.operation, visit.inputs
    (slope,) = gradients.pullback(layer, [x], visit.slope)
    sizes = _window_shares(layer, x[:1])
    return [(slope, visit.picked(layer, visit.bend * sizes))]


def _window_shares(layer, x):
    """1/n of each output of an average pooling, n the inputs that it averages."""
    outputs = layer(ops.ones_like(x))
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    spatial = (
        list(range(2, len(x.shape))) if first else list(range(1, len(x.shape) - 1))
    )
    if not hasattr(layer, "pool_size"):
        return 1.0 / float(np.prod([x.shape[a] for a in spatial]))
    counts = np.ones([1] * len(x.shape))
    pools = np.broadcast_to(layer.pool_size, len(spatial))
    steps = np.broadcast_to(layer.strides, len(spatial))
    for axis, pool, step in zip(spatial, pools, steps, strict=True):
        size, places = x.shape[axis], outputs.shape[axis]
        if layer.padding == "same":
            before = max((places - 1) * step + pool - size, 0) // 2
        else:
            before = 0
        starts = np.arange(places) * step - before
        own = np.minimum(starts + pool, size) - np.maximum(starts, 0)
        shape = [1] * len(x.shape)
        shape[axis] = places
        counts = counts * own.reshape(shape)
    return ops.cast(1.0 / counts, x.dtype)


def _sum(visit: Visit):
    """Add: every input gets what the output has; twice the same input, four times as much."""
    if len({tuple(x.shape) for x in visit.inputs}) > 1:
        raise ValueError(
            "`curvature` must be gauss_newton or hutchinson for a sum that broadcasts. "
            f"Received: {visit.call.name!r}."
        )
    read = visit.call.inputs
    return [(visit.slope, visit.bend * float(read.count(t))) for t in read]


def _concatenate(visit: Visit):
    axis = visit.call.operation.axis
    sizes = [x.shape[axis] for x in visit.inputs]
    cuts = np.cumsum(sizes)[:-1].tolist()
    parts = [ops.split(x, cuts, axis=axis) for x in (visit.slope, visit.bend)]
    return list(zip(*parts, strict=True))


def _structural(visit: Visit):
    """What only picks and places: Flatten, reshapes, max pooling, padding, gathers."""
    call = visit.call

    def function(x):
        args, kwargs = call.fill([x])
        if trace.takes_training(call.operation):
            kwargs = {**kwargs, "training": False}
        return call.operation(*args, **kwargs)

    return [visit.through(function, visit.slope, visit.bend)]


def _house(visit: Visit):
    """A house layer of one factor, which says itself what passes it."""
    layer, (x,) = visit.call.operation, visit.inputs
    slope, bend, own = layer.curved(x, visit.slope, visit.bend, visit.averaged)
    visit.found.append((layer.factor, own))
    return [(slope, bend)]


def _rescaling(visit: Visit):
    factor = ops.convert_to_tensor(visit.call.operation.scale, visit.slope.dtype)
    return [(visit.slope * factor, visit.bend * ops.square(factor))]


def _normalization(visit: Visit):
    """(x - mean) / deviation, or with `invert` the way back: a factor on each column."""
    layer = visit.call.operation
    deviation = ops.sqrt(ops.convert_to_tensor(layer.variance, visit.slope.dtype))
    deviation = ops.maximum(deviation, keras.config.epsilon())
    factor = deviation if layer.invert else 1.0 / deviation
    return [(visit.slope * factor, visit.bend * ops.square(factor))]


_LAYERS = keras.layers
RULES: dict[type, Callable] = {
    **dict.fromkeys(
        (
            _LAYERS.Dense,
            _LAYERS.Conv1D,
            _LAYERS.Conv2D,
            _LAYERS.DepthwiseConv1D,
            _LAYERS.DepthwiseConv2D,
        ),
        _affine,
    ),
    _LAYERS.BatchNormalization: _norm,
    **dict.fromkeys(
        (
            _LAYERS.Activation,
            _LAYERS.ReLU,
            _LAYERS.LeakyReLU,
            _LAYERS.ELU,
            _LAYERS.Softmax,
        ),
        _activation,
    ),
    **dict.fromkeys(
        (
            _LAYERS.AveragePooling1D,
            _LAYERS.AveragePooling2D,
            _LAYERS.GlobalAveragePooling1D,
            _LAYERS.GlobalAveragePooling2D,
        ),
        _average,
    ),
    _LAYERS.Add: _sum,
    trace.operation_class(ops.add, 2): _sum,
    _LAYERS.Concatenate: _concatenate,
    _LAYERS.Rescaling: _rescaling,
    _LAYERS.Normalization: _normalization,
    **dict.fromkeys(
        (
            _LAYERS.Flatten,
            _LAYERS.Reshape,
            _LAYERS.Permute,
            _LAYERS.Dropout,
            _LAYERS.SpatialDropout2D,
            _LAYERS.MaxPooling1D,
            _LAYERS.MaxPooling2D,
            _LAYERS.GlobalMaxPooling1D,
            _LAYERS.GlobalMaxPooling2D,
            _LAYERS.ZeroPadding1D,
            _LAYERS.ZeroPadding2D,
            _LAYERS.Cropping2D,
            _LAYERS.Identity,
            trace.operation_class(lambda x: ops.take(x, [0], axis=-1)),
        ),
        _structural,
    ),
}
"""Layer class -> how gradient and curvature pass it backwards."""


def rule_of(operation):
    """The rule of an operation, that of its stock class for a twin; None if unknown."""
    if getattr(operation, "lora_enabled", False):  # other variables make its kernel
        return None
    if hasattr(operation, "curved"):
        return _house
    return RULES.get(getattr(operation, "stock_class", type(operation)))
