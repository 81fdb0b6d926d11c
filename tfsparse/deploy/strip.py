"""Masks and strips: the same function with zeroed, or without, the dropped units."""

from __future__ import annotations

import keras
import numpy as np

from tfsparse import records
from tfsparse.deploy import dead, probe, removal
from tfsparse.graph import trace

TOLERANCE = 1e-5
"""Largest difference, relative to the output's largest magnitude, that is rounding."""


def mask(model, keep: removal.Keep):
    """A copy of the model in which dropped units contribute exactly nothing.

    Zeroes the slices of every consumer that read a dropped unit.

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
    planned = removal.plan(model, keep)
    masked, operations = trace.rebuild(model)
    removal.load(operations, model, _masked(removal.values_of(model), planned), None)
    return masked


def strip(model, keep: removal.Keep | None = None):
    """A smaller model of stock layers, computing what the masked model computes.

    With `keep`, equals `mask(model, keep)`. Without, removes the units that are
    dead already (`dead_units`) and equals `model`: the constants that dead units
    still send on are added to the biases of their consumers. A unit whose constant
    cannot be folded exactly (zero padding sees it) stays.

    Args:
        model: A built Functional or Sequential Keras model; it is not changed.
        keep: Group name -> bool array `(units,)`, True = stays; None for dead units.

    Returns:
        The stripped model; layer names stay as they were.

    Raises:
        ValueError: `keep` does not fit the model's groups.
        StripError: The result differs from the masked model by more than rounding.

    Example:
        >>> small = strip(net, {"conv": np.arange(8) < 4})
    """
    if keep is None:
        keep, biases, _ = dead.fold(model, dead.dead_units(model))
    else:
        biases = {}
    return remove(model, keep, biases)


def remove(model, keep: removal.Keep, biases: dict[str, np.ndarray]):
    """Strips `keep`, adds `biases` to the layers named, and proves the result."""
    planned = removal.plan(model, keep)
    small, operations = removal.build(model, planned, frozenset(biases))
    values = removal.values_of(model)
    if planned.variables:
        _prove(model, planned, small, operations, values)
    removal.load(operations, model, values, planned)
    add_biases(operations, model, planned, biases)
    return small


def add_biases(operations, model, planned, biases: dict[str, np.ndarray]) -> None:
    """Adds constants, cut by the plan, to the biases of rebuilt layers."""
    for layer in model.layers:
        if layer.name in biases:
            new = operations[id(layer)]
            kernel = trace.variables_of(layer)[0]
            last = len(kernel.shape) - 1
            if hasattr(layer, "pointwise_kernel"):
                kernel = layer.pointwise_kernel
            stays = planned.variables.get(kernel.path, {}).get(last)
            constant = biases[layer.name]
            new.bias.assign_add(constant if stays is None else constant[stays])


def _masked(
    values: dict[str, np.ndarray], planned: removal.Plan
) -> dict[str, np.ndarray]:
    values = dict(values)
    for member, positions in planned.members:
        if member.role == records.CONSUMER and len(positions):
            value = values[member.path].copy()
            np.moveaxis(value, member.axis, 0)[positions] = 0
            values[member.path] = value
    return values


def _prove(model, planned, small, operations, values) -> None:
    """Compares masked and stripped on random input, BatchNorm randomised."""
    rng = np.random.default_rng(0)
    values = _randomised(model, values, rng)
    masked, twins = trace.rebuild(model)
    removal.load(twins, model, _masked(values, planned), None)
    removal.load(operations, model, values, planned)
    inputs = probe.random_inputs(model, rng)
    expected, received = probe.run(masked, inputs), probe.run(small, inputs)
    for number, (a, b) in enumerate(zip(expected, received, strict=True)):
        scale = np.abs(a).max() or 1.0
        difference = np.abs(a - b).max() / scale
        if not difference <= TOLERANCE:  # nan fails, too
            raise records.StripError(
                f"The stripped model must equal the masked one within {TOLERANCE:g}. "
                f"Received: relative difference {difference:.3g} at output {number}. "
                "A layer's rule is wrong, or its weights hold nan."
            )


def _randomised(model, values, rng) -> dict[str, np.ndarray]:
    """Fresh BatchNorm statistics: on an untrained one a wrong strip looks exact."""
    values = dict(values)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            for variable in layer.variables:
                positive = variable.name in ("gamma", "moving_variance")
                low, high = (0.5, 1.5) if positive else (-0.5, 0.5)
                shape = variable.shape
                values[variable.path] = rng.uniform(low, high, shape).astype("float32")
    return values
