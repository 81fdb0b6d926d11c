"""Rules of normalisers: exact ones pass units, the others freeze them."""

from __future__ import annotations

import sys

import keras
import numpy as np
from keras import layers

from tfsparse.graph.rules import counting
from tfsparse.graph.rules.registry import ends_chain, nothing, register_rule, unknown


def _gamma(layer) -> list:
    return [] if layer.gamma is None else [layer.gamma]


def _folded_bytes(call, left) -> int:
    """Bytes of a BatchNorm: as a bias of the layer in front where it is folded into it."""
    channels = counting.elements(left, call.operation.moving_mean)
    writer = left.graph.writers.get(call.inputs[0])
    before = None if writer is None else writer.operation
    own = counting.numeric(before)
    kernels = [v for v in own if len(v.shape) > 1]
    alone = len(left.graph.readers[call.inputs[0]]) == 1
    linear = getattr(before, "activation", None) in (None, keras.activations.linear)
    if kernels and alone and linear:
        return 0 if len(own) > len(kernels) else counting.BIAS_BYTES * channels
    return channels + counting.BIAS_BYTES * channels  # a MUL by int8 and an ADD


def _scaled(layer, scale) -> list | None:
    """Gamma and beta under which a BatchNorm writes `scale` times as much."""
    if layer.axis not in (-1, len(layer.input.shape) - 1):
        return None
    return [(v, v * scale) for v in (layer.gamma, layer.beta) if v is not None]


@register_rule(
    layers.BatchNormalization,
    stored_bytes=_folded_bytes,
    in_place=True,
    joins_front=True,
    scale_output=_scaled,
    scaled_config={"scale": True},
    multiplies=_gamma,
)
def _batch_norm(walk, call, axes):
    layer, x = call.operation, axes[0]
    labels = x[layer.axis]
    if labels is not None:
        for variable in (
            layer.gamma,
            layer.beta,
            layer.moving_mean,
            layer.moving_variance,
        ):
            walk.carry(variable, 0, labels)
        if layer.axis in (-1, len(x) - 1) and ends_chain(walk, call):
            walk.site(call, labels)
    return [list(x)]


@register_rule(layers.LayerNormalization)
def _layer_norm(walk, call, axes):
    (x,), layer = axes, call.operation
    reason = (
        f"{call.name!r} divides by a mean and a variance over all units: "
        "without some of them the others would change"
    )
    one = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    for axis in one:
        walk.freeze(x[axis], reason)
    return [list(x)]


def _group_count(call, left) -> dict:
    layer, tensor = call.operation, call.inputs[0]
    kept = left.kept(tensor, layer.axis).reshape(layer.groups, -1)
    return {"groups": int(kept.any(axis=1).sum())}


@register_rule(layers.GroupNormalization, sizes=_group_count, multiplies=_gamma)
def _group_norm(walk, call, axes):
    """Channels that are normalised together leave together."""
    (x,), layer = axes, call.operation
    labels = x[layer.axis]
    for axis, own in enumerate(x):
        if axis != layer.axis % len(x):
            walk.freeze(own, f"{call.name!r} normalises over this axis")
    result = [None] * len(x)
    if labels is None:
        return [result]
    if layer.groups == 1:
        walk.freeze(labels, f"{call.name!r} normalises over all units")
    elif layer.groups < len(labels):
        for row in labels.reshape(layer.groups, -1):
            if (row >= 0).any() and (row < 0).any():
                walk.freeze(row, f"{call.name!r} normalises them with what stays")
            walk.join(row)
    for variable in (layer.gamma, layer.beta):
        walk.carry(variable, 0, labels)
    result[layer.axis % len(x)] = labels
    return [result]


def _epsilon(call, left) -> dict:
    """X / sqrt(sum / n + e) = sqrt(n / m) x / sqrt(sum / m + e n / m) for m of n."""
    layer, tensor = call.operation, call.inputs[0]
    (axis,) = layer.axis
    kept = left.kept(tensor, axis)
    return {"epsilon": layer.epsilon * len(kept) / kept.sum()}


def _scale(call, left) -> dict:
    layer = call.operation
    (axis,) = layer.axis
    kept = left.kept(call.inputs[0], axis)
    return {id(layer.scale): float(np.sqrt(len(kept) / kept.sum()))}


@register_rule(
    layers.RMSNormalization,
    sizes=_epsilon,
    factors=_scale,
    multiplies=lambda layer: [layer.scale],
)
def _rms_norm(walk, call, axes):
    """Exact once the dropped units are zero: `scale` and `epsilon` take the factor."""
    (x,), layer = axes, call.operation
    if len(layer.axis) > 1:
        return unknown(walk, call, axes)
    (axis,) = layer.axis
    walk.carry(layer.scale, 0, x[axis])
    walk.gate(call, 0, axis, x[axis])
    return [list(x)]


@register_rule(layers.UnitNormalization)
def _unit_norm(walk, call, axes):
    """A unit of zeros adds nothing to the norm that the others are divided by."""
    (x,), axis = axes, call.operation.axis
    for one in (axis,) if isinstance(axis, int) else axis:
        walk.gate(call, 0, one, x[one])
    return [list(x)]


@register_rule(layers.Normalization)
def _normalization(walk, call, axes):
    for labels in axes[0]:
        walk.freeze(labels, f"{call.name!r} holds a mean for each of them")
    return nothing(call)


LAYER_SCALE = sys.modules[keras.applications.ConvNeXtTiny.__module__].LayerScale
"""The scale layer of keras.applications' ConvNeXt, which Keras does not export."""


def _projection(call, left) -> dict:
    (width,) = left.shape(call.operation.gamma)
    return {"projection_dim": int(width)}


@register_rule(LAYER_SCALE, sizes=_projection, multiplies=_gamma)
def _layer_scale(walk, call, axes):
    walk.carry(call.operation.gamma, 0, axes[0][-1])
    return [list(axes[0])]
