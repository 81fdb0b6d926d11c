"""Diagonal Hessians: their error against automatic differentiation, and their time.

    python benchmarks/curvature.py

Real digits of 8 x 8 after a short training, a dense and a convolutional network small enough
for their whole Hessian; times beside one gradient of the same batches, median of
alternating rounds. Of each kernel, too: the recursion's error, and that of its last step alone,
which sees every place by itself, behind curvatures of the layer's outputs that are exact.
Writes benchmarks/results/curvature.json.
"""

from __future__ import annotations

import pathlib
import statistics
import sys
import time

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tfsparse import curvature, files, gradients
from tfsparse.curvature import estimate
from tfsparse.engine.telling import environment
from tfsparse.graph import trace

RESULTS = pathlib.Path(__file__).parent / "results"
ROUNDS, SAMPLES, PROBES = 9, 128, 16


def digits():
    """Images `(n, 8, 8, 1)` in [0, 1] and labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return (data.images / 16.0).astype("float32")[..., None], data.target


def dense():
    """64-12-10, tanh."""
    image = keras.Input((8, 8, 1))
    x = layers.Dense(12, activation="tanh")(layers.Flatten()(image))
    return keras.Model(image, layers.Dense(10)(x))


def convolutional():
    """Two convolutions, BatchNorm, both poolings and a residual sum."""
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(6, 3, use_bias=False)(image)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.MaxPooling2D(2)(x)
    y = layers.Conv2D(6, 3, padding="same", activation="relu")(x)
    x = layers.AveragePooling2D(3)(layers.Add()([x, y]))
    return keras.Model(image, layers.Dense(10)(layers.Flatten()(x)))


def exact(model, x, y) -> dict[str, np.ndarray]:
    """The diagonal by automatic differentiation, column by column."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    found = {}
    for variable in model.trainable_variables:
        with tf.GradientTape(persistent=True) as outer:
            with tf.GradientTape() as inner:
                value = loss(y, model(x, training=False))
            slope = tf.reshape(inner.gradient(value, variable.value), [-1])
        block = outer.jacobian(slope, variable.value, experimental_use_pfor=False)
        size = int(np.prod(variable.shape))
        own = np.diag(np.asarray(block).reshape(size, size))
        found[variable.path] = own.reshape(variable.shape)
    return found


def of_outputs(model, layer, x, y) -> tuple:
    """The exact diagonal by what a layer puts out before its activation, and
    what comes in.

    One column of every sample's Hessian at a time: samples do not meet.
    """
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    calls = trace.read(model).calls
    (own,) = (n for n, c in enumerate(calls) if c.operation is layer)
    values = {id(t): x for t in trace.read(model).inputs}

    def onwards(h, held):
        held = dict(held)
        for number, call in enumerate(calls[own:]):
            arguments = [held.get(id(t)) for t in call.inputs]
            made = layer.activation(h) if not number else _called(call, arguments)
            held[id(call.outputs[0])] = made
        return loss(y, held[id(calls[-1].outputs[0])])

    for call in calls[:own]:
        values[id(call.outputs[0])] = _called(
            call, [values[id(t)] for t in call.inputs]
        )
    before = layer.activation
    layer.activation = keras.activations.linear
    h = layer(values[id(calls[own].inputs[0])])
    layer.activation = before
    found = np.zeros((len(x), int(np.prod(h.shape[1:]))), "float32")

    @tf.function
    def column(h, k):
        with tf.GradientTape() as outer:
            outer.watch(h)
            with tf.GradientTape() as inner:
                inner.watch(h)
                value = onwards(h, values)
            slope = tf.reshape(inner.gradient(value, h), (len(x), -1))[:, k]
        return tf.reshape(outer.gradient(slope, h), (len(x), -1))[:, k]

    for k in range(found.shape[1]):
        found[:, k] = column(h, tf.constant(k))
    return found.reshape(h.shape), values[id(calls[own].inputs[0])]


def _called(call, arguments):
    args, kwargs = call.fill(arguments)
    if trace.takes_training(call.operation):
        kwargs = {**kwargs, "training": False}
    return call.operation(*args, **kwargs)


def apart(model, x, y) -> dict[str, np.ndarray]:
    """Kernel -> sum over places of x^2 H_h, H_h exact: places of one filter by themselves."""
    found = {}
    for layer in model.layers:
        if not hasattr(layer, "kernel"):
            continue
        bends, inputs = of_outputs(model, layer, x, y)

        def squared(kernel, layer=layer, inputs=inputs):
            if isinstance(layer, layers.Dense):
                return tf.matmul(tf.square(inputs), kernel)
            return tf.nn.conv2d(
                tf.square(inputs), kernel, layer.strides, layer.padding.upper()
            )

        (own,) = gradients.pullback(squared, [layer.kernel.value], bends)
        found[layer.kernel.path] = np.asarray(own)
    return found


def main() -> int:
    """The program."""
    x, y = digits()
    rows = []
    for name, make in (("dense", dense), ("convolutional", convolutional)):
        keras.utils.set_random_seed(0)
        model = make()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01), loss)
        model.fit(x, y, epochs=5, verbose=0)
        part = x[:SAMPLES], y[:SAMPLES]
        expected = exact(model, *part)
        graph = trace.read(model)
        steps = {
            form: estimate.step_of(graph, form, PROBES, loss)
            for form in curvature.FORMS
        }

        @tf.function
        def gradient(a, b, model=model, loss=loss):
            with tf.GradientTape() as tape:
                value = loss(b, model(a, training=False))
            return tape.gradient(value, [v.value for v in model.trainable_variables])

        images, labels = (tf.convert_to_tensor(a) for a in part)
        spent: dict[str, list[float]] = {key: [] for key in ("gradient", *steps)}
        for _ in range(ROUNDS + 1):
            for key, step in (("gradient", gradient), *steps.items()):
                started = time.perf_counter()
                step(images if key == "gradient" else [images], labels)
                spent[key].append(time.perf_counter() - started)
        middle = {key: statistics.median(own[1:]) for key, own in spent.items()}
        recursive = curvature.diagonal(model, [part], "recursive").diagonal
        row = {
            "net": name,
            "error": {
                form: curvature.relative_error(
                    curvature.diagonal(model, [part], form, PROBES).diagonal, expected
                )
                for form in steps
            },
            "kernels": {
                path: {
                    "places_apart": curvature.relative_error(
                        {path: own}, {path: expected[path]}
                    ),
                    "recursive": curvature.relative_error(
                        recursive, {path: expected[path]}
                    ),
                }
                for path, own in apart(model, *part).items()
            },
            "times": {form: middle[form] / middle["gradient"] for form in steps},
        }
        rows.append(row)
        print(row)
    document = {
        "samples": SAMPLES,
        "probes": PROBES,
        "environment": environment(),
        "rows": rows,
    }
    files.write_json(RESULTS / "curvature.json", document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
