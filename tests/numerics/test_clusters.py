"""Few different weights: assigned by k-means, held while they train."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from tfsparse.numerics import clusters


def ids(weights, labels):
    channels = weights.shape[-1]
    numbers = labels.reshape(-1, channels) + np.arange(channels) * (labels.max() + 1)
    return clusters.ids_of(weights, numbers.reshape(weights.shape))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(2, 40),
    zeros=st.sampled_from([0.0, 0.4, 1.0]),
    shape=st.sampled_from([(3, 3, 2, 5), (60, 4), (7, 1)]),
)
def test_weights_move_to_few_centroids_and_zeros_stay(seed, count, zeros, shape):
    rng = np.random.default_rng(seed)
    weights = (rng.normal(size=shape) * (rng.random(shape) >= zeros)).astype("float32")
    labels = clusters.assigned(weights, count)
    assert labels.min() >= 0
    assert labels.max() < count
    moved = ops.convert_to_numpy(
        clusters.shared(ops.convert_to_tensor(weights), ids(weights, labels))
    )
    assert np.array_equal(moved == 0, weights == 0) or np.all(moved[weights == 0] == 0)
    for before, after in zip(
        weights.reshape(-1, shape[-1]).T, moved.reshape(-1, shape[-1]).T, strict=True
    ):
        assert len(np.unique(after)) <= count
        # A centroid is the mean of its weights: their sum stays.
        assert after.sum() == pytest.approx(before.sum(), abs=1e-4)
    again = clusters.shared(ops.convert_to_tensor(moved), ids(weights, labels))
    assert np.allclose(ops.convert_to_numpy(again), moved, atol=1e-6)


def test_k_means_is_as_good_as_scikit_learns():
    from sklearn.cluster import KMeans

    values = np.random.default_rng(0).normal(size=(400, 1))
    labels = clusters.assigned(values + 5.0, 8)
    centroids = np.array([values[labels == k].mean() for k in np.unique(labels)])
    ours = np.square(values[:, 0] - centroids[labels[:, 0] - labels.min()]).sum()
    theirs = KMeans(8, n_init=5, random_state=0).fit(values).inertia_
    assert ours < 1.15 * theirs


def test_few_different_weights_are_kept_as_they_are():
    weights = np.tile(np.array([[0.5], [-1.0], [2.0]]), (10, 1))
    labels = clusters.assigned(weights, 3)
    moved = clusters.shared(ops.convert_to_tensor(weights), ids(weights, labels))
    assert np.allclose(ops.convert_to_numpy(moved), weights)
    with pytest.raises(ValueError, match="2 or more"):
        clusters.assigned(weights, 1)
