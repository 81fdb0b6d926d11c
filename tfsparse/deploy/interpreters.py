"""Runs models where they will live: Keras, LiteRT, TensorFlow Lite Micro."""

from __future__ import annotations

import math
import os
import tempfile

import keras
import numpy as np
import tensorflow as tf

from tfsparse import records
from tfsparse.children.process import INTERPRETERS, ChildError
from tfsparse.deploy import front

BATCH_VALUES = 1000 * 32 * 32 * 3
"""Numbers in a batch that is only looked at: 1,000 images of CIFAR-10, 20 of ImageNet."""

SECONDS = 3600.0
"""How long a file may take for the samples that it is given."""


def batch_size(shape: tuple[int, ...]) -> int:
    """Samples of a shape that are taken at once where nothing is trained."""
    return min(1000, max(1, BATCH_VALUES // max(1, math.prod(shape))))


def predict(model, x: np.ndarray) -> np.ndarray:
    """Outputs of a Keras model in inference mode. `(samples, outputs)`."""
    found = [model(batch, training=False) for batch in _batches(x)]
    return np.concatenate([keras.ops.convert_to_numpy(y) for y in found])


def _batches(x: np.ndarray) -> list[np.ndarray]:
    step = batch_size(x.shape[1:])
    return [x[i : i + step] for i in range(0, len(x), step)]


def run(
    artifact: records.Artifact, x: np.ndarray
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Outputs of an artefact, in the model's units, and its operators (TFLite only)."""
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

    Args:
        path: The file; what stands beside it is done to samples and outputs.
        x: `(samples, ...)` as the model takes them.

    Raises:
        ValueError: An int8 file holds an operator that works on floats, or LiteRT cannot
            run it.
    """
    outputs, facts = _asked("litert", path, x)
    if facts["int8"]:
        check_int8(path, facts["floats"])
    return outputs, tuple(facts["operators"])


def check_int8(path: str, floats: list[str]) -> None:
    """Checks that an int8 file has no float tensors.

    Raises:
        ValueError: It has.
    """
    if floats:
        raise ValueError(
            f"`{os.path.basename(path)}` must hold int8 operators only. "
            f"Received: float tensors {floats[:3]}."
        )


def run_micro(path: str, x: np.ndarray) -> tuple[np.ndarray, int]:
    """Runs an int8 file on TensorFlow Lite Micro; outputs and arena bytes.

    Raises:
        ImportError: The package tflite-micro is not installed.
        ValueError: The file needs an operator that TensorFlow Lite Micro lacks.
    """
    outputs, facts = _asked("micro", path, x)
    return outputs, facts["arena_bytes"]


def _asked(what: str, path: str, x: np.ndarray):
    """What the interpreters' process answers about a file."""
    around = front.read(path)
    names = {"litert": "LiteRT", "micro": "TensorFlow Lite Micro"}
    with tempfile.TemporaryDirectory() as folder:
        source, target = (os.path.join(folder, name) for name in ("x.npy", "y.npy"))
        np.save(source, around.inputs(np.asarray(x, np.float32)))
        request = {"do": what, "path": os.path.abspath(path), "x": source, "y": target}
        try:
            facts = INTERPRETERS.ask(request, SECONDS)
        except ChildError as error:
            said = " ".join(error.said.split())[-200:]
            raise ValueError(
                f"`{os.path.basename(path)}` must run on {names[what]}. Received: "
                f"{error.why}{f', and said: {said}' if said else ''}."
            ) from error
        if "missing" in facts:
            raise ImportError(f"{facts['missing']} is not installed")
        if reason := facts.get("refused") or facts.get("error"):
            raise ValueError(
                f"`{os.path.basename(path)}` must run on {names[what]}. Received: {reason}"
            )
        return around.outputs(np.load(target)), facts
