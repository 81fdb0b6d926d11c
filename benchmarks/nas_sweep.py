"""How many operations survive as the penalty grows, and what discretising costs.

    python benchmarks/nas_sweep.py            # rows that are missing
    python benchmarks/nas_sweep.py --table    # the table of what is there

Three cells of the DARTS space, four filters at first, 12,000 images of Fashion-MNIST. Strengths
double from row to row. Four ways: weights of an operation one group by proximal steps
(GSparsity), factors of operations instead (its appendix E), the same penalty on weights by its
subgradient (its appendix G), and the evidence (BayesNAS). Operations of all cells of a kind count
once. Accuracy is that on all test images, before and after what died is removed. Writes
benchmarks/results/nas_sweep.json, each row as it is done.
"""

from __future__ import annotations

import functools
import pathlib
import sys

import jobs
import keras
import numpy as np

from tfsparse import data, files, nas

RESULTS = pathlib.Path(__file__).parent / "results" / "nas_sweep.json"
RUNS = pathlib.Path("runs") / "nas_sweep"

IMAGES = 12_000
EPOCHS = 12
OPERATION = ("--method=gsparsity", "--partition=operation",
             "--ignore=stem*,*_pre?*,logits*")  # fmt: skip
WAYS = {
    "weights": (0.05, OPERATION),
    "factors": (0.002, ("--method=bayesnas", "--evidence=false", "--loop_epochs=1")),
    "subgradient": (0.05, (*OPERATION, "--proximal=false")),
    "evidence": (0.002, ("--method=bayesnas", "--loop_epochs=3")),
}
"""Way -> its weakest strength, and flags."""
DOUBLINGS = 6

KEYS = ("way", "strength")


def wanted() -> list[dict]:
    """Every row, way by way."""
    return [
        {"way": way, "strength": first * 2**step}
        for way, (first, _) in WAYS.items()
        for step in range(DOUBLINGS)
    ]


@functools.cache
def made() -> tuple[str, str]:
    """The images and the supernet, as files."""
    RUNS.mkdir(parents=True, exist_ok=True)
    images, supernet = RUNS / "images.npz", RUNS / "supernet.keras"
    if not images.exists():
        found = data.load("fashion_mnist")
        order = np.random.default_rng(0).permutation(len(found.x_train))[:IMAGES]
        np.savez(images, x_train=found.x_train[order], y_train=found.y_train[order],
                 x_val=found.x_validation, y_val=found.y_validation,
                 x_test=found.x_test, y_test=found.y_test)  # fmt: skip
    if not supernet.exists():
        keras.utils.set_random_seed(0)
        kinds = nas.SPACES["darts"].kinds
        space = nas.Space("three", kinds, cells=3, filters=4, stem_strides=2)
        space.supernet((28, 28, 1), 10).save(supernet)
    return str(images), str(supernet)


def run(row: dict, count: int) -> dict:
    """One search, and what is left of it."""
    images, supernet = made()
    flags = [f"--data={images}", f"--model={supernet}", *WAYS[row["way"]][1],
             "--shared=normal,reduction", f"--strength={row['strength']:g}",
             f"--epochs={EPOCHS}", f"--shrink_epochs={EPOCHS}", "--fine_tune_epochs=0",
             "--remove=false", "--formats=keras", "--tensorboard=false",
             "--preflight=false"]  # fmt: skip
    folder = RUNS / f"{row['way']}-{row['strength']:g}"
    report = jobs.main_job(flags, folder, count)
    row = {**row, "flags": flags[2:]}
    if "error" in report:
        return row | report
    stages = {stage["name"]: stage for stage in report["stages"]}
    genotype = files.read_json(folder / "genotype.json")
    left = [op for nodes in genotype.values() for node in nodes for op, _ in node]
    free = [op for op in left if "conv" not in op]
    return {
        **row,
        "operations": len(left),
        "without_weights": len(free),
        "before": stages["sparse"]["accuracy"],
        "accuracy": stages["stripped"]["accuracy"],
        "params": stages["stripped"]["params"],
        "seconds": round(stages["sparse"]["seconds"]),
        "dangling": [
            loop["dangling"]
            for loop in report["method"].get("loops", [])
            if "dangling" in loop
        ],
    }


def table(rows: list[dict]) -> list[str]:
    """Every row that is there."""
    lines = [
        "| way | strength | operations of 196 | of them without weights | accuracy before "
        "| after | parameters |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in sorted(
        rows, key=lambda row: [list(WAYS).index(row["way"]), row["strength"]]
    ):
        if "error" in row:
            said = row["error"].splitlines()[-1][:80] if row["error"] else ""
            lines.append(f"| {row['way']} | {row['strength']:g} | {said} | | | | |")
            continue
        lines.append(
            f"| {row['way']} | {row['strength']:g} | {row['operations']} "
            f"| {row['without_weights']} | {row['before']:.2%} | {row['accuracy']:.2%} "
            f"| {row['params']:,} |"
        )
    return lines


def main() -> int:
    """The program."""
    return jobs.program(__doc__, RESULTS, wanted, KEYS, run, table)


if __name__ == "__main__":
    sys.exit(main())
