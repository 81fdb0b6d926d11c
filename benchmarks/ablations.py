"""What each method's own idea is worth: with it, and without.

    python benchmarks/ablations.py            # rows that are missing, seed by seed
    python benchmarks/ablations.py --table    # the table of what is there

Fashion-MNIST, LeNet-5, defaults, and a target at which the int8 file has about 6,000 bytes
(of sparse variational dropout: its smallest encoding). Each method once as it is and once
with its idea switched off by its own option; the rest, how the target is filled included, is
the same. Score: accuracy of the int8 file on TensorFlow Lite Micro, all 10,000 test images.
Writes benchmarks/results/ablations.json, each row as it is done; a run that was stopped goes
on. `--jobs=2` trains two at a time, on a thread each.
"""

from __future__ import annotations

import itertools
import pathlib
import statistics
import sys

import jobs

RESULTS = pathlib.Path(__file__).parent / "results" / "ablations.json"
RUNS = pathlib.Path("runs") / "ablations"

SEEDS = (0, 1, 2)
UNITS, WEIGHTS = "params=1600", "nonzero=3500"
COMMON = ("--data=fashion_mnist", "--model=lenet5", "--tensorboard=false",
          "--formats=keras,tflite_int8")  # fmt: skip
ABLATIONS = {
    "shrinknets": {
        "": (),
        "switches: norms instead": ("--form=norms",),
        "removal before the end": ("--remove=false",),
    },
    "shrinknets, signed": {
        "": ("--form=signed",),
        "sign-variance rule": ("--form=signed", "--gamma=1"),
    },
    "gsparsity": {
        "": (),
        "proximal map: subgradient instead": ("--proximal=false",),
    },
    "sparse_vd": {"": (), "divergence": ("--strength=0",)},
    "bayesian_compression": {"": (), "divergence": ("--strength=0",)},
    "bayesnas_compression": {"": (), "evidence": ("--evidence=false",)},
}
"""Method -> what is left out -> flags."""

KEYS = ("method", "without", "seed")

IDEAS = {
    "switches: norms instead": "a learned switch in place of the norm of weights",
    "removal before the end": "removing what died before the end",
    "sign-variance rule": "the sign-variance rule",
    "proximal map: subgradient instead": "the proximal map in place of the subgradient",
    "divergence": "the divergence from the prior, beside plain Gaussian dropout,",
    "evidence": "re-weighting by the evidence, beside one weight for all groups,",
}
"""What is left out, as it stands in a sentence."""


def wanted() -> list[dict]:
    """Every row, seed by seed."""
    return [
        {"method": method, "without": without, "seed": seed}
        for seed in SEEDS
        for method, own in ABLATIONS.items()
        for without in own
    ]


def flags_of(row: dict) -> list[str]:
    """What the main job is told."""
    name = row["method"].partition(",")[0]
    target = WEIGHTS if name == "sparse_vd" else UNITS
    own = ABLATIONS[row["method"]][row["without"]]
    return [*COMMON, f"--method={name}", f"--seed={row['seed']}", f"--target={target}",
            *own]  # fmt: skip


def run(row: dict, count: int) -> dict:
    """One run of the main job, and what its report says."""
    flags = flags_of(row)
    names = ("-".join(str(row[k]) for k in KEYS)).replace(" ", "_").replace(":", "")
    report = jobs.main_job(flags, RUNS / names, count)
    row = {**row, "flags": flags}
    if "error" in report:
        return row | report
    stages = {stage["name"]: stage for stage in report["stages"]}
    found = jobs.measured(report)
    encoded = report["encodings"].values()
    return {
        **row,
        **found,
        "nonzero": stages["mcu"]["nonzero"],
        "smallest_encoding": min(encoded),
        "penalty_left": report["method"].get("penalty_left"),
    }


def table(rows: list[dict]) -> list[str]:
    """Mean and spread over the seeds that are there."""
    lines = [
        "| method | without | seeds | accuracy, int8 on the MCU | non-zero | bytes |",
        "|---|---|---|---|---|---|",
    ]
    for method, without in itertools.chain.from_iterable(
        ((method, one) for one in own) for method, own in ABLATIONS.items()
    ):
        own = [r for r in rows if (r["method"], r["without"]) == (method, without)]
        good = [row for row in own if "accuracy" in row]
        if not good:
            continue
        score = jobs.spread([row["accuracy"] for row in good])
        nonzero, size = (
            statistics.mean(f(row) for row in good)
            for f in (lambda row: row["nonzero"], size_of)
        )
        lines.append(
            f"| {method} | {without} | {len(good)} | {score} "
            f"| {nonzero:,.0f} | {size:,.0f} |"
        )
    return [*lines, "", *sentences(rows)]


def sentences(rows: list[dict]) -> list[str]:
    """What each idea is worth: with it minus without it, seed by seed."""
    lines = []
    by_key = {tuple(row[key] for key in KEYS): row for row in rows}
    for method, own in ABLATIONS.items():
        for without in filter(None, own):
            pairs = [
                (by_key.get((method, "", seed)), by_key.get((method, without, seed)))
                for seed in SEEDS
            ]
            pairs = [(a, b) for a, b in pairs if a and b and "accuracy" in a | b]
            if len(pairs) < len(SEEDS):
                continue  # no sentence from fewer seeds
            gaps = [100 * (a["accuracy"] - b["accuracy"]) for a, b in pairs]
            mean, spread = statistics.mean(gaps), statistics.stdev(gaps)
            noise = spread / len(gaps) ** 0.5
            verdict = f"gives {abs(mean):.2f} points {'more' if mean > 0 else 'less'}"
            if abs(mean) < 2 * noise:
                verdict = (
                    f"makes no difference that three seeds tell, {mean:+.2f} points"
                )
            line = (
                f"- {method}: {IDEAS[without]} {verdict} "
                f"(the pairs: {', '.join(f'{gap:+.2f}' for gap in gaps)})."
            )
            left = [
                [row["penalty_left"] for row in side]
                for side in zip(*pairs, strict=True)
            ]
            if None not in left[0] + left[1]:
                mine, other = (statistics.median(side) for side in left)
                line += (
                    f" The penalty alone left {mine:.1f} times the target, without it "
                    f"{other:.1f} times; the rest went by rank."
                )
            lines.append(line)
    return lines


def size_of(row: dict) -> int:
    """Bytes of the int8 file; of single weights, those of their smallest encoding."""
    return (
        row["smallest_encoding"] if row["method"] == "sparse_vd" else row["file_bytes"]
    )


def main() -> int:
    """The program."""
    return jobs.program(__doc__, RESULTS, wanted, KEYS, run, table)


if __name__ == "__main__":
    sys.exit(main())
