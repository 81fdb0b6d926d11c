"""Searched cells against random ones of the same size, each trained alike from scratch.

    python benchmarks/nas_cells.py            # rows that are missing
    python benchmarks/nas_cells.py --table    # the table of what is there

Fashion-MNIST, the space mcu_cells, three cells, three seeds. A row of a method searches, then a
network of its genotype is trained from scratch, as wide as about 8,000 parameters allow; eight
random genotypes of as many operations, and the whole supernet, are trained the same way. Accuracy
on all test images, of the float network. Writes benchmarks/results/nas_cells.json.
"""

from __future__ import annotations

import pathlib
import statistics
import sys

import jobs
import numpy as np

from tfsparse import files, nas

RESULTS = pathlib.Path(__file__).parent / "results" / "nas_cells.json"
RUNS = pathlib.Path("runs") / "nas_cells"

SEEDS = (0, 1, 2)
RANDOM = 8
SPACE = nas.SPACES["mcu_cells"]
OPERATIONS, PARAMS, EPOCHS = 16, 8_000, 20
SEARCHES = {
    "gsparsity": ("--method=gsparsity", "--partition=operation", "--strength=0.3",
                  "--ignore=stem*,*_pre?*,logits*"),
    "bayesnas": ("--method=bayesnas", "--loop_epochs=1", "--strength=0.01"),
}  # fmt: skip

KEYS = ("cells", "seed")


def wanted() -> list[dict]:
    """Every row, seed by seed."""
    ways = [*SEARCHES, *(f"random {n}" for n in range(RANDOM)), "supernet"]
    return [{"cells": way, "seed": seed} for seed in SEEDS for way in ways]


def drawn(rng: np.random.Generator) -> dict:
    """A random genotype: as many operations of each kind of cell, none read in vain."""
    found = {}
    for kind, nodes in SPACE.kinds.items():
        while True:
            flat = [(n, *one) for n, node in enumerate(nodes) for one in node]
            chosen = rng.permutation(len(flat))[: OPERATIONS // 2]
            own = [[list(flat[k][1:]) for k in sorted(chosen) if flat[k][0] == n]
                   for n in range(len(nodes))]  # fmt: skip
            try:
                nas.genotypes.checked({"normal": own, "reduction": own})
            except ValueError:
                continue
            found[kind] = own
            break
    return found


def filters_of(genotype) -> int:
    """As many filters as the parameters allow."""

    def params(filters: int) -> int:
        net = nas.built(
            genotype, (28, 28, 1), 10, SPACE.cells, filters, SPACE.stem_strides
        )
        return net.count_params()

    return max([n for n in range(2, 40) if params(n) <= PARAMS], default=2)


def run(row: dict, count: int) -> dict:
    """One genotype, found or drawn, and how good a network of it gets."""
    folder, seed = RUNS / f"{row['cells']}-{row['seed']}".replace(" ", "_"), row["seed"]
    common = ["--data=fashion_mnist", f"--seed={seed}", "--formats=keras",
              "--tensorboard=false", "--preflight=false"]  # fmt: skip
    spent = 0.0
    if row["cells"] == "supernet":
        network = ["--model=mcu_cells"]
    else:
        path = folder / "genotype.json"
        if row["cells"] in SEARCHES:
            report = jobs.main_job(
                [*common, "--model=mcu_cells", "--shared=normal,reduction",
                 *SEARCHES[row["cells"]], f"--target=operations={OPERATIONS}", "--epochs=12",
                 "--shrink_epochs=12", "--fine_tune_epochs=0"],
                folder, count,
            )  # fmt: skip
            if "error" in report:
                return row | report
            spent = sum(stage["seconds"] for stage in report["stages"])
        elif not path.exists():
            number = int(row["cells"].split()[1])
            folder.mkdir(parents=True, exist_ok=True)
            files.write_json(path, drawn(np.random.default_rng([seed, number])))
        genotype = files.read_json(path)
        network = [f"--genotype={path}", f"--filters={filters_of(genotype)}",
                   f"--cells={SPACE.cells}", f"--stem_strides={SPACE.stem_strides}"]  # fmt: skip
        row = {**row, "genotype": genotype}
    report = jobs.main_job(
        [*common, *network, "--method=none", f"--epochs={EPOCHS}", "--fine_tune_epochs=0"],
        folder / "trained", count,
    )  # fmt: skip
    if "error" in report:
        return row | report
    last = report["stages"][-1]
    return {
        **row,
        "accuracy": last["accuracy"],
        "params": last["params"],
        "macs": last["macs"],
        "search_seconds": round(spent),
        "training_seconds": round(sum(stage["seconds"] for stage in report["stages"])),
    }


def table(rows: list[dict]) -> list[str]:
    """Searched cells beside the mean and the best of the random ones."""
    lines = ["| cells | networks | accuracy | best | parameters | search, s | training, s |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for way in [*SEARCHES, "random", "supernet"]:
        own = [r for r in rows if r["cells"].split()[0] == way and "accuracy" in r]
        if not own:
            continue
        params, search, training = (
            statistics.mean(row[name] for row in own)
            for name in ("params", "search_seconds", "training_seconds")
        )
        score = jobs.spread([row["accuracy"] for row in own])
        best = max(row["accuracy"] for row in own)
        lines.append(f"| {way} | {len(own)} | {score} | {best:.2%} | {params:,.0f} "
                     f"| {search:,.0f} | {training:,.0f} |")  # fmt: skip
    return lines


def main() -> int:
    """The program."""
    return jobs.program(__doc__, RESULTS, wanted, KEYS, run, table)


if __name__ == "__main__":
    sys.exit(main())
