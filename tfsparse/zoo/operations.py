"""Operations that cells choose among, as DARTS has them."""

from __future__ import annotations

from keras import layers

from tfsparse.zoo.resnet import BN_MOMENTUM


def norm(x, name: str, affine: bool = True):
    """BatchNorm; without scale and offset where `affine` is false."""
    return layers.BatchNormalization(
        momentum=BN_MOMENTUM,
        epsilon=1e-5,
        center=affine,
        scale=affine,
        name=f"{name}_bn",
    )(x)


def project(x, filters: int, name: str, affine: bool = True):
    """ReLU, 1x1 convolution, BatchNorm."""
    x = layers.ReLU(name=f"{name}_relu")(x)
    x = layers.Conv2D(filters, 1, use_bias=False, name=name)(x)
    return norm(x, name, affine)


def halve(x, filters: int, name: str, affine: bool = True):
    """Two 1x1 convolutions of stride 2, one of them a pixel further, side by side."""
    x = layers.ReLU(name=f"{name}_relu")(x)
    first, options = filters // 2, {"strides": 2, "use_bias": False}
    one = layers.Conv2D(first, 1, **options, name=f"{name}_even")(x)
    shifted = layers.ZeroPadding2D(((0, 1), (0, 1)), name=f"{name}_pad")(x)
    shifted = layers.Cropping2D(((1, 0), (1, 0)), name=f"{name}_shift")(shifted)
    two = layers.Conv2D(filters - first, 1, **options, name=f"{name}_odd")(shifted)
    return norm(layers.Concatenate(name=f"{name}_join")([one, two]), name, affine)


def added_up(tensors, name: str):
    """Their sum; None of none."""
    if len(tensors) < 2:
        return tensors[0] if tensors else None
    return layers.Add(name=name)(tensors)


def _separable(x, filters: int, strides: int, name: str, affine, size, dilation=1):
    """ReLU, depthwise and 1x1 convolution, BatchNorm."""
    x = layers.ReLU(name=f"{name}_relu")(x)
    x = layers.DepthwiseConv2D(
        size,
        strides,
        "same",
        dilation_rate=dilation,
        use_bias=False,
        name=f"{name}_depth",
    )(x)
    x = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_point")(x)
    return norm(x, name, affine)


def _sep_conv(size: int):
    def operation(x, filters: int, strides: int, name: str, affine: bool):
        x = _separable(x, filters, strides, f"{name}_1", affine, size)
        return _separable(x, filters, 1, f"{name}_2", affine, size)

    return operation


def _dil_conv(size: int):
    def operation(x, filters: int, strides: int, name: str, affine: bool):
        return _separable(x, filters, strides, name, affine, size, dilation=2)

    return operation


def _conv(size: int):
    def operation(x, filters: int, strides: int, name: str, affine: bool):
        x = layers.ReLU(name=f"{name}_relu")(x)
        x = layers.Conv2D(filters, size, strides, "same", use_bias=False, name=name)(x)
        return norm(x, name, affine)

    return operation


def _pool(layer):
    def operation(x, filters: int, strides: int, name: str, affine: bool):
        x = layer(3, strides, "same", name=name)(x)
        return x if affine else norm(x, name, affine)  # while it is searched, as DARTS

    return operation


def _skip(x, filters: int, strides: int, name: str, affine: bool):
    if strides == 1:  # a layer, so that its name tells that it is there
        return layers.Identity(name=name)(x)
    return halve(x, filters, name, affine)


OPERATIONS = {
    "max_pool_3x3": _pool(layers.MaxPooling2D),
    "avg_pool_3x3": _pool(layers.AveragePooling2D),
    "skip_connect": _skip,
    "sep_conv_3x3": _sep_conv(3),
    "sep_conv_5x5": _sep_conv(5),
    "dil_conv_3x3": _dil_conv(3),
    "dil_conv_5x5": _dil_conv(5),
    "conv_1x1": _conv(1),
    "conv_3x3": _conv(3),
}
"""Name -> `(tensor, filters, strides, name, affine) -> tensor`.

The first seven are those of DARTS, without its zero: a convolution is ReLU, convolutions,
BatchNorm; a separable one is that twice. `affine` says whether BatchNorm scales and shifts.

Reference: Liu et al. 2019, arXiv:1806.09055, section 3.1 and its code.
"""

DARTS = tuple(OPERATIONS)[:7]
"""Those of DARTS."""
