"""Writes what ships: .keras, SavedModel, float and full-int8 TFLite."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np

from tfsparse import files, records
from tfsparse.children import process
from tfsparse.children.process import CONVERTER, ChildError
from tfsparse.deploy import front, interpreters, rewritten, shipping
from tfsparse.graph import trace
from tfsparse.records import FORMATS

FILES = {
    "keras": "model.keras",
    "saved_model": "saved_model",
    "tflite_float": "model_float.tflite",
    "tflite_int8": "model_int8.tflite",
}


SECONDS = 1800.0
"""How long a conversion may take."""


def export(
    model,
    directory: str,
    calibration_data,
    formats: Iterable[str] = FORMATS,
    beside: Mapping[str, Any] | None = None,
    length: int | None = None,
) -> tuple[records.Artifact, ...]:
    """Exports a model; each file appears whole or not at all.

    The int8 file takes and gives int8, holds builtin int8 operators only, and its
    batch is 1: what a microcontroller runs. Inputs and outputs of several are named
    input_0, input_1, ... and output_0, ... in the order of the model. What acts in
    training alone (dropout, augmentation) and half precision do not ship.

    Args:
        model: A built Keras model of stock layers.
        directory: Where to; made if it is missing.
        calibration_data: Inputs that set the int8 ranges, 100 to 1000 training samples: an
            array `(samples, ...)`, a list or dict of them, a `tf.data.Dataset`, a
            generator, or the generator function that TFLite's converter takes.
        formats: Some of `keras`, `saved_model`, `tflite_float`, `tflite_int8`.
        beside: What else firmware has to know, such as names of columns and classes: it is
            written beside the int8 file as JSON.
        length: The size of open axes of inputs, such as the steps of a series.

    Returns:
        One `Artifact` a format, in the order of `formats`.

    Raises:
        ValueError: An unknown format, no calibration data or such as do not fit, open
            axes without a `length`, or a layer that int8 TFLite cannot express.

    Example:
        >>> artifacts = export(small, "out", x_train[:256])
    """
    formats = (formats,) if isinstance(formats, str) else tuple(formats)
    unknown = set(formats) - set(FORMATS)
    if unknown or not formats:
        raise ValueError(f"`formats` must be among {FORMATS}. Received: {formats}.")
    model = shipping.shipped(model, length)
    if any(name.startswith("tflite") for name in formats):
        shipping.check_sized(model)
    data = None
    if "tflite_int8" in formats:
        data = _calibration(model, calibration_data)
    if os.path.exists(directory) and not os.path.isdir(directory):
        raise ValueError(
            f"`directory` must be a folder. Received: {directory!r}, a file."
        )
    os.makedirs(directory, exist_ok=True)
    writers: dict[str, Callable[[str], None]] = {
        "keras": lambda path: model.save(path),
        "saved_model": lambda path: _save_saved_model(model, path),
        "tflite_float": lambda path: _write(path, convert(model)),
        "tflite_int8": lambda path: _write_int8(path, model, data, directory, beside),
    }
    artifacts = []
    for name in formats:
        path = os.path.join(directory, FILES[name])
        with files.appears_whole(path) as temporary:
            writers[name](temporary)
        artifacts.append(records.Artifact(name, path, files.size_of(path)))
    return tuple(artifacts)


def _calibration(model, given) -> list[np.ndarray]:
    try:
        data = None if given is None else shipping.arrays_of(model, given)
    except ValueError as error:
        raise ValueError(f"`calibration_data`: {error}") from error
    if data is not None and not all(np.isfinite(array).all() for array in data):
        raise ValueError(
            "`calibration_data` must be finite, as it sets the int8 ranges. Received: nan or "
            "inf."
        )
    if data is None or not len(data[0]):
        raise ValueError(
            "`calibration_data` must hold samples to make tflite_int8. Received: none."
        )
    return data


def convert(model, calibration_data: list[np.ndarray] | None = None) -> bytes:
    """A TFLite flatbuffer of the model: float, or full int8 if given data.

    The int8 file takes normalised columns where `front.cut` says so.

    Args:
        model: A model whose sizes are known, see `shipping.shipped`.
        calibration_data: One array an input.

    Raises:
        ValueError: An operator has no builtin (int8) form, or the converter crashes on it.
    """
    kind = "float" if calibration_data is None else "int8"
    around = front.Front()
    if calibration_data is not None:
        model, around = front.cut(model)
    model = rewritten.rewritten(model, calibration_data is not None)
    with tempfile.TemporaryDirectory() as folder:
        saved, samples, out = (
            os.path.join(folder, name)
            for name in ("saved", "x.npz", FILES[f"tflite_{kind}"])
        )
        request: dict[str, Any] = {
            "saved_model": saved,
            "calibration": None,
            "out": out,
        }
        request["inputs"] = _save_for_converter(model, saved)
        if calibration_data is not None:
            request["calibration"] = samples
            data = [around.inputs(array) for array in calibration_data]
            process.write_arrays(samples, data)
        words = f"`model` must be expressible in builtin {kind} TFLite operators."
        try:
            reply = CONVERTER.ask(request, SECONDS)
        except ChildError as error:
            raise ValueError(
                f"{words} Received: {model.name!r}, on which the converter ended: "
                f"{error.why}.{_advice(model)}"
            ) from error
        if "error" in reply:
            raise ValueError(
                f"{words} Received: {_refused(reply['error'], model)}{_advice(model)}"
            )
        if calibration_data is not None:
            interpreters.check_file(out)
        with open(out, "rb") as file:
            return file.read()


def names_of(what: str, count: int) -> list[str]:
    """How the inputs or outputs of a TFLite file are called, in the model's order."""
    return [what] if count == 1 else [f"{what}_{number}" for number in range(count)]


def _save_for_converter(model, path: str) -> list[str]:
    """Writes a SavedModel with a batch of 1; returns the names of its inputs.

    A microcontroller wants shapes that are known.
    """
    graph = trace.read(model)
    names = names_of("input", len(graph.inputs))
    results = names_of("output", len(graph.outputs))
    signature = [
        keras.InputSpec(shape=(1, *tensor.shape[1:]), dtype=tensor.dtype, name=name)
        for tensor, name in zip(graph.inputs, names, strict=True)
    ]

    def serve(*tensors):
        outputs = model(trace.packed(graph.model, list(tensors)), training=False)
        return dict(zip(results, keras.tree.flatten(outputs), strict=True))

    try:
        with files.quiet():
            archive = keras.export.ExportArchive()
            archive.track(model)
            archive.add_endpoint("serve", serve, input_signature=signature)
            archive.write_out(path, verbose=False)
    except Exception as error:  # whatever Keras or a layer's own code raises
        # The last line: those before it are Python's way there.
        words = (str(error).strip().splitlines() or [""])[-1].strip()[:200]
        raise ValueError(
            "`model` must be one that TensorFlow can trace with a batch of 1. Received: "
            f"{model.name!r}, which says: {words}"
        ) from error
    return names


_BLAMED = re.compile(r'fused\["(\w+):",\s*"([^"@]+)')
"""Where the converter names an operator, and the way to it: model_1/layer_1/operator."""


def _refused(said: str, model) -> str:
    """What the converter says: operator and layer where it names them, else its words."""
    names = {operation.name for operation in trace.read(model).operations}
    blamed = _BLAMED.findall(said)
    for operator, way in blamed:
        parts = way.split("/")
        scopes = {*parts, *(part.rpartition("_")[0] for part in parts)}
        for name in sorted(scopes & names):
            return (
                f"operator {operator} of layer {name!r}, of which it has none. Replace that "
                "layer, or leave TFLite out of the formats."
            )
    if blamed:
        return (
            f"operator {blamed[0][0]}, of which it has none. Replace what needs it, or leave "
            "TFLite out of the formats."
        )
    words = " ".join(said.split())[:200]
    return f"{model.name!r}, of which the converter says: {words}"


def _advice(model) -> str:
    """What can be done about layers that are known for it."""
    loops = [
        layer.name
        for layer in trace.read(model).operations
        if isinstance(layer, keras.layers.RNN | keras.layers.Bidirectional)
    ]
    if not loops:
        return ""
    return (
        f" int8 has no loops, and {', '.join(loops)} cannot be unrolled: that takes inputs "
        "of a fixed length, no mask, no state from outside, and cells of Keras."
    )


def _save_saved_model(model, path: str) -> None:
    with files.quiet():
        model.export(path, format="tf_saved_model", verbose=False)


def _write_int8(path: str, model, data, directory: str, beside) -> None:
    """The file, and beside it what firmware does around it."""
    _write(path, convert(model, data))
    _, around = front.cut(model)
    place = front.path_of(os.path.join(directory, FILES["tflite_int8"]))
    files.remove(place)
    if content := {**around.to_json(), **(beside or {})}:
        files.write_json(place, content)


def _write(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
