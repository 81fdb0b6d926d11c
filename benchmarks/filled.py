"""How full targets are: every method, measure and kind of net, three seeds.

    python benchmarks/filled.py            # rows that are missing
    python benchmarks/filled.py --table    # the table of what is there

scikit-learn's digits, a few epochs: what is asked is not how good the net is but how much of
its target it uses. Targets are shares of the untouched net. Writes
benchmarks/results/filled.json, each row as it is done.
"""

from __future__ import annotations

import argparse
import itertools
import pathlib
import sys
import time

import keras
import numpy as np

import tfsparse
from tfsparse import data, files, records, zoo
from tfsparse.engine import filling

RESULTS = pathlib.Path(__file__).parent / "results" / "filled.json"

METHODS = {
    "shrinknets": tfsparse.ShrinkNets(0.02),
    "gsparsity": tfsparse.GSparsity(0.008),
    "sparse_vd": tfsparse.SparseVD(pretrain_epochs=1, warm_up_epochs=3),
    "bayesian_compression": tfsparse.BayesianCompression(
        pretrain_epochs=1, warm_up_epochs=3
    ),
    "bayesnas_compression": tfsparse.BayesNASCompression(loop_epochs=2),
}
MEASURES = {"params": 0.4, "nonzero": 0.3, "macs": 0.4, "weight_bytes": 0.4, "units": 0.5,
            "file_bytes": 0.7, "arena_bytes": 0.75}  # fmt: skip
NETS = {"mcu_cnn": 1.0, "mlp": 0.5, "resnet8": 0.5}
"""Name in the zoo -> width."""
SEEDS = (0, 1, 2)
EPOCHS = 8


def run(row: dict) -> dict:
    """One short training to a target, and how full it is."""
    started = time.perf_counter()
    digits = data.load("digits")
    shape = (*digits.shape,)
    keras.utils.set_random_seed(row["seed"])
    model = zoo.build(row["net"], shape, 10, width=NETS[row["net"]])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, jit_compile=False)
    method = METHODS[row["method"]]
    if hasattr(method, "seed"):
        method = method.replaced(seed=row["seed"])
    target = {row["measure"]: MEASURES[row["measure"]]}
    try:
        found = tfsparse.fit_shrinking(
            model, method, digits.x_train / np.float32(255), digits.y_train,
            epochs=EPOCHS, batch_size=32, target=target,
        )  # fmt: skip
    except (ValueError, records.TrainingError) as error:
        return {**row, "error": str(error)[:200]}
    whole, (left,) = amounts(model, target), filling.shares(found.model, target)
    bound = MEASURES[row["measure"]] * whole
    seconds = round(time.perf_counter() - started, 1)
    return {**row, "bound": bound, "left": left["left"], "share": left["left"] / bound,
            "seconds": seconds}  # fmt: skip


def amounts(model, target) -> float:
    """What there is of the untouched net, as a target counts it."""
    from tfsparse.deploy import finished

    (measure,) = target
    if measure in ("file_bytes", "arena_bytes"):
        return finished.sizes(model, [measure], untrained=True)[measure]
    (row,) = filling.shares(model, {measure: 1.0})
    return row["left"]


def table(rows: list[dict]) -> list[str]:
    """The least and the mean share of each method and measure."""
    lines = [
        "| method | " + " | ".join(MEASURES) + " |",
        "|---|" + "---|" * len(MEASURES),
    ]
    for method in METHODS:
        cells = []
        for measure in MEASURES:
            own = [r for r in rows if (r["method"], r["measure"]) == (method, measure)]
            shares = [r["share"] for r in own if "share" in r]
            failed = len(own) - len(shares)
            cell = f"{np.mean(shares):.1%} ({min(shares):.1%})" if shares else ""
            cells.append(cell + (f", {failed} failed" if failed else ""))
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return lines


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", action="store_true")
    chosen = parser.parse_args()
    rows = files.read_json(RESULTS) if RESULTS.exists() else []
    names = ("seed", "net", "method", "measure")
    done = {tuple(row[name] for name in names) for row in rows}
    wanted = itertools.product(SEEDS, NETS, METHODS, MEASURES)
    for key in [] if chosen.table else wanted:
        if key not in done:
            rows.append(run(dict(zip(names, key, strict=True))))
            print(rows[-1], flush=True)
            files.write_json(RESULTS, rows)
    print("\n".join(table(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
