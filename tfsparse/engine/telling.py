"""The report of a finished run: what every stage tells, and what all of them show together."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import keras

from tfsparse import nas, records
from tfsparse.engine.context import RunContext
from tfsparse.engine.stage import Stage, Told
from tfsparse.graph import measure
from tfsparse.graph.cost import layer_costs
from tfsparse.records import sections as draw
from tfsparse.report import write

Results = Mapping[str, "records.Result | None"]


def report(
    stages: Sequence[Stage],
    context: RunContext,
    results: Results,
    config: dict,
    family: Mapping[str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Writes the report of a finished run, and shows its table.

    Args:
        stages: Those that were gone through.
        context: The run.
        results: By stage.
        config: The settings, as JSON.
        family: Folder -> report of the other networks of the run.

    Returns:
        What is in `report.json`.
    """
    context.progress.say(f"Evaluating on {len(context.door.test.x):,} test samples")
    told = Told()
    for stage in stages:
        if stage.name in results:
            more = stage.tell(context, results)
            told.rows += more.rows
            told.method |= more.method
            told.document |= more.document
            told.sections += more.sections
    there = [one for one in results.values() if one and one.model is not None]
    dense, last = there[0].model, there[-1].model
    layers = {"dense": layer_costs(dense), "final": layer_costs(last)}
    shown = [
        *relatives_of(told.rows, family or {}),
        bytes_of(told.rows),
        *training_of(results, context.task),
        bars_of(layers),
        *told.sections,
        network_of(layers),
    ]
    document = {
        "config": config,
        "environment": environment(),
        "seed": context.seed,
        "network": dense.name,
        "method": {
            "name": config["method"],
            "history": [],
            "fine_tune_history": [],
            "dense_history": [],
            "trace": {},
            **told.method,
        },
        "dense_cost": dataclasses.asdict(measure(dense)),
        "stages": [dataclasses.asdict(row) for row in told.rows],
        "groups": [],
        "layers": layers,
        "parity": [],
        **told.document,
        "sections": [section.to_json() for section in shown],
    }
    write(document, context.store.workdir)
    context.progress.table(document["stages"])
    context.progress.say(f"The report is {context.store.path('report.html')}")
    return document


def relatives_of(rows, family: Mapping[str, dict]) -> list[draw.Section]:
    """The networks of a family: how good each is, and what it costs. None of a run of one."""
    if not family:
        return []
    last = {"this one": dataclasses.asdict(rows[-1])}
    last |= {label: document["stages"][-1] for label, document in family.items()}
    score = rows[-1].score
    axis = draw.Axis(
        f"test {score.name}",
        format=draw.PERCENT if score.unit == "%" else draw.NUMBER,
    )

    def drawn(name: str, title: str, key: str, format_: str) -> draw.Points:
        points = tuple(
            draw.Point(row[key], row["score"]["value"], label, label == "this one")
            for label, row in last.items()
            if row[key]
        )
        label = key.replace("_", " ")
        return draw.Points(
            title, name, draw.Axis(label, True, format_), axis, points, True
        )

    table = draw.Table(
        "The family",
        (
            draw.Column("folder", draw.TEXT),
            draw.Column(f"test {score.name}", axis.format),
            draw.Column("MACs"),
            draw.Column("parameters"),
            draw.Column("file, B"),
            draw.Column("arena, B"),
        ),
        tuple(
            (label, row["score"]["value"], row["macs"], row["params"], row["file_bytes"],
             row["arena_bytes"])
            for label, row in last.items()
        ),
    )  # fmt: skip
    return [
        drawn("family_macs", "The family: score against MACs", "macs", draw.NUMBER),
        drawn(
            "family_bytes", "The family: score against bytes", "file_bytes", draw.BYTES
        ),
        table,
    ]


def bytes_of(rows: list[records.StageRow]) -> draw.Points:
    """The score of every stage against its bytes."""
    last = {row.name for row in rows[-1:]} | {"tflite_int8"}
    score = rows[-1].score
    shares, name = score.unit == "%", score.name
    return draw.Points(
        f"{name[0].upper()}{name[1:]} against bytes",
        "accuracy_bytes",
        draw.Axis("bytes (int8 weights, or the .tflite file)", True, draw.BYTES),
        draw.Axis(
            f"test {name}{'' if score.higher_is_better else ' (lower is better)'}",
            format=draw.PERCENT if shares else draw.NUMBER,
        ),
        tuple(
            draw.Point(
                # A .keras file holds floats: what its weights take in int8 compares.
                row.file_bytes
                if row.file and row.file.endswith(".tflite") and row.file_bytes
                else row.weight_bytes + row.index_bytes,
                row.score.value,
                row.name.removeprefix("tflite_"),
                row.name in last,
            )
            for row in rows
        ),
    )


def training_of(results: Results, task) -> list[draw.Section]:
    """Losses and the validation score of all training that led to the result."""
    found = [
        one for name, one in results.items() if one and one.history and name != "dense"
    ]
    history: list[Any] = [entry for one in found for entry in one.history]
    if not history or "val_loss" not in history[0]:
        return []
    # A loss that follows another model's answers, too, is of another scale.
    losses = tuple(
        None if one.facts.get("distilled") else entry["loss"]
        for one in found
        for entry in one.history
    )
    epochs = tuple(range(1, len(history) + 1))
    name = task.on_validation.score_name
    lines = [
        draw.Line("train loss", epochs, losses),
        draw.Line(
            "validation loss",
            epochs,
            tuple(entry.get("val_loss") for entry in history),
            dashed=True,
        ),
        draw.Line(
            f"validation {name}",
            epochs,
            tuple(entry.get(f"val_{task.metric}") for entry in history),
            right=True,
        ),
    ]
    marks, start = [], 0
    for one in found:
        marks += [draw.Mark(start + mark.x, mark.text) for mark in penalty_off(one)]
        start += len(one.history)
    return [
        draw.Curves(
            "Training curves",
            "training",
            draw.Axis("epoch"),
            draw.Axis("loss", log=True),
            tuple(lines),
            draw.Axis(
                f"validation {name}",
                format=draw.PERCENT if task.unit == "%" else draw.NUMBER,
            ),
            tuple(marks),
        )
    ]


def penalty_off(result: records.Result) -> tuple[draw.Mark, ...]:
    """Marks the epoch from which the penalty is off; a divergence stays on."""
    settled = result.facts.get("settled")
    if not settled or result.history[-1].get("strength_on", False):
        return ()
    return (draw.Mark(settled, "penalty off"),)


LARGEST = 40
"""So many layers are drawn of a network that has more."""


def _largest(rows: list[dict]) -> list[dict]:
    """Those with the most parameters, in their order."""
    most = sorted(rows, key=lambda row: -row["params"])[:LARGEST]
    names = {row["layer"] for row in most}
    return [row for row in rows if row["layer"] in names]


def _told(rows: list[dict]) -> str:
    """Which layers `_largest` leaves."""
    return (
        "every layer"
        if len(rows) <= LARGEST
        else f"each of the {LARGEST} largest layers"
    )


def bars_of(layers: Mapping[str, list[dict]]) -> draw.Bars:
    """Parameters of each layer, before and after."""
    before = _largest(layers["dense"])
    after = {row["layer"]: row["params"] for row in layers["final"]}
    return draw.Bars(
        "Parameters of every layer, before and after"
        if len(before) == len(layers["dense"])
        else f"The {LARGEST} largest layers",
        "layers",
        draw.Axis("parameters", log=True),
        tuple(row["layer"] for row in before),
        tuple(row["params"] for row in before),
        tuple(after.get(row["layer"], 0) for row in before),
    )


def network_of(
    layers: Mapping[str, list[dict]], title: str = "The network that is left"
) -> draw.Network:
    """The layers that are left, inside what they were."""
    before = {row["layer"]: row for row in layers["dense"]}
    return draw.Network(
        title,
        tuple(
            draw.Width(
                row["layer"],
                row["shape"][-1],
                before.get(row["layer"], row)["shape"][-1],
                row["params"],
            )
            for row in _largest(layers["final"])
        ),
        f"A bar for {_told(layers['final'])}, from input to output; its width grows with the "
        "square root of its units. Dashed: what it started with.",
    )


def environment() -> dict:
    """Versions and machine, so far as they explain a number."""
    packages = (
        "tfsparse",
        "tensorflow",
        "keras",
        "numpy",
        "ai-edge-litert",
        "tflite-micro",
    )
    versions: dict[str, str | None] = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "python": platform.python_version(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "gpus": len(keras.distribution.list_devices("gpu")),
        **versions,
    }


def cells_of(before, after) -> list[draw.Graph]:
    """Each kind of cell of a searched network: what is left, and in grey what went.

    Args:
        before: The untouched network.
        after: The stripped one.

    Returns:
        A drawing for each kind; none of a network without cells.
    """
    found = []
    left = nas.genotypes.found_in(after)
    for kind, nodes in nas.genotypes.found_in(before).items():
        alive = {
            (number, *one)
            for number, node in enumerate(left.get(kind, ()))
            for one in node
        }
        names = ["two cells before", "cell before", *map(str, range(1, len(nodes) + 1))]
        found.append(
            draw.Graph(
                f"What is left of {kind} cells",
                f"cells_{kind}",
                tuple(names[: nas.spaces.INPUTS]),
                tuple(names[nas.spaces.INPUTS :]),
                "out",
                tuple(
                    draw.Arrow(
                        names[source],
                        names[number + nas.spaces.INPUTS],
                        operation,
                        (number, operation, source) in alive,
                    )
                    for number, node in enumerate(nodes)
                    for operation, source in node
                ),
            )
        )
    return found
