"""Compares every file with what was trained."""

from __future__ import annotations

import dataclasses
import functools

from tfsparse import records
from tfsparse.engine import stage
from tfsparse.engine.stages.export import artifacts_of

PARITY_SAMPLES = 1000

FILES = {
    "tflite_float": "float .tflite on LiteRT",
    "tflite_int8": "full-int8 .tflite on LiteRT",
}


class Verify(stage.Stage):
    """Compares every file with the network, the microcontroller's interpreter included.

    All of it is told at the end, where the test split is open.
    """

    name = "verify"
    inputs = ("export",)

    def run(self, context, before, export=None):
        return records.Result(before.model)

    def tell(self, context, results):
        model = results[self.name].model
        artifacts = artifacts_of(results["export"])
        parity = self._parity(context, model, artifacts)
        files = {a.format: a for a in artifacts}
        return stage.Told(
            self._rows(context, model, files, parity),
            {},
            {"parity": [dataclasses.asdict(row) for row in parity]},
            [_table(parity, context.task)],
        )

    def _parity(self, context, model, artifacts) -> list[records.Parity]:
        """Every file against the network, on samples of the test split."""
        from tfsparse import deploy
        from tfsparse.engine import scoring

        samples = scoring.as_floats(context.door.test.x[:PARITY_SAMPLES])
        rows = list(deploy.verify(model, artifacts, samples))
        if context.task.kind != "classification":  # no output wins over the others
            rows = [dataclasses.replace(row, argmax_agreement=None) for row in rows]
        return rows

    def _rows(self, context, model, files, parity) -> list[records.StageRow]:
        """The files, run on the whole test split."""
        from tfsparse.deploy import interpreters
        from tfsparse.engine import scoring

        def answer(artifact, x):
            return interpreters.run(artifact, x)

        rows = [
            scoring.file_row(
                name,
                what,
                context,
                model,
                files[name],
                functools.partial(answer, files[name]),
            )
            for name, what in FILES.items()
            if name in files
        ]
        arena = next((row.arena_bytes for row in parity if row.artifact == "mcu"), None)
        if arena:
            file = files["tflite_int8"]
            rows.append(
                scoring.file_row(
                    "mcu",
                    "the int8 file on TensorFlow Lite Micro",
                    context,
                    model,
                    file,
                    lambda x: interpreters.run_micro(file.path, [x])[0][0],
                    arena,
                )
            )
        return rows


def _table(parity: list[records.Parity], task) -> records.sections.Table:
    draw = records.sections
    return draw.Table(
        "Does the file compute what was trained?",
        (
            draw.Column("artefact", draw.TEXT),
            draw.Column("samples"),
            draw.Column("largest difference", draw.NUMBER),
            draw.Column("same answer", draw.PERCENT),
            draw.Column("operators and remarks", draw.TEXT),
        ),
        tuple(
            (
                row.artifact,
                row.samples,
                row.max_abs_difference,
                row.argmax_agreement,
                "; ".join(filter(None, [", ".join(row.operators), row.note])),
            )
            for row in parity
        ),
        note="Every artefact against the Keras model that it was made of, mcu against "
        f"LiteRT. Outputs are {_outputs(task)}.",
    )


def _outputs(task) -> str:
    if task.kind in ("regression", "reconstruction"):
        return f"numbers{f' ({task.unit})' if task.unit else ''}"
    return "probabilities" if task.probabilities else "logits"
