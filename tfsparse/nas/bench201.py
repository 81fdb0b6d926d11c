"""NAS-Bench-201: its cells, its strings, its backbone, and what a table of it says."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence

import keras
from keras import layers

from tfsparse.zoo import builder, operations

Architecture = tuple[tuple[str, ...], ...]
"""Node by node, the operation on the edge from each state before it."""

NONE = "none"
OPERATIONS = {"skip_connect": "skip_connect", "nor_conv_1x1": "conv_1x1",
              "nor_conv_3x3": "conv_3x3", "avg_pool_3x3": "avg_pool_3x3"}  # fmt: skip
"""Its names -> ours. `none` sends nothing on: what is left where all others die."""

NODES = 3
"""Nodes of a cell, behind its input."""

LABEL = re.compile(rf"cell(\d+)_node(\d)_from(\d)_({'|'.join(OPERATIONS.values())})")


def parse(text: str) -> Architecture:
    """An architecture from its string.

    Args:
        text: Such as `|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|none~2|`.

    Raises:
        ValueError: It is no such string, or names an operation that is unknown.

    Example:
        >>> parse("|none~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_1x1~2|")[1]
        ('none', 'skip_connect')

    Reference: Dong and Yang 2020, arXiv:2001.00326, and its released code.
    """
    nodes = text.strip().split("+")
    found: list[tuple[str, ...]] = []
    for number, node in enumerate(nodes):
        edges = node.split("|")
        named = [edge.rpartition("~") for edge in edges[1:-1]]
        wanted = [str(source) for source in range(number + 1)]
        if edges[0] or edges[-1] or [source for *_, source in named] != wanted:
            found = []
            break
        found.append(tuple(name for name, *_ in named))
    if len(found) != NODES:
        raise ValueError(
            "An architecture of NAS-Bench-201 must be such as |nor_conv_3x3~0|+|none~0|"
            f"skip_connect~1|+|none~0|none~1|none~2|. Received: {text!r}."
        )
    for name in {name for node in found for name in node}:
        if name != NONE and name not in OPERATIONS:
            raise ValueError(
                f"An operation of NAS-Bench-201 must be one of {[NONE, *OPERATIONS]}. "
                f"Received: {name!r}."
            )
    return tuple(found)


def told(architecture: Architecture) -> str:
    """The string of an architecture: what `parse` takes."""
    return "+".join(
        "|" + "|".join(f"{name}~{source}" for source, name in enumerate(node)) + "|"
        for node in architecture
    )


def supernet(
    shape: Sequence[int],
    outputs: int,
    filters: int = 16,
    cells: int = 5,
    architecture: Architecture | None = None,
):
    """The backbone, each cell with all operations on every edge.

    A stem, three stages of so many cells, a residual block that halves the picture and
    doubles the filters between them, BatchNorm, pooling, a classifier.

    Args:
        shape: One picture's.
        outputs: How many numbers it puts out.
        filters: Of the first stage.
        cells: In each stage.
        architecture: One operation an edge instead, BatchNorms with scale and offset.

    Returns:
        A Keras model; layers of operations are named `cell1_node2_from0_conv_3x3`.

    Raises:
        ValueError: The architecture sends nothing from input to output.
    """
    image = keras.Input(shape)
    found = network(image, outputs, filters, cells, architecture)
    return keras.Model(image, found, name="bench201")


def network(x, outputs: int, filters: int, cells: int, architecture=None):
    """What `supernet` makes of pictures."""
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name="stem")(x)
    x = operations.norm(x, "stem")
    number = 0
    for stage in range(1, 4):
        if stage > 1:
            filters *= 2
            x = _halving(x, filters, f"halve{stage}")
        for _ in range(cells):
            number += 1
            x = _cell(x, filters, f"cell{number}", architecture)
    x = layers.ReLU(name="last_relu")(operations.norm(x, "last"))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return layers.Dense(outputs, name="logits")(x)


builder.MODELS["bench201"] = lambda x, outputs, width: network(x, outputs, width(16), 5)


def _cell(x, filters: int, name: str, architecture: Architecture | None):
    states = [x]
    for number in range(1, NODES + 1):
        added = []
        for source, state in enumerate(states):
            wanted = [*OPERATIONS]
            if architecture is not None:
                wanted = [architecture[number - 1][source]]
            for own in wanted:
                if own != NONE and state is not None:
                    label = f"{name}_node{number}_from{source}_{OPERATIONS[own]}"
                    build = operations.OPERATIONS[OPERATIONS[own]]
                    # No BatchNorm behind a pooling here, other than in DARTS's search.
                    affine = architecture is not None or own == "avg_pool_3x3"
                    added.append(build(state, filters, 1, label, affine))
        states.append(operations.added_up(added, f"{name}_node{number}"))
    if states[-1] is None:
        raise ValueError(
            "`architecture` must lead from a cell's input to its output. Received: "
            f"{told(architecture or ())!r}."
        )
    return states[-1]


def _halving(x, filters: int, name: str):
    """A residual block: two 3 x 3 convolutions, beside them a pooling and a 1 x 1."""
    y = layers.ReLU(name=f"{name}_relu1")(x)
    y = layers.Conv2D(filters, 3, 2, "same", use_bias=False, name=f"{name}_conv1")(y)
    y = layers.ReLU(name=f"{name}_relu2")(operations.norm(y, f"{name}_conv1"))
    y = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{name}_conv2")(
        y
    )
    y = operations.norm(y, f"{name}_conv2")
    x = layers.AveragePooling2D(2, padding="same", name=f"{name}_pool")(x)
    x = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_skip")(x)
    return layers.Add(name=f"{name}_add")([x, y])


def architecture_of(model) -> Architecture:
    """The architecture that is left of a supernet.

    Raises:
        ValueError: It holds no cells, or an edge has kept several operations.
    """
    held: dict[tuple[int, int], set[str]] = {}
    for layer in model.layers:
        if named := LABEL.match(layer.name):
            _, node, source, operation = named.groups()
            held.setdefault((int(node), int(source)), set()).add(operation)
    if not held:
        raise ValueError(
            "`model` must be a supernet of NAS-Bench-201, or what is left of one. Received: a "
            "model without its cells."
        )
    if many := {edge: sorted(own) for edge, own in held.items() if len(own) > 1}:
        raise ValueError(
            "An edge of NAS-Bench-201 must hold one operation at most. Received: "
            f"{many} (node, source)."
        )
    theirs = {ours: name for name, ours in OPERATIONS.items()}
    return tuple(
        tuple(
            theirs[next(iter(held[node, source]))] if (node, source) in held else NONE
            for source in range(node)
        )
        for node in range(1, NODES + 1)
    )


def asked(path: str | os.PathLike, architecture: Architecture) -> dict[str, str]:
    """What a table says of an architecture.

    The benchmark's own file is a pickle, which could run anything: it is not opened here.
    Export a CSV with a column `architecture` and what you want to know beside it.

    Args:
        path: The CSV.
        architecture: Which one.

    Returns:
        Column -> text.

    Raises:
        ValueError: There is no such file, column or row.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"A table of NAS-Bench-201 must be a CSV that can be read. Received: {path!s}."
        ) from error
    if not rows or "architecture" not in rows[0]:
        raise ValueError(
            "A table of NAS-Bench-201 must have a column `architecture`. Received: "
            f"{sorted(rows[0]) if rows else 'no rows'}."
        )
    wanted = told(architecture)
    for row in rows:
        if row["architecture"].strip() == wanted:
            return {k: v for k, v in row.items() if k != "architecture"}
    raise ValueError(
        f"A table of NAS-Bench-201 must hold the architecture. Received: {len(rows)} others, "
        f"not {wanted}."
    )
