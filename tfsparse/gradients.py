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


def pullback(function: Callable, inputs: list, upstream) -> list:
    """What a gradient by a function's outputs is by its inputs: J^T upstream.

    Args:
        function: Tensors -> tensor.
        inputs: The tensors.
        upstream: A tensor of the shape of `function(*inputs)`.

    Returns:
        A tensor for each input; zeros where the function does not depend on it.
    """
    inputs = [tf.convert_to_tensor(x) for x in inputs]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = function(*inputs)
    return tape.gradient(
        outputs, inputs, upstream, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )


def slope_and_bend(function: Callable, x):
    """First and second derivative of an element-wise function, of the shape of `x`."""
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = function(x)
        slope = inner.gradient(y, x, unconnected_gradients="zero")
    return slope, outer.gradient(slope, x, unconnected_gradients="zero")


def hessian_products(model, loss: Callable, x, y, vectors: list) -> list:
    """The Hessian of the mean loss times a vector, by every trainable variable.

    Args:
        model: A built model, run as at inference.
        loss: `(targets, outputs) -> losses`.
        x, y: A batch.
        vectors: A tensor for each trainable variable.

    Returns:
        A tensor for each trainable variable.
    """
    values = [v.value for v in model.trainable_variables]
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            value = tf.reduce_mean(loss(y, model(x, training=False)))
        slopes = inner.gradient(value, values, unconnected_gradients="zero")
        product = tf.add_n(
            [
                tf.reduce_sum(tf.convert_to_tensor(s) * v)
                for s, v in zip(slopes, vectors, strict=True)
            ]
        )
    found = outer.gradient(product, values, unconnected_gradients="zero")
    return [tf.convert_to_tensor(g) for g in found]


def output_products(model, x, upstream: Callable) -> list:
    """J^T u by every trainable variable, u what `upstream` makes of the outputs.

    Args:
        model: A built model, run as at inference.
        x: A batch.
        upstream: Outputs -> a tensor of their shape.
    """
    values = [v.value for v in model.trainable_variables]
    with tf.GradientTape() as tape:
        outputs = model(x, training=False)
    found = tape.gradient(
        outputs, values, upstream(outputs), unconnected_gradients="zero"
    )
    return [tf.convert_to_tensor(g) for g in found]


def after(tensors: list, others: list) -> list:
    """The same tensors, not to be read before the others are there."""
    with tf.control_dependencies(others):
        return [tf.identity(tensor) for tensor in tensors]


def compiled(function: Callable) -> Callable:
    """The function as a graph, one for all batches of a size."""
    return tf.function(function, reduce_retracing=True, autograph=False)


def slope(function: Callable, x):
    """The gradient of a scalar function, of the shape of `x`."""
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = function(x)
    return tape.gradient(value, x, unconnected_gradients="zero")


def hessians(function: Callable, x):
    """Hessians of a sum over samples, one a sample: `(batch, outputs, outputs)`.

    Args:
        function: `(batch, outputs) -> scalar`, a sum of what depends on one sample each.
        x: `(batch, outputs)`.
    """
    x = tf.convert_to_tensor(x)
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(x)
        by_output = tf.unstack(slope(function, x), axis=1)
    rows = [outer.gradient(own, x, unconnected_gradients="zero") for own in by_output]
    return tf.stack(rows, axis=1)
