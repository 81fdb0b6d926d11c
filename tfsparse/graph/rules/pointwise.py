"""Rules of what treats every channel by itself: activations, dropout, pools."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

from tfsparse.graph import trace
from tfsparse.graph.rules import counting
from tfsparse.graph.rules.registry import (
    activate,
    channel_axis,
    nothing,
    only_channels,
    register_rule,
    unknown,
)


@register_rule(
    layers.LeakyReLU,
    layers.ELU,
    layers.GaussianNoise,
    layers.GaussianDropout,
    layers.AlphaDropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.ActivityRegularization,
)
def same(walk, call, axes):
    """Every label stays where it is."""
    return [list(axes[0])]


register_rule(layers.ReLU, layers.Dropout, layers.Identity, in_place=True)(same)


@register_rule(layers.Masking)
def _masking(walk, call, axes):
    walk.freeze(axes[0][-1], f"{call.name!r} compares all of them")
    return [list(axes[0])]


@register_rule(layers.Activation, in_place=True)
def _activation(walk, call, axes):
    for labels in axes[0]:
        activate(walk, call, labels)
    return [list(axes[0])]


@register_rule(layers.Softmax)
def _softmax(walk, call, axes):
    x, axis = axes[0], call.operation.axis
    for one in (axis,) if isinstance(axis, int) else axis:
        walk.freeze(x[one], f"{call.name!r} normalises across units")
    return [list(x)]


@register_rule(
    layers.PReLU,
    macs=counting.no_macs,
    stored_bytes=lambda call, left: counting.elements(left, call.operation.alpha),
    multiplies=lambda layer: [],  # of slope 0 it still lets positive values through
)
def _prelu(walk, call, axes):
    layer, (x,) = call.operation, axes
    for axis, labels in enumerate(x[1:]):
        if labels is not None and layer.alpha.shape[axis] == len(labels):
            walk.carry(layer.alpha, axis, labels)
    return [list(x)]


def _rescaled(call, left) -> dict:
    kept = left.kept(call.outputs[0], -1)
    return {
        name: np.asarray(value)[kept].tolist()
        for name in ("scale", "offset")
        if np.ndim(value := getattr(call.operation, name))
    }


@register_rule(layers.Rescaling, sizes=_rescaled)
def _rescaling(walk, call, axes):
    channels = call.outputs[0].shape[-1]
    for factor in (call.operation.scale, call.operation.offset):
        if np.shape(factor) not in ((), (channels,)):
            return unknown(walk, call, axes)
    return [list(axes[0])]


@register_rule(
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
    layers.AdaptiveAveragePooling1D,
    layers.AdaptiveAveragePooling2D,
    layers.AdaptiveAveragePooling3D,
    layers.AdaptiveMaxPooling1D,
    layers.AdaptiveMaxPooling2D,
    layers.AdaptiveMaxPooling3D,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.ZeroPadding3D,
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Cropping3D,
    layers.UpSampling1D,
    layers.UpSampling2D,
    layers.UpSampling3D,
    layers.Resizing,
    layers.CenterCrop,
    layers.RandomCrop,
    layers.RandomFlip,
    layers.RandomRotation,
    layers.RandomTranslation,
    layers.RandomZoom,
)
def _spatial(walk, call, axes):
    (x,) = axes
    return [only_channels(walk, call, x, channel_axis(call.operation, len(x)))]


@register_rule(
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
)
def _global_pool(walk, call, axes):
    x = axes[0]
    channel = channel_axis(call.operation, len(x))
    labels = only_channels(walk, call, x, channel)
    return [labels if call.operation.keepdims else [None, x[channel]]]


# Ops with one tensor -----------------------------------------------------------

_UNARY = (
    "relu relu6 leaky_relu elu selu gelu silu sigmoid tanh softplus softsign "
    "hard_sigmoid hard_silu hard_tanh hard_shrink soft_shrink tanh_shrink celu "
    "log_sigmoid sparse_plus sparse_sigmoid squareplus threshold abs negative exp "
    "exp2 log1p log log2 log10 expm1 sqrt rsqrt square sign sin cos tan arctan sinh "
    "cosh arcsinh erf ceil floor round trunc reciprocal nan_to_num stop_gradient "
    "isfinite isnan isinf logical_not zeros_like ones_like copy arccos arccosh arcsin "
    "arctanh cbrt conj deg2rad erfc erfinv fabs i0 isneginf isposinf rad2deg signbit sinc"
)
for _name in _UNARY.split():
    if hasattr(ops, _name):
        _example = getattr(ops, _name)
        if _name == "threshold":
            _example = lambda x: ops.threshold(x, 0.0, 0.0)  # noqa: E731
        register_rule(trace.operation_class(_example))(same)
register_rule(trace.operation_class(lambda x: ops.cast(x, "float16")))(same)


@register_rule(trace.operation_class(lambda x: ops.clip(x, 0, 1)))
def _clip(walk, call, axes):
    bounds = call.operation.x_min, call.operation.x_max
    return (
        unknown(walk, call, axes)
        if any(map(np.ndim, bounds))
        else same(walk, call, axes)
    )


def _reduced(walk, call, axes):
    """Mean, max, ... over axes: no unit may be among what is summed up."""
    (x,), operation = axes[:1], call.operation
    axis = operation.axis
    if axis is None:
        over = set(range(len(x)))
    else:
        over = {a % len(x) for a in ((axis,) if isinstance(axis, int) else axis)}
    for one in over:
        walk.freeze(x[one], f"{call.name!r} works over all of them")
    if getattr(operation, "keepdims", False):
        return [[None if a in over else x[a] for a in range(len(x))]]
    return [[x[a] for a in range(len(x)) if a not in over]]


_OVER = (
    "mean sum max min prod var std any all logsumexp count_nonzero amax amin average median "
    "nanmax nanmean nanmedian nanmin nanprod nanstd nansum nanvar ptp"
)
for _name in _OVER.split():
    _class = trace.operation_class(lambda x, f=getattr(ops, _name): f(x, axis=1))  # noqa: B008
    register_rule(_class)(_reduced)


@register_rule(
    trace.operation_class(lambda x: ops.cumsum(x, axis=1)),
    trace.operation_class(lambda x: ops.cumprod(x, axis=1)),
)
def _running(walk, call, axes):
    x, axis = axes[0], call.operation.axis
    for one in range(len(x)) if axis is None else (axis,):
        walk.freeze(x[one], f"{call.name!r} works over all of them")
    return [[None]] if axis is None else [list(x)]


@register_rule(
    trace.operation_class(lambda x: ops.average_pool(x, 2)),
    trace.operation_class(lambda x: ops.max_pool(x, 2)),
)
def _pooled(walk, call, axes):
    return [
        only_channels(walk, call, axes[0], channel_axis(call.operation, len(axes[0])))
    ]


def _normalised(walk, call, axes):
    axis = getattr(call.operation, "axis", -1)
    for one in (axis,) if isinstance(axis, int) else axis or range(len(axes[0])):
        walk.freeze(axes[0][one], f"{call.name!r} normalises across units")
    return [list(axes[0])]


register_rule(
    trace.operation_class(ops.softmax), trace.operation_class(ops.log_softmax)
)(_normalised)


def is_array(value) -> bool:
    """Whether a call's argument is a constant array with axes."""
    return (
        not isinstance(value, keras.KerasTensor | str)
        and value is not None
        and bool(np.ndim(value))
    )


register_rule(layers.CategoryEncoding, layers.Discretization, layers.Hashing)(
    lambda walk, call, axes: unknown(walk, call, axes) if axes else nothing(call)
)
