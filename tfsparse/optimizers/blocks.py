"""Lays the groups of a Partition out over variables, for sums in the graph."""

from __future__ import annotations

import dataclasses

import numpy as np
from keras import ops


@dataclasses.dataclass(frozen=True)
class Slice:
    """How the groups of a block lie in one variable.

    Attributes:
        index: The variable's number in the optimizer.
        axes: Axes to sum over: those on which all labels are equal.
        shape: The variable's shape with 1 on those axes.
        places: For each entry of that shape its group within the block, the block's
            number of groups for what is unpenalised; None where entry i is group i.
    """

    index: int
    axes: tuple[int, ...]
    shape: tuple[int, ...]
    places: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Block:
    """Groups that share variables: their norms are computed together.

    Attributes:
        groups: How many.
        slices: The variables.
        sizes: Elements in each group.
        multipliers: Factor on mu for each group, its size included.
        labels: The number of each group in the whole partition.
    """

    groups: int
    slices: tuple[Slice, ...]
    sizes: np.ndarray
    multipliers: np.ndarray
    labels: np.ndarray

    @property
    def members(self) -> list[int]:
        """Numbers of the block's variables in the optimizer."""
        return [part.index for part in self.slices]

    def sum(self, tensors) -> object:
        """Sum of one tensor for each slice over each group. `(groups,)`."""
        total = None
        for part, tensor in zip(self.slices, tensors, strict=True):
            own = ops.sum(tensor, part.axes) if part.axes else tensor
            own = ops.reshape(own, (-1,))
            if part.places is not None:
                own = ops.segment_sum(own, part.places, self.groups + 1)[:-1]
            total = own if total is None else total + own
        return total

    def spread(self, values, part: Slice, rest):
        """A value for each group, `rest` elsewhere, as a tensor to broadcast on a variable."""
        if part.places is not None:
            values = ops.append(values, ops.reshape(ops.cast(rest, values.dtype), (1,)))
            values = ops.take(values, part.places)
        return ops.reshape(values, part.shape)


def lay_out(partition, variables, exponent: float) -> list[Block]:
    """Lays a partition out over variables; groups that share none stand apart.

    Args:
        partition: The groups.
        variables: All trainable variables of a model.
        exponent: Of a group's size, in the factor on its penalty.

    Raises:
        ValueError: A variable is missing, or labels do not fit it.
    """
    index = {v.path: i for i, v in enumerate(variables)}
    for path, labels in [*partition.labels.items(), *partition.followers.items()]:
        if path not in index:
            raise ValueError(
                f"`partition` must name trainable variables. Received: {path!r}; known: "
                f"{sorted(index)[:8]}."
            )
        shape = tuple(variables[index[path]].shape)
        try:
            fits = np.broadcast_shapes(labels.shape, shape) == shape
        except ValueError:
            fits = False
        if not fits or len(labels.shape) != len(shape):
            raise ValueError(
                f"`partition` must hold labels that broadcast against their variables. "
                f"Received: {labels.shape} for {path} of shape {shape}."
            )
    multipliers = partition.multipliers
    if multipliers is None:
        multipliers = np.ones(partition.groups)
    if (
        np.shape(multipliers) != (partition.groups,)
        or (np.asarray(multipliers) < 0).any()
    ):
        raise ValueError(
            f"`multipliers` must be {partition.groups} numbers >= 0, one a group. "
            f"Received: shape {np.shape(multipliers)}."
        )
    shapes = {v.path: tuple(v.shape) for v in variables}
    sizes = partition.sizes(shapes)
    scaled = np.asarray(multipliers) * np.maximum(sizes, 1.0) ** exponent
    blocks = []
    for paths in _connected(partition):
        members = np.unique(
            np.concatenate([partition.labels[p].ravel() for p in paths])
        )
        members = members[members >= 0]
        if not len(members):
            continue
        slices = []
        for path in paths:
            labels, shape = partition.labels[path], shapes[path]
            places = np.searchsorted(members, labels.ravel())
            places = np.where(labels.ravel() < 0, len(members), places)
            plain = np.array_equal(places, np.arange(len(members)))
            axes = tuple(
                axis
                for axis, (n, size) in enumerate(zip(labels.shape, shape, strict=True))
                if n == 1 and size > 1
            )
            slices.append(
                Slice(
                    index[path], axes, labels.shape,
                    None if plain else places.astype("int32"),
                )
            )  # fmt: skip
        blocks.append(
            Block(len(members), tuple(slices), sizes[members], scaled[members], members)
        )
    return blocks


def _connected(partition) -> list[list[str]]:
    """Paths whose variables share groups, directly or through others, together."""
    owner = np.full(partition.groups, -1)
    parent: dict[int, int] = {}

    def root(number: int) -> int:
        while parent[number] != number:
            number = parent[number]
        return number

    paths = list(partition.labels)
    for number, path in enumerate(paths):
        parent[number] = number
        labels = np.unique(partition.labels[path])
        labels = labels[labels >= 0]
        for other in np.unique(owner[labels]):
            if other >= 0:
                parent[root(int(other))] = number
        owner[labels] = number
    sets: dict[int, list[str]] = {}
    for number, path in enumerate(paths):
        sets.setdefault(root(number), []).append(path)
    return list(sets.values())
