"""The plots of a run, from its report alone."""

from __future__ import annotations

from collections.abc import Callable
from math import nan

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

SIZE = (5.2, 3.5)
BLUE, ORANGE, GREY, GREEN = "#1f6feb", "#d9730d", "#8a94a0", "#2a9d5c"
PALETTE = (BLUE, ORANGE, GREEN, "#8e44ad", "#c0392b", "#16a085", "#b7950b", "#34495e")
MANY = 8
"""More groups than that are drawn without a legend."""

CAPTIONS = {
    "accuracy_bytes": "Accuracy against bytes, stage by stage",
    "live_units": "Live units of every layer over the epochs",
    "training": "Training curves",
    "trials": "The search for the strength that meets the target",
    "step_time": "Time of an epoch as the network shrinks",
    "layers": "Parameters of every layer, before and after",
    "scores": "Signal and noise: scores at the end of training",
}


def draw(document: dict) -> dict[str, Figure]:
    """All plots that a report has the numbers for, by name."""
    drawers: dict[str, Callable[[dict], Figure | None]] = {
        "accuracy_bytes": accuracy_bytes,
        "live_units": live_units,
        "training": training,
        "trials": trials,
        "step_time": step_time,
        "layers": layers,
        "scores": scores,
    }
    drawn = {name: drawer(document) for name, drawer in drawers.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _axes(title: str, x: str, y: str, size=SIZE):
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11, loc="left", fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def accuracy_bytes(document: dict) -> Figure:
    """Accuracy of every stage against its bytes."""
    figure, axes = _axes(
        CAPTIONS["accuracy_bytes"],
        "bytes (int8 weights, or the .tflite file)",
        "test accuracy",
    )
    places: dict[tuple, list[str]] = {}
    for row in document["stages"]:
        is_file = row["name"] in ("tflite_float", "tflite_int8", "mcu")
        size = row["file_bytes"] if is_file else _stored(row)
        places.setdefault((size, round(row["accuracy"], 4)), []).append(row["name"])
    axes.set_xscale("log")
    sizes = [place[0] for place in places]
    axes.set_xlim(min(sizes) / 2.2, max(sizes) * 2.6)
    for number, ((size, accuracy), names) in enumerate(places.items()):
        last = names[-1] in ("mcu", "tflite_int8")
        axes.scatter(
            size, accuracy, s=60 if last else 34, color=ORANGE if last else BLUE
        )
        near = [
            a
            for s, a in places
            if size / 3 < s < 3 * size and (s, a) != (size, accuracy)
        ]
        best = max(
            near, default=0.0
        )  # of two neighbours, the higher says its name above
        up = accuracy > best or (accuracy == best and number % 2 == 0)
        axes.annotate(
            ", ".join(names).replace("tflite_", ""),
            (size, accuracy),
            xytext=(0, 7 if up else -14),
            textcoords="offset points",
            fontsize=8,
            ha="center",
        )
    axes.margins(y=0.25)
    _log_ticks(axes.xaxis, FuncFormatter(_bytes))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=2))
    return figure


def _stored(row: dict) -> int:
    return row["weight_bytes"] + row.get("index_bytes", 0)


def _log_ticks(axis, words=None) -> None:
    """Few, readable ticks on a logarithmic axis: 1, 2, 5, 10, ... or 1, 3, 10, ..."""
    low, high = axis.get_view_interval()
    subs = (1.0, 2.0, 5.0) if high < 200 * low else (1.0, 3.0)  # labels touch otherwise
    axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_major_formatter(words or FuncFormatter(_short))
    axis.set_minor_formatter(NullFormatter())


def _short(value, _position=None) -> str:
    for factor, unit in ((1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:g}{unit}"
    return f"{value:g}"


def _bytes(value, _position=None) -> str:
    for factor, unit in ((1e6, "MB"), (1e3, "kB")):
        if value >= factor:
            return f"{value / factor:g} {unit}"
    return f"{value:g} B"


def live_units(document: dict) -> Figure | None:
    """Units that the method keeps, for each group, over the epochs."""
    history = document["method"]["history"]
    if not history or "live" not in history[0]:
        return None
    figure, axes = _axes(CAPTIONS["live_units"], "epoch", "live units")
    names = list(history[0]["live"])
    start = {row["name"]: row["size"] for row in document["groups"]}
    epochs = range(len(history) + 1)
    for number, name in enumerate(names):
        values = [
            start.get(name, 0),
            *(entry["live"].get(name, nan) for entry in history),
        ]
        color = PALETTE[number % len(PALETTE)]
        axes.plot(epochs, values, color=color, label=name, linewidth=1.8)
    axes.set_yscale("log")
    _log_ticks(axes.yaxis)
    _mark_settled(axes, document)
    if len(names) <= MANY:
        axes.legend(frameon=False, fontsize=8)
    return figure


def _mark_settled(axes, document: dict) -> None:
    settled = document["method"].get("settled")
    history = document["method"]["history"]
    if settled and not history[-1].get("strength_on", False):  # a divergence stays on
        axes.axvline(settled, color=GREY, linestyle=":", linewidth=1.2)
        axes.annotate(
            " penalty off", (settled, 1), xycoords=("data", "axes fraction"),
            fontsize=8, color=GREY, va="top",
        )  # fmt: skip


def training(document: dict) -> Figure:
    """Loss and validation accuracy of shrinking and fine-tuning."""
    figure, axes = _axes(CAPTIONS["training"], "epoch", "loss")
    method = document["method"]
    history = [*method["history"], *method["fine_tune_history"]]
    epochs = range(1, len(history) + 1)
    # A loss that follows another model's answers, too, is of another scale.
    alike = method["history"] if document["config"].get("distill") else history
    losses = [e["loss"] for e in alike]
    axes.plot(epochs[: len(losses)], losses, color=BLUE, label="train loss")
    validation = [e["val_loss"] for e in history]
    axes.plot(epochs, validation, color=BLUE, linestyle="--", label="validation loss")
    axes.set_yscale("log")
    _log_ticks(axes.yaxis)
    other = axes.twinx()
    other.plot(
        epochs,
        [e["val_accuracy"] for e in history],
        color=ORANGE,
        label="validation accuracy",
    )
    other.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
    other.spines["top"].set_visible(False)
    _mark_settled(axes, document)
    lines = [*axes.get_lines()[:2], *other.get_lines()]
    other.legend(
        lines,
        [line.get_label() for line in lines],
        frameon=False,
        fontsize=8,
        loc="center right",
    )
    return figure


def trials(document: dict) -> Figure | None:
    """What each strength left, as a share of the target, in the order of the trials."""
    made = document["method"].get("trials")
    alive = [(n, t) for n, t in enumerate(made or [], 1) if t["cost"] > 0]
    if not alive:
        return None
    figure, axes = _axes(
        CAPTIONS["trials"], "strength of the penalty", "left, as a share of the target"
    )
    ordered = sorted(alive, key=lambda pair: pair[1]["strength"])
    xs = [t["strength"] for _, t in ordered]
    ys = [t["cost"] for _, t in ordered]
    axes.plot(xs, ys, color=GREY, linewidth=1)
    for number, row in ordered:
        color = ORANGE if row["strength"] == document["method"]["strength"] else BLUE
        axes.scatter(row["strength"], row["cost"], color=color, zorder=3, s=34)
        axes.annotate(
            str(number), (row["strength"], row["cost"]), xytext=(5, 5),
            textcoords="offset points", fontsize=8,
        )  # fmt: skip
    axes.axhline(1, color=GREEN, linestyle=":", linewidth=1.2)
    axes.annotate(
        "target", (0, 1), xycoords=("axes fraction", "data"), xytext=(4, 3),
        textcoords="offset points", fontsize=8, color=GREEN,
    )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    _log_ticks(axes.xaxis, FuncFormatter(lambda value, _: f"{value:.3g}"))
    _log_ticks(axes.yaxis)
    return figure


def step_time(document: dict) -> Figure | None:
    """CPU time of each epoch, removals marked."""
    history = document["method"]["history"]
    if not history or "macs" not in history[0]:
        return None
    figure, axes = _axes(CAPTIONS["step_time"], "epoch", "CPU seconds an epoch")
    epochs = range(1, len(history) + 1)
    axes.plot(epochs, [e["cpu_seconds"] for e in history], color=BLUE, linewidth=1.8)
    axes.set_ylim(bottom=0)
    removals = method_removals(document)
    for number, removal in enumerate(removals):
        label = "removal from the running model" if not number else None
        axes.axvline(
            removal["epoch"] + 0.5, color=GREEN, alpha=0.5, linewidth=1, label=label
        )
    other = axes.twinx()
    other.plot(
        epochs,
        [e["macs"] for e in history],
        color=ORANGE,
        linestyle="--",
        label="MACs alive",
    )
    other.set_yscale("log")
    _log_ticks(other.yaxis)
    other.set_ylabel("MACs alive")
    other.spines["top"].set_visible(False)
    lines = [axes.get_lines()[0], *other.get_lines(), *axes.get_lines()[1:2]]
    names = ["CPU seconds", "MACs alive", "removal"][: len(lines)]
    axes.legend(lines, names, frameon=False, fontsize=8)
    return figure


def method_removals(document: dict) -> list[dict]:
    """What left the running model, and when."""
    return document["method"].get("removals", [])


def layers(document: dict) -> Figure:
    """Horizontal bars: parameters of each layer before and after."""
    before = document["layers"]["dense"]
    after = {row["layer"]: row["params"] for row in document["layers"]["final"]}
    height = max(SIZE[1], 0.34 * len(before) + 1)
    figure, axes = _axes(CAPTIONS["layers"], "parameters", "", (SIZE[0], height))
    places = range(len(before))
    axes.barh(places, [r["params"] for r in before], color="#d5dbe3", label="before")
    left = [after.get(r["layer"], 0) for r in before]
    axes.barh(places, left, color=BLUE, height=0.5, label="after")
    axes.set_yticks(places, [r["layer"] for r in before], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(_short))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(left=max(1, min([n for n in left if n] or [1]) / 4))
    for place, count in zip(places, left, strict=True):
        axes.annotate(
            f" {count:,}",
            (max(count, 1), place),
            fontsize=8,
            va="center",
            color="#16324f",
        )
    axes.legend(frameon=False, fontsize=8, loc="best")
    return figure


def scores(document: dict) -> Figure | None:
    """Histograms of what decided, one panel a layer, with its threshold."""
    trace = document["method"].get("trace", {})
    found = trace.get("scores")
    if not found:
        return None
    figure = Figure(figsize=(SIZE[0], 0.9 + 1.0 * len(found)), layout="constrained")
    figure.suptitle(
        CAPTIONS["scores"], fontsize=11, x=0.02, ha="left", fontweight="bold"
    )
    panels = figure.subplots(len(found), 1, squeeze=False)[:, 0]
    for axes, (name, own) in zip(panels, found.items(), strict=True):
        threshold = trace["thresholds"][name]
        edges, counts = own["edges"], own["counts"]
        centres = [(a + b) / 2 for a, b in zip(edges, edges[1:], strict=False)]
        colors = [BLUE if centre < threshold else "#c3cad3" for centre in centres]
        axes.bar(centres, counts, width=edges[1] - edges[0], color=colors)
        axes.axvline(threshold, color=ORANGE, linewidth=1.4)
        axes.set_yscale("symlog", linthresh=1)
        axes.set_yticks([])
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.set_title(f"{name}, threshold {threshold:.3g}", fontsize=8, loc="left")
    panels[-1].set_xlabel("score (log of the noise over the signal); blue stays")
    return figure


def sensitivity(rows: list[dict], measure: str = "value") -> Figure:
    """What each group loses when it alone is pruned, a colour for each share.

    Args:
        rows: What `tfsparse.sensitivity` returned.
        measure: What its values are.
    """
    names = list(dict.fromkeys(row["group"] for row in rows[1:]))
    size = (SIZE[0], max(SIZE[1] * 0.7, 0.28 * len(names) + 1.8))
    figure, axes = _axes("Sensitivity of every group", measure, "", size)
    axes.axvline(rows[0]["value"], color=GREY, linewidth=1.2, label="whole model")
    fractions = sorted({row["fraction"] for row in rows[1:]}, reverse=True)
    for number, fraction in enumerate(fractions):
        own = [row for row in rows[1:] if row["fraction"] == fraction]
        axes.scatter(
            [row["value"] for row in own],
            [names.index(row["group"]) for row in own],
            s=34,
            color=PALETTE[number % len(PALETTE)],
            label=f"{fraction:.0%} of its units left",
        )
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    if all(0 <= row["value"] <= 1 for row in rows):
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure
