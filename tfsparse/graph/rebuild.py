"""Builds new models from the calls of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfsparse.graph import trace

LOST = "lost"
"""Stands, while a model is rebuilt, for a tensor that nothing writes any more."""


def config_of(operation, name: str) -> dict:
    """What a new layer or op is made from; a wrapped layer is not built in advance.

    An initializer that holds an array of the old shape is left out, as is every other
    value of the weights: they are loaded afterwards.
    """
    config = {**operation.get_config(), "name": name}
    for key, value in config.items():
        if isinstance(value, dict) and "build_config" in value:
            config[key] = {k: v for k, v in value.items() if k != "build_config"}
        if key.endswith("_initializer") and isinstance(value, dict):
            constant = (value.get("config") or {}).get("value", 0.0)
            if not isinstance(constant, int | float):
                config[key] = "zeros"
    return config


def clone(operation, name: str, change: Mapping | None = None):
    """A new layer or op of the same configuration but for `change`, without weights.

    Raises:
        ValueError: Its configuration does not tell all that it needs.
    """
    try:
        config = config_of(operation, name) | (change or {})
        try:
            return operation.__class__.from_config({**config})
        except (TypeError, ValueError):  # a function of the user's own has no name
            own = {
                key: value
                for key in config
                if callable(value := getattr(operation, key, None))
                and key not in (change or {})
            }
            return operation.__class__.from_config({**config, **own})
    except Exception as error:  # whatever a layer's own code raises
        reason = " ".join(str(error).split())[:160]
        raise ValueError(
            f"Layer {operation.name!r} must be one that Keras can make again from its "
            f"config. Received: {type(operation).__name__}, which says: {reason}"
        ) from error


def rebuild(
    model,
    make: Callable[[Any, str], Any] = clone,
    call: Callable | None = None,
    after: Callable | None = None,
    needed: Callable[[trace.Call], bool] | None = None,
) -> tuple[keras.Model, dict[int, Any]]:
    """Builds a new, flat model by replaying the calls of `model` on new operations.

    Args:
        model: A functional or sequential model, or its Graph.
        make: `(operation, name) -> new operation`; asked once for each.
        call: `(Call, new operation, args, kwargs) -> outputs`, where something else
            than `operation(*args, **kwargs)` is wanted.
        after: `(old tensor, new tensor) -> tensor` that later calls read instead.
        needed: Call -> False if it is to be left out, as nothing reads it any more.

    Returns:
        The new model, and a dict from `id(old operation)` to the new operation.
    """
    graph = trace.read(model)
    inputs = graph.placeholders()
    tensors: dict[trace.Tensor, Any] = {
        old: new if after is None else after(old, new)
        for old, new in zip(graph.inputs, inputs, strict=True)
    }
    operations: dict[int, Any] = {}
    for item in graph.calls:
        if needed is not None and not needed(item):
            for tensor in item.outputs:
                tensors[tensor] = LOST
            continue
        key = id(item.operation)
        if key not in operations:
            operations[key] = make(item.operation, item.name)
        args, kwargs = item.fill([tensors[t] for t in item.inputs])
        if item.training is not None and trace.takes_training(item.operation):
            kwargs = {"training": item.training, **kwargs}
        if call is None:
            outputs = operations[key](*args, **kwargs)
        else:
            outputs = call(item, operations[key], args, kwargs)
        for old, new in zip(item.outputs, keras.tree.flatten(outputs), strict=True):
            tensors[old] = new if after is None else after(old, new)
    outputs = [tensors[t] for t in graph.outputs]
    return graph.model_of(inputs, outputs), operations


def flat(model):
    """The model itself; or, where models are nested in it, a copy without nesting.

    Args:
        model: A built Functional or Sequential model; it is not changed.

    Returns:
        A model of the same function, layers and weights.
    """
    graph = trace.read(model)
    own = {id(operation) for operation in graph.model.operations}
    if all(id(operation) in own for operation in graph.operations):
        return model
    copy, operations = rebuild(graph)
    for operation in graph.operations:
        if trace.variables_of(operation):
            operations[id(operation)].set_weights(operation.get_weights())
            refresh(operations[id(operation)])
    return copy


def refresh(layer) -> None:
    """After new weights: what a Normalization works out from them once."""
    if isinstance(layer, keras.layers.Normalization):
        layer.finalize_state()
