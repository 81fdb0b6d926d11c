"""Every task, every method, at half and at a fifth of the size: what is lost.

    python benchmarks/tasks.py [task ...]     # rows that are missing
    python benchmarks/tasks.py --table        # a table for each task, of what is there

For each task a data set that packages ship, and the network that `--model=auto` chooses: the
network as it is, five methods with their defaults and a target (parameters; of sparse_vd
non-zeros) of 0.5 and 0.2, and the same network built at that size and trained from scratch as
long. Score: of the int8 file on TensorFlow Lite Micro, on the whole test split. Writes
benchmarks/results/tasks.json, each row as it is done.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import pathlib
import shutil
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from tfsparse import data, files, train, zoo

RESULTS = pathlib.Path(__file__).parent / "results" / "tasks.json"
RUNS = pathlib.Path("runs") / "tasks"

METHODS = ("shrinknets", "gsparsity", "sparse_vd", "bayesian_compression",
           "bayesnas_compression")  # fmt: skip
SHARES = (0.5, 0.2)
SEEDS = (0, 1, 2)
EPOCHS = 20
COMMON = ("--tensorboard=false", "--formats=keras,tflite_int8", "--preflight=false",
          f"--epochs={EPOCHS}", "--fine_tune_epochs=5")  # fmt: skip


def multilabel() -> str:
    """scikit-learn's digits, three labels each: even, above four, with a closed loop."""
    digits = data.load("digits")
    facts = np.array([[d % 2 == 0, d > 4, d in (0, 6, 8, 9)] for d in range(10)])
    return _stored("digits_labels", digits, lambda y: facts[y].astype(int))


def reconstruction() -> str:
    """scikit-learn's digits: the ones are normal, any other digit is not."""
    digits = data.load("digits")
    flat = {part: getattr(digits, f"x_{part}").reshape(-1, 64) / np.float32(255)
            for part in ("train", "validation", "test")}  # fmt: skip
    path = RUNS / "data" / "digits_normal.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, x_train=flat["train"][digits.y_train == 1],
             x_val=flat["validation"][digits.y_validation == 1],
             x_test=flat["test"], y_test=(digits.y_test != 1).astype(int))  # fmt: skip
    return str(path)


def series() -> str:
    """BasicMotions of aeon, as tools/aeon_data.py writes it."""
    folder = RUNS / "data" / "gestures"
    if not folder.exists():
        sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tools"))
        import aeon_data

        folder.parent.mkdir(parents=True, exist_ok=True)
        aeon_data.fetch("BasicMotions", str(folder))
    return str(folder)


def _stored(name: str, dataset, change: Callable) -> str:
    path = RUNS / "data" / f"{name}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for part in ("train", "validation", "test"):
        arrays[f"x_{part}"] = getattr(dataset, f"x_{part}")
        arrays[f"y_{part}"] = change(getattr(dataset, f"y_{part}"))
    np.savez(path, **arrays)
    return str(path)


TASKS: dict[str, tuple[Callable[[], str], str, tuple[str, ...]]] = {
    "classification": (lambda: "digits", "scikit-learn's digits", ()),
    "binary": (
        lambda: "breast_cancer",
        "scikit-learn's breast cancer",
        ("--task=binary",),
    ),
    "multilabel": (
        multilabel,
        "scikit-learn's digits: even, above four, with a loop",
        (),
    ),
    "regression": (lambda: "diabetes", "scikit-learn's diabetes", ()),
    "reconstruction": (reconstruction, "scikit-learn's digits: ones are normal", ()),
    "series": (series, "aeon's BasicMotions", ()),
}
"""Name -> what makes the data, what they are, and flags."""


def wanted(names) -> list[dict]:
    """Every row, what the methods stand beside first, seed by seed."""
    rows = []
    for seed, task in itertools.product(SEEDS, names):
        rows.append({"task": task, "method": "dense", "share": 1.0, "seed": seed})
        for share in SHARES:
            rows.append(
                {"task": task, "method": "scratch", "share": share, "seed": seed}
            )
    for seed, task in itertools.product(SEEDS, names):
        for share, method in itertools.product(SHARES, METHODS):
            rows.append({"task": task, "method": method, "share": share, "seed": seed})
    return rows


def flags_of(row: dict, source: str) -> list[str]:
    """What the main job is told."""
    found = [
        f"--data={source}",
        f"--seed={row['seed']}",
        *COMMON,
        *TASKS[row["task"]][2],
    ]
    if row["method"] in ("dense", "scratch"):
        return [*found, "--method=none", f"--epochs={EPOCHS + 5}", "--fine_tune_epochs=0",
                f"--width={width_of(row, source):.6g}"]  # fmt: skip
    measure = "nonzero" if row["method"] == "sparse_vd" else "params"
    target = f"--target={measure}={row['share']}"
    return [*found, f"--method={row['method']}", target]


def width_of(row: dict, source: str) -> float:
    """The largest width, in thousandths, that leaves at most that share of the parameters."""
    if row["share"] == 1:
        return 1.0
    task = TASKS[row["task"]][2]
    dataset = data.load(source, task="binary" if task else "auto")
    name = zoo.named("auto", dataset.shape, dataset.task.kind == "reconstruction")

    def params(width: float) -> int:
        return zoo.build(name, dataset.shape, dataset.task.shape, width).count_params()

    whole, low, high = params(1.0), 20, 1000
    while high - low > 1:
        middle = (low + high) // 2
        if params(middle / 1000) <= row["share"] * whole:
            low = middle
        else:
            high = middle
    return low / 1000


def run(row: dict, source: str) -> dict:
    """One run of the main job, and what its report says."""
    started, flags = time.perf_counter(), flags_of(row, source)
    told = [f.replace(f"={source}", f"={os.path.basename(source)}") for f in flags]
    row = {**row, "flags": told}
    folder = RUNS / "-".join(str(row[k]) for k in ("task", "method", "share", "seed"))
    shutil.rmtree(folder, ignore_errors=True)
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = train.main(["train", *flags, f"--workdir={folder}"])
    if code:
        return {**row, "error": said.getvalue().strip().splitlines()[-1][:300]}
    report = files.read_json(folder / "report.json")
    stages = {stage["name"]: stage for stage in report["stages"]}
    shutil.rmtree(folder)
    last = stages["mcu"]
    return {
        **row,
        "network": report["network"],
        "score": last["score"],
        "float_score": stages["finetuned"]["score"],
        "samples": last["samples"],
        **{
            k: last[k]
            for k in ("params", "nonzero", "macs", "file_bytes", "arena_bytes")
        },
        "whole": report["dense_cost"]["params"],
        "filled": {one["measure"]: one["share"] for one in report.get("target", [])},
        "penalty_left": report["method"].get("penalty_left"),
        "seconds": round(time.perf_counter() - started, 1),
    }


def key(row: dict) -> tuple:
    """What tells rows apart."""
    return row["task"], row["method"], row["share"], row["seed"]


def table(task: str, rows: list[dict]) -> list[str]:
    """Mean and spread over the seeds that are there."""
    own = [row for row in rows if row["task"] == task]
    good = [row for row in own if "score" in row]
    if not good:
        return [f"{task}: nothing yet"]
    score = good[0]["score"]
    better = "higher" if score["higher_is_better"] else "lower"
    lines = [
        f"{task}: {TASKS[task][1]}, {good[0]['samples']} test samples, {good[0]['whole']:,} "
        f"parameters; {score['name']}, {better} is better.",
        "",
        "| method | wanted | seeds | int8 on the MCU | float | parameters | non-zero | file |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for share, method in [
        (1.0, "dense"),
        *itertools.product(SHARES, (*METHODS, "scratch")),
    ]:
        mine = [r for r in own if (r["share"], r["method"]) == (share, method)]
        done = [r for r in mine if "score" in r]
        if not done:
            lines += (
                [f"| {method} | {share:g} | 0 of {len(mine)} | | | | | |"]
                if mine
                else []
            )
            continue
        cells = [
            _spread([r[k]["value"] for r in done], score["unit"])
            for k in ("score", "float_score")
        ]
        means = [
            statistics.mean(r[k] for r in done)
            for k in ("params", "nonzero", "file_bytes")
        ]
        seeds = (
            f"{len(done)}" if len(done) == len(mine) else f"{len(done)} of {len(mine)}"
        )
        lines.append(
            f"| {method} | {share:g} | {seeds} | {' | '.join(cells)} | {means[0]:,.0f} | "
            f"{means[1]:,.0f} | {means[2]:,.0f} B |"
        )
    return lines


def _spread(values: list[float], unit: str) -> str:
    form = ".2%" if unit == "%" else ".4g"
    if len(values) == 1:
        return f"{values[0]:{form}}"
    spread = statistics.stdev(values)
    return (
        f"{statistics.mean(values):{form}} ± {spread:{form if unit == '%' else '.2g'}}"
    )


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", default=[])
    parser.add_argument("--table", action="store_true")
    chosen = parser.parse_args()
    names = chosen.tasks or list(TASKS)
    rows = files.read_json(RESULTS) if RESULTS.exists() else []
    sources: dict[str, str] = {}
    for row in [] if chosen.table else wanted(names):
        if key(row) in {key(one) for one in rows}:
            continue
        if row["task"] not in sources:
            sources[row["task"]] = TASKS[row["task"]][0]()
        rows.append(run(row, sources[row["task"]]))
        files.write_json(RESULTS, rows)
    for name in names:
        print("\n".join(["", *table(name, rows)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
