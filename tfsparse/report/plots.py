"""The plots of a report, by kind of section; none knows a method or a stage by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import nan
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

SIZE = (5.2, 3.5)
BLUE, ORANGE, GREY, GREEN = "#1f6feb", "#d9730d", "#8a94a0", "#2a9d5c"
PALETTE = (BLUE, ORANGE, GREEN, "#8e44ad", "#c0392b", "#16a085", "#b7950b", "#34495e")
MANY = 8
"""More lines than that are drawn without a legend."""

Section = Mapping[str, Any]


def draw(section: Section) -> Figure | None:
    """The plot of a section; None of one that is no plot.

    Args:
        section: As in `report.json`, see `records.sections`.
    """
    drawer = DRAWERS.get(section["kind"])
    empty = any(
        section.get(key) in ((), [], {})
        for key in ("lines", "points", "panels", "series")
    )
    return None if drawer is None or empty else drawer(_plain(section))


def _plain(value: Any) -> Any:
    """A section whose texts matplotlib does not read as formulas."""
    if isinstance(value, str):
        return value.replace("$", r"\$")
    if isinstance(value, Mapping):
        return {_plain(key): _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def new_axes(title: str, x: str, y: str, size=SIZE):
    """A figure with one pair of axes, titled and labelled."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11, loc="left", fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def _words(unit: str):
    """How numbers stand on an axis; None for matplotlib's own way."""
    return {"bytes": FuncFormatter(_bytes), "percent": PercentFormatter(1.0)}.get(unit)


def _scale(axis, told: Section, values) -> None:
    """Makes an axis what its section says; of numbers that are not positive no log."""
    if told["log"] and any(value is not None and value > 0 for value in values):
        axis.axes.set(**{f"{axis.axis_name}scale": "log"})
        log_ticks(axis, _words(told["format"]))
    elif _words(told["format"]) is not None:
        axis.set_major_formatter(_words(told["format"]))
    if told["zero"]:
        axis.axes.set_ylim(bottom=0)


def log_ticks(axis, words=None) -> None:
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
    return f"{value:.3g}"


def _bytes(value, _position=None) -> str:
    for factor, unit in ((1e6, "MB"), (1e3, "kB")):
        if value >= factor:
            return f"{value / factor:g} {unit}"
    return f"{value:g} B"


def curves(section: Section) -> Figure:
    """Lines over one axis, some of them with an axis of their own at the right."""
    figure, axes = new_axes(
        section["title"], section["x"]["label"], section["y"]["label"]
    )
    other: Any = axes.twinx() if section["right"] else None
    drawn: list = []
    for number, line in enumerate(section["lines"]):
        # Two curves of one kind share their colour, whole and dashed.
        right = line["right"] and other is not None
        color = PALETTE[number % len(PALETTE)]
        if other is not None:
            color = ORANGE if right else BLUE
        drawn += (other if right else axes).plot(
            line["xs"],
            [nan if y is None else y for y in line["ys"]],
            color=color,
            linestyle="--" if line["dashed"] else "-",
            linewidth=1.8,
            label=line["name"],
        )
    ys = {
        right: [
            y for line in section["lines"] if line["right"] == right for y in line["ys"]
        ]
        for right in (False, True)
    }
    _scale(axes.yaxis, section["y"], ys[False])
    if other is not None:
        other.set_ylabel(section["right"]["label"])
        other.spines["top"].set_visible(False)
        _scale(other.yaxis, section["right"], ys[True])
    for mark in section["marks"]:
        axes.axvline(mark["x"], color=GREY, linestyle=":", linewidth=1.2)
        axes.annotate(
            f" {mark['text']}", (mark["x"], 1), xycoords=("data", "axes fraction"),
            fontsize=8, color=GREY, va="top",
        )  # fmt: skip
    names = [line.get_label() for line in drawn]
    if other is not None:  # nothing knows where both axes leave room
        figure.legend(
            drawn, names, loc="outside lower center", ncols=3, frameon=False, fontsize=8
        )
    elif len(drawn) <= MANY:
        axes.legend(drawn, names, frameon=False, fontsize=8, loc="best")
    return figure


def points(section: Section) -> Figure:
    """Labelled points, joined by a line or not, and a goal to reach."""
    figure, axes = new_axes(
        section["title"], section["x"]["label"], section["y"]["label"]
    )
    places: dict[tuple, list[dict]] = {}
    for point in section["points"]:
        places.setdefault((point["x"], round(point["y"], 4)), []).append(point)
    ordered = sorted(places)
    if section["joined"]:
        axes.plot(*zip(*ordered, strict=True), color=GREY, linewidth=1)
    if section["x"]["log"]:
        axes.set_xscale("log")
        axes.set_xlim(ordered[0][0] / 2.2, ordered[-1][0] * 2.6)
    for number, ((x, y), own) in enumerate(places.items()):
        best = any(point["best"] for point in own)
        axes.scatter(
            x, y, s=60 if best else 34, color=ORANGE if best else BLUE, zorder=3
        )
        near = [b for a, b in places if x / 3 < a < 3 * x and (a, b) != (x, y)]
        top = max(near, default=-float("inf"))
        # Of two neighbours, the higher says its name above.
        up = y > top or (y == top and number % 2 == 0)
        axes.annotate(
            ", ".join(point["label"] for point in own),
            (x, y),
            xytext=(0, 7 if up else -14),
            textcoords="offset points",
            fontsize=8,
            ha="center",
        )
    if section["goal"] is not None:
        axes.axhline(section["goal"], color=GREEN, linestyle=":", linewidth=1.2)
        axes.annotate(
            "target", (0, section["goal"]), xycoords=("axes fraction", "data"),
            xytext=(4, 3), textcoords="offset points", fontsize=8, color=GREEN,
        )  # fmt: skip
    axes.margins(y=0.25)
    _scale(axes.xaxis, section["x"], [x for x, _ in ordered])
    _scale(axes.yaxis, section["y"], [y for _, y in ordered])
    return figure


def scatter(section: Section) -> Figure:
    """Points of several kinds, the faint ones behind."""
    figure, axes = new_axes(
        section["title"], section["x"]["label"], section["y"]["label"]
    )
    colours = iter(PALETTE)
    for own in section["series"]:
        color = "#c3cad3" if own["faint"] else next(colours)
        axes.scatter(
            own["xs"], own["ys"], s=16 if own["faint"] else 30, color=color,
            label=own["name"], zorder=2 if own["faint"] else 3,
        )  # fmt: skip
        if own["joined"]:
            axes.plot(own["xs"], own["ys"], color=color, linewidth=1.2)
        for x, y, label in zip(own["xs"], own["ys"], own["labels"], strict=False):
            axes.annotate(
                label, (x, y), xytext=(4, 4), textcoords="offset points",
                fontsize=7.5, color=color,
            )  # fmt: skip
    axes.margins(0.08)
    for axis, key in ((axes.xaxis, "x"), (axes.yaxis, "y")):
        _scale(
            axis, section[key], [v for own in section["series"] for v in own[f"{key}s"]]
        )
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def bars(section: Section) -> Figure:
    """Horizontal bars: a number for each name, before and after."""
    names, before, after = section["names"], section["before"], section["after"]
    height = max(SIZE[1], 0.34 * len(names) + 1)
    figure, axes = new_axes(
        section["title"], section["x"]["label"], "", (SIZE[0], height)
    )
    places = range(len(names))
    axes.barh(places, before, color="#d5dbe3", label="before")
    axes.barh(places, after, color=BLUE, height=0.5, label="after")
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    if section["x"]["log"]:
        axes.set_xscale("log")
        axes.set_xlim(left=max(1, min([n for n in after if n] or [1]) / 4))
    axes.xaxis.set_major_formatter(FuncFormatter(_short))
    axes.xaxis.set_minor_formatter(NullFormatter())
    for place, count in zip(places, after, strict=True):
        axes.annotate(
            f" {count:,}",
            (max(count, 1), place),
            fontsize=8,
            va="center",
            color="#16324f",
        )
    axes.legend(frameon=False, fontsize=8, loc="best")
    return figure


def histograms(section: Section) -> Figure:
    """Histograms of what decided, one panel a name, with its threshold."""
    found = section["panels"]
    figure = Figure(figsize=(SIZE[0], 0.9 + 1.0 * len(found)), layout="constrained")
    figure.suptitle(section["title"], fontsize=11, x=0.02, ha="left", fontweight="bold")
    panels = figure.subplots(len(found), 1, squeeze=False)[:, 0]
    for axes, (name, own) in zip(panels, found.items(), strict=True):
        threshold, edges, title = own["threshold"], own["edges"], name
        centres = [(a + b) / 2 for a, b in zip(edges, edges[1:], strict=False)]
        colors = [BLUE] * len(centres)
        if threshold is not None:
            colors = [BLUE if centre < threshold else "#c3cad3" for centre in centres]
            axes.axvline(threshold, color=ORANGE, linewidth=1.4)
            title = f"{name}, threshold {threshold:.3g}"
        axes.bar(centres, own["counts"], width=edges[1] - edges[0], color=colors)
        axes.set_yscale("symlog", linthresh=1)
        axes.set_yticks([])
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.set_title(title, fontsize=8, loc="left")
    panels[-1].set_xlabel(section["label"])
    return figure


def graph(section: Section) -> Figure:
    """Nodes and the operations between them, coloured by what they are."""
    figure = Figure(figsize=(7.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(section["title"], fontsize=11, loc="left", fontweight="bold")
    axes.axis("off")
    places = _places(section)
    living = [arrow for arrow in section["arrows"] if arrow["alive"]]
    names = sorted({arrow["label"] for arrow in living})
    colours = {name: PALETTE[n % len(PALETTE)] for n, name in enumerate(names)}
    between: dict[tuple, list] = {}
    for arrow in sorted(section["arrows"], key=lambda arrow: not arrow["alive"]):
        between.setdefault((arrow["source"], arrow["target"]), []).append(arrow)
    for (source, target), arrows in between.items():
        for number, arrow in enumerate(arrows):
            bend = 0.12 * (-1) ** number * ((number + 1) // 2)
            style = {"color": GREY, "alpha": 0.25, "linewidth": 0.7}
            if arrow["alive"]:
                style = {"color": colours[arrow["label"]], "linewidth": 1.8}
            _arrow(axes, places[source], places[target], bend, **style)
    for name in section["nodes"]:
        style = {"color": GREY, "linewidth": 0.9, "linestyle": ":"}
        _arrow(axes, places[name], places[section["output"]], 0.0, **style)
    for name, (x, y) in places.items():
        box = {
            "boxstyle": "round,pad=0.35",
            "facecolor": "white",
            "edgecolor": "#34495e",
        }
        axes.text(x, y, name, ha="center", va="center", fontsize=9, bbox=box, zorder=3)
    for name, colour in colours.items():
        axes.plot([], [], color=colour, linewidth=1.8, label=name)
    if names:
        figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    axes.set_xlim(-0.5, len(section["nodes"]) + 1.5)
    axes.set_ylim(-1.6, 1.6)
    return figure


def _places(section: Section) -> dict[str, tuple[float, float]]:
    """Where nodes stand: inputs above each other, nodes in turns above and below."""
    inputs, nodes = section["inputs"], section["nodes"]
    places = {name: (0.0, 1.0 - 2.0 * n) for n, name in enumerate(inputs)}
    if len(inputs) == 1:
        places = {inputs[0]: (0.0, 0.0)}
    for number, name in enumerate(nodes):
        places[name] = (number + 1.0, 0.55 * (-1) ** number)
    return {**places, section["output"]: (len(nodes) + 1.0, 0.0)}


def _arrow(axes, start, end, bend: float, **style) -> None:
    patch = FancyArrowPatch(
        start, end, connectionstyle=f"arc3,rad={bend}", arrowstyle="-|>",
        mutation_scale=9, shrinkA=13, shrinkB=13, zorder=1, **style,
    )  # fmt: skip
    axes.add_patch(patch)


DRAWERS: dict[str, Callable[[Section], Figure]] = {
    "graph": graph,
    "curves": curves,
    "points": points,
    "scatter": scatter,
    "bars": bars,
    "histograms": histograms,
}
"""Kind of section -> what draws it."""


def sensitivity(rows: list[dict], measure: str = "value") -> Figure:
    """What each group loses when it alone is pruned, a colour for each share.

    Args:
        rows: What `tfsparse.sensitivity` returned.
        measure: What its values are.
    """
    names = list(dict.fromkeys(row["group"] for row in rows[1:]))
    size = (SIZE[0], max(SIZE[1] * 0.7, 0.28 * len(names) + 1.8))
    figure, axes = new_axes("Sensitivity of every group", measure, "", size)
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
