"""Normalised columns: what stands before and behind an int8 file, for firmware to do.

An int8 tensor has one scale for all its columns: pressure in Pascal beside temperature in
degrees leaves the second a step or two. So a leading `Normalization` whose columns differ
that much is left out of the int8 file, which then takes normalised columns; and so is a
`Rescaling` of several numbers at the end. Their constants are written beside the file.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import keras
import numpy as np

from tfsparse import files
from tfsparse.graph import trace
from tfsparse.graph.rebuild import carry, rebuild

SPREAD = 3.0
"""Values lie within so many deviations of their mean, mostly."""

STEPS = 8
"""A column needs so many of the 255 steps of int8 for its deviation."""


@dataclasses.dataclass(frozen=True)
class Front:
    """What is done to samples before an int8 file, and to its outputs.

    Attributes:
        mean, deviation: `(columns,)`: the file takes (x - mean) / deviation; None for x.
        scale, offset: `(outputs,)`: what it gives, times scale, plus offset; None for that
            itself.
    """

    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None
    offset: tuple[float, ...] | None = None

    @property
    def trivial(self) -> bool:
        """Whether nothing is done."""
        return self == Front()

    def inputs(self, x: np.ndarray) -> np.ndarray:
        """Samples as the file takes them."""
        if self.mean is None:
            return x
        mean, deviation = (np.array(v, np.float32) for v in (self.mean, self.deviation))
        return (x - mean) / deviation

    def outputs(self, y: np.ndarray) -> np.ndarray:
        """What the file gives, in the model's units."""
        if self.scale is None:
            return y
        return y * np.array(self.scale, np.float32) + np.array(self.offset, np.float32)

    def to_json(self) -> dict[str, Any]:
        """As firmware needs it."""
        found: dict[str, Any] = {}
        if self.mean is not None:
            found["input"] = {
                "formula": "(x - mean) / deviation, column by column",
                "mean": list(self.mean),
                "deviation": list(self.deviation or ()),
            }
        if self.scale is not None:
            found["output"] = {
                "formula": "y * scale + offset, number by number",
                "scale": list(self.scale),
                "offset": list(self.offset or ()),
            }
        return found


def path_of(path: str) -> str:
    """Where the constants of an int8 file stand: beside it."""
    return os.path.splitext(path)[0] + ".json"


def read(path: str) -> Front:
    """What belongs around an int8 file: nothing, where nothing is written beside it."""
    place = path_of(path)
    if not os.path.isfile(place):
        return Front()
    try:
        stored = files.read_json(place)
    except ValueError:
        return Front()  # somebody else's
    if not isinstance(stored, dict):
        return Front()
    source, target = stored.get("input", {}), stored.get("output", {})
    return Front(
        *(tuple(source[k]) if k in source else None for k in ("mean", "deviation")),
        *(tuple(target[k]) if k in target else None for k in ("scale", "offset")),
    )


def cut(model) -> tuple[Any, Front]:
    """A model without what firmware does around its int8 file.

    Args:
        model: A model of stock layers; it is not changed.

    Returns:
        The model itself, or a smaller one that shares no weight with it; what was left out.
    """
    graph = trace.read(model)
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        return model, Front()
    names = [id(call.operation) for call in graph.calls]
    first, last = _first(graph), graph.writers.get(graph.outputs[0])
    # What is called twice cannot be left out in one place.
    ends = [
        c and names.count(id(c.operation)) == 1 and c.operation for c in (first, last)
    ]
    found = Front()
    gone = []
    if ends[0] and (known := _normalised(ends[0])):
        if _too_coarse(*known):
            gone.append(id(ends[0]))
            found = dataclasses.replace(found, mean=known[0], deviation=known[1])
    used = bool(graph.readers.get(graph.outputs[0]))
    if ends[1] and not used and (known := _rescaled(ends[1])):
        gone.append(id(ends[1]))
        found = dataclasses.replace(found, scale=known[0], offset=known[1])
    if len(gone) == len(graph.calls):  # nothing would be left for the file
        return model, Front()
    if not gone:
        return model, found

    def call(item, operation, args, kwargs):
        if id(item.operation) in gone:
            return args[0]
        return operation(*args, **kwargs)

    copy, operations = rebuild(graph, call=call)
    carry(graph, {k: v for k, v in operations.items() if k not in gone})
    return copy, found


def _first(graph):
    """The one call that reads the model's input; None where several do."""
    readers = [c for c in graph.calls if any(t in graph.inputs for t in c.inputs)]
    return readers[0] if len(readers) == 1 else None


def _normalised(layer) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and deviation of a Normalization along the last axis; None of any other layer."""
    if not isinstance(layer, keras.layers.Normalization) or layer.invert:
        return None
    shape = layer.input.shape[1:]
    axes = layer.axis if isinstance(layer.axis, tuple | list) else (layer.axis,)
    if len(axes) != 1 or axes[0] not in (-1, len(shape)):
        return None
    mean, variance = (
        np.broadcast_to(keras.ops.convert_to_numpy(v).reshape(-1), shape[-1:])
        for v in (layer.mean, layer.variance)
    )
    deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
    return tuple(map(float, mean)), tuple(map(float, deviation))


def _rescaled(layer) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Scale and offset of a Rescaling of several numbers; None of any other layer."""
    if not isinstance(layer, keras.layers.Rescaling):
        return None
    scale = np.atleast_1d(np.asarray(layer.scale, np.float64))
    if scale.ndim > 1 or np.ndim(layer.offset) > 1:
        return None
    offset = np.broadcast_to(np.asarray(layer.offset, np.float64), scale.shape)
    if scale.size < 2:
        return None
    return tuple(map(float, scale)), tuple(map(float, offset))


def _too_coarse(mean, deviation) -> bool:
    """Whether one scale of int8 leaves a column too few steps."""
    mean, deviation = np.array(mean), np.array(deviation)
    high = max(0.0, float((mean + SPREAD * deviation).max()))
    low = min(0.0, float((mean - SPREAD * deviation).min()))
    return bool(deviation.min() < STEPS * (high - low) / 255)
