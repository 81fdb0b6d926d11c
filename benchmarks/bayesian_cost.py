"""What a training step of a Bayesian layer costs beside one of the plain layer.

    python benchmarks/bayesian_cost.py [--rounds=40]

One network a layer class: the layer under a mean of squares, with Adam; Bayesian
compression has its factors on the outputs besides, and on the inputs of a Dense. Plain and
Bayesian steps alternate in short rounds; the ratio is the median over rounds, and has to be
2.2 at most. Each layer stands in two places: `within` a network, where gradients go on to
what is in front of it, and `first`, where the plain layer needs no gradient of its inputs
and makes two products of three, but factors on the inputs need it: six products, not four.
Dense layers at several batches: what the divergence and the variance cost for each weight
does not grow with the batch, the products do. Writes benchmarks/results/bayesian_cost.json.
"""

from __future__ import annotations

import argparse
import itertools
import pathlib
import statistics
import sys
import time

import keras
import numpy as np
from keras import layers

from tfsparse import files
from tfsparse.engine.telling import environment
from tfsparse.methods import BayesianCompression, SparseVD, placing

RESULTS = pathlib.Path(__file__).parent / "results"
STEPS = 20
ASKED = 2.2

LAYERS = {
    "Dense": ((784,), lambda: layers.Dense(300, name="layer")),
    "Conv1D": ((64, 32), lambda: layers.Conv1D(64, 5, name="layer")),
    "Conv2D": ((12, 12, 20), lambda: layers.Conv2D(50, 5, name="layer")),
    "DepthwiseConv2D": ((12, 12, 64), lambda: layers.DepthwiseConv2D(3, name="layer")),
}
"""Shapes as they stand in LeNet-300-100, LeNet-5 and DS-CNN; Conv1D alike."""

BATCHES = {"Dense": (128, 256, 512)}
"""Samples a batch; 128 for the other layers."""

KINDS = {
    "sparse_vd": lambda: SparseVD(),
    "bayesian_compression": lambda: BayesianCompression(),
}


PLACES = ("within", "first")


@keras.saving.register_keras_serializable("benchmarks")
class Front(layers.Layer):
    """Something to learn in front of a layer: adds one number to its inputs."""

    def build(self, _):
        self.number = self.add_weight(shape=(), initializer="zeros")

    def call(self, inputs):
        return inputs + self.number


def networks(shape, make, place: str):
    """The layer plain, with Gaussian weights, and with random factors besides."""
    inputs = keras.Input(shape, name="inputs")
    front = inputs if place == "first" else Front(name="front")(inputs)
    plain = keras.Model(inputs, make()(front))
    ends = {"layer", "front" if place == "within" else "inputs"}
    found = {"plain": plain}
    for kind, method in KINDS.items():
        own = method()
        extra = {"prior": "log_uniform" if kind == "sparse_vd" else "normal"}
        swap, configure = own._swap(plain, lambda layer, extra=extra: extra)

        def after(name, index, outputs, own=own):
            if name not in ends or (name != "layer" and len(shape) > 1):
                return outputs
            return own._scale(outputs.shape[-1], f"{name}_factors", 0)(outputs)

        noisy = after if kind == "bayesian_compression" else None
        found[kind] = placing.graft(plain, configure, noisy, swap=swap)
        own.set_strength(found[kind], 1e-5)
    return found


def step_of(model, x, y):
    """A function that makes `STEPS` training steps."""
    import tensorflow as tf

    model.compile("adam", "mse", steps_per_execution=STEPS, jit_compile=False)
    data = tf.data.Dataset.from_tensors((x, y)).cache().repeat(STEPS)
    model.fit(data, verbose=0)
    step = model.train_function
    return lambda: step(iter(data))


def measured(name, shape, make, place: str, batch: int, rounds: int) -> list[dict]:
    """The rows of one layer class at one place and size of the batch."""
    rng = np.random.default_rng(0)
    models = networks(shape, make, place)
    x = rng.normal(size=(batch, *shape)).astype("float32")
    y = np.zeros((batch, *models["plain"].output_shape[1:]), "float32")
    steps = {kind: step_of(model, x, y) for kind, model in models.items()}
    spent: dict[str, list[float]] = {kind: [] for kind in steps}
    for _ in range(rounds):
        for kind, step in steps.items():
            started = time.perf_counter()
            step()
            spent[kind].append(time.perf_counter() - started)
    rows = []
    for kind in KINDS:
        ratios = [b / a for a, b in zip(spent["plain"], spent[kind], strict=True)]
        ratio = statistics.median(ratios)
        row = {
            "layer": f"{name} ({kind})",
            "place": place,
            "batch": batch,
            "ratio": ratio,
            "fastest_ratio": min(spent[kind]) / min(spent["plain"]),
            "reached": ratio <= ASKED,
            "plain_ms": 1e3 * statistics.median(spent["plain"]) / STEPS,
        }
        rows.append(row)
        print(
            f"{row['layer']}, {place}, batch {batch}: {row['ratio']:.2f} "
            f"({row['fastest_ratio']:.2f})"
            + ("" if row["reached"] else f", asked: {ASKED}"),
            flush=True,
        )
    return rows


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    rows = []
    for name, (shape, make) in LAYERS.items():
        for place, batch in itertools.product(PLACES, BATCHES.get(name, (128,))):
            rows += measured(name, shape, make, place, batch, rounds)
    document = {
        "rounds": rounds,
        "asked": ASKED,
        "environment": environment(),
        "rows": rows,
    }
    files.write_json(RESULTS / "bayesian_cost.json", document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
