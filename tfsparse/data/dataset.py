"""A data set in three splits, and what is to be predicted of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfsparse.data import task
from tfsparse.data.found import PICTURES, SERIES, TABLE
from tfsparse.data.images import Images

SCALED_MEAN, SCALED_DEVIATION = 1.0, (0.1, 3.0)
"""Columns whose mean and deviation lie within need no scaling."""

SHOWN_CLASSES = 12
"""So many classes are told of with their counts at most."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set split three ways, in memory or on disk, and what to predict of it.

    Attributes:
        name: As asked for.
        x_train, x_validation, x_test: `(samples, ...)`, uint8 pixels or float32, pixels of
            16 bits in [0, 1]; `Images` if they stay on disk.
        y_train, y_validation, y_test: int32 classes `(samples,)`, or float32 numbers
            `(samples, outputs)`; of a reconstruction None, and in test perhaps 1 for what
            is anomalous.
        task: What is predicted.
        kind: What samples are: pictures, series, table, or arrays.
        columns: Names of the features along the last axis, where they are known.
        notes: What was skipped, cut or scaled, and why.
        front_end: How samples were made of raw signals; None where they were not.
    """

    name: str
    x_train: Any
    y_train: np.ndarray | None
    x_validation: Any
    y_validation: np.ndarray | None
    x_test: Any
    y_test: np.ndarray | None
    task: task.Task
    kind: str = "arrays"
    columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    front_end: Mapping[str, Any] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """One sample's shape."""
        return self.x_train.shape[1:]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes or labels, in order."""
        return self.task.names

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.task.names)

    def with_channel(self) -> Dataset:
        """The same samples with an axis of one channel at their end."""
        return self._each(lambda x: x[..., None])

    def without_channel(self) -> Dataset:
        """The same samples without their last axis, of one channel."""
        return self._each(lambda x: x if isinstance(x, Images) else x[..., 0])

    def _each(self, change) -> Dataset:
        names = ("x_train", "x_validation", "x_test")
        found = {name: change(getattr(self, name)) for name in names}
        return dataclasses.replace(self, **found)

    def statistics(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Mean and deviation of each column or channel in train; None of pixels.

        A column that never changes has deviation 1.
        """
        if isinstance(self.x_train, Images) or self.x_train.dtype == np.uint8:
            return None
        axes = tuple(range(self.x_train.ndim - 1))
        mean = self.x_train.mean(axes, dtype=np.float64)
        deviation = self.x_train.std(axes, dtype=np.float64)
        quiet = deviation <= 1e-7 * np.maximum(1e-30, np.abs(mean))
        return mean, np.where(quiet, 1.0, deviation)

    @property
    def scaled(self) -> bool:
        """Whether a network can take the samples as they are."""
        found = self.statistics()
        if found is None:
            return True
        mean, deviation = found
        low, high = SCALED_DEVIATION
        return bool(
            (np.abs(mean) <= SCALED_MEAN).all()
            and deviation.min() >= low
            and deviation.max() <= high
        )

    def summary(self) -> list[str]:
        """A few lines: samples, shape, range, classes with counts, what was skipped."""
        parts = {
            "train": (self.x_train, self.y_train),
            "validation": (self.x_validation, self.y_validation),
            "test": (self.x_test, self.y_test),
        }
        counted = ", ".join(f"{len(x):,} {name}" for name, (x, _) in parts.items())
        shape = " x ".join(map(str, self.shape))
        what = {
            PICTURES: f"pictures of {shape}",
            SERIES: f"windows of {shape}, steps x channels",
            TABLE: f"rows of {shape} columns",
        }.get(self.kind, f"samples of {shape}")
        lines = [f"Data: {self.name}: {what}, {counted}; {self._range()}."]
        if self.task.sorts:
            lines.append(self._classes(parts))
        lines += [f"{note[0].upper()}{note[1:]}." for note in self.notes]
        return lines

    def _range(self) -> str:
        if isinstance(self.x_train, Images):
            return "8-bit pixels, divided by 255"
        low, high = self.x_train.min(), self.x_train.max()
        told = f"values {low:g} to {high:g}"
        if self.x_train.dtype == np.uint8:
            return f"8-bit pixels, {told}, divided by 255"
        return told

    def _classes(self, parts) -> str:
        every = np.concatenate([y for _, y in parts.values()])
        total = np.bincount(every, minlength=self.classes)
        pairs = [f"{n} {c:,}" for n, c in zip(self.task.names, total, strict=True)]
        more = f" and {len(pairs) - SHOWN_CLASSES} more" * (len(pairs) > SHOWN_CLASSES)
        return f"Classes: {', '.join(pairs[:SHOWN_CLASSES])}{more}."
