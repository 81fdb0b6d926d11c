"""Builds new models from the calls of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

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


def clone(operation, name: str, change: Mapping | None = None, cls: Any = None):
    """A new layer or op of the same configuration but for `change`, without weights.

    Args:
        operation: The layer or op.
        name: The new one's name.
        change: Entries of the config that are different.
        cls: Its class; by default the operation's own.

    Raises:
        ValueError: Its configuration does not tell all that it needs.
    """
    cls = cls or operation.__class__
    try:
        config = {**config_of(operation, name), **(change or {})}
        try:
            return cls.from_config({**config})
        except (TypeError, ValueError):  # a function of the user's own has no name
            own = {
                key: value
                for key in config
                if callable(value := getattr(operation, key, None))
                and key not in (change or {})
            }
            return cls.from_config({**config, **own})
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


def around(model, before: Callable):
    """The same layers, weights shared, with calls added in front of their inputs.

    Args:
        model: A built Functional or Sequential model; training either trains both.
        before: `(call, number of the input, tensor) -> tensor`.

    Returns:
        A new functional model.
    """

    def call(item, operation, args, kwargs):
        tensors = [
            before(item, number, x) for number, x in enumerate(_tensors(args, kwargs))
        ]
        args, kwargs = refilled(tensors, args, kwargs)
        return operation(*args, **kwargs)

    return rebuild(model, lambda operation, name: operation, call)[0]


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
    return copied(graph)


def graft(
    model,
    configure: Callable | None = None,
    after: Callable | None = None,
    before: Callable | None = None,
    swap: Callable | None = None,
    replay: Callable | None = None,
) -> keras.Model:
    """A copy of `model`, with layers reconfigured and calls added around layers.

    Args:
        model: A built Functional or Sequential model, or its Graph; it is not changed.
            Nested models are opened.
        configure: `(layer, config dict) -> config dict`; None for no change.
        after: `(layer name, call index, outputs) -> outputs`; asked for the model's
            rank-2 inputs too, under the input's name.
        before: `(layer name, call index, number of the input, tensor) -> tensor`.
        swap: Layer -> the class of its copy, which has variables of the same names, and
            perhaps more; None for its own.
        replay: As `call` of `rebuild`, in place of `after` and `before`.

    Returns:
        A new functional model with the same layer names and the same weights.

    Raises:
        ValueError: `model` cannot be read as a graph, or a layer's config does not tell
            all that it needs.

    Example:
        >>> linear = graft(model, lambda layer, config: config | {"activation": None}
        ...                if isinstance(layer, keras.layers.Dense) else config)
    """
    graph = trace.read(model)

    def make(layer, name):
        if not isinstance(layer, keras.layers.Layer):
            return clone(layer, name)
        config = config_of(layer, name)
        config = configure(layer, config) if configure else config
        return clone(layer, name, config, swap(layer) if swap else None)

    def call(item, operation, args, kwargs):
        if before:
            tensors = [
                before(item.name, item.index, number, x)
                for number, x in enumerate(_tensors(args, kwargs))
            ]
            args, kwargs = refilled(tensors, args, kwargs)
        outputs = operation(*args, **kwargs)
        return after(item.name, item.index, outputs) if after else outputs

    def at_input(old, new):
        asked = after and old in graph.inputs and len(old.shape) == 2
        return after(old.origin, 0, new) if asked else new

    copy, operations = rebuild(graph, make, replay or call, at_input)
    carry(graph, operations)
    return copy


def _tensors(args, kwargs) -> list:
    flat_arguments = keras.tree.flatten((args, kwargs))
    return [x for x in flat_arguments if isinstance(x, keras.KerasTensor)]


def refilled(tensors, args, kwargs) -> tuple[tuple, dict]:
    """A call's arguments with other tensors, one by one."""
    tensors = iter(tensors)
    return keras.tree.map_structure(
        lambda x: next(tensors) if isinstance(x, keras.KerasTensor) else x,
        (args, kwargs),
    )


def carry(graph: trace.Graph, operations: Mapping[int, Any]) -> None:
    """Gives the copies of a model's operations all that the originals hold.

    Weights, their paths (so that what was found in the model holds of its copy), and what
    a layer works out of them.

    Args:
        graph: Of the model that was copied.
        operations: `id(operation)` -> its copy; None, or itself, where it has none.

    Raises:
        ValueError: A user's layer computes something else in its copy: it holds what is
            neither a weight nor in its config.
    """
    for operation in graph.operations:
        new = operations.get(id(operation))
        if new is None or new is operation:
            continue
        for source, target in _pairs(operation, new):
            trace.set_path(target, graph.paths[id(source)])
            target.assign(source)
        refresh(new)
    check_state(graph, operations)


def _pairs(old, new) -> list[tuple]:
    """Variables beside those of a copy; by their names where its class is another."""
    before, now = trace.variables_of(old), trace.variables_of(new)
    if type(new) is type(old) and len(before) == len(now):
        return list(zip(before, now, strict=True))
    by_name = {variable.name: variable for variable in now}
    return [(variable, by_name[variable.name]) for variable in before]


TRIED = 4
"""Samples that a user's layer and its copy are compared on, and the size of open axes."""

KNOWN = ("keras", "tfsparse")
"""Packages whose layers are known to hold nothing but weights and config."""


def is_known(operation) -> bool:
    """Whether an operation is Keras's or the house's own."""
    return type(operation).__module__.partition(".")[0] in KNOWN


def check_state(graph: trace.Graph, operations: Mapping[int, Any]) -> None:
    """Compares what users' layers compute with what their copies of equal weights do.

    Raises:
        ValueError: A copy computes something else: the layer holds what is neither a weight
            nor in its config.
    """
    for operation in graph.operations:
        new = operations.get(id(operation))
        if new is None or new is operation or is_known(operation):
            continue
        if type(new) is not type(operation):
            continue
        if new.get_config() != operation.get_config():
            continue  # it was to be another
        call = next(call for call in graph.calls if call.operation is operation)
        try:
            one, other = (_tried(call, layer) for layer in (operation, new))
        except Exception:  # whatever a layer's own code raises on random numbers
            continue
        for x, y in zip(one, other, strict=True):
            if not np.allclose(x, y, rtol=1e-4, atol=1e-5, equal_nan=True):
                raise ValueError(
                    f"Layer {call.name!r} must hold its state in weights or in its config, "
                    f"to be copied. Received: {type(operation).__name__}, whose copy "
                    "computes something else."
                )


def _tried(call: trace.Call, layer) -> list[np.ndarray]:
    """What a layer puts out on random numbers, the same ones for the same call."""
    rng = np.random.default_rng(0)
    inputs = [
        keras.ops.cast(
            rng.uniform(size=(TRIED, *(n or TRIED for n in tensor.shape[1:]))),
            tensor.dtype,
        )
        for tensor in call.inputs
    ]
    args, kwargs = call.fill(inputs)
    if trace.takes_training(layer):
        kwargs = {**kwargs, "training": False}
    outputs = keras.tree.flatten(layer(*args, **kwargs))
    return [keras.ops.convert_to_numpy(output) for output in outputs]


def copied(model):
    """A copy of a model: its layers, its weights, and what layers hold beside them.

    Args:
        model: A built Functional or Sequential model; it is not changed.
    """
    graph = trace.read(model)
    copy, operations = rebuild(graph)
    carry(graph, operations)
    return copy


def refresh(layer) -> None:
    """After new weights: what a Normalization works out from them once."""
    for inner in trace.sublayers([layer]):
        if isinstance(inner, keras.layers.Normalization):
            inner.finalize_state()
