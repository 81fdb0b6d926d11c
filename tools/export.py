"""Exports a .keras model of stock layers and checks every file against it.

    python tools/export.py model.keras folder samples.npy

`samples.npy` holds inputs `(samples, ...)`, float in [0, 1]: they set the int8 ranges
and are what the files are compared on.
"""

from __future__ import annotations

import sys

import numpy as np

import tfsparse
from tfsparse import zoo


def main() -> int:
    """The program."""
    if len(sys.argv) != 4:
        sys.stderr.write(f"usage: {sys.argv[0]} MODEL.keras FOLDER SAMPLES.npy\n")
        return 2
    try:
        model = zoo.load(sys.argv[1])
        samples = np.load(sys.argv[3], allow_pickle=False).astype("float32")
        artifacts = tfsparse.export(model, sys.argv[2], samples)
        rows = tfsparse.verify(model, artifacts, samples)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    for artifact in artifacts:
        print(f"{artifact.path}: {artifact.file_bytes:,} bytes")
    for row in rows:
        arena = f", arena {row.arena_bytes:,} bytes" if row.arena_bytes else ""
        print(f"{row.artifact}: largest difference {row.max_abs_difference:.3g}{arena}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
