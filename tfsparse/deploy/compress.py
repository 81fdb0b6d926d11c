"""Weights packed in flash, which TensorFlow Lite Micro unpacks: its DECODE operator.

A kernel that is mostly zeros becomes a bit a number and the numbers that are not zero; one
of few different numbers becomes a table of them and 1 to 7 bits a number. Each is unpacked
into the arena right before the operator that reads it, at every inference: flash is saved,
working memory and time are spent.

Reference: "TFLM DECODE Operator Design", as told in the headers of tflite-micro's
`micro/compression/decode.py` and `lut.py`; its own encoder of zeros is not written.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfsparse.deploy import slim
from tfsparse.records import PACKINGS

OPERATOR = "TFLM_DECODE"
"""How a file calls the operator."""

LOOKUP, PRUNING = 0, 2
"""Types of encoding, in the first byte of what stands beside encoded numbers."""

MOST_VALUES = 128
"""So many numbers a table holds."""

WHOLE = 15
"""The axis of a table that is that of a whole tensor."""

NEAR = 512
"""A layer that saves fewer bytes is tried without: the operator itself takes some."""


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How a kernel is packed.

    Attributes:
        name: `zeros` or `clusters`.
        bits: A number takes; of zeros the one of the bitmap.
        data: The bitmap, or the numbers' places in the table.
        beside: A header of 16 bytes, then the numbers, or the table.
    """

    name: str
    bits: int
    data: bytes
    beside: bytes

    @property
    def size(self) -> int:
        """Bytes in all."""
        return len(self.data) + len(self.beside)


@dataclasses.dataclass(frozen=True)
class Packed:
    """A kernel of a compressed file.

    Attributes:
        name: Of its tensor, which tells the layer, see `noise.layer_of`.
        shape: Of the kernel.
        zeros: Share of numbers that are zero.
        values: How many different ones there are.
        encoding: `zeros`, `clusters`, or `none` where it stays as it is.
        bits: See `Encoding`; 8 of `none`.
        before, after: Bytes.
    """

    name: str
    shape: tuple[int, ...]
    zeros: float
    values: int
    encoding: str
    bits: int
    before: int
    after: int


def _header(kind: int, own: bytes) -> bytes:
    """16 bytes: the type, version 1, two of nothing, and what that type wants to know."""
    return (bytes([kind, 1, 0, 0]) + own).ljust(16, b"\0")


def zeros(values: np.ndarray) -> Encoding:
    """A bit a number, whether it is there, and those that are.

    Args:
        values: int8.
    """
    flat = values.reshape(-1)
    there = flat != 0
    header = _header(PRUNING, bytes([1]))
    return Encoding(
        "zeros", 1, np.packbits(there).tobytes(), header + flat[there].tobytes()
    )


def clusters(values: np.ndarray, axis: int | None = None) -> Encoding | None:
    """Every number as its place in a table, of 1 to 7 bits, the first bit first.

    Args:
        values: int8.
        axis: Each of its slices has a table of its own; None for one table. The interpreter
            takes the axis along which a kernel has scales, whatever the header says.

    Returns:
        None where a table would have more than `MOST_VALUES`.
    """
    slices = [values] if axis is None else list(np.moveaxis(values, axis, 0))
    tables = [np.unique(part) for part in slices]
    longest = max(map(len, tables))
    if longest > MOST_VALUES:
        return None
    bits = max(1, (longest - 1).bit_length())
    places = [np.searchsorted(t, s) for t, s in zip(tables, slices, strict=True)]
    indices = places[0] if axis is None else np.moveaxis(np.stack(places), 0, axis)
    spread = (indices.reshape(-1, 1) >> np.arange(bits - 1, -1, -1)) & 1
    table = b"".join(t.tobytes().ljust(longest, b"\0") for t in tables)
    own = bytes([1, ((WHOLE if axis is None else axis) << 4) | bits, longest])
    data = np.packbits(spread.astype(bool)).tobytes()
    return Encoding("clusters", bits, data, _header(LOOKUP, own) + table)


def smallest(values: np.ndarray, axis: int | None, way: str) -> Encoding | None:
    """The encoding of fewest bytes, of those that a way allows; None for as it is."""
    found = [
        zeros(values) if way in ("zeros", "auto") else None,
        clusters(values, axis) if way in ("clusters", "auto") else None,
    ]
    some = [one for one in found if one is not None and one.size < values.nbytes]
    return min(some, key=lambda one: one.size, default=None)


def kernels(model) -> Iterator[tuple[int, Any, np.ndarray]]:
    """Number, tensor and int8 values of every constant that operators compute with."""
    (graph,) = model.subgraphs
    read = {int(i) for operator in graph.operators for i in operator.inputs}
    for number, tensor in enumerate(graph.tensors):
        data = model.buffers[tensor.buffer].data
        wanted = tensor.type == schema.TensorType.INT8 and number in read
        if wanted and data is not None and len(data):
            values = np.frombuffer(bytes(bytearray(data)), np.int8)
            yield number, tensor, values.reshape(tensor.shape)


def axis_of(tensor) -> int | None:
    """The axis along which a kernel has scales; None where it has one."""
    quantisation = tensor.quantization
    if quantisation is None or quantisation.scale is None:
        return None
    several = len(quantisation.scale) > 1
    return int(quantisation.quantizedDimension) if several else None


def check_plain(content: bytes) -> Any:
    """Reads a file that can be compressed.

    Raises:
        ValueError: It is no .tflite file of one graph, or is compressed already.
    """
    if content[4:8] != b"TFL3":
        raise ValueError(
            "`compress` must be given a .tflite file. Received: one that is none."
        )
    model = slim.read(content)
    names = {code.customCode for code in model.operatorCodes if code.customCode}
    if OPERATOR.encode() in names:
        raise ValueError(
            "`compress` must be given a plain file. Received: one that is compressed."
        )
    if len(model.subgraphs) != 1:
        raise ValueError(
            "`compress` must be given a file of one graph. Received: "
            f"{len(model.subgraphs)}; a loop or a branch has some of its own."
        )
    return model


def compress(
    content: bytes,
    way: str = "auto",
    fits: Callable[[bytes], bool] = lambda content: True,
) -> tuple[bytes, tuple[Packed, ...]]:
    """A file whose kernels are packed, each as is smallest, for TensorFlow Lite Micro alone.

    Args:
        content: A plain int8 file, whose names tell its layers.
        way: One of `records.PACKINGS`.
        fits: Whether a compressed file's arena is small enough; kernels stay plain, the
            largest first, until it is.

    Returns:
        The file, and what became of each kernel. It may be the plain one, slimmed.

    Raises:
        ValueError: See `check_plain`, or an unknown way.
    """
    if way not in PACKINGS:
        raise ValueError(f"`compress` must be one of {PACKINGS}. Received: {way!r}.")
    model = check_plain(content)
    held = {number: (tensor, v) for number, tensor, v in kernels(model)}
    chosen = {
        number: found
        for number, (tensor, values) in held.items()
        if (found := smallest(values, axis_of(tensor), way)) is not None
    }

    def built(numbers) -> bytes:
        return _built(content, {number: chosen[number] for number in numbers})

    def saving(number: int) -> int:
        return held[number][1].nbytes - chosen[number].size

    kept = list(chosen)
    best = built(kept)
    for number in sorted(chosen, key=saving):
        if saving(number) < NEAR:
            rest = [one for one in kept if one != number]
            if len(other := built(rest)) <= len(best):
                kept, best = rest, other
    while kept and not fits(best):
        kept.remove(max(kept, key=lambda number: held[number][1].nbytes))
        best = built(kept)
    rows = []
    for number, (tensor, values) in held.items():
        encoding = chosen[number] if number in kept else None
        rows.append(
            Packed(
                (tensor.name or b"").decode(errors="replace"),
                tuple(int(n) for n in tensor.shape),
                float((values == 0).mean()),
                len(np.unique(values)),
                encoding.name if encoding else "none",
                encoding.bits if encoding else 8,
                values.nbytes,
                encoding.size if encoding else values.nbytes,
            )
        )
    return best, tuple(rows)


def _built(content: bytes, chosen: dict[int, Encoding]) -> bytes:
    """The file with these kernels encoded, slimmed."""
    if not chosen:
        return slim.slim(content, micro=True)
    model = slim.read(content)
    (graph,) = model.subgraphs
    code = len(model.operatorCodes)
    model.operatorCodes.append(_operator_code())
    beside = {
        number: _constant(model, graph, one.beside) for number, one in chosen.items()
    }
    operators = []
    for operator in graph.operators:
        inputs = [int(i) for i in operator.inputs]
        packed = [i for i in dict.fromkeys(inputs) if i in chosen]
        if packed:
            # What is unpacked lives until the next operator, so each reader has its own.
            unpacked = {i: _unpacked(graph, i) for i in packed}
            operators.append(
                _decode(code, [(i, beside[i]) for i in packed], unpacked.values())
            )
            operator.inputs = np.array([unpacked.get(i, i) for i in inputs], np.int32)
        operators.append(operator)
    graph.operators = operators
    for number, encoding in chosen.items():
        _hold(model, graph.tensors[number], encoding.data)
    return slim.slim(slim.write(model), micro=True)


def _operator_code():
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode, code.version = OPERATOR, 1
    return code


def _decode(code: int, pairs, outputs):
    operator = schema.OperatorT()
    operator.opcodeIndex = code
    operator.inputs = np.array([n for pair in pairs for n in pair], np.int32)
    operator.outputs = np.array(list(outputs), np.int32)
    return operator


def _constant(model, graph, data: bytes) -> int:
    """A new tensor of bytes; its number."""
    tensor = schema.TensorT()
    _hold(model, tensor, data)
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _hold(model, tensor, data: bytes) -> None:
    """Lets a tensor hold bytes, in a buffer of its own."""
    tensor.type = schema.TensorType.UINT8
    tensor.shape = np.array([len(data)], np.int32)
    tensor.shapeSignature = tensor.quantization = None
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(data, np.uint8)
    model.buffers.append(buffer)
    tensor.buffer = len(model.buffers) - 1


def _unpacked(graph, number: int) -> int:
    """A new tensor like a constant, without its values; its number."""
    tensor = copy.copy(graph.tensors[number])
    tensor.quantization = copy.copy(tensor.quantization)
    tensor.buffer = 0
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1
