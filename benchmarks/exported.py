"""Every released model exported again from its model.keras: bytes, memory, and its answers.

    python benchmarks/exported.py              # rows that are missing
    python benchmarks/exported.py --table
    python benchmarks/exported.py --release    # the files, and what they do, into models/

Of each model the int8 file as the converter makes it, without what nobody reads, and with
weights packed for TensorFlow Lite Micro; its bytes and arena before and after, seconds, and
int8 against float on the whole test split. Nothing is trained.
Writes benchmarks/results/exported.json, each row as it is done.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import shutil
import sys
import time

import jobs
import keras

from tfsparse import checkpoints, files, progress, records
from tfsparse.engine import runner, settings
from tfsparse.engine.stages import export, verify

ROOT = pathlib.Path(__file__).parents[1]
MODELS = ROOT / "models"
RESULTS = ROOT / "benchmarks" / "results" / "exported.json"
RUNS = pathlib.Path("runs") / "exported"
KEYS = ("model",)
FORMATS = ("tflite_float", "tflite_int8")
SHIPPED = ("model_int8.tflite", "model_int8_compressed.tflite")


def wanted() -> list[dict]:
    """One row a released model of the main job."""
    found = sorted(path.parent.name for path in MODELS.glob("*/report.json"))
    return [{"model": name} for name in found]


def run(row: dict, count: int) -> dict:
    """Exports a model, compares its files with it; its report's part lies in its folder."""
    source, folder = MODELS / row["model"], RUNS / row["model"]
    report = files.read_json(source / "report.json")
    told = settings.known_to({**report["config"], "workdir": str(folder)})
    context, _ = runner.context_of(
        settings.Settings.from_json(told),
        checkpoints.Store(str(folder)),
        progress.Silent(),
    )
    model = keras.saving.load_model(source / "model.keras", compile=False)
    stages = [
        export.Export(export.ExportSettings(formats=FORMATS, compress="auto"), None),
        verify.Verify(verify.VerifySettings(), None),
    ]
    started = time.perf_counter()
    results = runner.go(stages, context, {"model": records.Result(model)})
    seconds = time.perf_counter() - started
    context.door.open()
    said = stages[1].tell(context, results)
    rows = {one.name: dataclasses.asdict(one) for one in said.rows}
    files.write_json(
        folder / "again.json", {"rows": list(rows.values()), "document": said.document}
    )
    made = {a.format: a for a in export.artifacts_of(results["export"])}
    small = made.get("tflite_compressed")
    gains = said.document["changes"]
    noise = [n["decibels"] for n in results["export"].facts["noise"] if n["decibels"]]
    return row | {
        "data": report["config"]["data"],
        "method": report["config"]["method"],
        "params": rows["tflite_int8"]["params"],
        "nonzero": rows["tflite_int8"]["nonzero"],
        "macs": rows["tflite_int8"]["macs"],
        "converted_bytes": made["tflite_int8"].facts["converted_bytes"],
        "file_bytes": made["tflite_int8"].file_bytes,
        "compressed_bytes": small.file_bytes if small else None,
        "arena_bytes": rows["mcu"]["arena_bytes"],
        "compressed_arena_bytes": small.facts["arena_bytes"] if small else None,
        "packing_seconds": round(small.facts["seconds"], 2) if small else None,
        "export_seconds": round(seconds, 1),
        "test_error": round(100 * (1 - rows["mcu"]["accuracy"]), 3),
        "gain": round(gains["mcu"]["gain"], 3),
        "half": round(gains["mcu"]["half"], 3),
        "least_decibels": round(min(noise), 1),
    }


def table(rows: list[dict]) -> list[str]:
    """Bytes and memory of each; then, of MNIST, who is smallest at equal error."""
    lines = [
        "| model | error, % | int8 - float, points | as converted, B | shipped, B "
        "| packed, B | arena, B | packed | times smaller |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['model']} | {row['test_error']:.2f} | {row['gain']:+.2f} +- {row['half']:.2f} "
            f"| {row['converted_bytes']:,} | {row['file_bytes']:,} "
            f"| {_or_dash(row['compressed_bytes'])} | {row['arena_bytes']:,} "
            f"| {_or_dash(row['compressed_arena_bytes'])} "
            f"| {row['converted_bytes'] / least(row):.2f} |"
        )
    for net, name in (("lenet5_", "LeNet-5"), ("lenet_300_100_", "LeNet-300-100")):
        own = [row for row in rows if row["model"].startswith(net)]
        if own:
            lines += ["", _verdict(name, own)]
    return lines


def least(row: dict) -> int:
    """Bytes of the smallest file of a model."""
    return row["compressed_bytes"] or row["file_bytes"]


def _verdict(name: str, rows: list[dict]) -> str:
    """Who is smallest at which error, and whether weights or units that died got there."""
    front = [
        row
        for row in sorted(rows, key=least)
        if all(
            other["test_error"] > row["test_error"]
            or least(other) > least(row)
            or other is row
            for other in rows
        )
    ]
    told = ", ".join(
        f"{row['method']} ({least(row):,} B at {row['test_error']:.2f} %)"
        for row in front
    )
    single = [row for row in rows if row["method"] == "sparse_vd"]
    words = f"Smallest {name} at each error, packed: {told}."
    for row in single:
        if row in front:
            words += (
                " Single weights that died (sparse_vd), as bits in flash, hold their own "
                "beside units that died, at the price of memory."
            )
        else:
            words += (
                " Single weights that died (sparse_vd) do not get there, even as bits in "
                "flash: units that died are smaller at a lower error."
            )
    return words


def _or_dash(value) -> str:
    return "–" if value is None else f"{value:,}"


def release() -> None:
    """Puts the files, and what a report says of them, into models/."""
    for row in wanted():
        folder, target = RUNS / row["model"], MODELS / row["model"]
        if not (folder / "again.json").exists():
            continue
        again = files.read_json(folder / "again.json")
        report = files.read_json(target / "report.json")
        old = [r for r in report["stages"] if r["name"] not in verify.FILES]
        old = [r for r in old if r["name"] != "mcu"]
        report["stages"] = [*old, *again["rows"]]
        report |= again["document"]
        for name in SHIPPED:
            if (folder / name).exists():
                shutil.copy(folder / name, target / name)
        files.write_json(target / "report.json", report)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--release", action="store_true")
    chosen, _ = parser.parse_known_args()
    if chosen.release:
        sys.exit(release())
    sys.exit(jobs.program(__doc__, RESULTS, wanted, KEYS, run, table))
