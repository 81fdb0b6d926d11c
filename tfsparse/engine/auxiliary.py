"""An auxiliary head: a second classifier on a cell inside, while a network trains.

Reference: Liu et al. 2019, arXiv:1806.09055, section A.2 and its code; Szegedy et al. 2015.
"""

from __future__ import annotations

import re

import keras
from keras import layers

from tfsparse import optimizers
from tfsparse.graph import rebuild
from tfsparse.zoo import operations

ENTRY = re.compile(r"(?:normal|reduction)(\d+)_pre1_relu$")
"""The layer through which a cell takes what the cell before it puts out."""

FIRST, SECOND = 128, 768
"""Filters of the head's two convolutions."""


def check(model) -> None:
    """Checks that a head has a place: behind the cell that halves the picture at two thirds.

    Raises:
        ValueError: It has none.
    """
    _entry(model)


def _entry(model) -> str:
    """The name of the layer that reads the cell which is headed."""
    found = {
        int(told[1]): layer.name
        for layer in model.layers
        if (told := ENTRY.match(layer.name))
    }
    behind = 2 * max(found, default=0) // 3 + 2
    if behind not in found:
        raise ValueError(
            "`auxiliary` must be 0 but for networks of cells, of which one stands behind two "
            f"thirds. Received: {model.name!r} with {len(found)} cells."
        )
    return found[behind]


def headed(model):
    """A copy of a network with the head as a second output.

    ReLU, average pooling of 5 by 5, 1 x 1 convolution, 2 x 2 convolution, classifier; each
    convolution with BatchNorm and ReLU. Where the picture is smaller, so are the windows.

    Args:
        model: A network of cells with one output, `(classes,)`.

    Raises:
        ValueError: See `check`.
    """
    entry, held = _entry(model), []

    def before(name, index, number, tensor):
        if name == entry:
            held.append(tensor)
        return tensor

    copy = rebuild.graft(model, before=before)
    (inside,), (image,), (output,) = held, copy.inputs, copy.outputs
    return keras.Model(image, [output, _head(inside, output.shape[-1])])


def _head(x, outputs: int):
    kind = operations.KINDS[operations.rank_of(x)]
    size = min(x.shape[1:-1])
    x = layers.ReLU(name="auxiliary_relu")(x)
    x = kind.average_pool(min(5, size), 3, name="auxiliary_pool")(x)
    x = operations.conv(x, FIRST, 1, "auxiliary_1")
    x = layers.ReLU(name="auxiliary_1_relu")(operations.norm(x, "auxiliary_1"))
    window = min(2, *x.shape[1:-1])
    x = kind.conv(SECOND, window, use_bias=False, name="auxiliary_2")(x)
    x = layers.ReLU(name="auxiliary_2_relu")(operations.norm(x, "auxiliary_2"))
    return layers.Dense(outputs, name="auxiliary")(kind.whole(name="auxiliary_mean")(x))


def without(model, like):
    """A copy of a network whose head has done its work, named as `like`."""
    inner = keras.Model(model.inputs[0], model.outputs[0], name=like.name)
    return rebuild.copied(inner)


class Headed(keras.Model):
    """Trains a compiled network of two outputs on the labels twice: L + weight * L_head.

    Fit this model; it shares the network's layers and optimizer. Metrics, and the loss when
    not training, are those of the first output.

    Args:
        network: From `headed`, compiled as if it had the first output alone.
        weight: Of the head's loss, not negative.
    """

    def __init__(self, network, weight: float):
        super().__init__(name=f"{network.name}_headed")
        self.network, self.weight = network, weight
        optimizers.recompile(self, network, network.optimizer)
        self.built = True

    def call(self, x, training=None):
        return self.network(x, training=training)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """The loss on labels, and in training the head's."""
        whole, head = y_pred
        loss = super().compute_loss(x, y, whole, sample_weight, training)
        if training:
            more = super().compute_loss(x, y, head, sample_weight, training)
            loss = loss + self.weight * more
        return loss

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Those of the first output."""
        return super().compute_metrics(x, y, y_pred[0], sample_weight)
