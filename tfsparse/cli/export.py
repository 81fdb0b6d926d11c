"""Exports a network for a microcontroller, and checks every file against it."""

from __future__ import annotations

from collections.abc import Sequence

from tfsparse import options, records
from tfsparse.cli import command

USAGE = """Exports a .keras model of stock layers and checks every file against it.

  tfsparse export model.keras folder samples.npy

samples.npy holds inputs (samples, ...), as the model takes them: they set the int8 ranges
and are what the files are compared on."""


@options.record
class FileSettings(options.Options):
    """Which files are made."""

    part = "Files"

    formats: tuple[str, ...] = options.field(
        records.FORMATS, "What to export.", choices=records.FORMATS
    )


def main(arguments: Sequence[str]) -> int:
    """The subcommand."""
    positional = ("model", "folder", "samples")
    return command.run(arguments, USAGE, positional, (FileSettings,), work)


def work(path: str, folder: str, samples_path: str, settings: FileSettings) -> None:
    """Exports the model at `path`, verifies, prints."""
    import numpy as np

    import tfsparse
    from tfsparse import zoo

    model = zoo.load(path)
    samples = np.load(samples_path, allow_pickle=False).astype("float32")
    artifacts = tfsparse.export(model, folder, samples, settings.formats)
    rows = tfsparse.verify(model, artifacts, samples)
    for artifact in artifacts:
        command.say(f"{artifact.path}: {artifact.file_bytes:,} bytes")
    for row in rows:
        arena = f", arena {row.arena_bytes:,} bytes" if row.arena_bytes else ""
        command.say(
            f"{row.artifact}: largest difference {row.max_abs_difference:.3g}{arena}"
        )
