"""Counts what a model costs on a device, without running it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import keras
import numpy as np

from tfsparse import records
from tfsparse.graph import rules, trace

BIAS_BYTES = 4
INDEX_BYTES = 4


def measure(model, shapes: Mapping[str, tuple[int, ...]] | None = None) -> records.Cost:
    """Counts parameters, MACs, bytes and working memory of a model.

    A layer's MACs are its kernel's elements times the positions that the kernel
    visits; BatchNorm and activations count none. Layers that vanish before
    deployment (those with a `lowered` rule) cost nothing.

    Args:
        model: A built Functional or Sequential Keras model.
        shapes: Variable path -> the shape it would have after a removal: counts the
            smaller model without building it.

    Returns:
        A `Cost`. With `shapes`, its activation figures follow the kernels' sizes.

    Raises:
        ValueError: `model` is not built or is a subclass.

    Example:
        >>> measure(zoo.build("lenet5", (28, 28, 1), 10)).macs
        2293000
    """
    shapes = shapes or {}
    found = trace.calls(model)
    readers, writers = trace.consumers(found), trace.writers(found)
    params = nonzero = macs = weight_bytes = index_bytes = memory_1 = 0
    memory_2 = 0
    counted: set[int] = set()
    sizes = _activation_sizes(model, found, shapes)
    for call in found:
        operation = call.operation
        if hasattr(operation, "lowered"):
            continue
        if type(operation) is rules.TAKE:
            index_bytes += INDEX_BYTES * len(rules.constant_indices(call))
        kernels, others = _weights(operation)
        layer_weights = 0
        for variable in kernels:
            elements = _elements(variable, shapes)
            layer_weights += elements
            macs += elements * _positions(call, variable)
        layer_weights += sum(_elements(v, shapes) for v in others)
        inputs = sum(sizes[id(t)] for t in call.inputs)
        outputs = sum(sizes[id(t)] for t in call.outputs)
        memory_1 = max(memory_1, inputs + layer_weights)
        if layer_weights or not _is_view(operation):
            memory_2 = max(memory_2, inputs + outputs)
        if id(operation) in counted:
            continue
        counted.add(id(operation))
        params += layer_weights
        nonzero += sum(_nonzero(v, shapes) for v in (*kernels, *others))
        weight_bytes += _stored_bytes(call, shapes, readers, writers)
    return records.Cost(
        params=params,
        nonzero=nonzero,
        macs=macs,
        weight_bytes=weight_bytes,
        index_bytes=index_bytes,
        peak_activation_bytes=_peak(model, found, sizes),
        working_memory_1=memory_1,
        working_memory_2=memory_2,
    )


def layer_costs(model) -> list[dict]:
    """Parameters and MACs of every layer that has weights, in order of execution.

    Returns:
        A list of `{"layer", "params", "macs", "shape"}`; `shape` is the output's,
        the batch left out.
    """
    rows = []
    for call in trace.calls(model):
        kernels, others = _weights(call.operation)
        if not kernels or hasattr(call.operation, "lowered"):
            continue
        rows.append(
            {
                "layer": call.operation.name,
                "params": sum(math.prod(v.shape) for v in (*kernels, *others)),
                "macs": sum(math.prod(v.shape) * _positions(call, v) for v in kernels),
                "shape": list(call.outputs[0].shape[1:]),
            }
        )
    return rows


def _weights(operation) -> tuple[list, list]:
    """A layer's kernels (rank 2 and more) and its other numeric variables."""
    numeric = [
        v for v in trace.variables_of(operation) if "seed_generator" not in v.path
    ]
    if isinstance(operation, keras.layers.PReLU):
        return [], numeric
    kernels = [v for v in numeric if len(v.shape) > 1]
    return kernels, [v for v in numeric if len(v.shape) <= 1]


def _shape(variable, shapes) -> tuple[int, ...]:
    return tuple(shapes.get(variable.path, variable.shape))


def _elements(variable, shapes) -> int:
    return math.prod(_shape(variable, shapes))


def _nonzero(variable, shapes) -> int:
    if variable.path in shapes:
        return _elements(variable, shapes)
    return int(np.count_nonzero(keras.ops.convert_to_numpy(variable)))


def _positions(call, variable) -> int:
    """How often a kernel is applied to one sample."""
    output = call.outputs[0].shape[1:]
    layer = call.operation
    if isinstance(layer, keras.layers.Dense):
        return _product(output[:-1])
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    return _product(output[1:] if first else output[:-1])


def _product(shape) -> int:
    return math.prod(n or 1 for n in shape)


def _is_view(operation) -> bool:
    return isinstance(
        operation,
        keras.layers.Flatten
        | keras.layers.Reshape
        | keras.layers.Dropout
        | rules.RESHAPE,
    ) or hasattr(operation, "lowered")


def _stored_bytes(call, shapes, readers, writers) -> int:
    """Bytes as int8 TFLite stores this layer."""
    layer = call.operation
    kernels, others = _weights(layer)
    if isinstance(layer, keras.layers.BatchNormalization):
        channels = _elements(layer.moving_mean, shapes)
        writer = writers.get(id(call.inputs[0]))
        before = writer.operation if writer else None
        kernels_before, biases_before = _weights(before)
        alone = len(readers[id(call.inputs[0])]) == 1
        linear = getattr(before, "activation", None) in (None, keras.activations.linear)
        if kernels_before and alone and linear:  # folded: it becomes that layer's bias
            return 0 if biases_before else BIAS_BYTES * channels
        return channels + BIAS_BYTES * channels  # a MUL by int8 and an ADD
    if isinstance(layer, keras.layers.PReLU):
        return sum(_elements(v, shapes) for v in others)
    weights = sum(_elements(v, shapes) for v in kernels)
    return weights + BIAS_BYTES * sum(_elements(v, shapes) for v in others)


def _activation_sizes(model, found, shapes) -> dict[int, int]:
    """Elements of every tensor, its channels shrunk where a kernel's would be."""
    sizes, scale = {}, {}
    for tensor in model.inputs:
        sizes[id(tensor)] = _product(tensor.shape[1:])
    for call in found:
        kernels, _ = _weights(call.operation)
        factor = max((scale.get(id(t), 1.0) for t in call.inputs), default=1.0)
        written = kernels[-1] if kernels else None
        if written is not None and written.path in shapes:
            factor = shapes[written.path][-1] / written.shape[-1]
        elif written is not None:
            factor = 1.0
        for tensor in call.outputs:
            scale[id(tensor)] = factor
            sizes[id(tensor)] = round(_product(tensor.shape[1:]) * factor)
    return sizes


def _peak(model, found, sizes) -> int:
    """Largest sum of live tensors at 1 byte an element, in the model's own order."""
    last_use = {id(t): len(found) for t in keras.tree.flatten(model.outputs)}
    for step, call in enumerate(found):
        for tensor in call.inputs:
            last_use[id(tensor)] = max(last_use.get(id(tensor), 0), step)
    live = {id(t): sizes[id(t)] for t in model.inputs}
    peak = sum(live.values())
    for step, call in enumerate(found):
        for tensor in call.outputs:
            live[id(tensor)] = sizes[id(tensor)]
        gone = {k for k in live if last_use.get(k, 0) <= step}
        reused = {id(t) for t in call.inputs} & gone if _in_place(call) else set()
        peak = max(peak, sum(n for k, n in live.items() if k not in reused))
        live = {k: n for k, n in live.items() if k not in gone}
    return peak


def _in_place(call) -> bool:
    """Views, and element-wise layers that TFLite fuses into the one before."""
    stays = (
        keras.layers.ReLU | keras.layers.Activation | keras.layers.BatchNormalization
    )
    return _is_view(call.operation) or isinstance(call.operation, stays)
