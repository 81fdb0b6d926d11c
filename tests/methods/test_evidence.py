"""Evidence maximisation where the evidence has a closed form, and sums of penalties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from keras import ops

from tfsparse import numerics


def array(x):
    return ops.convert_to_numpy(x)


def test_slopes_are_the_published_quotient_without_its_cancellation():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, 6))
    whole = root @ root.T
    gamma = rng.uniform(0.1, 3, 6)
    for curvature in (whole, np.diag(whole)):
        matrix = whole if curvature.ndim == 2 else np.diag(curvature)
        posterior = np.linalg.inv(np.diag(1 / gamma) + matrix)
        expected = (gamma - np.diag(posterior)) / gamma**2
        received = numerics.evidence_slopes(ops.array(gamma), ops.array(curvature))
        np.testing.assert_allclose(array(received), expected, rtol=1e-9)
    # gamma = 1e-6: in float32 the quotient loses every digit.
    small = numerics.evidence_slopes(ops.array(1e-6, "float32"), ops.array(2.0))
    assert float(small) == pytest.approx(2 / (1 + 2e-6), rel=1e-6)
    assert float(numerics.evidence_slopes(ops.array(0.0), ops.array(2.0))) == 2.0


def test_slopes_are_the_gradient_of_the_log_determinant():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(30, 5))
    gamma = rng.uniform(0.1, 2, 5)

    def log_determinant(gamma):
        return np.linalg.slogdet(np.eye(30) + x * gamma @ x.T)[1]

    received = array(numerics.evidence_slopes(ops.array(gamma), ops.array(x.T @ x)))
    for number in range(5):
        step = np.eye(5)[number] * 1e-6
        slope = (log_determinant(gamma + step) - log_determinant(gamma - step)) / 2e-6
        assert received[number] == pytest.approx(slope, rel=1e-5)


def lasso(x, y, omega, groups, sweeps=4000):
    """argmin |y - x w|^2 / 2 + sum_g omega_g |w_g|, by proximal steps."""
    w, step = np.zeros(x.shape[1]), 1 / np.linalg.norm(x, 2) ** 2
    for _ in range(sweeps):
        w = w - step * x.T @ (x @ w - y)
        norms = np.sqrt(np.bincount(groups, w**2))
        factor = np.maximum(0, 1 - step * omega / np.maximum(norms, 1e-300))
        w = w * factor[groups]
    return w


def planted_loop(size, weigh, gamma=None):
    """Costs of eight iterations, whether they end at the planted support, and gamma.

    Args:
        size: Weights of a group.
        weigh: `(slopes, groups) -> omega` of each group.
        gamma: Where to start; ones if None.
    """
    rng = np.random.default_rng(2)
    count, alive = 12, 4
    groups = np.repeat(np.arange(count), size)
    planted = np.where(groups < alive, rng.choice([-1, 1], len(groups)) * 1.5, 0.0)
    x = rng.normal(size=(60, len(groups)))
    noise = 0.5
    x, y = x / noise, (x @ planted + noise * rng.normal(size=60)) / noise
    hessian = x.T @ x

    def cost(gamma):  # -2 log evidence, but for a constant
        covariance = np.eye(60) + x * gamma[groups] @ x.T
        return y @ np.linalg.solve(covariance, y) + np.linalg.slogdet(covariance)[1]

    gamma, costs = np.ones(count) if gamma is None else gamma, []
    for _ in range(8):
        costs.append(cost(gamma))
        alpha = array(
            numerics.evidence_slopes(ops.array(gamma[groups]), ops.array(hessian))
        )
        omega = weigh(alpha, groups)
        w = lasso(x, y, omega, groups)
        norms = np.sqrt(np.bincount(groups, w**2))
        gamma = array(numerics.evidence_variance(ops.array(norms), ops.array(omega)))
    stays = array(numerics.is_relevant(ops.array(gamma)))
    found = stays.tolist() == [True] * alive + [False] * (count - alive)
    return costs, found, gamma


def as_corrected(slopes, groups):
    return np.sqrt(np.bincount(groups, slopes))


def as_printed(slopes, groups):
    """Eq. A.3.9 takes the root of each slope before it sums them."""
    return np.sqrt(np.bincount(groups, np.sqrt(slopes)))


@pytest.mark.parametrize("size", [1, 3])
def test_the_loop_lowers_the_evidence_and_finds_the_support(size):
    costs, found, _ = planted_loop(size, as_corrected)
    assert (np.diff(costs) <= 1e-6).all() and costs[-1] < costs[0] - 1 and found


@pytest.mark.parametrize("size", [1, 3])
def test_the_misprinted_weights_raise_it(size):
    costs, _, best = planted_loop(size, as_corrected)
    misled, _, _ = planted_loop(size, as_printed, best)
    assert misled[0] <= costs[-1] and max(np.diff(misled)) > 0.1
    assert misled[-1] > costs[-1] + 1


def test_the_entropy_criterion():
    assert numerics.ENTROPY_GAMMA == pytest.approx(0.0585498, abs=1e-7)
    around = ops.array([0.0585, 0.0586])
    assert array(numerics.is_relevant(around)).tolist() == [False, True]


# Penalties on groups that overlap -------------------------------------------------


def both(x, step):
    return [
        lambda z: numerics.prox_group_l2(z, step, axis=1),
        lambda z: numerics.prox_group_l2(z, step, axis=0),
    ]


def objective(p, x, step):
    rows, columns = (np.linalg.norm(p, axis=axis).sum() for axis in (1, 0))
    return 0.5 * ((p - x) ** 2).sum() + step * (rows + columns)


def test_dykstra_reaches_the_minimum_that_a_sequence_misses():
    x = np.random.default_rng(3).normal(size=(6, 5))
    step = 0.6
    maps = both(x, step)
    limit = array(numerics.dykstra(ops.array(x), maps, 200))
    five = array(numerics.dykstra(ops.array(x), maps))
    plain = array(maps[1](maps[0](ops.array(x))))
    rng = np.random.default_rng(4)
    lowest = objective(limit, x, step)
    for _ in range(300):  # nothing near it is lower
        near = limit + 1e-3 * rng.normal(size=x.shape)
        assert objective(near, x, step) > lowest - 1e-9
    assert objective(plain, x, step) > lowest + 0.005
    assert objective(five, x, step) < lowest + 0.1 * (
        objective(plain, x, step) - lowest
    )


@pytest.mark.parametrize("step", [0.05, 0.5])
def test_five_sweeps_suffice_for_every_cross_of_a_kernel(step):
    """A 5 x 5 kernel has 25 partitions of shape `row_column` that overlap."""
    x = np.random.default_rng(0).normal(size=(5, 5, 2, 8))
    crosses = []
    for row in range(5):
        for column in range(5):
            inside = np.zeros((5, 5, 1, 1), bool)
            inside[row] = inside[:, column] = True
            crosses.append(np.broadcast_to(inside, x.shape))

    def shrink(z, inside):
        norms = np.sqrt(np.where(inside, z**2, 0).sum(axis=(0, 1, 3), keepdims=True))
        return np.where(inside, np.maximum(0, 1 - step / norms) * z, z)

    maps = [lambda z, inside=inside: shrink(z, inside) for inside in crosses]
    # From 40 sweeps on no bit changes.
    limit, five, one = (array(numerics.dykstra(x, maps, n)) for n in (60, 5, 1))
    error = np.linalg.norm(limit - five) / np.linalg.norm(limit)
    assert error < 1e-3 and np.linalg.norm(limit - one) > np.linalg.norm(limit - five)


def test_dykstra_of_separate_groups_is_the_single_map():
    x = ops.array(np.random.default_rng(5).normal(size=(4, 3)))
    (rows, _) = both(x, 0.4)
    np.testing.assert_allclose(
        array(numerics.dykstra(x, [rows])), array(rows(x)), rtol=1e-12
    )
    soft = lambda z: numerics.prox_group_l2(z[..., None], 0.3, axis=-1)[..., 0]  # noqa: E731
    # |w|_1 + |rows|: the composition is exact there (Jenatton et al. 2011, trees).
    expected = array(rows(soft(x)))
    received = array(numerics.dykstra(x, [soft, rows], 200))
    np.testing.assert_allclose(received, expected, atol=1e-4)
    assert math.isfinite(received.sum())
