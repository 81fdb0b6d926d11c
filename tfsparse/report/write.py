"""Writes report.json, report.html and the plots of a run."""

from __future__ import annotations

import base64
import os
from importlib import resources

import jinja2

from tfsparse import files
from tfsparse.report import plots

STAGE_WORDS = {
    "dense": "the untouched network, trained for comparison",
    "sparse": "at the end of training with a penalty, as it was trained",
    "stripped": "dead units removed, stock layers only",
    "finetuned": "what is exported: fine-tuned, if validation gained by it",
    "tflite_float": "float .tflite on LiteRT",
    "tflite_int8": "full-int8 .tflite on LiteRT",
    "mcu": "the int8 file on TensorFlow Lite Micro",
}

ENCODING_WORDS = {
    "dense": "every number, as TFLite has it",
    "bitmap": "a bit for every number, then those that are not zero",
    "relative": "a byte for the gap before each number that is not zero",
    "csr": "compressed sparse rows",
}
MANY_ZEROS = 0.1
"""Share of zeros in the shipped network from which they get a section."""


def write(document: dict, directory: str) -> None:
    """Writes a run's report; report.html comes last and means that all is there.

    Args:
        document: What `report.json` is to hold (docs/architecture.md).
        directory: Where to.

    Raises:
        OSError: A file cannot be written.
    """
    folder = os.path.join(directory, "plots")
    os.makedirs(folder, exist_ok=True)
    images = {}
    for name, figure in plots.draw(document).items():
        path = os.path.join(folder, f"{name}.png")
        with files.appears_whole(path) as temporary:
            figure.savefig(temporary, dpi=150)
        with open(path, "rb") as file:
            images[name] = base64.b64encode(file.read()).decode()
    files.write_json(os.path.join(directory, "report.json"), document)
    files.write_text(os.path.join(directory, "report.html"), render(document, images))


def render(document: dict, images: dict[str, str]) -> str:
    """The page, self-contained: images inside, nothing fetched, no script."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters["thousands"] = lambda n: "–" if n is None else f"{n:,}"
    environment.filters["percent"] = lambda x: f"{100 * x:.2f} %"
    source = (
        resources.files("tfsparse.report").joinpath("report.html").read_text("utf-8")
    )
    return environment.from_string(source).render(
        document=document,
        images=images,
        captions=plots.CAPTIONS,
        words=STAGE_WORDS,
        headline=_headline(document),
        network=_network(document),
        encodings=ENCODING_WORDS,
        single=_has_single_zeros(document),
        bits=_bits(document),
    )


def _headline(document: dict) -> dict:
    """The few numbers that stand on top."""
    stages = {row["name"]: row for row in document["stages"]}
    order = ("mcu", "tflite_int8", "tflite_float", "finetuned")
    final = next(stages[name] for name in order if name in stages)
    before = document["dense_cost"]["params"]
    return {
        "accuracy": final["accuracy"],
        "on": STAGE_WORDS[final["name"]],
        "params": final["params"],
        "times": before / final["params"],
        "before": before,
        "file_bytes": final["file_bytes"],
        "arena_bytes": stages.get("mcu", {}).get("arena_bytes"),
    }


def _bits(document: dict) -> list[dict]:
    """Weights of each layer that is left, and bits for each of them by the posterior."""
    bits = document["method"].get("trace", {}).get("bits", {})
    return [
        {
            "layer": row["layer"],
            "weights": row["weights"],
            "bits": bits[row["layer"]],
        }
        for row in document["layers"]["final"]
        if row["layer"] in bits
    ]


def _has_single_zeros(document: dict) -> bool:
    final = next(row for row in document["stages"] if row["name"] == "finetuned")
    return final["nonzero"] < (1 - MANY_ZEROS) * final["params"]


def _network(document: dict) -> list[dict]:
    """Rows of the drawing: each layer's units now, inside what it started with."""
    before = {row["layer"]: row for row in document["layers"]["dense"]}
    widest = max(row["shape"][-1] for row in before.values())
    rows = []
    for row in document["layers"]["final"]:
        start = before.get(row["layer"], row)
        rows.append(
            {
                **row,
                "units": row["shape"][-1],
                "units_before": start["shape"][-1],
                "params_before": start["params"],
                "width": 100 * (row["shape"][-1] / widest) ** 0.5,
                "ghost": 100 * (start["shape"][-1] / widest) ** 0.5,
            }
        )
    return rows
