"""MobileNetV1, a quarter wide, the person detector of MLPerf Tiny; and MobileNetV2."""

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


V2 = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
    (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
"""Expansion, filters, blocks and stride of the first of them, for each stage."""


def mobilenet_v2(inputs, outputs: int, width):
    """Inverted residuals: a 1 x 1 expansion, a depthwise and a linear 1 x 1 convolution.

    Pictures of any size (its resolution multiplier). Its last convolution does not get
    narrower than 1,280 filters, as in the paper.

    Reference: Sandler et al. 2018, arXiv:1801.04381, table 2.
    """
    x = _conv(inputs, width(32), 3, 2, "stem")
    x = _relu6(x, "stem")
    for stage, (expansion, filters, blocks, strides) in enumerate(V2, 1):
        for block in range(1, blocks + 1):
            name, before = f"stage{stage}_block{block}", x
            if expansion > 1:
                x = _conv(x, expansion * x.shape[-1], 1, 1, f"{name}_expand")
                x = _relu6(x, f"{name}_expand")
            step = strides if block == 1 else 1
            x = layers.DepthwiseConv2D(
                3, step, "same", use_bias=False, name=f"{name}_depthwise"
            )(x)
            x = _relu6(_normed(x, f"{name}_depthwise"), f"{name}_depthwise")
            x = _conv(x, width(filters), 1, 1, f"{name}_project")
            if step == 1 and before.shape[-1] == x.shape[-1]:
                x = layers.Add(name=f"{name}_add")([before, x])
    x = _relu6(_conv(x, max(1280, width(1280)), 1, 1, "last"), "last")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return layers.Dense(outputs, name="logits")(x)


def _conv(x, filters: int, kernel: int, strides: int, name: str):
    x = layers.Conv2D(filters, kernel, strides, "same", use_bias=False, name=name)(x)
    return _normed(x, name)


def _normed(x, name: str):
    return layers.BatchNormalization(momentum=BN_MOMENTUM, name=f"{name}_bn")(x)


def _relu6(x, name: str):
    return layers.ReLU(6.0, name=f"{name}_relu")(x)


def _active(x, name: str):
    return layers.ReLU(name=f"{name}_relu")(_normed(x, name))
