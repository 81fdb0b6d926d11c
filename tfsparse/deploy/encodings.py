"""Ways to store a kernel that is mostly zeros, in real bytes.

TFLite gives single zeros nothing: it stores and multiplies them as any other number.
What a runtime that skips them would need, these encodings tell; each can be read back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras
import numpy as np

from tfsparse.deploy import variables
from tfsparse.graph import trace
from tfsparse.graph.rules import counting

_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)

RUN = 255
"""The longest gap that one byte tells."""


def quantised(kernel: np.ndarray, depthwise: bool = False) -> np.ndarray:
    """A kernel as int8, one scale for each output channel, zeros exactly zero.

    Args:
        kernel: `(..., inputs, outputs)`, floats.
        depthwise: Whether the last two axes together count the output channels.

    Returns:
        An int8 array of that shape, within [-127, 127].
    """
    channels = kernel.shape[-2:] if depthwise else kernel.shape[-1:]
    rows = kernel.reshape(-1, int(np.prod(channels)))
    largest = np.abs(rows).max(axis=0, initial=0.0)
    scale = np.where(largest > 0, largest, 1.0) / 127.0
    return np.round(rows / scale).astype(np.int8).reshape(kernel.shape)


def dense(matrix: np.ndarray) -> bytes:
    """Every number, a byte each: what TFLite stores."""
    return matrix.tobytes()


def read_dense(stored: bytes, shape) -> np.ndarray:
    """Reads `dense` back."""
    return np.frombuffer(stored, np.int8).reshape(shape)


def bitmap(matrix: np.ndarray) -> bytes:
    """A bit for every number, whether it is there, then those that are."""
    there = matrix != 0
    return np.packbits(there).tobytes() + matrix[there].tobytes()


def read_bitmap(stored: bytes, shape) -> np.ndarray:
    """Reads `bitmap` back."""
    size = int(np.prod(shape))
    split = -(-size // 8)
    there = np.unpackbits(np.frombuffer(stored[:split], np.uint8), count=size) > 0
    matrix = np.zeros(size, np.int8)
    matrix[there] = np.frombuffer(stored[split:], np.int8)
    return matrix.reshape(shape)


def relative(matrix: np.ndarray) -> bytes:
    """Pairs of a gap (the zeros before a number, up to 255) and a number.

    A longer gap takes pairs whose number is zero.

    Reference: Han et al. 2016 (Deep Compression), figure 2, with 8 bits for a gap.
    """
    flat = matrix.reshape(-1)
    places = np.flatnonzero(flat)
    gaps = np.diff(places, prepend=-1) - 1
    fillers = gaps // (RUN + 1)
    last = np.cumsum(fillers + 1) - 1  # where the pair of each number stands
    pairs = np.zeros((int((fillers + 1).sum()), 2), np.uint8)
    pairs[:, 0] = RUN
    pairs[last, 0] = gaps % (RUN + 1)
    pairs[last, 1] = flat[places].view(np.uint8)
    return pairs.tobytes()


def read_relative(stored: bytes, shape) -> np.ndarray:
    """Reads `relative` back."""
    pairs = np.frombuffer(stored, np.uint8).reshape(-1, 2)
    matrix = np.zeros(int(np.prod(shape)), np.int8)
    places = np.cumsum(pairs[:, 0].astype(np.int64) + 1) - 1
    matrix[places] = pairs[:, 1].view(np.int8)
    return matrix.reshape(shape)


def csr(matrix: np.ndarray) -> bytes:
    """For each row where it ends, then the columns, then the numbers.

    Ends are of 4 bytes; columns of 1 up to 256 columns, else of 2 or 4.
    """
    rows = matrix.reshape(-1, matrix.shape[-1])
    row, column = np.nonzero(rows)
    ends = np.cumsum(np.bincount(row, minlength=len(rows))).astype("<u4")
    columns = column.astype(_column_type(rows.shape[1]))
    return ends.tobytes() + columns.tobytes() + rows[row, column].tobytes()


def read_csr(stored: bytes, shape) -> np.ndarray:
    """Reads `csr` back."""
    matrix = np.zeros((int(np.prod(shape[:-1])), shape[-1]), np.int8)
    kind = np.dtype(_column_type(shape[-1]))
    ends = np.frombuffer(stored, "<u4", len(matrix))
    count, start = int(ends[-1]) if len(ends) else 0, ends.nbytes
    columns = np.frombuffer(stored, kind, count, start)
    values = np.frombuffer(stored, np.int8, count, start + columns.nbytes)
    row = np.repeat(np.arange(len(matrix)), np.diff(ends, prepend=np.uint32(0)))
    matrix[row, columns] = values
    return matrix.reshape(shape)


def _column_type(columns: int) -> str:
    if columns <= 1 << 8:
        return "<u1"
    return "<u2" if columns <= 1 << 16 else "<u4"


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How a kernel is written, `(array) -> bytes`, and read, `(bytes, shape) -> array`."""

    write: Callable[[np.ndarray], bytes]
    read: Callable[[bytes, tuple], np.ndarray]


ENCODINGS = {
    "dense": Encoding(dense, read_dense),
    "bitmap": Encoding(bitmap, read_bitmap),
    "relative": Encoding(relative, read_relative),
    "csr": Encoding(csr, read_csr),
}


def stored_bytes(model) -> dict[str, int]:
    """Bytes of all kernels of a model as int8, in each encoding; biases not counted.

    Args:
        model: A built model of stock layers.

    Returns:
        Encoding -> bytes.

    Example:
        >>> stored_bytes(small)
        {'dense': 266200, 'bitmap': 37191, 'relative': 8120, 'csr': 12880}
    """
    total = dict.fromkeys(ENCODINGS, 0)
    graph = trace.read(model)
    values = variables.values_of(graph)
    depthwise = {id(x.kernel) for x in graph.operations if isinstance(x, _DEPTHWISE)}
    depthwise |= {
        id(v) for v in graph.variables.values() if v.name == "depthwise_kernel"
    }
    for path, variable in graph.variables.items():
        if counting.is_kernel(variable):
            kernel = quantised(values[path], id(variable) in depthwise)
            for name, encoding in ENCODINGS.items():
                total[name] += len(encoding.write(kernel))
    return total
