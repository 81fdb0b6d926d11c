"""The files that ship."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any

from tfsparse import options, records
from tfsparse.engine import stage

MANY_ZEROS = 0.1
"""Share of zeros in the shipped network from which they get a section."""

EXACT = 100.0
"""Decibels from which a tensor is what it was, to float rounding; it is not drawn."""

COMPARED = 256
"""Validation samples on which float and int8 are compared, tensor by tensor."""

ENCODINGS = {
    "dense": "every number, as TFLite has it",
    "bitmap": "a bit for every number, then those that are not zero",
    "relative": "a byte for the gap before each number that is not zero",
    "csr": "compressed sparse rows",
}

PACKINGS = {
    "none": "as it is",
    "zeros": "a bit a number, then those that are not zero",
    "clusters": "a table, and bits a number",
}


@options.record
class ExportSettings(options.Options):
    """Which files are made, and how."""

    part = "The export stage: the files that ship"

    formats: tuple[str, ...] = options.field(
        records.FORMATS,
        "What to export. For tflite_int8 stands whatever --quantise says.",
        choices=records.EVERY_FORMAT,
    )
    calibration_samples: int = options.field(
        512,
        "Training samples that set the int8 ranges, as many of each class.",
        low=1,
    )
    compress: str = options.field(
        "none",
        "Pack weights in one more file, which TensorFlow Lite Micro alone runs: zeros as a "
        "bit each, clusters of few different weights as 1 to 7 bits each, auto whatever is "
        "smallest for each layer. It saves flash and takes memory; both are told. A target "
        "of file_bytes or arena_bytes means that file.",
        choices=records.PACKINGS,
    )

    def check(self) -> None:
        """Checks that something is exported."""
        if not self.formats:
            raise ValueError(
                f"`formats` must be among {', '.join(records.EVERY_FORMAT)}. Received: none."
            )


class Export(stage.Stage):
    """Exports the network. Its facts are `artifacts`, one entry a file, and `noise`."""

    name = "export"
    settings_class = ExportSettings
    inputs = ("quantise", "sparse", "rank")

    def check(self, stages):
        formats = self.formats(_kind(stages.get("quantise")))
        records.check_packing(self.settings.compress, formats)

    def rehearse(self, context, model):
        from tfsparse.deploy import packing

        if self.settings.compress != "none":
            packing.check_installed()

    def formats(self, kind: str) -> tuple[str, ...]:
        """What is exported where the numbers of the small file are of a kind."""
        return records.formats_of(self.settings.formats, kind)

    def run(self, context, before, quantise=None, sparse=None, rank=None):
        from tfsparse import deploy
        from tfsparse.deploy import noise, shipping
        from tfsparse.engine import scoring

        kind = quantise.facts["kind"] if quantise else "int8"
        decided = [one.facts.get("bounds") for one in (sparse, rank) if one]
        bounds = next(filter(None, decided), {})
        formats = self.formats(kind)
        context.progress.say("Exporting " + ", ".join(formats))
        samples = context.calibration_samples(self.settings.calibration_samples)
        few = scoring.some(context.dataset.x_validation, COMPARED)
        proof = None
        if self.settings.compress != "none":
            proof = scoring.some(context.dataset.x_validation)
        made = deploy.export(
            before.model,
            context.store.workdir,
            samples,
            formats,
            _beside(context),
            compress=self.settings.compress,
            proof=proof,
            arena_limit=bounds.get("arena_bytes"),
        )
        facts: dict[str, Any] = {
            "artifacts": [dataclasses.asdict(artifact) for artifact in made],
            "calibration": {"samples": len(samples), "seed": context.seed},
        }
        if f"tflite_{kind}" in formats and kind in records.ON_MICRO:
            found = noise.noise(
                (shipped := shipping.shipped(before.model)),
                shipping.arrays_of(shipped, samples),
                shipping.arrays_of(shipped, few),
                kind,
            )
            facts["noise"] = [
                dataclasses.asdict(one) | {"remedy": one.remedy()} for one in found
            ]
        return records.Result(before.model, facts=facts)

    def tell(self, context, results):
        result = results[self.name]
        document, sections = _zeros(result.model)
        for entry in result.facts["artifacts"]:
            if kernels := entry["facts"].get("kernels"):
                sections.append(_packed(entry, result.facts["artifacts"], kernels))
        if found := result.facts.get("noise"):
            document["noise"] = found
            document["calibration"] = result.facts["calibration"]
            sections += _noise(found, result.facts["calibration"])
        return stage.Told(document=document, sections=sections)


def _kind(quantise) -> str:
    """Of the small file, by the settings of another stage, which may be missing."""
    return getattr(getattr(quantise, "settings", None), "kind", "int8")


def _zeros(model) -> tuple[dict[str, Any], list[records.sections.Section]]:
    """What single zeros would save, if something skipped them."""
    from tfsparse import deploy
    from tfsparse.graph import measure

    stored, cost = deploy.stored_bytes(model), measure(model)
    document: dict[str, Any] = {"encodings": stored}
    if cost.nonzero >= (1 - MANY_ZEROS) * cost.params:
        return document, []
    draw = records.sections
    return document, [
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
            before="A plain TFLite file stores and multiplies a zero as any other number: "
            "single zeros make it no smaller and no faster. --compress=auto writes a file "
            "that stores them as bits; a runtime that skips them would need these bytes.",
        )
    ]


def _packed(entry, artifacts, kernels) -> records.sections.Section:
    """What the compressed file saves, and what it costs."""
    draw, facts = records.sections, entry["facts"]
    plain = artifacts[artifacts.index(entry) - 1]
    saved = plain["file_bytes"] - entry["file_bytes"]
    added = facts["arena_bytes"] - facts["plain_arena_bytes"]
    layers = [row["encoding"] for row in kernels]
    unpacks = any(one != "none" for one in layers)
    resolver = ", with AddDecode() in the resolver" if unpacks else ""
    return draw.Table(
        "Weights packed in flash",
        (
            draw.Column("layer", draw.TEXT),
            draw.Column("weights"),
            draw.Column("zeros", draw.PERCENT),
            draw.Column("different ones"),
            draw.Column("stored as", draw.TEXT),
            draw.Column("bits"),
            draw.Column("bytes before"),
            draw.Column("bytes after"),
        ),
        tuple(
            (
                row["layer"], math.prod(row["shape"]), row["zeros"], row["values"],
                PACKINGS[row["encoding"]], row["bits"], row["before"], row["after"],
            )
            for row in kernels
        ),
        before=f"The compressed file has {entry['file_bytes']:,} bytes, the plain one "
        f"{plain['file_bytes']:,}: {saved:,} bytes of flash are saved, and {added:,} bytes of "
        f"working memory are added, as weights unpack there ({facts['arena_bytes']:,} instead "
        f"of {facts['plain_arena_bytes']:,}). {layers.count('none')} of {len(layers)} layers "
        "stay as they are: they would not gain, or memory is short.",
        note=f"It runs on TensorFlow Lite Micro alone{resolver}; its "
        f"answers were bit-equal to the plain file's on {facts['proven_on']:,} validation "
        f"samples. Packing and its proof took {facts['seconds']:.2g} s.",
    )  # fmt: skip


def _noise(found, calibration) -> list[records.sections.Section]:
    """Signal to noise of every tensor, as a table and a plot."""
    draw = records.sections
    shown = [row for row in found if row["decibels"] is not None]
    worst = sorted(shown, key=lambda row: row["decibels"])[:3]
    table = draw.Table(
        "What int8 does to each tensor",
        (
            draw.Column("layer", draw.TEXT),
            draw.Column("tensor", draw.TEXT),
            draw.Column("signal to noise, dB", draw.NUMBER),
            draw.Column("smallest", draw.NUMBER),
            draw.Column("largest", draw.NUMBER),
            draw.Column("beyond", draw.PERCENT),
        ),
        tuple(
            (
                row["layer"], row["what"], row["decibels"], row["low"], row["high"],
                row["clipped"],
            )
            for row in found
        ),
        before=f"Ranges were set by {calibration['samples']:,} training samples (seed "
        f"{calibration['seed']}); values of validation samples beyond them are clipped. "
        "20 dB are an error of 10 %, 40 dB of 1 %.",
        note=_remedies(worst),
    )  # fmt: skip
    points = tuple(
        draw.Point(number, row["decibels"], row["layer"], row in worst)
        for number, row in enumerate(shown, 1)
        if row["what"] == "activations" and row["decibels"] < EXACT
    )
    if not points:
        return [table]
    return [
        table,
        draw.Points(
            "Signal to noise of int8, from input to output",
            "noise",
            draw.Axis("tensor"),
            draw.Axis("dB"),
            points,
            joined=True,
        ),
    ]


def _remedies(worst) -> str:
    """What to do about the noisiest tensors."""
    from tfsparse.deploy.noise import QUIET

    loud = [row for row in worst if row["decibels"] < QUIET]
    if not loud:
        return "No tensor is noisy: an error of 3 % or less in each."
    told = "; ".join(f"{r['layer']} ({r['what']}): {r['remedy']}" for r in loud)
    return f"The noisiest: {told}."


def _beside(context) -> dict[str, Any]:
    """What firmware has to know of the data: names, and how samples are made."""
    dataset, task = context.dataset, context.task
    found: dict[str, Any] = {
        "columns": list(dataset.columns),
        "outputs": list(task.names),
        "front_end": dataset.front_end and dict(dataset.front_end),
    }
    return {key: value for key, value in found.items() if value}


def with_file(row: records.StageRow, results) -> records.StageRow:
    """The row of the network that ships, with its `.keras`."""
    if results.get("export"):
        for file in artifacts_of(results["export"]):
            if file.format == "keras":
                name = os.path.basename(file.path)
                return dataclasses.replace(row, file=name, file_bytes=file.file_bytes)
    return row


def artifacts_of(result: records.Result) -> tuple[records.Artifact, ...]:
    """The files that an export stage made."""
    return tuple(records.Artifact(**entry) for entry in result.facts["artifacts"])
