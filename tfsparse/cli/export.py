"""Exports a network for a microcontroller, and checks every file against it."""

from __future__ import annotations

from collections.abc import Sequence

from tfsparse import options, records
from tfsparse.cli import command

USAGE = """Exports a .keras model of stock layers and checks every file against it.

  tfsparse export model.keras folder samples.npy

samples.npy holds inputs (samples, ...), as the model takes them: they set the int8 ranges
and are what the files are compared on. Of a model of several inputs samples.npz holds one
array for each, by its name."""


@options.record
class FileSettings(options.Options):
    """Which files are made."""

    part = "Files"

    formats: tuple[str, ...] = options.field(
        records.FORMATS, "What to export.", choices=records.FORMATS
    )
    length: int = options.field(
        0,
        "Size of the open axes of the model's inputs, such as the steps of a series; 0 where "
        "all sizes are known.",
        low=0,
    )


def main(arguments: Sequence[str]) -> int:
    """The subcommand."""
    positional = ("model", "folder", "samples")
    return command.run(arguments, USAGE, positional, (FileSettings,), work)


def work(path: str, folder: str, samples_path: str, settings: FileSettings) -> None:
    """Exports the model at `path`, verifies, prints."""
    import tfsparse
    from tfsparse import zoo

    model = zoo.load(path)
    samples = _samples(samples_path)
    length = settings.length or None
    artifacts = tfsparse.export(model, folder, samples, settings.formats, length=length)
    rows = tfsparse.verify(model, artifacts, samples)
    for artifact in artifacts:
        command.say(f"{artifact.path}: {artifact.file_bytes:,} bytes")
    for row in rows:
        arena = f", arena {row.arena_bytes:,} bytes" if row.arena_bytes else ""
        command.say(
            f"{row.artifact}: largest difference {row.max_abs_difference:.3g}{arena}"
        )


def _samples(path: str):
    """The arrays of a file: one, or a dict of them.

    Raises:
        ValueError: It is missing, or holds no arrays.
    """
    import numpy as np

    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"`samples` must be a .npy or .npz file of numbers. Received: {path!r}, which "
            f"says: {' '.join(str(error).split())[:120]}"
        ) from error
    if not hasattr(found, "files"):
        return found
    arrays = {name: found[name] for name in found.files}
    return next(iter(arrays.values())) if len(arrays) == 1 else arrays
