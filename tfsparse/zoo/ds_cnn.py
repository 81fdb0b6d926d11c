"""DS-CNN, the keyword spotter of MLPerf Tiny."""

from __future__ import annotations

from keras import layers

from tfsparse.zoo.resnet import BN_MOMENTUM, conv_bn


def ds_cnn(inputs, outputs: int, width):
    """DS-CNN: a strided stem and four depthwise-separable blocks of 64 filters.

    24,908 parameters for 12 words of 49 x 10 features.

    Reference: MLPerf Tiny v1.0, keyword spotting.
    """
    x = conv_bn(inputs, width(64), (10, 4), 2, "stem", bias=True)
    x = layers.ReLU(name="stem_relu")(x)
    x = layers.Dropout(0.2, name="stem_dropout")(x)
    for block in range(1, 5):
        name = f"block{block}"
        x = layers.DepthwiseConv2D(3, padding="same", name=f"{name}_depthwise")(x)
        x = layers.BatchNormalization(
            momentum=BN_MOMENTUM, name=f"{name}_depthwise_bn"
        )(x)
        x = layers.ReLU(name=f"{name}_depthwise_relu")(x)
        x = conv_bn(x, width(64), 1, 1, f"{name}_pointwise", bias=True)
        x = layers.ReLU(name=f"{name}_pointwise_relu")(x)
    x = layers.Dropout(0.4, name="dropout")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return layers.Dense(outputs, name="logits")(x)
