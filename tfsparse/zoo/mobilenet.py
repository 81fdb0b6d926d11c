"""MobileNetV1, a quarter wide: the person detector of MLPerf Tiny."""

from __future__ import annotations

from keras import layers

from tfsparse.zoo.resnet import BN_MOMENTUM

BLOCKS = (
    (16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2),
    (128, 1), (128, 1), (128, 1), (128, 1), (128, 1), (256, 2), (256, 1),
)  # fmt: skip
"""Filters and stride of each separable block, a quarter of MobileNet's."""


def mobilenet_v1_025(inputs, outputs: int, width):
    """A strided stem of 8 filters and 13 separable blocks: 221,794 parameters for 2 classes.

    Reference: Howard et al. 2017, arXiv:1704.04861, table 1, width 0.25; MLPerf Tiny v1.0,
    person detection.
    """
    x = layers.Conv2D(width(8), 3, strides=2, padding="same", name="stem")(inputs)
    x = _active(x, "stem")
    for number, (filters, strides) in enumerate(BLOCKS, 1):
        name = f"block{number}"
        x = layers.DepthwiseConv2D(3, strides, "same", name=f"{name}_depthwise")(x)
        x = _active(x, f"{name}_depthwise")
        x = layers.Conv2D(width(filters), 1, name=f"{name}_pointwise")(x)
        x = _active(x, f"{name}_pointwise")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return layers.Dense(outputs, name="logits")(x)


def _active(x, name: str):
    x = layers.BatchNormalization(momentum=BN_MOMENTUM, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x)
