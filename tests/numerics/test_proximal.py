"""The parts of ProxSGD's step against short NumPy formulas and cases done by hand."""

from __future__ import annotations

import doctest
import importlib
import types

import numpy as np
import pytest
from keras import ops
from scipy import optimize

from tfsparse import numerics
from tfsparse.numerics import Block

RNG = np.random.default_rng

LABELS = (
    np.array([[0], [1], [-1], [0]]),  # rows of a kernel (4, 3)
    np.array([0, 2, 2]),  # entries of a bias (3,)
    np.array([[[0, 1]]]),  # a filter's channels (2, 2, 2)
)
SHAPES = ((4, 3), (3,), (2, 2, 2))
"""Three groups over three tensors, one row of the first unpenalised."""


def laid():
    return Block.of(LABELS, SHAPES)


def drawn(seed, low=None):
    """A float32 array for each shape; uniform from `low` to 1 where that is given."""
    rng = RNG(seed)
    draw = rng.normal if low is None else lambda size: rng.uniform(low, 1, size)
    return [draw(size=shape).astype("float32") for shape in SHAPES]


def tensors(arrays):
    return [ops.array(a) for a in arrays]


def arrays(tensors):
    return [ops.convert_to_numpy(t) for t in tensors]


def full():
    return [np.broadcast_to(own, s) for own, s in zip(LABELS, SHAPES, strict=True)]


def gathered(values, group):
    """The weights of one group as one vector."""
    return np.concatenate(
        [v[where == group] for v, where in zip(values, full(), strict=True)]
    )


def test_a_block_counts_sums_and_spreads():
    block, values = laid(), drawn(0)
    assert block.groups == 3 and block.members == [0, 1, 2]
    np.testing.assert_array_equal(block.sizes, [6 + 1 + 4, 3 + 4, 2])
    expected = [gathered(values, k).sum() for k in range(3)]
    received = ops.convert_to_numpy(block.sum(tensors(values)))
    np.testing.assert_allclose(received, expected, rtol=1e-5, atol=1e-6)
    for part, where in zip(block.slices, full(), strict=True):
        spread = block.spread(ops.array([10.0, 20.0, 30.0]), part, 7.0)
        wide = np.broadcast_to(ops.convert_to_numpy(spread), where.shape)
        np.testing.assert_array_equal(wide, np.array([10, 20, 30, 7.0])[where])


def test_a_block_of_some_labels_keeps_their_numbers():
    block = Block.of([np.array([[5, 9, -1]])], [(4, 3)], [2])
    assert block.labels.tolist() == [5, 9] and block.members == [2]
    assert block.sizes.tolist() == [4.0, 4.0]
    total = block.sum([ops.array(np.arange(12.0).reshape(4, 3))])
    assert ops.convert_to_numpy(total).tolist() == [0 + 3 + 6 + 9, 1 + 4 + 7 + 10]


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_averaged(rate):
    old, new = RNG(0).normal(size=(2, 5, 3))
    received = numerics.averaged(ops.array(old), ops.array(new), rate)
    np.testing.assert_allclose(
        received, (1 - rate) * old + rate * new, rtol=1e-5, atol=1e-6
    )


def test_averages_by_hand():
    average = ops.array(0.0)
    for gradient in (4.0, 0.0, 8.0):  # 2, 1, 4.5
        average = numerics.averaged(average, ops.array(gradient), 0.5)
    assert float(average) == 4.5


@pytest.mark.parametrize("steps", [1, 2, 50])
def test_root_mean_squares_of_equal_gradients_are_their_size(steps):
    """The correction for the start at zero is exact from the first step on."""
    gradient, beta = ops.array([3.0, -0.5]), 0.9
    square = ops.zeros(2)
    for done in range(steps):
        square = numerics.averaged(square, ops.square(gradient), 1 - beta)
        (tau,) = numerics.root_mean_squares([square], beta, ops.array(float(done)))
    np.testing.assert_allclose(tau, [3.0, 0.5], rtol=1e-5)


def test_a_plain_step():
    w, v = RNG(1).normal(size=(2, 4)).astype("float32")
    tau = RNG(2).uniform(0.5, 2, 4).astype("float32")
    for curvature, own in ((None, 1.0), (tau, tau), (2.0, 2.0)):
        given = None if curvature is None else ops.array(curvature)
        received = numerics.plain_step(ops.array(w), ops.array(v), 0.3, given)
        np.testing.assert_allclose(received, w - 0.3 * v / own, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("eps", [0.0, 0.4, 1.0])
def test_a_proximal_step_is_the_formula_of_the_paper(eps):
    w, d, thresholds = drawn(3), drawn(4), np.array([0.5, 2.0, 50.0], "float32")
    received = numerics.proximal_step(
        laid(), tensors(w), tensors(d), ops.array(thresholds), eps
    )
    b = [x - y for x, y in zip(w, d, strict=True)]
    norms = np.array([np.linalg.norm(gathered(b, k)) for k in range(3)])
    factors = np.append(np.maximum(0, 1 - thresholds / norms), 1.0)  # -1: no penalty
    assert 0 < factors[0] < 1 and factors[2] == 0
    for where, own, point, new in zip(full(), w, b, arrays(received), strict=True):
        expected = (1 - eps) * own + eps * factors[where] * point
        np.testing.assert_allclose(new, expected, rtol=1e-5, atol=1e-6)
        if eps == 1.0:
            assert not new[where == 2].any()  # exact zeros


def test_a_proximal_step_by_hand():
    """w (3, 4), no gradient, mu 2.5: halved at eps 1, three quarters at eps 0.5."""
    pair, w = Block.of([[0]], [(2,)]), ops.array([3.0, 4.0])
    for eps, expected in ((1.0, [1.5, 2.0]), (0.5, [2.25, 3.0])):
        (new,) = numerics.proximal_step(
            pair, [w], [ops.zeros(2)], ops.array([2.5]), eps
        )
        np.testing.assert_allclose(new, expected, rtol=1e-6)


def test_preconditioned_steps_are_divided_by_the_mean_of_the_group():
    v, taus = drawn(5), drawn(6, low=0.2)
    steps, tau = numerics.preconditioned(laid(), tensors(v), tensors(taus))
    means = np.array([gathered(taus, k).mean() for k in range(3)])
    np.testing.assert_allclose(tau, means, rtol=1e-5)
    for where, own, rms, step in zip(full(), v, taus, arrays(steps), strict=True):
        divisor = np.append(means, rms.mean())[where]
        np.testing.assert_allclose(step, own / divisor, rtol=1e-5)


@pytest.mark.parametrize("size", [0.1, 1.0, 30.0])
def test_the_elementwise_root_solves_its_equation(size):
    block, b, taus = laid(), drawn(7), drawn(8, low=0.01)
    mu = np.array([0.3, 1.0, 0.2], "float32") * size
    weighted = [x * t for x, t in zip(b, taus, strict=True)]
    received = numerics.elementwise_root(
        block, tensors(weighted), tensors(taus), ops.array(mu)
    )
    for k, found in enumerate(ops.convert_to_numpy(received)):
        c, t = gathered(weighted, k), gathered(taus, k)
        if np.linalg.norm(c) <= mu[k]:
            assert found == 0.0
            continue

        def excess(s, c=c, t=t, mu=mu[k]):
            return (c**2 / (t * s + mu) ** 2).sum() - 1.0

        root = optimize.brentq(excess, 0.0, 1e3)
        assert found == pytest.approx(root, rel=1e-4)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_elementwise_root_of_curvatures_a_thousand_apart(share):
    b, low = RNG(17).normal(size=400).astype("float32"), np.log(1e-3)
    tau = np.exp(RNG(18).uniform(low, 0, 400)).astype("float32")
    c = b * tau
    mu = share * np.linalg.norm(c)
    root = optimize.brentq(lambda s: (c**2 / (tau * s + mu) ** 2).sum() - 1, 0, 1e4)
    whole = Block.of([[0]], [(400,)])
    received = numerics.elementwise_root(
        whole, [ops.array(c)], [ops.array(tau)], ops.array([mu], "float32")
    )
    assert float(received[0]) == pytest.approx(root, rel=1e-5)


def test_the_elementwise_root_by_hand():
    """tau 2, tau b = (6, 8), mu 4: ||x|| = (10 - 4) / 2; at mu 10 it is 0."""
    pair, tau, c = Block.of([[0]], [(2,)]), ops.array([2.0, 2.0]), ops.array([6.0, 8.0])
    for mu, expected in ((4.0, 3.0), (10.0, 0.0)):
        root = numerics.elementwise_root(pair, [c], [tau], ops.array([mu]))
        assert float(root[0]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("eps", [0.4, 1.0])
def test_an_elementwise_step_meets_its_optimality_condition(eps):
    """tau (x - b) + mu x / ||x|| = 0 at the point, group by group."""
    w, v, taus = drawn(9), drawn(10), drawn(11, low=0.3)
    mu = np.array([0.4, 0.7, 90.0], "float32")
    received = numerics.elementwise_step(
        laid(), tensors(w), tensors(v), tensors(taus), ops.array(mu), eps
    )
    x = [own + (new - own) / eps for own, new in zip(w, arrays(received), strict=True)]
    b = [p - q / t for p, q, t in zip(w, v, taus, strict=True)]
    for k in (0, 1):
        point = gathered(x, k)
        pull = gathered(taus, k) * (point - gathered(b, k))
        slope = mu[k] * point / np.linalg.norm(point)
        np.testing.assert_allclose(pull + slope, 0.0, atol=1e-5)
    np.testing.assert_allclose(gathered(x, 2), 0.0, atol=1e-6)
    np.testing.assert_allclose(x[0][2], b[0][2], rtol=1e-5, atol=1e-6)  # unpenalised


def test_a_weight_without_curvature_and_penalty_is_no_nan():
    one = Block.of([[0]], [(1,)])
    none, w = ops.zeros(1), ops.array([0.0])
    (new,) = numerics.elementwise_step(one, [w], [none], [ops.ones(1)], none, 1.0)
    assert ops.convert_to_numpy(new).tolist() == [0.0]


@pytest.mark.parametrize("eps", [0.25, 1.0])
def test_a_box_holds_the_point_and_not_the_weight(eps):
    w, x = RNG(12).normal(size=(2, 50)) * 2
    received = numerics.boxed(
        ops.array(w), ops.array(w + eps * (x - w)), eps, -0.5, 0.75
    )
    expected = w + eps * (np.clip(x, -0.5, 0.75) - w)
    np.testing.assert_allclose(received, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_all_finite_sees_one_bad_number(bad):
    good = ops.ones((3, 2))
    assert bool(numerics.all_finite([good, None]))
    assert bool(numerics.all_finite([]))
    assert not bool(numerics.all_finite([good, ops.array([0.0, bad])]))


# Overlapping groups ---------------------------------------------------------------


def crossed(shape=(4, 3)):
    """Rows and columns of one kernel, the tensor of number 5."""
    rows, columns = np.arange(shape[0])[:, None], np.arange(shape[1])[None]
    return [[Block.of([own], [shape], [5])] for own in (rows, columns)]


def soft(x, thresholds, axis):
    norms = np.linalg.norm(x, axis=axis, keepdims=True)
    return np.maximum(0, 1 - np.expand_dims(thresholds, axis) / norms) * x


@pytest.mark.parametrize("axis", [1, 0])
def test_shrunk_is_the_soft_threshold_of_each_group(axis):
    x = RNG(13).normal(size=(4, 3)).astype("float32")
    thresholds = RNG(14).uniform(0, 2, x.shape[1 - axis]).astype("float32")
    blocks = crossed()[1 - axis]
    found = numerics.shrunk(blocks, {5: ops.array(x)}, ops.array(thresholds))
    np.testing.assert_allclose(
        found[5], soft(x, thresholds, axis), rtol=1e-5, atol=1e-6
    )


def test_pruned_is_zero_where_told_and_the_same_elsewhere():
    x = RNG(15).normal(size=(4, 3)).astype("float32")
    stays = np.array([True, False, True, False])
    found = numerics.pruned(crossed()[0], {5: ops.array(x)}, ops.array(stays))
    np.testing.assert_array_equal(ops.convert_to_numpy(found[5]), x * stays[:, None])


@pytest.mark.parametrize("sweeps", [1, 3])
def test_an_overlapping_step_is_dykstra_in_a_loop(sweeps):
    rng = RNG(16)
    w, d = rng.normal(size=(2, 4, 3)).astype("float32")
    thresholds = [rng.uniform(0, 0.6, n).astype("float32") for n in (4, 3)]
    stays = [np.array([True, True, False, True]), np.ones(3, bool)]
    received = numerics.overlapping_step(
        {5: ops.array(w)}, {5: ops.array(d)}, crossed(), tensors(thresholds),
        tensors(stays), 0.7, sweeps,
    )  # fmt: skip
    x, p, q = w - d, 0.0, 0.0
    for _ in range(sweeps):
        y = soft(x + p, thresholds[0], 1)
        p = x + p - y
        x = soft(y + q, thresholds[1], 0)
        q = y + q - x
    expected = w + 0.7 * (x * stays[0][:, None] - w)
    np.testing.assert_allclose(received[5], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(received[5][2], 0.3 * w[2], rtol=1e-5)


@pytest.mark.parametrize("name", ["blocks", "proximal", "overlapping"])
def test_every_function_has_an_example_that_runs(name):
    module = importlib.import_module(f"tfsparse.numerics.{name}")
    for function in vars(module).values():
        if isinstance(function, types.FunctionType) and function.__name__[0] != "_":
            assert ">>>" in function.__doc__, function.__name__
    failed, tried = doctest.testmod(module)
    assert failed == 0 and tried
