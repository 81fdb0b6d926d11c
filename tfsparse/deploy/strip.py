"""Masks and strips: the same function with zeroed, or without, the dropped units."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from tfsparse import records
from tfsparse.deploy import dead, fold, gates, lost, probe, removal, shrink, variables
from tfsparse.deploy.lower import lower
from tfsparse.graph import trace

_LOG = logging.getLogger(__name__)

TOLERANCE = 1e-5
"""Largest difference, relative to the output's largest magnitude, that is rounding."""

DRIFT = 1e-4
"""The same where a model runs with its own weights, which may be ill-conditioned."""

ROUNDINGS = {"float16": 8 * 2.0**-10, "bfloat16": 8 * 2.0**-7}
"""What constants may lose that are added to biases of half precision."""


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
    lost.whole_branches(model, keep)  # refuses what strip would refuse
    planned = removal.plan(model, keep, empty=True)
    values = variables.masked(variables.values_of(planned.graph), planned)
    masked, operations = gates.gated(planned)
    variables.load(operations, planned.graph, values, None)
    return masked


def strip(model, keep: removal.Keep | None = None, *, tolerance: float = 0.0):
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
        tolerance: Without `keep`: largest norm of weights that counts as zero.

    Returns:
        The stripped model; layer names stay as they were.

    Raises:
        ValueError: `keep` does not fit the model's groups, or weights are nan.
        StripError: The result differs from the masked model by more than rounding.

    Example:
        >>> small = strip(net, {"conv": np.arange(8) < 4})
    """
    if keep is not None:
        if tolerance:
            raise ValueError(
                "`tolerance` must be left out where `keep` is given. "
                f"Received: tolerance={tolerance!r}."
            )
        model = _stock(model)
        keep, constants = lost.whole_branches(model, keep)
        return removed(model, fold.Folded(keep, constants, {})).model
    model = dead.settled(_stock(model), tolerance)
    folded = fold.fold(model, dead.dead_units(model))
    return removed(model, folded, compared=True).model


def _stock(model):
    """The model, lowered where a house layer stands in it."""
    house = ("lowered", "stock_values")
    found = trace.read(model).operations
    return lower(model) if any(hasattr(x, h) for x in found for h in house) else model


def compare(model, small) -> None:
    """Compares a model with a smaller one that should be the same function.

    Raises:
        StripError: They differ by more than `DRIFT`, relative to the largest output;
            with biases stored in half precision by more than some of its roundings.
    """
    stored = {v.dtype for v in trace.read(small).variables.values()}
    bound = max([DRIFT, *(ROUNDINGS[kind] for kind in stored & ROUNDINGS.keys())])
    for size in probe.open_sizes(trace.read(model), 2):
        inputs = probe.random_inputs(model, np.random.default_rng(0), 4, size)

        def drift(dtype: str, given=inputs) -> float:
            answers = [probe.run(one, given, dtype) for one in (model, small)]
            return probe.largest_difference(*answers)

        found = _without_rounding(drift, bound)
        if not found <= bound:
            raise records.StripError(
                f"A removal must change nothing. Received: outputs that differ by "
                f"{found:.3g} relative to the largest."
            )


def _without_rounding(difference: Callable[[str], float], bound: float) -> float:
    """A difference in single precision; in double where that is more than `bound`.

    A model of a thousand layers may make 1e-5 of the last bit of its input.
    """
    found = difference("float32")
    if not found <= bound:
        try:
            return difference("float64")
        except Exception:  # any backend's own class: an op that knows no float64
            return found
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class Removed:
    """A small model, and how it was made.

    Attributes:
        model: The small model.
        operations: `id(old operation)` -> new operation.
        planned: What stays of the old model.
    """

    model: Any
    operations: dict[int, Any]
    planned: removal.Plan


def removed(
    model, folded: fold.Folded, *, proven: bool = True, compared: bool = False
) -> Removed:
    """Takes units out. The one order of steps: plan, build, fill, prove, compare.

    Args:
        model: The model; it is not changed.
        folded: What stays, and what to add to biases.
        proven: Whether the result is compared with the masked model on randomised
            BatchNorm statistics, and what is worth a warning is logged.
        compared: Whether the result is compared with the model itself, whose function
            it has where only dead units leave.

    Returns:
        A `Removed`.

    Raises:
        ValueError: `folded.keep` does not fit the model's groups, or, where it is to be
            proven, weights are nan.
        StripError: The result computes something else.
    """
    planned = removal.plan(model, folded.keep)
    planned = dataclasses.replace(planned, constants=folded.biases)
    values = variables.values_of(planned.graph)
    if proven:
        _check_finite(values)
        _warn(planned)
    small, operations = shrink.build(planned, without_bias(planned, folded.biases))
    filled = fill(operations, planned, values, folded.biases)
    if proven and (planned.variables or planned.lost):
        _prove(planned, small, operations, values, filled)
    if compared:
        compare(model, small)
    return Removed(small, operations, planned)


def _check_finite(values) -> None:
    for path, value in values.items():
        if value.dtype.kind not in "biu" and not np.isfinite(value).all():
            raise ValueError(
                f"`model` must have finite weights. Received: nan or inf in {path}."
            )


def _warn(planned) -> None:
    """Logs which variables no longer are shared, and which units stay as a surplus."""
    graph = planned.graph
    owners: dict[int, str] = {}
    for layer in graph.operations:
        for variable in trace.variables_of(layer):
            name = graph.names[id(layer)]
            if owners.setdefault(id(variable), name) != name:
                _LOG.warning(
                    "layers %r and %r share %s: in the stripped model each has its own",
                    owners[id(variable)],
                    name,
                    variable.path,
                )
    for name, sentence in planned.surplus.items():
        _LOG.warning("group %r: %s", name, sentence)


def without_bias(planned, biases) -> dict:
    """Layer of the plan's graph -> path in `biases` of the bias that it lacks."""
    known = planned.graph.variables
    return {
        layer: path
        for layer in planned.graph.operations
        if getattr(layer, "use_bias", True) is False and trace.variables_of(layer)
        if (path := fold.bias_path(planned.graph, layer)) in biases
        and path not in known
    }


def fill(operations, planned, values, biases) -> dict[str, np.ndarray]:
    """Loads rebuilt layers with what stays of `values`, and adds to their biases.

    Args:
        operations: What `shrink.build` returned, with `without_bias` given a bias.
        planned: What stays.
        values: Path -> value of every variable of the old model.
        biases: Path of a bias -> what to add, before anything is cut.

    Returns:
        Path -> the value, before it is cut, that the layers hold.
    """
    graph = planned.graph
    more = {path: biases[path] for path in biases.keys() & values.keys()}
    values = values | {path: values[path] + more[path] for path in more}
    left = variables.masked(values, planned, True)
    variables.load(operations, graph, left, planned)
    for layer, path in without_bias(planned, biases).items():
        if id(layer) in operations:
            call = next(c for c in graph.calls if c.operation is layer)
            stays = planned.kept(call.outputs[0], -1)
            operations[id(layer)].bias.assign(biases[path][stays])
    return left


def _prove(planned, small, operations, values, filled) -> None:
    """Compares masked and stripped on random input, BatchNorm randomised.

    Both run with the old model's `values`, so without what was added to biases; the
    small model's variables are not changed for it.
    """
    rng = np.random.default_rng(0)
    graph = planned.graph
    inputs = probe.random_inputs(graph, rng)
    drawn, settle = probe.random_statistics(graph, values, rng)
    close = gates.closing(planned)

    def change(call, given, outputs):
        if outputs is None:
            settle(call, given)
        return close(call, given, outputs)

    def masked(change, dtype: str = "float32") -> list[np.ndarray]:
        fresh = {path: x for path, x in drawn.items() if x is not values[path]}
        zeroed = variables.silenced(planned, fresh)
        return probe.replay(graph, zeroed, inputs, graph.outputs, change, dtype)

    expected = masked(change)
    stand_ins = _stand_ins(planned, small, operations, drawn, filled)

    def difference(dtype: str) -> float:
        before = expected
        if dtype != "float32":
            before = masked(close, dtype)  # with the statistics drawn above
        graph = trace.read(small)
        after = probe.replay(graph, stand_ins, inputs, graph.outputs, dtype=dtype)
        return probe.largest_difference(before, after)

    found = _without_rounding(difference, TOLERANCE)
    if not found <= TOLERANCE:
        raise records.StripError(
            f"The stripped model must equal the masked one within {TOLERANCE:g}. "
            f"Received: relative difference {found:.3g}. A layer's rule is wrong, or its "
            "weights hold nan."
        )


def _stand_ins(planned, small, operations, values, filled) -> dict[str, np.ndarray]:
    """Path in the small model -> its part of `values`, where it holds something else."""
    paths, graph = trace.read(small).paths, planned.graph
    left = variables.masked(values, planned, True)
    found = {}
    for old in graph.operations:
        if (new := operations.get(id(old))) is None:
            continue
        pairs = variables.pair(old, new)
        for source, target in pairs:
            path = graph.paths[id(source)]
            if left[path] is not filled[path]:
                found[paths[id(target)]] = planned.cut(path, left[path])
        known = {id(target) for _, target in pairs}
        for variable in trace.variables_of(new):  # a bias that it was given
            if id(variable) not in known:
                found[paths[id(variable)]] = np.zeros(variable.shape, variable.dtype)
    return found
