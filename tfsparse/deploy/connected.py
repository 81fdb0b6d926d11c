"""Whether anything still leads from a model's inputs to its outputs, by its weights."""

from __future__ import annotations

import numpy as np

from tfsparse import records
from tfsparse.deploy import dead, variables
from tfsparse.deploy.lower import lower
from tfsparse.graph import groups, trace
from tfsparse.graph.rules import rule_of

SMALL = 1e-4
"""L2 norm of what writes a unit, below which nothing of it is seen behind a bias."""


def connected(model) -> bool:
    """Whether a way of live units leads from an input to an output.

    Weights alone decide: statistics that lag or inputs of any scale make no network dead. A
    unit is dead below a norm of `SMALL`; in front of a BatchNorm, for which no size counts,
    below that share of the kernel's largest weight.

    Args:
        model: A built model, running or of stock layers.

    Example:
        >>> connected(net)
        True
    """
    analysis = groups.analyse(lower(model))
    graph = analysis.graph
    values = variables.values_of(graph)
    values |= _normed(graph, values)
    gone = _gone(analysis, values, SMALL)
    live = set(graph.inputs)
    for call in graph.calls:
        if not any(tensor in live for tensor in call.inputs) or _shut(
            graph, call, values
        ):
            continue
        for tensor in call.outputs:
            labels = dead.labels_of(analysis, tensor)
            if not len(labels) or not gone[labels].all():
                live.add(tensor)
    return any(tensor in live for tensor in graph.outputs)


def _normed(graph: trace.Graph, values) -> dict[str, np.ndarray]:
    """Matrices in front of a BatchNorm, brought to a largest weight of 1."""
    found = {}
    for call in graph.calls:
        reader = graph.only_reader(call)
        if reader is None or not rule_of(reader.operation).joins_front:
            continue
        for variable in trace.variables_of(call.operation):
            path = graph.paths[id(variable)]
            largest = np.abs(values[path]).max() if values[path].ndim > 1 else 0.0
            if largest > 0:
                found[path] = values[path] / largest
    return found


def _gone(analysis, values, tolerance: float) -> np.ndarray:
    """Root label -> whether its unit is dead, in frozen groups, too."""
    walk = analysis.walks["unit"]
    gone = np.zeros(len(walk.roots), bool)
    alive = dead.alive_units(analysis, values, tolerance)
    for group in analysis.groups:
        if group.name in alive:
            gone[walk.units[group.name]] = ~alive[group.name]
        elif any(member.role == records.PRODUCER for member in group.members):
            norms = dead.norms(group, records.PRODUCER, values)
            gone[walk.units[group.name]] = norms <= tolerance
    return gone


def _shut(graph: trace.Graph, call: trace.Call, values) -> bool:
    """Whether a call has matrices, and all of them are zero."""
    own = trace.variables_of(call.operation)
    found = [values[graph.paths[id(variable)]] for variable in own]
    matrices = [value for value in found if value.ndim > 1]
    return bool(matrices) and not any(value.any() for value in matrices)
