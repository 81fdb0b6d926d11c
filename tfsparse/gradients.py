"""The only automatic differentiation of the package: `keras.ops` has none."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf


def of_loss(
    model, loss: Callable, x, y, batch_size: int = 128
) -> dict[int, np.ndarray]:
    """Gradient of the mean loss with respect to every trainable variable.

    Args:
        model: A built model.
        loss: `(targets, outputs) -> losses`, such as a `keras.losses.Loss`.
        x: Inputs, arrays `(samples, ...)` in the model's structure.
        y: Targets, arrays `(samples, ...)`.
        batch_size: Samples that are differentiated at once.

    Returns:
        `id(variable)` -> gradient; zeros where the loss does not depend on it.
    """
    samples = len(keras.tree.flatten(x)[0])
    totals = [np.zeros(v.shape, "float64") for v in model.trainable_variables]
    for start in range(0, samples, batch_size):
        part = slice(start, start + batch_size)
        inputs, targets = keras.tree.map_structure(lambda a, p=part: a[p], (x, y))
        count = len(keras.tree.flatten(inputs)[0])
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(loss(targets, model(inputs, training=False)))
        weights = [v.value for v in model.trainable_variables]
        for total, slope in zip(totals, tape.gradient(value, weights), strict=True):
            if slope is not None:
                total += count / samples * tf.convert_to_tensor(slope).numpy()
    variables = model.trainable_variables
    return {id(v): total for v, total in zip(variables, totals, strict=True)}


def cross_entropy(model):
    """The loss of a classifier whose labels are whole numbers, on logits or not."""
    last = getattr(model.layers[-1], "activation", None)
    logits = last is not keras.activations.softmax and not isinstance(
        model.layers[-1], keras.layers.Softmax
    )
    return keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
