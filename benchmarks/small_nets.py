"""MNIST in two kilobytes without a search: networks that others published or drew by hand.

    python benchmarks/small_nets.py            # rows that are missing
    python benchmarks/small_nets.py --table
    python benchmarks/small_nets.py --publish  # mean errors into tfsparse/search/published.json

The two networks that SpArSe's authors put on a micro:bit (mbartling/ubit_uTensor_demo), whose
accuracies they do not state, trained here: all features first, then those of the largest rows of
the last kernel are gathered, as many as there, and it is trained on. Beside them three networks
drawn by hand. Adam along a cosine, shifts of up to two pixels, 30 epochs each, three seeds, int8
on TensorFlow Lite Micro, all 10,000 test images.
Writes benchmarks/results/small_nets.json, each row as it is done.
"""

from __future__ import annotations

import json
import pathlib
import statistics
import sys

import jobs
import keras
import numpy as np
from keras import layers

from tfsparse import files

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "small_nets.json"
PUBLISHED = ROOT / "tfsparse" / "search" / "published.json"
RUNS = pathlib.Path("runs") / "small_nets"

SEEDS, EPOCHS = (0, 1, 2), 30
GATHERED = {"sparse_9x9": 122, "sparse_28x28": 119}
"""Features that reach the last layer of SpArSe's two networks."""
DRAWN = ("drawn_1768", "drawn_2998", "drawn_3899")

KEYS = ("net", "seed")
FLAGS = ("--data=mnist", "--method=none", "--augment=shift=2", "--fine_tune_epochs=0",
         f"--epochs={EPOCHS}", "--settle_learning_rate=0.008", "--tensorboard=false",
         "--formats=keras,tflite_int8")  # fmt: skip


def sparse_9x9(shape, outputs: int):
    """Pictures of 9 x 9, 22 filters of 5 x 5, dense."""
    image = keras.Input(shape)
    x = layers.AveragePooling2D(3)(image)
    x = layers.Conv2D(22, 5, activation="relu", name="conv")(x)
    x = layers.Dense(outputs, name="out")(layers.Flatten(name="flat")(x))
    return keras.Model(image, x)


def sparse_28x28(shape, outputs: int):
    """9 filters of 5 x 5, pooled, dense; no biases."""
    image = keras.Input(shape)
    x = layers.Conv2D(9, 5, use_bias=False, name="conv")(image)
    x = layers.ReLU()(layers.MaxPooling2D()(x))
    x = layers.Flatten(name="flat")(x)
    return keras.Model(image, layers.Dense(outputs, use_bias=False, name="out")(x))


def _normed(x, layer):
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(layer(x)))


def drawn_1768(shape, outputs: int):
    """5 x 5 / 2: 6, 3 x 3: 8, pooling 2, 3 x 3: 14, pooling 3, dense."""
    image = keras.Input(shape)
    x = _normed(image, layers.Conv2D(6, 5, 2, use_bias=False))
    x = layers.MaxPooling2D()(_normed(x, layers.Conv2D(8, 3, use_bias=False)))
    x = layers.MaxPooling2D(3)(_normed(x, layers.Conv2D(14, 3, use_bias=False)))
    return keras.Model(image, layers.Dense(outputs)(layers.Flatten()(x)))


def drawn_2998(shape, outputs: int):
    """5 x 5 / 2: 8, separable 3 x 3: 12, pooling 2, separable 3 x 3: 24, dense."""
    image = keras.Input(shape)
    x = _normed(image, layers.Conv2D(8, 5, 2, use_bias=False))
    for filters in (12, 24):
        x = _normed(x, layers.DepthwiseConv2D(3, use_bias=False))
        x = _normed(x, layers.Conv2D(filters, 1, use_bias=False))
        x = layers.MaxPooling2D()(x) if filters == 12 else x
    return keras.Model(image, layers.Dense(outputs)(layers.Flatten()(x)))


def drawn_3899(shape, outputs: int):
    """5 x 5 / 2: 8, 3 x 3: 8, pooling 2, 3 x 3: 19, dense."""
    image = keras.Input(shape)
    x = _normed(image, layers.Conv2D(8, 5, 2, use_bias=False))
    x = layers.MaxPooling2D()(_normed(x, layers.Conv2D(8, 3, use_bias=False)))
    x = _normed(x, layers.Conv2D(19, 3, use_bias=False))
    return keras.Model(image, layers.Dense(outputs)(layers.Flatten()(x)))


def gathered(model, count: int):
    """The network with so many of its flat features, those of the largest rows of `out`."""
    last = model.get_layer("out")
    kernel = np.asarray(last.kernel)
    kept = np.sort(np.argsort(-np.square(kernel).sum(1), kind="stable")[:count])
    x = keras.ops.take(model.get_layer("flat").output, kept.tolist(), axis=-1)
    small = layers.Dense(kernel.shape[1], use_bias=last.use_bias, name="out")
    found = keras.Model(model.inputs, small(x))
    small.set_weights([kernel[kept], *last.get_weights()[1:]])
    return found


def wanted() -> list[dict]:
    """Every row, seed by seed."""
    return [{"net": net, "seed": seed} for seed in SEEDS for net in (*GATHERED, *DRAWN)]


def run(row: dict, count: int) -> dict:
    """One network, trained; where features are gathered, twice."""
    folder = RUNS / f"{row['net']}-{row['seed']}"
    flags = [*FLAGS, f"--seed={row['seed']}"]
    report = jobs.main_job([*flags, f"--model=small_nets:{row['net']}"], folder, count)
    if row["net"] in GATHERED and "error" not in report:
        whole = keras.saving.load_model(folder / "model.keras", compile=False)
        path = folder / "gathered.keras"
        gathered(whole, GATHERED[row["net"]]).save(path)
        folder = RUNS / f"{row['net']}-{row['seed']}-gathered"
        report = jobs.main_job([*flags, f"--model={path}"], folder, count)
    if "error" in report:
        return row | report
    (last,) = (stage for stage in report["stages"] if stage["name"] == "mcu")
    names = ("params", "weight_bytes", "macs", "file_bytes", "arena_bytes")
    return row | {
        "accuracy": last["accuracy"],
        **{name: last[name] for name in names},
        **memory_of(folder / "model.keras"),
    }


def memory_of(path: pathlib.Path) -> dict[str, int]:
    """Working memory of models 5 and 6, in bytes at int8."""
    import tfsparse

    cost = tfsparse.measure(keras.saving.load_model(path, compile=False))
    names = ("working_memory_1", "working_memory_2")
    return {name: int(getattr(cost, name)) for name in names}


def table(rows: list[dict]) -> list[str]:
    """Mean and spread over the seeds that are there."""
    lines = ["| network | seeds | accuracy | weights, B | working memory, B (5, 6) | MACs |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for net in (*GATHERED, *DRAWN):
        own = [row for row in rows if row["net"] == net and "accuracy" in row]
        if own:
            score = jobs.spread([row["accuracy"] for row in own])
            one = own[0]
            lines.append(
                f"| {net} | {len(own)} | {score} | {one['weight_bytes']:,} "
                f"| {one['working_memory_1']:,}, {one['working_memory_2']:,} "
                f"| {one['macs']:,} |"
            )
    return lines


def publish(rows: list[dict]) -> None:
    """Writes what a search draws beside its front: mean errors of what was trained here."""
    held = json.loads(PUBLISHED.read_text())
    names = {"sparse_9x9": "SpArSe, 9 x 9", "sparse_28x28": "SpArSe, 28 x 28"}
    names |= {net: "drawn by hand" for net in DRAWN}
    source = "trained here, three seeds: benchmarks/small_nets.py"
    kept = [row for row in held["mnist"] if row["source"] != source]
    for net, name in names.items():
        own = [row for row in rows if row["net"] == net and "accuracy" in row]
        if len(own) == len(SEEDS):
            error = 1 - statistics.mean(row["accuracy"] for row in own)
            sizes = {
                key: own[0][key]
                for key in (
                    "weight_bytes",
                    "working_memory_1",
                    "working_memory_2",
                    "macs",
                )
            }
            kept.append(
                {"name": name, "error": round(error, 5), **sizes, "source": source}
            )
    held["mnist"] = kept
    lines = [f"  {json.dumps(row)}" for row in kept]
    PUBLISHED.write_text('{\n "mnist": [\n' + ",\n".join(lines) + "\n ]\n}\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["--publish"]:
        publish(files.read_json(RESULTS))
        sys.exit(0)
    sys.exit(jobs.program(__doc__, RESULTS, wanted, KEYS, run, table))
