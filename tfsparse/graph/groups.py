"""Finds the groups of units of a model in one walk over its calls.

Every tensor carries, for each of its axes, either None or one integer label per
index (-1: this index is no unit). Layers pass, create, tie, tile or freeze labels
by the rule registered for their class (`graph/rules.py`). Labels that end up with
the same members in the same roles are one group.
"""

from __future__ import annotations

import dataclasses

import keras
import numpy as np

from tfsparse import records
from tfsparse.graph import rules, trace

KINDS = ("unit", "feature")


class Walk:
    """What rules talk to: it hands out labels, ties them and notes their members.

    Args:
        kind: `unit`, where producers create labels, or `feature`, where the outputs
            of Flatten and of rank-2 inputs do.
        only_reader: `Call -> Call or None`, the single reader of a call's output.
        layer_of: Variable path -> name of its layer.
    """

    def __init__(self, kind: str, only_reader, layer_of: dict[str, str]):
        self.kind = kind
        self.only_reader = only_reader
        self._layer_of = layer_of
        self._parent: list[int] = []
        self._frozen: dict[int, str] = {}
        self._members: dict[tuple[str, int, str], np.ndarray] = {}
        self._sites: list[tuple[str, int, np.ndarray]] = []

    # Labels -------------------------------------------------------------------

    def new(self, size: int) -> np.ndarray:
        """`size` fresh labels."""
        first = len(self._parent)
        self._parent.extend(range(first, first + size))
        return np.arange(first, first + size)

    def root(self, label: int) -> int:
        """The representative of everything tied to `label`."""
        parent = self._parent
        while parent[label] != label:
            parent[label] = parent[parent[label]]
            label = parent[label]
        return label

    def roots(self, labels: np.ndarray) -> np.ndarray:
        """`root` for an array; -1 stays -1."""
        return np.array([-1 if k < 0 else self.root(k) for k in labels], dtype=int)

    def tie(self, first, second, reason="tied to a tensor that has no units"):
        """Makes two label arrays one, index by index.

        Where only one side has a label the unit cannot leave: it is frozen.

        Returns:
            The tied labels, or None where neither side has any.
        """
        if first is None and second is None:
            return None
        if first is None or second is None:
            self.freeze(first if second is None else second, reason)
            return first if second is None else second
        for a, b in zip(first, second, strict=True):
            if a >= 0 and b >= 0:
                self._parent[self.root(a)] = self.root(b)
            elif a >= 0 or b >= 0:
                self.freeze(np.array([max(a, b)]), reason)
        return np.maximum(first, second)

    def freeze(self, labels, reason: str) -> None:
        """Says that these units must stay, and why."""
        if labels is None:
            return
        for label in labels:
            if label >= 0:
                self._frozen.setdefault(int(label), reason)

    def freeze_all(self, axes, reason: str) -> None:
        """Freezes the labels of every axis in a list of tensors' axes."""
        for tensor in axes:
            for labels in tensor:
                self.freeze(labels, reason)

    # Members ------------------------------------------------------------------

    def _member(self, variable, axis: int, role: str, labels) -> None:
        key = (variable.path, axis, role)
        if key in self._members:  # a shared layer: the same weights, called again
            reason = f"{variable.path} is shared with a call whose input has no units"
            labels = self.tie(self._members[key], labels, reason)
        self._members[key] = labels

    def produce(self, variable, axis: int):
        """Labels for the axis that writes units; the same again for a shared layer."""
        if self.kind != "unit":
            return None
        key = (variable.path, axis, records.PRODUCER)
        if key not in self._members:
            self._members[key] = self.new(variable.shape[axis])
        return self._members[key]

    def carry(self, variable, axis: int, labels) -> None:
        """Notes per-channel weights on the unit's way."""
        if variable is not None:
            self._member(
                variable, axis, records.CARRIER, self._or_none(variable, axis, labels)
            )

    def consume(self, variable, axis: int, labels) -> None:
        """Notes the weights that read the units."""
        self._member(
            variable, axis, records.CONSUMER, self._or_none(variable, axis, labels)
        )

    @staticmethod
    def _or_none(variable, axis, labels):
        return np.full(variable.shape[axis], -1) if labels is None else labels

    def source(self, layer: str, call: int, size: int | None):
        """Feature labels for what a layer puts out; None when units are sought."""
        if self.kind != "feature" or size is None:
            return None
        labels = self.new(size)
        self._sites.append((layer, call, labels))
        return labels

    def site(self, call, labels) -> None:
        """Notes that the output of `call` ends an affine chain of these units."""
        if self.kind == "unit" and labels is not None:
            self._sites.append((call.operation.name, call.index, labels))

    # Result -------------------------------------------------------------------

    def groups(self) -> list[tuple[records.UnitGroup, np.ndarray]]:
        """The groups found, each with the root label of each of its units."""
        reasons: dict[int, str] = {}
        for label, reason in self._frozen.items():
            reasons.setdefault(self.root(label), reason)
        keys = [key for key, labels in self._members.items() if (labels >= 0).any()]
        rooted = {key: self.roots(self._members[key]) for key in keys}
        seen: dict[int, list[int]] = {}
        for number, key in enumerate(keys):
            for root in dict.fromkeys(rooted[key].tolist()):
                if root >= 0:
                    seen.setdefault(root, []).append(number)
        classes: dict[tuple, list[int]] = {}
        for root, numbers in seen.items():
            classes.setdefault((tuple(numbers), reasons.get(root)), []).append(root)
        sites = [
            (layer, call, self.roots(labels)) for layer, call, labels in self._sites
        ]
        found, used = [], {}
        for (numbers, reason), roots in classes.items():
            unit_of = {root: unit for unit, root in enumerate(roots)}
            members = tuple(
                _member_record(keys[number], rooted[keys[number]], unit_of)
                for number in numbers
            )
            placed = tuple(
                site
                for layer, call, labels in sites
                if (site := _site_record(layer, call, labels, unit_of)) is not None
            )
            name = self._name(members, placed)
            if name is None:
                continue  # nothing writes these units: an input axis read once
            if name in used:
                used[name] += 1
                name = f"{name}_part{used[name]}"
            else:
                used[name] = 0
            group = records.UnitGroup(
                name, self.kind, len(roots), reason, members, placed
            )
            found.append((group, np.array(roots)))
        return found

    def _name(self, members, sites):
        if self.kind == "feature":
            readers = [m for m in members if m.role == records.CONSUMER]
            if not readers or not sites:
                return None
            return f"{self._layer_of[readers[0].path]}:features"
        writers = [m for m in members if m.role == records.PRODUCER]
        return self._layer_of[writers[0].path] if writers else None


def _member_record(key, rooted, unit_of) -> records.Member:
    path, axis, role = key
    units = np.array([unit_of.get(root, -1) for root in rooted.tolist()])
    indices = np.flatnonzero(units >= 0)
    return records.Member(path, axis, role, indices, units[indices])


def _site_record(layer, call, labels, unit_of):
    units = [unit_of.get(root, -1) for root in labels.tolist()]
    if max(units, default=-1) < 0:
        return None
    plain = units == list(range(len(unit_of)))
    return records.Site(layer, call, len(units), None if plain else tuple(units))


@dataclasses.dataclass(frozen=True)
class Analysis:
    """Groups of a model together with the labels of every tensor.

    Attributes:
        groups: What `find_groups` returns.
        roots: Group name -> root label of each of its units.
        axes: `id(tensor)` -> per kind, the rooted labels of its axes.
    """

    groups: tuple[records.UnitGroup, ...]
    roots: dict[str, np.ndarray]
    axes: dict[int, dict[str, list]]


def analyse(model, kinds=("unit",)) -> Analysis:
    """One walk for each kind of group. See `find_groups`."""
    unknown = set(kinds) - set(KINDS)
    if unknown:
        raise ValueError(f"`kinds` must be among {KINDS}. Received: {sorted(unknown)}.")
    model = trace.functional(model)
    found = trace.calls(model)
    readers = trace.consumers(found)
    outputs = {id(t) for t in keras.tree.flatten(model.outputs)}

    def only_reader(call):
        reading = [r for t in call.outputs for r in readers.get(id(t), [])]
        exposed = any(id(t) in outputs for t in call.outputs)
        return reading[0] if len(reading) == 1 and not exposed else None

    layer_of = {
        variable.path: call.operation.name
        for call in found
        for variable in trace.variables_of(call.operation)
    }
    groups, roots, axes = [], {}, {}
    for kind in kinds:
        walk = Walk(kind, only_reader, layer_of)
        tensors = {}
        for tensor in model.inputs:
            tensors[id(tensor)] = [None] * len(tensor.shape)
            if len(tensor.shape) == 2:
                name = trace.origin(tensor)
                tensors[id(tensor)][1] = walk.source(name, 0, tensor.shape[1])
        for call in found:
            incoming = [tensors.get(id(t), [None] * len(t.shape)) for t in call.inputs]
            outgoing = rules.rule_of(call.operation)(walk, call, incoming)
            for tensor, labels in zip(call.outputs, outgoing, strict=True):
                tensors[id(tensor)] = labels
        for tensor in model.outputs:
            walk.freeze_all([tensors[id(tensor)]], "its units are the model's output")
        for group, group_roots in walk.groups():
            groups.append(group)
            roots[group.name] = group_roots
        for key, labels in tensors.items():
            axes.setdefault(key, {})[kind] = [
                None if x is None else walk.roots(x) for x in labels
            ]
    return Analysis(tuple(groups), roots, axes)


def find_groups(model, kinds=("unit",)) -> tuple[records.UnitGroup, ...]:
    """Finds all groups of units of a model, by reading its graph once.

    Args:
        model: A built Functional or Sequential Keras model.
        kinds: Which kinds of groups: `unit` (neurons, channels) and `feature` (rows
            behind the model's input or a Flatten, one by one).

    Returns:
        A tuple of `UnitGroup`, in the order in which their producers are called.

    Raises:
        ValueError: `model` is not built or is a subclass, or a kind is unknown.

    Example:
        >>> net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3),
        ...                         keras.layers.Dense(2, name="out")])
        >>> [(g.size, g.frozen) for g in find_groups(net)]
        [(3, None), (2, "its units are the model's output")]
    """
    return analyse(model, tuple(kinds)).groups
