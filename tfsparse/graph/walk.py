"""What rules talk to: labels of units, which are the same, and where they are kept."""

from __future__ import annotations

import dataclasses

import numpy as np

from tfsparse import records
from tfsparse.graph import trace

MUST_LIVE = -2


@dataclasses.dataclass(frozen=True, eq=False)
class Lane:
    """One row of a layer that stores equally many units in each of its rows.

    Attributes:
        layer: Name of the layer.
        number: Rows with one number are compared with each other.
        owner: Label whose unit takes the whole row with it (an attention head); -1
            where the row leaves when all its parts are empty (a convolution's group);
            `MUST_LIVE` where it has to keep something.
        parts: Label arrays; the k-th parts of all rows must keep equal counts.
    """

    layer: str
    number: int
    owner: int
    parts: tuple[np.ndarray, ...]


class Walk:
    """Hands out labels, ties them, freezes them and notes their members.

    A label is an integer; -1 stands for an index that is no unit. Ties are only
    noted: what is one unit is worked out once, at the end.

    Args:
        graph: The graph that is walked.
        kind: `unit`, where producers create labels, or `feature`, where the outputs
            of Flatten and of rank-2 inputs do.
    """

    def __init__(self, graph: trace.Graph, kind: str):
        self.kind = kind
        self._graph = graph
        self._size = 0
        self._ties: list[tuple[np.ndarray, np.ndarray]] = []
        self._frozen: list[tuple[np.ndarray, str]] = []
        self._members: dict[tuple, np.ndarray] = {}
        self._roles: dict[tuple, list[str]] = {}
        self._suffixes: dict[tuple, str] = {}
        self._sites: list[tuple[str, int, np.ndarray]] = []
        self._gates: list[tuple[str, int, int, int, np.ndarray]] = []
        self._lanes: list[Lane] = []
        self._layer_of = {
            graph.paths[id(v)]: call.name
            for call in graph.calls
            for v in trace.variables_of(call.operation)
        }

    def only_reader(self, call):
        """The one call that reads a call's outputs; None if several do."""
        return self._graph.only_reader(call)

    # Labels -------------------------------------------------------------------

    def new(self, size: int) -> np.ndarray:
        """`size` fresh labels."""
        self._size += size
        return np.arange(self._size - size, self._size)

    def tie(self, first, second, reason="tied to a tensor that has no units"):
        """Makes two label arrays one, index by index.

        Where only one side has a label the unit cannot leave: it is frozen.

        Returns:
            The tied labels, or None where neither side has any.
        """
        if first is None or second is None:
            self.freeze(first if second is None else second, reason)
            return first if second is None else second
        if len(first) != len(second):
            raise ValueError(
                "Labels to tie must be equally many. "
                f"Received: {len(first)} and {len(second)}."
            )
        both = (first >= 0) & (second >= 0)
        if both.any():
            self._ties.append((first[both], second[both]))
        self.freeze(np.maximum(first, second)[~both], reason)
        return np.maximum(first, second)

    def join(self, labels) -> None:
        """Makes all these labels one unit."""
        labels = labels[labels >= 0]
        if len(labels) > 1:
            self._ties.append((labels[:-1], labels[1:]))

    def freeze(self, labels, reason: str) -> None:
        """Says that these units must stay, and why."""
        if labels is not None:
            labels = labels[labels >= 0]
            if len(labels):
                self._frozen.append((labels, reason))

    def freeze_all(self, axes, reason: str) -> None:
        """Freezes the labels of every axis in a list of tensors' axes."""
        for tensor in axes:
            for labels in tensor:
                self.freeze(labels, reason)

    # Members ------------------------------------------------------------------

    def _member(self, variable, axis, role: str, labels) -> None:
        path = self._graph.paths[id(variable)]
        roles = self._roles.setdefault((path, axis), [])
        if roles:  # the same weights again, called twice or in another role
            reason = f"{path} is shared with a call whose input has no units"
            labels = self.tie(self._members[path, axis, roles[0]], labels, reason)
        if role not in roles:
            roles.append(role)
        for known in roles:
            self._members[path, axis, known] = labels

    def produce(self, variable, axis, suffix: str = "", labels=None):
        """Labels for the axis that writes units; the same again for a shared layer.

        Args:
            variable: The weights.
            axis: Its axis, or two axes read as one.
            suffix: Added to the layer's name, where it writes several groups.
            labels: Labels to use instead of fresh ones.
        """
        if self.kind != "unit":
            return None
        key = (self._graph.paths[id(variable)], axis, records.PRODUCER)
        if key not in self._members:
            if labels is None:
                labels = self.new(_length(variable, axis))
            self._suffixes[key] = suffix
            self._member(variable, axis, records.PRODUCER, labels)
        elif labels is not None:
            self._member(variable, axis, records.PRODUCER, labels)
        return self._members[key]

    def carry(self, variable, axis, labels) -> None:
        """Notes per-channel weights on the unit's way."""
        if variable is not None:
            labels = _or_none(variable, axis, labels)
            self._member(variable, axis, records.CARRIER, labels)

    def consume(self, variable, axis, labels) -> None:
        """Notes the weights that read the units."""
        labels = _or_none(variable, axis, labels)
        self._member(variable, axis, records.CONSUMER, labels)

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
            self._sites.append((call.name, call.index, labels))

    def gate(self, call, number: int, axis: int, labels) -> None:
        """Notes that units end here without weights that a mask could zero."""
        if labels is None:
            return
        if self.kind == "unit":
            axis %= len(call.inputs[number].shape)
            self._gates.append((call.name, call.index, number, axis, labels))
        else:
            self.freeze(labels, f"a feature reaches {call.name!r}")

    def lanes(self, call, rows) -> None:
        """Notes that a layer stores equally many units in each row.

        Args:
            call: The call.
            rows: `(owner label or -1, label arrays)` for each row; see `Lane`.
        """
        if self.kind == "unit":
            number = len(self._lanes)
            for owner, parts in rows:
                self._lanes.append(Lane(call.name, number, int(owner), tuple(parts)))

    def least(self, call, labels) -> None:
        """Notes that of a tensor's units one has to stay, as no axis can be empty."""
        if self.kind == "unit" and (labels >= 0).all():
            number = len(self._lanes)
            self._lanes.append(Lane(call.name, number, MUST_LIVE, (labels,)))

    # Result -------------------------------------------------------------------

    def result(self) -> Result:
        """Works out what is one unit, and gathers units into groups."""
        roots = _components(self._size, self._ties)

        def rooted(labels):
            return np.where(labels >= 0, roots[labels], -1)

        keys = {k: rooted(v) for k, v in self._members.items() if (v >= 0).any()}
        gates = [(*rest, rooted(labels)) for *rest, labels in self._gates]
        reason_of, reasons = self._reasons(roots)
        group_of, unit_of, members = _classes(
            self._size, [*keys.values(), *(g[-1] for g in gates)], reason_of
        )
        sites = [(name, call, rooted(labels)) for name, call, labels in self._sites]

        def split(entries):
            return _split(
                [entry[:-1] for entry in entries],
                [entry[-1] for entry in entries],
                group_of,
                unit_of,
                len(members),
            )

        held = _split(list(keys), keys.values(), group_of, unit_of, len(members))
        found: list[records.UnitGroup] = []
        root_arrays: dict[str, np.ndarray] = {}
        parts = zip(members, held, split(sites), split(gates), strict=True)
        for own, *group_parts in parts:
            reason = reason_of[own[0]]
            frozen = None if reason < 0 else reasons[reason]
            group = self._group(len(own), frozen, *group_parts)
            if group is not None:
                group = _renamed(group, root_arrays)
                found.append(group)
                root_arrays[group.name] = own
        lanes = [
            dataclasses.replace(
                lane,
                owner=lane.owner if lane.owner < 0 else int(roots[lane.owner]),
                parts=tuple(rooted(part) for part in lane.parts),
            )
            for lane in self._lanes
        ]
        return Result(found, root_arrays, roots, keys, gates, lanes)

    def _group(self, size, frozen, held, sites, gates) -> records.UnitGroup | None:
        """A group of units; None where nothing writes them: an input axis read once."""
        name = self._name(held, sites)
        if name is None:
            return None
        return records.UnitGroup(
            name,
            self.kind,
            size,
            frozen,
            tuple(
                records.Member(path, axis, role, indices, units[indices])
                for (path, axis, role), indices, units in held
            ),
            tuple(_site(layer, call, units, size) for (layer, call), _, units in sites),
            tuple(
                records.Gate(layer, call, number, axis, tuple(units.tolist()))
                for (layer, call, number, axis), _, units in gates
            ),
        )

    def _reasons(self, roots):
        """Root -> number of its first reason (-1: none), and the reasons."""
        texts = list(dict.fromkeys(reason for _, reason in self._frozen))
        number_of = {text: k for k, text in enumerate(texts)}
        reason_of = np.full(self._size, len(texts))
        for labels, reason in self._frozen:
            np.minimum.at(reason_of, roots[labels], number_of[reason])
        return np.where(reason_of == len(texts), -1, reason_of), texts

    def _name(self, held, sites):
        if self.kind == "feature":
            readers = [key for key, *_ in held if key[2] == records.CONSUMER]
            if not readers or not sites:
                return None
            return f"{self._layer_of[readers[0][0]]}:features"
        writers = [key for key, *_ in held if key[2] == records.PRODUCER]
        if not writers:
            return None
        return self._layer_of[writers[0][0]] + self._suffixes.get(writers[0], "")


def _renamed(group: records.UnitGroup, taken) -> records.UnitGroup:
    """The group, its name with a number behind it if another group has it."""
    name, number = group.name, 0
    while name in taken:
        number += 1
        name = f"{group.name}:part{number}"
    return dataclasses.replace(group, name=name)


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What a walk found.

    Attributes:
        groups: The groups.
        units: Group name -> root label of each of its units.
        roots: Label -> its root.
        members: (path, axis, role) -> root label of each position.
        gates: (layer, call, input, axis, root labels).
        lanes: Rows that need equal counts, in root labels.
    """

    groups: list[records.UnitGroup]
    units: dict[str, np.ndarray]
    roots: np.ndarray
    members: dict[tuple, np.ndarray]
    gates: list[tuple]
    lanes: list[Lane]

    def rooted(self, labels):
        """Root labels of an array of labels; None stays None, -1 stays -1."""
        if labels is None:
            return None
        return np.where(labels >= 0, self.roots[labels], -1)


def _length(variable, axis) -> int:
    axes = axis if isinstance(axis, tuple) else (axis,)
    return int(np.prod([variable.shape[a] for a in axes]))


def _or_none(variable, axis, labels):
    return np.full(_length(variable, axis), -1) if labels is None else labels


def _components(size: int, ties) -> np.ndarray:
    """The smallest label of everything tied together, for each label."""
    root = np.arange(size)
    if not ties:
        return root
    first = np.concatenate([a for a, _ in ties])
    second = np.concatenate([b for _, b in ties])
    while True:
        a, b = root[first], root[second]
        open_ties = a != b
        if not open_ties.any():
            return root
        first, second = first[open_ties], second[open_ties]
        a, b = a[open_ties], b[open_ties]
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while True:  # pointers jump until each shows at its root
            up = root[root]
            if (up == root).all():
                break
            root = up


def _classes(size: int, keys, reason_of):
    """Sorts roots into classes of one signature: the keys that hold them.

    Returns:
        Class and unit number of each root (-1 for none), and the roots of each class.
    """
    rng = np.random.default_rng(0)
    marks = rng.integers(1, 2**63, (len(keys), 2), dtype=np.uint64)  # a hash of the set
    signature = np.zeros((size, 2), np.uint64)
    seen = []
    for mark, labels in zip(marks, keys, strict=True):
        held = np.unique(labels[labels >= 0])
        signature[held] += mark
        first = labels[labels >= 0]
        seen.append(first[np.sort(np.unique(first, return_index=True)[1])])
    order = np.concatenate([np.zeros(0, int), *seen])
    order = order[np.sort(np.unique(order, return_index=True)[1])]
    number_of: dict[tuple, int] = {}
    group_of, unit_of = np.full(size, -1), np.full(size, -1)
    members: list[list[int]] = []
    for root in order.tolist():
        key = (*signature[root].tolist(), int(reason_of[root]))
        number = number_of.setdefault(key, len(members))
        if number == len(members):
            members.append([])
        group_of[root], unit_of[root] = number, len(members[number])
        members[number].append(root)
    return group_of, unit_of, [np.array(own) for own in members]


def _split(keys, arrays, group_of, unit_of, count: int) -> list[list[tuple]]:
    """For each group the keys that hold it: `(key, positions, unit or -1 of each)`."""
    held: list[list[tuple]] = [[] for _ in range(count)]
    for key, labels in zip(keys, arrays, strict=True):
        groups = np.where(labels >= 0, group_of[labels], -1)
        for number in np.unique(groups[groups >= 0]).tolist():
            mine = groups == number
            units = np.where(mine, unit_of[labels], -1)
            held[number].append((key, np.flatnonzero(mine), units))
    return held


def _site(layer, call, units, size) -> records.Site:
    plain = len(units) == size and (units == np.arange(size)).all()
    return records.Site(
        layer, call, len(units), None if plain else tuple(units.tolist())
    )
