"""Where to start from: Fashion-MNIST shrunk from the default network, from LeNet-5, and drawn.

    python benchmarks/fashion_starts.py            # rows that are missing, seed by seed
    python benchmarks/fashion_starts.py --table    # the table of what is there

GSparsity and ShrinkNets with their defaults and a target (2,500, 5,000 and 12,000 parameters),
from `--model=auto` and from LeNet-5; beside them nets drawn by hand, widened to each size and
trained as long, by Adam and by ProxSGD. Score: accuracy of the int8 file on TensorFlow Lite
Micro, all 10,000 test images. Writes benchmarks/results/fashion_starts.json, each row as it is
done; a run that was stopped goes on. `--jobs=2` trains two at a time, on a thread each.
"""

from __future__ import annotations

import itertools
import pathlib
import statistics
import sys

import jobs

RESULTS = pathlib.Path(__file__).parent / "results" / "fashion_starts.json"
RUNS = pathlib.Path("runs") / "fashion_starts"

SIZES = (2500, 5000, 12000)
SEEDS = (0, 1, 2)
METHODS = ("gsparsity", "shrinknets")
STARTS = ("auto", "lenet5")
DRAWN = ("drawn_lenet", "drawn_strided_bn")
TRAINED = ("adam", "proxsgd")
"""How drawn nets are trained: as every run without a method, and by GSparsity's optimizer
without its penalty, at its rates."""

KEYS = ("start", "method", "size", "seed")
COMMON = ("--data=fashion_mnist", "--tensorboard=false", "--formats=keras,tflite_int8")


def wanted() -> list[dict]:
    """Every row, seed by seed."""
    rows = []
    for seed in SEEDS:
        for start, size, method in itertools.product(STARTS, SIZES, METHODS):
            rows.append({"start": start, "method": method, "size": size, "seed": seed})
        for start, size, how in itertools.product(DRAWN, SIZES, TRAINED):
            rows.append({"start": start, "method": how, "size": size, "seed": seed})
    return rows


def flags_of(row: dict) -> list[str]:
    """What the main job is told."""
    found = [*COMMON, f"--model={row['start']}", f"--seed={row['seed']}"]
    if row["method"] in TRAINED:
        found.append(f"--width={width_of(row['start'], row['size']):.6g}")
        if row["method"] == "proxsgd":
            return [*found, "--method=gsparsity", "--strength=0"]
        # As many epochs as the others train in all, their fine-tuning included.
        return [*found, "--method=none", "--epochs=25", "--fine_tune_epochs=0"]
    return [*found, f"--method={row['method']}", f"--target=params={row['size']}"]


def width_of(name: str, size: int) -> float:
    """The largest width, in thousandths, at which a net has at most so many parameters."""
    from tfsparse import zoo

    low, high = 50, 8000
    while high - low > 1:
        middle = (low + high) // 2
        params = zoo.build(name, (28, 28, 1), 10, width=middle / 1000).count_params()
        low, high = (middle, high) if params <= size else (low, middle)
    return low / 1000


def run(row: dict, count: int) -> dict:
    """One run of the main job, and what its report says."""
    flags = flags_of(row)
    report = jobs.main_job(flags, RUNS / "-".join(str(row[k]) for k in KEYS), count)
    row = {**row, "flags": flags}
    return row | (report if "error" in report else jobs.measured(report))


def table(rows: list[dict]) -> list[str]:
    """Mean and spread over the seeds that are there."""
    lines = [
        "| start | method | target | seeds | accuracy, int8 on the MCU | parameters | MACs |",
        "|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault((row["size"], row["start"], row["method"]), []).append(row)
    for (size, start, method), own in sorted(groups.items()):
        good = [row for row in own if "accuracy" in row]
        if not good:
            lines.append(f"| {start} | {method} | {size:,} | 0 of {len(own)} | | | |")
            continue
        score = jobs.spread([row["accuracy"] for row in good])
        params, macs = (
            statistics.mean(row[k] for row in good) for k in ("params", "macs")
        )
        lines.append(
            f"| {start} | {method} | {size:,} | {len(good)} | {score}"
            f" | {params:,.0f} | {macs:,.0f} |"
        )
    return lines


def main() -> int:
    """The program."""
    return jobs.program(__doc__, RESULTS, wanted, KEYS, run, table)


if __name__ == "__main__":
    sys.exit(main())
