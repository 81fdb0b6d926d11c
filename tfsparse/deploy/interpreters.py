"""Runs models where they will live: Keras, LiteRT, TensorFlow Lite Micro."""

from __future__ import annotations

import math
import os
import re
import tempfile

import keras
import numpy as np
import tensorflow as tf

from tfsparse import files, records

ARENA_ROOM = 32 * 1024
"""Arena handed to TensorFlow Lite Micro at first, bytes; doubled until it fits."""

ARENA_LIMIT = 64 * 1024 * 1024


BATCH_VALUES = 1000 * 32 * 32 * 3
"""Numbers in a batch that is only looked at: 1,000 images of CIFAR-10, 20 of ImageNet."""


def batch_size(shape: tuple[int, ...]) -> int:
    """Samples of a shape that are taken at once where nothing is trained."""
    return min(1000, max(1, BATCH_VALUES // max(1, math.prod(shape))))


def predict(model, x: np.ndarray) -> np.ndarray:
    """Outputs of a Keras model in inference mode. `(samples, classes)`."""
    found = [model(batch, training=False) for batch in _batches(x)]
    return np.concatenate([keras.ops.convert_to_numpy(y) for y in found])


def _batches(x: np.ndarray) -> list[np.ndarray]:
    step = batch_size(x.shape[1:])
    return [x[i : i + step] for i in range(0, len(x), step)]


def run(
    artifact: records.Artifact, x: np.ndarray
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Outputs of an artefact, dequantised, and its operators (TFLite only)."""
    if artifact.format == "keras":
        model = keras.saving.load_model(artifact.path, compile=False, safe_mode=True)
        return predict(model, x), ()
    if artifact.format == "saved_model":
        return _run_saved_model(artifact.path, x), ()
    outputs, operators = run_tflite(artifact.path, x)
    return outputs, operators


def _run_saved_model(path: str, x: np.ndarray) -> np.ndarray:
    loaded = tf.saved_model.load(path)  # kept: it owns the variables
    return np.concatenate(
        [loaded.serve(tf.constant(batch)).numpy() for batch in _batches(x)]
    )


def run_tflite(path: str, x: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Runs a TFLite file with LiteRT, sample by sample.

    Raises:
        ValueError: An int8 file holds an operator that works on floats.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    with files.quiet():
        interpreter = Interpreter(
            model_path=path,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        interpreter.allocate_tensors()
    (source,), (target,) = (
        interpreter.get_input_details(),
        interpreter.get_output_details(),
    )
    operators = tuple(op["op_name"] for op in interpreter._get_ops_details())
    if source["dtype"] == np.int8:
        _check_int8(path, interpreter)
    values = quantise(x, source)
    outputs = []
    for sample in values:
        interpreter.set_tensor(source["index"], sample[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(target["index"])[0])
    return dequantise(np.stack(outputs), target), operators


def _check_int8(path: str, interpreter) -> None:
    floats = [
        detail["name"]
        for detail in interpreter.get_tensor_details()
        if detail["dtype"] in (np.float32, np.float16)
    ]
    if floats:
        raise ValueError(
            f"`{os.path.basename(path)}` must hold int8 operators only. "
            f"Received: float tensors {floats[:3]}."
        )


def quantise(x: np.ndarray, detail) -> np.ndarray:
    """Floats as an interpreter's input tensor wants them."""
    if detail["dtype"] == np.float32:
        return x
    scale, zero = detail["quantization"]
    limits = np.iinfo(detail["dtype"])
    steps = np.round(x / np.float32(scale)) + zero
    return np.clip(steps, limits.min, limits.max).astype(detail["dtype"])


def dequantise(y: np.ndarray, detail) -> np.ndarray:
    """An interpreter's output tensor as floats."""
    if detail["dtype"] == np.float32:
        return y
    scale, zero = detail["quantization"]
    return (y.astype(np.float32) - zero) * np.float32(scale)


def run_micro(path: str, x: np.ndarray) -> tuple[np.ndarray, int]:
    """Runs an int8 file on TensorFlow Lite Micro; outputs and arena bytes.

    Raises:
        ImportError: The package tflite-micro is not installed.
        ValueError: The file needs an operator that TensorFlow Lite Micro lacks.
    """
    from tflite_micro.python.tflite_micro import runtime

    room = ARENA_ROOM
    with files.quiet():
        while True:
            try:
                interpreter = runtime.Interpreter.from_file(
                    path,
                    arena_size=room,
                    intrepreter_config=runtime.InterpreterConfig.kAllocationRecording,
                )
                break
            except RuntimeError as error:
                if room >= ARENA_LIMIT:
                    raise ValueError(
                        f"`{os.path.basename(path)}` must run on TensorFlow Lite Micro. "
                        f"Received: {error}"
                    ) from error
                room *= 2
    source = _micro_detail(interpreter.get_input_details(0))
    target = _micro_detail(interpreter.get_output_details(0))
    outputs = []
    for sample in quantise(x, source):
        interpreter.set_input(sample[None], 0)
        interpreter.invoke()
        outputs.append(interpreter.get_output(0)[0])
    return dequantise(np.stack(outputs), target), _arena_bytes(interpreter)


def _micro_detail(detail) -> dict:
    """Brings TensorFlow Lite Micro's description into LiteRT's form."""
    parameters = detail["quantization_parameters"]
    scales, zeros = parameters["scales"], parameters["zero_points"]
    quantization = (float(scales[0]), int(zeros[0])) if len(scales) else (0.0, 0)
    return {"dtype": np.dtype(detail["dtype"]), "quantization": quantization}


def _arena_bytes(interpreter) -> int:
    """The arena's total, which the interpreter only prints."""
    with tempfile.TemporaryFile("w+") as file:
        with files.captured_stderr(file):
            interpreter.print_allocations()
        file.seek(0)
        found = re.search(r"Arena allocation total (\d+)", file.read())
    return int(found.group(1)) if found else 0
