"""Plans a removal: which indices of which variables stay, and builds what is left."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from tfsparse import records
from tfsparse.graph import groups, rules, trace

Keep = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What stays of a model.

    Attributes:
        variables: Variable path -> {axis: kept indices}; whole variables left out.
        members: The members of dropped units, with the positions they own.
        analysis: Groups and labels of the model that the plan is for.
        dropped: Kind -> root labels of the dropped units.
    """

    variables: dict[str, dict[int, np.ndarray]]
    members: tuple[tuple[records.Member, np.ndarray], ...]
    analysis: groups.Analysis
    dropped: dict[str, np.ndarray]

    def cut(self, path: str, value: np.ndarray) -> np.ndarray:
        """The part of a variable's value that stays."""
        for axis, indices in self.variables.get(path, {}).items():
            value = np.take(value, indices, axis=axis)
        return value

    def shape(self, variable) -> tuple[int, ...]:
        """The shape that a variable will have."""
        shape = list(variable.shape)
        for axis, indices in self.variables.get(variable.path, {}).items():
            shape[axis] = len(indices)
        return tuple(shape)

    def stays(self, tensor, axis: int, kinds=groups.KINDS) -> np.ndarray:
        """For one axis of a tensor, True where its index stays. `(n,)` bool."""
        axis %= len(tensor.shape)
        stays = np.ones(tensor.shape[axis] or 0, dtype=bool)
        for kind, axes in self.analysis.axes.get(id(tensor), {}).items():
            if kind in kinds and axes[axis] is not None:
                stays &= ~np.isin(axes[axis], self.dropped[kind])
        return stays


def check_keep(
    keep: Keep, found: tuple[records.UnitGroup, ...]
) -> dict[str, np.ndarray]:
    """Validates keep masks against the groups of a model.

    Raises:
        ValueError: An unknown or frozen group is named, or a mask has the wrong
            length or type, or would leave no unit.
    """
    known = {group.name: group for group in found}
    checked = {}
    for name, values in keep.items():
        if name not in known:
            raise ValueError(
                f"`keep` must name groups of the model. Received: {name!r}; "
                f"known: {sorted(known)}."
            )
        group, values = known[name], np.asarray(values)
        if values.dtype != bool or values.shape != (group.size,):
            raise ValueError(
                f"`keep[{name!r}]` must be a bool array of shape ({group.size},). "
                f"Received: dtype={values.dtype}, shape={values.shape}."
            )
        if values.all():
            continue
        if group.frozen:
            raise ValueError(
                f"`keep` must not name frozen groups. Received: {name!r}, frozen "
                f"because {group.frozen}."
            )
        if not values.any():
            raise ValueError(
                f"`keep[{name!r}]` must leave at least one unit. "
                f"Received: all {group.size} dropped."
            )
        checked[name] = values
    return checked


def plan(model, keep: Keep) -> Plan:
    """Works out what stays of `model` under `keep`. See `Plan`."""
    kinds = groups.KINDS if any(":features" in name for name in keep) else ("unit",)
    analysis = groups.analyse(model, kinds)
    keep = check_keep(keep, analysis.groups)
    gone: dict[tuple[str, int], list[np.ndarray]] = {}
    dropped = {kind: [] for kind in kinds}
    members = []
    for group in analysis.groups:
        if group.name not in keep:
            continue
        stays = keep[group.name]
        dropped[group.kind].append(analysis.roots[group.name][~stays])
        for member in group.members:
            positions = member.indices[~stays[member.units]]
            gone.setdefault((member.path, member.axis), []).append(positions)
            members.append((member, positions))
    sizes = {v.path: v.shape for v in model.variables}
    variables: dict[str, dict[int, np.ndarray]] = {}
    for (path, axis), positions in gone.items():
        left = np.setdiff1d(np.arange(sizes[path][axis]), np.concatenate(positions))
        if not len(left):
            raise ValueError(
                f"`keep` must leave something of {path}. Received: masks that together "
                f"drop all {sizes[path][axis]} indices of its axis {axis}."
            )
        variables.setdefault(path, {})[axis] = left
    roots = {k: np.concatenate([np.zeros(0, int), *v]) for k, v in dropped.items()}
    return Plan(variables, tuple(members), analysis, roots)


def slices(model, keep: Keep) -> dict[str, dict[int, np.ndarray]]:
    """What of every variable stays under `keep`.

    Args:
        model: A built Functional or Sequential Keras model.
        keep: Group name -> bool array, True = stays.

    Returns:
        Variable path -> {axis: kept indices}; untouched variables are left out.

    Raises:
        ValueError: `keep` does not fit the model's groups.

    Example:
        >>> slices(net, {"dense": np.array([True, False, True])})["dense/kernel"]
        {1: array([0, 2])}
    """
    return plan(model, keep).variables


def kept_shapes(model, keep: Keep) -> dict[str, tuple[int, ...]]:
    """The shapes that variables will have under `keep`, for `graph.measure`."""
    planned = plan(model, keep)
    return {
        v.path: planned.shape(v) for v in model.variables if v.path in planned.variables
    }


def build(model, planned: Plan, bias_on: frozenset[str] = frozenset()):
    """Builds the model that `planned` leaves, with fresh weights.

    Args:
        model: The model that the plan was made for.
        planned: What stays.
        bias_on: Names of layers that get a bias, if they have none.

    Returns:
        The smaller model and the dict `id(old operation) -> new operation`.
    """
    found = trace.calls(model)
    readers = trace.consumers(found)
    first_call = {id(c.operation): c for c in reversed(found)}
    present: dict[int, np.ndarray] = {}  # old positions on the last axis, now there

    def make(operation):
        config = operation.get_config()
        _resize(operation, config, planned, first_call[id(operation)])
        if operation.name in bias_on and "use_bias" in config:
            config["use_bias"] = True
        return operation.__class__.from_config(config)

    def call(item, operation, args, kwargs):
        if type(item.operation) is rules.TAKE:
            wanted = rules.constant_indices(item)[planned.stays(item.outputs[0], -1)]
            return _take(args[0], wanted, present.get(id(item.inputs[0])))
        if hasattr(item.operation, "resized_call"):
            stays = planned.stays(item.outputs[0], -1)
            kwargs = item.operation.resized_call(kwargs, stays, planned.variables)
        return operation(*args, **kwargs)

    def after(old, new):
        stays = planned.stays(old, -1)
        if "feature" in planned.dropped and _is_source(old, planned, readers):
            units = np.flatnonzero(planned.stays(old, -1, ("unit",)))
            wanted = np.flatnonzero(stays)
            if len(wanted) < len(units):
                new = _take(new, wanted, units)
        elif _gathered(old, readers):
            stays = planned.stays(old, -1, ("unit",))
        present[id(old)] = np.flatnonzero(stays)
        return new

    return trace.rebuild(model, make, call, after)


def _gathered(tensor, readers) -> bool:
    reading = readers.get(id(tensor), [])
    return len(reading) == 1 and type(reading[0].operation) is rules.TAKE


def _is_source(tensor, planned, readers) -> bool:
    """Whether features are dropped here: a Flatten or an input, not gathered yet."""
    if _gathered(tensor, readers) or len(tensor.shape) != 2:
        return False
    sources = {
        site.layer
        for group in planned.analysis.groups
        if group.kind == "feature"
        for site in group.sites
    }
    origin = trace.origin(tensor)
    return origin in sources


def _take(tensor, wanted, present):
    """Gathers old positions `wanted` from a tensor that holds `present` of them."""
    indices = np.searchsorted(present, wanted)
    if len(indices) == len(present):
        return tensor
    return ops.take(tensor, indices.tolist(), axis=-1)


def _resize(operation, config: dict, planned: Plan, call) -> None:
    """Writes the new sizes into a layer's config."""
    if hasattr(operation, "resized"):
        shapes = {v.name: planned.shape(v) for v in operation.variables}
        config.update(operation.resized(shapes))
    elif isinstance(operation, keras.layers.Dense):
        config["units"] = planned.shape(operation.kernel)[-1]
    elif "filters" in config:
        kernel = getattr(operation, "pointwise_kernel", None)
        config["filters"] = planned.shape(
            operation.kernel if kernel is None else kernel
        )[-1]
    elif isinstance(operation, keras.layers.Rescaling):
        stays = planned.stays(call.outputs[0], -1)
        for name in ("scale", "offset"):
            if np.ndim(getattr(operation, name)):
                config[name] = np.asarray(getattr(operation, name))[stays].tolist()
    elif isinstance(operation, keras.layers.Reshape | rules.RESHAPE):
        shape = [
            int(planned.stays(call.outputs[0], axis).sum())
            for axis in range(1, len(call.outputs[0].shape))
        ]
        if "target_shape" in config:
            config["target_shape"] = shape
        else:
            config["newshape"] = [-1, *shape]


def load(operations: dict[int, object], model, values, planned: Plan | None) -> None:
    """Writes `values` (path -> array), cut by the plan, into rebuilt operations."""
    for old in model.layers:
        if id(old) not in operations:
            continue
        new = operations[id(old)]
        for source, target in pair(old, new):
            value = values[source.path]
            target.assign(value if planned is None else planned.cut(source.path, value))


def pair(old, new) -> list[tuple]:
    """The variables of a layer beside those of its rebuilt twin."""
    before, now = trace.variables_of(old), trace.variables_of(new)
    if len(before) == len(now):
        return list(zip(before, now, strict=True))
    by_name = {v.name: v for v in now}  # a bias was added, names tell
    return [(v, by_name[v.name]) for v in before if v.name in by_name]


def values_of(model) -> dict[str, np.ndarray]:
    """Path -> value of every variable of a model."""
    return {v.path: ops.convert_to_numpy(v) for v in model.variables}
