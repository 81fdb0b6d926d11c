"""Operation pruning on a small network of cells, as the paper's table 2.

    python benchmarks/operation_pruning.py

Three cells of DARTS-V2 (24 operations) on MNIST, 20,000 training images an epoch; every
operation is a group, those without weights by a factor. One row for each strength: test
accuracy before and after the operations up to each threshold are set to zero, and after
strip and retraining; parameters, MACs and the time of an inference of what is left, all rows
timed side by side at the end. Writes benchmarks/results/operation_pruning.json; rows done
before are kept, times are taken anew.

Reference: GSparsity, section 4.2 and table 2.
"""

from __future__ import annotations

import math
import pathlib
import statistics
import sys
import time

from tfsparse import files

RESULTS = pathlib.Path(__file__).parent / "results" / "operation_pruning.json"
STRENGTHS = {
    "none": (0.0, 0.01, 0.03),
    "auto": (0.02, 0.03, 0.01, 0.045, 0.06),
}
"""By what a group's penalty is scaled -> strengths of it."""
SEARCH_EPOCHS, RETRAIN_EPOCHS = 10, 5
SAMPLES, BATCH = 20_000, 128
ROUNDS = 100


def rate(epoch: int) -> float:
    """The step size: half the epochs constant, then along a cosine.

    The noise of a constant step hides the answer, and holds up weights before a BatchNorm,
    whose gradient grows as they shrink.
    """
    half = SEARCH_EPOCHS // 2
    share = max(epoch - half, 0) / half
    return 0.0025 + 0.25 * (1 + math.cos(math.pi * share))


def row(scaling: str, strength: float, images) -> dict:
    """Search, prune, strip, retrain with one strength."""
    import keras
    import numpy as np

    import tfsparse
    from tfsparse import optimizers, zoo
    from tfsparse.engine import finishing, shrinking
    from tfsparse.methods import GSparsity

    x, y, x_test, y_test = images
    keras.utils.set_random_seed(0)
    model = zoo.build("cells", (28, 28, 1), 10)
    method = GSparsity(strength, partition="operation", scaling=scaling)
    groups = tfsparse.find_groups(model, method.kinds)
    running = method.prepare(model, groups)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    options = {"loss": loss, "jit_compile": False, "steps_per_execution": 20}
    running.compile(method.optimizer(running, groups), **options)

    def accuracy(net):
        answers = net.predict(x_test, batch_size=500, verbose=0).argmax(-1)
        return float((answers == y_test).mean())

    for epoch in range(SEARCH_EPOCHS):
        running.optimizer.learning_rate.assign(rate(epoch))
        keras.utils.set_random_seed(epoch)
        running.fit(x, y, batch_size=BATCH, verbose=0)
    settling = shrinking.discretisation(running, method, accuracy)
    small, _ = finishing.finish(running, method)
    stripped = accuracy(small)
    keep = method.keep(running, tfsparse.find_groups(running, method.kinds))
    live = {k: v.tolist() for k, v in keep.items() if k.endswith(":branches")}
    optimizers.recompile(small, running, keras.optimizers.Adam(2e-3))
    for epoch in range(RETRAIN_EPOCHS):
        share = epoch / RETRAIN_EPOCHS
        small.optimizer.learning_rate.assign(1e-3 * (1 + np.cos(np.pi * share)))
        keras.utils.set_random_seed(100 + epoch)
        small.fit(x, y, batch_size=BATCH, verbose=0)
    cost = tfsparse.measure(small)
    return {
        "scaling": scaling,
        "strength": strength,
        "groups": method.groups(running),
        "settling": [{**s, "accuracy": s["score"]} for s in settling],
        "stripped": stripped,
        "retrained": accuracy(small),
        "params": cost.params,
        "macs": cost.macs,
        "layers": len(small.layers),
        "operations": live,
    }


def milliseconds(rows: list[dict], x) -> list[float]:
    """Median time of an inference of these samples without the dead operations, in turns.

    Units that died inside of a living operation are still there.
    """
    import keras
    import numpy as np
    import tensorflow as tf

    import tfsparse
    from tfsparse import budgets, zoo

    def compiled(row):
        keras.backend.clear_session()
        whole = zoo.build("cells", (28, 28, 1), 10)
        live = {k: np.array(v) for k, v in row["operations"].items()}
        operations = budgets.spare_one(live)
        net = tfsparse.strip(whole, operations)
        if tfsparse.measure(net).macs < row["macs"]:
            raise RuntimeError(f"Another network than the row of {row['strength']}.")
        return tf.function(lambda batch: net(batch, training=False))

    runs, batch = [compiled(row) for row in rows], tf.constant(x)
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(ROUNDS):
        for run, own in zip(runs, times, strict=True):
            started = time.perf_counter()
            run(batch)
            own.append(time.perf_counter() - started)
    return [1e3 * statistics.median(own[ROUNDS // 10 :]) for own in times]


def main() -> int:
    """Makes the rows that are missing."""
    import numpy as np

    from tfsparse import data

    dataset = data.load("mnist")
    scale = np.float32(255)
    images = (
        dataset.x_train[:SAMPLES] / scale, dataset.y_train[:SAMPLES],
        dataset.x_test / scale, dataset.y_test,
    )  # fmt: skip
    rows = files.read_json(RESULTS)["rows"] if RESULTS.exists() else []
    done = {(r["scaling"], r["strength"]) for r in rows}
    for scaling, strength in [(k, s) for k, own in STRENGTHS.items() for s in own]:
        if (scaling, strength) not in done:
            rows.append(row(scaling, strength, images))
            keep(rows)
            told = {k: v for k, v in rows[-1].items() if k != "operations"}
            print(told, flush=True)
    for found, spent in zip(rows, milliseconds(rows, images[2][:500]), strict=True):
        found["milliseconds"] = spent
    keep(rows)
    return 0


def keep(rows: list[dict]) -> None:
    """Writes the file."""
    files.write_json(
        RESULTS,
        {"search_epochs": SEARCH_EPOCHS, "retrain_epochs": RETRAIN_EPOCHS,
         "samples": SAMPLES, "rows": rows},
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
