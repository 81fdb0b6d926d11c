"""How the time of groups, strip and measure grows with the number of layers.

    python benchmarks/strip_scaling.py

Chains of convolutions with BatchNorm and ReLU, `LENGTHS` layers long, and DenseNet201;
half of the units of every group go. Every row runs in a process of its own, which warms
up on a short chain. Writes benchmarks/results/strip_scaling.json.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import time

RESULTS = pathlib.Path(__file__).parent / "results" / "strip_scaling.json"
LENGTHS = (125, 250, 500, 1000)
OTHERS = ("DenseNet201",)
RECURSION = 20_000
"""Keras itself recurses once for each layer when it builds or saves a chain."""


def chain(length: int):
    """`length` convolutions, BatchNorms and ReLUs, one after the other."""
    import keras
    from keras import layers

    x = image = keras.Input((8, 8, 3))
    for number in range(length // 3):
        x = layers.Conv2D(16, 3, padding="same", name=f"conv{number}")(x)
        x = layers.BatchNormalization(name=f"bn{number}")(x)
        x = layers.ReLU(name=f"relu{number}")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(10)(x))


def row(name: str) -> dict:
    """Seconds of one model."""
    import keras
    import numpy as np

    import tfsparse

    sys.setrecursionlimit(RECURSION)

    def timed(model) -> dict:
        clock = [time.perf_counter()]
        groups = tfsparse.find_groups(model)
        clock.append(time.perf_counter())
        keep = {g.name: np.arange(g.size) % 2 == 0 for g in groups if not g.frozen}
        tfsparse.strip(model, keep)
        clock.append(time.perf_counter())
        tfsparse.measure(model)
        clock.append(time.perf_counter())
        find, strip, measure = np.diff(clock).tolist()
        layers = len(model.layers)
        return {
            "model": name,
            "layers": layers,
            "groups": len(groups),
            "find_seconds": find,
            "strip_seconds": strip,
            "measure_seconds": measure,
            "strip_milliseconds_a_layer": 1000 * strip / layers,
        }

    timed(chain(30))
    if name.isdigit():
        return timed(chain(int(name)))
    return timed(
        getattr(keras.applications, name)(weights=None, classifier_activation=None)
    )


def main(arguments: list[str]) -> int:
    """All rows, or the one named."""
    from tfsparse import files

    if arguments:
        print(json.dumps(row(arguments[0])))
        return 0
    rows = []
    for name in (*map(str, LENGTHS), *OTHERS):
        run = subprocess.run(
            [sys.executable, __file__, name],
            check=True,
            capture_output=True,
            text=True,
        )
        rows.append(json.loads(run.stdout.strip().splitlines()[-1]))
        print(rows[-1], flush=True)
        files.write_json(RESULTS, {"rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
