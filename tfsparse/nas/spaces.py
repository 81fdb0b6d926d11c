"""What cells may be made of: spaces as data, and the supernets that hold all of one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import keras

from tfsparse.zoo import builder, cells, operations

Nodes = tuple[tuple[tuple[str, int], ...], ...]
"""Node by node, what is added there: an operation, and the state that it reads."""

INPUTS = 2
"""States that a cell begins with: what the two cells before it put out."""


@dataclasses.dataclass(frozen=True)
class Space:
    """Cells of which a search keeps some operations.

    Attributes:
        name: What `--model` calls its supernet.
        kinds: `normal` and `reduction` -> nodes -> all candidates `(operation, source)`;
            sources 0 and 1 are the two cells before, 2 and up the nodes before.
        cells: How many a supernet has.
        filters: Of the first cell's operations.
        stem_strides: Of the first convolution.

    Raises:
        ValueError: An operation is unknown, or a source is not there yet.

    Example:
        >>> mine = Space("mine", every(("conv_3x3", "skip_connect"), nodes=2), cells=3)
        >>> mine.supernet((28, 28, 1), 10).name
        'mine'
    """

    name: str
    kinds: Mapping[str, Nodes]
    cells: int = 8
    filters: int = 16
    stem_strides: int = 1

    def __post_init__(self):
        if set(self.kinds) != {"normal", "reduction"}:
            raise ValueError(
                "`kinds` must be normal and reduction. Received: "
                f"{sorted(self.kinds)} in space {self.name!r}."
            )
        for nodes in self.kinds.values():
            check(nodes)

    def network(self, inputs, outputs: int, width):
        """All candidates at once, as the zoo builds: `(tensor, outputs, width) -> tensor`."""
        return cells.network(
            inputs, outputs, width(self.filters), self.kinds, self.cells,
            cells.thirds(self.cells),
            self.stem_strides, searched=True,
        )  # fmt: skip

    def supernet(self, shape: Sequence[int], outputs: int, width: float = 1.0):
        """The supernet as a Keras model.

        Args:
            shape: One sample's, `(height, width, channels)` or `(steps, channels)`.
            outputs: How many numbers it puts out.
            width: Multiplies the filters.
        """
        image = keras.Input(shape)
        found = self.network(image, outputs, lambda n: max(1, round(n * width)))
        return keras.Model(image, found, name=self.name)


def check(nodes: Nodes) -> None:
    """Checks what a kind of cell is made of.

    Raises:
        ValueError: An operation is unknown, or a source is not there yet.
    """
    for number, candidates in enumerate(nodes, INPUTS):
        for operation, source in candidates:
            if operation not in operations.OPERATIONS:
                raise ValueError(
                    f"An operation must be one of {sorted(operations.OPERATIONS)}. "
                    f"Received: {operation!r}."
                )
            if not 0 <= source < number:
                raise ValueError(
                    f"A source of node {number} must be a state before it. Received: {source}."
                )


def every(names: Sequence[str], nodes: int = 4) -> dict[str, Nodes]:
    """All operations on every edge: each node reads the two inputs and all nodes before."""
    one = tuple(
        tuple((name, source) for source in range(number) for name in names)
        for number in range(INPUTS, INPUTS + nodes)
    )
    return {"normal": one, "reduction": one}


def _edges(listed: Sequence[Sequence[str]]) -> Nodes:
    """Candidates edge by edge, in the order of nodes and of their sources."""
    found, place, number = [], 0, INPUTS
    while place < len(listed):
        node = []
        for source in range(number):
            node += [(name, source) for name in listed[place + source]]
        found.append(tuple(node))
        place, number = place + number, number + 1
    return tuple(found)


DARTS = operations.DARTS
"""The seven operations of DARTS: its zero is what is left where all of them die."""

_LETTERS = {"m": "max_pool_3x3", "a": "avg_pool_3x3", "k": "skip_connect",
            "s": "sep_conv_3x3", "d": "dil_conv_3x3", "D": "dil_conv_5x5"}  # fmt: skip
_S1 = {"normal": "kd kD kD ks kd mk ks ks kd ks mk kd dD dD",
       "reduction": "ma md ma ma kD ma ms kd kD ma ma kD kD kD"}  # fmt: skip

S1 = {
    kind: _edges([[_LETTERS[letter] for letter in edge] for edge in told.split()])
    for kind, told in _S1.items()
}
"""Two operations an edge, others on each. Source: Zela et al. 2020 (arXiv:1909.09656),
its released code."""

MCU = ("conv_1x1", "conv_3x3", "sep_conv_3x3", "max_pool_3x3", "skip_connect")

SPACES: dict[str, Space] = {
    own.name: own
    for own in (
        Space("darts", every(DARTS)),
        Space("s1", S1),
        Space("s2", every(("skip_connect", "sep_conv_3x3"))),
        Space("s4", every(("sep_conv_3x3", "noise"))),
        Space("mcu_cells", every(MCU, nodes=2), cells=3, filters=8, stem_strides=2),
    )
}
"""Spaces by name: DARTS's; S1, S2 and S4 of Zela et al., on which skip connections or noise tempt
it; small cells for a chip. All are for pictures and for series."""

builder.MODELS |= {name: space.network for name, space in SPACES.items()}
builder.AXES |= dict.fromkeys(SPACES)
