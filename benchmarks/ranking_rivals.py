"""LeGR beside its rivals: ResNet-20, half as wide, Fashion-MNIST, down to a fifth of the MACs.

    python benchmarks/ranking_rivals.py            # rows that are missing, seed by seed
    python benchmarks/ranking_rivals.py --table

One dense network a seed; from it every way of choosing filters cuts a network of each budget,
which is fine-tuned for five epochs. `evolution` (LeGR) and `random` search once, at the smallest
budget, and are cut at the others; `amc` and `ddpg` search at one budget; `each` searches for
every budget anew, to compare times. Candidates are judged on 2,000 fixed validation images, 400
of them for whoever searches. Scores: accuracy on all 10,000 test images, right after the cut
(float) and of the int8 file on TensorFlow Lite Micro after fine-tuning.
Writes benchmarks/results/ranking_rivals.json, each row as it is done.
"""

from __future__ import annotations

import pathlib
import statistics
import sys

import jobs

RESULTS = pathlib.Path(__file__).parent / "results" / "ranking_rivals.json"
RUNS = pathlib.Path("runs") / "ranking_rivals"

BUDGETS, ONE = (0.2, 0.4, 0.6), 0.2
"""Shares of the MACs, the smallest first; where the agents search."""
SEEDS = (0, 1, 2)
ONCE, EVERYWHERE, SLOW = (
    ("evolution", "random"),
    ("magnitude", "uniform"),
    ("amc", "ddpg"),
)
EACH = "each"

KEYS = ("way", "budget", "seed")
COMMON = ("--data=fashion_mnist", "--augment=shift=2,flip", "--tensorboard=false",
          "--formats=keras,tflite_int8", "--fine_tune_epochs=5")  # fmt: skip


def wanted() -> list[dict]:
    """Every row, seed by seed; the agents, which take longest, last."""
    rows = []
    for seed in SEEDS:
        for budget in BUDGETS:
            for way in (*ONCE, *EVERYWHERE):
                rows.append({"way": way, "budget": budget, "seed": seed})
    rows += [{"way": EACH, "budget": budget, "seed": 0} for budget in BUDGETS[1:]]
    return rows + [
        {"way": way, "budget": ONE, "seed": seed} for seed in SEEDS for way in SLOW
    ]


def folder_of(row: dict) -> pathlib.Path:
    """Where a row's run lies."""
    return RUNS / "-".join(str(row[key]) for key in KEYS)


def dense(seed: int, count: int) -> pathlib.Path:
    """The trained network of a seed, made if it is not there."""
    folder = RUNS / f"dense-{seed}"
    if not (folder / "report.json").exists():
        flags = ["--data=fashion_mnist", "--augment=shift=2,flip", "--model=resnet20",
                 "--width=0.5", "--method=none", "--epochs=15", "--fine_tune_epochs=0",
                 "--tensorboard=false", "--formats=keras", f"--seed={seed}"]  # fmt: skip
        report = jobs.main_job(flags, folder, count)
        if "error" in report:
            raise RuntimeError(report["error"])
    return folder / "model.keras"


def flags_of(row: dict) -> list[str]:
    """What the main job is told, but for the network."""
    way = "evolution" if row["way"] == EACH else row["way"]
    found = [*COMMON, "--method=legr", "--trained=true", f"--rank_search={way}",
             f"--target=macs={row['budget']}", f"--seed={row['seed']}"]  # fmt: skip
    if row["way"] in ONCE and row["budget"] != BUDGETS[0]:
        first = folder_of({**row, "budget": BUDGETS[0]})
        found.append(f"--ranking={first / 'ranking.json'}")
    return found


def run(row: dict, count: int) -> dict:
    """One run of the main job, and what its report says."""
    flags = flags_of(row)
    own = [*flags, f"--model={dense(row['seed'], count)}"]
    report = jobs.main_job(own, folder_of(row), count)
    row = {**row, "flags": flags}
    if "error" in report:
        return row | report
    stages = {stage["name"]: stage for stage in report["stages"]}
    told = report["method"]["rank"]
    curve = [s for s in report["sections"] if s.get("name") == "rank_progress"]
    best = curve[0]["lines"][0]["ys"] if curve else []
    return row | jobs.measured(report) | {
        "cut_accuracy": stages["stripped"]["accuracy"],
        "search_seconds": told["seconds"],
        "follows": told["follows"],
        "progress": [round(loss, 5) for loss in best[::10] if loss is not None],
    }  # fmt: skip


def table(rows: list[dict]) -> list[str]:
    """Mean and spread over the seeds that are there; what searching once is worth."""
    lines = ["| MACs | filters chosen by | seeds | after the cut | fine-tuned, int8 on the MCU "
             "| parameters | search, s |", "|---|---|---|---|---|---|---|"]  # fmt: skip
    good = [row for row in rows if "accuracy" in row]
    for budget in sorted(BUDGETS, reverse=True):
        for way in (*ONCE, *EVERYWHERE, *SLOW, EACH):
            own = [r for r in good if (r["way"], r["budget"]) == (way, budget)]
            if own:
                cut, last = (
                    jobs.spread([row[key] for row in own])
                    for key in ("cut_accuracy", "accuracy")
                )
                params, spent = (
                    statistics.mean(row[key] for row in own)
                    for key in ("params", "search_seconds")
                )
                lines.append(
                    f"| {budget:.0%} | {way} | {len(own)} | {cut} | {last} | {params:,.0f} "
                    f"| {spent:.0f} |"
                )
    first = [r for r in good if (r["way"], r["seed"]) == ("evolution", 0)]
    each = [r for r in good if r["way"] == EACH]
    if len(first) == len(BUDGETS) and len(each) == len(BUDGETS) - 1:
        once = sum(row["search_seconds"] for row in first)
        every = once + sum(row["search_seconds"] for row in each)
        lines += ["", f"One search for {len(BUDGETS)} budgets takes {once / every:.2f} of the "
                  "time of a search for each."]  # fmt: skip
    return lines


if __name__ == "__main__":
    sys.exit(jobs.program(__doc__, RESULTS, wanted, KEYS, run, table))
