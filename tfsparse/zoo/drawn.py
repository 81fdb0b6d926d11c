"""Nets drawn by hand, to compare with: what shrinking has to beat at every size.

Each is one of a few architectures, its units widened until it has a wanted number of
parameters; with and without BatchNorm.
"""

from __future__ import annotations

from collections.abc import Callable

from keras import layers

from tfsparse.zoo.resnet import BN_MOMENTUM


def lenet(inputs, outputs: int, width, norm: bool = False):
    """LeNet of 6, 14 and 24 units: 7,920 parameters on MNIST without BatchNorm."""
    x = _conv(inputs, width(6), 5, 1, "conv1", norm)
    x = layers.MaxPooling2D(2, name="pool1")(x)
    x = _conv(x, width(14), 5, 1, "conv2", norm)
    x = layers.MaxPooling2D(2, name="pool2")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(width(24), use_bias=not norm, name="fc1")(x)
    x = _active(x, "fc1", norm)
    return layers.Dense(outputs, name="logits")(x)


def strided(inputs, outputs: int, width, norm: bool = False):
    """5 x 5 stride 2: 6, 3 x 3: 8, pooling 2, 3 x 3: 14, pooling 3, Dense."""
    x = _conv(inputs, width(6), 5, 2, "conv1", norm)
    x = _conv(x, width(8), 3, 1, "conv2", norm)
    x = layers.MaxPooling2D(2, name="pool1")(x)
    x = _conv(x, width(14), 3, 1, "conv3", norm)
    x = layers.MaxPooling2D(3, name="pool2")(x)
    x = layers.Flatten(name="flatten")(x)
    return layers.Dense(outputs, name="logits")(x)


def depthwise(inputs, outputs: int, width, norm: bool = False):
    """5 x 5 stride 2: 8, then depthwise 3 x 3 and pointwise 12 and 24, Dense."""
    x = _conv(inputs, width(8), 5, 2, "conv1", norm)
    for number, filters in ((2, 12), (3, 24)):
        x = layers.DepthwiseConv2D(3, use_bias=not norm, name=f"depth{number}")(x)
        x = _active(x, f"depth{number}", norm)
        x = _conv(x, width(filters), 1, 1, f"conv{number}", norm)
        x = layers.MaxPooling2D(2, name=f"pool{number}")(x)
    x = layers.Flatten(name="flatten")(x)
    return layers.Dense(outputs, name="logits")(x)


DRAWN: dict[str, Callable] = {
    "drawn_lenet": lenet,
    "drawn_strided": strided,
    "drawn_depthwise": depthwise,
}
"""Name -> builder; `<name>_bn` has BatchNorm."""


def _conv(x, filters: int, size: int, strides: int, name: str, norm: bool):
    x = layers.Conv2D(filters, size, strides, use_bias=not norm, name=name)(x)
    return _active(x, name, norm)


def _active(x, name: str, norm: bool):
    if norm:
        x = layers.BatchNormalization(momentum=BN_MOMENTUM, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x)
