"""Reads a Keras model as a list of calls and builds new models from such a list.

The only file, with those of `optimizers/`, that touches private names of Keras;
`tests/test_trace.py` fails when Keras moves them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of one operation inside a functional model.

    Attributes:
        operation: The layer or op that was called.
        index: Which call of this operation within the model, counted from 0.
        inputs: Symbolic tensors that went in.
        outputs: Symbolic tensors that came out.
        arguments: Keras's record of the call, for `rebuild`.
    """

    operation: Any
    index: int
    inputs: tuple
    outputs: tuple
    arguments: Any

    @property
    def kwargs(self) -> dict:
        """Keyword arguments of the call."""
        return self.arguments.kwargs


def functional(model) -> keras.Model:
    """Returns the functional model behind `model`, sharing its layers.

    Raises:
        ValueError: `model` is not built, or is a subclass whose graph Python hides.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(
            "`model` must be a keras.Model. "
            f"Received: {type(model).__module__}.{type(model).__name__}."
        )
    if isinstance(model, keras.Sequential):
        if not model.built or not model.inputs:
            raise ValueError(
                f"`model` must be built. Received: Sequential {model.name!r} without "
                "an input shape. Begin it with keras.Input(shape) or call it once."
            )
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    if not hasattr(model, "_nodes_by_depth"):
        raise ValueError(
            "`model` must be Functional or Sequential. "
            f"Received: {type(model).__name__}, a subclass whose call() is Python code "
            "that cannot be read as a graph. Build it with keras.Model(inputs, outputs)."
        )
    return model


def calls(model) -> list[Call]:
    """All calls of `model` in execution order, the input placeholders left out."""
    model = functional(model)
    seen: dict[int, int] = {}
    found = []
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if not node.operation or node.is_input:
                continue
            key = id(node.operation)
            index = seen.get(key, 0)
            seen[key] = index + 1
            found.append(
                Call(
                    node.operation,
                    index,
                    tuple(node.input_tensors),
                    tuple(node.output_tensors),
                    node.arguments,
                )
            )
    return found


def consumers(found: list[Call]) -> dict[int, list[Call]]:
    """Maps `id(tensor)` to the calls that read it."""
    readers: dict[int, list[Call]] = {}
    for call in found:
        for tensor in call.inputs:
            readers.setdefault(id(tensor), []).append(call)
    return readers


def writers(found: list[Call]) -> dict[int, Call]:
    """Maps `id(tensor)` to the call that wrote it; model inputs have none."""
    return {id(tensor): call for call in found for tensor in call.outputs}


def operation_class(build: Callable, inputs: int = 1) -> type:
    """The class that a `keras.ops` function records in a functional model.

    Args:
        build: Called with `inputs` symbolic tensors of shape (None, 4, 4).
        inputs: How many.

    Returns:
        The Operation subclass, to key a rule by.
    """
    tensors = [keras.Input((4, 4)) for _ in range(inputs)]
    return type(build(*tensors)._keras_history.operation)


def clone(operation):
    """A new layer or op of the same configuration, without weights."""
    return operation.__class__.from_config(operation.get_config())


def rebuild(
    model,
    make: Callable[[Any], Any] = clone,
    call: Callable | None = None,
    after: Callable | None = None,
) -> tuple[keras.Model, dict[int, Any]]:
    """Builds a new model by replaying the calls of `model` on new operations.

    Args:
        model: A functional or sequential model.
        make: Operation -> new operation; asked once for each.
        call: `(Call, new operation, args, kwargs) -> outputs`, where something else
            than `operation(*args, **kwargs)` is wanted.
        after: `(old tensor, new tensor) -> tensor` that later calls read instead.

    Returns:
        The new model, and a dict from `id(old operation)` to the new operation.
    """
    model = functional(model)
    tensors: dict[int, Any] = {}

    def placeholder(tensor):
        new = keras.Input(
            batch_shape=tensor.shape, dtype=tensor.dtype, name=origin(tensor)
        )
        tensors[id(tensor)] = new if after is None else after(tensor, new)
        return new

    inputs = keras.tree.map_structure(placeholder, model._inputs_struct)
    operations: dict[int, Any] = {}
    for item in calls(model):
        key = id(item.operation)
        if key not in operations:
            operations[key] = make(item.operation)
        args, kwargs = item.arguments.fill_in(tensors)
        if call is None:
            outputs = operations[key](*args, **kwargs)
        else:
            outputs = call(item, operations[key], args, kwargs)
        for old, new in zip(item.outputs, keras.tree.flatten(outputs), strict=True):
            tensors[id(old)] = new if after is None else after(old, new)
    outputs = keras.tree.map_structure(lambda t: tensors[id(t)], model._outputs_struct)
    return keras.Model(inputs, outputs, name=model.name), operations


def variables_of(operation) -> list:
    """All variables of a layer, in a fixed order; none for a plain op."""
    return list(getattr(operation, "variables", ()))


def origin(tensor) -> str:
    """Name of the operation (or input) that wrote a symbolic tensor."""
    return tensor._keras_history.operation.name
