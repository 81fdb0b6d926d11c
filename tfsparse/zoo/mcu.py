"""Networks to start from: wide enough to be shrunk, cheap enough for a microcontroller."""

from __future__ import annotations

import math

from keras import layers

from tfsparse.zoo.resnet import BN_MOMENTUM

STRIDED_FROM = 16
"""Sides from which the stem halves the input."""

LAST_SIDE = 8
"""Blocks halve their input until its longer side is at most this."""

FILTERS = (24, 40, 64, 96, 128)
"""Of the blocks, one after the other; the last number is that of all that follow."""

SEPARABLE_FROM = 2
"""From the block of this number on, depthwise and pointwise convolutions stand for full ones."""


SMALL_INPUT = 128
"""An autoencoder of fewer inputs has fewer and smaller layers."""


def mcu_cnn(inputs, outputs: int, width):
    """For pictures: a strided stem of 16, blocks of 24, 40, 64, ... filters, then Dense.

    A 5 x 5 stem of stride 2 (3 x 3 of stride 1 on small pictures), then 3 x 3 convolutions
    with max pooling until 8 or fewer pixels are left a side, and pooling by 3; all with
    BatchNorm, none narrows the picture.
    """
    large = min(inputs.shape[1:3]) >= STRIDED_FROM
    size, strides = (5, 2) if large else (3, 1)
    x = _block(inputs, width(16), size, strides, "stem")
    number = 0
    while max(x.shape[1:3]) > LAST_SIDE:
        x = _deeper(x, width, number)
        x = _pooled(x, 2, f"pool{number + 1}")
        number += 1
    x = _deeper(x, width, number)
    x = _pooled(x, 3, "pool")
    x = layers.Flatten(name="flatten")(x)
    return layers.Dense(outputs, name="logits")(x)


def mcu_tcn(inputs, outputs: int, width):
    """For series, steps x channels: the same along time, then the mean over what is left.

    A stem of 16 filters over 5 steps, stride 2 on long series, then convolutions over 3
    steps of 24, 40, 64, ... filters with max pooling until 8 or fewer steps are left.
    """
    long = inputs.shape[1] >= STRIDED_FROM
    x = _block(inputs, width(16), 5, 2 if long else 1, "stem")
    number = 0
    while x.shape[1] > LAST_SIDE:
        x = _deeper(x, width, number)
        x = _pooled(x, 2, f"pool{number + 1}")
        number += 1
    x = _deeper(x, width, number)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return layers.Dense(outputs, name="logits")(x)


def _deeper(x, width, number: int):
    """The block of a number: full, or from some number on separable, convolutions."""
    filters = width(FILTERS[min(number, len(FILTERS) - 1)])
    name = f"conv{number + 1}"
    if number < SEPARABLE_FROM:
        return _block(x, filters, 3, 1, name)
    convolution = (
        layers.DepthwiseConv2D if len(x.shape) == 4 else layers.DepthwiseConv1D
    )
    x = convolution(3, padding="same", use_bias=False, name=f"{name}_depthwise")(x)
    x = _normed(x, f"{name}_depthwise")
    return _block(x, filters, 1, 1, name)


def _block(x, filters: int, size: int, strides: int, name: str):
    """Convolution, BatchNorm, ReLU."""
    convolution = layers.Conv2D if len(x.shape) == 4 else layers.Conv1D
    x = convolution(filters, size, strides, "same", use_bias=False, name=name)(x)
    return _normed(x, name)


def _normed(x, name: str):
    x = layers.BatchNormalization(momentum=BN_MOMENTUM, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def _pooled(x, size: int, name: str):
    sides = tuple(min(size, side) for side in x.shape[1:-1])  # no larger than the input
    if len(sides) == 1:
        return layers.MaxPooling1D(sides[0], name=name)(x)
    return layers.MaxPooling2D(sides, name=name)(x)


def mlp(inputs, outputs: int, width, hidden=(128, 64)):
    """For tables: Dense, BatchNorm and ReLU for each entry of `hidden`, then Dense."""
    x = inputs if len(inputs.shape) == 2 else layers.Flatten(name="flatten")(inputs)
    for number, units in enumerate(hidden, 1):
        x = layers.Dense(width(units), use_bias=False, name=f"fc{number}")(x)
        x = _normed(x, f"fc{number}")
    return layers.Dense(outputs, name="logits")(x)


def autoencoder(inputs, outputs: int, width, code: int = 8):
    """For reconstruction: Dense layers down to a code of 8 numbers, and up again.

    Four of 128 either way, with 640 inputs the autoencoder of MLPerf Tiny's anomaly
    detection; of fewer than 128 inputs 64 and 32.

    Reference: MLPerf Tiny v1.0, anomaly detection; Purohit et al. 2019 (MIMII), the
    baseline of DCASE 2020, task 2.
    """
    size = math.prod(inputs.shape[1:])
    x = inputs if len(inputs.shape) == 2 else layers.Flatten(name="flatten")(inputs)
    hidden = (128,) * 4 if size >= SMALL_INPUT else (64, 32)
    code = max(1, min(code, size // 2))
    sizes = [*hidden, code, *reversed(hidden)]
    for number, units in enumerate(sizes, 1):
        x = layers.Dense(width(units), name=f"fc{number}")(x)
        x = _normed(x, f"fc{number}")
    return layers.Dense(outputs, name="rebuilt")(x)
