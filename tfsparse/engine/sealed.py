"""The test split, behind one door that opens once every model of a run is fixed."""

from __future__ import annotations

import dataclasses
from typing import Any

from tfsparse import data


def refuse(*_, **__):
    """Raises a RuntimeError: a fault of the program, not of its user."""
    raise RuntimeError(
        "The test split must stay closed until every model of the run is fixed. Choose on "
        "validation: `context.validated`. Received: a look at it before that."
    )


class Sealed:
    """Stands where the test split would, and refuses whoever wants to read it.

    Example:
        >>> len(Sealed())
        Traceback (most recent call last):
        ...
        RuntimeError: The test split must stay closed until every model of the run is fixed.
        Choose on validation: `context.validated`. Received: a look at it before that.
    """

    __len__ = __iter__ = __getitem__ = __array__ = __getattr__ = __eq__ = refuse
    __hash__ = None  # type: ignore[assignment]


@dataclasses.dataclass(frozen=True, eq=False)
class Test:
    """The samples and labels of the test split, as they lie in a `Dataset`."""

    x: Any
    y: Any


class Door:
    """Parts a data set from its test split.

    Args:
        dataset: The whole data set.

    Attributes:
        dataset: The same without a test split that could be read.
    """

    def __init__(self, dataset: data.Dataset):
        self._test = Test(dataset.x_test, dataset.y_test)
        self._open = False
        self.dataset = dataclasses.replace(dataset, x_test=Sealed(), y_test=Sealed())

    def open(self) -> None:
        """Called by the runner alone, once no stage is left to run."""
        self._open = True

    @property
    def test(self) -> Test:
        """The test split.

        Raises:
            RuntimeError: A stage of the run is still to come.
        """
        if not self._open:
            refuse()
        return self._test

    def files(self) -> data.Images | None:
        """The split's pictures if they lie on disk, for whoever looks for damaged files."""
        return self._test.x if isinstance(self._test.x, data.Images) else None
