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

HELD_BYTES = 1_000_000_000
"""So much of a split is held at once where all of it has to be."""

PART_SAMPLES = 1000
"""Samples in memory at a time; less than 1 GB at 224 x 224 x 3."""


def as_floats(x) -> np.ndarray:
    """Samples as models take them: pixels divided by 255; read from disk if there."""
    x = np.asarray(x)
    if x.dtype != np.uint8:
        return x
    pixels = x.astype(np.float32)
    pixels /= 255.0  # in place: data may be large
    return pixels


def some(x, count: int | None = None) -> np.ndarray:
    """The first samples as models take them, as many as fit into `HELD_BYTES`."""
    each = 4 * max(1, int(np.prod(np.shape(x[:1])[1:])))
    most = max(1, HELD_BYTES // each)
    return as_floats(x[: min(most, len(x) if count is None else count)])


def by_parts(task, x, answer: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """What the score needs of all outputs; a part of the samples is in memory at a time.

    Args:
        task: What is predicted, a `data.Task`.
        x: The samples, as they lie in a `Dataset`.
        answer: `(samples, ...) -> outputs`.
    """
    found = []
    for start in range(0, len(x), PART_SAMPLES):
        part = as_floats(x[start : start + PART_SAMPLES])
        found.append(task.reduced(answer(part), part))
    return np.concatenate(found)


def goodness(task, model, x, y) -> np.ndarray:
    """How well a model does each sample, as they lie in a `Dataset`: `(n,)`, more is better."""
    found = by_parts(task, x, lambda part: interpreters.predict(model, part))
    return task.goodness(found, y)


def score(task, model, x, y) -> records.Score:
    """How good a model is on samples, as they lie in a `Dataset`."""
    found = by_parts(task, x, lambda part: interpreters.predict(model, part))
    return task.score(found, y)


def worse(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether `after` does the same samples less well than chance explains.

    With d the loss of each sample, sum d > 2 sqrt(sum d^2): two standard deviations of a
    sum of differences whose signs are those of a fair coin. Where samples are right or
    not, that is McNemar's test: lost - won > 2 sqrt(lost + won).

    Args:
        before: How well the first model does each sample, `(n,)`; right or not as bool.
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
    lost = before.astype(np.float64) - after
    return bool(lost.sum() > 2 * np.sqrt(np.square(lost).sum()))


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

    started = time.perf_counter()
    reduced = by_parts(context.task, context.door.test.x, answer)
    row = _row(name, what, context, model, reduced)
    spent = seconds or time.perf_counter() - started
    return dataclasses.replace(row, seconds=spent)


def file_row(
    name: str,
    what: str,
    context,
    model,
    artifact: records.Artifact,
    reduced: np.ndarray,
    seconds: float,
    arena_bytes: int | None = None,
) -> records.StageRow:
    """The row of an exported file, which was run on the test split.

    Args:
        name, what: Of the row, see `records.StageRow`.
        context: The run.
        model: The Keras model that the file was made of.
        artifact: The file.
        reduced: What the score needs of its outputs, see `data.Task.reduced`.
        seconds: What running it took.
        arena_bytes: Memory that the interpreter used, where it is known.
    """
    return dataclasses.replace(
        _row(name, what, context, model, reduced),
        file=os.path.basename(artifact.path),
        file_bytes=artifact.file_bytes,
        arena_bytes=arena_bytes,
        seconds=seconds,
    )


def _row(name, what, context, model, reduced) -> records.StageRow:
    """What answers the test samples, and what the model costs."""
    task, test = context.task, context.door.test
    found = task.score(reduced, test.y)
    cost = measure(model)
    return records.StageRow(
        name=name,
        what=what,
        accuracy=found.value if task.sorts else None,
        score=found,
        samples=len(test.x),
        params=cost.params,
        nonzero=cost.nonzero,
        macs=cost.macs,
        weight_bytes=cost.weight_bytes,
        index_bytes=cost.index_bytes,
        seconds=0.0,
    )
