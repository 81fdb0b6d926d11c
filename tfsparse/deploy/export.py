"""Writes what ships: .keras, SavedModel, float and full-int8 TFLite."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

from tfsparse import files, records
from tfsparse.records import FORMATS

FILES = {
    "keras": "model.keras",
    "saved_model": "saved_model",
    "tflite_float": "model_float.tflite",
    "tflite_int8": "model_int8.tflite",
}


def export(
    model,
    directory: str,
    calibration_data,
    formats: Iterable[str] = FORMATS,
) -> tuple[records.Artifact, ...]:
    """Exports a model; each file appears whole or not at all.

    The int8 file takes and gives int8, holds builtin int8 operators only, and its
    batch is 1: what a microcontroller runs.

    Args:
        model: A built Keras model of stock layers with one input and one output.
        directory: Where to; made if it is missing.
        calibration_data: `(samples, ...)` inputs that set the int8 ranges; 100 to
            1000 training samples.
        formats: Some of `keras`, `saved_model`, `tflite_float`, `tflite_int8`.

    Returns:
        One `Artifact` a format, in the order of `formats`.

    Raises:
        ValueError: An unknown format, no calibration data, or a layer that int8
            TFLite cannot express.

    Example:
        >>> artifacts = export(small, "out", x_train[:256])
    """
    formats = tuple(formats)
    unknown = set(formats) - set(FORMATS)
    if unknown or not formats:
        raise ValueError(f"`formats` must be among {FORMATS}. Received: {formats}.")
    data = None if calibration_data is None else np.asarray(calibration_data)
    if "tflite_int8" in formats and (data is None or not len(data)):
        raise ValueError(
            "`calibration_data` must hold samples to make tflite_int8. Received: none."
        )
    os.makedirs(directory, exist_ok=True)
    writers: dict[str, Callable[[str], None]] = {
        "keras": lambda path: model.save(path),
        "saved_model": lambda path: _save_saved_model(model, path),
        "tflite_float": lambda path: _write(path, convert(model)),
        "tflite_int8": lambda path: _write(path, convert(model, data)),
    }
    artifacts = []
    for name in formats:
        path = os.path.join(directory, FILES[name])
        with files.appears_whole(path) as temporary:
            writers[name](temporary)
        artifacts.append(records.Artifact(name, path, files.size_of(path)))
    return tuple(artifacts)


def convert(model, calibration_data: np.ndarray | None = None) -> bytes:
    """A TFLite flatbuffer of the model: float, or full int8 if given data.

    Raises:
        ValueError: An operator has no builtin (int8) form.
    """
    (shape,) = (tensor.shape for tensor in model.inputs)
    # A batch of 1: a microcontroller wants shapes that are known.
    signature = [tf.TensorSpec((1, *shape[1:]), tf.float32, name="input")]
    with tempfile.TemporaryDirectory() as folder:
        with files.quiet():
            _save_saved_model(model, folder, signature)
            converter = tf.lite.TFLiteConverter.from_saved_model(folder)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
            if calibration_data is not None:
                _quantise(converter, calibration_data)
            try:
                return converter.convert()
            except Exception as error:  # the converter raises several private types
                reason = " ".join(str(error).split())[:200]
                kind = "float" if calibration_data is None else "int8"
                raise ValueError(
                    f"`model` must be expressible in builtin {kind} TFLite operators. "
                    f"Received: {model.name!r}, of which the converter says: {reason}"
                ) from error


def _quantise(converter, data: np.ndarray) -> None:
    def representative():
        for sample in data:
            yield [sample[None].astype(np.float32)]

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8


def _save_saved_model(model, path: str, signature=None) -> None:
    with files.quiet():
        model.export(
            path, format="tf_saved_model", verbose=False, input_signature=signature
        )


def _write(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
