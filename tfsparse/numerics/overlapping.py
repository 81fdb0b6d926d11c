"""The proximal map where groups overlap: maps of one partition, alternated."""

from __future__ import annotations

from keras import ops

from tfsparse.numerics.groups import dykstra, group_shrinkage


def shrunk(blocks, tensors: dict, thresholds) -> dict:
    """The proximal map of sum_k threshold_k ||x_k|| over the groups of blocks.

    Args:
        blocks: Whose groups do not overlap.
        tensors: Number -> tensor, for every slice of the blocks.
        thresholds: `(labels,)`, for each label of the partition; not negative.

    Returns:
        Number -> tensor.

    Example:
        >>> from tfsparse.numerics import Block
        >>> pair = Block.of([[0]], [(2,)])
        >>> new = shrunk([pair], {0: ops.array([3.0, 4.0])}, ops.array([2.5]))
        >>> [round(float(x), 4) for x in new[0]]
        [1.5, 2.0]

    Reference: GSparsity, Algorithm 1, step 3.
    """

    def shrinkage(block, own):
        norms = ops.sqrt(block.sum([ops.square(tensor) for tensor in own]))
        strength = ops.take(thresholds, block.labels)
        return group_shrinkage(norms, ops.cast(strength, norms.dtype))

    return _scaled(blocks, tensors, shrinkage)


def pruned(blocks, tensors: dict, stays) -> dict:
    """Tensors with exact zeros in some groups.

    Args:
        blocks: Whose groups do not overlap.
        tensors: Number -> tensor, for every slice of the blocks.
        stays: `(labels,)` bool, False for a label whose group becomes zero.

    Returns:
        Number -> tensor.

    Example:
        >>> from tfsparse.numerics import Block
        >>> each = Block.of([[0, 1]], [(2,)])
        >>> left = pruned([each], {0: ops.ones(2)}, ops.array([True, False]))
        >>> [float(x) for x in left[0]]
        [1.0, 0.0]
    """

    def mask(block, own):
        return ops.cast(ops.take(stays, block.labels), own[0].dtype)

    return _scaled(blocks, tensors, mask)


def overlapping_step(weights, steps, levels, thresholds, stays, eps, sweeps) -> dict:
    """A step towards the proximal point of the norms of overlapping groups.

    w + eps (x - w), x the proximal map of sum_p sum_k threshold_pk ||x_pk|| at w - d, by
    Dykstra's alternation over the partitions p. A few sweeps leave a little of groups
    that the limit makes zero; those that are to be zero for good become so.

    Args:
        weights: Number -> w, for every slice of the blocks.
        steps: Number -> d, the same.
        levels: For each partition its blocks.
        thresholds: For each partition `(labels,)`, not negative.
        stays: For each partition `(labels,)` bool, False for groups to be zero.
        eps: In [0, 1], a scalar.
        sweeps: Of the alternation, at least 1.

    Returns:
        Number -> new weight.

    Example:
        >>> from tfsparse.numerics import Block
        >>> rows = Block.of([[[0], [1]]], [(2, 1)])
        >>> weights, steps = {0: ops.array([[3.0], [0.5]])}, {0: ops.zeros((2, 1))}
        >>> strength, stays = ops.ones(2), ops.array([True, True])
        >>> new = overlapping_step(weights, steps, [[rows]], [strength], [stays], 1.0, 5)
        >>> [round(float(x), 4) for x in new[0][:, 0]]
        [2.0, 0.0]

    Reference: BayesNAS, eq. B.0.1; GSparsity, Algorithm 1; see `dykstra`.
    """

    def proximal(number):
        return lambda x: shrunk(levels[number], x, thresholds[number])

    x = {number: w - steps[number] for number, w in weights.items()}
    x = dykstra(x, [proximal(number) for number in range(len(levels))], sweeps)
    for blocks, own in zip(levels, stays, strict=True):
        x = pruned(blocks, x, own)
    return {
        number: w + ops.cast(eps, w.dtype) * (x[number] - w)
        for number, w in weights.items()
    }


def _scaled(blocks, tensors: dict, factor_of) -> dict:
    """Tensors times `factor_of(block, its tensors)`; what no group holds stays."""
    tensors = dict(tensors)
    for block in blocks:
        own = [tensors[index] for index in block.members]
        factors = factor_of(block, own)
        for part, tensor in zip(block.slices, own, strict=True):
            tensors[part.index] = tensor * block.spread(factors, part, 1.0)
    return tensors
