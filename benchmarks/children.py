"""What it costs that converter and interpreters run in processes of their own.

    python benchmarks/children.py --rounds=5

LeNet-5 as an int8 file, exported and run on 10,000 images by LiteRT and by TensorFlow Lite
Micro: the very functions called in this process, and asked of the children, in turn. Writes
benchmarks/results/children.json: medians of seconds and of the ratios of pairs, and what
the start of each child takes. Wanted: at most 1.2 times.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import statistics
import sys
import tempfile
import time

import numpy as np

from tfsparse import deploy, files, zoo
from tfsparse.children import converting, interpreting, process
from tfsparse.deploy import interpreters

RESULTS = pathlib.Path(__file__).parent / "results" / "children.json"
IMAGES, CALIBRATION = 10_000, 512


class InProcess:
    """Answers as a child does, here."""

    def __init__(self, answer):
        self._answer = answer

    def ask(self, request, seconds):
        """The child's own function."""
        return self._answer(request)


def timed(work) -> float:
    """Seconds of a piece of work."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def start_of(module: str, request: dict) -> float:
    """Seconds until a fresh child has answered what it refuses at once."""
    child = process.Child(module)
    found = timed(lambda: child.ask(request, 600.0))
    child.close()
    return found


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    export = sys.modules["tfsparse.deploy.export"]
    kept = {"convert": export.CONVERTER, "run": interpreters.INTERPRETERS}
    here = {
        "convert": InProcess(converting.convert),
        "run": InProcess(interpreting.answer),
    }
    model = zoo.build("lenet5", (28, 28, 1), 10, width=0.3)
    images = np.random.default_rng(0).random((IMAGES, 28, 28, 1)).astype("float32")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model_int8.tflite")
        works = {
            "export": lambda: deploy.export(
                model, folder, images[:CALIBRATION], ("tflite_int8",)
            ),
            "litert": lambda: interpreters.run_tflite(path, [images]),
            "micro": lambda: interpreters.run_micro(path, [images]),
        }
        seconds: dict[str, dict[str, list[float]]] = {}
        for number in range(rounds + 1):  # the first round warms up
            for where, (converter, runner) in {
                "child": (kept["convert"], kept["run"]),
                "here": (here["convert"], here["run"]),
            }.items():
                export.CONVERTER, interpreters.INTERPRETERS = converter, runner
                for name, work in works.items():
                    spent = timed(work)
                    if number:
                        own = seconds.setdefault(name, {})
                        own.setdefault(where, []).append(spent)
    rows = [
        {
            "work": name,
            "seconds_in_children": statistics.median(own["child"]),
            "seconds_in_process": statistics.median(own["here"]),
            "ratio": statistics.median(
                a / b for a, b in zip(own["child"], own["here"], strict=True)
            ),
            "pairs": rounds,
        }
        for name, own in seconds.items()
    ]
    starts = {
        "converter": start_of(
            "tfsparse.children.converting", {"saved_model": "none", "calibration": None}
        ),
        "interpreters": start_of(
            "tfsparse.children.interpreting", {"do": "look", "path": "none"}
        ),
    }
    files.write_json(RESULTS, {"rows": rows, "start_seconds": starts, "images": IMAGES})
    for row in rows:
        print(row)
    print(starts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
