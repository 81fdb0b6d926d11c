"""Networks of cells, as differentiable architecture search finds them."""

from __future__ import annotations

from keras import layers

from tfsparse.zoo.operations import (
    KINDS,
    OPERATIONS,
    added_up,
    conv,
    halve,
    norm,
    project,
    rank_of,
)

DARTS_V2 = {
    "normal": (
        (("sep_conv_3x3", 0), ("sep_conv_3x3", 1)),
        (("sep_conv_3x3", 0), ("sep_conv_3x3", 1)),
        (("sep_conv_3x3", 1), ("skip_connect", 0)),
        (("skip_connect", 0), ("dil_conv_3x3", 2)),
    ),
    "reduction": (
        (("max_pool_3x3", 0), ("max_pool_3x3", 1)),
        (("skip_connect", 2), ("max_pool_3x3", 1)),
        (("max_pool_3x3", 0), ("skip_connect", 2)),
        (("skip_connect", 2), ("max_pool_3x3", 1)),
    ),
}
"""Cell type -> nodes -> (operation, input): inputs 0 and 1 are the two cells before,
2 and up the nodes before. Source: DARTS (Liu et al. 2019), genotype DARTS_V2."""


def darts_v2(inputs, outputs: int, width):
    """DARTS-V2 for CIFAR-10: 20 cells, 36 filters at first, 3.3 M parameters.

    Without the auxiliary tower and drop-path of its authors' training.

    Reference: Liu et al. 2019, arXiv:1806.09055; GSparsity, appendix D.
    """
    return network(inputs, outputs, width(36), DARTS_V2, 20, (6, 13))


def cells(inputs, outputs: int, width):
    """Three of the same cells for small grey images, 8 filters at first.

    The stem halves the image, the second cell again; 24 operations.
    """
    return network(inputs, outputs, width(8), DARTS_V2, 3, (1,), stem_strides=2)


def thirds(count: int) -> tuple[int, ...]:
    """Numbers of the cells that halve the picture, from 0: after one third, and after two."""
    return tuple(sorted({count // 3, 2 * count // 3}))


def network(
    x,
    outputs: int,
    filters: int,
    genotype,
    count: int,
    halving,
    stem_strides: int = 1,
    searched: bool = False,
):
    """A stem, cells of which some halve the image, a pooling, a classifier.

    Args:
        x: Pictures or series.
        outputs: Of the classifier.
        filters: Of the first cell's operations.
        genotype: See `DARTS_V2`; where all candidates of a space stand in it, the network is
            the supernet of that space.
        count: How many cells.
        halving: Numbers of those that halve the picture and double the filters, from 0.
        stem_strides: Of the first convolution.
        searched: Whether BatchNorms in cells have no scale and offset, in which an operation
            could hide.
    """
    before = last = norm(conv(x, 3 * filters, 3, "stem", stem_strides), "stem")
    halved = False
    for number in range(count):
        halves = number in halving
        filters *= 2 if halves else 1
        kind = "reduction" if halves else "normal"
        name = f"{kind}{number + 1}"
        new = _cell(name, genotype[kind], halves, before, last, filters, halved,
                    not searched)  # fmt: skip
        before, last, halved = last, new, halves
    pooled = KINDS[rank_of(last)].whole(name="pool")(last)
    return layers.Dense(outputs, name="logits")(pooled)


def _cell(name: str, nodes, halves, before, last, filters: int, halved: bool, affine):
    """One cell: nodes that add what their operations put out, concatenated."""
    around = halve if halved else project
    states = [
        around(before, filters, f"{name}_pre0", affine),
        project(last, filters, f"{name}_pre1", affine),
    ]
    for number, operations in enumerate(nodes, 2):
        added = []
        for operation, source in operations:
            strides = 2 if halves and source < 2 else 1
            label = f"{name}_node{number}_from{source}_{operation}"
            added.append(
                OPERATIONS[operation](states[source], filters, strides, label, affine)
            )
        states.append(added_up(added, f"{name}_node{number}"))
    left = [state for state in states[2:] if state is not None]
    return layers.Concatenate(name=name)(left) if len(left) > 1 else left[0]
