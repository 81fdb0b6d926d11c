"""Groups laid out over tensors: sums over each group, and values spread back."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from keras import ops


@dataclasses.dataclass(frozen=True)
class Slice:
    """How the groups of a block lie in one tensor.

    Attributes:
        index: The tensor's number among all that a step moves.
        axes: Axes to sum over: those on which all labels are equal.
        shape: The tensor's shape with 1 on those axes.
        places: For each entry of that shape its group within the block, the block's
            number of groups for what is unpenalised; None where entry i is group i.
    """

    index: int
    axes: tuple[int, ...]
    shape: tuple[int, ...]
    places: np.ndarray | None

    @classmethod
    def of(cls, index: int, labels, shape, members) -> Slice:
        """The slice of a tensor of that shape, from its labels.

        Args:
            index: The tensor's number.
            labels: Integers that broadcast against `shape`, as many axes; -1 for none.
            shape: The tensor's.
            members: The labels of the block's groups, rising.
        """
        places = np.searchsorted(members, labels.ravel())
        places = np.where(labels.ravel() < 0, len(members), places)
        plain = np.array_equal(places, np.arange(len(members)))
        sizes = enumerate(zip(labels.shape, shape, strict=True))
        axes = tuple(axis for axis, (n, size) in sizes if n == 1 and size > 1)
        return cls(index, axes, labels.shape, None if plain else places.astype("int32"))


@dataclasses.dataclass(frozen=True)
class Block:
    """Groups that share tensors: their norms are computed together.

    Attributes:
        groups: How many.
        slices: The tensors.
        sizes: Elements in each group. `(groups,)`.
        multipliers: Factor on mu for each group, its size included. `(groups,)`.
        labels: The number of each group in the whole partition. `(groups,)`.
    """

    groups: int
    slices: tuple[Slice, ...]
    sizes: np.ndarray
    multipliers: np.ndarray
    labels: np.ndarray

    @classmethod
    def of(cls, labels, shapes, indices: Sequence[int] | None = None) -> Block:
        """The block of all groups that labels name, with multipliers 1.

        Args:
            labels: For each tensor integers that broadcast against it, as many axes;
                equal ones, in any tensor, are one group, -1 is unpenalised.
            shapes: The tensors' shapes.
            indices: The tensors' numbers; None for 0, 1, ...

        Example:
            >>> rows = Block.of([[[0], [1]]], [(2, 3)])  # of one kernel
            >>> [float(x) for x in rows.sum([ops.ones((2, 3))])]
            [3.0, 3.0]
        """
        labels = [np.asarray(own) for own in labels]
        members = np.unique(np.concatenate([own.ravel() for own in labels]))
        members = members[members >= 0]
        numbers = range(len(labels)) if indices is None else indices
        slices = tuple(
            Slice.of(number, own, tuple(shape), members)
            for number, own, shape in zip(numbers, labels, shapes, strict=True)
        )
        sizes = np.zeros(len(members) + 1)  # the last one counts what is unpenalised
        for part, shape in zip(slices, shapes, strict=True):
            whole = np.arange(len(members)) if part.places is None else part.places
            copies = np.prod(shape) // max(1, np.prod(part.shape))
            sizes += copies * np.bincount(whole, minlength=len(sizes))
        return cls(len(members), slices, sizes[:-1], np.ones(len(members)), members)

    @property
    def members(self) -> list[int]:
        """Numbers of the block's tensors."""
        return [part.index for part in self.slices]

    def sum(self, tensors):
        """Sums one tensor for each slice over each group.

        Args:
            tensors: One for each slice, of its tensor's shape.

        Returns:
            `(groups,)`.
        """
        total = None
        for part, tensor in zip(self.slices, tensors, strict=True):
            own = ops.sum(tensor, part.axes) if part.axes else tensor
            own = ops.reshape(own, (-1,))
            if part.places is not None:
                own = ops.segment_sum(own, part.places, self.groups + 1)[:-1]
            total = own if total is None else total + own
        return total

    def spread(self, values, part: Slice, rest):
        """Lays a value for each group out over a tensor.

        Args:
            values: `(groups,)`.
            part: The slice of the tensor.
            rest: The value of what is unpenalised, a scalar.

        Returns:
            A tensor of `part.shape`, to broadcast on the whole one.
        """
        if part.places is not None:
            values = ops.append(values, ops.reshape(ops.cast(rest, values.dtype), (1,)))
            values = ops.take(values, part.places)
        return ops.reshape(values, part.shape)
