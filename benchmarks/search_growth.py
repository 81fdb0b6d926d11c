"""How searches grow their front: Thompson-sampled morphs, aging evolution, random.

    python benchmarks/search_growth.py            # searches that are missing, then the table
    python benchmarks/search_growth.py --table

MNIST, 12,000 training images, six epochs a trial, 60 trials, three seeds; every sampler in the
same harness, children inherit in both that have any. One search goes on to 150 trials.
Hypervolumes are of validation error, bytes of weights and working memory (model 6), each
by its logarithm between the best and the worst that counts (`CORNERS`); samplers are compared
where all have trained for equally many epochs. Writes benchmarks/results/search_growth.json.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys

import jobs
import numpy as np

RESULTS = pathlib.Path(__file__).parent / "results" / "search_growth.json"
RUNS = pathlib.Path("runs") / "search_growth"
DATA = RUNS / "mnist_12000.npz"

SAMPLERS, SEEDS, TRIALS, LONG = ("morphs", "evolution", "random"), (0, 1, 2), 60, 150
OBJECTIVES = ("error", "weight_bytes", "working_memory_2")
CORNERS = np.array([[0.005, 0.5], [200.0, 200_000.0], [200.0, 50_000.0]])
"""Of each objective: what counts as 1, and where counting begins."""

KEYS = ("sampler", "seed", "trials")


def wanted() -> list[dict]:
    """Every search; the long one goes on from the first."""
    rows = [
        {"sampler": name, "seed": seed, "trials": TRIALS}
        for seed in SEEDS
        for name in SAMPLERS
    ]
    return [*rows, {"sampler": "morphs", "seed": 0, "trials": LONG}]


def made() -> None:
    """The data, written once: the first training images of the usual split."""
    if DATA.exists():
        return
    from tfsparse import data

    mnist = data.load("mnist")
    DATA.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        DATA, x_train=mnist.x_train[:12_000], y_train=mnist.y_train[:12_000],
        x_val=mnist.x_validation, y_val=mnist.y_validation,
        x_test=mnist.x_test, y_test=mnist.y_test,
    )  # fmt: skip


def run(row: dict, count: int) -> dict:
    """One search; what each of its trials came to, in turn."""
    import optuna

    from tfsparse.search import sampler, study

    made()
    folder = RUNS / f"{row['sampler']}-{row['seed']}"
    done = subprocess.run(
        [sys.executable, "-m", "tfsparse.search", f"--data={DATA}", "--epochs=6",
         f"--objectives={','.join(OBJECTIVES)}", f"--sampler={row['sampler']}",
         f"--trials={row['trials']}", f"--seed={row['seed']}", f"--workdir={folder}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    if done.returncode:
        return {**row, "error": done.stderr.strip()[-300:]}
    held = optuna.load_study(
        study_name=study.NAME, storage=f"sqlite:///{folder}/study.db"
    )
    found = []
    for trial in study.finished(held):
        told = trial.user_attrs.get(study.OUTCOME, {})
        found.append(
            {
                "values": trial.values,
                "stopped": sampler.STOPPED in trial.user_attrs,
                "epochs": told.get("epochs", 0),
                "seconds": told.get("seconds", 0.0),
            }
        )
    study.close(held)
    return {**row, "found": found}


def scaled(values) -> np.ndarray:
    """Objectives as shares of the way from the best to the worst that counts."""
    low, high = np.log(CORNERS).T
    return np.clip((np.log(np.maximum(values, 1e-9)) - low) / (high - low), 0.0, None)


def growth(row: dict) -> tuple[np.ndarray, np.ndarray]:
    """Epochs trained so far and the hypervolume then, after each trial."""
    from tfsparse.search import dominance

    told = [None if t["values"] is None else scaled(t["values"]) for t in row["found"]]
    return (
        np.cumsum([t["epochs"] for t in row["found"]]),
        np.array(dominance.growth(told, np.ones(len(OBJECTIVES)))),
    )


def table(rows: list[dict]) -> list[str]:
    """Hypervolumes at equal epochs, and of the long search at three times."""
    good = [row for row in rows if "found" in row]
    short = [row for row in good if row["trials"] == TRIALS]
    lines = ["| sampler | seeds | hypervolume | at epochs |", "|---|---|---|---|"]
    if short:
        equal = min(int(growth(row)[0][-1]) for row in short)
        for name in SAMPLERS:
            own = []
            for row in short:
                if row["sampler"] == name:
                    epochs, volume = growth(row)
                    own.append(
                        float(volume[np.searchsorted(epochs, equal, "right") - 1])
                    )
            if own:
                spread = f" ± {np.std(own, ddof=1):.3f}" if len(own) > 1 else ""
                lines.append(
                    f"| {name} | {len(own)} | {np.mean(own):.3f}{spread} | {equal} |"
                )
    for row in good:
        if row["trials"] == LONG:
            _, volume = growth(row)
            told = ", ".join(f"{volume[n - 1]:.3f} after {n}" for n in (50, 100, 150))
            lines += ["", f"One search of morphs on: {told} trials."]
    return lines


if __name__ == "__main__":
    sys.exit(jobs.program(__doc__, RESULTS, wanted, KEYS, run, table))
