"""Two reference networks of MLPerf Tiny: ResNet-8 and the depthwise-separable CNN."""

from __future__ import annotations

from keras import layers


def _conv_bn(x, filters: int, kernel: int, strides: int, name: str):
    x = layers.Conv2D(
        filters, kernel, strides=strides, padding="same", use_bias=False, name=name
    )(x)
    return layers.BatchNormalization(name=f"{name}_bn")(x)


def resnet8(inputs, outputs: int, width):
    """ResNet-8: three residual stages of 16, 32 and 64 filters.

    Reference: MLPerf Tiny v1.0, image classification.
    """
    x = _conv_bn(inputs, width(16), 3, 1, "stem")
    x = layers.ReLU(name="stem_relu")(x)
    for stage, filters in enumerate((16, 32, 64), 1):
        strides = 1 if stage == 1 else 2
        y = _conv_bn(x, width(filters), 3, strides, f"stage{stage}_conv1")
        y = layers.ReLU(name=f"stage{stage}_relu1")(y)
        y = _conv_bn(y, width(filters), 3, 1, f"stage{stage}_conv2")
        if stage > 1:
            x = layers.Conv2D(
                width(filters), 1, strides=2, padding="same", name=f"stage{stage}_skip"
            )(x)
        x = layers.Add(name=f"stage{stage}_add")([x, y])
        x = layers.ReLU(name=f"stage{stage}_relu2")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return layers.Dense(outputs, name="logits")(x)


def ds_cnn(inputs, outputs: int, width):
    """DS-CNN: a strided stem and four depthwise-separable blocks of 64 filters.

    Reference: MLPerf Tiny v1.0, keyword spotting.
    """
    x = _conv_bn(inputs, width(64), (10, 4), 2, "stem")
    x = layers.ReLU(name="stem_relu")(x)
    x = layers.Dropout(0.2, name="stem_dropout")(x)
    for block in range(1, 5):
        name = f"block{block}"
        x = layers.DepthwiseConv2D(
            3, padding="same", use_bias=False, name=f"{name}_depthwise"
        )(x)
        x = layers.BatchNormalization(name=f"{name}_depthwise_bn")(x)
        x = layers.ReLU(name=f"{name}_depthwise_relu")(x)
        x = _conv_bn(x, width(64), 1, 1, f"{name}_pointwise")
        x = layers.ReLU(name=f"{name}_pointwise_relu")(x)
    x = layers.Dropout(0.4, name="dropout")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return layers.Dense(outputs, name="logits")(x)
