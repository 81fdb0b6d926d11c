"""The files that ship."""

from __future__ import annotations

import dataclasses
from typing import Any

from tfsparse import options, records
from tfsparse.engine import stage

MANY_ZEROS = 0.1
"""Share of zeros in the shipped network from which they get a section."""

ENCODINGS = {
    "dense": "every number, as TFLite has it",
    "bitmap": "a bit for every number, then those that are not zero",
    "relative": "a byte for the gap before each number that is not zero",
    "csr": "compressed sparse rows",
}


@options.record
class ExportSettings(options.Options):
    """Which files are made, and how."""

    part = "The export stage: the files that ship"

    formats: tuple[str, ...] = options.field(
        records.FORMATS, "What to export.", choices=records.FORMATS
    )
    calibration_samples: int = options.field(
        512, "Training samples that set the int8 ranges.", low=1
    )

    def check(self) -> None:
        """Checks that something is exported."""
        if not self.formats:
            raise ValueError(
                f"`formats` must be among {', '.join(records.FORMATS)}. Received: none."
            )


class Export(stage.Stage):
    """Exports the network. Its fact is `artifacts`, one entry a file."""

    name = "export"
    settings_class = ExportSettings

    def run(self, context, before, **inputs):
        from tfsparse import deploy

        context.progress.say("Exporting " + ", ".join(self.settings.formats))
        samples, _ = context.training_samples(self.settings.calibration_samples)
        made = deploy.export(
            before.model,
            context.store.workdir,
            samples,
            self.settings.formats,
            _beside(context),
        )
        facts = {"artifacts": [dataclasses.asdict(artifact) for artifact in made]}
        return records.Result(before.model, facts=facts)

    def tell(self, context, results):
        from tfsparse import deploy
        from tfsparse.graph import measure

        model = results[self.name].model
        stored, cost = deploy.stored_bytes(model), measure(model)
        sections = []
        if cost.nonzero < (1 - MANY_ZEROS) * cost.params:
            draw = records.sections
            sections.append(
                draw.Table(
                    "If zeros were not stored",
                    (
                        draw.Column("encoding of the int8 kernels", draw.TEXT),
                        draw.Column("bytes"),
                        draw.Column("times smaller", draw.NUMBER),
                    ),
                    tuple(
                        (ENCODINGS[name], size, stored["dense"] / size)
                        for name, size in stored.items()
                    ),
                    before="TFLite stores and multiplies a zero as any other number: single "
                    "zeros make its file no smaller and no faster. A runtime that skips "
                    "them would need these bytes for the kernels.",
                )
            )
        return stage.Told(document={"encodings": stored}, sections=sections)


def _beside(context) -> dict[str, Any]:
    """What firmware has to know of the data: names, and how samples are made."""
    dataset, task = context.dataset, context.task
    found: dict[str, Any] = {
        "columns": list(dataset.columns),
        "outputs": list(task.names),
        "front_end": dataset.front_end and dict(dataset.front_end),
    }
    return {key: value for key, value in found.items() if value}


def artifacts_of(result: records.Result) -> tuple[records.Artifact, ...]:
    """The files that an export stage made."""
    return tuple(records.Artifact(**entry) for entry in result.facts["artifacts"])
