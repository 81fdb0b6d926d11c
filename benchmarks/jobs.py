"""What benchmarks share that run the main job row by row."""

from __future__ import annotations

import os
import pathlib
import shutil
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
    if done.returncode:
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
