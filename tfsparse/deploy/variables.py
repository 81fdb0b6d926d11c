"""Values of a model's variables: read, zeroed, cut and written again."""

from __future__ import annotations

import numpy as np
from keras import ops

from tfsparse import records
from tfsparse.deploy.removal import Plan, alive_at
from tfsparse.graph import trace
from tfsparse.graph.rebuild import check_state, is_known, refresh


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


def silenced(planned: Plan, values) -> dict:
    """What a model needs so that nothing reads dropped units: `values`, and the rest.

    As `masked`, for a replay: weights are multiplied by zeros and ones where they lie,
    which copies none of them to the host and back.

    Args:
        planned: What is dropped.
        values: Path -> value that is to stand in for the variable's own.

    Returns:
        Path -> value or tensor; variables that stay as they are left out.
    """
    found, known = dict(values), planned.graph.variables
    for kind, walk in planned.analysis.walks.items():
        for (path, axis, role), labels in walk.members.items():
            stays = alive_at(planned.wanted[kind], labels)
            if role == records.CONSUMER and not stays.all():
                variable, shape = known[path], [1] * len(known[path].shape)
                for place in axis if isinstance(axis, tuple) else (axis,):
                    shape[place] = variable.shape[place]
                kind_of = variable.dtype
                factor = ops.cast(
                    _ordered(stays, axis, variable).reshape(shape), kind_of
                )
                value = ops.convert_to_tensor(found.get(path, variable), kind_of)
                found[path] = value * factor
    return found


def _ordered(flat: np.ndarray, axis, variable) -> np.ndarray:
    """Positions of two axes, listed as a member does, in the order of the variable's."""
    if not isinstance(axis, tuple):
        return flat
    both = flat.reshape([variable.shape[a] for a in axis])
    return both if axis[0] < axis[1] else both.T


def load(operations: dict[int, object], model, values, planned: Plan | None) -> None:
    """Writes `values` (path -> array), cut by the plan, into rebuilt operations."""
    graph = trace.read(model)
    for old in graph.operations:
        if operations.get(id(old)) is None:
            continue
        for source, target in pair(old, operations[id(old)]):
            path = graph.paths[id(source)]
            value = values[path]
            trace.set_path(target, path)
            target.assign(value if planned is None else planned.cut(path, value))
        refresh(operations[id(old)])
    alike = {
        id(old): operations[id(old)]
        for old in graph.operations
        if operations.get(id(old)) is not None and _same(old, operations[id(old)])
    }
    check_state(graph, alike)


def _same(old, new) -> bool:
    """Whether a user's layer and its copy hold the same weights."""
    if is_known(old):
        return False
    before, now = trace.variables_of(old), trace.variables_of(new)
    return len(before) == len(now) and all(
        a.shape == b.shape and bool(ops.all(ops.equal(a, b)))
        for a, b in zip(before, now, strict=True)
    )


def pair(old, new) -> list[tuple]:
    """The variables of a layer beside those of its rebuilt twin."""
    before, now = trace.variables_of(old), trace.variables_of(new)
    if len(before) == len(now):
        return list(zip(before, now, strict=True))
    by_name = {v.name: v for v in now}  # a bias was added, names tell
    return [(v, by_name[v.name]) for v in before if v.name in by_name]
