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
from tfsparse.deploy import (
    front,
    interpreters,
    layer_names,
    packing,
    probe,
    rewritten,
    shipping,
    slim,
)
from tfsparse.graph import trace
from tfsparse.records import FORMATS

FILES = {
    "keras": "model.keras",
    "saved_model": "saved_model",
    "tflite_float": "model_float.tflite",
    **{f"tflite_{kind}": f"model_{kind}.tflite" for kind in records.QUANTISED},
}

COMPRESSED = "tflite_compressed"
"""The format of a compressed file: name_compressed.tflite beside name.tflite."""

PROVED_ON = 4
"""Calibration samples on which a slimmed file answers as it did: what goes is no number."""

SECONDS = 1800.0
"""How long a conversion may take."""


def export(
    model,
    directory: str,
    calibration_data,
    formats: Iterable[str] = FORMATS,
    beside: Mapping[str, Any] | None = None,
    length: int | None = None,
    compress: str = "none",
    proof: Any = None,
    arena_limit: float | None = None,
) -> tuple[records.Artifact, ...]:
    """Exports a model; each file appears whole or not at all.

    The int8 file takes and gives int8, holds builtin int8 operators only, and its
    batch is 1: what a microcontroller runs. Inputs and outputs of several are named
    input_0, input_1, ... and output_0, ... in the order of the model. What acts in
    training alone (dropout, augmentation) and half precision do not ship. TFLite files hold
    no names, metadata or other bytes that no interpreter needs, see `slim`.

    Args:
        model: A built Keras model of stock layers.
        directory: Where to; made if it is missing.
        calibration_data: Inputs that set the int8 ranges, 100 to 1000 training samples: an
            array `(samples, ...)`, a list or dict of them, a `tf.data.Dataset`, a
            generator, or the generator function that TFLite's converter takes.
        formats: Some of `keras`, `saved_model`, `tflite_float`, `tflite_int8`,
            `tflite_int16x8`, `tflite_float16`, `tflite_dynamic`.
        beside: What else firmware has to know, such as names of columns and classes: it is
            written beside the int8 file as JSON.
        length: The size of open axes of inputs, such as the steps of a series.
        compress: One of `records.PACKINGS`: what packs weights in one more file, which
            TensorFlow Lite Micro alone runs, see `compress.compress`.
        proof: Inputs on which that file answers as the plain one does, bit by bit, or it is
            not written; the calibration data by default.
        arena_limit: Bytes of working memory that it may need; weights unpack there.

    Returns:
        One `Artifact` a format, in the order of `formats`; behind an int8 file its
        compressed one, if that was asked for. `facts` tell what was saved.

    Raises:
        ValueError: An unknown format, no calibration data or such as do not fit, open
            axes without a `length`, or a layer that int8 TFLite cannot express.

    Example:
        >>> artifacts = export(small, "out", x_train[:256])
    """
    formats = (formats,) if isinstance(formats, str) else tuple(formats)
    formats = tuple(dict.fromkeys(formats))
    unknown = set(formats) - set(records.EVERY_FORMAT)
    if unknown or not formats:
        raise ValueError(
            f"`formats` must be among {records.EVERY_FORMAT}. Received: {formats}."
        )
    records.check_packing(compress, formats)
    packing.check_limit(arena_limit)
    model = shipping.shipped(model, length)
    if any(name.startswith("tflite") for name in formats):
        shipping.check_sized(model)
    data = None
    whole = [kind for kind in records.ON_MICRO if f"tflite_{kind}" in formats]
    if whole:
        data = _calibration(model, calibration_data)
    elif calibration_data is not None:
        data = shipping.arrays_of(model, calibration_data)
    else:  # which are enough to see that a smaller file answers alike
        data = probe.random_inputs(model, np.random.default_rng(0), PROVED_ON)
    proof = None if proof is None else _calibration(model, proof, "proof")
    if os.path.exists(directory) and not os.path.isdir(directory):
        raise ValueError(
            f"`directory` must be a folder. Received: {directory!r}, a file."
        )
    os.makedirs(directory, exist_ok=True)
    writers: dict[str, Callable[[str], None]] = {
        "keras": lambda path: model.save(path),
        "saved_model": lambda path: _save_saved_model(model, path),
    }
    artifacts = []
    for name in formats:
        path = os.path.join(directory, FILES[name])
        if name in writers:
            with files.appears_whole(path) as temporary:
                writers[name](temporary)
            artifacts.append(records.Artifact(name, path, files.size_of(path)))
            continue
        kind = name.removeprefix("tflite_")
        named = convert(model, data if kind in records.ON_MICRO else None, kind)
        artifacts.append(_slimmed(name, path, named, data, model, beside))
        if kind in records.ON_MICRO and compress != "none" and kind == whole[0]:
            artifacts += packing.packed(
                artifacts[-1], COMPRESSED, named, compress, proof or data,
                layer_names.known(model), arena_limit,
            )  # fmt: skip
    return tuple(artifacts)


def _slimmed(name, path, named: bytes, samples, model, beside) -> records.Artifact:
    """Writes a TFLite file without what nobody reads, and beside it what firmware does."""
    around = front.Front()
    if name.removeprefix("tflite_") in records.ON_MICRO:
        _, around = front.cut(model)
        place = front.path_of(path)
        packing.forget(path)  # of another network, perhaps
        files.remove(place)
        if content := {**around.to_json(), **(beside or {})}:
            files.write_json(place, content)
    few = [around.inputs(part[:PROVED_ON]) for part in samples]
    content, left = slim.proven(
        named, lambda other: interpreters.same(named, other, few)
    )
    with files.appears_whole(path) as temporary, open(temporary, "wb") as file:
        file.write(content)
    facts = {"converted_bytes": len(named), "not_slimmed": list(left)}
    return records.Artifact(name, path, len(content), facts)


def _calibration(model, given, name: str = "calibration_data") -> list[np.ndarray]:
    try:
        data = None if given is None else shipping.arrays_of(model, given)
    except ValueError as error:
        raise ValueError(f"`{name}`: {error}") from error
    if data is not None and not all(np.isfinite(array).all() for array in data):
        raise ValueError(f"`{name}` must be finite. Received: nan or inf.")
    if data is None or not len(data[0]):
        raise ValueError(
            f"`{name}` must hold samples to make an int8 file. Received: none."
        )
    return data


def convert(
    model, calibration_data: list[np.ndarray] | None = None, kind: str | None = None
) -> bytes:
    """A TFLite flatbuffer of the model: float, or full int8 if given data.

    The int8 file takes normalised columns where `front.cut` says so.

    Args:
        model: A model whose sizes are known, see `shipping.shipped`.
        calibration_data: One array an input; for int8 and int16x8.
        kind: `float`, or one of `records.QUANTISED`.

    Raises:
        ValueError: An operator has no builtin (int8) form, or the converter crashes on it.
    """
    kind = kind or ("float" if calibration_data is None else "int8")
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
            "kind": kind,
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
