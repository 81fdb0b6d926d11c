"""Writes the README's results, docs/results.md and docs/tasks/results.md from what was measured.

python tools/readme.py      # reads models/ and benchmarks/results/
"""

from __future__ import annotations

import importlib
import os
import sys

from tfsparse import files, options
from tfsparse.engine import settings
from tfsparse.report.write import score

START, END = "<!-- results:", "<!-- end of results -->"
RESULTS = os.path.join("benchmarks", "results")

PAGES = "../benchmarks/results"
"""The same, seen from a page in docs/."""

FEWEST = 3
"""A ratio of fewer pairs of runs, or a ranking of fewer seeds, is not told."""

DEPARTURES = (
    "augment", "strength", "multipliers", "threshold", "layer_thresholds", "largest_factor",
    "target", "from_dense", "fine_tune_epochs", "fine_tune_optimizer",
    "fine_tune_learning_rate", "distill",
)  # fmt: skip
"""Flags that set a row apart from what its paper did."""

COSTLY = ("sparse_vd", "bayesian_compression")
"""Methods whose layers' steps are measured."""


def models_table() -> list[str]:
    """One row a released model."""
    lines = [
        "| model | score (int8, MCU) | parameters | of | file | arena | packed file | arena |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, report in _released():
        stages = {row["name"]: row for row in report["stages"]}
        last = stages["mcu"]
        packed = stages.get("tflite_compressed")
        prices = (
            f"{packed['file_bytes']:,} B | {packed['arena_bytes']:,} B"
            if packed
            else "– | –"
        )
        lines.append(
            f"| [{name}](models/{name}) | {score(last)} | {last['params']:,} "
            f"| {report['dense_cost']['params']:,} | {last['file_bytes']:,} B "
            f"| {last['arena_bytes']:,} B | {prices} |"
        )
    return lines


def _released():
    """Name and report of every released model."""
    for name in sorted(os.listdir("models")):
        path = os.path.join("models", name, "report.json")
        if os.path.exists(path):
            yield name, files.read_json(path)


def vanished_lines() -> list[str]:
    """Which whole branches released models have lost."""
    lines = []
    for name, report in _released():
        gone = [row["name"] for row in report["groups"] if not row["kept"]]
        if gone:
            lines.append(
                f"- Of {name} whole branches left, those of {', '.join(gone)}."
            )
    return lines


def benchmark_lines() -> list[str]:
    """A sentence a benchmark."""
    lines = []
    removal = _read("garbage_collection.json")
    if removal and removal["summary"] and len(removal["runs"]) // 2 >= FEWEST:
        s = removal["summary"]
        memory = [f"{n / 1e6:.0f}" for n in s["memory_bytes"]]
        lines.append(
            f"- Removing dead units while LeNet-5 trains takes {s['cpu_ratio']:.2f} x the CPU "
            f"time of not removing them, same epochs (median over {len(removal['runs']) // 2} "
            f"interleaved pairs of runs). Its training steps need {memory[0]} MB at first "
            f"and {memory[-1]} MB at the end. Validation "
            f"accuracy with and without differs by {s['mean_val_accuracy_gap']:.2%} on average "
            f"over the epochs ([plot]({PAGES}/garbage_collection.png))."
        )
    children = _read("children.json")
    if children:
        ratios = [f"{row['ratio']:.2f}" for row in children["rows"]]
        starts = children["start_seconds"]
        lines.append(
            "- Converter and interpreters in processes of their own take "
            f"{ratios[0]} x the time of exporting LeNet-5 here, {ratios[1]} x of running "
            f"{children['images']:,} images on LiteRT and {ratios[2]} x on TensorFlow Lite "
            f"Micro (medians of {children['rows'][0]['pairs']} pairs); once a run, "
            f"{starts['converter']:.1f} s and {starts['interpreters']:.1f} s to start, beside "
            "other work."
        )
    search = _read("size_search.json")
    if search:
        best = [
            f"{r['name']} {r['best']['val_accuracy']:.2%} with {r['best']['params']:,} "
            f"parameters at {r['best']['seconds']:.0f} s"
            for r in search["rows"]
        ]
        lines.append(
            "- Shrinking runs and searches of the layer widths, best validation accuracy, one "
            "seed each, which is no comparison of the methods: "
            f"{'; '.join(best)} ([plot]({PAGES}/size_search.png))."
        )
    switches = _read("switches_vs_group_sparsity.json")
    if switches:
        rows = [problem["relu"] for problem in switches["summary"].values()]
        gaps = [row["train_loss"]["difference"] for row in rows]
        refit = [row["refit_train_loss"]["difference"] for row in rows]
        lines.append(
            f"- Switches against group sparsity on {len(rows)} regressions: at equal "
            f"sparsity the switches' normalised training loss is lower by {-max(gaps):.3f} "
            f"to {-min(gaps):.3f} on average. Refitting what each kept, without a penalty, "
            f"leaves {min(refit):+.3f} to {max(refit):+.3f}: most of the gain is less "
            f"shrinkage, not a better choice ([plot]({PAGES}/"
            "switches_vs_group_sparsity.png))."
        )
    if os.path.exists(os.path.join(RESULTS, "removal_gamma.png")):
        lines.append(
            "- Loss and cost against 15 values of gamma, 30 repeats "
            f"([plot]({PAGES}/removal_gamma.png))."
        )
    torch = _read("strip_against_torch_pruning.json")
    if torch:
        s = torch["summary"]
        mine, other = s["tfsparse"], s["torch_pruning"]
        lines.append(
            f"- Halving ResNet-50 takes {mine['seconds']:.1f} s, Torch-Pruning "
            f"{other['seconds']:.2f} s: {s['ratio']:.1f} times as long "
            f"({s['ratio_without_proof']:.1f} times without the proof, which Torch-Pruning "
            f"has none of). Finding groups takes {mine['find_groups']:.2f} s (there: "
            f"{other['dependencies']:.2f} s); Keras needs "
            f"{mine['of_strip_build_by_keras']:.1f} s to build the small model, the proof "
            f"{mine['of_strip_proof']:.1f} s, most of it two forward passes."
        )
    scaling = _read("strip_scaling.json")
    if scaling:
        parts = [
            f"{r['model']}{'-layer chain' if r['model'].isdigit() else ''} "
            f"{r['find_seconds']:.2f} s and {r['strip_seconds']:.1f} s"
            for r in scaling["rows"]
        ]
        lines.append(
            f"- Finding groups and stripping grow with the layers: {', '.join(parts)}."
        )
    criteria = _read("criteria.json")
    if criteria:
        whole = [model["accuracy"] for model in criteria["models"]]
        for scope, found in criteria["summary"].items():
            words = [
                f"`{name}` {row['tuned']['mean']:.2%} ± {row['tuned']['std']:.2%}"
                for name, row in found.items()
            ]
            lines.append(
                f"- A trained ResNet-8 on MNIST ({sum(whole) / len(whole):.2%}) pruned to "
                f"half its MACs, scope {scope}, then one epoch on 10,000 images: accuracy "
                f"on the test split, mean of {len(criteria['models'])} seeds: "
                f"{', '.join(words)}. The criteria lie within each other's spread."
            )
    cost = _read("proxsgd_cost.json")
    if cost:
        parts = [
            f"{r['model']} ({r['groups']:,} groups) {r['to_sgd']:.2f} and {r['to_adam']:.2f}"
            for r in cost["rows"]
        ]
        lines.append(
            "- A training step with ProxSGD beside one with Keras's SGD with momentum and "
            f"one with Adam, times as long (median): {', '.join(parts)}."
        )
    against = _read("proximal_against_subgradient.json")
    if against and os.path.exists(f"{RESULTS}/proximal_against_subgradient.png"):
        best: dict[str, dict] = {}
        for r in against["rows"]:
            if (
                r["objective"] < best.get(r["kind"], r)["objective"]
                or r["kind"] not in best
            ):
                best[r["kind"]] = r
        parts = [
            f"{kind} at {r['rate']:g} {r['dead'][-1]['1e-06']} of {r['groups']} groups "
            f"up to 1e-6, objective {r['objective']:.3f}, accuracy {r['accuracy']:.2%}"
            for kind, r in best.items()
        ]
        lines.append(
            "- ProxSGD against a subgradient of the same penalty, LeNet-5, "
            f"{against['epochs']} epochs, best rate of four: {'; '.join(parts)} "
            f"([plot]({PAGES}/proximal_against_subgradient.png))."
        )
    bends = _read("curvature.json")
    if bends:
        parts = [
            f"{r['net']}: "
            + ", ".join(f"{k} {e:.2f} in {t:.1f} x the time of a gradient" for k, e, t in zip(
                r["error"], r["error"].values(), r["times"].values(), strict=True))
            for r in bends["rows"]
        ]  # fmt: skip
        lines.append(
            "- Diagonal Hessians against automatic differentiation, relative error: "
            f"{'; '.join(parts)}."
        )
    mutations = _read("mutations.json")
    if mutations:
        rules = [r for r in mutations["rows"] if r["file"].startswith("graph/rules")]
        others = [r for r in mutations["rows"] if r not in rules]
        for where, own in (("the layers' rules", rules), ("other rooms", others)):
            left = sum(row["survived"] for row in own)
            if own:
                lines.append(
                    f"- Of {len(own)} deliberate faults in {where} the tests miss {left}."
                )
    exact = _read("exactness.json")
    if exact:
        lines.append(
            f"- Strip and lower on {len(exact['rows'])} models: largest relative difference "
            f"{exact['worst']:.1e}."
        )
    return lines


def gsparsity_tables() -> list[str]:
    """Strength against cost, operations, and budgets against magnitude pruning."""
    lines = []
    sweep = _read("gsparsity_sweep.json")
    if sweep:
        lines += [
            "GSparsity on LeNet-5 and MNIST, one run for each strength; accuracy on the test "
            "split as trained, with groups up to each norm set to zero, and of the int8 file "
            f"after retraining ([plot]({PAGES}/gsparsity_sweep.png)).",
            "",
            "| mu | as trained | 1e-6 | 1e-3 | 0.5 | retrained, int8 | dead | MACs | parameters |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for r in sweep["rows"]:
            accuracies = " | ".join(f"{s['accuracy']:.2%}" for s in r["settling"])
            dead = r["settling"][1]["dead"] / r["settling"][1]["groups"]
            lines.append(
                f"| {r['strength']:g} | {accuracies} | {r['mcu']:.2%} | {dead:.0%} "
                f"| {r['macs']:,} | {r['params']:,} |"
            )
    operations = _read("operation_pruning.json")
    if operations:
        whole = max(row["params"] for row in operations["rows"])
        lines += [
            "",
            "Whole operations of three DARTS-V2 cells on MNIST, each a group. Scaling none is "
            "the paper's: the same strength for all; operations without weights go first. auto, "
            "the default, weighs a group by its size: those with weights go. One run each:",
            "",
            "| scaling | mu | as trained | 1e-6 | 1e-3 | 0.5 | retrained | operations left "
            "| parameters | inference of 500 |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        order = ("none", "auto")
        for r in sorted(
            operations["rows"],
            key=lambda row: (order.index(row["scaling"]), row["strength"]),
        ):
            accuracies = " | ".join(f"{s['accuracy']:.2%}" for s in r["settling"])
            left = r["groups"] - r["settling"][1]["dead"]
            lines.append(
                f"| {r['scaling']} | {r['strength']:g} | {accuracies} | {r['retrained']:.2%} "
                f"| {left} of {r['groups']} | {r['params'] / whole:.1%} "
                f"| {_milliseconds(r)} |"
            )
    budgets = [
        row
        for net in ("lenet5", "resnet8")
        for row in (
            _read(f"gsparsity_against_magnitude_{net}.json") or {"summary": []}
        )["summary"]
    ]
    if budgets:
        lines += [
            "",
            "GSparsity against magnitude pruning to the same number of parameters (l2: "
            "filters, `tfsparse.prune`; tfmot: single weights, as many non-zeros, the "
            "same share in every layer as is its default), retrained "
            "alike, int8 files on the test split, mean and spread over seeds. Parameters are "
            "equal, MACs are not: at as many parameters `l2` keeps two to four times fewer of "
            "them. lost: against the "
            "dense network of the same seed. ResNet-8 with a penalty that does not grow with "
            "a group's size, one seed, is in gsparsity_against_magnitude_resnet8_unscaled.json; "
            "its strongest mu killed the network:",
            "",
            "| network | mu | method | non-zeros | MACs | seeds | accuracy | lost, points | file "
            "| gzipped | inference |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        for r in budgets:
            lines.append(
                f"| {r['net']} | {r['strength']:g} | {r['kind']} "
                f"| {r['nonzero']:,.0f} | {r['macs']:,.0f} "
                f"| {r['seeds']} | {r['accuracy']:.2%} ± {r['accuracy_spread']:.2%} "
                f"| {100 * r['added_error']:.2f} ± {100 * r['added_error_spread']:.2f} "
                f"| {r['file_bytes']:,.0f} B | {r['gzip_bytes']:,.0f} B "
                f"| {r['microseconds']:.0f} µs |"
            )
    return [*lines, ""] if lines else []


def _milliseconds(row: dict) -> str:
    """What was timed of a row; rows are timed side by side once all are made."""
    return f"{row['milliseconds']:.0f} ms" if "milliseconds" in row else ""


def lenet_tables() -> list[str]:
    """LeNets by the Bayesian methods, beside the papers' rows."""
    table = _read("lenet_table.json")
    if not table or not table["rows"]:
        return []
    lines = [
        "LeNets on MNIST by the Bayesian methods, beside what was published. Mean and spread "
        "over seeds; errors of the int8 file and of the float model on all 10,000 test "
        "images, and of the float model on the 6,000 validation images, by which recipes are "
        "judged; parameters are weights and biases that are left, non-zeros among them; times "
        "fewer are weights without biases, as in the papers' factors; "
        "MFLOP: ours two for each MAC, theirs as printed, which count 3.2 to 4 for each MAC "
        "of the architecture beside them, so compare MACs; indices of picked inputs apart; "
        "control: the same architecture trained from scratch on the labels alone, int8 "
        f"([plot]({PAGES}/lenet_table.png)). Below the table stands what the flagfiles "
        "set otherwise than this package's defaults; the papers' settings are others again.",
        "",
        "| | seeds | int8 error, % | float error, % | validation, % | parameters | non-zeros "
        "| times fewer | MACs | MFLOP | indices, B | file, B | control, % |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in table["published"]:
        lines.append(
            f"| {r['net']}, {r['method']}, published, {r['architecture']} | | | {r['error']:.2f} "
            f"| | {r['params']:,} | | | | {_mega(r['mflop'])} | | | |"
        )
    for name, held in table["rows"].items():
        s, runs = held["summary"], held["runs"]
        control = s.get("control_error")

        def mean(key, runs=runs) -> str:
            return f"{sum(r[key] for r in runs) / len(runs):,.0f}"

        lines.append(
            f"| {name} | {s['seeds']} | {_plain(s['error'])} | {_plain(s['error_float'])} "
            f"| {_plain(s['error_validation'])} "
            f"| {s['params']['mean']:,.0f} ± {s['params']['spread']:,.0f} "
            f"| {s['nonzero']['mean']:,.0f} | {s['times']['mean']:.1f} | {mean('macs')} "
            f"| {_mega(2e-6 * sum(r['macs'] for r in runs) / len(runs))} "
            f"| {mean('index_bytes')} | {mean('file_bytes')} "
            f"| {_plain(control)}{_of(control, runs)} |"
        )
    lines.append("")
    for name in table["rows"]:
        lines.append(f"- {name}: {_departures(name)}")
    for name, held in table["rows"].items():
        runs = held["runs"]
        if "times" not in held["summary"]["asked"]:
            continue
        told = ", ".join(
            f"{kind} {sum(r['encodings'][kind] for r in runs) / len(runs):,.0f}"
            for kind in runs[0]["encodings"]
        )
        lines.append(
            f"\n{name}: TFLite stores and multiplies its single zeros like any number. Bytes "
            f"of its int8 kernels by encoding, mean: {told}."
        )
    return [*lines, ""]


def step_costs() -> list[str]:
    """Steps of Bayesian layers beside those of plain ones, one row a layer and batch."""
    found = _read("bayesian_cost.json")
    if not found:
        return []
    columns = [(kind, place) for kind in COSTLY for place in ("within", "first")]
    told: dict[tuple[str, int], dict] = {}
    for r in found["rows"]:
        layer, _, kind = r["layer"].rstrip(")").partition(" (")
        told.setdefault((layer, r["batch"]), {})[kind, r["place"]] = r["ratio"]
    lines = [
        "A training step of a Bayesian layer beside one of the plain layer, times as long "
        f"(median of {found['rounds']} interleaved rounds; wanted: at most "
        f"{found['asked']}). `within` a network gradients go on to what is in front; a "
        "plain layer that stands `first` needs none of its inputs, factors on them do. "
        "What a weight's variance and divergence cost does not grow with the batch.",
        "",
        f"| layer, batch | {' | '.join(f'{k}, {p}' for k, p in columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for (layer, batch), ratios in told.items():
        row = " | ".join(f"{ratios[column]:.2f}" for column in columns)
        lines.append(f"| {layer}, {batch} | {row} |")
    return [*lines, ""]


def _departures(name: str) -> str:
    """The flags of a row that no paper has, or has otherwise."""
    path = os.path.join("configs", f"{name}.flags")
    changed = settings.parse([f"--flagfile={path}"])[0].changed()
    told = [
        f"`--{key}={options.shown(changed[key])}`"
        for key in DEPARTURES
        if key in changed
    ]
    return ", ".join(told) or "none"


def _of(control, runs) -> str:
    """Of how many seeds the control is, where not of all."""
    made = sum(bool(run.get("control")) for run in runs)
    return "" if control is None or made == len(runs) else f" ({made} of {len(runs)})"


def _mega(mflop) -> str:
    return "" if mflop is None else f"{mflop:.2f}"


def _plain(told) -> str:
    return "" if told is None else f"{told['mean']:.2f} ± {told['spread']:.2f}"


def zoo_table() -> list[str]:
    """One row a builder of keras.applications."""
    zoo = _read("strip_zoo.json")
    if not zoo:
        return []
    rows = [row for row in zoo["rows"] if "error" not in row]
    worst = max(row["difference"] for row in rows)
    lines = [
        "Half of the units of every prunable group of keras.applications, dropped at "
        f"random: {len(rows)} of {zoo['builders']} builders measured, worst relative "
        f"difference between stripped and masked {worst:.1e}; each was saved, loaded and "
        "converted to TFLite.",
        "",
        "| model | parameters | stripped | prunable share | difference | find groups | strip |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['model']} | {row['params']:,} | {row['params_after']:,} "
            f"| {row['prunable_params']:.1%} | {row['difference']:.0e} "
            f"| {row['find_seconds']:.2f} s | {row['strip_seconds']:.1f} s |"
        )
    for row in rows:
        if row["prunable_params"] < 0.9:
            reason = max(row["frozen"], key=row["frozen"].get)
            lines.append(f"\n{row['model']}: less than 90 % can go, as {reason}.")
    failed = [row["model"] for row in zoo["rows"] if "error" in row]
    return [*lines, *([f"Failed: {', '.join(failed)}."] if failed else [])]


def starts_table() -> list[str]:
    """Fashion-MNIST from the default network, from LeNet-5, and drawn by hand."""
    rows = _read("fashion_starts.json")
    if not rows:
        return []
    return [
        "",
        "Where to start from: Fashion-MNIST, the methods with their defaults and a target of "
        "parameters, from the network that `--model=auto` chooses and from LeNet-5; beside "
        "them nets drawn by hand at that size and trained as long. Mean and spread over "
        "seeds ([rows](../benchmarks/results/fashion_starts.json)).",
        "",
        *_benchmark("fashion_starts").table(rows),
    ]


BENCHMARKS = {
    "ablations": (
        "What each method's own idea is worth: Fashion-MNIST, LeNet-5, a target of about 6,000 "
        "bytes, with the idea and without it, all else alike. Accuracy of the int8 file on "
        "TensorFlow Lite Micro, mean and spread over seeds"
    ),
    "filled": (
        "How full a target is, mean and (least) over three networks and three seeds, digits, a "
        "few epochs, one target at a time"
    ),
    "lenet_trials": (
        "Recipes of the LeNets, tried on validation at a third of the epochs; the best of six "
        "(*) is the flagfile of that name"
    ),
    "ranking_rivals": (
        "LeGR (evolution) beside other ways of choosing filters: ResNet-20, half as wide, "
        "Fashion-MNIST, one dense network a seed, five epochs of fine-tuning; mean and spread "
        "over seeds, whole test split"
    ),
    "small_nets": (
        "MNIST without a search: the two networks that SpArSe's authors released, trained here, "
        "and three drawn by hand; int8 on TensorFlow Lite Micro, whole test split"
    ),
    "search_growth": (
        "Searches of MNIST (12,000 images, six epochs a trial): hypervolume of error, bytes and "
        "working memory on validation, where all samplers have trained for as many epochs"
    ),
    "search_inheritance": (
        "What a child of a search gains by its parent's posterior, twenty random morphs"
    ),
    "exported": "Every released model exported again from its `model.keras`, nothing trained: the "
    "int8 file as it was converted, as it ships, and with weights packed for TensorFlow Lite "
    "Micro; all 10,000 test images",
    "few_weights": "Few different weights a channel on the released LeNet-5 of each method, MNIST; "
    "mean and spread over seeds",
    "trained_for_int8": "Quantisation after training beside training for it, Fashion-MNIST at 28 x "
    "28; mean and spread over seeds",
}
"""Benchmark of rows -> what stands before its table."""


def tables_of_rows() -> list[str]:
    """The tables of benchmarks that keep their rows."""
    found = []
    for name, told in BENCHMARKS.items():
        if rows := _read(f"{name}.json"):
            found += ["", f"{told} ([rows](../benchmarks/results/{name}.json)).", "",
                      *_benchmark(name).table(rows)]  # fmt: skip
    return [*found, ""] if found else []


def task_pages() -> list[str]:
    """docs/tasks/results.md: a table for each task."""
    rows = _read("tasks.json") or []
    tasks = _benchmark("tasks")
    lines = [
        "# What is lost, task by task",
        "",
        "Written by `python tools/readme.py` from `benchmarks/results/tasks.json`, which "
        "`python benchmarks/tasks.py` measured. Every method with its defaults and a target "
        "(of sparse_vd: of the weights that are not zero), the network that `--model=auto` "
        "chooses, three seeds; `scratch` is the same network built at that size and trained "
        "from scratch as long. The score is that of the int8 file on TensorFlow Lite Micro, "
        "on the whole test split.",
    ]
    for name in tasks.TASKS:
        if any(row["task"] == name for row in rows):
            lines += ["", f"## {name.capitalize()}", "", *tasks.table(name, rows)]
    return lines


def _benchmark(name: str):
    """A module of benchmarks/, which knows how its rows are shown."""
    if "benchmarks" not in sys.path:
        sys.path.insert(0, "benchmarks")
    return importlib.import_module(name)


def _read(name: str):
    path = os.path.join(RESULTS, name)
    return files.read_json(path) if os.path.exists(path) else None


def limits() -> list[str]:
    """The page that says what can be pruned, trained and shipped."""
    rows = _read("every_layer.json") or []
    return [
        "# Limits: every layer and operation",
        "",
        "Written by `python tools/readme.py` from `benchmarks/results/every_layer.json`, which "
        "`python benchmarks/every_layer.py` wrote: Keras as it is on TensorFlow, noise for "
        "data, two epochs under each method.",
        "",
        "- *units in front*: whether the units that a layer reads are pruned, or why not. "
        "Whatever is said there, the network trains, strips and ships.",
        "- *strip*: half of all units that may go are gone, and what is left computes what the "
        "masked network computes.",
        "- *int8* and *TFLM*: that small network as a full int8 file, and the file on "
        "TensorFlow Lite Micro.",
        "- a method's column: two epochs under it, and the network that it leaves.",
        "",
        "*works*, or the number of the sentence below the table that a user reads before "
        "training begins (`tfsparse.train` tries the way to the chip first).",
        "",
        *_benchmark("every_layer").table(rows),
    ]


MARKS = {
    "lenet5": ("o", "LeNet-5"),
    "lenet_300_100": ("s", "LeNet-300-100"),
    "resnet": ("^", "small ResNets"),
}


def front():
    """The picture of the README: released models of MNIST, beside published networks."""
    from matplotlib import figure

    drawn = figure.Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = drawn.add_subplot()
    colours = {}
    for name, report in _released():
        if report["config"]["data"] != "mnist":
            continue
        row = {stage["name"]: stage for stage in report["stages"]}["mcu"]
        method = report["config"]["method"]
        colour = colours.setdefault(method, f"C{len(colours)}")
        mark = next(
            mark for start, (mark, _) in MARKS.items() if name.startswith(start)
        )
        size = row["weight_bytes"] + row["index_bytes"]
        packed = {stage["name"]: stage for stage in report["stages"]}.get(
            "tflite_compressed"
        )
        if packed and method == "sparse_vd":  # what its zeros take as bits
            size = packed["file_bytes"]
        axes.plot(size, 100 * (1 - row["accuracy"]), mark, color=colour, markersize=8)
    published = files.read_json(os.path.join("tfsparse", "search", "published.json"))
    for point in published["mnist"]:
        axes.plot(point["weight_bytes"], 100 * point["error"], "x", color="black")
    for method, colour in colours.items():
        axes.plot([], [], "o", color=colour, label=method)
    for mark, net in MARKS.values():
        axes.plot([], [], mark, color="grey", label=net)
    axes.plot([], [], "x", color="black", label="BitNetMCU (published)")
    axes.set_xscale("log")
    axes.set_xticks([3e3, 5e3, 1e4, 2e4], ["3 kB", "5 kB", "10 kB", "20 kB"])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("bytes of weights, int8 (sparse_vd: the whole packed file)")
    axes.set_ylabel("test error on MNIST, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=2)
    return drawn


def pages() -> dict[str, str]:
    """Path -> text of everything that is written here."""
    with open("README.md", encoding="utf-8") as file:
        text = file.read()
    head, rest = text.split(START, 1)
    first, rest = rest.split("\n", 1)
    _, tail = rest.split(END, 1)
    body = "\n".join([*models_table(), "", *vanished_lines()])
    results = [
        "# What was measured",
        "",
        "Written by `python tools/readme.py` from the files of `benchmarks/results/`, each of "
        "which the program of its name in `benchmarks/` wrote.",
        "",
        *benchmark_lines(),
        "",
        *starts_table(),
        "",
        *lenet_tables(),
        *step_costs(),
        *gsparsity_tables(),
        *tables_of_rows(),
        *zoo_table(),
    ]
    return {
        "README.md": f"{head}{START}{first}\n{body}\n{END}{tail}",
        os.path.join("docs", "results.md"): "\n".join([*results, ""]),
        os.path.join("docs", "tasks", "results.md"): "\n".join([*task_pages(), ""]),
        os.path.join("docs", "limits.md"): "\n".join([*limits(), ""]),
    }


def main() -> int:
    """The program."""
    for path, text in pages().items():
        files.write_text(path, text)
    with files.appears_whole(os.path.join("docs", "pictures", "front.png")) as path:
        front().savefig(path, dpi=130)
    return 0


if __name__ == "__main__":
    sys.exit(main())
