"""Rules of layers with kernels: dense, einsum, convolutions, embeddings, wrappers."""

from __future__ import annotations

import dataclasses

import numpy as np
from keras import layers

from tfsparse.graph.rebuild import config_of
from tfsparse.graph.rules import counting
from tfsparse.graph.rules.registry import (
    LINEAR,
    activate,
    channel_axis,
    nothing,
    only_channels,
    register_rule,
    rule_of,
    unknown,
    write,
)


def _scaled_output(layer, scale) -> list:
    """Kernel and bias under which a layer writes `scale` times as much."""
    separable = hasattr(layer, "pointwise_kernel")
    kernel = layer.pointwise_kernel if separable else layer.kernel
    return [(kernel, kernel * scale), *_scaled_bias(layer, scale)]


def _scaled_channels(layer, scale) -> list:
    """The same of a depthwise convolution."""
    own = scale.reshape(layer.kernel.shape[-2:])  # (channels, multiplier)
    return [(layer.kernel, layer.kernel * own), *_scaled_bias(layer, scale)]


def _scaled_bias(layer, scale) -> list:
    return [] if layer.bias is None else [(layer.bias, layer.bias * scale)]


def _scaled_input(layer, scale) -> list | None:
    """The kernel that reads channels `scale` times as large; None of a grouped one."""
    if getattr(layer, "groups", 1) > 1:
        return None
    return [(layer.kernel, layer.kernel * scale[:, None])]


@register_rule(
    layers.Dense,
    sizes=lambda call, left: {"units": left.shape(call.operation.kernel)[-1]},
    scale_output=_scaled_output,
    scale_input=_scaled_input,
    folds=LINEAR,
)
def _dense(walk, call, axes):
    layer, (x,) = call.operation, axes
    walk.consume(layer.kernel, 0, x[-1])
    out = walk.produce(layer.kernel, 1)
    walk.carry(layer.bias, 0, out)
    return [[*x[:-1], write(walk, call, out)]]


def _filters(call, left) -> dict:
    layer = call.operation
    sizes = {"filters": left.shape(layer.kernel)[-1]}
    if layer.groups > 1:
        inputs = int(
            left.kept(
                call.inputs[0], channel_axis(layer, len(call.inputs[0].shape))
            ).sum()
        )
        sizes["groups"] = inputs // left.shape(layer.kernel)[-2]
    return sizes


@register_rule(
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    sizes=_filters,
    scale_output=_scaled_output,
    scale_input=_scaled_input,
    folds=LINEAR,
)
def _conv(walk, call, axes):
    layer, (x,) = call.operation, axes
    channel, rank = channel_axis(layer, len(x)), len(layer.kernel.shape)
    result = only_channels(walk, call, x, channel)
    out = walk.produce(layer.kernel, rank - 1)
    if layer.groups == 1:
        walk.consume(layer.kernel, rank - 2, x[channel])
    else:
        _grouped(walk, call, x[channel], out)
    walk.carry(layer.bias, 0, out)
    result[channel] = write(walk, call, out)
    return [result]


def _grouped(walk, call, labels, out) -> None:
    """Output o reads the inputs of its own group only, at equal counts for each."""
    layer, rank = call.operation, len(call.operation.kernel.shape)
    inputs, outputs = layer.kernel.shape[-2:]
    if labels is None or out is None:
        reason = f"{call.name!r}, a grouped convolution, reads channels that stay"
        if walk.kind == "unit":
            walk.freeze(out, reason)
        walk.freeze(labels, f"read by the grouped convolution {call.name!r}")
        return
    rows = labels.reshape(layer.groups, inputs)
    each = np.repeat(rows, outputs // layer.groups, axis=0)  # (outputs, inputs)
    walk.consume(layer.kernel, (rank - 1, rank - 2), each.reshape(-1))
    outs = out.reshape(layer.groups, -1)
    walk.lanes(call, [(-1, (rows[g], outs[g])) for g in range(layer.groups)])


@register_rule(
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
    sizes=lambda call, left: {"filters": left.shape(call.operation.kernel)[-2]},
    macs=counting.input_macs,
    folds=LINEAR,
)
def _transposed(walk, call, axes):
    layer, (x,) = call.operation, axes
    channel, rank = channel_axis(layer, len(x)), len(layer.kernel.shape)
    result = only_channels(walk, call, x, channel)
    walk.consume(layer.kernel, rank - 1, x[channel])
    out = walk.produce(layer.kernel, rank - 2)
    walk.carry(layer.bias, 0, out)
    result[channel] = write(walk, call, out)
    return [result]


@register_rule(
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    scale_output=_scaled_channels,
    multiplies=lambda layer: [layer.kernel],
)
def _depthwise(walk, call, axes):
    layer, (x,) = call.operation, axes
    channel = channel_axis(layer, len(x))
    result = only_channels(walk, call, x, channel)
    if x[channel] is not None:
        walk.carry(layer.kernel, len(layer.kernel.shape) - 2, x[channel])
        out = np.repeat(x[channel], layer.depth_multiplier)
        walk.carry(layer.bias, 0, out)
        if layer.bias is not None:
            write(walk, call, out)
        result[channel] = activate(walk, call, out)
    return [result]


@register_rule(
    layers.SeparableConv1D,
    layers.SeparableConv2D,
    sizes=lambda call, left: {
        "filters": left.shape(call.operation.pointwise_kernel)[-1]
    },
    scale_output=_scaled_output,
    folds=LINEAR,
    multiplies=lambda layer: [layer.depthwise_kernel],
)
def _separable(walk, call, axes):
    layer, (x,) = call.operation, axes
    channel = channel_axis(layer, len(x))
    result = only_channels(walk, call, x, channel)
    rank = len(layer.depthwise_kernel.shape)
    if x[channel] is not None:
        walk.carry(layer.depthwise_kernel, rank - 2, x[channel])
        middle = np.repeat(x[channel], layer.depth_multiplier)
        walk.consume(layer.pointwise_kernel, rank - 2, middle)
    out = walk.produce(layer.pointwise_kernel, rank - 1)
    walk.carry(layer.bias, 0, out)
    result[channel] = write(walk, call, out)
    return [result]


def letters(equation: str, rank: int) -> tuple[str, str, str]:
    """The axes of input, kernel and output of an EinsumDense, one letter each."""
    left, out = equation.replace(" ", "").split("->")
    x, kernel = left.split(",")
    spare = [c for c in "0123456789"][: rank - len(x.replace("...", ""))]
    fill = "".join(spare)
    return x.replace("...", fill), kernel, out.replace("...", fill)


def _einsum_shape(call, left) -> dict:
    layer, tensor = call.operation, call.outputs[0]
    shape = layer.get_config()["output_shape"]
    shape = [shape] if isinstance(shape, int) else list(shape)
    first = len(tensor.shape) - len(shape)
    for place, size in enumerate(shape):
        if size is not None:
            shape[place] = int(left.kept(tensor, first + place).sum())
    return {"output_shape": shape}


def _einsum_macs(call, left) -> int:
    """MACs of an EinsumDense: each weight at every place of an axis that it lacks."""
    layer = call.operation
    read, kernel, written = letters(layer.equation, len(call.inputs[0].shape))
    free = [c for c in written if c not in kernel][1:]
    places = [left.extent(call.inputs[0], read.index(c)) for c in free]
    return counting.elements(left, layer.kernel) * int(np.prod(places, dtype=int))


@register_rule(
    layers.EinsumDense,
    sizes=_einsum_shape,
    macs=_einsum_macs,
    folds=LINEAR,
    multiplies=lambda layer: [layer.kernel],
)
def _einsum(walk, call, axes):
    layer, (x,) = call.operation, axes
    read, kernel, written = letters(layer.equation, len(x))
    labels = {c: x[axis] for axis, c in enumerate(read)}
    for axis, c in enumerate(kernel):
        if c in read and c not in written:
            walk.consume(layer.kernel, axis, labels[c])
        elif c in read and labels[c] is not None:
            walk.carry(layer.kernel, axis, labels[c])
        elif c not in read:
            labels[c] = walk.produce(
                layer.kernel, axis, f":{c}" if _many(kernel, read) else ""
            )
    for c in read:
        if c not in kernel and c not in written:
            walk.freeze(labels[c], f"summed over by {call.name!r}")
    result = [labels[c] for c in written]
    if layer.bias is not None:
        first = len(result) - len(layer.bias.shape)
        for axis, size in enumerate(layer.bias.shape):
            own = result[first + axis]
            if own is not None and size == len(own):
                walk.carry(layer.bias, axis, own)
    for own in result:
        activate(walk, call, own)
    return [result]


def _many(kernel: str, read: str) -> bool:
    return sum(c not in read for c in kernel) > 1


@register_rule(
    layers.Embedding,
    sizes=lambda call, left: {"output_dim": left.shape(call.operation.embeddings)[-1]},
    macs=counting.no_macs,
)
def _embedding(walk, call, axes):
    walk.freeze_all(axes, f"looked up by {call.name!r}")
    (labels,) = nothing(call)
    labels[-1] = walk.produce(call.operation.embeddings, 1)
    return [labels]


@register_rule(
    layers.ReversibleEmbedding,
    sizes=lambda call, left: {"output_dim": left.shape(call.operation.embeddings)[-1]},
)
def _reversible(walk, call, axes):
    layer, (x,) = call.operation, axes
    reverse = call.kwargs.get("reverse", False) or True in call.arguments.args
    if not reverse:
        return _embedding(walk, call, axes)
    own = layer.embeddings if layer.tie_weights else layer.reverse_embeddings
    walk.consume(own, 1 if layer.tie_weights else 0, x[-1])
    if not layer.tie_weights and walk.kind == "unit":  # both tables have one width
        wide = walk.produce(layer.embeddings, 1)
        if x[-1] is None:
            walk.freeze(wide, f"{call.name!r} is as wide when it reads what stays")
        else:
            walk.lanes(call, [(-1, (wide,)), (-1, (x[-1],))])
    return [[*x[:-1], None]]


# Wrappers ------------------------------------------------------------------------


def _inside(call, layer, squeeze: bool):
    """The call as the wrapped layer sees it."""

    def cut(tensor):
        shape = (tensor.shape[0], *tensor.shape[2:]) if squeeze else tensor.shape
        return dataclasses.replace(tensor, shape=shape)

    return dataclasses.replace(
        call,
        operation=layer,
        inputs=tuple(cut(t) for t in call.inputs[:1]),
        outputs=tuple(cut(t) for t in call.outputs),
    )


class _Without:
    """What is left, seen without the axis of time."""

    def __init__(self, left, squeeze: bool):
        self._left, self._squeeze = left, squeeze
        self.shape = left.shape

    def kept(self, tensor, axis: int):
        axis %= len(tensor.shape)
        return self._left.kept(tensor, axis + 1 if self._squeeze and axis else axis)


def _wrapped_sizes(squeeze: bool):
    def sizes(call, left):
        layer = call.operation.layer
        config = config_of(call.operation, call.name)
        inner = rule_of(layer).sizes
        if inner is not None:
            new = inner(_inside(call, layer, squeeze), _Without(left, squeeze))
            config["layer"]["config"] = {**config["layer"]["config"], **new}
        return {"layer": config["layer"]}

    return sizes


def _wrapped_macs(call, left) -> int:
    """MACs of what a wrapper holds."""
    inner = dataclasses.replace(call, operation=call.operation.layer)
    return counting.macs(inner, left)


_WRAPPED = (
    layers.Dense, layers.EinsumDense,
    layers.Conv1D, layers.Conv2D, layers.Conv3D,
    layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose,
    layers.DepthwiseConv1D, layers.DepthwiseConv2D,
    layers.SeparableConv1D, layers.SeparableConv2D,
    layers.BatchNormalization, layers.PReLU,
    layers.Embedding, layers.Activation, layers.Dropout, layers.ReLU, layers.LeakyReLU,
    layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D,
    layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D,
    layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D,
    layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D,
)  # fmt: skip
"""Layers that a wrapper may hold: their rules look at no other axis than their own."""


@register_rule(
    layers.TimeDistributed,
    sizes=_wrapped_sizes(True),
    macs=_wrapped_macs,
    inner=lambda wrapper: wrapper.layer,
)
def _time_distributed(walk, call, axes):
    layer, x = call.operation.layer, axes[0]
    if type(layer) not in _WRAPPED:
        return unknown(walk, call, axes)
    walk.freeze(x[1], f"the time axis of {call.name!r}")
    inside = _inside(call, layer, True)
    (labels,) = rule_of(layer).units(walk, inside, [[x[0], *x[2:]]])
    return [[labels[0], None, *labels[1:]]]


@register_rule(
    layers.SpectralNormalization,
    sizes=_wrapped_sizes(False),
    macs=_wrapped_macs,
    inner=lambda wrapper: wrapper.layer,
)
def _spectral(walk, call, axes):
    layer = call.operation.layer
    if type(layer) not in _WRAPPED:
        return unknown(walk, call, axes)
    (labels,) = rule_of(layer).units(walk, _inside(call, layer, False), axes)
    kernel = getattr(layer, "kernel", None)
    last = len((layer.embeddings if kernel is None else kernel).shape) - 1
    depthwise = isinstance(layer, layers.DepthwiseConv1D | layers.DepthwiseConv2D)
    transposed = "Transpose" in type(layer).__name__
    if depthwise:
        return [labels]  # vector_u has one entry for each multiplier, not channel
    if transposed:
        walk.carry(
            call.operation.vector_u, 1, axes[0][channel_axis(layer, len(axes[0]))]
        )
    else:
        own = walk.produce(layer.embeddings if kernel is None else kernel, last)
        if own is not None:
            walk.carry(call.operation.vector_u, 1, own)
    return [labels]
