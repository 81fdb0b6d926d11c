"""Operations that cells choose among, as DARTS has them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from keras import layers

from tfsparse.zoo.resnet import BN_MOMENTUM


@dataclasses.dataclass(frozen=True)
class Kind:
    """The layers of pictures, or of series."""

    conv: Callable
    depthwise: Callable
    max_pool: Callable
    average_pool: Callable
    pad: Callable
    crop: Callable
    whole: Callable


KINDS = {
    1: Kind(layers.Conv1D, layers.DepthwiseConv1D, layers.MaxPooling1D,
            layers.AveragePooling1D, layers.ZeroPadding1D, layers.Cropping1D,
            layers.GlobalAveragePooling1D),
    2: Kind(layers.Conv2D, layers.DepthwiseConv2D, layers.MaxPooling2D,
            layers.AveragePooling2D, layers.ZeroPadding2D, layers.Cropping2D,
            layers.GlobalAveragePooling2D),
}  # fmt: skip
"""Axes of a sample beside its channels -> its layers."""


def norm(x, name: str, affine: bool = True):
    """BatchNorm; without scale and offset where `affine` is false."""
    return layers.BatchNormalization(
        momentum=BN_MOMENTUM,
        epsilon=1e-5,
        center=affine,
        scale=affine,
        name=f"{name}_bn",
    )(x)


def rank_of(x) -> int:
    """2 of pictures, 1 of series.

    Raises:
        ValueError: It is neither.
    """
    rank = len(x.shape) - 2
    if rank not in KINDS:
        raise ValueError(
            "Cells must be given pictures (height, width, channels) or series (steps, "
            f"channels). Received: samples of shape {tuple(x.shape[1:])}."
        )
    return rank


def conv(x, filters: int, size: int, name: str, strides: int = 1, **options):
    """A convolution without bias, of pictures or of series."""
    layer = KINDS[rank_of(x)].conv
    return layer(filters, size, strides, "same", use_bias=False, name=name, **options)(
        x
    )


def project(x, filters: int, name: str, affine: bool = True):
    """ReLU, 1x1 convolution, BatchNorm."""
    x = layers.ReLU(name=f"{name}_relu")(x)
    return norm(conv(x, filters, 1, name), name, affine)


def halve(x, filters: int, name: str, affine: bool = True):
    """Two 1x1 convolutions of stride 2, one of them a place further, side by side."""
    kind = KINDS[rank_of(x)]
    x = layers.ReLU(name=f"{name}_relu")(x)
    first, second = filters // 2, filters - filters // 2
    # At the end one place more, at the front one less: the grid in between.
    after, before = ((0, 1),) * rank_of(x), ((1, 0),) * rank_of(x)
    after, before = (after, before) if len(after) > 1 else (after[0], before[0])
    one = [conv(x, first, 1, f"{name}_even", 2)] if first else []
    shifted = kind.pad(after, name=f"{name}_pad")(x)
    shifted = kind.crop(before, name=f"{name}_shift")(shifted)
    both = [*one, conv(shifted, second, 1, f"{name}_odd", 2)]
    joined = layers.Concatenate(name=f"{name}_join")(both) if one else both[0]
    return norm(joined, name, affine)


def added_up(tensors, name: str):
    """Their sum; None of none."""
    if len(tensors) < 2:
        return tensors[0] if tensors else None
    return layers.Add(name=name)(tensors)


def _separable(x, filters: int, strides: int, name: str, affine, size, dilation=1):
    """ReLU, depthwise and 1x1 convolution, BatchNorm."""
    x = layers.ReLU(name=f"{name}_relu")(x)
    x = KINDS[rank_of(x)].depthwise(
        size,
        strides,
        "same",
        dilation_rate=dilation,
        use_bias=False,
        name=f"{name}_depth",
    )(x)
    return norm(conv(x, filters, 1, f"{name}_point"), name, affine)


def _sep_conv(size: int):
    def operation(x, filters: int, strides: int, name: str, affine: bool):
        x = _separable(x, filters, strides, f"{name}_1", affine, size)
        return _separable(x, filters, 1, f"{name}_2", affine, size)

    return operation


def _dil_conv(size: int):
    def operation(x, filters: int, strides: int, name: str, affine: bool):
        return _separable(x, filters, strides, name, affine, size, dilation=2)

    return operation


def _depth_conv(size: int):
    def operation(x, filters: int, strides: int, name: str, affine: bool):
        x = layers.ReLU(name=f"{name}_relu")(x)
        layer = KINDS[rank_of(x)].depthwise
        x = layer(size, strides, "same", use_bias=False, name=name)(x)
        return norm(x, name, affine)

    return operation


def _conv(size: int, groups: int = 1):
    def operation(x, filters: int, strides: int, name: str, affine: bool):
        x = layers.ReLU(name=f"{name}_relu")(x)
        return norm(conv(x, filters, size, name, strides, groups=groups), name, affine)

    return operation


def _pool(kind: str):
    def operation(x, filters: int, strides: int, name: str, affine: bool):
        layer = getattr(KINDS[rank_of(x)], kind)
        x = layer(3, strides, "same", name=name)(x)
        return x if affine else norm(x, name, affine)  # while it is searched, as DARTS

    return operation


def _skip(x, filters: int, strides: int, name: str, affine: bool):
    if strides == 1:  # a layer, so that its name tells that it is there
        return layers.Identity(name=name)(x)
    return halve(x, filters, name, affine)


def _noise(x, filters: int, strides: int, name: str, affine: bool):
    """Nothing of its input: noise in training, zero afterwards."""
    if strides > 1:
        x = KINDS[rank_of(x)].max_pool(1, strides, name=f"{name}_picked")(x)
    return layers.GaussianNoise(1.0, name=name)(
        layers.Rescaling(0.0, name=f"{name}_off")(x)
    )


OPERATIONS = {
    "max_pool_3x3": _pool("max_pool"),
    "avg_pool_3x3": _pool("average_pool"),
    "skip_connect": _skip,
    "sep_conv_3x3": _sep_conv(3),
    "sep_conv_5x5": _sep_conv(5),
    "dil_conv_3x3": _dil_conv(3),
    "dil_conv_5x5": _dil_conv(5),
    "conv_1x1": _conv(1),
    "conv_3x3": _conv(3),
    "group_conv_3x3": _conv(3, groups=2),
    "depth_conv_3x3": _depth_conv(3),
    "depth_conv_5x5": _depth_conv(5),
    "noise": _noise,
}
"""Name -> `(tensor, filters, strides, name, affine) -> tensor`.

The first seven are those of DARTS, without its zero: a convolution is ReLU, convolutions,
BatchNorm; a separable one is that twice. `affine` says whether BatchNorm scales and shifts.
On series they are the same along one axis.

Reference: Liu et al. 2019, arXiv:1806.09055, section 3.1 and its code.
"""

DARTS = tuple(OPERATIONS)[:7]
"""Those of DARTS."""
