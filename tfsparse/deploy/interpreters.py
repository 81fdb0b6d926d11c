"""Runs models where they will live: Keras, LiteRT, TensorFlow Lite Micro."""

from __future__ import annotations

import functools
import math
import os
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfsparse import records
from tfsparse.children import process
from tfsparse.children.process import INTERPRETERS, ChildError
from tfsparse.deploy import front
from tfsparse.graph import trace

BATCH_VALUES = 1000 * 32 * 32 * 3
"""Numbers in a batch that is only looked at: 1,000 images of CIFAR-10, 20 of ImageNet."""

SECONDS = 3600.0
"""How long a file may take for the samples that it is given."""


class Facts(NamedTuple):
    """What a TFLite file is made of.

    Attributes:
        operators: Their names.
        steps: The step of each output, in the model's units, one number or one for each of
            its numbers; 0 of floats.
    """

    operators: tuple[str, ...] = ()
    steps: tuple[np.ndarray, ...] = ()


def batch_size(shape: tuple[int, ...]) -> int:
    """Samples of a shape that are taken at once where nothing is trained."""
    return min(1000, max(1, BATCH_VALUES // max(1, math.prod(shape))))


def predict(model, x: np.ndarray) -> np.ndarray:
    """Outputs of a model of one input and one output. `(samples, outputs)`."""
    return answers(model, [x])[0]


def answers(model, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """All outputs of a Keras model in inference mode, in their order.

    Args:
        model: The model.
        arrays: One an input, `(samples, ...)`, in their order.
    """
    graph = trace.read(model)

    def answer(batch):
        x = trace.packed(graph.model, batch) if len(batch) > 1 else batch[0]
        return model(x, training=False)

    return _gathered(answer, arrays)


def _gathered(answer, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """What a function of a batch answers to all samples."""
    step = batch_size(arrays[0].shape[1:])
    starts = range(0, len(arrays[0]), step)
    found = [
        keras.tree.flatten(answer([a[i : i + step] for a in arrays])) for i in starts
    ]
    return [
        np.concatenate([keras.ops.convert_to_numpy(y) for y in parts])
        for parts in zip(*found, strict=True)
    ]


def run(artifact: records.Artifact, x: np.ndarray) -> np.ndarray:
    """Outputs of an artefact of one input and one output, in the model's units."""
    return opened(artifact, None)([x])[0][0]


Runs = Callable[[list[np.ndarray]], tuple[list[np.ndarray], Facts]]


def opened(artifact: records.Artifact, model) -> Runs:
    """What runs an artefact, loaded once: all outputs, in the model's units, and its facts.

    Args:
        artifact: The file.
        model: What it was made of, which tells how several inputs are given.

    Returns:
        `arrays -> (outputs, Facts)`; arrays are one an input, `(samples, ...)`, in order.
    """
    if artifact.format == "keras":
        loaded = keras.saving.load_model(artifact.path, compile=False, safe_mode=True)
        return lambda arrays: (answers(loaded, arrays), Facts())
    if artifact.format == "saved_model":
        saved = tf.saved_model.load(artifact.path)  # kept: it owns the variables
        return lambda arrays: (_saved_answers(saved, model, arrays), Facts())
    return functools.partial(run_tflite, artifact.path)


def _saved_answers(loaded, model, arrays) -> list[np.ndarray]:

    def answer(batch):
        tensors = [tf.constant(part) for part in batch]
        if len(tensors) == 1:
            return loaded.serve(tensors[0])
        return loaded.serve(trace.packed(trace.read(model).model, tensors))

    return _gathered(answer, arrays)


def run_tflite(path: str, arrays: list[np.ndarray]) -> tuple[list[np.ndarray], Facts]:
    """Runs a TFLite file with LiteRT, sample by sample.

    Args:
        path: The file; what stands beside it is done to samples and outputs.
        arrays: One an input, `(samples, ...)` as the model takes them.

    Raises:
        ValueError: An int8 file holds an operator that works on floats, or LiteRT cannot
            run it.
    """
    outputs, facts = _asked("litert", path, arrays)
    if facts["int8"]:
        check_int8(path, facts["floats"])
    unit = np.array(front.read(path).scale or 1.0, np.float32)
    steps = tuple(scale * unit for scale in facts["scales"])
    return outputs, Facts(tuple(facts["operators"]), steps)


def check_int8(path: str, floats: list[str]) -> None:
    """Checks that an int8 file has no float tensors.

    Raises:
        ValueError: It has.
    """
    if floats:
        places = ["/".join(name.split(";")[0].split("/")[-2:]) for name in floats]
        places = [place for place in dict.fromkeys(places) if "/" in place] or places
        raise ValueError(
            f"`{os.path.basename(path)}` must hold int8 operators only. Received: floats "
            f"in {', '.join(places[:3])}, of which TFLite has no int8 form. Replace that "
            "layer, or leave tflite_int8 out of the formats."
        )


def check_file(path: str) -> None:
    """Checks that a finished int8 file is int8 throughout. Raises a ValueError."""
    facts = _reply("litert", {"do": "look", "path": os.path.abspath(path)})
    check_int8(path, facts["floats"])


def run_micro(path: str, arrays: list[np.ndarray]) -> tuple[list[np.ndarray], int]:
    """Runs an int8 file on TensorFlow Lite Micro; outputs and arena bytes.

    Raises:
        ImportError: The package tflite-micro is not installed.
        ValueError: The file needs an operator that TensorFlow Lite Micro lacks.
    """
    outputs, facts = _asked("micro", path, arrays)
    return outputs, facts["arena_bytes"]


def _asked(what: str, path: str, arrays: list[np.ndarray]):
    """What the interpreters' process answers about a file on samples."""
    around = front.read(path)
    with tempfile.TemporaryDirectory() as folder:
        source, target = (os.path.join(folder, name) for name in ("x.npz", "y.npz"))
        process.write_arrays(source, [around.inputs(array) for array in arrays])
        request = {"do": what, "path": os.path.abspath(path), "x": source, "y": target}
        facts = _reply(what, request)
        return [around.outputs(part) for part in process.read_arrays(target)], facts


def same(one: bytes, other: bytes, inputs: list[np.ndarray]) -> bool:
    """Whether two TFLite files answer alike, bit by bit, on every interpreter that is there.

    Args:
        one, other: Their bytes; the second may not run at all.
        inputs: What they take, see `front.Front.inputs`.

    Raises:
        ValueError: The first one does not run on LiteRT.
    """
    on_micro = True
    expected: list[np.ndarray] = []
    for content in (one, other):
        try:
            found, _ = _bytes_asked("litert", content, inputs)
        except ValueError:
            if not expected:
                raise
            return False
        if on_micro:
            try:
                found = [*found, *_bytes_asked("micro", content, inputs)[0]]
            except (ImportError, ValueError):  # not installed, or it runs neither
                if expected:
                    return False
                on_micro = False
        if not expected:
            expected = found
    return all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))


def compared(floats: str, whole: str, samples: str) -> list[dict]:
    """Every tensor of an int8 file beside that of the float file, see `interpreting.compare`.

    Args:
        floats, whole: Where the two files are, as the converter made them.
        samples: Where inputs are, see `process.write_arrays`.

    Raises:
        ValueError: One does not run on LiteRT.
    """
    request = {"do": "compare", "path": whole, "floats": floats, "x": samples}
    return _reply("litert", request)["tensors"]


def micro_answers(
    content: bytes, inputs: list[np.ndarray], name: str = "model.tflite"
) -> tuple[list[np.ndarray], int]:
    """Outputs of a file's bytes on TensorFlow Lite Micro, and its arena; see `run_micro`.

    Args:
        content: The file.
        inputs: What it takes, see `front.Front.inputs`.
        name: Of the file, for errors.
    """
    outputs, facts = _bytes_asked("micro", content, inputs, name)
    return outputs, facts["arena_bytes"]


def _bytes_asked(what: str, content: bytes, inputs: list[np.ndarray], name="a.tflite"):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, name)
        with open(path, "wb") as file:
            file.write(content)
        return _asked(what, path, inputs)


NAMES = {"litert": "LiteRT", "micro": "TensorFlow Lite Micro"}


def _reply(what: str, request: dict) -> dict:
    """What the interpreters' process replies.

    Raises:
        ImportError: A package is not installed.
        ValueError: The file does not run.
    """
    words = (
        f"`{os.path.basename(request['path'])}` must run on {NAMES[what]}. Received: "
    )
    try:
        facts = INTERPRETERS.ask(request, SECONDS)
    except ChildError as error:
        said = " ".join(error.said.split())[-200:]
        raise ValueError(
            f"{words}{error.why}{f', and said: {said}' if said else ''}."
        ) from error
    if "missing" in facts:
        raise ImportError(f"{facts['missing']} is not installed")
    if reason := facts.get("refused") or facts.get("error"):
        raise ValueError(f"{words}{reason}")
    return facts
