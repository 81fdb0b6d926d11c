"""Writes the pages of runs and of searches: JSON, plots, HTML."""

from __future__ import annotations

import base64
import os
from typing import Any

import jinja2

from tfsparse import files, options
from tfsparse.report import plots

DPI = 150
"""Dots per inch of the plots."""

LAST = (
    "tflite_compressed", "mcu", "tflite_int8", "tflite_int16x8", "tflite_float16",
    "tflite_dynamic", "tflite_float",
)  # fmt: skip
"""Whose figures stand on top: the first of these that a run has, else its last row."""


def write(document: dict[str, Any], directory: str) -> None:
    """Writes a run's report; report.html comes last and means that all is there.

    Args:
        document: What `report.json` is to hold (docs/report.md).
        directory: Where to.

    Raises:
        OSError: A file cannot be written.
    """
    _written(document, directory, "report.json", render)


def write_search(document: dict[str, Any], directory: str) -> None:
    """Writes what a search found: pareto.json, plots, and at last report.html.

    Args:
        document: What `pareto.json` is to hold (docs/searching.md).
        directory: Where to.

    Raises:
        OSError: A file cannot be written.
    """
    _written(document, directory, "pareto.json", render_search)


def _written(document, directory: str, name: str, page) -> None:
    folder = os.path.join(directory, "plots")
    os.makedirs(folder, exist_ok=True)
    images = {}
    for section in document["sections"]:
        figure = plots.draw(section)
        if figure is None:
            continue
        path = os.path.join(folder, f"{section['name']}.png")
        with files.appears_whole(path) as temporary:
            figure.savefig(temporary, dpi=DPI)
        with open(path, "rb") as file:
            images[section["name"]] = base64.b64encode(file.read()).decode()
    files.write_json(os.path.join(directory, name), document)
    files.write_text(os.path.join(directory, "report.html"), page(document, images))


def render(document: dict[str, Any], images: dict[str, str]) -> str:
    """The page of a run, self-contained: images inside, nothing fetched, no script."""
    return _rendered("report.html", document, images, headline=_headline(document))


def render_search(document: dict[str, Any], images: dict[str, str]) -> str:
    """The page of a search, self-contained as that of a run."""
    return _rendered("search.html", document, images, cards=_cards(document))


def _rendered(template: str, document, images, **more) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tfsparse.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {
        "thousands": thousands,
        "percent": percent,
        "cell": cell,
        "flag": options.written,
        "score": score,
        "measured": measured,
    }
    return environment.get_template(template).render(
        document=document,
        images=images,
        sections=[s for s in document["sections"] if s.get("name") not in images],
        figures=[s for s in document["sections"] if s.get("name") in images],
        widest=_widest(document),
        **more,
    )


def _cards(document: dict[str, Any]) -> list[dict[str, str]]:
    """The best of each objective among the points of a front."""
    found = []
    for name in document["objectives"]:
        best = min(document["points"], key=lambda point: point[name])
        value = best["test"]["score"] if name == "error" else best[name]
        told = f"{100 * value:.2f} %" if name == "error" else f"{value:,.0f}"
        what = (
            "test accuracy of the most accurate" if name == "error" else f"least {name}"
        )
        found.append({"value": told, "what": what})
    return found


def thousands(value: float | None) -> str:
    """12345 -> 12,345; a dash for None."""
    return "–" if value is None else f"{value:,}"


def percent(value: float | None) -> str:
    """0.98765 -> 98.77 %; a dash for None."""
    return "–" if value is None else f"{100 * value:.2f} %"


def cell(value: Any, format: str) -> str:  # noqa: A002  (a column's own word)
    """A cell of a table, as its column writes it."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if format == "percent":
        return percent(value)
    if format == "number":
        return f"{value:.3g}"
    return thousands(value) if format == "count" else str(value)


def score(row: dict[str, Any]) -> str:
    """A row's score: a share as percents, anything else as a number."""
    if "score" not in row:  # a report of a time that knew classes alone
        return percent(row["accuracy"])
    older = "" if row["accuracy"] is None else "%"  # reports that knew no units
    value, unit = row["score"]["value"], row["score"].get("unit", older)
    return percent(value) if unit == "%" else f"{value:.4g}"


def measured(row: dict[str, Any]) -> str:
    """What a row's score is, with its unit; shares are written as percents."""
    unit = row["score"].get("unit", "")
    return row["score"]["name"] + (f", {unit}" if unit not in ("", "%") else "")


def _headline(document: dict[str, Any]) -> dict[str, Any]:
    """The few numbers that stand on top."""
    stages = {row["name"]: row for row in document["stages"]}
    final = next((stages[name] for name in LAST if name in stages), None)
    final = final or document["stages"][-1]
    before = document["dense_cost"]["params"]
    return {
        "row": final,
        "what": final["what"],
        "samples": final["samples"],
        "params": final["params"],
        "times": before / final["params"],
        "before": before,
        "file_bytes": final["file_bytes"],
        "arena_bytes": final["arena_bytes"],
    }


def _widest(document: dict[str, Any]) -> int:
    """Units of the widest layer of any drawing of a network."""
    return max(
        (
            layer["units_before"]
            for section in document["sections"]
            if section["kind"] == "network"
            for layer in section["layers"]
        ),
        default=1,
    )
