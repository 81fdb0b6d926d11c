"""Values of a model's variables: read, zeroed, cut and written again."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from keras import ops

from tfsparse import records
from tfsparse.deploy.removal import Plan, alive_at
from tfsparse.graph import trace
from tfsparse.graph.rebuild import refresh


def values_of(model) -> dict[str, np.ndarray]:
    """Path -> value of every variable of a model."""
    variables = trace.read(model).variables
    return {path: ops.convert_to_numpy(v) for path, v in variables.items()}


def rows(value: np.ndarray, axis) -> np.ndarray:
    """A value with the positions of a member's axis, or of its two, in front."""
    if not isinstance(axis, tuple):
        return np.moveaxis(value, axis, 0)
    front = np.moveaxis(value, axis, (0, 1))
    return front.reshape(-1, *front.shape[2:])


def zero(value: np.ndarray, axis, gone: np.ndarray) -> None:
    """Zeroes positions of a member's axis, or of its two, in place."""
    if isinstance(axis, tuple):
        front = np.moveaxis(value, axis, (0, 1))
        front[gone.reshape(front.shape[:2])] = 0
    else:
        np.moveaxis(value, axis, 0)[gone] = 0


def masked(values, planned: Plan, surplus: bool = False) -> dict[str, np.ndarray]:
    """Values with the weights zeroed that read dropped units.

    Args:
        values: Path -> value of every variable.
        planned: What is dropped.
        surplus: Zero what writes and carries a surplus unit, too: for the small model,
            from which all else that is zeroed is cut. Without a surplus the values are
            returned as they are.
    """
    if surplus and all(
        (planned.wanted[kind] == alive).all() for kind, alive in planned.alive.items()
    ):
        return values
    values, copied = dict(values), set()
    for kind, walk in planned.analysis.walks.items():
        wanted, alive = planned.wanted[kind], planned.alive[kind]
        for (path, axis, role), labels in walk.members.items():
            gone = ~alive_at(wanted, labels)
            if role != records.CONSUMER:
                if not surplus or path.split("/")[-1].startswith("moving_"):
                    continue
                gone &= alive_at(alive, labels)
            if gone.any():
                if path not in copied:
                    copied.add(path)
                    values[path] = values[path].copy()
                zero(values[path], axis, gone)
    return values


def load(
    operations: dict[int, object],
    model,
    values,
    planned: Plan | None,
    loaded: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Writes `values` (path -> array), cut by the plan, into rebuilt operations.

    Args:
        operations: `id(old operation)` -> new operation.
        model: The old model, or its graph.
        values: Path -> value of every old variable.
        planned: What stays; None for all.
        loaded: What the new operations hold already, by old path: the same array is
            not written again.
    """
    graph, loaded = trace.read(model), loaded or {}
    for old in graph.operations:
        if operations.get(id(old)) is None:
            continue
        for source, target in pair(old, operations[id(old)]):
            path = graph.paths[id(source)]
            value = values[path]
            if loaded.get(path) is not value:
                target.assign(value if planned is None else planned.cut(path, value))
        refresh(operations[id(old)])


def pair(old, new) -> list[tuple]:
    """The variables of a layer beside those of its rebuilt twin."""
    before, now = trace.variables_of(old), trace.variables_of(new)
    if len(before) == len(now):
        return list(zip(before, now, strict=True))
    by_name = {v.name: v for v in now}  # a bias was added, names tell
    return [(v, by_name[v.name]) for v in before if v.name in by_name]
