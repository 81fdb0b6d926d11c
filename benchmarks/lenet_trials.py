"""Recipes of the LeNets, chosen on validation: six trials each, at a third of the epochs.

    python benchmarks/lenet_trials.py                    # trials that are missing
    python benchmarks/lenet_trials.py --table            # what is there, the best of each
    python benchmarks/lenet_trials.py --write=lenet5_2500    # the best as a flagfile

Every trial asks for the size of its recipe (`--target`), so that all are as large, and is
scored by the validation accuracy of the network that ships; test figures are not kept. The
best of a recipe becomes configs/RECIPE.flags, which lenet_table.py runs in full, three seeds.
Writes benchmarks/results/lenet_trials.json, each trial as it is done.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

import jobs

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "lenet_trials.json"
RUNS = pathlib.Path("runs") / "lenet_trials"
SEED = 3
"""Not one of those that the table tells."""

EPOCHS = ("dense_epochs", "epochs", "shrink_epochs", "fine_tune_epochs",
          "pretrain_epochs", "warm_up_epochs", "loop_epochs")  # fmt: skip

SMALL = {"learning_rate": 0.002, "fine_tune_learning_rate": 0.004, "dense_epochs": 24,
         "epochs": 24, "shrink_epochs": 21, "fine_tune_epochs": 120}  # fmt: skip
"""Short training to the target, and long training of the small network after it."""
VARIATIONAL = {"epochs": 90, "shrink_epochs": 60, "fine_tune_epochs": 90,
               "fine_tune_learning_rate": 0.003, "pretrain_epochs": 6,
               "warm_up_epochs": 18}  # fmt: skip

LITTLE, TURNED = "shift=1", "shift=1,rotate=10"

RECIPES: dict[str, tuple[dict, list[dict]]] = {
    "lenet5_2500": (
        {"model": "lenet5", "target": "params=2490", **SMALL},
        [
            {"method": "gsparsity", "augment": TURNED, "distill": 0.7},
            {"method": "shrinknets", "augment": TURNED, "distill": 0.7},
            {"method": "bayesnas_compression", "augment": TURNED, "distill": 0.7},
            {"method": "bayesian_compression", "augment": TURNED, "distill": 0.7,
             "pretrain_epochs": 3, "warm_up_epochs": 9},
            {"method": "gsparsity", "augment": LITTLE, "distill": 0.7},
            {"method": "gsparsity", "augment": TURNED},
        ],
    ),
    "lenet_300_100_15000": (
        {"model": "lenet_300_100", "target": "params=14950", **SMALL},
        [
            {"method": "gsparsity", "augment": TURNED, "distill": 0.7},
            {"method": "shrinknets", "augment": TURNED, "distill": 0.7},
            {"method": "bayesnas_compression", "augment": TURNED, "distill": 0.7},
            {"method": "bayesian_compression", "augment": TURNED, "distill": 0.7,
             "pretrain_epochs": 3, "warm_up_epochs": 9},
            {"method": "bayesnas_compression", "augment": LITTLE, "distill": 0.7},
            {"method": "bayesnas_compression", "augment": LITTLE},
        ],
    ),
    "lenet_300_100_bayesian_compression": (
        {"model": "lenet_300_100", "method": "bayesian_compression",
         "target": "params=28000", "augment": LITTLE, **VARIATIONAL},
        [
            {},
            {"augment": TURNED},
            {"prior": "horseshoe"},
            {"learning_rate": 0.003},
            {"warm_up_epochs": 36},
            {"augment": ""},
        ],
    ),
    "lenet_300_100_sparse_vd": (
        {"model": "lenet_300_100", "method": "sparse_vd", "target": "nonzero=3900",
         "batch_size": 100, **VARIATIONAL},
        [
            {},
            {"augment": LITTLE},
            {"learning_rate": 0.003},
            {"warm_up_epochs": 36},
            {"threshold": 2},
            {"augment": LITTLE, "warm_up_epochs": 36},
        ],
    ),
    "lenet_300_100_bayesnas": (
        {"model": "lenet_300_100", "method": "bayesnas_compression",
         "target": "params=21500", "epochs": 48, "shrink_epochs": 45,
         "fine_tune_epochs": 60, "fine_tune_learning_rate": 0.003},
        [
            {"augment": TURNED, "ignore": "logits"},
            {"augment": LITTLE},
            {"augment": TURNED, "dense_epochs": 12},
            {"augment": TURNED, "ignore": "logits", "dense_epochs": 12, "distill": 0.7},
            {"augment": TURNED, "evidence": False},
            {"augment": TURNED, "loop_epochs": 9},
        ],
    ),
    "lenet5_bayesian_compression": (
        {"model": "lenet5", "method": "bayesian_compression", "target": "params=2790",
         "augment": TURNED, **VARIATIONAL, "epochs": 45, "shrink_epochs": 36,
         "warm_up_epochs": 9, "pretrain_epochs": 3},
        [
            {},
            {"prior": "horseshoe"},
            {"learning_rate": 0.004},
            {"augment": LITTLE},
            {"warm_up_epochs": 24},
            {"prior": "horseshoe", "learning_rate": 0.004},
        ],
    ),
    "lenet5_sparse_vd": (
        {"model": "lenet5", "method": "sparse_vd", "target": "nonzero=1700",
         "augment": TURNED, "batch_size": 100, **VARIATIONAL, "epochs": 54,
         "shrink_epochs": 42, "warm_up_epochs": 12, "pretrain_epochs": 3},
        [
            {},
            {"learning_rate": 0.002},
            {"threshold": 2},
            {"augment": LITTLE},
            {"warm_up_epochs": 24},
            {"learning_rate": 0.002, "threshold": 2},
        ],
    ),
    "lenet5_bayesnas": (
        {"model": "lenet5", "method": "bayesnas_compression", "target": "params=3290",
         "augment": TURNED, **SMALL, "fine_tune_epochs": 60},
        [
            {"distill": 0.7},
            {},
            {"augment": LITTLE, "distill": 0.7},
            {"distill": 0.7, "fine_tune_learning_rate": 0.002},
            {"distill": 0.7, "dense_epochs": 12, "epochs": 48, "shrink_epochs": 45},
            {"distill": 0.7, "evidence": False},
        ],
    ),
}  # fmt: skip
"""Recipe -> what its trials share, full epochs; what each of them has of its own."""

KEYS = ("recipe", "trial")


def wanted() -> list[dict]:
    """Every trial, cheap recipes first."""
    return [
        {"recipe": name, "trial": number}
        for name, (_, trials) in RECIPES.items()
        for number in range(len(trials))
    ]


def flags_of(row: dict, share: int = 1) -> list[str]:
    """What the main job is told: all epochs, or one in `share` of them."""
    common, trials = RECIPES[row["recipe"]]
    chosen = {"data": "mnist", **common, **trials[row["trial"]]}
    for name in EPOCHS:
        if chosen.get(name):
            chosen[name] = max(1, round(chosen[name] / share))
    return [
        f"--{key}={str(value).lower() if isinstance(value, bool) else value}"
        for key, value in chosen.items()
    ]


def run(row: dict, count: int) -> dict:
    """One trial, and what validation says of it."""
    flags = flags_of(row, 3)
    own = [*flags, f"--seed={SEED}", "--tensorboard=false", "--formats=keras"]
    report = jobs.main_job(own, RUNS / f"{row['recipe']}-{row['trial']}", count)
    row = {**row, "flags": flags}
    if "error" in report:
        return row | report
    method = report["method"]
    last = report["stages"][-1]
    return {
        **row,
        "validation_error": 1 - method["validation_score"],
        "params": last["params"],
        "nonzero": last["nonzero"],
        "seconds": round(sum(stage["seconds"] for stage in report["stages"])),
    }


def table(rows: list[dict]) -> list[str]:
    """Every trial; the best of its recipe is marked."""
    lines = ["| recipe | trial | validation error | parameters | non-zero |",
             "|---|---|---|---|---|"]  # fmt: skip
    for row in sorted(rows, key=lambda row: [row[key] for key in KEYS]):
        if "error" in row:
            continue
        own = RECIPES[row["recipe"]][1][row["trial"]]
        told = " ".join(f"{k}={v}" for k, v in own.items()) or "as it is"
        mark = " *" if row["trial"] == best(rows, row["recipe"]) else ""
        lines.append(
            f"| {row['recipe']} | {told}{mark} | {row['validation_error']:.2%} "
            f"| {row['params']:,} | {row['nonzero']:,} |"
        )
    return lines


def best(rows: list[dict], recipe: str) -> int:
    """The trial with the least validation error; of equals the smaller network."""
    own = [r for r in rows if r["recipe"] == recipe and "error" not in r]
    chosen = min(own, key=lambda r: (r["validation_error"], r["nonzero"]))
    return chosen["trial"]


def write(recipe: str) -> None:
    """The best trial with all its epochs as a flagfile."""
    from tfsparse import files

    number = best(files.read_json(RESULTS), recipe)
    flags = flags_of({"recipe": recipe, "trial": number})
    lines = [
        f"# Chosen on validation among six trials: benchmarks/lenet_trials.py, {recipe}.",
        *(flag for flag in flags if not flag.endswith("=")),
        f"--workdir=runs/{recipe}",
    ]
    (ROOT / "configs" / f"{recipe}.flags").write_text("\n".join(lines) + "\n")


def main() -> int:
    """The program."""
    if sys.argv[1:] and sys.argv[1].startswith("--write"):
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("--write", required=True, choices=sorted(RECIPES))
        write(parser.parse_args().write)
        return 0
    return jobs.program(__doc__, RESULTS, wanted, KEYS, run, table)


if __name__ == "__main__":
    sys.exit(main())
