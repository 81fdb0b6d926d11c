"""Pure rules against NumPy formulas, loops and optimality conditions."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from tfsparse import numerics


def numpy_prox(x, step, axis):
    norm = np.sqrt((x**2).sum(axis, keepdims=axis is not None))
    with np.errstate(divide="ignore"):
        return np.maximum(0.0, 1.0 - step / norm) * x


@pytest.mark.parametrize("axis", [None, 0, 1, (0, 2), -1])
@pytest.mark.parametrize("step", [0.0, 0.5, 2.0, 50.0])
def test_prox_group_l2_is_the_soft_threshold_of_norms(axis, step):
    x = np.random.default_rng(0).normal(size=(3, 5, 4)).astype("float32")
    received = ops.convert_to_numpy(numerics.prox_group_l2(ops.array(x), step, axis))
    np.testing.assert_allclose(
        received, numpy_prox(x, step, axis), rtol=1e-5, atol=1e-6
    )
    assert received.dtype == np.float32
    if step == 50.0:
        assert not received.any()


@pytest.mark.parametrize("step", [0.3, 1.0, 4.0])
def test_prox_group_l2_solves_its_problem(step):
    """0 is in the subdifferential of 1/2 |p - x|^2 + step |p| at p, group by group."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 6)) * rng.uniform(0.1, 2.0, (40, 1))
    p = ops.convert_to_numpy(numerics.prox_group_l2(ops.array(x, "float64"), step, 1))
    norms = np.linalg.norm(p, axis=1)
    dead = norms == 0
    assert 0 < dead.sum() < 40 or step == 0.3
    assert (np.linalg.norm(x[dead], axis=1) <= step).all()
    alive = p[~dead]
    np.testing.assert_allclose(
        x[~dead] - alive, step * alive / norms[~dead, None], rtol=1e-9, atol=1e-12
    )

    def objective(q):
        return 0.5 * ((q - x) ** 2).sum(1) + step * np.linalg.norm(q, axis=1)

    for _ in range(20):
        assert (
            objective(p) <= objective(p + rng.normal(0, 0.1, p.shape)) + 1e-12
        ).all()


def test_prox_group_l2_takes_one_step_for_each_group_and_zeros():
    x = np.array([[3.0, 4.0], [3.0, 4.0], [0.0, 0.0]])
    steps = np.array([[1.0], [5.0], [0.0]])
    received = ops.convert_to_numpy(numerics.prox_group_l2(ops.array(x), steps, 1))
    np.testing.assert_allclose(
        received, [[2.4, 3.2], [0.0, 0.0], [0.0, 0.0]], rtol=1e-6
    )


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [None, 0, (0, 1)])
def test_safe_norm_is_the_norm(axis, keepdims):
    x = np.random.default_rng(2).normal(size=(3, 4)).astype("float32")
    x[:, 1] = 0.0
    received = numerics.safe_norm(ops.array(x), axis, keepdims)
    expected = np.sqrt((x**2).sum(axis=axis, keepdims=keepdims))
    np.testing.assert_allclose(ops.convert_to_numpy(received), expected, rtol=1e-6)


def test_safe_norm_has_a_gradient_at_zero():
    x = tf.constant([[0.0, 0.0], [3.0, 4.0]])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        safe = tf.reduce_sum(numerics.safe_norm(x, axis=1))
        plain = tf.reduce_sum(tf.sqrt(tf.reduce_sum(x * x, axis=1)))
    np.testing.assert_allclose(tape.gradient(safe, x), [[0, 0], [0.6, 0.8]], rtol=1e-6)
    assert np.isnan(tape.gradient(plain, x)[0]).all()  # what it is there for


def sign_variance_loop(signs, gamma, threshold=0.5):
    """The rule of Smallify for one switch, written as a loop: its fate, step by step."""
    mean, variance, alive, fate = signs[0], 0.0, True, []
    for sign in signs[1:]:
        deviation = sign - mean
        variance = gamma * variance + (1 - gamma) * deviation**2
        mean = gamma * mean + (1 - gamma) * sign
        alive = alive and variance <= threshold
        fate.append((mean, variance, alive))
    return np.array(fate, float)


def run_rule(signs, gamma):
    """The same through the library: `(steps, 3, switches)`."""
    mean = ops.array(signs[0], "float64")
    variance, alive = ops.zeros_like(mean), ops.ones_like(mean)
    fate = []
    for values in signs[1:]:
        mean, variance, alive = numerics.sign_variance(
            ops.array(values, "float64") * 0.3, mean, variance, alive, gamma
        )
        fate.append([ops.convert_to_numpy(x) for x in (mean, variance, alive)])
    return np.array(fate)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.9, 0.99, 1.0])
def test_sign_variance_follows_the_loop(gamma):
    rng = np.random.default_rng(3)
    signs = np.where(rng.random((60, 7)) < np.linspace(0, 0.5, 7), -1.0, 1.0)
    received = run_rule(signs, gamma)
    for switch in range(7):
        expected = sign_variance_loop(signs[:, switch], gamma)
        np.testing.assert_allclose(received[:, :, switch], expected, atol=1e-12)
    if gamma == 1.0:
        assert received[:, 2].all()


@pytest.mark.parametrize(
    ("gamma", "steps"), [(0.0, 1), (0.9, 2), (0.99, 16), (0.999, 159)]
)
def test_a_sign_that_flips_and_stays_kills_after(gamma, steps):
    signs = np.array([[1.0]] + [[-1.0]] * 400)
    alive = run_rule(signs, gamma)[:, 2, 0]
    assert not alive.all()
    assert abs(int(np.argmin(alive)) + 1 - steps) <= (1 if steps > 2 else 0)
    assert not alive[int(np.argmin(alive)) :].any()  # for good


def test_one_flip_alone_adds_four_times_one_minus_gamma():
    signs = np.array([[1.0], [-1.0], [1.0]])
    fate = run_rule(signs, 0.99)
    np.testing.assert_allclose(fate[0, :, 0], [0.98, 0.04, 1.0])
    assert fate[1, 2, 0] == 1.0


def test_death_outlives_a_calm_sign():
    signs = np.array([[1.0], [-1.0], *[[-1.0]] * 30, *[[1.0]] * 300])
    fate = run_rule(signs, 0.9)
    assert fate[-1, 1, 0] < 1e-3  # the variance has long come down
    assert fate[-1, 2, 0] == 0.0
