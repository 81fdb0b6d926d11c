"""Reads a Keras model as a list of calls.

Nested models are read as if their layers stood in the outer model: every call has
its own tensors, also where one inner model is called twice. The only file, with those
of `optimizers/`, that touches private names of Keras; `tests/test_trace.py` fails
when Keras moves them.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import keras


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of the graph. Two are equal if they are the same edge.

    Attributes:
        key: The nested calls that lead to it, and Keras's tensor.
        shape: With None for unknown sizes; the batch comes first.
        dtype: Such as `float32`.
        origin: Name of the operation or input that wrote it.
    """

    key: tuple
    shape: tuple = dataclasses.field(compare=False)
    dtype: str = dataclasses.field(compare=False)
    origin: str = dataclasses.field(compare=False)


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of one operation inside a model.

    Attributes:
        operation: The layer or op that was called.
        name: Its name, unique in the graph.
        index: Which call of this operation within the graph, counted from 0.
        inputs: Tensors that went in.
        outputs: Tensors that came out.
        arguments: Keras's record of the call.
        training: What an enclosing nested model was told, None if nothing.
    """

    operation: Any
    name: str
    index: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    arguments: Any
    training: bool | None = None

    @property
    def kwargs(self) -> dict:
        """Keyword arguments of the call."""
        return self.arguments.kwargs

    def fill(self, values) -> tuple[tuple, dict]:
        """The call's args and kwargs with `values` for its inputs, one by one."""
        values = iter(values)
        return keras.tree.map_structure(
            lambda x: next(values) if isinstance(x, keras.KerasTensor) else x,
            (self.arguments.args, self.arguments.kwargs),
        )

    def numbers(self, name: str) -> list[int]:
        """Which inputs were passed as the argument `name` of the operation's call."""
        bound = inspect.signature(self.operation.call).bind_partial(
            *self.arguments.args, **self.arguments.kwargs
        )
        wanted = [
            id(x)
            for x in keras.tree.flatten(bound.arguments.get(name))
            if isinstance(x, keras.KerasTensor)
        ]
        keys = [
            id(x)
            for x in keras.tree.flatten((self.arguments.args, self.arguments.kwargs))
            if isinstance(x, keras.KerasTensor)
        ]
        return [keys.index(key) for key in wanted]

    @functools.cached_property
    def masks(self) -> list[int]:
        """Which inputs were passed as masks."""
        if len(self.inputs) < 2 or not isinstance(self.operation, keras.layers.Layer):
            return []
        names = inspect.signature(self.operation.call).parameters
        return [k for name in names if "mask" in name for k in self.numbers(name)]


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """All calls of a model, nested models opened, in execution order.

    Attributes:
        model: The functional model that was read.
        calls: Its calls.
        inputs: Tensors that come in.
        outputs: Tensors that go out.
        names: `id(operation)` -> unique name.
        paths: `id(variable)` -> path, unique in the graph: Keras's own, behind the
            nested model's name where two models use one path.
        kept: What was worked out of the graph before (`groups.analyse`), under a name.
    """

    model: Any
    calls: list[Call]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    names: dict[int, str]
    paths: dict[int, str]
    kept: dict[Any, Any] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def readers(self) -> dict[Tensor, list[Call]]:
        """Tensor -> the calls that read it."""
        readers: dict[Tensor, list[Call]] = {}
        for call in self.calls:
            for tensor in dict.fromkeys(call.inputs):
                readers.setdefault(tensor, []).append(call)
        return readers

    @functools.cached_property
    def writers(self) -> dict[Tensor, Call]:
        """Tensor -> the call that wrote it; inputs have none."""
        return {tensor: call for call in self.calls for tensor in call.outputs}

    @functools.cached_property
    def operations(self) -> list:
        """Every operation once, in the order of its first call."""
        return list(
            {id(call.operation): call.operation for call in self.calls}.values()
        )

    @functools.cached_property
    def variables(self) -> dict[str, Any]:
        """Path -> variable, in order."""
        return {
            self.paths[id(variable)]: variable
            for operation in self.operations
            for variable in variables_of(operation)
        }

    def placeholders(self) -> list:
        """New inputs such as the model has, in their order.

        The batch is open, also of a model that was recorded with one sample; not of one
        with layers that keep a state for each of its samples.
        """
        held = any(getattr(layer, "stateful", False) for layer in self.operations)
        return [
            keras.Input(
                batch_shape=tensor.shape if held else (None, *tensor.shape[1:]),
                dtype=tensor.dtype,
                name=tensor.origin,
                sparse=old.sparse,
                optional=old._keras_history.operation.optional,
            )
            for tensor, old in zip(self.inputs, self.model.inputs, strict=True)
        ]

    def model_of(self, inputs, outputs) -> keras.Model:
        """A model of new tensors, listed in order, in the structures of this one."""
        inputs, outputs = iter(inputs), iter(outputs)
        return keras.Model(
            keras.tree.map_structure(lambda _: next(inputs), self.model._inputs_struct),
            keras.tree.map_structure(
                lambda _: next(outputs), self.model._outputs_struct
            ),
            name=self.model.name,
        )

    def only_reader(self, call: Call) -> Call | None:
        """The one call that reads a call's outputs; None if several do, or the user."""
        reading = [r for t in call.outputs for r in self.readers.get(t, [])]
        exposed = any(t in self.outputs for t in call.outputs)
        return reading[0] if len(reading) == 1 and not exposed else None


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
    if type(model).call is keras.Sequential.call:
        if not model.built or not model.inputs:
            raise ValueError(
                f"`model` must be built. Received: Sequential {model.name!r} without "
                "an input shape. Begin it with keras.Input(shape) or call it once."
            )
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    if not _is_functional(model):
        raise ValueError(
            "`model` must be Functional or Sequential. "
            f"Received: {type(model).__name__}, a subclass whose call() is Python code "
            "that cannot be read as a graph. Build it with keras.Model(inputs, outputs)."
        )
    return model


def _is_functional(model) -> bool:
    """Whether a model's graph says all that its call does."""
    if isinstance(model, keras.Sequential):
        own = type(model).call is keras.Sequential.call
        return own and model.built and bool(model.inputs)
    if not isinstance(model, keras.Model) or not hasattr(model, "_nodes_by_depth"):
        return False
    return type(model).call is _functional_class().call


@functools.cache
def _functional_class() -> Any:
    """The class behind `keras.Model(inputs, outputs)`, which has no public name."""
    x = keras.Input((1,))
    return type(keras.Model(x, x))


class _Reading:
    """A graph, kept on the model that it was read from, and what it was true of.

    No weak dictionary: the graph refers to its model, so a value there would keep its
    own key alive. On the model itself both are one cycle, which Python collects. It is
    no layer, variable, list or dict, so Keras neither tracks nor saves it.
    """

    name = "_tfsparse_reading"

    def __init__(self, state: tuple, graph: Graph):
        self.state, self.graph = state, graph


def read(model) -> Graph:
    """Reads a model, its nested models included; the same model only once.

    The graph holds structure and variables, no values. It is read again where layers
    were added to or taken from a Sequential, or variables to or from a layer.

    Args:
        model: A built Functional or Sequential model, or a Graph (returned as it is).

    Returns:
        The model's `Graph`, the same object each time.

    Raises:
        ValueError: `model` is not built or is a subclass.

    Example:
        >>> read(net) is read(net)
        True
    """
    if isinstance(model, Graph):
        return model
    if not isinstance(model, keras.Model):
        functional(model)  # says what is wrong
    state = _state(model)
    known = vars(model).get(_Reading.name)
    if known is None or known.state != state:
        known = _Reading(state, read_anew(model))
        object.__setattr__(model, _Reading.name, known)  # past Keras's tracking
    return known.graph


def _state(model) -> tuple:
    """What may change of a model once built: its layers and variables, one by one."""
    layers = tuple(id(layer) for layer in model._flatten_layers())
    return layers, tuple(id(variable) for variable in model.variables)


def read_anew(model) -> Graph:
    """Reads a model, whatever is known of it. See `read`."""
    model = functional(model)
    reader = _Reader()
    tensors = {id(t): _tensor(t, (), origin(t)) for t in model.inputs}
    inputs = tuple(tensors[id(t)] for t in model.inputs)
    reader.names |= {f"input:{t.origin}": None for t in inputs}
    reader.visit(model, (), tensors, None, False)
    outputs = tuple(tensors[id(t)] for t in keras.tree.flatten(model.outputs))
    return Graph(model, reader.calls, inputs, outputs, reader.name_of, reader.path_of)


def _tensor(tensor, scope: tuple, name: str, shape=None) -> Tensor:
    shape = tuple(tensor.shape) if shape is None else tuple(shape)
    return Tensor((*scope, id(tensor)), shape, tensor.dtype, name)


class _Reader:
    """Collects the calls of a model and of the models inside it."""

    def __init__(self):
        self.calls: list[Call] = []
        self.names: dict[str, int | None] = {}
        self.name_of: dict[int, str] = {}
        self.paths: dict[str, int] = {}
        self.path_of: dict[int, str] = {}
        self._called: dict[int, int] = {}

    def visit(self, model, scope, tensors, training, reshaped, where="") -> None:
        """Adds the calls of `model`; `tensors` maps its Keras tensors, and grows."""
        for depth in sorted(model._nodes_by_depth, reverse=True):
            for node in model._nodes_by_depth[depth]:
                if not node.operation or node.is_input:
                    continue
                if isinstance(node.operation, keras.Model) and _is_functional(
                    node.operation
                ):
                    self._enter(node, scope, tensors, training, reshaped, where)
                else:
                    self._add(node, scope, tensors, training, reshaped, where)

    def _enter(self, node, scope, tensors, training, reshaped, where) -> None:
        inner = functional(node.operation)
        given = _given(node.arguments, inner)
        inside = {
            id(own): tensors[id(outer)]
            for own, outer in zip(inner.inputs, given, strict=True)
        }
        reshaped = reshaped or any(
            tuple(own.shape[1:]) != inside[id(own)].shape[1:] for own in inner.inputs
        )
        told = node.arguments.kwargs.get("training")
        told = training if told is None else bool(told)
        place = f"{where}{node.operation.name}/"
        self.visit(inner, (*scope, id(node)), inside, told, reshaped, place)
        outs = keras.tree.flatten(inner.outputs)
        for outer, own in zip(node.output_tensors, outs, strict=True):
            tensors[id(outer)] = inside[id(own)]

    def _add(self, node, scope, tensors, training, reshaped, where) -> None:
        operation = node.operation
        index = self._called.get(id(operation), 0)
        self._called[id(operation)] = index + 1
        if index == 0:
            self._register(operation, where)
        name = self.name_of[id(operation)]
        shapes = [t.shape for t in node.output_tensors]
        if reshaped:  # an inner model was called with other sizes than its Input's
            args, kwargs = node.arguments.fill_in(
                {
                    id(t): keras.KerasTensor(tensors[id(t)].shape, t.dtype)
                    for t in node.input_tensors
                }
            )
            outs = operation.compute_output_spec(*args, **kwargs)
            shapes = [t.shape for t in keras.tree.flatten(outs)]
        for tensor, shape in zip(node.output_tensors, shapes, strict=True):
            tensors[id(tensor)] = _tensor(tensor, scope, name, shape)
        self.calls.append(
            Call(
                operation,
                name,
                index,
                tuple(tensors[id(t)] for t in node.input_tensors),
                tuple(tensors[id(t)] for t in node.output_tensors),
                node.arguments,
                training,
            )
        )

    def _register(self, operation, where: str) -> None:
        name = _unused(operation.name, where.replace("/", "_"), self.names)
        self.names[name] = id(operation)
        self.name_of[id(operation)] = name
        for variable in variables_of(operation):
            if id(variable) not in self.path_of:
                path = _unused(variable.path, where, self.paths)
                self.paths[path] = id(variable)
                self.path_of[id(variable)] = path


def _unused(name: str, prefix: str, taken) -> str:
    """`name`, or behind `prefix`, or with a number: the first that is not taken."""
    wanted = name
    if wanted in taken and prefix:
        name = wanted = f"{prefix}{name}"
    number = 1
    while wanted in taken:
        wanted = f"{name}_{number}"
        number += 1
    return wanted


def _given(arguments, inner) -> list:
    """The tensors that a nested model was called with, in the order of its inputs.

    As Keras matches them: a dict given for a list by the inputs' names, anything else
    by its flat order.
    """
    given = arguments.args[0] if arguments.args else arguments.kwargs["inputs"]
    wanted = inner._inputs_struct
    if isinstance(given, dict) and not isinstance(wanted, dict):
        return [given[tensor.name] for tensor in keras.tree.flatten(wanted)]
    return keras.tree.flatten(given)[: len(inner.inputs)]


def operation_class(build: Callable, inputs: int = 1) -> type:
    """The class that a `keras.ops` function records in a functional model.

    Args:
        build: Called with `inputs` symbolic tensors of shape (None, 4, 4).
        inputs: How many.

    Returns:
        The Operation subclass, to key a rule by.
    """
    outputs = build(*(keras.Input((4, 4)) for _ in range(inputs)))
    return type(keras.tree.flatten(outputs)[0]._keras_history.operation)


def in_order(model, x) -> list:
    """Arrays for the inputs of a model, in their order; a dict goes by their names."""
    names = [tensor.name for tensor in model.inputs]
    if isinstance(x, dict) and not isinstance(model._inputs_struct, dict):
        if missing := [name for name in names if name not in x]:
            raise ValueError(
                f"`data` must hold an x for each input. Received: none for {missing}."
            )
        return [x[name] for name in names]
    arrays = keras.tree.flatten(x)
    if len(arrays) != len(names):
        raise ValueError(
            f"`data` must hold an x for each of the inputs {names}. "
            f"Received: {len(arrays)}."
        )
    return arrays


def packed(model, tensors: list):
    """Tensors for the inputs of a model, in their order, in the structure that it takes."""
    return keras.tree.pack_sequence_as(model._inputs_struct, tensors)


def takes_training(operation) -> bool:
    """Whether a call of the operation can be told `training`."""
    call = operation.call
    return _names_training(getattr(call, "__func__", call))


@functools.lru_cache(maxsize=1024)
def _names_training(function) -> bool:
    return "training" in inspect.signature(function).parameters


def variables_of(operation) -> list:
    """All variables of a layer, in a fixed order; none for a plain op."""
    return list(getattr(operation, "variables", ()))


def set_path(variable, path: str) -> None:
    """Gives a variable the path that it would have where it was copied from."""
    variable._path = path


def sublayers(operations) -> list:
    """The layers among `operations`, and all layers inside them."""
    layers = [x for x in operations if isinstance(x, keras.layers.Layer)]
    return [inner for layer in layers for inner in layer._flatten_layers()]


def origin(tensor) -> str:
    """Name of the operation (or input) that wrote a symbolic tensor."""
    return tensor._keras_history.operation.name
