"""Few different weights: centroids of each output channel, and weights that stay on them."""

from __future__ import annotations

import numpy as np
from keras import ops

ROUNDS = 30
"""Lloyd's rounds; in one dimension they settle long before."""


def assigned(weights: np.ndarray, count: int) -> np.ndarray:
    """The cluster of every weight, each output channel by itself, by k-means.

    min sum (w - c_a(w))^2 over centroids c and assignments a, from centroids at equal shares
    of the sorted weights. Zeros are a cluster of their own, so that they stay zero.

    Args:
        weights: `(..., channels)`; the last axis is not mixed, as int8 has a scale, and its
            table of numbers, for each channel.
        count: Clusters of a channel, zeros' one included; 2 or more.

    Returns:
        Whole numbers in `[0, count)` of that shape; where a channel has zeros, 0 is theirs.

    Example:
        >>> assigned(np.array([[0.0], [1.0], [1.1], [5.0]]), 3)[:, 0]
        array([0, 1, 1, 2])

    Reference: Han et al. 2016 (Deep Compression), section 3.
    """
    if count < 2:
        raise ValueError(f"`count` must be 2 or more. Received: {count}.")
    flat = weights.reshape(-1, weights.shape[-1])
    labels = np.zeros(flat.shape, np.int32)
    for channel, values in enumerate(flat.T):
        there = values != 0
        if there.any():
            free = count - (not there.all())
            first = 0 if there.all() else 1
            labels[there, channel] = first + _nearest(values[there], free)
    return labels.reshape(weights.shape)


def _nearest(values: np.ndarray, count: int) -> np.ndarray:
    """Lloyd's algorithm on numbers: the cluster of each."""
    different = np.unique(values)
    if len(different) <= count:
        return np.searchsorted(different, values)
    shares = (np.arange(count) + 0.5) / count
    centroids = np.unique(np.quantile(values, shares))
    for _ in range(ROUNDS):
        edges = (centroids[1:] + centroids[:-1]) / 2
        labels = np.searchsorted(edges, values)
        sums = np.bincount(labels, values, len(centroids))
        sizes = np.bincount(labels, minlength=len(centroids))
        moved = np.where(sizes > 0, sums / np.maximum(sizes, 1), centroids)
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    return np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values)


def shared(weights, clusters):
    """Every weight moved to the mean of its cluster; zeros stay zero.

    w_i = mean of w_j with a(j) = a(i): after a step of gradients, that is the step of the
    centroid by the mean of its weights' gradients.

    Args:
        weights: `(..., channels)`, a tensor.
        clusters: What `ids_of` returned.

    Returns:
        A tensor of that shape and dtype.
    """
    ids, sizes, there = clusters
    flat = ops.reshape(weights, (-1,))
    sums = ops.segment_sum(flat, ids, num_segments=len(sizes))
    means = sums / ops.cast(sizes, flat.dtype)
    return ops.reshape(ops.take(means, ids), weights.shape) * ops.cast(
        there, weights.dtype
    )


def ids_of(weights: np.ndarray, numbers: np.ndarray):
    """What `shared` needs to know of clusters, worked out once.

    Args:
        weights: Those that were assigned.
        numbers: Of their clusters, of that shape; another one in each channel.

    Returns:
        A number for each weight, the size of each number's cluster, and where weights are.
    """
    _, ids, sizes = np.unique(
        numbers.reshape(-1), return_inverse=True, return_counts=True
    )
    return ids.reshape(-1).astype(np.int32), sizes, (weights != 0)
