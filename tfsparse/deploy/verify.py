"""Compares every exported artefact with the model that it came from."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tfsparse import records
from tfsparse.deploy import interpreters


def verify(
    model, artifacts: Iterable[records.Artifact], x
) -> tuple[records.Parity, ...]:
    """Runs every artefact on the same inputs and compares the outputs.

    Args:
        model: The Keras model that was exported.
        artifacts: What `export` returned.
        x: `(samples, ...)` inputs.

    Returns:
        One `Parity` an artefact, compared with `model`; for `tflite_int8` a second
        one, `mcu`: the file on TensorFlow Lite Micro compared with LiteRT, and the
        arena that it used (an x86 figure; a target's differs a little). Where that
        interpreter lacks an operator, or crashes, the row has no samples and says why.

    Raises:
        ValueError: `x` is empty, or the int8 file holds operators that are not int8.

    Example:
        >>> for row in verify(small, artifacts, x_test): print(row)
    """
    x = np.asarray(x, dtype=np.float32)
    if not len(x):
        raise ValueError("`x` must hold samples. Received: none.")
    expected = interpreters.predict(model, x)
    parities = []
    for artifact in artifacts:
        outputs, operators = interpreters.run(artifact, x)
        parities.append(_parity(artifact.format, expected, outputs, operators))
        if artifact.format == "tflite_int8":
            parities.append(_on_microcontroller(artifact.path, x, outputs, operators))
    return tuple(parities)


def _parity(name, expected, outputs, operators=(), **more) -> records.Parity:
    return records.Parity(
        artifact=name,
        samples=len(expected),
        max_abs_difference=float(np.abs(expected - outputs).max()),
        argmax_agreement=_agreement(expected, outputs),
        operators=tuple(dict.fromkeys(operators)),
        **more,
    )


def _agreement(expected, outputs) -> float | None:
    """Share of samples with the same winner; None where there is nothing to win."""
    if expected.shape[-1] < 2:
        return None
    return float((expected.argmax(-1) == outputs.argmax(-1)).mean())


def _not_run(why: str) -> records.Parity:
    return records.Parity("mcu", 0, 0.0, None, note=why)


def _on_microcontroller(path, x, litert_outputs, operators) -> records.Parity:
    try:
        outputs, arena = interpreters.run_micro(path, x)
    except ImportError:
        return _not_run("not run: `pip install tfsparse[mcu]` brings tflite-micro")
    except ValueError as error:
        return _not_run(f"not run: {error}")
    same = (outputs == litert_outputs).reshape(len(outputs), -1)
    equal = same.all(-1).mean()
    note = "bit-equal to LiteRT on every sample"
    if equal < 1:
        note = f"bit-equal to LiteRT on {equal:.2%} of the samples"
    return _parity(
        "mcu", litert_outputs, outputs, operators, arena_bytes=arena, note=note
    )
