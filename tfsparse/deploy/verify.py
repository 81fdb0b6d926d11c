"""Compares every exported artefact with the model that it came from."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tfsparse import records
from tfsparse.deploy import interpreters, shipping


def verify(
    model, artifacts: Iterable[records.Artifact], x
) -> tuple[records.Parity, ...]:
    """Runs every artefact on the same inputs and compares the outputs.

    Args:
        model: The Keras model that was exported.
        artifacts: What `export` returned.
        x: Inputs `(samples, ...)`; a list or a dict of them for several inputs.

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
    try:
        arrays = shipping.arrays_of(model, x)
    except ValueError as error:
        raise ValueError(f"`x`: {error}") from error
    if not len(arrays[0]):
        raise ValueError("`x` must hold samples. Received: none.")
    if isinstance(artifacts, records.Artifact):
        artifacts = (artifacts,)
    expected = interpreters.answers(model, arrays)
    parities = []
    for artifact in artifacts:
        outputs, operators = interpreters.run_all(artifact, model, arrays)
        parities.append(_parity(artifact.format, expected, outputs, operators))
        if artifact.format == "tflite_int8":
            parities.append(
                _on_microcontroller(artifact.path, arrays, outputs, operators)
            )
    return tuple(parities)


def _parity(name, expected, outputs, operators=(), **more) -> records.Parity:
    return records.Parity(
        artifact=name,
        samples=len(expected[0]),
        max_abs_difference=max(
            float(np.abs(one.astype("float32") - other).max())
            for one, other in zip(expected, outputs, strict=True)
        ),
        argmax_agreement=_agreement(expected, outputs),
        operators=tuple(dict.fromkeys(operators)),
        **more,
    )


def _agreement(expected, outputs) -> float | None:
    """Share of samples with the same winner; None where there is nothing to win.

    Of several outputs, that of the one which agrees least.
    """
    shares = [
        float((one.argmax(-1) == other.argmax(-1)).mean())
        for one, other in zip(expected, outputs, strict=True)
        if one.ndim > 1 and one.shape[-1] > 1
    ]
    return min(shares, default=None)


def _not_run(why: str) -> records.Parity:
    return records.Parity("mcu", 0, 0.0, None, note=why)


def _on_microcontroller(path, arrays, litert_outputs, operators) -> records.Parity:
    try:
        outputs, arena = interpreters.run_micro(path, arrays)
    except ImportError:
        return _not_run("not run: `pip install tfsparse[mcu]` brings tflite-micro")
    except ValueError as error:
        return _not_run(f"not run: {error}")
    same = [
        (one == other).reshape(len(one), -1).all(-1)
        for one, other in zip(outputs, litert_outputs, strict=True)
    ]
    equal = np.all(same, axis=0).mean()
    note = "bit-equal to LiteRT on every sample"
    if equal < 1:
        note = f"bit-equal to LiteRT on {equal:.2%} of the samples"
    return _parity(
        "mcu", litert_outputs, outputs, operators, arena_bytes=arena, note=note
    )
