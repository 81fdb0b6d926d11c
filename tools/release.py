"""Keeps the result of a finished run as a released model.

python tools/release.py runs/lenet5_shrinknets models/lenet5_shrinknets
"""

from __future__ import annotations

import os
import shutil
import sys

from tfsparse import files

KEPT = ("model.keras", "model_int8.tflite", "report.json")
BESIDE = (
    "model_int8.json",
    "model_int8_compressed.tflite",
    "model_int8_compressed.json",
)
"""Kept where there is one: what firmware does around the int8 file, and the same packed."""

LIMIT_BYTES = 1_000_000


def release(run: str, folder: str) -> int:
    """Copies the files; returns their bytes.

    Raises:
        ValueError: The run is not finished, or its files are too large to release.
    """
    missing = [name for name in KEPT if not os.path.isfile(os.path.join(run, name))]
    if missing:
        raise ValueError(
            f"`run` must be finished. Received: {run!r} without {missing}."
        )
    there = [name for name in BESIDE if os.path.isfile(os.path.join(run, name))]
    kept = (*KEPT, *there)
    total = sum(os.path.getsize(os.path.join(run, name)) for name in kept)
    if total > LIMIT_BYTES:
        raise ValueError(
            f"A release must stay below {LIMIT_BYTES:,} bytes. Received: {total:,}."
        )
    with files.appears_whole(folder) as temporary:
        os.makedirs(temporary)
        for name in kept:
            shutil.copy(os.path.join(run, name), os.path.join(temporary, name))
    return total


def main() -> int:
    """The program."""
    if len(sys.argv) != 3:
        sys.stderr.write(f"usage: {sys.argv[0]} RUN_FOLDER MODEL_FOLDER\n")
        return 2
    try:
        total = release(sys.argv[1], sys.argv[2])
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    print(f"{sys.argv[2]}: {total:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
