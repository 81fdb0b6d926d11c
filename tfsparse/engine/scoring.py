"""How good a model or a file is on the test split, as rows of the report."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable

import numpy as np

from tfsparse import records
from tfsparse.deploy import interpreters
from tfsparse.graph import measure

PART_SAMPLES = 1000
"""Samples in memory at a time; less than 1 GB at 224 x 224 x 3."""


def as_floats(x) -> np.ndarray:
    """Pixels as models take them: float32, uint8 divided by 255; read from disk if there."""
    x = np.asarray(x)
    if x.dtype != np.uint8:
        return x
    pixels = x.astype(np.float32)
    pixels /= 255.0  # in place: data may be large
    return pixels


def by_parts(x, answer: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Outputs for all samples, of which only a part is in memory as floats at a time."""
    parts = (x[i : i + PART_SAMPLES] for i in range(0, len(x), PART_SAMPLES))
    return np.concatenate([answer(as_floats(part)) for part in parts])


def right(model, x, y) -> np.ndarray:
    """Which of the samples, as they lie in a `Dataset`, a model gets right: `(n,)` bool."""
    outputs = by_parts(x, lambda part: interpreters.predict(model, part))
    return outputs.argmax(-1) == y


def accuracy(model, x, y) -> float:
    """Share of the samples, as they lie in a `Dataset`, that a model gets right."""
    return float(right(model, x, y).mean())


def worse(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether `after` gets fewer of the same samples right than chance explains.

    Of the samples that only one of the two gets right, `won` and `lost` differ by more than
    two standard deviations of a fair coin: lost - won > 2 sqrt(lost + won).

    Args:
        before: Which samples the first model gets right, `(n,)` bool.
        after: The same of the second.

    Example:
        >>> before = np.array([True] * 99 + [False])
        >>> worse(before, np.array([False] + [True] * 98 + [False]))  # one: chance
        False
        >>> worse(before, np.array([False] * 9 + [True] * 90 + [False]))
        True

    Source:
        McNemar, "Note on the sampling error of the difference between correlated
        proportions or percentages", Psychometrika 12 (1947).
    """
    lost = np.count_nonzero(before & ~after)
    won = np.count_nonzero(after & ~before)
    return bool(lost - won > 2 * np.sqrt(lost + won))


def model_row(name: str, what: str, context, model, seconds=0.0) -> records.StageRow:
    """The row of a Keras model, run on the test split.

    Args:
        name, what: Of the row, see `records.StageRow`.
        context: The run.
        model: The model.
        seconds: What its training took; 0 where it was not trained.
    """

    def answer(x):
        return interpreters.predict(model, x)

    row = _row(name, what, context, model, answer)
    return dataclasses.replace(row, seconds=seconds) if seconds else row


def file_row(
    name: str,
    what: str,
    context,
    model,
    artifact: records.Artifact,
    answer: Callable[[np.ndarray], np.ndarray],
    arena_bytes: int | None = None,
) -> records.StageRow:
    """The row of an exported file, run on the test split.

    Args:
        name, what: Of the row, see `records.StageRow`.
        context: The run.
        model: The Keras model that the file was made of.
        artifact: The file.
        answer: `(samples, ...) -> (samples, classes)`, runs the file.
        arena_bytes: Memory that the interpreter used, where it is known.
    """
    return dataclasses.replace(
        _row(name, what, context, model, answer),
        file=os.path.basename(artifact.path),
        file_bytes=artifact.file_bytes,
        arena_bytes=arena_bytes,
    )


def _row(name, what, context, model, answer) -> records.StageRow:
    """What answers the test samples, and what the model costs."""
    started = time.perf_counter()
    y = context.dataset.y_test
    found = float((by_parts(context.dataset.x_test, answer).argmax(-1) == y).mean())
    cost = measure(model)
    return records.StageRow(
        name=name,
        what=what,
        accuracy=found,
        score=records.Score("accuracy", found),
        samples=len(y),
        params=cost.params,
        nonzero=cost.nonzero,
        macs=cost.macs,
        weight_bytes=cost.weight_bytes,
        index_bytes=cost.index_bytes,
        seconds=time.perf_counter() - started,
    )
