"""LeNets on MNIST by every method that compresses them, beside the papers' rows.

    python benchmarks/lenet_table.py [--rows=lenet5_bayesnas,...] [--seeds=0,1,2]
        [--no_controls] [--table]

Each row runs its flagfile once a seed, in runs/lenet_table/ROW-SEED (a run that stopped goes
on; one that is finished is read), and beside it a control: the found architecture, fresh
weights (zeros stay zeros), trained as many epochs without a method (those of dense training,
too, where the row starts from it). Parameters are counted as the papers do, all weights and
biases that are left; indices of picked inputs stand in a column of their own. With --no_controls
only those controls are told that are there. Errors are those of the int8 file on all 10,000
test images; the seed to release is the one with the best validation accuracy, on which it is
judged, too, whether a row reaches what is asked of it. --table makes the summaries of the rows
that are there. Writes
benchmarks/results/lenet_table.json, row by row, and lenet_table.png: error against
parameters, published points and ours.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pathlib
import shutil
import statistics
import subprocess
import sys

from tfsparse import files
from tfsparse.engine import settings

RESULTS = pathlib.Path(__file__).parent / "results"
ROOT = RESULTS.parents[1]
RUNS = ROOT / "runs" / "lenet_table"

NETS = ("lenet_300_100", "lenet5")

OWN = ("workdir", "tensorboard")
"""Flags that change no result."""

ROWS = {
    "lenet_300_100_sparse_vd": {"error": 1.9, "times": 68},
    "lenet5_sparse_vd": {"error": 0.8, "times": 250},
    "lenet_300_100_bayesian_compression": {"error": 1.8, "params": 28_200},
    "lenet5_bayesian_compression": {"error": 1.0, "params": 2_792},
    "lenet_300_100_bayesnas": {"error": 1.54, "params": 21_572},
    "lenet5_bayesnas": {"error": 0.9, "params": 3_300},
}
"""Flagfile -> what the mean over seeds has to reach, on validation: percent, and parameters
at most or times fewer non-zeros at least."""

SEEDS = 3
"""Fewer do not reach a row."""

PUBLISHED = [
    ("lenet_300_100", "dense", 1.39, "784-300-100", 0.53),
    ("lenet_300_100", "magnitude", 1.59, "12x", None),
    ("lenet_300_100", "DNS", 1.99, "56x", None),
    ("lenet_300_100", "SWS", 1.94, "23x", None),
    ("lenet_300_100", "SparseVD", 1.92, "68x", None),
    ("lenet_300_100", "SBP", 1.6, "245-160-55", 0.1),
    ("lenet_300_100", "BC-GNJ", 1.8, "278-98-13", 0.06),
    ("lenet_300_100", "BC-GHS", 1.8, "311-86-14", 0.06),
    ("lenet_300_100", "L0", 1.4, "219-214-100", 0.14),
    ("lenet_300_100", "L0", 1.8, "266-88-33", 0.05),
    ("lenet_300_100", "BayesNAS", 1.54, "465-37-90", 0.04),
    ("lenet5", "dense", 0.83, "20-50-800-500", 8.85),
    ("lenet5", "magnitude", 0.77, "12x", None),
    ("lenet5", "DNS", 0.91, "111x", None),
    ("lenet5", "SWS", 0.97, "200x", None),
    ("lenet5", "SparseVD", 0.75, "280x", None),
    ("lenet5", "SBP", 0.9, "3-18-284-283", 0.69),
    ("lenet5", "BC-GNJ", 1.0, "8-13-88-13", 1.09),
    ("lenet5", "BC-GHS", 1.0, "5-10-76-16", 0.57),
    ("lenet5", "L0", 0.9, "20-25-45-462", 4.49),
    ("lenet5", "L0", 1.0, "9-18-65-25", 1.55),
    ("lenet5", "BayesNAS", 1.0, "5-10-65-25", 0.57),
]
"""Network, method, error in percent, architecture or times fewer non-zeros, MFLOP as the
papers count them: BayesNAS, tables S4 and S5; Molchanov et al. 2017, table 1."""


def published_params(net: str, architecture: str) -> int:
    """Weights and biases of an architecture; non-zero weights of `68x`.

    Example:
        >>> published_params("lenet5", "5-10-76-16")
        2792
    """
    if architecture.endswith("x"):
        return round(WEIGHTS[net] / int(architecture[:-1]))
    sizes = [*map(int, architecture.split("-")), 10]
    found = 0
    if net == "lenet5":  # features after Flatten are counted as inputs
        first, second = sizes[:2]
        found = (25 + 1) * first + (25 * first + 1) * second
        sizes = sizes[2:]
    return found + sum((a + 1) * b for a, b in zip(sizes, sizes[1:], strict=False))


WEIGHTS = {"lenet_300_100": 266_200, "lenet5": 430_500}
"""Weights without biases, as factors on non-zeros count them."""

ALREADY = {
    "lenet5_shrinknets": "ShrinkNets",
    "lenet5_gsparsity": "GSparsity",
    "lenet_300_100_shrinknets": "ShrinkNets",
}
"""Released models of the methods that this table does not run: one point each."""


def net_of(name: str) -> str:
    """The network of a row."""
    return next(net for net in NETS if name.startswith(net))


def flags_of(report: dict) -> str:
    """Tells the flags of a run, but for its seed and place."""
    # Flags at their defaults do not count: an older version may not know them.
    known = settings.known_to(report["config"])
    config = {
        key: value
        for key, value in settings.Settings.from_json(known).changed().items()
        if key not in (*OWN, "seed")
    }
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]


def train(workdir: pathlib.Path, *arguments: str) -> dict:
    """The report of a run in `workdir`, begun, resumed or read.

    Raises:
        RuntimeError: The run failed, or was made with other flags.
    """
    if (workdir / "report.html").exists():
        report = files.read_json(workdir / "report.json")
        chosen, _ = settings.parse(arguments)
        given = {argument[2:].partition("=")[0] for argument in arguments}
        for key, value in chosen.to_json().items():
            if key in OWN or not given & {key, "flagfile"}:  # a flagfile holds all
                continue
            if report["config"].get(key, value) != value:
                raise RuntimeError(
                    f"{workdir.name} was made with --{key}={report['config'][key]}, and "
                    f"now it is {value}: remove the folder, or set it back."
                )
        return report
    command = [sys.executable, "-m", "tfsparse.train", *arguments]
    place = workdir.relative_to(ROOT)  # a report tells its flags: no machine's path
    found = subprocess.run(
        [*command, f"--workdir={place}", "--tensorboard=false", "--resume"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if found.returncode:
        last = (found.stderr.strip().splitlines() or ["no word"])[-1]
        raise RuntimeError(f"{workdir.name}: {last}")
    return files.read_json(workdir / "report.json")


def weights_left(model_path: pathlib.Path) -> int:
    """Kernel entries that are not zero; biases do not count, as in factors of the papers."""
    import keras
    import numpy as np

    model = keras.saving.load_model(model_path, compile=False)
    return int(sum(np.count_nonzero(v) for v in model.get_weights() if v.ndim > 1))


def outcome_of(report: dict) -> dict:
    """What is told of a run and of its control."""
    stages = {stage["name"]: stage for stage in report["stages"]}
    final = stages["tflite_int8"]
    return {
        "validation_accuracy": report["method"]["validation_score"],
        "error": {name: 100 * (1 - s["accuracy"]) for name, s in stages.items()},
        "params": final["params"],
        "nonzero": final["nonzero"],
    }


def row_of(run: pathlib.Path, report: dict) -> dict:
    """What is told of a run."""
    left = weights_left(run / "model.keras")
    stages = {stage["name"]: stage for stage in report["stages"]}
    final = stages["tflite_int8"]
    method = report["method"]
    return {
        **outcome_of(report),
        "weights_nonzero": left,
        "times": WEIGHTS[net_of(run.name)] / left,
        "macs": final["macs"],
        "index_bytes": final["index_bytes"],
        "weight_bytes": final["weight_bytes"],
        "file_bytes": final["file_bytes"],
        "arena_bytes": stages.get("mcu", {}).get("arena_bytes"),
        "encodings": report["encodings"],
        "bits": method["trace"].get("bits", {}),
        "kept": {g["name"]: g["kept"] for g in report["groups"]},
        "cpu_seconds": sum(
            e["cpu_seconds"] for e in method["history"] + method["fine_tune_history"]
        ),
    }


def _follows(start: pathlib.Path, run: pathlib.Path) -> bool:
    """Whether a control's first weights are of this run, and not of one before it."""
    made = (run / "model.keras").stat().st_mtime
    return start.exists() and start.stat().st_mtime >= made


def has_control(name: str, seed: int) -> bool:
    """Whether the control of a run is finished."""
    run = RUNS / f"{name}-{seed}"
    finished = (RUNS / f"{name}-{seed}-control" / "report.html").exists()
    return finished and _follows(RUNS / f"{name}-{seed}-control.keras", run)


def control(name: str, seed: int) -> dict:
    """The found architecture from scratch, its zeros held: error of its int8 file."""
    import keras

    folder = RUNS / f"{name}-{seed}-control"
    start = RUNS / f"{name}-{seed}-control.keras"
    run = RUNS / f"{name}-{seed}"
    config = files.read_json(run / "report.json")["config"]
    optimizer = config.get("fine_tune_optimizer", "same")
    if not _follows(start, run):
        shutil.rmtree(folder, ignore_errors=True)  # the control of another run
        keras.utils.set_random_seed(seed)
        found = keras.saving.load_model(run / "model.keras", compile=False)
        fresh = keras.models.clone_model(found)
        for old, new in zip(found.variables, fresh.variables, strict=True):
            if len(old.shape) > 1:
                new.assign(new * keras.ops.cast(old != 0, new.dtype))
        with files.appears_whole(start) as temporary:
            fresh.save(f"{temporary}.keras")
            pathlib.Path(f"{temporary}.keras").rename(temporary)
    epochs = config["epochs"] + config["fine_tune_epochs"]
    if config.get("from_dense"):  # what the weights of the row went through, too
        epochs += config["dense_epochs"]
    same = ("data", "validation", "image_size", "augment", "batch_size")
    report = train(
        folder,
        f"--model={start.relative_to(ROOT)}",
        "--method=none",
        "--hold_zeros=true",
        f"--epochs={epochs}",
        "--fine_tune_epochs=0",
        f"--settle_learning_rate={config['fine_tune_learning_rate']}",
        f"--optimizer={config['optimizer'] if optimizer == 'same' else optimizer}",
        *(f"--{key}={config[key]}" for key in same),
        f"--seed={seed}",
        "--formats=keras,tflite_int8",
    )
    return outcome_of(report)


def summary(name: str, runs: list[dict]) -> dict:
    """Means and spreads over the seeds, and whether they reach what the row asks for.

    That is judged, as all that a recipe is chosen by, on validation; test errors are told.
    """

    def over(values) -> dict:
        values = list(values)
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        return {"mean": statistics.mean(values), "spread": spread}

    told = {
        "seeds": len(runs),
        "error": over(r["error"]["tflite_int8"] for r in runs),
        "error_float": over(r["error"]["finetuned"] for r in runs),
        "error_validation": over(100 * (1 - r["validation_accuracy"]) for r in runs),
        **{key: over(r[key] for r in runs) for key in ("params", "nonzero", "times")},
        "released_seed": max(runs, key=lambda r: r["validation_accuracy"])["seed"],
    }
    controls = [r["control"] for r in runs if r.get("control")]
    if controls:
        told["control_error"] = over(c["error"]["tflite_int8"] for c in controls)
    wanted = ROWS[name]
    small = (
        told["params"]["mean"] <= wanted["params"]
        if "params" in wanted
        else told["times"]["mean"] >= wanted["times"]
    )
    exact = told["error_validation"]["mean"] <= wanted["error"]
    return {
        **told,
        "asked": wanted,
        "reached": bool(small and exact and len(runs) >= SEEDS),
    }


def already() -> list[dict]:
    """Points of the models that were released before."""
    found = []
    for name, method in ALREADY.items():
        path = ROOT / "models" / name / "report.json"
        if path.exists():
            report = files.read_json(path)
            last = next(s for s in report["stages"] if s["name"] == "tflite_int8")
            found.append(
                {
                    "net": net_of(name),
                    "method": method,
                    "error": 100 * (1 - last["accuracy"]),
                    "params": last["params"],
                }
            )
    return found


def _labels(points) -> list[tuple[float, float, str]]:
    """`(size, error, text)`, one for points that lie on top of each other."""
    found = []
    for size, error, label, _ in sorted(points, key=lambda p: (p[1], p[0])):
        if found and found[-1][1] == error and size < 1.08 * found[-1][0]:
            found[-1] = (size, error, f"{found[-1][2]}, {label}")
        else:
            found.append((size, error, label))
    return found


def draw(document: dict) -> None:
    """Error against parameters that are left, one panel a network."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=(9.6, 8.4), layout="constrained")
    panels = figure.subplots(2, 1)
    for axes, net in zip(panels, NETS, strict=True):
        points = [
            (r["params"], r["error"], r["method"], "published")
            for r in document["published"]
            if r["net"] == net
        ]
        points += [
            (r["params"], r["error"], r["method"], "ours")
            for r in document["already"]
            if r["net"] == net
        ]
        for name, own in document["rows"].items():
            if net_of(name) == net:
                told = own["summary"]
                size = told["nonzero" if "times" in ROWS[name] else "params"]
                label = name.removeprefix(f"{net}_")
                points.append((size["mean"], told["error"]["mean"], label, "ours"))
                axes.errorbar(
                    size["mean"], told["error"]["mean"], told["error"]["spread"],
                    size["spread"], color="#d9730d", capsize=2, linewidth=1,
                )  # fmt: skip
        for kind, color, mark in (
            ("published", "#8a94a0", "o"),
            ("ours", "#d9730d", "D"),
        ):
            own = [p for p in points if p[3] == kind]
            axes.scatter(
                [p[0] for p in own], [p[1] for p in own], color=color, marker=mark,
                s=30, label=kind, zorder=3,
            )  # fmt: skip
            for size, error, label in _labels(own):
                axes.annotate(
                    label.replace("_", " "), (size, error), fontsize=7.5, color=color,
                    textcoords="offset points", rotation_mode="anchor",
                    **(
                        {"xytext": (2, 6), "rotation": 35}
                        if kind == "published"
                        else {"xytext": (7, -10), "ha": "left"}
                        if label in ALREADY.values()
                        else {"xytext": (-7, -10), "ha": "right"}
                    ),
                )  # fmt: skip
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(0.12)
        axes.set_title(
            net.replace("_", "-"), loc="left", fontsize=11, fontweight="bold"
        )
        axes.set_xlabel("parameters left (SparseVD: not zero)")
        axes.set_ylabel("test error, percent")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(RESULTS / "lenet_table.png", dpi=150)


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--no_controls", action="store_true")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    path = RESULTS / "lenet_table.json"
    if options.table:
        document = files.read_json(path)
        for name, held in document["rows"].items():
            held["summary"] = summary(name, held["runs"])
        files.write_json(path, document)
        draw(document)
        return 0
    keys = ("net", "method", "error", "architecture", "mflop")
    for seed in map(int, options.seeds.split(",")):
        for name in options.rows.split(","):
            flagfile = ROOT / "configs" / f"{name}.flags"
            report = train(
                RUNS / f"{name}-{seed}",
                f"--flagfile={flagfile.relative_to(ROOT)}",
                f"--seed={seed}",
            )
            own = {"seed": seed, **row_of(RUNS / f"{name}-{seed}", report)}
            if not options.no_controls or has_control(name, seed):
                own["control"] = control(name, seed)
            # Read again each time: other rows may be made beside this one.
            document = files.read_json(path) if path.exists() else {"rows": {}}
            document["published"] = [
                dict(zip(keys, row, strict=True))
                | {"params": published_params(row[0], row[3])}
                for row in PUBLISHED
            ]
            made_with = flags_of(report)
            held = document["rows"].get(name, {})
            if held.get("flags") != made_with:  # seeds of other flags are another row
                held = {"flags": made_with, "runs": []}
            rows = document["rows"] | {name: held}
            document["rows"] = {row: rows[row] for row in ROWS if row in rows}
            runs = [r for r in held["runs"] if r["seed"] != seed] + [own]
            held["runs"] = sorted(runs, key=lambda r: r["seed"])
            held["summary"] = summary(name, held["runs"])
            document["already"] = already()
            files.write_json(path, document)
            told = held["summary"]
            print(
                f"{name} seed {seed}: {own['error']['tflite_int8']:.2f} %, "
                f"{own['params']:,} parameters, {own['nonzero']:,} not zero; mean "
                f"{told['error']['mean']:.2f} %",
                flush=True,
            )
            draw(document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
