"""What a child takes over from its parent: weights, and the width of their posterior."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np

from tfsparse.graph import trace

Segments = list[tuple[str, tuple[int, ...]]]


@dataclasses.dataclass(frozen=True)
class Inherited:
    """How much of a child's numbers came from its parent.

    Attributes:
        elements: How many of them.
        total: Of so many.
        whole: Layers of which all came.
        partly: Layers of which some came.
        fresh: Layers of which nothing came.
    """

    elements: int
    total: int
    whole: tuple[str, ...]
    partly: tuple[str, ...]
    fresh: tuple[str, ...]

    @property
    def share(self) -> float:
        """Of the numbers that came."""
        return self.elements / self.total if self.total else 0.0

    def to_json(self) -> dict:
        """As JSON."""
        return dataclasses.asdict(self)


def inherit(child: keras.Model, parent: keras.Model) -> Inherited:
    """Copies what two models have in common into the child; all of it trains on.

    A layer takes over from that of its name and class: the same shapes whole, of others
    the slices that overlap. Kernels overlap so that what they read stays where it was, around
    their middle where they pad, from their first place on where they do not; channels from
    the first on. Rows of a Dense behind a Flatten, or behind branches side by side, are known by
    the place, the channel and the branch that they read.

    Args:
        child, parent: Built models, prepared by a method alike.

    Returns:
        How much was taken over.

    Example:
        >>> inherit(wider, narrow).share
        0.38

    Reference: SpArSe, appendix C.
    """
    ours, theirs = _layers(child), _layers(parent)
    elements = total = 0
    found: dict[str, list[str]] = {"whole": [], "partly": [], "fresh": []}
    for name, (layer, reads) in ours.items():
        held = _numbers(layer)
        size = sum(int(np.prod(v.shape)) for v in held.values())
        if not size:
            continue
        taken = 0
        other, before = theirs.get(name, (None, []))
        if type(other) is type(layer):
            inputs = _pairs(reads, before)
            sources = _numbers(other)
            for own, variable in held.items():
                if own in sources:
                    taken += _copied(layer, variable, sources[own], inputs)
        kind = "whole" if taken == size else "partly" if taken else "fresh"
        found[kind].append(name)
        elements, total = elements + taken, total + size
    return Inherited(
        elements, total, *(tuple(found[k]) for k in ("whole", "partly", "fresh"))
    )


def _layers(model) -> dict[str, tuple[keras.Layer, Segments]]:
    """Name -> layer, and what the last axis of its (first) input is made of."""
    graph = trace.read(model)
    found: dict[str, tuple[keras.Layer, Segments]] = {}
    for call in graph.calls:
        if isinstance(call.operation, keras.Layer) and call.name not in found:
            one = len(call.inputs) == 1
            reads = _made_of(graph, call.inputs[0]) if one else []
            found[call.name] = call.operation, reads
    return found


def _made_of(graph, tensor) -> Segments:
    """Names of what writes a tensor's last axis, with the places and channels of each."""
    call = graph.writers.get(tensor)
    if call is None:
        number = list(graph.inputs).index(tensor)  # Keras counts names of inputs up
        return [(f"input {number}", (tensor.shape[-1],))]
    if isinstance(call.operation, keras.layers.Flatten):
        return [(call.name, tuple(call.inputs[0].shape[1:]))]
    if isinstance(call.operation, keras.layers.Concatenate):
        return [part for own in call.inputs for part in _made_of(graph, own)]
    if isinstance(
        call.operation, keras.layers.Add
    ):  # unit by unit those of its first input
        return _made_of(graph, call.inputs[0])
    passes = len(call.inputs) == 1 and call.inputs[0].shape == tensor.shape
    if passes and not hasattr(call.operation, "kernel"):
        return _made_of(graph, call.inputs[0])  # element by element
    return [(call.name, (tensor.shape[-1],))]


def _numbers(layer) -> dict:
    """Name -> variable of what a layer learned or counted; not what a penalty is set to."""
    return {
        variable.name: variable
        for variable in layer.variables
        if len(variable.shape) and not isinstance(layer, keras.Model)
    }


def _copied(layer, variable, source, inputs) -> int:
    """Copies what overlaps of a variable; returns how many elements."""
    if len(variable.shape) != len(source.shape):
        return 0
    value = keras.ops.convert_to_numpy(variable).copy()
    other = keras.ops.convert_to_numpy(source)
    own, theirs = [], []
    for axis, (size, before) in enumerate(zip(value.shape, other.shape, strict=True)):
        pairs = _of_axis(layer, value.ndim, axis, size, before, inputs)
        own.append(pairs[0])
        theirs.append(pairs[1])
    value[np.ix_(*own)] = other[np.ix_(*theirs)]
    variable.assign(value)
    return int(np.prod([len(indices) for indices in own]))


def _of_axis(layer, rank: int, axis: int, size: int, before: int, inputs):
    """Which indices of an axis come from which."""
    kernel = rank >= 2
    # Vectors beside a kernel count its outputs; others what comes in.
    reads = axis == rank - 2 if kernel else not hasattr(layer, "kernel")
    if reads and (size, before) == inputs[2]:
        return inputs[:2]
    if (
        kernel and axis < rank - 2
    ):  # places of a kernel, so that its outputs stay in place
        padded = getattr(layer, "padding", "valid") == "same"
        offset = (size - 1) // 2 - (before - 1) // 2 if padded else 0
        theirs = np.arange(max(0, -offset), min(before, size - offset))
        return theirs + offset, theirs
    count = min(size, before)
    return np.arange(count), np.arange(count)


def _pairs(own: Segments, theirs: Segments):
    """Indices of a layer's inputs that mean the same in both, and how many there are."""
    starts, place = {}, 0
    for name, shape in theirs:
        starts[name] = place, shape
        place += int(np.prod(shape))
    first: list[np.ndarray] = []
    second: list[np.ndarray] = []
    here = 0
    for name, shape in own:
        size = int(np.prod(shape))
        if name in starts and len(starts[name][1]) == len(shape):
            start, other = starts[name]
            common = [np.arange(min(a, b)) for a, b in zip(shape, other, strict=True)]
            mesh = np.meshgrid(*common, indexing="ij")
            first.append(here + np.ravel_multi_index(mesh, shape).ravel())
            second.append(start + np.ravel_multi_index(mesh, other).ravel())
        here += size
    if not first:
        nothing = np.zeros(0, int)
        return nothing, nothing, (here, place)
    return np.concatenate(first), np.concatenate(second), (here, place)
