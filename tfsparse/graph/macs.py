"""Multiply-accumulates of one call, by the family of its operation."""

from __future__ import annotations

import numpy as np
from keras import layers, ops

from tfsparse.graph import trace
from tfsparse.graph.rules.attention import MULTI, parts
from tfsparse.graph.rules.recurrent import GATES
from tfsparse.graph.rules.weights import letters

MATMUL = trace.operation_class(ops.matmul, inputs=2)
EINSUM = trace.operation_class(lambda x, y: ops.einsum("abc,adc->abd", x, y), inputs=2)

_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
_NONE = (layers.Embedding, layers.PReLU)


def is_kernel(variable) -> bool:
    """Whether a variable is a kernel, stored as bytes: not a bias of any shape."""
    return len(variable.shape) > 1 and variable.name not in ("bias", "vector_u")


def macs(call, left) -> int:
    """MACs of one sample through one call; `left` tells the sizes (see `measure`)."""
    return _macs(call, call.operation, left, call.inputs, call.outputs)


def _macs(call, layer, left, inputs, outputs) -> int:
    def elements(*variables):
        return sum(int(np.prod(left.shape(v), dtype=int)) for v in variables)

    if isinstance(layer, layers.TimeDistributed | layers.SpectralNormalization):
        return _macs(call, layer.layer, left, inputs, outputs)
    if isinstance(layer, layers.Bidirectional):
        return sum(
            _macs(call, side, left, inputs, outputs)
            for side in (layer.forward_layer, layer.backward_layer)
        )
    if type(layer) in GATES:
        cell = layer.cell
        kernels = (cell.kernel, cell.recurrent_kernel)
        steps = left.extent(inputs[0], 1)
        if "Conv" not in type(layer).__name__:
            return steps * elements(*kernels)
        spatial = [
            n or 1 for n in outputs[0].shape[-1 - (len(cell.kernel.shape) - 2) : -1]
        ]
        return steps * int(np.prod(spatial)) * elements(*kernels)
    if isinstance(layer, MULTI):
        return _attention(call, layer, left)
    if isinstance(layer, layers.Attention):
        query, value, *key = [call.inputs[n] for n in call.numbers("inputs")]
        key = key[0] if key else value
        width = left.extent(query, -1) + left.extent(value, -1)
        return left.extent(query, 1) * left.extent(value, 1) * width
    if isinstance(layer, layers.EinsumDense):
        read, kernel, written = letters(layer.equation, len(inputs[0].shape))
        free = [c for c in written if c not in kernel][1:]
        places = [left.extent(inputs[0], read.index(c)) for c in free]
        return elements(layer.kernel) * int(np.prod(places, dtype=int))
    if isinstance(layer, layers.Dot) or type(layer) in (MATMUL, EINSUM):
        return _product(call, layer, left)
    if isinstance(layer, _NONE):
        return 0
    kernels = [v for v in numeric(layer) if is_kernel(v)]
    if not kernels:
        return 0
    tensor = inputs[0] if isinstance(layer, _TRANSPOSED) else outputs[0]
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    shape = tensor.shape[1:]
    places = shape[1:] if first else shape[:-1]
    return elements(*kernels) * int(np.prod([n or 1 for n in places], dtype=int))


def _attention(call, layer, left) -> int:
    own = {name: left.shape(kernel) for name, (kernel, _) in parts(layer).items()}
    query = left.extent(call.inputs[call.numbers("query")[0]], 1)
    value = left.extent(call.inputs[call.numbers("value")[0]], 1)
    size = {name: int(np.prod(shape, dtype=int)) for name, shape in own.items()}
    by_query = size["query"] + size["attention_output"] + size.get("gate", 0)
    heads, width = own["query"][-2:]
    scores = heads * query * value * (width + own["value"][-1])
    return query * by_query + value * (size["key"] + size["value"]) + scores


def _product(call, operation, left) -> int:
    """Terms of a product of two tensors: what comes out, times what is summed."""
    first = call.inputs[0]
    if isinstance(operation, layers.Dot):
        axis = operation.axes if isinstance(operation.axes, int) else operation.axes[0]
        summed = left.extent(first, axis)
    elif type(operation) is MATMUL:
        summed = left.extent(first, -1)
    else:
        read, written = operation.subscripts.replace(" ", "").split("->")
        spec = read.split(",")[0]
        over = [left.extent(first, k) for k, c in enumerate(spec) if c not in written]
        summed = int(np.prod(over, dtype=int))
    return left.size(call.outputs[0]) * summed


def numeric(operation) -> list:
    """A layer's variables but for states of random numbers; of a twin, the plain ones."""
    variables = trace.variables_of(operation)
    if hasattr(operation, "stock_values"):
        return [v for v in variables if v.name in operation.stock_variables]
    return [v for v in variables if "seed_generator" not in v.path]
