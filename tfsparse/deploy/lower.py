"""Lowers a trained sparse model to stock layers that compute the same."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np

from tfsparse.deploy import variables
from tfsparse.graph import trace
from tfsparse.graph.rebuild import config_of, rebuild
from tfsparse.graph.rules import rule_of


@dataclasses.dataclass
class _Scaling:
    """Where one call of a house layer goes: into a writer, into readers, or stock."""

    scale: np.ndarray
    activation: str | None
    writer: object = None
    readers: tuple = ()
    front: object = None
    """The layer whose only reader is the writer, which joins it (a BatchNorm)."""
    done: bool = False
    """Another call of the same shared writer takes the factor."""


def lower(model):
    """Replaces house layers by stock ones: same function, same layer names.

    Each house layer says by its `lowered` rule which per-channel factor and which
    activation it stands for, or by `stock_class` and `stock_values` which layer with
    which weights. The factor goes into the kernel and bias (or the
    BatchNorm) in front, else into the kernels behind, else into a Rescaling layer;
    the activation goes back into the layer in front that it was split off.

    Args:
        model: A trained model; it is not changed.

    Returns:
        A model without house layers, switches or their penalties.

    Raises:
        ValueError: `model` cannot be read as a graph.

    Example:
        >>> stock = lower(sparse_model)      # same outputs, no Filter left
    """
    graph = trace.read(model)
    scalings = _place(graph)
    changes = _changes(scalings.values())

    def make(operation, name):
        if hasattr(operation, "lowered"):
            return None
        cls = getattr(operation, "stock_class", type(operation))
        config = _without_house_regularizers(config_of(operation, name))
        if cls is not type(operation):
            own = operation.own_arguments
            config = {key: value for key, value in config.items() if key not in own}
        return cls.from_config(config | changes.get(id(operation), {}))

    def call(item, operation, args, kwargs):
        scaling = scalings.get(item.outputs[0])
        if scaling is None:
            return operation(*args, **kwargs)
        outputs = args[0]
        if scaling.writer is None and not scaling.readers:
            name = f"{item.name}_{item.index}_scale"
            alike = (scaling.scale == scaling.scale[0]).all()
            factor = float(scaling.scale[0]) if alike else scaling.scale.tolist()
            outputs = keras.layers.Rescaling(factor, name=name)(outputs)
        if scaling.activation and not hasattr(scaling.writer, "activation"):
            name = f"{item.name}_{item.index}_activation"
            outputs = keras.layers.Activation(scaling.activation, name=name)(outputs)
        return outputs

    stock, operations = rebuild(graph, make, call)
    stays = {key: new for key, new in operations.items() if new is not None}
    variables.load(stays, graph, _values(graph), None)
    for scaling in scalings.values():
        if scaling.front is not None:  # off behind BatchNorm: then dead in front, too
            on = (scaling.scale != 0).astype("float32")
            _assign(_scaled_output(stays[id(scaling.front)], on))
        if scaling.writer is not None and not scaling.done:
            _assign(_scaled_output(stays[id(scaling.writer)], scaling.scale))
        for reader in scaling.readers:
            _assign(_scaled_input(stays[id(reader)], scaling.scale))
    return stock


def _changes(scalings) -> dict[int, dict]:
    """`id(layer)` -> config entries that change where a factor goes into the layer."""
    changes: dict[int, dict] = {}
    for scaling in scalings:
        if scaling.writer is not None:
            change = changes.setdefault(id(scaling.writer), {})
            change.update(rule_of(scaling.writer).scaled_config or {})
            if scaling.activation and hasattr(scaling.writer, "activation"):
                change["activation"] = scaling.activation
    return changes


def _assign(scaled) -> None:
    for variable, value in scaled:
        variable.assign(value)


def _values(graph) -> dict[str, np.ndarray]:
    """Path -> value of every variable as stock layers have it."""
    values = variables.values_of(graph)
    for operation in graph.operations:
        if hasattr(operation, "stock_values"):
            own = {v.path: graph.paths[id(v)] for v in operation.variables}
            values |= {own[p]: x for p, x in operation.stock_values().items()}
    return values


def _place(graph) -> dict[trace.Tensor, _Scaling]:
    """Decides, for every call of a house layer, where its factor goes."""
    found, readers, writers = graph.calls, graph.readers, graph.writers
    calls_of: dict[int, list] = {}
    for call in found:
        calls_of.setdefault(id(call.operation), []).append(call)

    def only_reader(tensor):
        reading = readers.get(tensor, [])
        seen = tensor in graph.outputs  # by the user, as it is
        return reading[0] if len(reading) == 1 and not seen else None

    def alike(call, operation):
        """Whether every call of a shared layer is followed by this same switch."""
        following = [only_reader(c.outputs[0]) for c in calls_of[id(operation)]]
        return all(
            f is not None and f.operation is call.operation and f.kwargs == call.kwargs
            for f in following
        )

    scalings: dict[trace.Tensor, _Scaling] = {}
    taken: set[int] = set()
    for call in found:
        if not hasattr(call.operation, "lowered"):
            continue
        scale, activation = call.operation.lowered(call.kwargs)
        scaling = _Scaling(scale, activation)
        scalings[call.outputs[0]] = scaling
        source = call.inputs[0]
        before = scalings.get(source)  # a chain: several switches on one output
        if before is not None:
            alone = only_reader(source) is not None
            if alone and before.writer is not None and not before.activation:
                scaling.writer, scaling.front = before.writer, before.front
        elif source in writers:
            operation = writers[source].operation
            if _can_write(operation, scale) and alike(call, operation):
                scaling.writer = operation
                scaling.done = id(operation) in taken
                taken.add(id(operation))
                scaling.front = _front(writers[source], writers, only_reader, calls_of)
        if scaling.writer is None and not activation:
            reading = [c.operation for c in readers.get(call.outputs[0], [])]
            shown = call.outputs[0] in graph.outputs
            if (
                reading
                and not shown
                and all(len(calls_of[id(op)]) == 1 for op in reading)
                and all(_scaled_input(op, scale) is not None for op in reading)
            ):
                scaling.readers = tuple(reading)
    return scalings


def _front(call, writers, only_reader, calls_of):
    """The layer in front of what joins it and alone reads it; None otherwise."""
    if not rule_of(call.operation).joins_front:
        return None
    source = call.inputs[0]
    if source not in writers or only_reader(source) is None:
        return None
    layer = writers[source].operation
    once = len(calls_of[id(layer)]) == len(calls_of[id(call.operation)]) == 1
    rule = rule_of(layer)
    return layer if once and rule.scale_output and not rule.joins_front else None


def _can_write(operation, scale: np.ndarray) -> bool:
    """Whether a layer's weights can take a factor on what it puts out."""
    linear = keras.activations.linear
    if getattr(operation, "activation", linear) not in (linear, None):
        return False
    return _scaled_output(operation, scale) is not None


def _scaled_output(layer, scale: np.ndarray):
    """`(variable, value)` for `scale` times the output; None where it cannot be."""
    rule = rule_of(layer).scale_output
    return None if rule is None else rule(layer, scale)


def _scaled_input(layer, scale: np.ndarray):
    """`(variable, value)` for `scale` times the input; None where it cannot be."""
    rule = rule_of(layer).scale_input
    return None if rule is None else rule(layer, scale)


def _without_house_regularizers(config: dict) -> dict:
    """Takes off what a method added to the loss: it is no part of the function."""
    for key, value in config.items():
        if key.endswith("regularizer") and isinstance(value, dict):
            if str(value.get("registered_name", "")).startswith("tfsparse>"):
                config[key] = None
    return config
