"""Random inputs for a model, and its answers to them."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from tfsparse.graph import trace

UNKNOWN_SIZE = 32

ROUNDING = 1e-6
"""Differences of constants, relative to the largest value, that are rounding."""


def random_inputs(model, rng, samples: int = 2) -> list[np.ndarray]:
    """Random arrays that fit the model's inputs; unknown sizes become 32.

    What an Embedding looks up gets whole numbers below its `input_dim`.
    """
    graph = trace.read(model)
    arrays = []
    for tensor in graph.inputs:
        shape = (samples, *(n or UNKNOWN_SIZE for n in tensor.shape[1:]))
        below = [
            c.operation.input_dim
            for c in graph.readers.get(tensor, [])
            if isinstance(c.operation, keras.layers.Embedding)
        ]
        whole = below or not tensor.dtype.startswith(("float", "bfloat"))
        values = rng.uniform(0.0, min(below, default=2) if whole else 1.0, shape)
        values = np.floor(values) if whole else values
        arrays.append(
            values.astype(
                np.dtype(tensor.dtype) if tensor.dtype != "bfloat16" else "float32"
            )
        )
    return arrays


def replay(graph: trace.Graph, values, inputs, wanted, change=None) -> list[np.ndarray]:
    """What tensors of a graph are with other weights; the model is not touched.

    Args:
        graph: The graph, whose own layers are called.
        values: Path -> value that stands in for the variable's own.
        inputs: An array for each input of the graph.
        wanted: The tensors to return.
        change: `(call, arguments as a list, None) -> list` before a call, and
            `(call, None, outputs) -> outputs` after it, where something is changed.

    Returns:
        An array for each wanted tensor.
    """
    mapping = [(variable, values[path]) for path, variable in graph.variables.items()]
    left = {tensor: len(readers) for tensor, readers in graph.readers.items()}
    for tensor in wanted:
        left[tensor] = left.get(tensor, 0) + 1  # stays to the end
    with keras.StatelessScope(state_mapping=mapping):
        tensors = {
            tensor: ops.convert_to_tensor(array, tensor.dtype)
            for tensor, array in zip(graph.inputs, inputs, strict=True)
        }
        for call in graph.calls:
            given = [tensors[tensor] for tensor in call.inputs]
            if change is not None:
                given = change(call, given, None)
            args, kwargs = call.fill(given)
            if trace.takes_training(call.operation):
                kwargs = {**kwargs, "training": False}
            outputs = call.operation(*args, **kwargs)
            if change is not None:
                outputs = change(call, None, outputs)
            tensors.update(zip(call.outputs, keras.tree.flatten(outputs), strict=True))
            for tensor in dict.fromkeys(call.inputs):
                left[tensor] -= 1
                if not left[tensor]:
                    del tensors[tensor]
        return [ops.convert_to_numpy(tensors[tensor]) for tensor in wanted]


def values_at(graph: trace.Graph, tensors, weights) -> dict:
    """Tensor -> what it is on random input, with these weights (path -> value)."""
    wanted = list(dict.fromkeys(tensors))
    if not wanted:
        return {}
    inputs = random_inputs(graph, np.random.default_rng(1))
    return dict(zip(wanted, replay(graph, weights, inputs, wanted), strict=True))


def random_statistics(graph: trace.Graph, values, rng):
    """BatchNorm statistics that betray a wrong index and keep the model's outputs tame.

    On an untrained BatchNorm a wrong strip looks exact; on one with any statistics a
    deep model doubles its outputs layer by layer until rounding decides them. So mean
    and variance are drawn around those of the tensor that the layer meets first:
    `variance = U(0.5, 1.5) m`, `mean = U(-0.5, 0.5) sqrt(m)`, m the mean of its squares.

    Args:
        graph: The graph that will be replayed.
        values: Path -> value of every variable; it is not changed.
        rng: A NumPy generator.

    Returns:
        New values, and a `(call, given)` to run before each call of `replay`: it sets
        the statistics, for the replay and in the new values.
    """
    values = dict(values)
    waiting: dict[int, tuple] = {}
    for layer in graph.operations:
        if isinstance(layer, keras.layers.BatchNormalization):
            drawn = []
            for variable in layer.variables:
                positive = variable.name in ("gamma", "moving_variance")
                low, high = (0.5, 1.5) if positive else (-0.5, 0.5)
                fresh = rng.uniform(low, high, variable.shape).astype("float32")
                if variable.name.startswith("moving_"):
                    drawn.append((variable, fresh))
                else:
                    values[graph.paths[id(variable)]] = fresh
            waiting[id(layer)] = drawn

    def settle(call, given) -> None:
        for variable, fresh in waiting.pop(id(call.operation), ()):
            square = float(ops.mean(ops.square(ops.cast(given[0], "float32")))) or 1.0
            scale = square if variable.name == "moving_variance" else square**0.5
            variable.assign(fresh * scale)
            values[graph.paths[id(variable)]] = fresh * np.float32(scale)

    return values, settle


def run(model, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Outputs of a model in inference mode, flat, as arrays."""
    model = trace.functional(model)
    structure = keras.tree.pack_sequence_as(model.input, inputs)
    outputs = model(structure, training=False)
    return [ops.convert_to_numpy(x) for x in keras.tree.flatten(outputs)]
