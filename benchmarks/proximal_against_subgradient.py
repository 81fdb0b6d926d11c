"""ProxSGD against SGD and Adam that follow a subgradient of the same penalty.

    python benchmarks/proximal_against_subgradient.py

LeNet-5 on MNIST, every coupled unit a group, the same strength, batches and epochs. SGD
and Adam minimise loss + mu * sum ||w_k|| by its subgradient, each at four learning rates;
the best is the one of the lowest objective at the end. Told for each: the objective, the
groups with a norm up to 1e-6 and 1e-3, and what the test accuracy loses when those up to
1e-3 are set to zero. Writes benchmarks/results/proximal_against_subgradient.{json,png};
rows done before are kept.

Reference: GSparsity, appendix G.
"""

from __future__ import annotations

import pathlib
import sys

from matplotlib.figure import Figure

from tfsparse import files

RESULTS = pathlib.Path(__file__).parent / "results" / "proximal_against_subgradient"
STRENGTH = 4e-3
EPOCHS = 8
BATCH = 128
RATES = {
    "prox": (0.5,),
    "sgd": (0.003, 0.01, 0.03, 0.1),
    "adam": (0.0003, 0.001, 0.003, 0.01),
}
WORDS = {"prox": "ProxSGD", "sgd": "SGD, subgradient", "adam": "Adam, subgradient"}
THRESHOLDS = (1e-6, 1e-3)


def row(kind: str, rate: float, images) -> dict:
    """Trains once; norms of the groups after each epoch, and what pruning costs."""
    import keras
    import numpy as np

    import tfsparse
    from tfsparse import zoo
    from tfsparse.methods import partitions
    from tfsparse.optimizers import ProxSGD, blocks

    x, y, x_test, y_test = images
    keras.utils.set_random_seed(0)
    model = zoo.build("lenet5", (28, 28, 1), 10)
    partition = partitions.units(model, tfsparse.find_groups(model))
    laid = blocks.lay_out(partition, model.trainable_variables, 0.0)

    def penalty():
        total = 0.0
        for block in laid:
            squares = [
                keras.ops.square(model.trainable_variables[part.index])
                for part in block.slices
            ]
            norms = keras.ops.sqrt(keras.ops.maximum(block.sum(squares), 1e-30))
            total = total + keras.ops.sum(norms)
        return STRENGTH * total

    class Penalised(keras.Model):
        def compute_loss(self, *args, **kwargs):
            return super().compute_loss(*args, **kwargs) + penalty()

    if kind == "prox":
        trained, optimizer = model, ProxSGD(partition, STRENGTH, rate, 0.1)
    else:
        trained = Penalised(model.inputs, model.outputs)
        optimizer = (
            keras.optimizers.SGD(rate, momentum=0.9)
            if kind == "sgd"
            else keras.optimizers.Adam(rate)
        )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trained.compile(optimizer, loss, jit_compile=False, steps_per_execution=20)

    def norms():
        values = {
            v.path: keras.ops.convert_to_numpy(v) for v in model.trainable_variables
        }
        return partition.norms(values)

    def accuracy():
        answers = model.predict(x_test, batch_size=500, verbose=0).argmax(-1)
        return float((answers == y_test).mean())

    traced = []
    for epoch in range(EPOCHS):
        keras.utils.set_random_seed(epoch)
        trained.fit(x, y, batch_size=BATCH, verbose=0)
        found = norms()
        traced.append({str(t): int((found <= t).sum()) for t in THRESHOLDS})
    outputs = model.predict(x, batch_size=500, verbose=0)
    data_loss = float(keras.ops.mean(loss(y, outputs)))
    before = accuracy()
    values = {v.path: keras.ops.convert_to_numpy(v) for v in model.trainable_variables}
    for path, value in partition.emptied(values, found <= 1e-3).items():
        next(v for v in model.trainable_variables if v.path == path).assign(value)
    return {
        "kind": kind,
        "rate": rate,
        "groups": int(partition.groups),
        "dead": traced,
        "norms": np.sort(found).tolist(),
        "loss": data_loss,
        "objective": data_loss + STRENGTH * float(found.sum()),
        "accuracy": before,
        "accuracy_pruned": accuracy(),
    }


def best(rows: list[dict], kind: str) -> dict:
    """The row of the lowest objective."""
    own = [r for r in rows if r["kind"] == kind and r["objective"] == r["objective"]]
    return min(own, key=lambda r: r["objective"])


def draw(rows: list[dict], path: str) -> None:
    """Sorted norms of all groups at the end, and dead groups over the epochs."""
    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    colors = {"prox": "#d9730d", "sgd": "#1f6feb", "adam": "#2a9d5c"}
    for kind, color in colors.items():
        chosen = best(rows, kind)
        label = f"{WORDS[kind]}, rate {chosen['rate']:g}"
        left.plot([max(n, 1e-12) for n in chosen["norms"]], color=color, label=label)
        right.plot(
            range(1, EPOCHS + 1),
            [100 * d["1e-06"] / chosen["groups"] for d in chosen["dead"]],
            color=color, marker="o", label=label,
        )  # fmt: skip
    left.set_yscale("log")
    left.set_xlabel("group, sorted")
    left.set_ylabel("norm at the end (1e-12: zero)")
    left.legend(frameon=False, fontsize=8)
    right.set_xlabel("epoch")
    right.set_ylabel("groups up to 1e-6, %")
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=140)


def main() -> int:
    """Makes the rows that are missing, then the plot."""
    import numpy as np

    from tfsparse import data

    dataset = data.load("mnist")
    scale = np.float32(255)
    images = (
        dataset.x_train / scale, dataset.y_train,
        dataset.x_test / scale, dataset.y_test,
    )  # fmt: skip
    path = f"{RESULTS}.json"
    rows = files.read_json(path)["rows"] if pathlib.Path(path).exists() else []
    for kind, rates in RATES.items():
        for rate in rates:
            if all((r["kind"], r["rate"]) != (kind, rate) for r in rows):
                rows.append(row(kind, rate, images))
                files.write_json(
                    path, {"strength": STRENGTH, "epochs": EPOCHS, "rows": rows}
                )
                told = {k: v for k, v in rows[-1].items() if k != "norms"}
                print(told, flush=True)
    draw(rows, f"{RESULTS}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
