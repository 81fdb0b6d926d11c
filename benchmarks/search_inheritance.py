"""What it is worth to take over a parent's posterior: epochs to its accuracy, with and without.

    python benchmarks/search_inheritance.py            # morphs that are missing
    python benchmarks/search_inheritance.py --table

Twenty random morphs, each of another random parent of table 7 (MNIST, 6,000 training images);
the parent trains for `EPOCHS`. Child and child without a parent train alike; told is after how
many epochs each has the accuracy that the parent had at its end (validation). Writes
benchmarks/results/search_inheritance.json.
"""

from __future__ import annotations

import pathlib
import statistics
import sys

import jobs
import numpy as np

RESULTS = pathlib.Path(__file__).parent / "results" / "search_inheritance.json"
RUNS = pathlib.Path("runs") / "search_inheritance"
MORPHS, EPOCHS, SAMPLES = 20, 12, 6_000
KEYS = ("morph",)


def wanted() -> list[dict]:
    """Every morph, by its seed."""
    return [{"morph": number} for number in range(MORPHS)]


def reached(curve: list[float], goal: float) -> int | None:
    """The first epoch, counted from 1, with that accuracy; None for none of them."""
    return next((n for n, own in enumerate(curve, 1) if own >= goal), None)


def run(row: dict, count: int) -> dict:
    """One parent, its child, and the same child on its own."""
    import keras

    from tfsparse import data, methods, search
    from tfsparse.engine import candidate, sealed
    from tfsparse.search import morphs

    mnist = data.load("mnist")
    few = {"x_train": mnist.x_train[:SAMPLES], "y_train": mnist.y_train[:SAMPLES]}
    dataset = sealed.Door(data.Dataset(**{**vars(mnist), **few})).dataset
    space = search.Space(search.table_7(dataset.shape))
    rng = np.random.default_rng(row["morph"])
    parent = {**space.sample(rng), "pretraining": False}
    parent = space.completed(parent, rng)
    while True:
        child, names = morphs.child(space, parent, rng)
        if not set(names) <= {"threshold"}:
            break
    curves: dict[str, list[float]] = {}

    class Watched(candidate.Candidates):
        def _trained(self, context, *arguments):
            fit = context.fit_epoch

            def watched(*own, **more):
                logs = fit(*own, **more)
                curves[told].append(logs["val_accuracy"])
                return logs

            context.fit_epoch = watched
            return super()._trained(context, *arguments)

    evaluate = Watched(
        dataset, str(RUNS / f"{row['morph']}"), methods.METHODS["bayesian_compression"],
        EPOCHS, ("error", "weight_bytes"),
    )  # fmt: skip
    inherited = None
    for number, (told, values, before) in enumerate(
        (("parent", parent, None), ("inherits", child, 0), ("alone", child, None))
    ):
        curves[told] = []
        keras.backend.clear_session()
        outcome = evaluate(number, values, before)
        inherited = outcome.inherited or inherited
    goal = curves["parent"][-1]
    return {
        **row,
        "morphs": list(names),
        "inherited": inherited and inherited["elements"] / max(inherited["total"], 1),
        "goal": goal,
        "curves": curves,
        "epochs": {k: reached(curves[k], goal) for k in ("inherits", "alone")},
    }


def table(rows: list[dict]) -> list[str]:
    """Medians over the morphs; who never gets there counts as one epoch more than all."""
    good = [row for row in rows if "epochs" in row]
    if not good:
        return ["nothing yet"]
    lines = [
        "| child | epochs to its parent's accuracy, median | never |",
        "|---|---|---|",
    ]
    for name in ("inherits", "alone"):
        told = [row["epochs"][name] for row in good]
        median = statistics.median(EPOCHS + 1 if n is None else n for n in told)
        lines.append(f"| {name} | {median:g} | {told.count(None)} of {len(told)} |")
    share = statistics.median(row["inherited"] for row in good)
    return [
        *lines,
        "",
        f"Taken over: {share:.0%} of the numbers, median of {len(good)}.",
    ]


if __name__ == "__main__":
    sys.exit(jobs.program(__doc__, RESULTS, wanted, KEYS, run, table))
