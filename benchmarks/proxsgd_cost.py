"""What a training step of ProxSGD costs beside Keras's SGD with momentum and Adam.

    python benchmarks/proxsgd_cost.py [--rounds=200] [--steps=4]

LeNet-5 and ResNet-8 on MNIST-shaped random batches of 128, every coupled unit penalised,
and a perceptron of which each weight is a group of its own. The optimizers take turns,
a round each, in one process; a round is `steps` steps of `fit`'s compiled function, short
since the machine's speed drifts, and the ratio is the median over the rounds of times taken
side by side. Writes
benchmarks/results/proxsgd_cost.json.
"""

from __future__ import annotations

import pathlib
import statistics
import sys
import time

RESULTS = pathlib.Path(__file__).parent / "results" / "proxsgd_cost.json"
BATCH = 128


def case(name: str):
    """A model builder and the partition of its weights."""
    import keras

    import tfsparse
    from tfsparse import zoo
    from tfsparse.methods import partitions

    if name == "weights":
        return (
            lambda: keras.Sequential(
                [keras.Input((28, 28, 1)), keras.layers.Flatten(),
                 keras.layers.Dense(120, activation="relu"), keras.layers.Dense(10)]
            ),
            lambda model: partitions.by_shape(model, "weight"),
        )  # fmt: skip
    return (
        lambda: zoo.build(name, (28, 28, 1), 10),
        lambda model: partitions.units(model, tfsparse.find_groups(model)),
    )


def row(name: str, rounds: int, steps: int) -> dict:
    """Median seconds of a step and ratios for one model."""
    import keras
    import numpy as np
    import tensorflow as tf

    from tfsparse.optimizers import ProxSGD

    build, cut = case(name)
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(BATCH * steps, 28, 28, 1)).astype("float32")
    y = rng.integers(0, 10, BATCH * steps)
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH).cache().repeat()
    running = {}
    for kind in ("sgd", "adam", "prox"):
        keras.utils.set_random_seed(0)
        model = build()
        if kind == "sgd":
            optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
        elif kind == "adam":
            optimizer = keras.optimizers.Adam(1e-4)
        else:
            partition = cut(model)
            optimizer = ProxSGD(partition, 1e-5, 0.1, 0.1)
        model.compile(
            optimizer,
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=False,
            steps_per_execution=steps,
        )
        model.make_train_function()
        step = model.train_function
        stream = iter(batches)
        step(stream)  # traces
        running[kind] = (lambda step=step, stream=stream: step(stream)), model
    seconds: dict[str, list[float]] = {kind: [] for kind in running}
    order = list(running)
    for number in range(rounds):
        for kind in order[number % 3 :] + order[: number % 3]:
            started = time.perf_counter()
            running[kind][0]()
            seconds[kind].append((time.perf_counter() - started) / steps)

    def ratio(other: str) -> float:
        pairs = zip(seconds["prox"], seconds[other], strict=True)
        return statistics.median(a / b for a, b in pairs)

    return {
        "model": name,
        "groups": int(partition.groups),
        "milliseconds": {
            kind: 1e3 * statistics.median(times) for kind, times in seconds.items()
        },
        "to_sgd": ratio("sgd"),
        "to_adam": ratio("adam"),
        "rounds": rounds,
        "steps": steps,
    }


def main(arguments: list[str]) -> int:
    """Measures all three and writes the result."""
    from tfsparse import files

    options = dict(a.lstrip("-").split("=", 1) for a in arguments)
    rounds, steps = int(options.get("rounds", 200)), int(options.get("steps", 4))
    rows = []
    for name in ("lenet5", "resnet8", "weights"):
        rows.append(row(name, rounds, steps))
        print(rows[-1], flush=True)
    files.write_json(RESULTS, {"batch": BATCH, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
