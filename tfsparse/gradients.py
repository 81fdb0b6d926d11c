"""The only automatic differentiation of the package: `keras.ops` has none."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf


def of_batches(
    model, loss: Callable, x, y, batch_size: int = 32
) -> Iterator[tuple[int, dict[int, np.ndarray]]]:
    """Gradients of the mean loss of each batch by every trainable variable.

    Args:
        model: A built model.
        loss: `(targets, outputs) -> losses`, such as a `keras.losses.Loss`.
        x: Inputs, arrays `(samples, ...)` in the model's structure.
        y: Targets, arrays `(samples, ...)`.
        batch_size: Samples in a batch; the last may be smaller.

    Yields:
        The number of samples, and `id(variable)` -> gradient, zeros where the loss does
        not depend on it.
    """
    variables = model.trainable_variables

    @tf.function(reduce_retracing=True)
    def slopes(inputs, targets):
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(loss(targets, model(inputs, training=False)))
        return tape.gradient(
            value,
            [v.value for v in variables],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )

    samples = len(keras.tree.flatten(x)[0])
    for start in range(0, samples, batch_size):
        part = slice(start, start + batch_size)
        inputs, targets = keras.tree.map_structure(
            lambda a, p=part: tf.convert_to_tensor(a[p]), (x, y)
        )
        found = [
            tf.convert_to_tensor(slope).numpy() for slope in slopes(inputs, targets)
        ]
        ids = [id(variable) for variable in variables]
        yield min(batch_size, samples - start), dict(zip(ids, found, strict=True))


def cross_entropy(model):
    """The loss of a classifier whose labels are whole numbers, on logits or not."""
    last = getattr(model.layers[-1], "activation", None)
    logits = last is not keras.activations.softmax and not isinstance(
        model.layers[-1], keras.layers.Softmax
    )
    return keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
