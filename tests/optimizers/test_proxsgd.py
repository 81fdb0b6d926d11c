"""ProxSGD against Algorithm 1 in NumPy loops, optimality conditions, and Keras's machinery."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from scipy import optimize
from sklearn import linear_model

from tfsparse import records
from tfsparse.methods import partitions
from tfsparse.optimizers import ProxDecay, ProxSGD


def prox_in_metric(b, tau, mu):
    """argmin 1/2 sum tau (x - b)^2 + mu ||x||, by a root of its norm."""
    if np.linalg.norm(tau * b) <= mu:
        return np.zeros_like(b)
    if mu == 0:
        return b

    def excess(s):
        return ((tau * b) ** 2 / (tau * s + mu) ** 2).sum() - 1.0

    s = optimize.brentq(excess, 1e-12, 1.0 + np.linalg.norm(b) * 10, xtol=1e-14)
    return tau * s / (tau * s + mu) * b


class Algorithm1:
    """The paper's step, one group at a time."""

    def __init__(
        self, weights, partition, mu, eps, rho, tau, beta=0.999, power=0.0, boxes=None
    ):
        self.w = {k: v.astype("float64").copy() for k, v in weights.items()}
        self.v = {k: np.zeros_like(v) for k, v in self.w.items()}
        self.r = {k: np.zeros_like(v) for k, v in self.w.items()}
        self.partition, self.mu, self.eps, self.rho = partition, mu, eps, rho
        self.tau, self.beta, self.power, self.t = tau, beta, power, 0
        self.boxes = boxes or {}

    def step(self, gradients):
        self.t += 1
        for k, g in gradients.items():
            self.v[k] = (1 - self.rho) * self.v[k] + self.rho * g
            self.r[k] = self.beta * self.r[k] + (1 - self.beta) * g**2
        rms = {
            k: np.sqrt(r / (1 - self.beta**self.t)) + 1e-8 for k, r in self.r.items()
        }
        where = {
            k: np.broadcast_to(self.partition.labels.get(k, np.array(-1)), w.shape)
            for k, w in self.w.items()
        }
        points = {k: w.copy() for k, w in self.w.items()}
        factors = self.partition.multipliers
        for group in range(self.partition.groups):
            spots = {k: places == group for k, places in where.items()}
            size = sum(s.sum() for s in spots.values())
            if not size:
                continue
            mu = self.mu * size**self.power
            mu *= 1.0 if factors is None else factors[group]
            gather = lambda d: np.concatenate([d[k][s] for k, s in spots.items()])  # noqa: B023, E731
            w, v, tau = gather(self.w), gather(self.v), np.ones(size)
            if self.tau == "group":
                tau = np.full(size, gather(rms).mean())
            elif self.tau == "element":
                tau = gather(rms)
            x = prox_in_metric(w - v / tau, tau, mu)
            start = 0
            for k, s in spots.items():
                points[k][s] = x[start : start + s.sum()]
                start += s.sum()
        for k, places in where.items():
            free = places < 0
            tau = {"constant": 1.0, "group": rms[k].mean(), "element": rms[k]}[self.tau]
            points[k][free] = (self.w[k] - self.v[k] / tau)[free]
        for k, box in self.boxes.items():
            points[k] = points[k].clip(*box)
        for k, w in self.w.items():
            self.w[k] = w + self.eps * (points[k] - w)


def variables(shapes, rng, scale=1.0):
    found = []
    for number, shape in enumerate(shapes):
        value = rng.normal(size=shape).astype("float32") * scale
        found.append(keras.Variable(value, name=f"v{number}"))
    return found


def random_labels(shape, groups, rng):
    """Labels on a random choice of axes, some of them unpenalised."""
    kept = [n if rng.random() < 0.6 else 1 for n in shape]
    return rng.integers(-1, groups, kept).astype("int32")


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["constant", "group", "element"]))
def test_a_step_is_algorithm_1(seed, tau):
    rng = np.random.default_rng(seed)
    shapes = [
        tuple(rng.integers(1, 5, rng.integers(1, 5))) for _ in range(rng.integers(1, 5))
    ]
    weights = variables(shapes, rng)
    groups = int(rng.integers(1, 7))
    labels = {
        v.path: random_labels(v.shape, groups, rng)
        for v in weights
        if rng.random() < 0.8
    } or {weights[0].path: np.zeros([1] * len(shapes[0]), "int32")}
    partition = records.Partition(labels)
    if rng.random() < 0.5:
        partition = records.Partition(
            labels, multipliers=rng.uniform(0, 2, partition.groups)
        )
    scaling = rng.choice(["none", "sqrt", "inverse_sqrt"])
    power = {"none": 0.0, "sqrt": 0.5, "inverse_sqrt": -0.5}[scaling]
    mu, eps, rho = rng.uniform(0, 1.5), rng.uniform(0.05, 1), rng.uniform(0.05, 1)
    boxes = {
        v.path: (-0.5, float(rng.uniform(0, 1))) for v in weights if rng.random() < 0.3
    }
    optimizer = ProxSGD(
        partition, mu, eps, rho, tau, scaling=str(scaling), bounds=boxes
    )
    optimizer.build(weights)
    expected = Algorithm1(
        {v.path: np.asarray(v) for v in weights},
        partition, mu, eps, rho, tau, power=power, boxes=boxes,
    )  # fmt: skip
    for _ in range(3):
        gradients = [rng.normal(size=v.shape).astype("float32") for v in weights]
        optimizer.apply([keras.ops.array(g) for g in gradients], weights)
        expected.step({v.path: g for v, g in zip(weights, gradients, strict=True)})
    for variable in weights:
        np.testing.assert_allclose(
            variable, expected.w[variable.path], rtol=2e-4, atol=2e-5
        )


@pytest.mark.parametrize("tau", ["constant", "group", "element"])
def test_a_step_along_the_subgradient(tau):
    """w - eps (v + mu w / ||w||) / tau: what the proximal map is held against."""
    rng = np.random.default_rng(0)
    (weight, bias) = weights = variables([(3, 2), (2,)], rng)
    partition = records.Partition(
        {weight.path: np.array([[0, 1]])}, multipliers=np.array([1.0, 2.0])
    )
    optimizer = ProxSGD(partition, 0.3, 0.2, 0.5, tau, 0.9, proximal=False)
    optimizer = ProxSGD.from_config(optimizer.get_config())
    optimizer.build(weights)
    w, b = (np.array(v) for v in weights)
    g, slope = rng.normal(size=w.shape), rng.normal(size=b.shape)
    optimizer.apply([keras.ops.array(x.astype("float32")) for x in (g, slope)], weights)
    pull = 0.3 * np.array([1.0, 2.0]) * w / np.linalg.norm(w, axis=0)
    rms = np.abs(g)  # of one gradient, corrected for its start at 0
    taus = {"constant": 1.0, "group": rms.mean(0), "element": rms}[tau]
    expected = w - 0.2 * (0.5 * g + pull) / taus
    np.testing.assert_allclose(np.array(weight), expected, rtol=1e-4, atol=1e-6)
    plain = {"constant": 1.0, "group": np.abs(slope).mean(), "element": np.abs(slope)}
    np.testing.assert_allclose(
        np.array(bias), b - 0.2 * 0.5 * slope / plain[tau], rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("tau", ["constant", "group", "element"])
def test_accumulated_gradients_make_one_step_of_algorithm_1(tau):
    """Of their mean; the start at zero is corrected by steps, not by batches."""
    rng = np.random.default_rng(0)
    weights = variables([(3, 2), (2,)], rng)
    partition = records.Partition({weights[0].path: np.array([[0, 1]])})
    optimizer = ProxSGD(
        partition, 0.1, 0.3, 0.4, tau, beta=0.9, gradient_accumulation_steps=2
    )
    optimizer.build(weights)
    start = {v.path: keras.ops.convert_to_numpy(v) for v in weights}
    expected = Algorithm1(start, partition, 0.1, 0.3, 0.4, tau, beta=0.9)
    for _ in range(3):
        pair = rng.normal(size=(2, 8)).astype("float32")
        for own in pair:
            slopes = [keras.ops.array(own[:6].reshape(3, 2)), keras.ops.array(own[6:])]
            optimizer.apply(slopes, weights)
        mean = pair.mean(0)
        means = mean[:6].reshape(3, 2), mean[6:]
        expected.step({v.path: g for v, g in zip(weights, means, strict=True)})
    for variable in weights:
        np.testing.assert_allclose(
            variable, expected.w[variable.path], rtol=2e-4, atol=2e-5
        )


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
@pytest.mark.parametrize(("eps", "rho"), [(1.0, 1.0), (0.6, 0.5)])
def test_it_reaches_the_minimum_of_a_group_lasso(share, eps, rho):
    """scikit-learn's MultiTaskLasso: a row of the weights is a group."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 15))
    x /= np.linalg.norm(x, 2) / np.sqrt(80)  # largest curvature 1
    truth = rng.normal(size=(15, 3)) * (np.arange(15) % 3 == 0)[:, None]
    y = x @ truth + 0.1 * rng.normal(size=(80, 3))
    most = np.linalg.norm(x.T @ y / 80, axis=1).max()
    mu = share * most
    expected = linear_model.MultiTaskLasso(
        alpha=mu, fit_intercept=False, tol=1e-12, max_iter=10**5
    ).fit(x, y).coef_.T  # fmt: skip
    dead = np.linalg.norm(expected, axis=1) == 0
    assert 0.2 <= dead.mean() <= 0.8
    kind = "float32" if keras.backend.backend() == "jax" else "float64"
    dense = layers.Dense(3, use_bias=False, kernel_initializer="zeros", dtype=kind)
    model = keras.Sequential([keras.Input((15,), dtype=kind), dense])
    partition = records.Partition({dense.kernel.path: np.arange(15)[:, None]})
    optimizer = ProxSGD(partition, 2 / 3 * mu, eps, rho)
    model.compile(optimizer, "mse", steps_per_execution=10)
    several = [np.tile(a, (800, 1)) for a in (x, y)]
    model.fit(*several, 80, 1, verbose=0, shuffle=False)
    assert np.array_equal(optimizer.finalize(1e-6), dead)
    solution = keras.ops.convert_to_numpy(dense.kernel)
    np.testing.assert_allclose(solution, expected, atol=1e-5)


def net(seed=0):
    keras.utils.set_random_seed(seed)
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(6, 3, use_bias=False, name="conv")(image)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    x = layers.Conv2D(8, 3, activation="relu", name="more")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(10, name="out")(x))


def compiled(model, optimizer, **arguments):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, **arguments)
    return model


def coupled(model, **arguments):
    import tfsparse

    return partitions.units(model, tfsparse.find_groups(model), **arguments)


def weights_of(model):
    return [np.asarray(keras.ops.convert_to_numpy(v)) for v in model.variables]


@pytest.mark.parametrize("tau", ["constant", "group", "element"])
def test_without_a_penalty_it_is_sgd_with_momentum(tau, digits):
    """v is an average: rho 0.1 and eps 0.5 are a momentum of 0.9 and a rate of 0.05."""
    (x, y), _ = digits
    mine, theirs = net(), net()
    rate = 0.5 if tau == "constant" else 0.002
    optimizer = ProxSGD(coupled(mine), 0.0, rate, 0.1, tau)
    compiled(mine, optimizer).fit(x[:320], y[:320], 32, 1, shuffle=False, verbose=0)
    momentum = keras.optimizers.SGD(0.1 * rate, momentum=0.9)
    compiled(theirs, momentum).fit(x[:320], y[:320], 32, 1, shuffle=False, verbose=0)
    same = all(
        np.allclose(a, b, rtol=1e-3, atol=1e-5)
        for a, b in zip(weights_of(mine), weights_of(theirs), strict=True)
    )
    assert same == (tau == "constant")


def test_groups_die_and_strip_exactly(digits):
    import tfsparse

    (x, y), (x_test, _) = digits
    model = net()
    partition = coupled(model)
    assert partition.groups == 14 and set(partition.followers) == set()
    optimizer = ProxSGD(partition, 0.025, 0.5, 0.1)
    compiled(model, optimizer).fit(x, y, 50, 12, verbose=0)
    before = model.predict(x_test, verbose=0)
    dead = optimizer.finalize()
    assert 0 < dead.sum() < 14
    np.testing.assert_allclose(model.predict(x_test, verbose=0), before, atol=1e-4)
    small = tfsparse.strip(model)
    left = {g.name: g.size for g in tfsparse.find_groups(small)}
    alive = {"conv": int((~dead[:6]).sum()), "more": int((~dead[6:]).sum())}
    assert {k: max(1, v) for k, v in alive.items()} == {k: left[k] for k in alive}
    np.testing.assert_allclose(small.predict(x_test, verbose=0), before, atol=1e-4)


def test_carriers_may_follow(digits):
    (x, y), _ = digits
    model = net()
    partition = coupled(model, carriers=False)
    assert set(partition.labels) == {"conv/kernel", "more/kernel"}
    assert set(partition.followers) == {"norm/gamma", "norm/beta", "more/bias"}
    optimizer = ProxSGD(partition, 0.1, 0.5, 0.1)
    compiled(model, optimizer).fit(x, y, 50, 14, shuffle=False, verbose=0)
    dead = optimizer.finalize()
    assert dead[:6].any()
    beta = np.asarray(keras.ops.convert_to_numpy(model.get_layer("norm").beta))
    np.testing.assert_array_equal(beta == 0, dead[:6])
    for slot in optimizer.averages:
        if slot.path.endswith("norm_beta_average"):
            np.testing.assert_array_equal(np.asarray(slot) == 0, dead[:6])


@pytest.mark.parametrize(
    "arguments",
    [
        {"gradient_accumulation_steps": 2},
        {"clipnorm": 0.5},
        {"global_clipnorm": 0.5},
        {"weight_decay": 0.01},
        {"use_ema": True, "ema_overwrite_frequency": 3},
    ],
    ids=lambda d: next(iter(d)),
)
def test_kerass_arguments_do_what_they_do_for_sgd(arguments, digits):
    (x, y), _ = digits
    mine, theirs = net(), net()
    optimizer = ProxSGD(coupled(mine), 0.0, 0.5, 1.0, **arguments)
    compiled(mine, optimizer).fit(x[:320], y[:320], 32, 1, shuffle=False, verbose=0)
    plain = keras.optimizers.SGD(0.5, **arguments)
    compiled(theirs, plain).fit(x[:320], y[:320], 32, 1, shuffle=False, verbose=0)
    for a, b in zip(weights_of(mine), weights_of(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "arguments",
    [{"steps_per_execution": 5}, {"jit_compile": True}, {"run_eagerly": True}],
    ids=lambda d: next(iter(d)),
)
def test_ways_to_run_a_step_agree(arguments, digits):
    (x, y), _ = digits
    models = []
    for own in ({"jit_compile": False}, arguments):
        model = net()
        optimizer = ProxSGD(coupled(model), 0.02, 0.3, 0.1, "group")
        compiled(model, optimizer, **own)
        model.fit(x[:320], y[:320], 32, 1, shuffle=False, verbose=0)
        models.append(model)
    for a, b in zip(*map(weights_of, models), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)


def test_mixed_precision_and_loss_scaling(digits):
    (x, y), _ = digits
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = net()
        optimizer = ProxSGD(coupled(model), 0.025, 0.5, 0.1)
        compiled(model, keras.optimizers.LossScaleOptimizer(optimizer))
        history = model.fit(x, y, 50, 6, verbose=0).history["loss"]
    finally:
        keras.config.set_dtype_policy("float32")
    assert history[-1] < history[0]
    assert 0 < optimizer.finalize().sum() < 14
    assert all(v.dtype == "float32" for v in model.trainable_variables)


def test_saved_and_loaded_in_the_middle_changes_nothing(digits, tmp_path):
    (x, y), _ = digits

    def fresh():
        model = net()
        schedule = keras.optimizers.schedules.CosineDecay(0.5, 40)
        partition = coupled(model, carriers=False)
        return compiled(
            model,
            ProxSGD(
                partition, 0.03, schedule, ProxDecay(0.9), "element",
                scaling="inverse_sqrt", bounds={"norm/gamma": (0.0, 1.0)},
            ),
        )  # fmt: skip

    def fit(model):
        model.fit(x[:500], y[:500], 50, 1, shuffle=False, verbose=0)

    whole, first = fresh(), fresh()
    fit(whole)
    fit(first)
    first.save(tmp_path / "half.keras")
    again = keras.saving.load_model(tmp_path / "half.keras")
    assert again.optimizer.get_config() == first.optimizer.get_config()
    fit(whole)
    fit(again)
    for a, b in zip(weights_of(whole), weights_of(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    gamma = keras.ops.convert_to_numpy(again.get_layer("norm").gamma)
    assert gamma.min() >= 0 and gamma.max() <= 1


def test_mu_is_a_variable(digits):
    (x, y), _ = digits
    model = net()
    optimizer = ProxSGD(coupled(model), 1e3, 1.0, 1.0)
    compiled(model, optimizer).fit(x[:100], y[:100], 50, 1, verbose=0)
    assert not optimizer.norms().any()
    optimizer.mu.assign(0.0)
    model.fit(x[:100], y[:100], 50, 2, verbose=0)
    assert ProxSGD.from_config(optimizer.get_config()).get_config()["mu"] == 0.0


def test_a_step_with_nan_is_refused(digits, caplog):
    (x, y), _ = digits
    model = net()
    optimizer = ProxSGD(coupled(model), 0.01, 0.5, 0.1, "group")
    compiled(model, optimizer).fit(x[:100], y[:100], 50, 1, verbose=0)
    held = [np.asarray(v) for v in model.trainable_variables]
    slots = [np.asarray(v) for v in optimizer.averages + optimizer.squares]
    model.fit(np.full_like(x[:50], np.nan), y[:50], 50, 1, verbose=0)
    assert int(optimizer.refused) == 1
    for before, now in zip(held, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(before, now)
    for before, now in zip(slots, optimizer.averages + optimizer.squares, strict=True):
        np.testing.assert_array_equal(before, now)
    optimizer.finalize()
    optimizer.finalize()
    assert [r.getMessage().split(":")[0] for r in caplog.records] == [
        "1 steps were refused and changed no weight"
    ]


@pytest.mark.parametrize("tau", ["constant", "group"])
def test_what_has_no_gradient_stays_as_it_is(tau):
    weights = variables([(3, 2), (2,)], np.random.default_rng(0))
    partition = records.Partition({weights[0].path: np.array([[0, 1]])})
    optimizer = ProxSGD(partition, 0.1, 0.5, 0.1, tau)
    for kept in (0, 1):
        slopes = [keras.ops.ones(v.shape) for v in weights]
        optimizer.apply(slopes, weights)
        held = [np.asarray(k[kept]) for k in optimizer._held() if k]
        moved = np.asarray(weights[1 - kept])
        for _ in range(3):
            optimizer.apply(slopes[1 - kept : 2 - kept], weights[1 - kept : 2 - kept])
        for before, now in zip(
            held, [k[kept] for k in optimizer._held() if k], strict=True
        ):
            np.testing.assert_array_equal(before, now)
        assert np.abs(moved - np.asarray(weights[1 - kept])).min() > 0


def test_embeddings_and_float8(digits):
    (x, y), _ = digits
    words = keras.Sequential(
        [keras.Input((64,), dtype="int32"), layers.Embedding(17, 3), layers.Flatten(),
         layers.Dense(10)]
    )  # fmt: skip
    optimizer = ProxSGD(partitions.by_shape(words, "weight"), 0.001, 0.5, 0.1)
    compiled(words, optimizer)
    loss = words.fit(16 * x.reshape(-1, 64), y, 50, 3, verbose=0).history["loss"]
    assert loss[-1] < 0.7 * loss[0]
    eighth = net()
    compiled(eighth, ProxSGD(coupled(eighth), 0.001, 0.1, 0.1))
    eighth.layers[-1].quantize("float8")
    loss = eighth.fit(x, y, 50, 3, verbose=0).history["loss"]
    assert loss[-1] < loss[0]
    assert eighth.optimizer.finalize().shape == (14,)


def test_a_hundred_thousand_groups():
    model = keras.Sequential([keras.Input((500,)), layers.Dense(200, name="d")])
    partition = partitions.by_shape(model, "weight")
    assert partition.groups == 10**5
    optimizer = ProxSGD(partition, 1e-3, 1.0, 1.0)
    compiled(model, optimizer)
    kernel = np.asarray(model.get_layer("d").kernel)
    x = np.zeros((8, 500), "float32")
    model.fit(x, np.zeros(8), 8, 1, verbose=0)
    soft = np.sign(kernel) * np.maximum(np.abs(kernel) - 1e-3, 0)
    np.testing.assert_allclose(model.get_layer("d").kernel, soft, atol=1e-7)


def test_the_schedule_decays():
    decay = ProxDecay(0.06, 4.0, 0.5)
    assert float(decay(0)) == pytest.approx(0.03)
    assert float(decay(96)) == pytest.approx(0.006)
    assert ProxDecay.from_config(decay.get_config()).get_config() == decay.get_config()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"mu": -1.0}, "`mu` must be a number >= 0. Received: mu=-1.0"),
        ({"mu": float("nan")}, "`mu` must be a number >= 0"),
        ({"learning_rate": 1.5}, r"`learning_rate` must be in \(0, 1\] or a schedule"),
        ({"learning_rate": 0.0}, r"`learning_rate` must be in \(0, 1\]"),
        ({"rho": 0}, r"`rho` must be in \(0, 1\] or a schedule. Received: rho=0"),
        ({"tau": "large"}, "`tau` must be among"),
        ({"beta": 1.0}, r"`beta` must be in \[0, 1\)"),
        ({"scaling": "square"}, "`scaling` must be among"),
        ({"bounds": {"*": (1.0, 0.0)}}, r"`bounds` must map patterns to \(low, high\)"),
    ],
)
def test_wrong_arguments_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        ProxSGD(records.Partition({}), **arguments)


@pytest.mark.parametrize(
    ("partition", "sentence"),
    [
        (
            records.Partition({"gone": np.zeros((1,), int)}),
            "`partition` must name trainable variables. Received: 'gone'",
        ),
        (
            records.Partition({"w": np.zeros((3,), int)}),
            r"labels that broadcast against their variables. Received: \(3,\) for w",
        ),
        (
            records.Partition({"w": np.zeros((1, 1), int)}, multipliers=np.ones(2)),
            "`multipliers` must be 1 numbers >= 0",
        ),
    ],
)
def test_partitions_that_do_not_fit_are_refused(partition, sentence):
    weights = keras.Variable(np.zeros((4, 2)), name="w")
    with pytest.raises(ValueError, match=sentence):
        ProxSGD(partition).apply([keras.ops.zeros((4, 2))], [weights])


@pytest.mark.slow
def test_two_replicas_equal_one():
    """On two logical CPUs, in a process of their own."""
    found = [_in_process(_REPLICAS, str(n), "tensorflow") for n in (1, 2)]
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


_REPLICAS = """
import json, sys
import tensorflow as tf
replicas = int(sys.argv[1])
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
import keras, numpy as np
import tfsparse
from tfsparse.methods import partitions
from tfsparse.optimizers import ProxSGD
strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
with strategy.scope():
    keras.utils.set_random_seed(0)
    x = keras.Input((12,))
    h = keras.layers.Dense(9, activation="relu", name="a")(x)
    h = keras.layers.Dense(7, activation="relu", name="b")(h)
    model = keras.Model(x, keras.layers.Dense(3)(h))
    groups = partitions.units(model, tfsparse.find_groups(model))
    model.compile(ProxSGD(groups, 0.02, 0.3, 0.1, "group"), "mse", jit_compile=False)
rng = np.random.default_rng(0)
x, y = rng.normal(size=(240, 12)), rng.normal(size=(240, 3))
model.fit(x, y, 24, 3, shuffle=False, verbose=0)
model.optimizer.finalize(1e-3)
print(json.dumps([np.asarray(v).tolist() for v in model.trainable_variables]))
"""


def _in_process(code, argument, backend):
    done = subprocess.run(
        [sys.executable, "-c", code, argument], capture_output=True, text=True,
        env={**os.environ, "KERAS_BACKEND": backend}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="it runs this file")
@pytest.mark.parametrize(
    "chosen",
    ["nan or variable or hundred", pytest.param("", marks=pytest.mark.slow)],
)
def test_this_file_passes_on_jax(chosen):
    pytest.importorskip("jax")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", __file__, "-k", chosen,
         "-p", "no:cacheprovider"],
        capture_output=True, text=True, timeout=900,
        env={**os.environ, "KERAS_BACKEND": "jax"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
