"""Compares every file with what was trained, on the whole test split."""

from __future__ import annotations

import collections
import dataclasses

import numpy as np

from tfsparse import options, records
from tfsparse.engine import stage
from tfsparse.engine.stages.export import artifacts_of

FILES = {
    "tflite_float": "float .tflite on LiteRT",
    "tflite_int8": "full-int8 .tflite on LiteRT",
    "tflite_int16x8": "int8 weights, int16 activations, on LiteRT",
    "tflite_float16": "float16 weights on LiteRT",
    "tflite_dynamic": "int8 weights, float activations, on LiteRT",
    "tflite_compressed": "the compressed file on TensorFlow Lite Micro",
}


@options.record
class VerifySettings(options.Options):
    """What a file may lose."""

    part = "The verify stage: what a file may lose"

    tolerance: float = options.field(
        1.0,
        "What a shipped file may lose against the float network on the test split, beyond "
        "chance: points of accuracy, or percent of the spread of numbers. Beyond it the "
        "program ends with exit code 1, after all files and the report are written.",
        low=0,
        location=True,
    )


class Verify(stage.Stage):
    """Compares every file with the network, the microcontroller's interpreter included.

    All of it is told at the end, where the test split is open.
    """

    name = "verify"
    settings_class = VerifySettings
    inputs = ("export",)

    def run(self, context, before, export=None):
        return records.Result(before.model)

    def tell(self, context, results):
        model = results[self.name].model
        artifacts = artifacts_of(results["export"])
        parity, reduced = _compared(context, model, artifacts)
        changes = _changes(context, reduced)
        sections = [_table(parity, changes, context.task), *_classes(context, reduced)]
        return stage.Told(
            _rows(context, model, artifacts, parity, reduced),
            {},
            {
                "parity": [dataclasses.asdict(row) for row in parity],
                "changes": {k: dataclasses.asdict(v) for k, v in changes.items()},
                "tolerance": self.settings.tolerance,
            },
            sections,
        )


def check(report: dict, tolerance: float) -> None:
    """Checks what a finished run says of its files.

    Args:
        report: What is in `report.json`.
        tolerance: What may be lost.

    Raises:
        ParityError: A file does worse than --tolerance allows.
    """
    from tfsparse.deploy import agreement

    changes = {k: agreement.Change(**v) for k, v in report.get("changes", {}).items()}
    if changes:
        # On validation: a test split may hold what is unlike all training, on purpose.
        ends = [row for row in report.get("noise", []) if row["layer"] == "output"]
        least = min(
            (r["decibels"] for r in ends if r["decibels"] is not None), default=None
        )
        names = [row["artifact"] for row in report["parity"]]
        small = [name for name in records.WHOLE if name in names]
        try:
            agreement.check(changes, dict.fromkeys(small[:1], least), tolerance)
        except records.ParityError as error:
            error.result = report
            raise


def _compared(context, model, artifacts):
    """Every file against the network: parity, and what scores need of outputs, by row."""
    from tfsparse.deploy.verify import MODEL, compare
    from tfsparse.engine import scoring

    task, x = context.task, context.door.test.x
    parts: dict[str, list[np.ndarray]] = collections.defaultdict(list)

    def seen(name, outputs, arrays):
        parts[name].append(task.reduced(outputs[0], arrays[0]))

    step = scoring.PART_SAMPLES
    samples = ([scoring.as_floats(x[i : i + step])] for i in range(0, len(x), step))
    rows = list(compare(model, artifacts, samples, seen))
    if task.kind != "classification":  # no output wins over the others
        rows = [dataclasses.replace(row, argmax_agreement=None) for row in rows]
    # What failed on some samples has no score.
    whole = {row.artifact for row in rows if row.samples == len(x)} | {MODEL}
    reduced = {name: np.concatenate(found) for name, found in parts.items()}
    return rows, {name: own for name, own in reduced.items() if name in whole}


def _rows(context, model, artifacts, parity, reduced) -> list[records.StageRow]:
    """The files, run on the whole test split."""
    from tfsparse.deploy.verify import MICRO
    from tfsparse.engine import scoring

    told = {row.artifact: row for row in parity}
    rows = []
    for artifact in artifacts:
        what = FILES.get(artifact.format)
        if what and artifact.format in reduced:
            rows.append((artifact.format, what, artifact))
    whole = [artifact for artifact in artifacts if artifact.format in records.WHOLE]
    for number, artifact in enumerate(whole):
        kind = artifact.format.removeprefix("tflite_")
        name = f"{MICRO}_{kind}" if number else MICRO
        if name in reduced:
            what = f"the {kind} file on TensorFlow Lite Micro"
            place = [row[2].format for row in rows].index(artifact.format) + 1
            rows.insert(place, (name, what, artifact))
    return [
        scoring.file_row(
            name,
            what,
            context,
            model,
            artifact,
            reduced[name],
            told[name].seconds,
            told[name].arena_bytes,
        )
        for name, what, artifact in rows
    ]


def _changes(context, reduced) -> dict:
    """How much better or worse each file does than the network, and how sure that is."""
    from tfsparse.deploy.agreement import Change
    from tfsparse.deploy.verify import MODEL

    task, y = context.task, context.door.test.y
    found = {name: task.goodness(own, y) for name, own in reduced.items()}
    if task.anomalies:  # those lie beyond all ranges, on purpose
        found = {name: own[np.asarray(y) == 0] for name, own in found.items()}
    before = found.pop(MODEL)
    shares = task.sorts or task.kind == "multilabel"
    return {name: Change.of(before, after, shares) for name, after in found.items()}


def _table(parity, changes, task) -> records.sections.Table:
    draw = records.sections
    unit = next((change.unit for change in changes.values()), "points")
    return draw.Table(
        "Does the file compute what was trained?",
        (
            draw.Column("artefact", draw.TEXT),
            draw.Column("samples"),
            draw.Column("largest difference", draw.NUMBER),
            draw.Column("steps of int8", draw.NUMBER),
            draw.Column("same answer", draw.PERCENT),
            draw.Column(f"better by, {unit}", draw.TEXT),
            draw.Column("operators and remarks", draw.TEXT),
        ),
        tuple(
            (
                row.artifact,
                row.samples,
                row.max_abs_difference,
                row.output_steps,
                row.argmax_agreement,
                _interval(changes.get(row.artifact)),
                "; ".join(filter(None, [", ".join(row.operators), row.note])),
            )
            for row in parity
        ),
        note="Every artefact against the Keras model that it was made of, mcu against "
        "LiteRT, a compressed file against the plain one; on the whole test split. 95 of 100 "
        f"such intervals hold the true change. Outputs are {_outputs(task)}.",
    )


def _interval(change) -> str | None:
    return change and f"{change.gain:+.2f} +- {change.half:.2f}"


def _classes(context, reduced) -> list[records.sections.Section]:
    """The share of each class's samples that each file gets right."""
    from tfsparse.deploy.verify import MODEL

    task, y = context.task, context.door.test.y
    if not task.sorts or y is None:
        return []
    draw, labels = records.sections, np.asarray(y).reshape(-1)
    right = {name: task.goodness(own, y) for name, own in reduced.items()}
    names = [MODEL, *(name for name in right if name not in (MODEL, "keras"))]
    classes = task.names if len(task.names) > 1 else ("no", "yes")
    return [
        draw.Table(
            "Right answers, class by class",
            (
                draw.Column("class", draw.TEXT),
                draw.Column("samples"),
                *(
                    draw.Column(
                        "float network" if name == MODEL else name, draw.PERCENT
                    )
                    for name in names
                ),
            ),
            tuple(
                (
                    str(label),
                    int((labels == number).sum()),
                    *(float(right[name][labels == number].mean()) for name in names),
                )
                for number, label in enumerate(classes)
                if (labels == number).any()
            ),
        )
    ]


def _outputs(task) -> str:
    if task.kind in ("regression", "reconstruction"):
        return f"numbers{f' ({task.unit})' if task.unit else ''}"
    return "probabilities" if task.probabilities else "logits"
