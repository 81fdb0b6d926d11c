"""Bytes of the finished int8 file and of its arena, of a model that is not finished."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable

import numpy as np

from tfsparse import budgets
from tfsparse.deploy import interpreters, probe, shipping
from tfsparse.deploy.export import FILES, convert
from tfsparse.graph.rebuild import graft

SAMPLES = 8
"""Random inputs that set the int8 ranges here; the sizes do not depend on them."""


def sizes(model, wanted: Iterable[str], *, untrained: bool = False) -> dict[str, float]:
    """`file_bytes` and `arena_bytes` that a model of stock layers has as an int8 file.

    The file is made with random inputs in place of calibration data: ranges are numbers
    in it like any others, so its size is that of the file that will ship.

    Args:
        model: A built model of stock layers whose sizes are known.
        wanted: Names, of which `file_bytes` and `arena_bytes` count; none of them makes
            no file.
        untrained: Whether biases that are zero count as if they were trained: the converter
            leaves zeros out, and the file of a fresh network would look too small.

    Returns:
        Name -> bytes.

    Raises:
        ValueError: Int8 TFLite cannot express a layer, or the arena is wanted and the
            microcontroller interpreter is not installed.

    Example:
        >>> sizes(small, ["file_bytes"])
        {'file_bytes': 13632}
    """
    wanted = [name for name in budgets.FINISHED if name in wanted]
    if not wanted:
        return {}
    rng = np.random.default_rng(0)
    if untrained:
        model = graft(model)
        for variable in model.trainable_variables:
            if not np.any(variable):
                variable.assign(rng.normal(size=variable.shape))
    model = shipping.shipped(model)
    inputs = probe.random_inputs(model, rng, SAMPLES)
    content = convert(model, inputs)
    found: dict[str, float] = {"file_bytes": len(content)}
    if "arena_bytes" in wanted:
        try:
            found["arena_bytes"] = _arena(content, [part[:1] for part in inputs])
        except ImportError as error:
            raise ValueError(
                "`target` may name arena_bytes where the microcontroller interpreter "
                "is installed. Received: none; `pip install tfsparse[mcu]` brings it."
            ) from error
    return {name: found[name] for name in wanted}


def flight(model, samples: np.ndarray) -> dict[str, float]:
    """Bytes of a model as an int8 file, and of its arena where its interpreter is installed.

    Args:
        model: A built model of stock layers.
        samples: `(samples, ...)` that set the int8 ranges.

    Raises:
        ValueError: Int8 TFLite, or TensorFlow Lite Micro, cannot express a layer.
    """
    model = shipping.shipped(model)
    shipping.check_sized(model)
    arrays = shipping.arrays_of(model, samples)
    content = convert(model, arrays)
    found: dict[str, float] = {"file_bytes": len(content)}
    try:
        found["arena_bytes"] = _arena(content, [array[:1] for array in arrays])
    except ImportError:
        pass  # the report of the run says how to get it
    return found


def _arena(content: bytes, samples: list[np.ndarray]) -> int:
    """Bytes that an int8 file takes on the microcontroller's interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, FILES["tflite_int8"])
        with open(path, "wb") as file:
            file.write(content)
        return interpreters.run_micro(path, samples)[1]
