"""Masks and strips: the same function with zeroed, or without, the dropped units."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np

from tfsparse import records
from tfsparse.deploy import dead, probe, removal, shrink

_LOG = logging.getLogger(__name__)

TOLERANCE = 1e-5
"""Largest difference, relative to the output's largest magnitude, that is rounding."""


def mask(model, keep: removal.Keep):
    """A copy of the model in which dropped units contribute exactly nothing.

    Zeroes the slices of every consumer that read a dropped unit. Where units end
    without weights (a normaliser, a product that is summed, a branch at its Add), the
    copy multiplies them by zero.

    Args:
        model: A built Functional or Sequential Keras model; it is not changed.
        keep: Group name -> bool array `(units,)`, True = stays.

    Returns:
        A model of the same shapes.

    Raises:
        ValueError: `keep` does not fit the model's groups.

    Example:
        >>> masked = mask(net, {"conv": np.arange(8) < 4})
    """
    dead.whole_branches(model, keep)  # refuses what strip would refuse
    planned = removal.plan(model, keep, empty=True)
    values = removal.masked(removal.values_of(planned.graph), planned)
    masked, operations = shrink.gated(planned)
    removal.load(operations, planned.graph, values, None)
    return masked


def strip(model, keep: removal.Keep | None = None):
    """A smaller model of stock layers, computing what the masked model computes.

    With `keep`, equals `mask(model, keep)`; where `keep` leaves a layer of a branch
    nothing, the branch goes, and what it still sends on is added. Without `keep`,
    removes the units and branches that are dead already (`dead_units`) and equals
    `model`: the constants that dead units still send on are added to the biases of
    their consumers. A unit whose constant cannot be folded exactly (zero padding sees
    it) stays. Nested models are opened: their layers stand in the result, under their
    own names.

    Args:
        model: A built Functional or Sequential Keras model; it is not changed.
        keep: Group name -> bool array `(units,)`, True = stays; None for dead units.

    Returns:
        The stripped model; layer names stay as they were.

    Raises:
        ValueError: `keep` does not fit the model's groups, or weights are nan.
        StripError: The result differs from the masked model by more than rounding.

    Example:
        >>> small = strip(net, {"conv": np.arange(8) < 4})
    """
    if keep is None:
        keep, biases, _ = dead.fold(model, dead.dead_units(model))
    else:
        keep, biases = dead.whole_branches(model, keep)
    return remove(model, keep, biases)


def remove(model, keep: removal.Keep, biases: dict[str, np.ndarray]):
    """Strips `keep`, adds `biases` to the layers named, and proves the result."""
    planned = removal.plan(model, keep)
    planned = dataclasses.replace(planned, constants=biases)
    graph = planned.graph
    values = removal.values_of(graph)
    for path, value in values.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise ValueError(
                f"`model` must have finite weights. Received: nan or inf in {path}."
            )
    for name, sentence in planned.surplus.items():
        _LOG.warning("group %r: %s", name, sentence)
    small, operations = shrink.build(planned, frozenset(biases))
    if planned.variables or planned.lost:
        _prove(planned, small, operations, values)
    values = removal.masked(values, planned, surplus=True)
    removal.load(operations, graph, values, planned)
    add_biases(operations, planned, biases)
    return small


def add_biases(operations, planned, biases: dict[str, np.ndarray]) -> None:
    """Adds constants, cut by the plan, to the biases of rebuilt layers."""
    graph = planned.graph
    for layer in graph.operations:
        constant = biases.get(graph.names[id(layer)])
        if constant is not None and id(layer) in operations:
            call = next(c for c in graph.calls if c.operation is layer)
            stays = planned.kept(call.outputs[0], -1)
            operations[id(layer)].bias.assign_add(constant[stays])


def _prove(planned, small, operations, values) -> None:
    """Compares masked and stripped on random input, BatchNorm randomised."""
    rng = np.random.default_rng(0)
    graph = planned.graph
    inputs = probe.random_inputs(graph, rng)
    values, settle = probe.random_statistics(graph, values, rng)
    close = shrink.closing(planned)

    def change(call, given, outputs):
        if outputs is None:
            settle(call, given)
        return close(call, given, outputs)

    zeroed = removal.masked(values, planned)
    expected = probe.replay(graph, zeroed, inputs, graph.outputs, change)
    removal.load(operations, graph, removal.masked(values, planned, True), planned)
    received = probe.run(small, inputs)
    for number, (a, b) in enumerate(zip(expected, received, strict=True)):
        scale = np.abs(a).max() or 1.0
        difference = np.abs(a - b).max() / scale
        if not difference <= TOLERANCE:  # nan fails, too
            raise records.StripError(
                f"The stripped model must equal the masked one within {TOLERANCE:g}. "
                f"Received: relative difference {difference:.3g} at output {number}. "
                "A layer's rule is wrong, or its weights hold nan."
            )
