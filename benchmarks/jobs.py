"""What benchmarks share that run the main job row by row."""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent import futures

from tfsparse import files

ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}


def main_job(flags: list[str], folder: pathlib.Path, jobs: int = 1) -> dict:
    """Runs `tfsparse.train`, or goes on with a run that was stopped.

    Args:
        flags: What it is told.
        folder: Its workdir; checkpoints are gone afterwards.
        jobs: How many run beside each other: several have a thread each.

    Returns:
        Its report; `{"error": ...}`, its last words, where it failed.
    """
    command = [sys.executable, "-m", "tfsparse.train", *flags, f"--workdir={folder}"]
    environment = {**os.environ, **(ONE_THREAD if jobs > 1 else {})}
    done = subprocess.run(
        [*command, "--resume"], capture_output=True, text=True, env=environment
    )
    if (
        done.returncode > 1
    ):  # 1: a file is worse than the network, and the report says so
        return {"error": done.stderr.strip()[-300:]}
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return files.read_json(folder / "report.json")


def measured(report: dict) -> dict:
    """What a table tells of a classifier's report: the file that ships, and its training."""
    stages = {stage["name"]: stage for stage in report["stages"]}
    trained = ("sparse", "plain", "finetuned")
    spent = sum(s["seconds"] for s in report["stages"] if s["name"] in trained)
    return {
        "accuracy": stages["mcu"]["accuracy"],
        "float_accuracy": stages["finetuned"]["accuracy"],
        **{
            name: stages["mcu"][name]
            for name in ("params", "macs", "file_bytes", "arena_bytes")
        },
        "training_seconds": round(spent, 1),
        "kept": {group["name"]: group["kept"] for group in report["groups"]},
    }


def program(
    doc: str | None,
    path: pathlib.Path,
    wanted: Callable[[], list[dict]],
    keys: tuple[str, ...],
    run: Callable[[dict, int], dict],
    table: Callable[[list[dict]], list[str]],
) -> int:
    """A benchmark of rows: makes those that are missing, unless --table; prints the table.

    Args:
        doc: What `--help` says.
        path, keys: See `kept_rows`.
        wanted: Makes all rows' keys.
        run: `(row, jobs) -> row`.
        table: Rows -> lines.
    """
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--jobs", type=int, default=1)
    chosen = parser.parse_args()
    rows = kept_rows(
        path,
        () if chosen.table else wanted(),
        keys,
        lambda row: run(row, chosen.jobs),
        chosen.jobs,
    )
    print("\n".join(table(rows)))
    return 0


def spread(values: list[float]) -> str:
    """Mean and spread of shares, as a table has them."""
    more = f" ± {statistics.stdev(values):.2%}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2%}{more}"


def kept_rows(
    path: pathlib.Path,
    wanted: Iterable[dict],
    keys: tuple[str, ...],
    run: Callable[[dict], dict],
    jobs: int = 1,
) -> list[dict]:
    """Makes the rows that a file lacks, each written as it is done.

    Args:
        path: A list of rows as JSON.
        wanted: Rows to make, what `keys` names in each.
        keys: What tells rows apart.
        run: `row -> row`, with an `error` where it failed: made again next time.
        jobs: How many at a time.

    Returns:
        All rows of the file.
    """

    def key(row):
        return tuple(row[name] for name in keys)

    rows = files.read_json(path) if path.exists() else []
    good = {key(one) for one in rows if "error" not in one}
    waiting = [row for row in wanted if key(row) not in good]
    with futures.ThreadPoolExecutor(jobs) as pool:
        started = [pool.submit(run, row) for row in waiting]
        for one in futures.as_completed(started):
            row = one.result()
            rows = [*(old for old in rows if key(old) != key(row)), row]
            print({k: row.get(k) for k in (*keys, "accuracy", "params", "error")})
            sys.stdout.flush()
            files.write_json(path, rows)
    return rows
