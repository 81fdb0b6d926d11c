"""Branches that go, and the constants that they still send on."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np

from tfsparse.deploy import probe, removal, variables
from tfsparse.graph import branches, trace
from tfsparse.graph.rules import rule_of


def dead_branches(graph: trace.Graph, values, tolerance: float) -> dict:
    """Masks of the branch groups that have an input which no longer tells anything."""
    constant: set[trace.Tensor] = set()
    for call in graph.calls:
        inputs = [tensor in constant for tensor in call.inputs]
        if (inputs and all(inputs)) or _is_shut(graph, call, values, tolerance):
            constant.update(call.outputs)
    if not constant:
        return {}
    calls = {branches.name_of(call): call for call in graph.calls}
    masks = {}
    for group in branches.find(graph):
        alive = np.array([t not in constant for t in calls[group.name].inputs])
        alive[0] |= not alive.any()
        if not group.frozen and not alive.all():
            masks[group.name] = alive
    return masks


def _is_shut(graph, call, values, tolerance: float) -> bool:
    """Whether nothing of its input gets through a layer: its factors are zero.

    Those that its record names (BatchNorm's gamma), else its kernels.
    """
    layer = call.operation
    if isinstance(layer, keras.layers.Rescaling):
        return not np.any(layer.scale)
    if hasattr(layer, "lowered"):
        return not layer.lowered(call.kwargs)[0].any()
    factors = rule_of(layer).multiplies
    if factors is None:
        own = [v for v in trace.variables_of(layer) if len(v.shape) > 1]
    else:
        own = factors(layer)
    arrays = [values[graph.paths[id(variable)]] for variable in own]
    return bool(arrays) and all(np.linalg.norm(x) <= tolerance for x in arrays)


def whole_branches(model, keep: removal.Keep):
    """Turns masks that leave nothing of a layer into the loss of its whole branch.

    Args:
        model: The model.
        keep: Group name -> bool array `(units,)`, True = stays.

    Returns:
        Masks without such groups, but with the branches that go; and, by branch
        group, what the masked branches still send on, `(channels,)`.

    Raises:
        ValueError: The layer stands in no branch that could go.
    """
    named = keep.items() if isinstance(keep, Mapping) else ()
    emptied = [
        k for k, v in named if isinstance(v, np.ndarray) and v.size and not v.any()
    ]
    if not emptied:
        return keep, {}
    graph = trace.read(model)
    planned = removal.plan(graph, keep, empty=True)
    values = variables.masked(variables.values_of(graph), planned)
    before = dead_branches(graph, variables.values_of(graph), 0.0)
    masks = {
        name: alive
        for name, alive in dead_branches(graph, values, 0.0).items()
        if name not in before or (before[name] != alive).any()
    }
    calls = {branches.name_of(call): call for call in graph.calls}
    lost = {calls[k]: set(np.flatnonzero(~v).tolist()) for k, v in masks.items()}
    gone = {c.name for c in branches.only_for(graph, lost)} if lost else set()
    layer_of = {
        graph.paths[id(v)]: call.name
        for call in graph.calls
        for v in trace.variables_of(call.operation)
    }
    for group in planned.analysis.groups:
        if group.name in emptied and not {layer_of[p] for p in group.paths} <= gone:
            raise ValueError(
                f"`keep[{group.name!r}]` must leave at least one unit. Received: all "
                f"{group.size} dropped, and no branch that could go with them."
            )
    sent = probe.values_at(
        graph, [c.inputs[n] for c, ns in lost.items() for n in ns], values
    )
    constants = {}
    for name, mask in masks.items():
        constant, reason = _sent(calls[name], np.flatnonzero(~mask), sent)
        if reason is not None:
            raise ValueError(
                f"`keep` must leave at least one unit of {emptied}: {reason}."
            )
        constants[name] = constant
    kept = {
        k: v
        for k, v in keep.items()
        if k not in emptied and not {layer_of[p] for p in _paths(planned, k)} <= gone
    }
    return {**kept, **masks}, {k: c for k, c in constants.items() if c.any()}


def _paths(planned, name: str):
    return next(g.paths for g in planned.analysis.groups if g.name == name)


def fold_branches(graph, keep, reasons) -> dict[str, np.ndarray]:
    """The constants of dropped branches; a branch whose constant is uneven stays."""
    calls = {branches.name_of(call): call for call in graph.calls}
    dropped = {k: np.flatnonzero(~v) for k, v in keep.items() if k in calls}
    tensors = [calls[k].inputs[n] for k, numbers in dropped.items() for n in numbers]
    values = probe.values_at(graph, tensors, variables.values_of(graph))
    constants = {}
    for name, numbers in dropped.items():
        constant, reason = _sent(calls[name], numbers, values)
        if reason is None:
            constants[name] = np.asarray(constant)
        else:
            keep[name][:] = True
            reasons[name] = reason
    return constants


def _sent(call, numbers, values):
    """What inputs that are constants add up to per channel, or why they do not."""
    total = 0.0
    for number in numbers:
        arrays = values[call.inputs[number]]
        constant = arrays[0].reshape(-1, arrays[0].shape[-1])[0]
        for value in arrays:
            rounding = probe.ROUNDING * max(1.0, np.abs(value).max())
            if np.abs(value - constant).max() > rounding:
                return None, (
                    f"a dead branch sends {call.name!r} a constant that differs from "
                    "place to place (zero padding)"
                )
        total = total + constant
    if branches.is_average(call.operation):
        total = total / len(call.inputs)
    return total, None
