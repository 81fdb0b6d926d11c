"""One ShrinkNets run against searching the layer widths with keras-tuner.

The draft's main claim: a network's size is found while it trains once, where a search
trains many. Both look for the widths of a two-layer perceptron on MNIST, from the same
largest network, with the same batch, optimizer and epochs a trial; each search gets
the same wall time. Compared on the validation split; the test split is not used.

    python benchmarks/size_search.py [--seconds 240]

Writes benchmarks/results/size_search.{json,png}; searches done before are kept.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time

import keras
import keras_tuner
import numpy as np
from matplotlib.figure import Figure

from tfsparse import data, files, fitting, zoo
from tfsparse.engine.telling import environment
from tfsparse.graph import measure
from tfsparse.methods import ShrinkNets

RESULTS = os.path.join(os.path.dirname(__file__), "results", "size_search")
LARGEST = (300, 100)
EPOCHS = 12
BATCH = 128
STRENGTHS = (4e-4, 1e-3, 2e-3, 4e-3)
DECAY = 1e-5
SEARCHES = ("RandomSearch", "BayesianOptimization", "Hyperband")


class Data:
    """MNIST in memory, as both sides use it."""

    def __init__(self):
        dataset = data.load("mnist")
        self.train = dataset.x_train / np.float32(255), dataset.y_train
        self.validation = dataset.x_validation / np.float32(255), dataset.y_validation


def network(hidden: tuple[int, ...]):
    """A compiled perceptron of these widths."""
    model = zoo.build("mlp", (28, 28, 1), 10, hidden=hidden)
    compile_model(model)
    return model


def compile_model(model) -> None:
    """The same loss and optimizer for everybody."""
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=20,
        jit_compile=False,
    )


def shrink(images: Data, strength: float) -> dict:
    """One ShrinkNets run: validation accuracy and size after every epoch."""
    keras.utils.set_random_seed(0)
    started, points = time.perf_counter(), []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            points.append([time.perf_counter() - started, logs["val_accuracy"]])

    result = fitting.fit_shrinking(
        network(LARGEST),
        ShrinkNets(strength, decay=DECAY),
        *images.train,
        epochs=EPOCHS,
        batch_size=BATCH,
        validation_data=images.validation,
        callbacks=[Watch()],
    )
    points[-1][0] = time.perf_counter() - started
    return {
        "name": f"ShrinkNets {strength:g}",
        "points": [
            {"seconds": p[0], "val_accuracy": p[1], "params": h["params"]}
            for p, h in zip(points, result.history, strict=True)
        ],
        "widths": list(result.history[-1]["live"].values()),
    }


def search(images: Data, name: str, seconds: float) -> dict:
    """One keras-tuner search over the widths, stopped after `seconds`."""
    keras.utils.set_random_seed(0)
    started, points = time.perf_counter(), []

    def build(hp):
        widths = tuple(
            hp.Int(f"units{i}", 8, largest, sampling="log")
            for i, largest in enumerate(LARGEST)
        )
        return network(widths)

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            elapsed = time.perf_counter() - started
            points.append(
                {
                    "seconds": elapsed,
                    "val_accuracy": logs["val_accuracy"],
                    "params": self.model.count_params(),
                }
            )
            if elapsed > seconds:
                raise keras_tuner.errors.FatalError("the time is over")

    with tempfile.TemporaryDirectory() as folder:
        common = {
            "hypermodel": build, "objective": "val_accuracy", "directory": folder,
            "project_name": name, "seed": 0,
        }  # fmt: skip
        if name == "Hyperband":
            tuner = keras_tuner.Hyperband(max_epochs=EPOCHS, **common)
        else:
            tuner = getattr(keras_tuner, name)(max_trials=10_000, **common)
        try:
            with files.quiet():
                tuner.search(
                    *images.train,
                    epochs=EPOCHS,
                    batch_size=BATCH,
                    validation_data=images.validation,
                    callbacks=[Watch()],
                    verbose=0,
                )
        except keras_tuner.errors.FatalError:
            pass
    return {"name": name, "points": points}


def best_so_far(points: list[dict]) -> list[dict]:
    """The best model known at each moment, by validation accuracy."""
    best, kept = None, []
    for point in points:
        if best is None or point["val_accuracy"] > best["val_accuracy"]:
            best = point
        kept.append({**best, "seconds": point["seconds"]})
    return kept


def draw(rows: list[dict], path: str) -> None:
    """Accuracy and size of the best model known, against wall time."""
    figure = Figure(figsize=(8, 6.4), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    colors = ("#d9730d", "#2a9d5c", "#8e44ad")
    blues = ("#9cc3ff", "#5b9bff", "#1f6feb", "#0b3d91")
    for row in rows:
        ours = row["name"].startswith("ShrinkNets")
        color = (
            blues[[f"ShrinkNets {s:g}" for s in STRENGTHS].index(row["name"])]
            if ours
            else (colors[SEARCHES.index(row["name"])])
        )
        points = row["points"] if ours else best_so_far(row["points"])
        seconds = [p["seconds"] for p in points]
        style = {"color": color, "linewidth": 2.2 if ours else 1.5}
        top.plot(
            seconds, [p["val_accuracy"] for p in points], label=row["name"], **style
        )
        bottom.plot(seconds, [p["params"] for p in points], **style)
        for axes, key in ((top, "val_accuracy"), (bottom, "params")):
            axes.scatter(seconds[-1], points[-1][key], color=color, zorder=3, s=26)
    top.set_ylim(0.93, 0.99)
    top.set_ylabel("validation accuracy")
    bottom.set_ylabel("parameters of that model")
    bottom.set_yscale("log")
    bottom.set_xlabel("wall seconds")
    top.set_title(
        "One shrinking run against a search of the widths",
        loc="left",
        fontweight="bold",
    )
    for axes in (top, bottom):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    top.legend(frameon=False, fontsize=8, ncols=2, loc="lower right")
    figure.savefig(path, dpi=140)


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--fresh", action="store_true", help="forget earlier searches")
    chosen = parser.parse_args()
    path, rows = f"{RESULTS}.json", []
    if os.path.exists(path) and not chosen.fresh:
        rows = files.read_json(path)["rows"]
    images = Data()
    jobs = [(f"ShrinkNets {s:g}", lambda s=s: shrink(images, s)) for s in STRENGTHS]
    jobs += [(n, lambda n=n: search(images, n, chosen.seconds)) for n in SEARCHES]
    for name, job in jobs:
        if any(row["name"] == name for row in rows):
            continue
        row = job()
        best = max(row["points"], key=lambda p: p["val_accuracy"])
        rows.append({**row, "last": row["points"][-1], "best": best})
        document = {
            "command": f"python benchmarks/size_search.py --seconds {chosen.seconds:g}",
            "largest_params": measure(network(LARGEST)).params,
            "epochs_a_trial": EPOCHS,
            "environment": environment(),
            "rows": rows,
        }
        files.write_json(path, document)
        print(name, rows[-1]["last"], rows[-1]["best"], flush=True)
    draw(rows, f"{RESULTS}.png")


if __name__ == "__main__":
    main()
