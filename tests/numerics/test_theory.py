"""Propositions A.1 to A.4 of the ShrinkNets draft, as corrected, on the library's layers.

Corrections (method_facts section 8, 32-35): A.1 has un-squared norms, and a free unit
vector for a column of zeros; A.2's example needs y = 0; A.3 fails where beta = 0 is
optimal; A.4's 2^k counts the non-zero switches only.
"""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfsparse
from tfsparse import numerics
from tfsparse.layers import Filter, SwitchDecay

LAMBDA = 0.6


def linear(x, targets, strength=LAMBDA, decay=None):
    """min |y - A diag(beta) x|^2 + lambda |beta|_1 (+ decay of A), draft eqs. 7 and 9."""
    inputs = keras.Input((len(x),))
    switched = Filter(len(x), form="signed", strength=strength, name="beta")(inputs)
    dense = layers.Dense(
        targets, use_bias=False, name="A", kernel_regularizer=decay, dtype="float32"
    )
    return keras.Model(inputs, dense(switched))


def objective(model, x, y, a, beta) -> float:
    """The penalised loss that the library's layers compute for given parameters."""
    model.get_layer("A").kernel.assign(np.asarray(a).T)
    switch = model.get_layer("beta")
    switch.switch.assign(beta)
    error = np.asarray(y) - ops.convert_to_numpy(model(np.asarray(x)[None]))[0]
    return float((error**2).sum() + sum(float(loss) for loss in model.losses))


def group_sparse(x, y, a) -> float:
    """|y - A x|^2 + lambda sum of column norms, draft eq. 8, by NumPy."""
    return ((y - a @ x) ** 2).sum() + LAMBDA * np.linalg.norm(a, axis=0).sum()


def unit_columns(a, rng):
    """A' with |column| = 1 and beta = column norms; a zero column takes any direction."""
    beta = np.linalg.norm(a, axis=0)
    free = rng.normal(size=a.shape)
    free /= np.linalg.norm(free, axis=0)
    return np.where(beta > 0, a / np.where(beta > 0, beta, 1.0), free), beta


# A.1 --------------------------------------------------------------------------------


@pytest.mark.parametrize(("targets", "features"), [(1, 1), (3, 5), (6, 2)])
def test_a1_both_problems_take_the_same_values(targets, features):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=features), rng.normal(size=targets)
    model = linear(x, targets)
    for _ in range(5):
        a = rng.normal(size=(targets, features))
        a[:, rng.random(features) < 0.3] = 0.0
        unit, beta = unit_columns(a, rng)
        np.testing.assert_allclose(np.linalg.norm(unit, axis=0), 1.0)
        expected = group_sparse(x, y, a)
        np.testing.assert_allclose(
            objective(model, x, y, unit, beta), expected, rtol=1e-5
        )
        signs = rng.choice([-1.0, 1.0], features)  # and back: A = A' diag(beta)
        back = objective(model, x, y, unit * signs, beta * signs)
        np.testing.assert_allclose(back, group_sparse(x, y, unit * beta), rtol=1e-5)


def test_a1_squared_norms_as_printed_would_be_wrong():
    rng = np.random.default_rng(1)
    x, y, a = rng.normal(size=4), rng.normal(size=3), 2 * rng.normal(size=(3, 4))
    unit, beta = unit_columns(a, rng)
    printed = objective(linear(x, 3), x, y, a / beta**2, beta**2)
    assert abs(printed - group_sparse(x, y, a)) > 0.1
    assert abs(np.linalg.norm(a / beta**2, axis=0) - 1).max() > 0.1


def test_a1_both_problems_have_the_same_minimum():
    """By proximal descent, and in closed form: all weight on the largest |x_j|."""
    rng = np.random.default_rng(2)
    x, y = np.array([0.5, -2.0, 1.0]), rng.normal(size=4) * 2
    step, a = 0.5 / (x @ x), np.zeros((4, 3))
    for _ in range(300):
        gradient = -2 * np.outer(y - a @ x, x)
        moved = ops.array(a - step * gradient, "float64")
        a = ops.convert_to_numpy(numerics.prox_group_l2(moved, step * LAMBDA, axis=0))
    closed = LAMBDA * np.linalg.norm(y) / 2.0 - LAMBDA**2 / (4 * 2.0**2)
    np.testing.assert_allclose(group_sparse(x, y, a), closed, rtol=1e-6)
    assert (np.linalg.norm(a, axis=0) > 0).tolist() == [False, True, False]
    unit, beta = unit_columns(a, rng)
    model = linear(x, 4)
    np.testing.assert_allclose(objective(model, x, y, unit, beta), closed, rtol=1e-5)
    for _ in range(30):  # nothing feasible is below
        near, _ = unit_columns(unit + rng.normal(0, 0.3, unit.shape), rng)
        value = objective(model, x, y, near, beta + rng.normal(0, 0.3, 3))
        assert value >= closed - 1e-5


# A.2 --------------------------------------------------------------------------------


@pytest.mark.parametrize("x", [0.7, 1.0, 3.0])
def test_a2_the_problem_is_not_convex(x):
    """y = 0: f(0, 2) = f(2, 0) = 0, and halfway between f(1, 1) = x^2 > 0."""
    model = linear([x], 1, strength=0.0)
    ends = [objective(model, [x], [0.0], [[a]], [beta]) for a, beta in ((0, 2), (2, 0))]
    assert ends == [0.0, 0.0]
    middle = objective(model, [x], [0.0], [[1.0]], [1.0])
    np.testing.assert_allclose(middle, x**2, rtol=1e-6)


def test_a2_as_printed_with_y_1():
    model = linear([3.0], 1, strength=0.0)
    values = [
        objective(model, [3.0], [1.0], [[a]], [b]) for a, b in ((0, 2), (2, 0), (1, 1))
    ]
    np.testing.assert_allclose(values, [1.0, 1.0, (1.0 - 3.0) ** 2])


# A.3 --------------------------------------------------------------------------------


def test_a3_without_decay_there_is_no_minimum():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=4), rng.normal(size=3)
    a, beta = rng.normal(size=(3, 4)), rng.normal(size=4)
    model = linear(x, 3)
    values = [objective(model, x, y, a * 2.0**k, beta * 2.0**-k) for k in range(10)]
    assert all(later < now for now, later in itertools.pairwise(values))
    error = ((y - a @ (beta * x)) ** 2).sum()
    infimum_gap = LAMBDA * np.abs(beta).sum() * 2.0**-9
    np.testing.assert_allclose(values[-1], error + infimum_gap, rtol=1e-5)


def test_a3_fails_where_all_switches_are_off():
    """y = 0: beta = 0 costs nothing at all, so a minimum exists."""
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=4), np.zeros(3)
    model = linear(x, 3)
    assert objective(model, x, y, rng.normal(size=(3, 4)), np.zeros(4)) == 0.0
    others = [
        objective(model, x, y, rng.normal(size=(3, 4)), rng.normal(size=4))
        for _ in range(20)
    ]
    assert min(others) > 0.0


@pytest.mark.parametrize("power", [1, 2])
def test_a3_decay_gives_every_ray_its_minimum(power):
    """lambda |beta| / t + lambda2 t^p |A|_p^p is least at a closed-form t."""
    rng = np.random.default_rng(5)
    x, y, decay = rng.normal(size=4), rng.normal(size=3), 0.05
    a, beta = rng.normal(size=(3, 4)), rng.normal(size=4)
    model = linear(x, 3, decay=SwitchDecay(decay, power))
    grown = power * decay * (np.abs(a) ** power).sum()
    best = (LAMBDA * np.abs(beta).sum() / grown) ** (1 / (power + 1))
    value = objective(model, x, y, a * best, beta / best)
    error = ((y - a @ (beta * x)) ** 2).sum()
    grown = decay * (np.abs(a * best) ** power).sum()
    expected = error + LAMBDA * np.abs(beta).sum() / best + grown
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for factor in (0.01, 0.5, 0.9, 1.1, 2.0, 100.0):
        t = best * factor
        assert objective(model, x, y, a * t, beta / t) > value


def test_a3_a_batch_norm_does_not_escape_the_decay():
    """Switch halved, gamma and beta doubled: eq. 10 must not go down for ever."""
    vector = keras.Input((3,), name="vector")
    x = layers.BatchNormalization(name="bn")(layers.Dense(4, name="hidden")(vector))
    model = keras.Model(vector, layers.Dense(2, name="out")(layers.ReLU()(x)))
    method = tfsparse.ShrinkNets(0.3, decay=0.1, seed=3)
    sparse = method.prepare(model, tfsparse.find_groups(model))
    norm, switch = sparse.get_layer("bn"), sparse.get_layer("hidden_switch").switch
    inputs = np.random.default_rng(8).normal(size=(5, 3)).astype("float32")
    answer, costs = ops.convert_to_numpy(sparse(inputs)), []
    for _ in range(8):
        costs.append(sum(float(loss) for loss in sparse.losses))
        switch.assign(switch / 2.0)
        norm.gamma.assign(norm.gamma * 2.0)
        norm.beta.assign(norm.beta * 2.0)
        same = ops.convert_to_numpy(sparse(inputs))
        np.testing.assert_allclose(same, answer, rtol=1e-4, atol=1e-5)
    assert min(costs) < costs[-1]


# A.4 --------------------------------------------------------------------------------


def deep():
    """Two layers with switches on the inputs of both, regularised as in eq. 10."""
    vector = keras.Input((3,), name="vector")
    x = layers.Dense(4, activation="tanh", name="first")(vector)
    model = keras.Model(vector, layers.Dense(2, name="second")(x))
    method = tfsparse.ShrinkNets(0.3, form="signed", decay=0.1, features=True, seed=3)
    groups = tfsparse.find_groups(model, method.kinds)
    return method.prepare(model, groups)


def total(model, x, y) -> float:
    error = y - ops.convert_to_numpy(model(x))
    return float((error**2).sum() + sum(float(loss) for loss in model.losses))


def test_a4_flipping_a_switch_and_its_column_changes_nothing():
    """On the inputs of the first layer: 2^k points for k non-zero switches."""
    model = deep()
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(5, 3)).astype("float32"), rng.normal(size=(5, 2))
    switch, kernel = model.get_layer("first_features_switch").switch, None
    kernel = model.get_layer("first").kernel
    switch.assign([0.7, 0.0, -0.4])
    beta, a = (ops.convert_to_numpy(v).copy() for v in (switch, kernel))
    start, points = total(model, x, y), set()
    for signs in itertools.product([1.0, -1.0], repeat=3):
        flip = np.array(signs, "float32")
        switch.assign(beta * flip)
        kernel.assign(a * flip[:, None])
        np.testing.assert_allclose(total(model, x, y), start, rtol=1e-6)
        points.add(tuple(beta * flip + 0.0))
    assert len(points) == 2 ** int((beta != 0).sum()) == 4
    switch.assign(-beta)
    kernel.assign(a)
    assert abs(total(model, x, y) - start) > 1e-3  # a switch alone is another network


def test_a4_holds_for_hidden_switches_too():
    """A hidden switch stands before tanh: its writer's column and bias flip with it."""
    model = deep()
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(5, 3)).astype("float32"), rng.normal(size=(5, 2))
    first, switch = model.get_layer("first"), model.get_layer("first_switch").switch
    first.bias.assign(rng.normal(size=4))
    start = total(model, x, y)
    flip = np.array([1.0, -1.0, 1.0, -1.0], "float32")
    switch.assign(switch * flip)
    first.kernel.assign(first.kernel * flip)
    first.bias.assign(first.bias * flip)
    np.testing.assert_allclose(total(model, x, y), start, rtol=1e-6)
    assert len(model.losses) == 4  # two switches, two decays: eq. 10, nothing twice
