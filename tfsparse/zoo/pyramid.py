"""A PyramidNet whose 3 x 3 convolutions are trees of paths, for a search without a proxy."""

from __future__ import annotations

from keras import layers, ops

from tfsparse.zoo.operations import KINDS, OPERATIONS, conv, norm, rank_of

FIRST = ("group_conv_3x3", "depth_conv_3x3", "depth_conv_5x5")
SECOND = ("skip_connect", "avg_pool_3x3", "max_pool_3x3")

EXPANSION = 4
"""Channels that a block puts out, in those of its inside."""


def tree_pyramid(
    x, outputs: int, width, blocks: int = 2, first: int = 16, added: int = 16
):
    """A small PyramidNet of bottleneck blocks, each with a tree of nine paths.

    Reference: BayesNAS, section 6.2, with three stages of 18 blocks and 84 more channels:
    `tree_pyramid_84`.
    """
    return network(x, outputs, blocks, width(first), width(added))


def tree_pyramid_84(x, outputs: int, width):
    """Three stages of 18 blocks, 84 more channels at the end than at first."""
    return network(x, outputs, 18, width(16), width(84))


def network(
    x, outputs: int, blocks: int, first: int, added: int, searched: bool = True
):
    """A stem, three stages of blocks that widen evenly, a pooling, a classifier.

    Args:
        x: Pictures or series.
        outputs: Of the classifier.
        blocks: In each stage; the second and third stage begin by halving the picture.
        first: Channels inside the first block, before it widens.
        added: More of them inside the last one (alpha).
        searched: Whether BatchNorms in trees have no scale and offset.

    Reference: Han et al. 2017, arXiv:1610.02915; Cai et al. 2018, arXiv:1806.02639.
    """
    x = norm(conv(x, first, 3, "stem"), "stem")
    count = 3 * blocks
    for number in range(count):
        inside = first + round(added * (number + 1) / count)
        strides = 2 if number and number % blocks == 0 else 1
        x = _block(
            x, max(2, 2 * (inside // 2)), strides, f"block{number + 1}", not searched
        )
    x = layers.ReLU(name="last_relu")(norm(x, "last"))
    x = KINDS[rank_of(x)].whole(name="pool")(x)
    return layers.Dense(outputs, name="logits")(x)


def _block(x, inside: int, strides: int, name: str, affine: bool):
    """BatchNorm, 1 x 1, tree, 1 x 1, BatchNorm; beside it the input, padded by channels."""
    y = norm(conv(norm(x, f"{name}_in"), inside, 1, f"{name}_reduce"), f"{name}_reduce")
    y = _tree(y, inside, strides, f"{name}_tree", affine)
    y = layers.ReLU(name=f"{name}_relu")(norm(y, f"{name}_tree"))
    y = norm(conv(y, EXPANSION * inside, 1, f"{name}_expand"), f"{name}_expand")
    if strides > 1:
        x = KINDS[rank_of(x)].average_pool(2, 2, "same", name=f"{name}_pool")(x)
    if more := y.shape[-1] - x.shape[-1]:
        x = ops.pad(x, [[0, 0]] * (len(x.shape) - 1) + [[0, more]])
    return layers.Add(name=f"{name}_add")([x, y])


def _tree(x, filters: int, strides: int, name: str, affine: bool):
    """Three convolutions, each followed by three operations; all nine paths are added up."""
    sums = []
    for one in FIRST:
        y = OPERATIONS[one](x, filters, strides, f"{name}_{one}", affine)
        paths = [
            OPERATIONS[two](y, filters, 1, f"{name}_{one}_{two}", affine)
            for two in SECOND
        ]
        sums.append(layers.Add(name=f"{name}_{one}_sum")(paths))
    return layers.Add(name=name)(sums)
