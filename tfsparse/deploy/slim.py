"""What a .tflite file holds beside its weights, and how much of it nobody reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

ALIGNMENT = 16
"""Weights begin at multiples of so many bytes, as the schema demands."""


class _Builder(flatbuffers.Builder):
    """Writes equal vectors once, and bytes where they are aligned.

    Args:
        size: To begin with.
        single: Whether vectors of one number count, too.
    """

    def __init__(self, size: int, single: bool = True):
        super().__init__(size)
        self._written: dict[tuple, int] = {}
        self._single = single

    def StartVector(self, elemSize, numElems, alignment):  # noqa: N802,N803 (its names)
        if elemSize == 1:
            alignment = ALIGNMENT
        return super().StartVector(elemSize, numElems, alignment)

    def CreateNumpyVector(self, x):  # noqa: N802
        if x.size == 1 and not self._single:
            return super().CreateNumpyVector(x)
        key = (str(x.dtype), x.tobytes())
        if key not in self._written:
            self._written[key] = super().CreateNumpyVector(x)
        return self._written[key]


def read(content: bytes) -> Any:
    """A .tflite file as the schema's objects, a `ModelT`."""
    return schema.ModelT.InitFromPackedBuf(bytearray(content), 0)


def most(content: bytes) -> int:
    """Bytes that a file has at most, whatever samples set its ranges.

    Zero points of activations are equal by chance, or are not: it counts each.
    """
    return len(write(read(content), single=False))


def write(model, single: bool = True) -> bytes:
    """The bytes of such a model; what stands twice in it is written once.

    Args:
        model: A `ModelT`.
        single: Whether that goes for single numbers, too.
    """
    builder = _Builder(1 << 16, single)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _names(model) -> None:
    """Names of tensors and of the graph, and a description."""
    model.description = None
    for graph in model.subgraphs:
        graph.name = None
        for tensor in graph.tensors:
            tensor.name = None


def _metadata(model) -> None:
    """Which converter of which version made the file."""
    model.metadata = model.metadataBuffer = None


def _signatures(model) -> None:
    """Names of inputs and outputs, where there is one of each."""
    graph = model.subgraphs[0]
    if len(graph.inputs) == len(graph.outputs) == 1:
        model.signatureDefs = None


def _ranges(model) -> None:
    """The smallest and largest number that calibration saw; scale and zero point remain."""
    for tensor in _tensors(model):
        quantisation = tensor.quantization
        if quantisation is not None:
            quantisation.min = quantisation.max = None
            if quantisation.scale is None or not len(quantisation.scale):
                tensor.quantization = None


def _bias_scales(model) -> None:
    """Scales of biases: input scale times weight scale, by definition.

    LiteRT runs without them, but its XNNPACK kernels do not.
    """
    for tensor in _tensors(model):
        if tensor.type in (schema.TensorType.INT32, schema.TensorType.INT64):
            if _holds(model, tensor):
                tensor.quantization = None


def _buffers(model) -> None:
    """Buffers that no tensor holds, and such as hold the same."""
    kept, places = [schema.BufferT()], {}
    for tensor in _tensors(model):
        content = _bytes_of(model, tensor)
        if content and content not in places:
            places[content] = len(kept)
            kept.append(model.buffers[tensor.buffer])
        tensor.buffer = places[content] if content else 0
    for entry in model.metadata or []:
        kept.append(model.buffers[entry.buffer])
        entry.buffer = len(kept) - 1
    model.buffers = kept


def _zero_points(model) -> None:
    """All zero points of a kernel but the first, as all are 0; LiteRT wants them all."""
    for tensor in _tensors(model):
        quantisation = tensor.quantization
        if quantisation is not None and quantisation.zeroPoint is not None:
            if not np.any(quantisation.zeroPoint):
                quantisation.zeroPoint = np.zeros(1, np.int64)


STEPS: dict[str, Callable[[Any], None]] = {
    "names": _names,
    "metadata": _metadata,
    "signatures": _signatures,
    "ranges": _ranges,
    "buffers": _buffers,
}
"""What may go, by name; the last one finds what the others left."""

MICRO = {"zero points": _zero_points, "scales of biases": _bias_scales}
"""What may go, too, from a file that TensorFlow Lite Micro alone reads."""


def slim(content: bytes, micro: bool = False, without: tuple[str, ...] = ()) -> bytes:
    """A .tflite file without what no interpreter needs: the same answers from fewer bytes.

    Args:
        content: The file, as the converter made it.
        micro: Whether TensorFlow Lite Micro alone will read it.
        without: Names of `STEPS` that are left undone.

    Returns:
        The smaller file; the given one where nothing is gained.

    Example:
        >>> len(content), len(slim(content)), len(slim(content, micro=True))
        (22872, 20640, 19520)
    """
    model = read(content)
    steps = {**(MICRO if micro else {}), **STEPS}
    for name, step in steps.items():
        if name not in without:
            step(model)
    found = write(model)
    return found if len(found) < len(content) else content


def proven(
    content: bytes, same: Callable[[bytes], bool], micro: bool = False
) -> tuple[bytes, tuple[str, ...]]:
    """`slim`, every step of which has been shown to change no answer.

    Args:
        content: The file.
        same: Whether another file answers as this one does.
        micro: See `slim`.

    Returns:
        The smaller file, and the names of the steps that could not be taken.
    """
    found = slim(content, micro)
    if same(found):
        return found, ()
    left: tuple[str, ...] = ()
    names = [*(MICRO if micro else {}), *STEPS]
    for name in names:
        others = tuple(one for one in names if one not in (name, *left))
        # Alone first: a step that harms alone is left out of what follows.
        if not same(slim(content, micro, (*others, *left))):
            left = (*left, name)
    found = slim(content, micro, left)
    return (found, left) if same(found) else (content, tuple(names))


def _tensors(model):
    return [tensor for graph in model.subgraphs for tensor in graph.tensors]


def _bytes_of(model, tensor) -> bytes:
    data = model.buffers[tensor.buffer].data
    return b"" if data is None else bytes(bytearray(data))


def _holds(model, tensor) -> bool:
    """Whether a tensor is a constant."""
    return bool(_bytes_of(model, tensor))
