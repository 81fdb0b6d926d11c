"""Compares every exported artefact with the model that it came from."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterable

import numpy as np

from tfsparse import records
from tfsparse.deploy import interpreters, packing, shipping
from tfsparse.deploy.export import COMPRESSED

Outputs = list[np.ndarray]

ENDLESS = -99.0
"""Decibels of outputs that are no finite numbers."""

MODEL, MICRO = "model", "mcu"
"""What `seen` calls the model's own outputs, and those of the first file on TensorFlow Lite
Micro; a second file there is `mcu_` and its kind."""


def verify(
    model, artifacts: Iterable[records.Artifact], x
) -> tuple[records.Parity, ...]:
    """Runs every artefact on the same inputs and compares the outputs.

    Args:
        model: The Keras model that was exported.
        artifacts: What `export` returned.
        x: Inputs `(samples, ...)`; a list or a dict of them for several inputs.

    Returns:
        One `Parity` an artefact, compared with `model`; for an int8 file a second one, `mcu`:
        the file on TensorFlow Lite Micro compared with LiteRT, and the arena that it used
        (an x86 figure; a target's differs a little). Where that interpreter lacks an
        operator, or crashes, the row has no samples and says why. A compressed file is
        compared with the plain one, both on TensorFlow Lite Micro.

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
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError("`x` must be finite. Received: nan or inf.")
    if isinstance(artifacts, records.Artifact):
        artifacts = (artifacts,)
    return compare(model, artifacts, [arrays])


def compare(
    model,
    artifacts: Iterable[records.Artifact],
    parts: Iterable[list[np.ndarray]],
    seen: Callable[[str, Outputs, list[np.ndarray]], None] = lambda *_: None,
) -> tuple[records.Parity, ...]:
    """`verify` on samples that come part by part; a part is in memory at a time.

    Args:
        model, artifacts: See `verify`.
        parts: Arrays, one an input, of some samples.
        seen: Called with the name of a row, or `MODEL`, its outputs and the part.
    """
    artifacts = tuple(artifacts)
    rows = {artifact.format: _Row(artifact.format) for artifact in artifacts}
    micro: dict[str, _Row] = {}
    for artifact in artifacts:
        if artifact.format in records.WHOLE:
            kind = artifact.format.removeprefix("tflite_")
            name = f"{MICRO}_{kind}" if micro else MICRO
            micro[artifact.format] = _Row(name, "LiteRT")
    runs = {
        artifact.format: interpreters.opened(artifact, model)
        for artifact in artifacts
        if artifact.format != COMPRESSED
    }
    for arrays in parts:
        expected = interpreters.answers(model, arrays)
        if not all(np.isfinite(part).all() for part in expected):
            raise ValueError(
                "`model` must answer with finite numbers. Received: nan or inf among its "
                "outputs."
            )
        seen(MODEL, expected, arrays)
        plain: Outputs | None = None
        for artifact in artifacts:
            row = rows[artifact.format]
            if artifact.format == COMPRESSED:
                found = row.on_micro(artifact.path, arrays)
                row.against = "the plain file there"
                if plain is None and os.path.exists(packing.plain_of(artifact.path)):
                    arena = row.arena
                    plain = row.on_micro(packing.plain_of(artifact.path), arrays)
                    row.arena = arena
                row.add(plain, found)
            else:
                with row.timed():
                    found, facts = runs[artifact.format](arrays)
                row.operators, row.sizes = facts
                row.add(expected, found)
            if found is not None:
                seen(row.name, found, arrays)
            if artifact.format in records.WHOLE:
                there = micro[artifact.format]
                there.operators, there.sizes = row.operators, row.sizes
                plain = there.on_micro(artifact.path, arrays)
                there.add(found, plain)
                if plain is not None:
                    seen(there.name, plain, arrays)
    told = []
    for artifact in artifacts:
        told.append(rows[artifact.format].told())
        if artifact.format in micro:
            told.append(micro[artifact.format].told())
    return tuple(told)


@dataclasses.dataclass
class _Row:
    """What has been found so far of one artefact on one interpreter.

    Attributes:
        name: Of the row.
        against: What outputs shall equal bit by bit, in words; "" where rounding differs.
        sizes: Of a step of each output, see `interpreters.Facts`.
    """

    name: str
    against: str = ""
    samples: int = 0
    difference: float = 0.0
    steps: float = 0.0
    same: int = 0
    agreeing: np.ndarray | None = None
    powers: np.ndarray | None = None
    operators: tuple[str, ...] = ()
    sizes: tuple[np.ndarray, ...] = ()
    arena: int | None = None
    seconds: float = 0.0
    why: str | None = None
    endless: bool = False

    @contextlib.contextmanager
    def timed(self):
        """Counts the time that is spent within."""
        started = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - started

    def on_micro(self, path: str, arrays) -> Outputs | None:
        """Outputs on TensorFlow Lite Micro; None where it does not run, and why."""
        if self.why:
            return None
        try:
            with self.timed():
                outputs, self.arena = interpreters.run_micro(path, arrays)
        except ImportError:
            self.why = "not run: `pip install tfsparse[mcu]` brings tflite-micro"
        except ValueError as error:
            self.why = f"not run: {error}"
        else:
            return outputs
        return None

    def add(self, expected: Outputs | None, found: Outputs | None) -> None:
        """Adds the comparison of some samples."""
        if expected is None or found is None:
            self.why = self.why or "not run: there is nothing to compare it with"
            return
        if not all(np.isfinite(part).all() for part in found):
            self.endless = True
        gaps = [
            np.abs(one.astype("float32") - other)
            for one, other in zip(expected, found, strict=True)
        ]
        self.difference = max(self.difference, *(float(gap.max()) for gap in gaps))
        powers = np.array(
            [
                (np.square(one.astype("float64")).sum(), np.square(gap).sum())
                for one, gap in zip(expected, gaps, strict=True)
            ]
        )
        self.powers = powers if self.powers is None else self.powers + powers
        for gap, size in zip(gaps, self.sizes, strict=False):
            if np.all(size):
                self.steps = max(self.steps, float((gap / size).max()))
        self.samples += len(found[0])
        equal = [
            (one == other).reshape(len(one), -1).all(-1)
            for one, other in zip(expected, found, strict=True)
        ]
        self.same += int(np.all(equal, axis=0).sum())
        agreeing = np.array(
            [
                float((one.argmax(-1) == other.argmax(-1)).sum())
                / (one.size / len(one) / one.shape[-1])
                for one, other in zip(expected, found, strict=True)
                if one.ndim > 1 and one.shape[-1] > 1
            ]
        )
        self.agreeing = agreeing if self.agreeing is None else self.agreeing + agreeing

    def _decibels(self) -> float | None:
        """Signal to noise of the noisiest output; None where all are equal."""
        if self.endless:
            return ENDLESS
        found = [
            10 * math.log10(max(signal, 1e-30) / noise)
            for signal, noise in (() if self.powers is None else self.powers)
            if noise > 0
        ]
        return min(found, default=None)

    def told(self) -> records.Parity:
        """The record."""
        if self.why:
            return records.Parity(self.name, 0, 0.0, None, note=self.why)
        note = None
        if self.against:
            share = self.same / self.samples
            on = "every sample" if share == 1 else f"{share:.2%} of the samples"
            note = f"bit-equal to {self.against} on {on}"
        # Of several outputs, the one that agrees least; one number has no winner.
        agreeing = self.agreeing if self.agreeing is not None else np.zeros(0)
        return records.Parity(
            artifact=self.name,
            samples=self.samples,
            max_abs_difference=self.difference,
            argmax_agreement=float(agreeing.min()) / self.samples
            if len(agreeing)
            else None,
            operators=tuple(dict.fromkeys(self.operators)),
            arena_bytes=self.arena,
            note=note,
            output_steps=self.steps if any(map(np.all, self.sizes)) else None,
            decibels=self._decibels(),
            seconds=self.seconds,
        )
