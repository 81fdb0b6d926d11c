"""Lays the groups of a Partition out over variables, for sums in the graph."""

from __future__ import annotations

import dataclasses

import numpy as np

from tfsparse import numerics


def lay_out(partition, variables, exponent: float) -> list[numerics.Block]:
    """Lays a partition out over variables; groups that share none stand apart.

    Args:
        partition: The groups.
        variables: All trainable variables of a model.
        exponent: Of a group's size, in the factor on its penalty.

    Returns:
        Blocks; the index of a slice is the number of its variable in `variables`.

    Raises:
        ValueError: A variable is missing, or labels do not fit it.

    Example:
        >>> laid = lay_out(by_shape(model, "row"), model.trainable_variables, 0.5)
        >>> laid[0].groups
        5
    """
    index = {v.path: i for i, v in enumerate(variables)}
    shapes = {v.path: tuple(v.shape) for v in variables}
    _check_labels(partition, shapes)
    multipliers = _multipliers(partition)
    sizes = np.maximum(partition.sizes(shapes), 1.0)
    strengths = np.asarray(multipliers) * sizes**exponent
    found = []
    for paths in _connected(partition):
        block = numerics.Block.of(
            [partition.labels[path] for path in paths],
            [shapes[path] for path in paths],
            [index[path] for path in paths],
        )
        if block.groups:
            own = strengths[block.labels]
            found.append(dataclasses.replace(block, multipliers=own))
    return found


def _check_labels(partition, shapes) -> None:
    """Raises a ValueError where labels name no variable, or do not fit theirs."""
    for path, labels in [*partition.labels.items(), *partition.followers.items()]:
        if path not in shapes:
            raise ValueError(
                f"`partition` must name trainable variables. Received: {path!r}; known: "
                f"{sorted(shapes)[:8]}."
            )
        try:
            fits = np.broadcast_shapes(labels.shape, shapes[path]) == shapes[path]
        except ValueError:
            fits = False
        if not fits or len(labels.shape) != len(shapes[path]):
            raise ValueError(
                f"`partition` must hold labels that broadcast against their variables. "
                f"Received: {labels.shape} for {path} of shape {shapes[path]}."
            )


def _multipliers(partition) -> np.ndarray:
    """The partition's factors, 1 by default. Raises a ValueError where they do not fit."""
    factors = partition.multipliers
    if factors is None:
        return np.ones(partition.groups)
    if np.shape(factors) != (partition.groups,) or (np.asarray(factors) < 0).any():
        raise ValueError(
            f"`multipliers` must be {partition.groups} numbers >= 0, one a group. "
            f"Received: shape {np.shape(factors)}."
        )
    return np.asarray(factors)


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
