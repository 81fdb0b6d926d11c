"""Few different weights on a LeNet-5 of each method: bits, bytes and error.

    python benchmarks/few_weights.py            # rows that are missing
    python benchmarks/few_weights.py --table

Each released LeNet-5 goes on from its model.keras: every output channel gets 4, 8 or 16
different weights (2, 3, 4 bits), is trained for five epochs so (`--clusters`), and ships plain
and packed; 0 clusters only packs. All 10,000 test images on TensorFlow Lite Micro.
Writes benchmarks/results/few_weights.json, each row as it is done.
"""

from __future__ import annotations

import pathlib
import sys

import jobs

from tfsparse import files

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "few_weights.json"
RUNS = pathlib.Path("runs") / "few_weights"

METHODS = ("shrinknets", "gsparsity", "bayesian_compression", "bayesnas", "sparse_vd")
COUNTS = (0, 16, 8, 4)
SEEDS = (0, 1, 2)
KEYS = ("method", "clusters", "seed")


def wanted() -> list[dict]:
    """Every row, seed by seed; packing alone has no seed."""
    return [
        {"method": method, "clusters": count, "seed": seed}
        for seed in SEEDS
        for method in METHODS
        for count in COUNTS
        if count or not seed
    ]


def run(row: dict, count: int) -> dict:
    """One run of the main job from a released network."""
    folder = RUNS / "-".join(str(row[key]) for key in KEYS)
    source = ROOT / "models" / f"lenet5_{row['method']}"
    config = files.read_json(source / "report.json")["config"]
    flags = [f"--model={source / 'model.keras'}", "--data=mnist", "--method=none",
             "--epochs=0", "--fine_tune_epochs=0", f"--augment={config['augment']}",
             f"--seed={row['seed']}", "--compress=auto", "--preflight=false",
             "--formats=keras,tflite_int8", "--tensorboard=false"]  # fmt: skip
    if row["clusters"]:
        flags.append(f"--clusters={row['clusters']}")
    report = jobs.main_job(flags, folder, count)
    if "error" in report:
        return row | report
    stages = {stage["name"]: stage for stage in report["stages"]}
    small, plain = stages.get("tflite_compressed"), stages["mcu"]
    return row | {
        "accuracy": plain["accuracy"],
        "before": stages["finetuned"]["accuracy"]
        if not row["clusters"]
        else stages["quantised"]["accuracy"],
        "params": plain["params"],
        "file_bytes": plain["file_bytes"],
        "compressed_bytes": small and small["file_bytes"],
        "arena_bytes": plain["arena_bytes"],
        "compressed_arena_bytes": small and small["arena_bytes"],
    }


def table(rows: list[dict]) -> list[str]:
    """Error and packed bytes of each method, by clusters."""
    lines = [
        "| LeNet-5 of | different weights a channel | bits | seeds | error on the MCU, % "
        "| plain file, B | packed, B | arena, B | packed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for method in METHODS:
        for count in COUNTS:
            own = [r for r in rows if (r["method"], r["clusters"]) == (method, count)]
            own = [row for row in own if "accuracy" in row]
            if not own:
                continue
            one = own[0]
            packed = [r["compressed_bytes"] for r in own if r["compressed_bytes"]]
            lines.append(
                f"| {method} | {count or 'any'} | {count.bit_length() - 1 if count else 8} "
                f"| {len(own)} | {jobs.spread([1 - r['accuracy'] for r in own])} "
                f"| {one['file_bytes']:,} "
                f"| {f'{sum(packed) / len(packed):,.0f}' if packed else '–'} "
                f"| {one['arena_bytes']:,} "
                f"| {one['compressed_arena_bytes'] or 0:,} |"
            )
    return lines


if __name__ == "__main__":
    sys.exit(jobs.program(__doc__, RESULTS, wanted, KEYS, run, table))
