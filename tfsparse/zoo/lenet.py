"""LeNet-300-100, and LeNet-5 in its Caffe form."""

from __future__ import annotations

from keras import layers


def lenet_300_100(inputs, outputs: int, width):
    """LeNet-300-100: 266,610 parameters on MNIST (LeCun et al., 1998)."""
    x = layers.Flatten(name="flatten")(inputs)
    for number, units in enumerate((300, 100), 1):
        x = layers.Dense(width(units), activation="relu", name=f"fc{number}")(x)
    return layers.Dense(outputs, name="logits")(x)


def lenet5(inputs, outputs: int, width):
    """LeNet-5 as in Caffe, 20-50-500: 431,080 parameters on MNIST.

    ReLU also behind the convolutions, which Caffe's own file leaves linear.
    """
    x = inputs
    for number, filters in enumerate((20, 50), 1):
        x = layers.Conv2D(width(filters), 5, activation="relu", name=f"conv{number}")(x)
        x = layers.MaxPooling2D(2, name=f"pool{number}")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(width(500), activation="relu", name="fc1")(x)
    return layers.Dense(outputs, name="logits")(x)
