"""ProxSGD's step: averages, a proximal map for each group, a box. Tensors to tensors.

The parts of GSparsity's Algorithm 1; its source is Yang et al. 2020, "ProxSGD: Training
structured neural networks under regularization and constraints".
"""

from __future__ import annotations

from keras import ops

from tfsparse.numerics.blocks import Block
from tfsparse.numerics.groups import group_shrinkage

NEWTON_STEPS = 12
"""Of `elementwise_root`; Newton's method from below gains digits quadratically."""

TINY = 1e-30
"""Keeps 0 / 0 of a weight without curvature and penalty at 0."""


def all_finite(tensors):
    """Whether no tensor holds a nan or an infinity.

    Args:
        tensors: Any number, of any shapes; None counts as finite.

    Returns:
        A scalar bool. A sum beyond float32 counts as infinite.

    Example:
        >>> bool(all_finite([ops.array([1.0, 2.0]), None]))
        True
    """
    known = [ops.sum(ops.cast(g, "float32")) for g in tensors if g is not None]
    return ops.isfinite(sum(known, ops.zeros(())))


def averaged(old, new, rate):
    """An exponential average, one step on: old + rate (new - old).

    Args:
        old: The average so far, any shape.
        new: What comes in, of that shape.
        rate: Weight of `new` in [0, 1], a number or a scalar of `old`'s dtype.

    Returns:
        A tensor of that shape.

    Example:
        >>> float(averaged(ops.array(1.0), ops.array(3.0), 0.25))
        1.5

    Reference: GSparsity, Algorithm 1, step 2; the aggregate r of its section B.
    """
    return old + rate * (new - old)


def root_mean_squares(squares, beta: float, done) -> list:
    """Roots of averaged squares, corrected for their start at zero.

    tau = sqrt(r / (1 - beta^t)) + 1e-8, t = done + 1.

    Args:
        squares: Averages r of squared gradients with rate 1 - beta, of any shapes.
        beta: In [0, 1).
        done: How often they had been averaged before the last time, a float scalar.

    Returns:
        A tensor for each, of its shape.

    Example:
        >>> tau, = root_mean_squares([ops.array(0.4)], 0.9, ops.array(0.0))
        >>> round(float(tau), 4)  # of one gradient of square 4
        2.0

    Reference: GSparsity, section B, and the released code of Yang et al. 2020.
    """
    correction = 1.0 - ops.power(beta, done + 1.0)
    return [ops.sqrt(s / ops.cast(correction, s.dtype)) + 1e-8 for s in squares]


def plain_step(weight, average, eps, tau=None):
    """A step without a penalty: w - eps v / tau.

    Args:
        weight: w, any shape.
        average: v, of that shape.
        eps: Step size, a scalar of `weight`'s dtype.
        tau: Curvature, a scalar or of that shape; None for 1.

    Returns:
        A tensor of that shape.

    Example:
        >>> float(plain_step(ops.array(1.0), ops.array(2.0), 0.25))
        0.5

    Reference: GSparsity, Algorithm 1, steps 3 and 4 with mu_k = 0.
    """
    step = eps * average
    return weight - step if tau is None else weight - step / tau


def penalty_slopes(block: Block, weights, mu) -> list:
    """A subgradient of sum_k mu_k ||w_k||: mu_k w / ||w_k||, and 0 where a group is 0.

    Args:
        block: The groups.
        weights: w, a tensor for each slice of the block.
        mu: `(groups,)`, not negative.

    Returns:
        A tensor for each slice.

    Example:
        >>> pair = Block.of([[0]], [(2,)])
        >>> slope, = penalty_slopes(pair, [ops.array([3.0, 4.0])], ops.array([5.0]))
        >>> [float(x) for x in slope]
        [3.0, 4.0]

    Reference: GSparsity, appendix G.
    """
    norms = ops.sqrt(block.sum([ops.square(w) for w in weights]))
    factors = mu / ops.maximum(norms, TINY)
    return [
        block.spread(factors, part, 0.0) * w
        for part, w in zip(block.slices, weights, strict=True)
    ]


def proximal_step(block: Block, weights, steps, thresholds, eps) -> list:
    """A step towards the proximal point of every group of a block.

    With b = w - d and s = max(0, 1 - threshold / ||b||) of each group the point is s b,
    and w + eps (s b - w) = (1 - eps (1 - s)) w - eps s d: three passes over the weights,
    exact at s = 0 and s = 1. Weights that no group holds become w - eps d.

    Args:
        block: The groups.
        weights: w, a tensor for each slice of the block.
        steps: d, the same.
        thresholds: `(groups,)`, not negative.
        eps: In [0, 1], a scalar of the weights' dtype.

    Returns:
        The new weights.

    Example:
        >>> whole = Block.of([[0]], [(2,)])
        >>> kernel, nothing = ops.array([3.0, 4.0]), ops.zeros(2)
        >>> new, = proximal_step(whole, [kernel], [nothing], ops.array([2.5]), 1.0)
        >>> [round(float(x), 4) for x in new]
        [1.5, 2.0]

    Reference: GSparsity, Algorithm 1, steps 3 and 4.
    """
    squares = [ops.square(w - d) for w, d in zip(weights, steps, strict=True)]
    shrinkage = group_shrinkage(ops.sqrt(block.sum(squares)), thresholds)
    kept, moved = 1.0 - eps * (1.0 - shrinkage), eps * shrinkage
    return [
        block.spread(kept, part, 1.0) * w - block.spread(moved, part, eps) * d
        for part, w, d in zip(block.slices, weights, steps, strict=True)
    ]


def preconditioned(block: Block, averages, taus):
    """Steps v / tau_k with one tau for each group, the mean of its weights' own.

    Args:
        block: The groups.
        averages: v, a tensor for each slice of the block.
        taus: Positive, of the same shapes.

    Returns:
        The steps, and tau_k `(groups,)`. What no group holds is divided by the mean of
        its tensor.

    Example:
        >>> pair = Block.of([[0]], [(2,)])
        >>> (d,), tau = preconditioned(pair, [ops.ones(2)], [ops.array([1.0, 3.0])])
        >>> [float(x) for x in d], float(tau[0])
        ([0.5, 0.5], 2.0)

    Reference: GSparsity, section B (tau_k as a mean over the group).
    """
    tau = block.sum(taus)
    tau = tau / ops.cast(block.sizes, tau.dtype)
    steps = [
        v * block.spread(1.0 / tau, part, 1.0 / ops.mean(own))
        for part, v, own in zip(block.slices, averages, taus, strict=True)
    ]
    return steps, tau


def elementwise_step(block: Block, weights, averages, taus, mu, eps) -> list:
    """`proximal_step` in a metric with one tau for each weight.

    The point minimises sum_i tau_i (x_i - b_i)^2 / 2 + mu ||x||, b = w - v / tau: with s
    its norm, see `elementwise_root`, x = tau s / (tau s + mu) b.

    Args:
        block: The groups.
        weights: w, a tensor for each slice of the block.
        averages: v, the same.
        taus: Positive, of the same shapes.
        mu: `(groups,)`, not negative.
        eps: In [0, 1], a scalar of the weights' dtype.

    Returns:
        The new weights.

    Example:
        >>> one = Block.of([[0]], [(1,)])
        >>> w, v, tau = ops.array([3.0]), ops.array([0.0]), ops.array([2.0])
        >>> new, = elementwise_step(one, [w], [v], [tau], ops.array([2.0]), 1.0)
        >>> round(float(new[0]), 4)  # 3 - mu / tau
        2.0

    Reference: Yang et al. 2020 (tau of each weight); its groups are of one weight.
    """
    weighted = [tau * w - v for w, v, tau in zip(weights, averages, taus, strict=True)]
    root = elementwise_root(block, weighted, taus, mu)
    new = []
    for part, w, v, tau in zip(block.slices, weights, averages, taus, strict=True):
        pull = tau * block.spread(root, part, 1.0)
        shrinkage = pull / (pull + block.spread(mu, part, 0.0) + TINY)
        kept = 1.0 - eps * (1.0 - shrinkage)
        new.append(kept * w - eps * shrinkage * v / tau)
    return new


def elementwise_root(block: Block, weighted, taus, mu):
    """Norms of the groups behind the proximal map in the metric of tau.

    x = tau s / (tau s + mu) b with s = ||x||, so s is the root of
    sum_i (tau_i b_i)^2 / (tau_i s + mu)^2 = 1, and 0 where ||tau b|| <= mu.

    Args:
        block: The groups.
        weighted: tau b, a tensor for each slice of the block.
        taus: Positive, of the same shapes.
        mu: `(groups,)`, not negative.

    Returns:
        s, `(groups,)`.

    Example:
        >>> pair = Block.of([[0]], [(2,)])
        >>> b, tau, mu = ops.array([3.0, 4.0]), ops.ones(2), ops.ones(1)
        >>> s = elementwise_root(pair, [b], [tau], mu)
        >>> round(float(s[0]), 4)  # tau 1: ||b|| - mu
        4.0
    """
    squares = [ops.square(c) for c in weighted]
    norms = ops.sqrt(block.sum(squares))
    alive = norms > mu
    mean = block.sum(taus) / ops.cast(block.sizes, mu.dtype)
    root = ops.maximum(norms - mu, 0.0) / mean
    for _ in range(NEWTON_STEPS):
        below = [
            tau * block.spread(root, part, 1.0) + block.spread(mu, part, 1.0) + TINY
            for part, tau in zip(block.slices, taus, strict=True)
        ]
        value = block.sum([c / b**2 for c, b in zip(squares, below, strict=True)])
        slope = block.sum(
            [t * c / b**3 for c, b, t in zip(squares, below, taus, strict=True)]
        )
        # Newton on value^(-1/2), which is concave: it never passes the root
        step = value * (ops.sqrt(value) - 1.0) / ops.maximum(slope, TINY)
        root = ops.maximum(root + ops.where(alive, step, 0.0), 0.0)
    return ops.where(alive, root, 0.0)


def boxed(weight, new, eps, low: float, high: float):
    """The new weight if the point that it steps towards is projected to a box.

    new = w + eps (x - w) rises with x, so clipping x to [low, high] is clipping it to
    [w + eps (low - w), w + eps (high - w)].

    Args:
        weight: w, any shape.
        new: The new weight without a box, of that shape.
        eps: In [0, 1], a scalar of that dtype.
        low, high: The box.

    Returns:
        A tensor of that shape.

    Example:
        >>> float(boxed(ops.array(0.0), ops.array(-3.0), 0.5, -1.0, 1.0))
        -0.5

    Reference: Yang et al. 2020 (the bounds of its released code).
    """
    new = ops.maximum(new, weight + eps * (low - weight))
    return ops.minimum(new, weight + eps * (high - weight))
