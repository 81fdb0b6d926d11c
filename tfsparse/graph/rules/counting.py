"""What rules count with: elements of variables, MACs of kernels, stored bytes."""

from __future__ import annotations

import numpy as np

from tfsparse.graph import trace
from tfsparse.graph.rules.registry import channel_axis, rule_of

BIAS_BYTES = 4
INDEX_BYTES = 4


def is_kernel(variable) -> bool:
    """Whether a variable is a kernel, stored as bytes: not a bias of any shape."""
    return len(variable.shape) > 1 and variable.name not in ("bias", "vector_u")


def numeric(operation) -> list:
    """A layer's variables but for states of random numbers; of a twin, the plain ones."""
    variables = trace.variables_of(operation)
    if hasattr(operation, "stock_values"):
        return [v for v in variables if v.name in operation.stock_variables]
    return [v for v in variables if "seed_generator" not in v.path]


def elements(left, *variables) -> int:
    """How many numbers variables will hold."""
    return sum(int(np.prod(left.shape(v), dtype=int)) for v in variables)


def places(tensor, layer) -> int:
    """Positions of a tensor, its batch and its channels left out; unknown ones count 1."""
    axis = channel_axis(layer, len(tensor.shape))
    sizes = [n or 1 for k, n in enumerate(tensor.shape) if k not in (0, axis)]
    return int(np.prod(sizes, dtype=int))


def macs(call, left) -> int:
    """MACs of one sample through one call; `left` tells the sizes (see `measure`)."""
    return (rule_of(call.operation).macs or kernel_macs)(call, left)


def stored_bytes(call, left) -> int:
    """Bytes of the weights of a call's layer, as int8 TFLite stores them."""
    return (rule_of(call.operation).stored_bytes or kernel_bytes)(call, left)


def kernel_macs(call, left) -> int:
    """MACs of kernels that visit every place of the output."""
    kernels = [v for v in numeric(call.operation) if is_kernel(v)]
    if not kernels:
        return 0
    return elements(left, *kernels) * places(call.outputs[0], call.operation)


def input_macs(call, left) -> int:
    """MACs of kernels that visit every place of the input: transposed convolutions."""
    kernels = [v for v in numeric(call.operation) if is_kernel(v)]
    return elements(left, *kernels) * places(call.inputs[0], call.operation)


def no_macs(call, left) -> int:
    """Of weights that multiply nothing, or element by element."""
    return 0


def kernel_bytes(call, left) -> int:
    """Bytes as int8 TFLite stores weights: one a weight of a kernel, four each other."""
    variables = numeric(call.operation)
    kernels = [v for v in variables if is_kernel(v)]
    others = [v for v in variables if not is_kernel(v)]
    return elements(left, *kernels) + BIAS_BYTES * elements(left, *others)
