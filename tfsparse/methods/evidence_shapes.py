"""The ten shapes of weight groups that BayesNAS compresses with, and their overlaps."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence

import numpy as np

from tfsparse import options, records
from tfsparse.methods import partitions

CROSSES = {"row_column": "i", "stack_row_column": ""}
"""Shapes that join a row with a column, and which channels tell their groups apart."""

SHAPES = (
    "shape",
    "row",
    "column",
    "row_column",
    "channel",
    "stack_shape",
    "stack_row",
    "stack_column",
    "stack_row_column",
    "filter",
)
"""(a) to (j) of figure S5, in its order."""

_DENSE = {
    "shape": ("i",),
    "row": ("i",),
    "column": ("o",),
    "row_column": ("i", "o"),
    "channel": ("i",),
    "stack_shape": ("",),
    "stack_row": ("i",),
    "stack_column": ("o",),
    "stack_row_column": ("i", "o"),
    "filter": ("o",),
}
"""Of a Dense, a kernel of height and width 1: which axes tell the groups apart, for each
partition that the shape needs. A row is all of one input, a column all of one output."""


def parse(text: str, name: str) -> dict[str, tuple[str, ...]]:
    """Reads `shape+filter`, or `conv1=shape+filter,conv2=row_column`.

    Args:
        text: Shapes joined by `+`; in a list, behind patterns of layer names.
        name: Of the argument that it was given for.

    Returns:
        Pattern -> shapes; none for an empty text.

    Raises:
        ValueError: A shape is unknown, or a pattern stands there twice.
    """
    found = {}
    for part in filter(None, text.split(",")):
        pattern, _, joined = part.rpartition("=")
        shapes = tuple(joined.split("+"))
        for shape in shapes:
            if shape not in SHAPES:
                raise ValueError(
                    f"`{name}` must join shapes among {SHAPES} by '+', such as "
                    f"shape+filter or conv1=shape,conv2=filter. Received: {part!r}."
                )
        if len(set(shapes)) < len(shapes):
            raise ValueError(
                f"`{name}` must join different shapes. Received: {part!r}."
            )
        pattern = pattern.strip() or "*"
        if pattern in found:
            raise ValueError(
                f"`{name}` must name {pattern} once, its shapes joined by '+'. "
                f"Received: {text!r}."
            )
        found[pattern] = shapes
    return found


def levels(
    model,
    convolutions: dict[str, tuple[str, ...]],
    dense: dict[str, tuple[str, ...]],
    written: Mapping[str, Sequence[tuple[str, np.ndarray]]],
    ignore: Sequence[str] = (),
) -> list[records.Partition]:
    """Partitions that together hold every group of every kernel's shapes.

    Args:
        model: A built model.
        convolutions, dense: Pattern of layer names -> shapes, see `parse`.
        written: Path of a kernel whose outputs may die -> what carries them, see
            `carriers`; others (a model's logits) get no group that holds all of an output.
        ignore: Patterns of layers, or of paths of kernels, without a penalty.

    Returns:
        A list; within each partition nothing overlaps, and all that writes an output
        takes along what carries it when it dies.

    Raises:
        ValueError: No kernel has a group, or a pattern fits nothing.

    Example:
        >>> conv, dense = {"*": ("shape", "filter")}, {"*": ("row", "column")}
        >>> two = levels(net, conv, dense, carriers(net, tfsparse.find_groups(net)))
        >>> [p.groups for p in two]
        [1339, 580]
    """
    layered: list[list[tuple[str, np.ndarray]]] = []
    kernels = [
        (
            path.rpartition("/")[0],
            path,
            kernel,
            dense if len(kernel.shape) == 2 else convolutions,
        )
        for path, kernel in partitions.kernels(model)
    ]
    options.check_patterns("ignore", ignore, [n for own in kernels for n in own[:2]])
    for argument, chosen in (("conv_shapes", convolutions), ("dense_shapes", dense)):
        names = [layer for layer, _, _, own in kernels if own is chosen]
        options.check_patterns(argument, [p for p in chosen if p != "*"], names)
    for layer, path, kernel, chosen in kernels:
        if any(fnmatch.fnmatchcase(n, p) for p in ignore for n in (path, layer)):
            continue
        fits = [own for p, own in chosen.items() if fnmatch.fnmatchcase(layer, p)]
        number, seen = 0, list[np.ndarray]()
        for shape in fits[-1] if fits else ():
            for labels in _labels(tuple(kernel.shape), shape):
                if path not in written and _spans_an_output(labels, kernel.shape):
                    continue
                if any(np.array_equal(labels, other) for other in seen):
                    continue  # shapes may fall together: a group is penalised once
                seen.append(labels)
                if number == len(layered):
                    layered.append([])
                layered[number].append((path, labels))
                number += 1
    if not layered:
        if ignore:
            raise ValueError(
                "`ignore` must leave a kernel to cut groups from. Received: "
                f"ignore={','.join(ignore)!r}, which leaves none."
            )
        raise ValueError(
            "`conv_shapes` and `dense_shapes` must give a kernel of the model groups. "
            f"Received: {convolutions} and {dense}, which give none."
        )
    return [_joined(level, written) for level in layered]


def carriers(model, groups) -> dict[str, list[tuple[str, np.ndarray]]]:
    """What goes with the outputs of each kernel that alone writes a group of units.

    Args:
        model: A built model.
        groups: From `find_groups(model)`.

    Returns:
        For each kernel that writes units which may die, `(path, outputs)` of each vector
        on their way (bias, BatchNorm's two): the kernel's output that each of its
        entries goes with, -1 for none. None where several kernels write the units.
    """
    trained = {v.path: v for v in model.trainable_variables}
    found: dict[str, list[tuple[str, np.ndarray]]] = {}
    for group in groups:
        if group.kind != "unit" or group.frozen:
            continue
        writers = [m for m in group.members if m.role == records.PRODUCER]
        for writer in writers:
            held = found.setdefault(writer.path, [])
            if len(writers) > 1 or isinstance(writer.axis, tuple):
                continue
            output = np.full(group.size, -1, "int32")
            output[writer.units] = writer.indices
            for member in group.members:
                vector = trained.get(member.path)
                if member.role != records.CARRIER or vector is None:
                    continue
                if len(vector.shape) == 1:
                    own = np.full(vector.shape[0], -1, "int32")
                    own[member.indices] = output[member.units]
                    held.append((member.path, own))
    return found


def _labels(shape: tuple[int, ...], name: str) -> list[np.ndarray]:
    """The partitions of one kernel for one shape, labels from 0 in each."""
    if len(shape) == 2:
        return [_plain(shape, "io", kept) for kept in _DENSE[name]]
    letters = "hwio"[-len(shape) :] if len(shape) == 4 else "wio"
    if name not in CROSSES:
        return [_plain(shape, letters, partitions.SHAPES[name])]
    if len(shape) < 4:  # a row has one place: the cross is the column with it
        return [_plain(shape, letters, CROSSES[name])]
    height, width, inputs, _ = shape
    channels = np.arange(inputs if CROSSES[name] else 1).reshape(1, 1, -1, 1)
    found = []
    for row in range(height):
        for column in range(width):
            inside = np.zeros((height, width, 1, 1), bool)
            inside[row] = inside[:, column] = True
            found.append(np.where(inside, channels, -1).astype("int32"))
    return found


def _plain(shape, letters: str, kept: str) -> np.ndarray:
    sizes = [n if x in kept else 1 for x, n in zip(letters, shape, strict=True)]
    return np.arange(int(np.prod(sizes)), dtype="int32").reshape(sizes)


def _spans_an_output(labels: np.ndarray, shape) -> bool:
    """Whether a group holds all that writes an output."""
    return (
        labels.shape[-1] == shape[-1] and labels.size == shape[-1] or labels.size == 1
    )


def _joined(level, written) -> records.Partition:
    """One partition of several kernels, their labels one behind the other."""
    labels: dict[str, np.ndarray] = {}
    followers: dict[str, np.ndarray] = {}
    start = 0
    for path, own in level:
        labels[path] = np.where(own >= 0, own + start, -1).astype("int32")
        if own.size == own.shape[-1] and own.size > 1:
            for vector, outputs in written.get(path, ()):
                joined = np.where(outputs >= 0, outputs + start, -1)
                held = followers.get(vector, -1)
                followers[vector] = np.where(joined >= 0, joined, held).astype("int32")
        start += int(own.max()) + 1
    return records.Partition(labels, followers=followers)
