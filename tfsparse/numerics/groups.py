"""Norms and proximal maps of groups."""

from __future__ import annotations

import keras
from keras import ops


def safe_norm(x, axis=None, keepdims=False):
    """L2 norm whose gradient at zero is zero instead of nan.

    ||x|| = sqrt(sum x^2), with d||x||/dx = 0 where x = 0.

    Args:
        x: Tensor of any shape.
        axis: Axis or axes to reduce; None for all.
        keepdims: Keep the reduced axes with length 1.

    Returns:
        The norms, in `x`'s dtype.

    Example:
        >>> float(safe_norm(ops.array([3.0, 4.0])))
        5.0
    """
    squares = ops.sum(ops.square(x), axis=axis, keepdims=keepdims)
    positive = squares > 0
    root = ops.sqrt(ops.where(positive, squares, ops.ones_like(squares)))
    return ops.where(positive, root, ops.zeros_like(squares))


def prox_group_l2(x, step, axis=None):
    """Proximal map of `step * ||x||_2`, group by group.

    prox(x) = max(0, 1 - step / ||x||) x, the norm over `axis`; exactly zero
    where ||x|| <= step.

    Args:
        x: Tensor; each slice over `axis` is one group.
        step: Threshold, a scalar or broadcastable to the norms; not negative.
        axis: Axis or axes that a group spans; None for the whole tensor.

    Returns:
        A tensor of `x`'s shape.

    Example:
        >>> prox_group_l2(ops.array([[3.0, 4.0], [0.3, 0.4]]), 1.0, axis=1).tolist()
        [[2.4, 3.2], [0.0, 0.0]]

    Reference: GSparsity, Algorithm 1 (the group soft threshold); ShrinkNets draft,
    eq. 6, whose proximal solver this is.
    """
    norm = safe_norm(x, axis=axis, keepdims=axis is not None)
    return group_shrinkage(norm, step) * x


def group_shrinkage(norm, step):
    """The factor that the proximal map of `step * ||x||_2` puts on a group.

    max(0, 1 - step / ||x||); 0 where ||x|| <= step.

    Args:
        norm: Norms of the groups.
        step: Threshold, a scalar or of `norm`'s shape; not negative.

    Returns:
        Factors of `norm`'s shape.

    Example:
        >>> group_shrinkage(ops.array([5.0, 0.5]), 1.0).tolist()
        [0.8, 0.0]
    """
    alive = norm > step
    shrink = 1.0 - step / ops.where(alive, norm, ops.ones_like(norm))
    return ops.where(alive, shrink, ops.zeros_like(shrink))


def dykstra(x, maps, sweeps: int = 5):
    """The proximal map of a sum of functions, from the maps of each.

    One map after the other is applied to what the last one left, plus what it took away
    itself in the sweep before. The limit is exact; a plain sequence of the maps is not,
    where groups overlap.

    Args:
        x: A tensor, or a list of tensors.
        maps: `tensors -> tensors`, the proximal map of each function.
        sweeps: How often each is applied.

    Returns:
        What `x` is: a tensor of its shape, or a list of such.

    Example:
        >>> rows = lambda x: prox_group_l2(x, 0.5, axis=1)
        >>> columns = lambda x: prox_group_l2(x, 0.5, axis=0)
        >>> dykstra(ops.ones((3, 4)), [rows, columns])

    Reference: Bauschke and Combettes 2008, "A Dykstra-like algorithm for two monotone
    operators"; for more than two Combettes and Pesquet 2011, section 10.5.
    """
    if len(maps) == 1:
        return maps[0](x)
    each = keras.tree.map_structure
    taken = [each(ops.zeros_like, x) for _ in maps]
    for _ in range(sweeps):
        for number, own in enumerate(maps):
            before = each(ops.add, x, taken[number])
            x = own(before)
            taken[number] = each(ops.subtract, before, x)
    return x
