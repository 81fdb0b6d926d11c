"""VGG-16 with BatchNorm, as used on images of 32 x 32."""

from __future__ import annotations

from keras import layers

from tfsparse.zoo.resnet import BN_MOMENTUM

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg16(inputs, outputs: int, width):
    """VGG-16: 13 convolutions with BatchNorm, one hidden Dense of 512.

    Pooling stops when the image is used up, so inputs smaller than 32 x 32 fit.

    Reference: arXiv 1409.1556, configuration D; the head of the CIFAR-10 variants.
    """
    x = inputs
    for stage, filters in enumerate(STAGES, 1):
        for number, units in enumerate(filters, 1):
            name = f"conv{stage}_{number}"
            x = layers.Conv2D(
                width(units), 3, padding="same", use_bias=False, name=name
            )(x)
            x = layers.BatchNormalization(momentum=BN_MOMENTUM, name=f"{name}_bn")(x)
            x = layers.ReLU(name=f"{name}_relu")(x)
        if min(x.shape[1:3]) >= 2:
            x = layers.MaxPooling2D(2, name=f"pool{stage}")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(width(512), activation="relu", name="fc1")(x)
    return layers.Dense(outputs, name="logits")(x)
