"""Quantisation after training and training for it, on two nets of MLPerf Tiny.

    python benchmarks/trained_for_int8.py            # rows that are missing
    python benchmarks/trained_for_int8.py --table

DS-CNN, a quarter wide, and MobileNetV1 0.25 on Fashion-MNIST (28 x 28), trained for ten
epochs; from each int8 after training, int8 after as many more epochs of plain training as
the third has, and `--quantise=qat`. Three seeds, all 10,000 test images on TFLM.
Writes benchmarks/results/trained_for_int8.json, each row as it is done.
"""

from __future__ import annotations

import pathlib
import statistics
import sys

import jobs

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "trained_for_int8.json"
RUNS = pathlib.Path("runs") / "trained_for_int8"

NETS = {"ds_cnn": ("--model=ds_cnn", "--width=0.5"),
        "mobilenet_v1_025": ("--model=mobilenet_v1_025",)}  # fmt: skip
SEEDS, EPOCHS, MORE = (0, 1, 2), 10, 3
WAYS = ("int8", "longer", "qat")
KEYS = ("net", "way", "seed")
COMMON = ("--data=fashion_mnist", "--augment=shift=2,flip", "--method=none",
          "--tensorboard=false", "--preflight=false")  # fmt: skip


def wanted() -> list[dict]:
    """Every row, seed by seed."""
    return [
        {"net": net, "way": way, "seed": seed}
        for seed in SEEDS
        for net in NETS
        for way in WAYS
    ]


def dense(row: dict, count: int) -> pathlib.Path:
    """The trained network of a seed, made if it is not there."""
    folder = RUNS / f"{row['net']}-{row['seed']}"
    if not (folder / "report.json").exists():
        flags = [*COMMON, *NETS[row["net"]], f"--epochs={EPOCHS}", "--fine_tune_epochs=0",
                 "--formats=keras", f"--seed={row['seed']}"]  # fmt: skip
        report = jobs.main_job(flags, folder, count)
        if "error" in report:
            raise RuntimeError(report["error"])
    return folder / "model.keras"


def run(row: dict, count: int) -> dict:
    """One way from the trained network to int8."""
    folder = RUNS / "-".join(str(row[key]) for key in KEYS)
    own = {
        "int8": ["--fine_tune_epochs=0"],
        "longer": [f"--fine_tune_epochs={MORE}", "--fine_tune_learning_rate=3e-4"],
        "qat": ["--fine_tune_epochs=0", "--quantise=qat", f"--qat_epochs={MORE}"],
    }[row["way"]]
    flags = [*COMMON, f"--model={dense(row, count)}", "--epochs=0", *own,
             "--formats=keras,tflite_int8", f"--seed={row['seed']}"]  # fmt: skip
    report = jobs.main_job(flags, folder, count)
    if "error" in report:
        return row | report
    stages = {stage["name"]: stage for stage in report["stages"]}
    last = stages.get("quantised", stages["finetuned"])
    change = report["changes"]["mcu"]
    return row | {
        "accuracy": stages["mcu"]["accuracy"],
        "float_accuracy": last["accuracy"],
        "gain": round(change["gain"], 3),
        "half": round(change["half"], 3),
        "params": stages["mcu"]["params"],
        "file_bytes": stages["mcu"]["file_bytes"],
        "kept": report["method"].get("quantise", {}).get("qat_kept"),
        "decibels": next(
            p["decibels"] for p in report["parity"] if p["artifact"] == "tflite_int8"
        ),
    }


def table(rows: list[dict]) -> list[str]:
    """Mean and spread over the seeds that are there."""
    lines = [
        "| net | way | seeds | float | int8 on the MCU | int8 - float, points | output, dB |",
        "|---|---|---|---|---|---|---|",
    ]
    for net in NETS:
        for way in WAYS:
            own = [r for r in rows if (r["net"], r["way"]) == (net, way)]
            own = [row for row in own if "accuracy" in row]
            if own:
                gains = [100 * (r["accuracy"] - r["float_accuracy"]) for r in own]
                quiet = statistics.mean(r["decibels"] for r in own)
                lines.append(
                    f"| {net} | {way} | {len(own)} "
                    f"| {jobs.spread([r['float_accuracy'] for r in own])} "
                    f"| {jobs.spread([r['accuracy'] for r in own])} "
                    f"| {statistics.mean(gains):+.2f} | {quiet:.1f} |"
                )
    return lines


if __name__ == "__main__":
    sys.exit(jobs.program(__doc__, RESULTS, wanted, KEYS, run, table))
