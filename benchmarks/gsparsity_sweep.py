"""Strength of GSparsity's penalty against cost and accuracy, as the paper's table 5.

    python benchmarks/gsparsity_sweep.py

LeNet-5 on MNIST, every coupled unit a group, one run of the main job for each strength:
penalised epochs, strip, retraining without the penalty. Accuracy on the test split: as
trained, with the groups up to each threshold set to zero (table 2's question), and
retrained; all groups stay in the running model until the penalty ends. Writes
benchmarks/results/gsparsity_sweep.{json,png}; rows done before are kept.
"""

from __future__ import annotations

import pathlib
import sys
import tempfile

from matplotlib.figure import Figure

from tfsparse import files, train

RESULTS = pathlib.Path(__file__).parent / "results" / "gsparsity_sweep"
STRENGTHS = (0.0005, 0.001, 0.002, 0.004, 0.006, 0.008, 0.012, 0.016)
FLAGS = (
    "--model=lenet5", "--method=gsparsity", "--epochs=8", "--shrink_epochs=8",
    "--fine_tune_epochs=6", "--fine_tune_learning_rate=0.002", "--remove=false",
    "--formats=keras,tflite_int8", "--tensorboard=false",
)  # fmt: skip


def row(strength: float) -> dict:
    """One run of the main job, and what its report says."""
    with tempfile.TemporaryDirectory() as folder:
        code = train.main(
            ["train", *FLAGS, f"--strength={strength}", f"--workdir={folder}/run"]
        )
        if code:
            raise RuntimeError(f"The run with strength {strength} ended with {code}.")
        report = files.read_json(f"{folder}/run/report.json")
    stages = {stage["name"]: stage for stage in report["stages"]}
    return {
        "strength": strength,
        "settling": [
            {**s, "accuracy": s["score"]} for s in report["method"]["settling"]
        ],
        "stripped": stages["stripped"]["accuracy"],
        "retrained": stages["finetuned"]["accuracy"],
        "mcu": stages["mcu"]["accuracy"],
        "params": stages["finetuned"]["params"],
        "macs": stages["finetuned"]["macs"],
        "file_bytes": stages["tflite_int8"]["file_bytes"],
        "dense": report["dense_cost"],
        "kept": {g["name"]: g["kept"] for g in report["groups"]},
    }


def draw(rows: list[dict], path: str) -> None:
    """Cost and accuracy against strength."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    strengths = [r["strength"] for r in rows]
    for key, color in (("macs", "#1f6feb"), ("params", "#d9730d")):
        shares = [100 * r[key] / r["dense"][key] for r in rows]
        left.plot(strengths, shares, marker="o", color=color, label=key)
    left.set_yscale("log")
    left.set_ylabel("left, %")
    right.plot(
        strengths, [100 * r["retrained"] for r in rows], marker="o", color="#2a9d5c",
        label="retrained",
    )  # fmt: skip
    right.plot(
        strengths, [100 * r["settling"][0]["accuracy"] for r in rows], marker="o",
        color="#8a94a0", label="before pruning",
    )  # fmt: skip
    right.set_ylabel("test accuracy, %")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlabel("strength mu")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=140)


def main() -> int:
    """Makes the rows that are missing, then the plot."""
    path = f"{RESULTS}.json"
    rows = files.read_json(path)["rows"] if pathlib.Path(path).exists() else []
    for strength in STRENGTHS:
        if all(r["strength"] != strength for r in rows):
            rows.append(row(strength))
            rows.sort(key=lambda r: r["strength"])
            files.write_json(path, {"flags": FLAGS, "rows": rows})
            print(rows[-1], flush=True)
    draw(rows, f"{RESULTS}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
