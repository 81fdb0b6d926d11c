"""Counts what a model costs on a device, without running it."""

from __future__ import annotations

import keras
import numpy as np

from tfsparse import records
from tfsparse.graph import memory, trace
from tfsparse.graph.rules import counting, rule_of


class Whole:
    """Nothing is removed: what `measure` asks of a plan, for the model as it is.

    Args:
        graph: The model's graph.
    """

    def __init__(self, graph: trace.Graph):
        self.graph = graph

    def shape(self, variable) -> tuple[int, ...]:
        """The variable's own shape."""
        return tuple(variable.shape)

    def cut(self, path: str, value: np.ndarray) -> np.ndarray:
        """All of a variable's value."""
        return value

    def size(self, tensor) -> int:
        """Elements of a tensor for one sample; unknown sizes count 1."""
        return int(np.prod([n or 1 for n in tensor.shape[1:]], dtype=int))

    def extent(self, tensor, axis: int) -> int:
        """Length of one axis of a tensor; 1 where it is unknown."""
        return tensor.shape[axis] or 1


def measure(model, left=None) -> records.Cost:
    """Counts parameters, MACs, bytes and working memory of a model.

    A layer's MACs are its kernel's elements times the positions that the kernel
    visits, and for products of tensors the terms of their sums; normalisers and
    activations count none. Layers that vanish before deployment (those with a
    `lowered` rule) cost nothing.

    Args:
        model: A built Functional or Sequential Keras model.
        left: A `deploy.removal.Plan`: counts the smaller model without building it.

    Returns:
        A `Cost`.

    Raises:
        ValueError: `model` is not built or is a subclass.

    Example:
        >>> measure(zoo.build("lenet5", (28, 28, 1), 10)).macs
        2293000
    """
    graph = trace.read(model)
    left = left or Whole(graph)
    params = nonzero = total = weight_bytes = index_bytes = memory_1 = memory_2 = 0
    counted: set[int] = set()
    for call in graph.calls:
        operation = call.operation
        if hasattr(operation, "lowered"):
            continue
        if (indices := rule_of(operation).index_bytes) is not None:
            index_bytes += indices(call, left)
        variables = counting.numeric(operation)
        own = sum(int(np.prod(left.shape(v), dtype=int)) for v in variables)
        inputs = sum(left.size(t) for t in dict.fromkeys(call.inputs))
        outputs = sum(left.size(t) for t in call.outputs)
        memory_1 = max(memory_1, inputs + own)
        if not memory.in_place(operation):
            memory_2 = max(memory_2, inputs + outputs)
        total += counting.macs(call, left)
        fresh = [v for v in variables if id(v) not in counted]
        counted.update(id(v) for v in fresh)
        values = operation.stock_values() if hasattr(operation, "stock_values") else {}
        params += sum(int(np.prod(left.shape(v), dtype=int)) for v in fresh)
        for variable in fresh:
            value = values.get(variable.path)
            if value is None:
                value = keras.ops.convert_to_numpy(variable)
            nonzero += int(np.count_nonzero(left.cut(graph.paths[id(variable)], value)))
        if fresh:
            weight_bytes += counting.stored_bytes(call, left)
    return records.Cost(
        params=params,
        nonzero=nonzero,
        macs=total,
        weight_bytes=weight_bytes,
        index_bytes=index_bytes,
        peak_activation_bytes=memory.peak(graph, left),
        working_memory_1=memory_1,
        working_memory_2=memory_2,
    )


def layer_costs(model) -> list[dict]:
    """Parameters and MACs of every call that has any, in order of execution.

    Returns:
        A list of `{"layer", "params", "weights", "macs", "shape"}`; `weights` are those of
        kernels, `shape` is the output's,
        the batch left out.
    """
    graph = trace.read(model)
    rows, whole = [], Whole(graph)
    for call in graph.calls:
        if hasattr(call.operation, "lowered"):
            continue
        spent = counting.macs(call, whole)
        variables = counting.numeric(call.operation)
        if spent or any(len(v.shape) > 1 for v in variables):
            sizes = [int(np.prod(v.shape, dtype=int)) for v in variables]
            shape = list(call.outputs[0].shape[1:])
            rows.append(
                {
                    "layer": call.name,
                    "params": sum(sizes),
                    "weights": sum(
                        n
                        for n, v in zip(sizes, variables, strict=True)
                        if counting.is_kernel(v)
                    ),
                    "macs": spent,
                    "shape": shape,
                }
            )
    return rows
