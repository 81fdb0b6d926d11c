"""Exports a network for a microcontroller, and checks every file against it."""

from __future__ import annotations

import dataclasses
import os
import zipfile
from collections.abc import Sequence

from tfsparse import options, records
from tfsparse.cli import command

USAGE = """Exports a .keras model of stock layers and checks every file against it.

  tfsparse export model.keras folder samples.npy
  tfsparse export model.keras folder samples.npy --labels=labels.npy --compress=auto
  tfsparse export model.keras folder samples.npy --quantise=int16x8 --tolerance=0.5

samples.npy holds inputs (samples, ...), as the model takes them: some of them set the int8
ranges, and the files are compared on all. Of a model of several inputs samples.npz holds one
array for each, by its name. labels.npy holds the class of each sample, a whole number."""


COMPARED = 256
"""Samples on which float and int8 are compared, tensor by tensor."""


@options.record
class FileSettings(options.Options):
    """Which files are made."""

    part = "Files"

    formats: tuple[str, ...] = options.field(
        records.FORMATS,
        "What to export. For tflite_int8 stands whatever --quantise says.",
        choices=records.EVERY_FORMAT,
    )
    quantise: str = options.field(
        "int8",
        "Numbers of the small file: int8; int16x8, finer activations; float16 or dynamic, "
        "which no microcontroller interpreter runs; none for a float file alone.",
        choices=(*records.QUANTISED, "none"),
    )
    compress: str = options.field(
        "none",
        "Pack weights in one more file, which TensorFlow Lite Micro alone runs: zeros, "
        "clusters, or auto for what is smallest for each layer.",
        choices=records.PACKINGS,
    )
    calibration_samples: int = options.field(
        512, "Samples that set the int8 ranges, as many of each class.", low=1
    )
    seed: int = options.field(
        0, "Decides which samples set the ranges.", low=0, below=2**32
    )
    labels: str = options.field("", "A .npy file of classes; empty for none.")
    tolerance: float = options.field(
        1.0,
        "What a file may lose against the model, beyond chance: points of accuracy with "
        "--labels; else percent of samples whose answer changes, or of the outputs' spread. "
        "Beyond it the exit code is 1.",
        low=0,
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


def work(path: str, folder: str, samples_path: str, settings: FileSettings) -> dict:
    """Exports the model at `path`, verifies, prints.

    Raises:
        ParityError: A file does worse than --tolerance allows.
    """
    import tfsparse
    from tfsparse import zoo
    from tfsparse.deploy import agreement, shipping

    formats = records.formats_of(settings.formats, settings.quantise)
    records.check_packing(settings.compress, formats)
    _check_folder(path, folder, formats)
    model = shipping.shipped(zoo.load(path), settings.length or None)
    arrays = _checked(model, _samples(samples_path))
    labels = None
    if settings.labels:
        labels = _labels(settings.labels, len(arrays[0]))
        _check_classes(model, labels)
    chosen = agreement.balanced(
        len(arrays[0]), labels, settings.calibration_samples, settings.seed
    )
    calibration = [array[chosen] for array in arrays]
    artifacts = tfsparse.export(
        model, folder, calibration, formats, compress=settings.compress, proof=arrays
    )
    for artifact in artifacts:
        command.say(f"{artifact.path}: {artifact.file_bytes:,} bytes{_saved(artifact)}")
    rows, changes = agreement.judged(model, artifacts, arrays, labels)
    for row in rows:
        command.say(_told(row, changes.get(row.artifact)))
    if f"tflite_{settings.quantise}" in records.WHOLE:
        _say_noise(model, calibration, arrays, settings.quantise)
    result = {
        "files": {one.path: one.file_bytes for one in artifacts},
        "parity": [dataclasses.asdict(row) for row in rows],
        "changes": {name: dataclasses.asdict(one) for name, one in changes.items()},
    }
    noisy = {row.artifact: row.decibels for row in rows}
    try:
        agreement.check(changes, noisy, settings.tolerance)
    except records.ParityError as error:
        error.result = result
        raise
    return result


def _check_folder(path: str, folder: str, formats) -> None:
    """Checks that the model itself would not be replaced.

    Raises:
        ValueError: It would.
    """
    from tfsparse.deploy.export import FILES

    made = os.path.join(folder, FILES["keras"])
    if "keras" in formats and os.path.exists(made) and os.path.samefile(made, path):
        raise ValueError(
            f"`folder` must be another one than the model's own, which {made!r} would "
            f"replace. Received: {folder!r}."
        )


def _say_noise(model, calibration, arrays, kind: str) -> None:
    """The noisiest tensors of the int8 file, and what to do about them."""
    from tfsparse.deploy import noise

    few = [array[:COMPARED] for array in arrays]
    for one in noise.worst(noise.noise(model, calibration, few, kind)):
        command.say(
            f"{one.layer} ({one.what}): signal to noise {one.decibels:.1f} dB; "
            f"{one.remedy()}"
        )


def _told(row: records.Parity, change) -> str:
    """A line about a file."""
    if not row.samples:
        return f"{row.artifact}: {row.note}"
    parts = [f"largest difference {row.max_abs_difference:.3g}"]
    if row.output_steps is not None:
        parts.append(f"{row.output_steps:.1f} steps of its output")
    if row.argmax_agreement is not None:
        parts.append(f"same answer on {row.argmax_agreement:.2%} of {row.samples:,}")
    if change is not None:
        parts.append(change.told())
    if row.arena_bytes:
        parts.append(f"arena {row.arena_bytes:,} bytes")
    if row.note:
        parts.append(row.note)
    return f"{row.artifact}: {', '.join(parts)}"


def _saved(artifact: records.Artifact) -> str:
    """What a TFLite file would have taken."""
    facts = artifact.facts
    if "plain_arena_bytes" in facts:
        from tfsparse.deploy import packing

        added = facts["arena_bytes"] - facts["plain_arena_bytes"]
        if not packing.unpacks(facts["kernels"]):
            return "; for TensorFlow Lite Micro alone; no layer gains by being packed"
        return (
            f"; for TensorFlow Lite Micro alone, with AddDecode() in its resolver; "
            f"{added:,} bytes of memory more"
        )
    if facts.get("converted_bytes", 0) > artifact.file_bytes:
        return f" ({facts['converted_bytes']:,} as converted)"
    return ""


def _checked(model, samples):
    """Arrays for the inputs of a model, finite and some.

    Raises:
        ValueError: They are not.
    """
    import numpy as np

    from tfsparse.deploy import shipping

    try:
        arrays = shipping.arrays_of(model, samples)
    except ValueError as error:
        raise ValueError(f"`samples`: {error}") from error
    if not len(arrays[0]):
        raise ValueError("`samples` must hold some. Received: none.")
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError("`samples` must be finite. Received: nan or inf.")
    return arrays


def _labels(path: str, count: int):
    """The classes of samples.

    Raises:
        ValueError: They are no whole numbers, or not as many as samples.
    """
    import numpy as np

    labels = np.asarray(_read(path, "labels"))
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or len(labels) != count or labels.dtype.kind not in "iub":
        raise ValueError(
            f"`labels` must hold a whole number for each of {count} samples. Received: "
            f"{labels.dtype} of shape {labels.shape}."
        )
    return labels


def _check_classes(model, labels) -> None:
    """Checks that a model tells the classes that labels name.

    Raises:
        ValueError: It has no output that does, or another number of classes.
    """
    from tfsparse.graph import trace

    shapes = [tuple(tensor.shape) for tensor in trace.read(model).outputs]
    if len(shapes) != 1 or len(shapes[0]) != 2:
        raise ValueError(
            "`labels` must belong to a model of one output, a number a class. Received: "
            f"outputs {shapes}; without labels its own answers count as right."
        )
    classes = max(2, shapes[0][1])
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"`labels` must lie within 0 and {classes - 1}, as the model's output says. "
            f"Received: {labels.min()} to {labels.max()}."
        )


def _samples(path: str):
    """The arrays of a file: one, or a dict of them."""
    found = _read(path, "samples")
    if not hasattr(found, "files"):
        return found
    try:
        arrays = {name: found[name] for name in found.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"`samples` must be a whole file of numbers. Received: {path!r}, which says: "
            f"{' '.join(str(error).split())[:120]}"
        ) from error
    if not arrays:
        raise ValueError(
            f"`samples` must hold arrays. Received: {path!r}, without any."
        )
    return next(iter(arrays.values())) if len(arrays) == 1 else arrays


def _read(path: str, what: str):
    """What a file of arrays holds.

    Raises:
        ValueError: It is missing, or holds no arrays.
    """
    import numpy as np

    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"`{what}` must be a .npy or .npz file of numbers. Received: {path!r}, which "
            f"says: {' '.join(str(error).split())[:120]}"
        ) from error
