"""Residual networks: ResNet-8 of MLPerf Tiny, -18, -20 and -56 for small images, ResNet-50."""

from __future__ import annotations

import functools

from keras import layers

STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))
"""Blocks and filters of each stage of ResNet-50; a block's last convolution has 4 times as many."""


BN_MOMENTUM = 0.9
"""Keras's 0.99 averages 100 steps: too slow for weights that a penalty keeps in motion."""


def conv_bn(x, filters: int, kernel, strides: int, name: str, bias: bool = False):
    """A convolution and its BatchNorm, before which a bias changes nothing but a count."""
    x = layers.Conv2D(
        filters, kernel, strides=strides, padding="same", use_bias=bias, name=name
    )(x)
    return layers.BatchNormalization(momentum=BN_MOMENTUM, name=f"{name}_bn")(x)


def basic_block(
    x, filters: int, strides: int, name: str, skip: bool, norm: bool, bias: bool = False
):
    """Two 3 x 3 convolutions beside a skip: a 1 x 1 convolution, or nothing."""
    y = conv_bn(x, filters, 3, strides, f"{name}_conv1", bias)
    y = layers.ReLU(name=f"{name}_relu1")(y)
    y = conv_bn(y, filters, 3, 1, f"{name}_conv2", bias)
    if skip and norm:
        x = conv_bn(x, filters, 1, strides, f"{name}_skip")
    elif skip:
        x = layers.Conv2D(
            filters, 1, strides=strides, padding="same", name=f"{name}_skip"
        )(x)
    x = layers.Add(name=f"{name}_add")([x, y])
    return layers.ReLU(name=f"{name}_relu2")(x)


def resnet8(inputs, outputs: int, width):
    """ResNet-8: three residual stages of 16, 32 and 64 filters, 78,666 parameters.

    Reference: MLPerf Tiny v1.0, image classification.
    """
    x = conv_bn(inputs, width(16), 3, 1, "stem", bias=True)
    x = layers.ReLU(name="stem_relu")(x)
    for stage, filters in enumerate((16, 32, 64), 1):
        strides, name = 1 if stage == 1 else 2, f"stage{stage}"
        x = basic_block(x, width(filters), strides, name, stage > 1, False, bias=True)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return layers.Dense(outputs, name="logits")(x)


def of_depth(inputs, outputs: int, width, blocks: int):
    """A residual network of three stages of 16, 32 and 64 filters, each of so many blocks.

    Where a stage begins, a 1 x 1 convolution goes around it (option B).

    Reference: arXiv 1512.03385, section 4.2: depth 6 `blocks` + 2.
    """
    x = conv_bn(inputs, width(16), 3, 1, "stem")
    x = layers.ReLU(name="stem_relu")(x)
    for stage, filters in enumerate((16, 32, 64), 1):
        for block in range(1, blocks + 1):
            smaller = stage > 1 and block == 1
            name = f"stage{stage}_block{block}"
            x = basic_block(x, width(filters), 1 + smaller, name, smaller, True)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return layers.Dense(outputs, name="logits")(x)


resnet20 = functools.partial(of_depth, blocks=3)
resnet56 = functools.partial(of_depth, blocks=9)


def resnet18(inputs, outputs: int, width):
    """ResNet-18 for images of 32 x 32: a 3 x 3 stem without pooling, four stages of two.

    Reference: arXiv 1512.03385, table 1, its stem as of its section 4.2; BayesNAS, table
    S6, compresses it.
    """
    x = conv_bn(inputs, width(64), 3, 1, "stem")
    x = layers.ReLU(name="stem_relu")(x)
    for stage, filters in enumerate((64, 128, 256, 512), 1):
        for block in (1, 2):
            smaller = stage > 1 and block == 1
            name = f"stage{stage}_block{block}"
            x = basic_block(x, width(filters), 1 + smaller, name, smaller, True)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return layers.Dense(outputs, name="logits")(x)


def resnet50(inputs, outputs: int, width):
    """ResNet-50 with the stride on the 3 x 3 convolution, 4.09 G MACs at 224 x 224.

    Reference: arXiv 1512.03385, table 1; the stride as in arXiv 1706.02677, section 4.
    """
    x = conv_bn(inputs, width(64), 7, 2, "stem")
    x = layers.ReLU(name="stem_relu")(x)
    x = layers.MaxPooling2D(3, 2, padding="same", name="stem_pool")(x)
    for stage, (blocks, filters) in enumerate(STAGES, 1):
        for block in range(1, blocks + 1):
            name = f"stage{stage}_block{block}"
            strides = 2 if stage > 1 and block == 1 else 1
            y = conv_bn(x, width(filters), 1, 1, f"{name}_conv1")
            y = layers.ReLU(name=f"{name}_relu1")(y)
            y = conv_bn(y, width(filters), 3, strides, f"{name}_conv2")
            y = layers.ReLU(name=f"{name}_relu2")(y)
            y = conv_bn(y, width(4 * filters), 1, 1, f"{name}_conv3")
            if block == 1:
                x = conv_bn(x, width(4 * filters), 1, strides, f"{name}_skip")
            x = layers.Add(name=f"{name}_add")([x, y])
            x = layers.ReLU(name=f"{name}_relu3")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return layers.Dense(outputs, name="logits")(x)
