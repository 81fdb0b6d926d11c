"""What a search left of a supernet, as data: read off a network, and built anew."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras

from tfsparse import files
from tfsparse.nas.spaces import INPUTS, Nodes, check
from tfsparse.zoo import cells, operations

NAMES = "|".join(sorted(operations.OPERATIONS, key=len, reverse=True))

LABEL = re.compile(
    rf"(normal|reduction|cell)(\d+)_node(\d+)_from(\d+)_({NAMES})(?=_|/|$)"
)
"""Kind and number of a cell, node, source and operation in a layer's name; `cell` is that of
NAS-Bench-201, see `bench201`."""


def genotype_of(model) -> dict[str, Nodes]:
    """The operations that are left in each kind of cell.

    Args:
        model: A supernet, stripped or not, or a network that `built` made.

    Returns:
        Kind -> nodes -> `(operation, source)`; an operation counts where any cell of the kind
        holds it. A node whose operations have all died is empty.

    Raises:
        ValueError: The model holds no cells.
    """
    found = found_in(model)
    if not found:
        raise ValueError(
            "`model` must be a supernet, or what is left of one. Received: a model without "
            "cells."
        )
    return found


def found_in(model) -> dict[str, Nodes]:
    """As `genotype_of`; empty for a model without cells."""
    found: dict[str, set] = {}
    for kind, *candidate in _candidates(_names(model)):
        if kind == "cell":
            continue
        found.setdefault(kind, set()).add(tuple(candidate))
    return {kind: _nodes(own) for kind, own in sorted(found.items())}


def count(names: Iterable[str]) -> int:
    """How many operations layers of these names hold, those of one kind's cells once."""
    return len(set(_candidates(names)))


def _candidates(names: Iterable[str]):
    """`(kind, node, source, operation)` of every layer of an operation."""
    for name in names:
        if told := LABEL.match(name):
            kind, _, node, source, operation = told.groups()
            yield kind, int(node), int(source), operation


def _names(model):
    """Names of layers, and of what they wrap."""
    for layer in model.layers:
        yield layer.name
        if isinstance(layer, keras.Model):
            yield from _names(layer)


def _nodes(own: set) -> Nodes:
    last = max(node for node, *_ in own)
    return tuple(
        tuple((op, source) for n, source, op in sorted(own) if n == node)
        for node in range(INPUTS, last + 1)
    )


def load(path: str | os.PathLike) -> dict[str, Nodes]:
    """Reads a genotype that a search wrote.

    Raises:
        ValueError: The file cannot be read, or holds none; as for `checked`.
    """
    try:
        return checked(files.read_json(os.fspath(path)))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"`genotype` must be a JSON file that can be read. Received: {path!s}."
        ) from error


def checked(genotype: Any) -> dict[str, Nodes]:
    """A genotype as tuples.

    Args:
        genotype: Kind -> nodes -> `(operation, source)`, such as JSON holds it.

    Raises:
        ValueError: A kind is missing or empty, an operation is unknown, or reads a node that
            has none.
    """
    try:
        kinds = {
            kind: tuple(
                tuple((str(op), int(source)) for op, source in node) for node in own
            )
            for kind, own in genotype.items()
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            "`genotype` must map normal and reduction to nodes, each a list of "
            f"[operation, source]. Received: {str(genotype)[:80]}."
        ) from error
    if set(kinds) != {"normal", "reduction"}:
        raise ValueError(
            "`genotype` must hold normal and reduction cells. Received: "
            f"{sorted(kinds)}."
        )
    for kind, own in kinds.items():
        check(own)
        read = {source for node in own for _, source in node}
        dead = {number for number, node in enumerate(own, INPUTS) if not node}
        if not any(own) or read & dead:
            raise ValueError(
                "`genotype` must have operations, and none that reads a node without any. "
                f"Received: {own} in {kind} cells."
            )
    return kinds


def builder(
    genotype: Mapping[str, Nodes], count: int, filters: int, stem_strides: int = 1
) -> Callable:
    """`(tensor, outputs, width) -> tensor`, as the zoo builds; arguments as of `built`."""
    kinds, halving = checked(genotype), cells.thirds(count)

    def network(x, outputs: int, width):
        return cells.network(
            x, outputs, width(filters), kinds, count, halving, stem_strides
        )

    return network


def built(
    genotype: Mapping[str, Nodes],
    shape,
    outputs: int,
    count: int,
    filters: int,
    stem_strides: int = 1,
):
    """A network of any depth and width whose cells are those of a genotype.

    Args:
        genotype: Kind -> nodes -> `(operation, source)`, such as JSON holds it.
        shape: One sample's.
        outputs: How many numbers it puts out.
        count: How many cells; those after a third and two thirds halve the picture.
        filters: Of the first cell's operations.
        stem_strides: Of the first convolution.

    Raises:
        ValueError: As for `checked`.

    Example:
        >>> small = built(genotype_of(stripped), (28, 28, 1), 10, count=3, filters=8)
    """
    image = keras.Input(shape)
    network = builder(genotype, count, filters, stem_strides)
    return keras.Model(image, network(image, outputs, lambda number: number))
