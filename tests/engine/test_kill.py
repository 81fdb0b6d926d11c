"""kill -9 at any moment, then --resume: the run ends where it would have ended."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tfsparse import files

ARGUMENTS = [
    "--data=digits", "--model=mlp", "--hidden=24,16", "--strength=0.02", "--epochs=30",
    "--shrink_epochs=15", "--fine_tune_epochs=10", "--batch_size=32",
    "--learning_rate=0.01", "--formats=keras,tflite_int8", "--tensorboard=false",
         "--preflight=false",
]  # fmt: skip


def start(folder, errors=subprocess.DEVNULL):
    command = [
        sys.executable,
        "-m",
        "tfsparse.train",
        *ARGUMENTS,
        f"--workdir={folder}",
    ]
    return subprocess.Popen(
        [*command, "--resume"], stdout=subprocess.DEVNULL, stderr=errors
    )


def partial(folder):
    """What is being written at this moment."""
    return [
        os.path.join(place, name)
        for place, folders, names in os.walk(folder)
        for name in (*folders, *names)
        if name.startswith(files.PARTIAL)
    ]


def kill_when(process, folder, wanted, limit=60.0):
    """Kills the process as soon as `wanted(partial paths)`; True if that happened."""
    end = time.monotonic() + limit
    while process.poll() is None and time.monotonic() < end:
        if wanted(partial(folder)):
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
    return False


def finish(folder):
    process = start(folder, subprocess.PIPE)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors.decode()


def outcome(folder):
    report = files.read_json(os.path.join(folder, "report.json"))
    rows = [(row["name"], row["accuracy"], row["params"]) for row in report["stages"]]
    losses = [entry["loss"] for entry in report["method"]["history"]]
    with open(os.path.join(folder, "model_int8.tflite"), "rb") as file:
        return rows, losses, file.read()


def in_checkpoint(paths):
    return any("checkpoints" in path for path in paths)


def in_export(paths):
    return any("model_int8" in path or "model.keras" in os.path.basename(path)
               and "checkpoints" not in path for path in paths)  # fmt: skip


@pytest.mark.slow
def test_killed_twenty_times_and_more(tmp_path):
    whole, broken = str(tmp_path / "whole"), str(tmp_path / "broken")
    finish(whole)
    chance, kills, writing = random.Random(0), 0, {"checkpoint": 0, "export": 0}
    while kills < 18 and not os.path.exists(os.path.join(broken, "report.html")):
        process = start(broken)
        if kills % 3 == 1:
            hit = kill_when(process, broken, in_checkpoint)
            writing["checkpoint"] += hit
        else:
            time.sleep(chance.uniform(0.5, 7.5))
            hit = process.poll() is None
            process.kill()
            process.wait()
        kills += hit
    for _ in range(30):
        if writing["export"] >= 4 and kills >= 22:
            break
        # As if never exported: every round exports anew and is killed while it does.
        files.remove(os.path.join(broken, "report.html"))
        process = start(broken)
        hit = kill_when(process, broken, in_export)
        process.kill()
        process.wait()
        kills += hit
        writing["export"] += hit
    finish(broken)
    assert kills >= 20 and writing["checkpoint"] >= 3 and writing["export"] >= 2
    assert outcome(broken) == outcome(whole)
    assert partial(broken) == []


@pytest.mark.slow
def test_killed_while_writing_a_checkpoint(tmp_path):
    folder = str(tmp_path / "run")
    process = start(folder)
    assert kill_when(process, folder, in_checkpoint)
    latest = os.path.join(folder, "checkpoints", "sparse")
    before = set(os.listdir(latest)) if os.path.isdir(latest) else set()
    assert all(
        os.path.exists(os.path.join(latest, name, "state.json"))
        for name in before
        if name.startswith("epoch-")
    )
    finish(folder)
    assert partial(folder) == []
    assert outcome(folder)[0][-1][0] == "mcu"
