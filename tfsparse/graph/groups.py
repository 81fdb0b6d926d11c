"""Finds the groups of units of a model in one walk over its calls.

Every tensor carries, for each of its axes, either None or one integer label per
index (-1: this index is no unit). Layers pass, create, tie, tile or freeze labels
by the rule registered for their class (`graph/rules/`). Labels that end up with
the same members in the same roles are one group.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfsparse import records
from tfsparse.graph import branches, rules, trace
from tfsparse.graph.walk import Result, Walk

KINDS = ("unit", "branch", "feature")
LABELLED = ("unit", "feature")
"""The kinds that are found by a walk with labels."""


@dataclasses.dataclass(frozen=True, eq=False)
class Analysis:
    """Groups of a model together with the labels of every tensor.

    Attributes:
        graph: The graph that was walked.
        groups: What `find_groups` returns.
        walks: Kind -> what its walk found.
        axes: Kind -> tensor -> root labels of each of its axes.
    """

    graph: trace.Graph
    groups: tuple[records.UnitGroup, ...]
    walks: Mapping[str, Result]
    axes: Mapping[str, dict[trace.Tensor, list]]

    def labels(self, kind: str, tensor: trace.Tensor, axis: int) -> np.ndarray | None:
        """Root labels of one axis of a tensor; None where it has no units."""
        return self.axes[kind][tensor][axis]


def analyse(model, kinds: Any = ("unit",)) -> Analysis:
    """One walk for each kind of group, once for each model. See `find_groups`.

    What was found is kept with the model's graph, and found again where a rule was
    registered since, or a layer got another activation.
    """
    named = [kinds] if isinstance(kinds, str) else kinds
    if not isinstance(named, tuple | list) or not all(k in KINDS for k in named):
        raise ValueError(f"`kinds` must be among {KINDS}. Received: {kinds!r}.")
    wanted = dict.fromkeys(named)
    graph = trace.read(model)
    state = _state(graph)
    known: Any = graph.kept.get("groups")
    if known is None or known[0] != state:
        known = graph.kept["groups"] = (state, {})
    groups: list[records.UnitGroup] = []
    walks: dict[str, Result] = {}
    axes: dict[str, dict] = {}
    for kind in wanted:
        if kind not in known[1]:
            known[1][kind] = _found(graph, kind)
        own, walk, labels = known[1][kind]
        groups += own
        if walk is not None:
            walks[kind], axes[kind] = walk, labels
    return Analysis(graph, tuple(groups), walks, axes)


def _state(graph: trace.Graph) -> tuple:
    """What a rule may look at that can change while the graph stays as it was read.

    LoRA and quantised weights bring variables, which make another graph.
    """
    layers = trace.sublayers(graph.operations)
    names = ("activation", "recurrent_activation")
    own = tuple(getattr(layer, name, None) for layer in layers for name in names)
    return rules.version(), own


def _found(graph: trace.Graph, kind: str) -> tuple:
    """The groups of one kind, what the walk found, and the labels of every tensor."""
    if kind == "branch":
        return tuple(branches.find(graph)), None, None
    walk = Walk(graph, kind)
    tensors = _walked(graph, walk)
    for tensor in graph.outputs:
        walk.freeze_all([tensors[tensor]], "its units are the model's output")
    found = walk.result()
    axes = {t: [found.rooted(x) for x in a] for t, a in tensors.items()}
    return tuple(found.groups), found, axes


def _walked(graph: trace.Graph, walk: Walk) -> dict[trace.Tensor, list]:
    """Labels of every tensor, by the rule of each call."""
    tensors: dict[trace.Tensor, list] = {}
    for tensor in graph.inputs:
        tensors[tensor] = [None] * len(tensor.shape)
        if len(tensor.shape) == 2:
            tensors[tensor][1] = walk.source(tensor.origin, 0, tensor.shape[1])
    for call in graph.calls:
        incoming = [tensors[t] for t in call.inputs]
        for number in call.masks:
            walk.freeze_all([incoming[number]], f"are a mask of {call.name!r}")
        outgoing = rules.rule_of(call.operation).units(walk, call, incoming)
        for tensor, labels in _checked(call, outgoing):
            tensors[tensor] = list(labels)
    return tensors


def _checked(call: trace.Call, outgoing) -> list[tuple]:
    """Each output beside the labels that a rule, perhaps a user's own, gave it."""

    def fits(labels, size) -> bool:
        if labels is None:
            return True
        return (
            isinstance(labels, np.ndarray)
            and np.issubdtype(labels.dtype, np.integer)
            and labels.shape == (size,)
        )

    shapes = [tensor.shape for tensor in call.outputs]
    listed = isinstance(outgoing, list | tuple) and all(
        isinstance(labels, list | tuple) for labels in outgoing
    )
    if not listed or [len(labels) for labels in outgoing] != list(map(len, shapes)):
        said = [len(labels) for labels in outgoing] if listed else outgoing
    else:
        wrong = [
            (number, axis)
            for number, (labels, shape) in enumerate(zip(outgoing, shapes, strict=True))
            for axis, (own, size) in enumerate(zip(labels, shape, strict=True))
            if not fits(own, size)
        ]
        if not wrong:
            return list(zip(call.outputs, outgoing, strict=True))
        (number, axis), *_ = wrong
        said = f"{outgoing[number][axis]!r} for axis {axis} of output {number}"
    raise ValueError(
        f"The rule of {type(call.operation).__name__} must return a list for each output "
        f"of {call.name!r}, with None or the labels of every index for each axis of its "
        f"shape {shapes}. Received: {' '.join(str(said).split())[:160]}."
    )


def find_groups(model, kinds=("unit",)) -> tuple[records.UnitGroup, ...]:
    """Finds all groups of units of a model, by reading its graph once.

    Args:
        model: A built Functional or Sequential Keras model.
        kinds: Which kinds of groups: `unit` (neurons, channels, heads), `branch` (the
            inputs of an Add or Average) and `feature` (rows behind the model's input
            or a Flatten, one by one).

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
    return analyse(model, kinds).groups
