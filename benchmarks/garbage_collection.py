"""What neural garbage collection saves, and that it costs nothing.

Trains a flagfile's network with and without removal during training, interleaved,
same epochs and seed, each in a process of its own. Records CPU time and peak memory
of every epoch, and draws them.

    python benchmarks/garbage_collection.py --flagfile=configs/lenet5_shrinknets.flags

Writes benchmarks/results/garbage_collection.{json,png}; runs done before are kept.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

from matplotlib.figure import Figure

from tfsparse import files, train

RESULTS = os.path.join(os.path.dirname(__file__), "results", "garbage_collection")
STAGES = ("history", "fine_tune_history")
STEP_FIELDS = (
    "cpu_seconds",
    "seconds",
    "peak_memory_bytes",
    "loss",
    "val_accuracy",
    "params",
)


def run_once(flagfile: str, remove: bool) -> dict:
    """One training run in a fresh process; its epochs and final accuracy."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "tfsparse.train", f"--flagfile={flagfile}",
            f"--remove={str(remove).lower()}", f"--workdir={folder}/run",
            "--dense_epochs=0", "--tensorboard=false",
        ]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        report = files.read_json(os.path.join(folder, "run", "report.json"))
    epochs = [entry for stage in STAGES for entry in report["method"][stage]]
    return {
        "remove": remove,
        "cpu_seconds": sum(entry["cpu_seconds"] for entry in epochs),
        "seconds": sum(entry["seconds"] for entry in epochs),
        "removal_seconds": sum(r["seconds"] for r in report["method"]["removals"]),
        "accuracy": report["stages"][-1]["accuracy"],
        "params": report["stages"][-1]["params"],
        "epochs": [{k: e[k] for k in STEP_FIELDS if k in e} for e in epochs],
    }


def summarise(runs: list[dict]) -> dict:
    """Medians over repeats, their ratio, and how far the loss curves lie apart."""
    by_side = {side: [r for r in runs if r["remove"] is side] for side in (True, False)}
    cpu = {
        s: [r["cpu_seconds"] + r["removal_seconds"] for r in v]
        for s, v in by_side.items()
    }
    if not all(cpu.values()):
        return {}
    on, off = by_side[True][0]["epochs"], by_side[False][0]["epochs"]
    gaps = [abs(a["loss"] - b["loss"]) for a, b in zip(on, off, strict=True)]
    gap_accuracy = [
        abs(a["val_accuracy"] - b["val_accuracy"]) for a, b in zip(on, off, strict=True)
    ]
    last = [
        statistics.median(r["epochs"][-1]["peak_memory_bytes"] for r in by_side[s])
        for s in (True, False)
    ]
    return {
        "cpu_seconds_with": statistics.median(cpu[True]),
        "cpu_seconds_without": statistics.median(cpu[False]),
        "cpu_ratio": statistics.median(cpu[True]) / statistics.median(cpu[False]),
        "largest_loss_gap": max(gaps),
        "mean_loss_gap": statistics.mean(gaps),
        "mean_val_accuracy_gap": statistics.mean(gap_accuracy),
        "last_epoch_peak_bytes_with": last[0],
        "last_epoch_peak_bytes_without": last[1],
        "first_epoch_peak_bytes_with": by_side[True][0]["epochs"][0][
            "peak_memory_bytes"
        ],
    }


def draw(runs: list[dict], path: str) -> None:
    """CPU time, peak memory and loss of every epoch, both sides."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    titles = ("CPU seconds an epoch", "peak memory of the process, MB", "training loss")
    keys = (("cpu_seconds", 1), ("peak_memory_bytes", 1e6), ("loss", 1))
    for axes, title, (key, unit) in zip(panels, titles, keys, strict=True):
        for side, color, label in (
            (False, "#8a94a0", "without removal"),
            (True, "#1f6feb", "with removal"),
        ):
            for number, run in enumerate(r for r in runs if r["remove"] is side):
                values = [epoch[key] / unit for epoch in run["epochs"]]
                epochs = range(1, len(values) + 1)
                axes.plot(
                    epochs, values, color=color, alpha=0.75, linewidth=1.6,
                    linestyle="--" if side and key == "loss" else "-",
                    label=None if number else label,
                )  # fmt: skip
        axes.set_title(title, fontsize=10, loc="left", fontweight="bold")
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if key != "peak_memory_bytes":
            axes.set_ylim(bottom=0)
    panels[2].set_yscale("log")
    panels[0].legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=140)


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--flagfile", default="configs/lenet5_shrinknets.flags")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fresh", action="store_true", help="forget earlier runs")
    chosen = parser.parse_args()
    path = f"{RESULTS}.json"
    runs = []
    if os.path.exists(path) and not chosen.fresh:
        runs = files.read_json(path)["runs"]
    for repeat in range(chosen.repeats):
        for remove in (True, False):
            if sum(run["remove"] is remove for run in runs) > repeat:
                continue
            runs.append(run_once(chosen.flagfile, remove))
            document = {
                "command": f"python benchmarks/garbage_collection.py "
                f"--flagfile={chosen.flagfile}",
                "environment": train.environment(),
                "summary": summarise(runs),
                "runs": runs,
            }
            files.write_json(path, document)
            print(
                remove,
                round(runs[-1]["cpu_seconds"], 1),
                document["summary"],
                flush=True,
            )
    draw(runs, f"{RESULTS}.png")


if __name__ == "__main__":
    main()
