"""What a source found, before it is checked and split."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

PICTURES, SERIES, TABLE, ARRAYS = "pictures", "series", "table", "arrays"
"""What samples are: images, steps x channels, columns, or what their shape tells."""


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """Samples that belong together: a split that people made, or all there is.

    Attributes:
        x: `(samples, ...)`, an array or `Images`.
        y: `(samples, ...)` labels, or None.
        groups: `(samples,)`: samples of one group stay in one split; None for none.
    """

    x: Any
    y: Any = None
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.x)

    def taken(self, index) -> Part:
        """Some of the samples."""
        return Part(
            self.x[index],
            None if self.y is None else self.y[index],
            None if self.groups is None else self.groups[index],
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """Samples of a source.

    Attributes:
        train: What models learn from; validation and test are taken out of it where they
            are None.
        validation, test: Splits that people brought.
        kind: What samples are, such as `PICTURES`.
        class_names: Where the source knows them; labels are whole numbers then.
        columns: Names of the features, along the last axis.
        labels: Names of the labels.
        notes: Sentences: what was skipped, cut or scaled, and why.
        front_end: How samples were made of raw signals, for firmware; None for none.
        task: What is predicted, where the source tells; else `auto`.
    """

    train: Part
    validation: Part | None = None
    test: Part | None = None
    kind: str = ARRAYS
    class_names: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    front_end: Mapping[str, Any] | None = None
    task: str = "auto"
