"""Units that are dead already: nothing that they send on depends on the input."""

from __future__ import annotations

import numpy as np

from tfsparse import records
from tfsparse.deploy import lost, variables
from tfsparse.graph import groups, trace
from tfsparse.graph.rebuild import rebuild
from tfsparse.graph.rules import rule_of


def dead_units(model, tolerance: float = 0.0) -> dict[str, np.ndarray]:
    """Finds the units that no longer do anything.

    A unit is dead if the L2 norm of all its producer slices is at most `tolerance`
    (its output is then a constant), or that of all its consumer slices is; or if on
    every way to a consumer some producer slice, or the scale that a normaliser
    or a depthwise convolution has for it, has such a norm.

    Args:
        model: A built Functional or Sequential Keras model.
        tolerance: Largest norm that counts as zero; not negative.

    Returns:
        Keep masks, group name -> bool array `(units,)`, for every group that is not
        frozen. Where all units of a group are dead, the first is kept.

    Raises:
        ValueError: `tolerance` is negative or not a number.

    Example:
        >>> {name: int((~alive).sum()) for name, alive in dead_units(net).items()}
        {'conv': 3}
    """
    if not isinstance(tolerance, int | float | np.number) or not tolerance >= 0:
        raise ValueError(
            f"`tolerance` must be a number >= 0. Received: tolerance={tolerance!r}."
        )
    analysis = groups.analyse(model)
    graph = analysis.graph
    values = variables.values_of(graph)
    keep = alive_units(analysis, values, tolerance)
    for alive in keep.values():
        alive[0] |= not alive.any()
    return keep | lost.dead_branches(graph, values, tolerance)


def alive_units(analysis, values, tolerance: float) -> dict[str, np.ndarray]:
    """As `dead_units`, of units alone, and groups may have none that is alive."""
    stopped, _ = stopped_and_moved(analysis, values, tolerance)
    inner = _inner_biases(analysis.graph)
    keep = {}
    for group in analysis.groups:
        if group.frozen:
            continue
        roles = {member.role for member in group.members}
        roots = analysis.walks["unit"].units[group.name]
        alive = ~stopped[roots]
        if records.PRODUCER in roles:
            alive &= norms(group, records.PRODUCER, values) > tolerance
        alive |= _inner_norms(group, inner, values) > tolerance
        if records.CONSUMER in roles and not group.gates:
            alive &= norms(group, records.CONSUMER, values) > tolerance
        keep[group.name] = alive
    return keep


def settled(model, tolerance: float):
    """A copy in which the weights that make units dead are exactly zero.

    Args:
        model: A built model.
        tolerance: Largest norm that counts as zero; with 0 the model is returned.

    Returns:
        A model in which `dead_units` finds with tolerance 0 what it found before.
    """
    if isinstance(tolerance, int | float) and tolerance == 0:
        return model
    found = dead_units(model, tolerance)
    graph = trace.read(model)
    values = variables.values_of(graph)
    changed = {path: value.copy() for path, value in values.items()}
    scales = _scales(graph)
    for group in groups.find_groups(graph):
        dead = ~found.get(group.name, np.ones(group.size, bool))
        for member in group.members:
            small = norms(group, member.role, values) <= tolerance
            if member.role == records.CARRIER:
                if member.path not in scales:
                    continue
                small = norms_of(group, member, values) <= tolerance
            rows = variables.rows(changed[member.path], member.axis)
            places = np.zeros(len(rows), bool)
            places[member.indices] = (dead & small)[member.units]
            variables.zero(changed[member.path], member.axis, places)
    copy, operations = rebuild(graph)
    variables.load(operations, graph, changed, None)
    return copy


def stopped_and_moved(
    analysis, values, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Root label -> whether all that read it read a constant, and something does;
    and whether a constant of it meets a tensor without units that may move it.

    Follows the labels from call to call: a label is constant behind a producer whose
    slices for it are zero, behind a scale that is zero, and behind any other call that
    is given constants for it alone.
    """
    flow = _Flow(analysis, values, tolerance)
    for call in analysis.graph.calls:
        flow.follow(call)
    return flow.read & ~flow.alive, flow.moved


class _Flow:
    """Which labels are constants, call by call. Arrays are indexed by root label."""

    def __init__(self, analysis, values, tolerance: float):
        walk = analysis.walks["unit"]
        self._analysis, self._count = analysis, len(walk.roots)
        self._members: dict[str, list] = {}  # path -> (role, labels, whether zero)
        scales = _scales(analysis.graph)
        for (path, axis, role), labels in walk.members.items():
            if role != records.CARRIER or path in scales:
                rows = variables.rows(values[path], axis).astype("float64")
                zero = np.linalg.norm(rows.reshape(len(rows), -1), axis=1) <= tolerance
                own = labels >= 0
                self._members.setdefault(path, []).append(
                    (role, labels[own], zero[own])
                )
        self._gates: dict[tuple, list] = {}
        for layer, number_of_call, number, _, labels in walk.gates:
            key = (layer, number_of_call, number)
            self._gates.setdefault(key, []).append(labels[labels >= 0])
        self.read, self.alive, self.moved = np.zeros((3, self._count), bool)
        self._constant = {t: self._none() for t in analysis.graph.inputs}

    def _none(self) -> np.ndarray:
        return np.zeros(self._count, bool)

    def follow(self, call) -> None:
        """What one call makes of the constants that it is given."""
        given = [(t, labels_of(self._analysis, t)) for t in call.inputs]
        passed = self._arrive(call, given)
        self._end(call, given, passed)
        own = [
            member
            for variable in trace.variables_of(call.operation)
            for member in self._members.get(
                self._analysis.graph.paths[id(variable)], ()
            )
        ]
        written = self._write(own, passed)
        for role, labels, _ in own:
            if role == records.CONSUMER:
                self.read[labels] = True
                self.alive[labels] |= written[labels] & ~passed[labels]  # its own state
                for tensor, here in given:
                    common = np.intersect1d(here, labels)
                    self.alive[common] |= ~self._constant[tensor][common]
        self._constant.update((tensor, passed) for tensor in call.outputs)

    def _arrive(self, call, given) -> np.ndarray:
        """Labels of which every input holds a constant, or nothing."""
        passed, partly = np.zeros((2, self._count), bool)
        for _, here in given:
            passed[here] = True
        for tensor, here in given:
            passed[here] &= self._constant[tensor][here]
            if not rule_of(call.operation).side_by_side:
                partly |= ~np.isin(np.arange(self._count), here)
        for tensor in call.outputs:
            here = labels_of(self._analysis, tensor)
            self.moved[here] |= passed[here] & partly[here]
        return passed & ~partly  # a tensor without these units may work on them

    def _end(self, call, given, passed) -> None:
        """Labels that end here without weights are read; nothing of them goes on."""
        for number, (tensor, _) in enumerate(given):
            for labels in self._gates.get((call.name, call.index, number), ()):
                self.read[labels] = True
                self.alive[labels] |= ~self._constant[tensor][labels]
                passed[labels] = False  # a normaliser makes it what the others are

    def _write(self, own, passed) -> np.ndarray:
        """Scales and producers of zero make constants; returns what was written."""
        written = self._none()
        for role, labels, zero in own:
            if role == records.CARRIER:
                shut = self._none()
                shut[labels[zero]] = True
                shut[labels[~zero]] = False  # of several places all must be
                passed |= shut
            elif role == records.PRODUCER:
                passed[labels] = True
        for role, labels, zero in own:
            if role == records.PRODUCER:
                passed[labels[~zero]] = False
                written[labels] = True
        return written


def labels_of(analysis, tensor) -> np.ndarray:
    """The root labels on all axes of a tensor, once each."""
    found = [x for x in analysis.axes["unit"][tensor] if x is not None]
    labels = np.unique(np.concatenate(found)) if found else np.zeros(0, int)
    return labels[labels >= 0]


def _scales(graph) -> set[str]:
    """Paths of the weights that multiply every unit by a number of its own."""
    found = set()
    for operation in graph.operations:
        for layer in (operation, *_inside(operation)):
            if (factors := rule_of(layer).multiplies) is not None:
                found |= {graph.paths[id(variable)] for variable in factors(layer)}
    return found


def _inside(operation) -> list:
    """The layer that a wrapper holds."""
    inner = rule_of(operation).inner
    return [] if inner is None else [inner(operation)]


def _inner_biases(graph) -> dict[str, set[str]]:
    """Path of a bias between two kernels of one layer -> all paths of that layer.

    A unit that has such a bias is no constant that could be folded, as nothing outside
    the layer sees it.
    """
    found: dict[str, set[str]] = {}
    for operation in graph.operations:
        if (inner := rule_of(operation).inner_biases) is not None:
            own = {graph.paths[id(v)] for v in trace.variables_of(operation)}
            found |= {graph.paths[id(bias)]: own for bias in inner(operation)}
    return found


def _inner_norms(group, inner: dict[str, set[str]], values) -> np.ndarray:
    """L2 norm of the inner biases of each unit that its own layer reads."""
    squares = np.zeros(group.size)
    read = {m.path for m in group.members if m.role == records.CONSUMER}
    for member in group.members:
        if member.role == records.CARRIER and read & inner.get(member.path, set()):
            squares += norms_of(group, member, values) ** 2
    return np.sqrt(squares)


def norms(group, role: str, values) -> np.ndarray:
    """L2 norm of all the slices of each unit that members of one role hold."""
    squares = np.zeros(group.size)
    for member in group.members:
        if member.role == role:
            squares += norms_of(group, member, values) ** 2
    return np.sqrt(squares)


def norms_of(group, member, values) -> np.ndarray:
    """L2 norm of the slices of each unit that one member holds."""
    squares = np.zeros(group.size)
    sums = np.square(member.slices(values[member.path]).astype("float64")).sum(axis=1)
    np.add.at(squares, member.units, sums)
    return np.sqrt(squares)
