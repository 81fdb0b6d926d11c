"""What a search left of a supernet, as data: read off a network, and built anew."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import keras

from tfsparse.nas.spaces import INPUTS, Nodes, check
from tfsparse.zoo import cells, operations

NAMES = "|".join(sorted(operations.OPERATIONS, key=len, reverse=True))

LABEL = re.compile(rf"(normal|reduction)(\d+)_node(\d+)_from(\d+)_({NAMES})(?=_|/|$)")
"""Kind and number of a cell, node, source and operation in a layer's name."""


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
    found: dict[str, set] = {}
    for kind, *candidate in _candidates(_names(model)):
        found.setdefault(kind, set()).add(tuple(candidate))
    if not found:
        raise ValueError(
            "`model` must be a supernet, or what is left of one. Received: a model without "
            "cells."
        )
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
        shape: One picture's.
        outputs: How many numbers it puts out.
        count: How many cells; those after a third and two thirds halve the picture.
        filters: Of the first cell's operations.
        stem_strides: Of the first convolution.

    Raises:
        ValueError: A kind is missing or empty, an operation is unknown, or reads a node that
            has none.

    Example:
        >>> small = built(genotype_of(stripped), (28, 28, 1), 10, count=3, filters=8)
    """
    kinds = {
        kind: tuple(
            tuple((str(op), int(source)) for op, source in node) for node in own
        )
        for kind, own in genotype.items()
    }
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
    image = keras.Input(shape)
    halving = cells.thirds(count)
    found = cells.network(image, outputs, filters, kinds, count, halving, stem_strides)
    return keras.Model(image, found)
