"""Evaluations a second: masks in one copy of a network, and the network built for each mask.

    python benchmarks/ranking_speed.py

ResNet-20 on MNIST's pictures, random weights, random masks that keep about half; losses on
2,000 and on 200 validation images. Both ways see the same masks, in turns; the losses are
compared. And what a cut costs: a count of MACs and parameters by polynomials, beside a
measurement. Writes benchmarks/results/ranking_speed.json.
"""

from __future__ import annotations

import pathlib
import statistics
import sys
import time

import keras
import numpy as np

import tfsparse
from tfsparse import data, files, ranking, zoo
from tfsparse.deploy.amounts import amounts
from tfsparse.engine import judging
from tfsparse.graph import groups

RESULTS = pathlib.Path(__file__).parent / "results" / "ranking_speed.json"
ROUNDS = 8


def timed(what):
    """What a call gives, and its seconds."""
    started = time.perf_counter()
    found = what()
    return found, time.perf_counter() - started


def main() -> int:
    """The program."""
    mnist = data.load("mnist")
    keras.utils.set_random_seed(0)
    model = zoo.build("resnet20", (28, 28, 1), 10)
    free = [g for g in tfsparse.find_groups(model) if not g.frozen]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    rng, rows = np.random.default_rng(0), []
    for samples in (2000, 200):
        x, y = mnist.x_validation[:samples], mnist.y_validation[:samples]
        judge = judging.Judge(model, loss, x, y)
        floats = x / np.float32(255)

        def anew(keep, floats=floats, y=y):
            small = tfsparse.strip(model, keep)
            small.compile(loss=loss, jit_compile=False)
            return small.evaluate(floats, y, batch_size=500, verbose=0)

        times: dict[str, list[float]] = {"masks": [], "anew": []}
        worst = 0.0
        for turn in range(ROUNDS + 1):
            keep = {
                g.name: (rng.random(g.size) < 0.5) | (np.arange(g.size) == 0)
                for g in free
            }
            one, first = timed(lambda k=keep, j=judge: j(k))
            two, second = timed(lambda k=keep, a=anew: a(k))
            worst = max(worst, abs(one - two) / abs(two))
            if turn:  # the first one traces
                times["masks"].append(first)
                times["anew"].append(second)
        medians = {name: statistics.median(own) for name, own in times.items()}
        rows.append(
            {
                "samples": samples,
                **{f"seconds_{name}": own for name, own in medians.items()},
                "times_faster": medians["anew"] / medians["masks"],
                "largest_relative_difference": worst,
            }
        )
        print(rows[-1], flush=True)
    analysis = groups.analyse(model)
    names = ["macs", "params"]
    counted, made = timed(
        lambda: ranking.Counted.of_groups(
            analysis.groups, lambda k, wanted: amounts(analysis, k, wanted), names
        )
    )
    kept = {g: max(1, n // 2) for g, n in counted.sizes.items()}
    masks = {g: np.arange(n) < kept[g] for g, n in counted.sizes.items()}
    _, fast = timed(lambda: [counted(kept) for _ in range(1000)])
    _, slow = timed(lambda: [amounts(analysis, masks, names) for _ in range(20)])
    found = {
        "rows": rows,
        "count_microseconds": 1e6 * fast / 1000,
        "measure_microseconds": 1e6 * slow / 20,
        "counts_made_in_seconds": made,
    }
    print(found)
    files.write_json(RESULTS, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
