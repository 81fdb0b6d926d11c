"""Plans a removal: which indices of which variables stay."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from tfsparse import records
from tfsparse.graph import groups, rules, trace
from tfsparse.graph.walk import MUST_LIVE

Keep = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """What stays of a model.

    Attributes:
        analysis: Groups and labels of the model that the plan is for.
        wanted: Kind -> bool for each root label: the units that `keep` keeps.
        alive: The same with the surplus: units that stay, zero, because a layer
            stores equally many in each of its rows.
        variables: Path -> {axis or (outer, inner): kept indices}; whole ones left out.
        lost: Call -> numbers of its inputs that were dropped with their branch.
        surplus: Group name -> sentence about its surplus.
        constants: Branch group -> what its dropped inputs still send on, per channel.
    """

    analysis: groups.Analysis
    wanted: dict[str, np.ndarray]
    alive: dict[str, np.ndarray]
    variables: dict[str, dict]
    lost: dict[trace.Call, set[int]]
    surplus: dict[str, str]
    constants: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def graph(self) -> trace.Graph:
        """The graph that the plan is for."""
        return self.analysis.graph

    @functools.cached_property
    def factors(self) -> dict[str, float]:
        """Path -> factor on weights that make up for a changed size."""
        found = {}
        for call in self.graph.calls:
            rule = rules.rule_of(call.operation).factors
            if rule is not None and call.index == 0:
                for variable, factor in rule(call, self).items():
                    if factor != 1.0:
                        found[self.graph.paths[variable]] = factor
        return found

    def cut(self, path: str, value: np.ndarray) -> np.ndarray:
        """The part of a variable's value that stays; of labels, whole numbers, as it is."""
        for axis, indices in self.variables.get(path, {}).items():
            if isinstance(axis, tuple):
                value = _take_rows(value, axis, indices)
            else:
                value = np.take(value, indices, axis=axis)
        factor = None if value.dtype.kind == "i" else self.factors.get(path)
        return value if factor is None else value * np.asarray(factor, value.dtype)

    def shape(self, variable) -> tuple[int, ...]:
        """The shape that a variable will have."""
        shape = list(variable.shape)
        path = self.graph.paths[id(variable)]
        for axis, indices in self.variables.get(path, {}).items():
            if isinstance(axis, tuple):
                outer = len(np.unique(indices // variable.shape[axis[1]]))
                shape[axis[0]], shape[axis[1]] = outer, len(indices) // outer
            else:
                shape[axis] = len(indices)
        return tuple(shape)

    def positions(self, variable, axis: int) -> np.ndarray:
        """The indices that stay on one axis of a variable."""
        whole = np.arange(variable.shape[axis])
        return self.variables.get(self.graph.paths[id(variable)], {}).get(axis, whole)

    def kept(self, tensor, axis: int, kinds=groups.LABELLED) -> np.ndarray:
        """For one axis of a tensor, True where its index stays. `(n,)` bool."""
        axis %= len(tensor.shape)
        stays = np.ones(tensor.shape[axis] or 0, dtype=bool)
        for kind, alive in self.alive.items():
            labels = self.analysis.axes[kind][tensor][axis]
            if kind in kinds and labels is not None:
                stays = stays & alive_at(alive, labels)
        return stays

    def size(self, tensor) -> int:
        """Elements that a tensor will have for one sample; unknown sizes count 1."""
        count = 1
        for axis, n in enumerate(tensor.shape[1:], 1):
            count *= int(self.kept(tensor, axis).sum()) if n else 1
        return count

    def extent(self, tensor, axis: int) -> int:
        """Length that one axis of a tensor will have; 1 where it is unknown."""
        return int(self.kept(tensor, axis).sum()) if tensor.shape[axis] else 1

    def closed(self, only_surplus: bool):
        """Gates to close: `(layer, call, input)` -> [(axis, bool that stays open)].

        Those of the surplus only, for the small model; or those of everything that
        was dropped, lost branches included (axis None), for the masked one.
        """
        gates: dict[tuple, list] = {}
        if "unit" in self.wanted:
            wanted, alive = self.wanted["unit"], self.alive["unit"]
            for layer, call, number, axis, labels in self.analysis.walks["unit"].gates:
                stays = alive_at(wanted, labels)
                if only_surplus:
                    stays = stays[alive_at(alive, labels)]
                if not stays.all():
                    gates.setdefault((layer, call, number), []).append((axis, stays))
        for call, numbers in ({} if only_surplus else self.lost).items():
            for number in numbers:
                gates[call.name, call.index, number] = [(None, np.zeros(1, bool))]
        return gates


def alive_at(alive: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether the unit of each label lives; places without a label (-1) always do."""
    return (labels < 0) | alive[labels]


def _take_rows(value: np.ndarray, axes: tuple[int, int], indices) -> np.ndarray:
    """Other places of the inner axis for each place of the outer one."""
    front = np.moveaxis(value, axes, (0, 1))
    outer, inner, *rest = front.shape
    rows = len(np.unique(indices // inner))
    taken = front.reshape(outer * inner, *rest)[indices].reshape(rows, -1, *rest)
    return np.moveaxis(taken, (0, 1), axes)


def check_keep(
    keep: Keep, found: tuple[records.UnitGroup, ...], empty: bool = False
) -> dict[str, np.ndarray]:
    """Validates keep masks against the groups of a model.

    Raises:
        ValueError: An unknown or frozen group is named, or a mask has the wrong
            length or type, or would leave no unit.
    """
    known = {group.name: group for group in found}
    checked = {}
    if not isinstance(keep, Mapping):
        raise ValueError(
            "`keep` must map group names to bool arrays. "
            f"Received: {type(keep).__name__}."
        )
    for name, values in keep.items():
        if name not in known:
            raise ValueError(
                f"`keep` must name groups of the model. Received: {name!r}; "
                f"known: {sorted(known)}."
            )
        group = known[name]
        try:
            values = np.asarray(values)
        except ValueError as error:
            raise ValueError(
                f"`keep[{name!r}]` must be a bool array of shape ({group.size},). "
                f"Received: {error}."
            ) from error
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
        if not values.any() and (group.kind == "branch" or not empty):
            raise ValueError(
                f"`keep[{name!r}]` must leave at least one unit. "
                f"Received: all {group.size} dropped."
            )
        checked[name] = values
    return checked


def kinds_in(keep: Keep) -> tuple[str, ...]:
    """The kinds of groups that a keep needs to be known."""
    named = {"branch": ":branches", "feature": ":features"}
    names = [str(name) for name in keep] if isinstance(keep, Mapping) else []
    return (
        "unit",
        *(k for k, part in named.items() if any(part in name for name in names)),
    )


def plan(
    model, keep: Keep, analysis: groups.Analysis | None = None, empty: bool = False
) -> Plan:
    """Works out what stays of `model` under `keep`. See `Plan`.

    Args:
        model: A built Functional or Sequential model.
        keep: Group name -> bool array `(units,)`, True = stays.
        analysis: What `groups.analyse` found, where many plans are made of one model.
        empty: Whether groups may lose all units: good for a mask, not for a strip.

    Raises:
        ValueError: `keep` does not fit the model's groups.
    """
    if analysis is None:
        analysis = groups.analyse(model, kinds_in(keep))
    keep = check_keep(keep, analysis.groups, empty)
    wanted = {
        kind: np.ones(len(walk.roots), bool) for kind, walk in analysis.walks.items()
    }
    lost: dict[trace.Call, set[int]] = {}
    calls = {(call.name, call.index): call for call in analysis.graph.calls}
    for group in analysis.groups:
        if group.name not in keep:
            continue
        gone = ~keep[group.name]
        if group.kind == "branch":
            call = calls[group.gates[0].layer, group.gates[0].call]
            lost[call] = set(np.flatnonzero(gone).tolist())
        else:
            wanted[group.kind][analysis.walks[group.kind].units[group.name][gone]] = (
                False
            )
    alive = {kind: values.copy() for kind, values in wanted.items()}
    layers: dict[str, str] = {}
    if "unit" in alive:
        layers = _settle(analysis.walks["unit"].lanes, wanted["unit"], alive["unit"])
    surplus = {
        name: f"{layers['']} needs as many units in each of its parts: "
        f"{int(more)} stay with weights of zero"
        for name, units in (analysis.walks["unit"].units if layers else {}).items()
        if (more := (alive["unit"] & ~wanted["unit"])[units].sum())
    }
    cuts = {} if empty else _cuts(analysis, alive)
    return Plan(analysis, wanted, alive, cuts, lost, surplus)


def _settle(lanes, wanted: np.ndarray, alive: np.ndarray) -> dict[str, str]:
    """Drops what a dropped owner takes along, then evens the rows out, upwards."""
    for lane in lanes:
        if lane.owner >= 0 and not alive[lane.owner]:
            for part in lane.parts:
                wanted[part[part >= 0]] = alive[part[part >= 0]] = False
    sets: dict[int, list] = {}
    for lane in lanes:
        sets.setdefault(lane.number, []).append(lane)
    raised: dict[str, str] = {}
    changed = True
    while changed:
        changed = False
        for rows in sets.values():
            live = [row for row in rows if _is_live(row, alive)]
            for k in range(len(rows[0].parts)):
                counts = [int(alive_at(alive, row.parts[k]).sum()) for row in live]
                most = max([*counts, 1])
                for row, count in zip(live, counts, strict=True):
                    if count < most:
                        dead = row.parts[k][~alive_at(alive, row.parts[k])]
                        alive[dead[: most - count]] = True
                        raised[""] = repr(row.layer)
                        changed = True
    return raised


def _is_live(lane, alive) -> bool:
    if lane.owner == MUST_LIVE:
        return True
    if lane.owner >= 0:
        return bool(alive[lane.owner])
    return any(alive_at(alive, part).any() for part in lane.parts)


def _cuts(analysis, alive) -> dict[str, dict]:
    """Path -> axis -> indices that stay, where some go."""
    stays: dict[tuple, np.ndarray] = {}
    for kind, walk in analysis.walks.items():
        for (path, axis, _), labels in walk.members.items():
            mask = alive_at(alive[kind], labels)
            if not mask.all():
                stays[path, axis] = stays.get((path, axis), True) & mask
    cuts: dict[str, dict] = {}
    variables = analysis.graph.variables
    for (path, axis), mask in stays.items():
        if not mask.any():
            raise ValueError(
                f"`keep` must leave something of {path}. Received: masks that together "
                f"drop all {len(mask)} indices of its axis {axis}."
            )
        cuts.setdefault(path, {})[axis] = mask
    for path, axes in cuts.items():
        for axis in [a for a in axes if isinstance(a, tuple)]:
            rows = axes[axis].reshape([variables[path].shape[a] for a in axis])
            for place, one in enumerate(axis):  # these two are cut together
                if one in axes:
                    rows = rows & np.expand_dims(axes.pop(one), 1 - place)
            counts = rows.sum(axis=1)
            if len(set(counts[counts > 0].tolist())) != 1:
                raise records.StripError(
                    f"The rows of {path} must keep equally many units. "
                    f"Received: {sorted(set(counts.tolist()))} on axes {axis}."
                )
            axes[axis] = rows.reshape(-1)
    for operation in analysis.graph.operations:
        own = {v.name: v for v in trace.variables_of(operation)}
        for name, like in getattr(operation, "cut_alike", {}).items():
            if name in own and (path := analysis.graph.paths[id(own[like])]) in cuts:
                cuts[analysis.graph.paths[id(own[name])]] = cuts[path]
    return {
        path: {axis: np.flatnonzero(mask) for axis, mask in axes.items()}
        for path, axes in cuts.items()
    }
