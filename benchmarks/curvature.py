"""Diagonal Hessians: their error against automatic differentiation, and their time.

    python benchmarks/curvature.py

Real digits of 8 x 8 after a short training, a dense and a convolutional network small enough
for their whole Hessian; times beside one gradient of the same batches, median of
alternating rounds. Writes benchmarks/results/curvature.json.
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

from tfsparse import curvature, files
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
            form: estimate.step_of(graph, form, PROBES) for form in curvature.FORMS
        }

        @tf.function
        def gradient(a, b, model=model, loss=loss):
            with tf.GradientTape() as tape:
                value = loss(b, model(a, training=False))
            return tape.gradient(value, [v.value for v in model.trainable_variables])

        tensors = [tf.convert_to_tensor(a) for a in part]
        spent: dict[str, list[float]] = {key: [] for key in ("gradient", *steps)}
        for _ in range(ROUNDS + 1):
            for key, step in (("gradient", gradient), *steps.items()):
                started = time.perf_counter()
                step(*tensors)
                spent[key].append(time.perf_counter() - started)
        middle = {key: statistics.median(own[1:]) for key, own in spent.items()}
        row = {
            "net": name,
            "error": {
                form: curvature.relative_error(
                    curvature.diagonal(model, [part], form, PROBES).diagonal, expected
                )
                for form in steps
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
