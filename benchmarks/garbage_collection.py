"""What neural garbage collection saves, and that it costs nothing.

Trains a flagfile's network with and without removal during training, interleaved,
same epochs and seed, each in a process of its own, and records the CPU time of every
epoch. Memory is measured apart, since a process holds TensorFlow and the data as well:
a fresh process trains the network as it was after some epoch for 30 steps, and its peak
is taken over what it held before the network was built.

    python benchmarks/garbage_collection.py --flagfile=configs/lenet5_shrinknets.flags

Writes benchmarks/results/garbage_collection.{json,png}; runs done before are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

from matplotlib.figure import Figure

from tfsparse import files
from tfsparse.engine.telling import environment

RESULTS = os.path.join(os.path.dirname(__file__), "results", "garbage_collection")
STAGES = ("history", "fine_tune_history")
STEP_FIELDS = (
    "cpu_seconds",
    "seconds",
    "live",
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


MEMORY_SCRIPT = """
import json, sys
import keras, numpy as np
from tfsparse import methods, meters, zoo
from tfsparse.engine import shrinking
from tfsparse.graph import find_groups
live = json.loads(sys.argv[1])
x = np.zeros((128 * 30, 28, 28, 1), "float32")
y = np.zeros(128 * 30, "int32")
keras.ops.matmul(np.ones((64, 64)), np.ones((64, 64)))  # the libraries are up
with open("/proc/self/statm") as file:
    before = int(file.read().split()[1]) * 4096
model = zoo.build("lenet5", (28, 28, 1), 10)
method = methods.ShrinkNets()
model = method.prepare(model, find_groups(model))
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True),
              steps_per_execution=10, jit_compile=False)
for layer in model.layers:
    name = layer.name.removesuffix("_switch")
    if name in live and name != layer.name:
        layer.switch.assign(np.where(np.arange(layer.units) < live[name], 1.0, -1.0))
keep = method.keep(model, find_groups(model))
model, _, _ = shrinking.collect(model, keep)
meters.release_memory()
with meters.metered() as spent:
    model.fit(x, y, batch_size=128, verbose=0)
print(spent["peak_memory_bytes"] - before)
"""


def memory_of(live: dict[str, int]) -> int:
    """Bytes that 30 training steps of LeNet-5 with these live units add, at the peak."""
    result = subprocess.run(
        [sys.executable, "-c", MEMORY_SCRIPT, json.dumps(live)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return int(result.stdout.strip().splitlines()[-1])


def memory_over_epochs(flagfile: str) -> list[dict]:
    """Memory of the network as the released run of the flagfile had it, by epoch."""
    name = os.path.basename(flagfile).removesuffix(".flags")
    report = files.read_json(os.path.join("models", name, "report.json"))
    history = report["method"]["history"]
    points = []
    for epoch in (0, 1, 2, 4, 8, len(history)):
        live = {"conv1": 20, "conv2": 50, "fc1": 500}
        if epoch:
            live = history[epoch - 1]["live"]
        points.append({"epoch": epoch, "live": live, "bytes": memory_of(live)})
    return points


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
    return {
        "cpu_seconds_with": statistics.median(cpu[True]),
        "cpu_seconds_without": statistics.median(cpu[False]),
        "cpu_ratio": statistics.median(cpu[True]) / statistics.median(cpu[False]),
        "largest_loss_gap": max(gaps),
        "mean_loss_gap": statistics.mean(gaps),
        "mean_val_accuracy_gap": statistics.mean(gap_accuracy),
    }


def draw(runs: list[dict], memory: list[dict], path: str) -> None:
    """CPU time and loss of every epoch, both sides, and memory of the steps."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    sides = ((False, "#8a94a0", "without removal"), (True, "#1f6feb", "with removal"))
    for axes, key in ((panels[0], "cpu_seconds"), (panels[1], "loss")):
        for side, color, label in sides:
            for number, run in enumerate(r for r in runs if r["remove"] is side):
                values = [epoch[key] for epoch in run["epochs"]]
                style = "--" if side and key == "loss" else "-"
                axes.plot(
                    range(1, len(values) + 1), values, style, color=color, alpha=0.8,
                    label=None if number else label,
                )  # fmt: skip
    epochs = [point["epoch"] for point in memory]
    megabytes = [point["bytes"] / 1e6 for point in memory]
    panels[2].plot(epochs, megabytes[:1] * len(epochs), color="#8a94a0")
    panels[2].plot(epochs, megabytes, color="#1f6feb", marker="o", markersize=4)
    titles = ("CPU seconds an epoch", "training loss", "peak memory of the steps, MB")
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, fontsize=10, loc="left", fontweight="bold")
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[1].set_yscale("log")
    panels[0].set_ylim(bottom=0)
    panels[2].set_ylim(bottom=0)
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
    runs, memory = [], []
    if os.path.exists(path) and not chosen.fresh:
        stored = files.read_json(path)
        runs, memory = stored["runs"], stored.get("memory", [])

    def keep() -> None:
        document = {
            "command": "python benchmarks/garbage_collection.py "
            f"--flagfile={chosen.flagfile}",
            "environment": environment(),
            "summary": {
                **summarise(runs),
                "memory_bytes": [p["bytes"] for p in memory],
            },
            "memory": memory,
            "runs": runs,
        }
        files.write_json(path, document)
        print(document["summary"], flush=True)

    for repeat in range(chosen.repeats):
        for remove in (True, False):
            if sum(run["remove"] is remove for run in runs) > repeat:
                continue
            runs.append(run_once(chosen.flagfile, remove))
            keep()
    memory = memory or memory_over_epochs(chosen.flagfile)
    keep()
    draw(runs, memory, f"{RESULTS}.png")


if __name__ == "__main__":
    main()
