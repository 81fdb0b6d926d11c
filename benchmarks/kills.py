"""kill -9 at random moments of every kind of stage: the run ends as if undisturbed.

    python benchmarks/kills.py [--kills=20] [--stages=dense,sparse,...]

A run on the real 8 x 8 digits is begun, and killed, and resumed, so many times in each kind
of stage; which stage it is in, its folder tells. Once the stage is over the run is finished,
compared, and another begun, until there were kills enough. Each is compared with a run that
nobody disturbed: rows of the report, every loss, and the int8 file, bit for bit.
Writes benchmarks/results/kills.json, stage by stage.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

from tfsparse import files

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "kills.json"
EPOCHS = {"dense": 24, "sparse": 24, "finetuned": 24}
FLAGS = [
    "--data=digits", "--model=mlp", "--hidden=24,16", "--method=gsparsity",
    "--strength=0.01", "--eps=0.2", f"--dense_epochs={EPOCHS['dense']}",
    f"--epochs={EPOCHS['sparse']}", "--shrink_epochs=16",
    f"--fine_tune_epochs={EPOCHS['finetuned']}", "--batch_size=32",
    "--formats=keras,saved_model,tflite_float,tflite_int8", "--tensorboard=false",
]  # fmt: skip
TRIALS = ["--target=params=0.5", "--trials=4"]
STAGES = ("dense", "sparse", "trial", "strip", "finetune", "export", "verify")
LONGEST = {"strip": 0.4, "export": 3.0, "verify": 1.0}
"""Seconds up to which a kill waits within a stage; one of training up to 0.3."""


def start(folder: str, more: list[str]) -> subprocess.Popen:
    """Begins or resumes the run in a folder."""
    command = [sys.executable, "-m", "tfsparse.train", *FLAGS, *more]
    return subprocess.Popen(
        [*command, f"--workdir={folder}", "--resume"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )


def last_epoch(folder: str, stage: str) -> int:
    """The newest whole checkpoint of a stage; -1 for none."""
    place = os.path.join(folder, "checkpoints", stage)
    if not os.path.isdir(place):
        return -1
    names = [name for name in os.listdir(place) if name.startswith("epoch-")]
    return max((int(name.removeprefix("epoch-")) for name in names), default=-1)


def stage_of(folder: str, began: float) -> str:
    """The kind of stage that the run in a folder is in."""
    if os.path.exists(os.path.join(folder, "report.html")):
        return "finished"
    if last_epoch(folder, "dense") < EPOCHS["dense"]:
        return "dense"
    if last_epoch(folder, "trial-1") >= 0 and last_epoch(folder, "sparse") < 0:
        return "trial"
    if last_epoch(folder, "sparse") < EPOCHS["sparse"]:
        return "sparse"
    if last_epoch(folder, "stripped") < 0:
        return "strip"
    if last_epoch(folder, "finetuned") < EPOCHS["finetuned"]:
        return "finetune"
    made = os.path.join(folder, "model_int8.tflite")
    exported = os.path.exists(made) and os.path.getmtime(made) > began
    return "verify" if exported else "export"


def killed_in(stage: str, folder: str, more: list[str], chance: random.Random) -> bool:
    """Resumes the run and kills it within a stage; whether that was so."""
    began = time.time()
    process = start(folder, more)
    if stage in ("dense", "sparse", "trial", "finetune"):  # after this process's start
        first = progress_of(folder)
        while process.poll() is None and progress_of(folder) == first:
            time.sleep(0.005)
    while process.poll() is None and stage_of(folder, began) != stage:
        time.sleep(0.002)
    time.sleep(chance.uniform(0, LONGEST.get(stage, 0.3)))
    here = process.poll() is None and stage_of(folder, began) == stage
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    process.communicate()
    return here


def progress_of(folder: str) -> tuple:
    """What changes as a run gets on."""
    place = os.path.join(folder, "checkpoints")
    names = os.listdir(place) if os.path.isdir(place) else []
    return tuple((name, last_epoch(folder, name)) for name in sorted(names))


def finish(folder: str, more: list[str]) -> None:
    """Lets the run end.

    Raises:
        RuntimeError: It failed.
    """
    process = start(folder, more)
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(errors.decode()[-400:])


def outcome(folder: str):
    """What has to be the same."""
    report = files.read_json(os.path.join(folder, "report.json"))
    rows = [(r["name"], r["accuracy"], r["params"]) for r in report["stages"]]
    method = report["method"]
    losses = [
        entry["loss"]
        for key in ("dense_history", "history", "fine_tune_history")
        for entry in method[key]
    ]
    with open(os.path.join(folder, "model_int8.tflite"), "rb") as file:
        return rows, losses, method.get("trials"), file.read()


def partial(folder: str) -> list[str]:
    """What was left half-written."""
    return [
        name
        for _, folders, names in os.walk(folder)
        for name in (*folders, *names)
        if name.startswith(files.PARTIAL)
    ]


def row_of(stage: str, kills: int, whole: dict, chance: random.Random) -> dict:
    """So many kills in one kind of stage, and whether the end is the same."""
    more = TRIALS if stage == "trial" else []
    wanted = whole["trials" if more else "plain"]
    hits = tries = runs = alike = 0
    while hits < kills and tries < 4 * kills:
        with tempfile.TemporaryDirectory() as place:
            folder, here = os.path.join(place, "run"), True
            while here and hits < kills and tries < 4 * kills:
                tries += 1
                here = killed_in(stage, folder, more, chance)
                hits += here
            if stage_of(folder, 0.0) != "finished":
                finish(folder, more)
            runs += 1
            alike += outcome(folder) == wanted and not partial(folder)
    return {
        "stage": stage,
        "kills": hits,
        "tries": tries,
        "runs": runs,
        "same": alike == runs,
    }


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--stages", default=",".join(STAGES))
    given = parser.parse_args()
    stages = given.stages.split(",")
    with tempfile.TemporaryDirectory() as place:
        whole = {}
        for key, more in (("plain", []), ("trials", TRIALS)):
            if key == "plain" or "trial" in stages:
                finish(f"{place}/{key}", more)
                whole[key] = outcome(f"{place}/{key}")
    chance, good = random.Random(0), True
    for stage in stages:
        row = row_of(stage, given.kills, whole, chance)
        print(row, flush=True)
        keep(row)
        good &= row["same"] and row["kills"] >= given.kills
    return 0 if good else 1


def keep(row: dict) -> None:
    """Keeps a stage's row beside those of the others."""
    rows = files.read_json(str(RESULT))["rows"] if RESULT.exists() else []
    found = {other["stage"]: other for other in rows} | {row["stage"]: row}
    ordered = [found[stage] for stage in STAGES if stage in found]
    files.write_json(str(RESULT), {"rows": ordered})


if __name__ == "__main__":
    sys.exit(main())
