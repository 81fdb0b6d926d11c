"""Random factors on units: the layer against sampling, the method to the stripped model."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import tfsparse
from tfsparse import numerics, optimizers, records
from tfsparse.deploy.lower import lower
from tfsparse.engine import finishing, shrinking
from tfsparse.layers import VariationalScale
from tfsparse.methods import BayesianCompression, SparseVD, bayesian
from tfsparse.records import SCALE_PRIORS


def array(x):
    return ops.convert_to_numpy(x)


def factor(prior, units=4, **arguments):
    """A factor whose variables are drawn, and a call on ones."""
    layer = VariationalScale(units, prior=prior, tail=0.1, **arguments)
    layer(np.ones((1, units), "float32"))
    rng = np.random.default_rng(5)
    for variable in layer.trainable_variables:
        low, high = (-3, -1) if "variance" in variable.name else (-0.5, 1.0)
        variable.assign(rng.uniform(low, high, variable.shape))
    return layer


@pytest.mark.parametrize("prior", SCALE_PRIORS)
def test_training_draws_factors_of_these_moments(prior):
    layer = factor(prior)
    drawn = array(layer(np.ones((200_000, 4), "float32"), training=True))
    mean, variance = map(array, layer.moments())
    assert (np.abs(drawn.mean(0) - mean) < 6 * np.sqrt(variance / 2e5)).all()
    np.testing.assert_allclose(drawn.var(0), variance, rtol=0.06)
    # Inference is the mean, and nothing for noise.
    layer.threshold.assign(np.sort(array(layer.score()))[2])
    active = array(layer.score()) < float(layer.threshold)
    assert active.sum() == 2
    found = array(layer(np.ones((1, 4), "float32")))[0]
    np.testing.assert_allclose(found, mean * active, rtol=1e-6)


@pytest.mark.parametrize("prior", SCALE_PRIORS)
def test_the_divergence_pulls_from_the_start(prior):
    """Factors start at log alpha -9, beyond where single weights are clipped."""
    layer = VariationalScale(4, prior=prior, strength=1.0)
    layer(np.ones((1, 4), "float32"))
    with tf.GradientTape() as tape:
        divergence = layer.divergence()
    slope = array(tape.gradient(divergence, layer.log_variance.value))
    np.testing.assert_allclose(slope, -0.5, atol=0.01)


def test_the_horseshoe_shares_a_factor_and_jeffreys_does_not():
    ones = np.ones((40_000, 2), "float32")
    for prior, expected in (("normal_jeffreys", 0.0), ("horseshoe", 0.7)):
        layer = factor(prior, 2)
        for variable in layer.trainable_variables:
            if "variance" in variable.name:
                shared = variable.name.startswith("shared")
                variable.assign(np.full(variable.shape, -1.0 if shared else -2.0))
        z = array(layer(ones, training=True))
        z = np.log(np.maximum(z, 1e-6)) if prior == "horseshoe" else z
        share = np.exp(-1) / (np.exp(-1) + np.exp(-2))
        wanted = share if expected else 0.0
        assert np.corrcoef(z.T)[0, 1] == pytest.approx(wanted, abs=0.03)


@pytest.mark.parametrize("prior", SCALE_PRIORS)
def test_scores_and_divergences_by_their_formulas(prior):
    layer = factor(prior, strength=0.5)
    value = {v.name: np.asarray(v, "float64") for v in layer.trainable_variables}
    if prior == "normal_jeffreys":
        score = value["log_variance"] - np.log(value["mean"] ** 2 + 1e-8)
        whole = array(numerics.log_uniform_kl(ops.array(score))).sum()
    else:
        means = value["inner_mean"] + value["mean"] + value["shared_mean"].sum()
        variances = (
            sum(np.exp(value[n]) for n in ("inner_log_variance", "log_variance"))
            + np.exp(value["shared_log_variance"]).sum()
        )
        score = 3 * variances / 4 - means / 2
        pairs = [
            (
                numerics.half_cauchy_kl,
                "inner_mean",
                "inner_log_variance",
                slice(None),
                1.0,
            ),
            (numerics.inverse_gamma_kl, "mean", "log_variance", slice(None), None),
            (numerics.half_cauchy_kl, "shared_mean", "shared_log_variance", 0, 0.1),
            (numerics.inverse_gamma_kl, "shared_mean", "shared_log_variance", 1, None),
        ]
        whole = sum(
            array(kl(value[m][part], value[v][part], *([s] if s else []))).sum()
            for kl, m, v, part, s in pairs
        )
    np.testing.assert_allclose(array(layer.score()), score, rtol=1e-5)
    assert float(layer.divergence()) == pytest.approx(whole, rel=1e-5)
    assert float(sum(layer.losses)) == pytest.approx(0.5 * whole, rel=1e-5)


@pytest.mark.parametrize(
    "function",
    [
        numerics.log_uniform_divergence,
        numerics.log_uniform_variance,
        numerics.gaussian_divergence,
    ],
)
def test_closed_gradients_take_variables_run_eagerly(function):
    mean = keras.Variable(np.array([0.5, -1.5], "float32"))
    spread = keras.Variable(np.array([-2.0, -1.0], "float32"))
    with tf.GradientTape() as tape:
        value = ops.sum(function(mean, spread))
    found = tape.gradient(value, [mean.value, spread.value])
    held = [tf.constant(array(mean)), tf.constant(array(spread))]
    with tf.GradientTape() as tape:
        tape.watch(held)
        value = ops.sum(function(*held))
    for received, expected in zip(found, tape.gradient(value, held), strict=True):
        np.testing.assert_allclose(array(received), array(expected), rtol=1e-6)


def test_the_closed_gradient_of_the_divergence():
    rng = np.random.default_rng(0)
    mean = tf.constant(
        rng.normal(size=300) * 10.0 ** rng.uniform(-4, 1, 300), "float32"
    )
    spread = tf.constant(rng.uniform(-12, 6, 300), "float32")
    slopes = []
    for function in (
        numerics.log_uniform_divergence,
        lambda m, v: ops.sum(numerics.log_uniform_kl(numerics.log_alpha(m, v))),
    ):
        with tf.GradientTape() as tape:
            tape.watch([mean, spread])
            value = 3.0 * function(mean, spread)
        slopes.append([float(value), *map(array, tape.gradient(value, [mean, spread]))])
    for received, expected in zip(*slopes, strict=True):
        np.testing.assert_allclose(received, expected, rtol=1e-3, atol=1e-5)
    pairs = [
        (
            numerics.log_uniform_variance,
            lambda m, v: ops.exp(numerics.log_alpha(m, v)) * m**2,
        ),
        (
            numerics.gaussian_divergence,
            lambda m, v: ops.sum(numerics.gaussian_kl(m, v)),
        ),
    ]
    weights = tf.constant(rng.uniform(0.5, 1.5, 300), "float32")
    for closed, plain in pairs:
        found = []
        for function in (closed, plain):
            with tf.GradientTape() as tape:
                tape.watch([mean, spread])
                value = ops.sum(weights * function(mean, spread))
            found.append(
                [array(value), *map(array, tape.gradient(value, [mean, spread]))]
            )
        for received, expected in zip(*found, strict=True):
            scale = np.abs(expected).max()
            np.testing.assert_allclose(received, expected, rtol=1e-3, atol=1e-5 * scale)


def net():
    image = keras.Input((6, 6, 2))
    x = layers.Conv2D(5, 3, activation="relu", name="conv")(image)
    x = layers.Flatten(name="flat")(layers.MaxPooling2D(2, name="pool")(x))
    x = layers.Dense(6, activation="relu", name="fc")(x)
    return keras.Model(image, layers.Dense(3, name="out")(x))


def prepared(scales, **arguments):
    model = net()
    method = BayesianCompression(scales=scales, **arguments)
    groups = tfsparse.find_groups(model, method.kinds)
    return method, method.prepare(model, groups)


@pytest.mark.parametrize(
    ("method", "bound"),
    [
        (SparseVD(), 1e-3),
        (BayesianCompression(), 0.05),
        (BayesianCompression(scales="layers", prior="horseshoe"), 0.05),
    ],
)
def test_a_trained_model_starts_as_what_it_was(method, bound):
    """Factors start near 1, weights where they were."""
    model = net()
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:  # as training would have moved them
        variable.assign_add(rng.normal(0, 0.3, variable.shape))
    x = rng.normal(size=(20, 6, 6, 2)).astype("float32")
    expected = array(model(x))
    found = array(method.prepare(model, tfsparse.find_groups(model, method.kinds))(x))
    assert np.abs(found - expected).max() < bound * np.abs(expected).max()


def set_noise(model, name, dead):
    """Makes the factors of some units noise, those of all others signal."""
    scale = model.get_layer(name)
    mask = np.zeros(scale.units, bool)
    mask[dead] = True
    scale.log_variance.assign(np.where(mask, 6.0, -6.0))
    return scale


@pytest.mark.parametrize(
    ("scales", "names"),
    [
        ("groups", ["conv_noise", "fc_features_noise", "fc_noise"]),
        ("layers", ["conv_noise", "fc_inputs_noise", "out_inputs_noise"]),
    ],
)
def test_where_factors_stand(scales, names):
    method, model = prepared(scales)
    assert sorted(s.name for s in bayesian.scales(model)) == names
    assert [s.units for s in bayesian.scales(model)] == [5, 20, 6]
    assert method.groups(model) == 31
    assert {type(x).__name__ for x in bayesian.twins(model)} == {
        "VariationalConv2D", "VariationalDense",
    }  # fmt: skip


@pytest.mark.parametrize("scales", ["groups", "layers"])
def test_coupled_survival(scales):
    """A weight stays if what it reads and what it writes both stay."""
    method, model = prepared(scales)
    inputs = "fc_features_noise" if scales == "groups" else "fc_inputs_noise"
    outputs = "fc_noise" if scales == "groups" else "out_inputs_noise"
    set_noise(model, "conv_noise", [1])
    # Channel 3 sits at 3, 8, 13, 18: all its features are noise, so it is, too.
    set_noise(model, inputs, [3, 8, 13, 18, 0])
    set_noise(model, outputs, [2, 5])
    keep = method.keep(model, tfsparse.find_groups(model, method.kinds))
    np.testing.assert_array_equal(keep["conv"], [True, False, True, False, True])
    np.testing.assert_array_equal(np.flatnonzero(~keep["fc"]), [2, 5])
    np.testing.assert_array_equal(
        np.flatnonzero(~keep["fc:features"]), [0, 3, 8, 13, 18]
    )
    x = np.random.default_rng(0).normal(size=(7, 6, 6, 2)).astype("float32")
    model.compile("adam", "mse")
    small, _ = finishing.finish(model, method)
    np.testing.assert_allclose(array(small(x)), array(model(x)), rtol=1e-4, atol=1e-5)
    assert small.get_layer("conv").filters == 3  # 1 died, and 3 by its features
    assert small.get_layer("fc").kernel.shape == (11, 4)
    assert all(type(x).__module__.startswith("keras.") for x in small.layers)


@pytest.mark.parametrize("scales", ["groups", "layers"])
@pytest.mark.parametrize("prior", SCALE_PRIORS)
def test_removal_from_the_running_model_changes_nothing(scales, prior):
    method, model = prepared(scales, prior=prior)
    # Tracing costs seconds; one of the cases shows that it goes well.
    eager = (scales, prior) != ("groups", "normal_jeffreys")
    model.compile("adam", "mse", run_eagerly=eager)
    x = np.random.default_rng(0).normal(size=(32, 6, 6, 2)).astype("float32")
    model.fit(x, np.zeros((32, 3)), verbose=0)
    for scale in bayesian.scales(model):
        if prior == "normal_jeffreys":
            set_noise(model, scale.name, [0, 2])
        else:
            mean = array(scale.mean).copy()
            mean[[0, 2]] -= 40
            scale.mean.assign(mean)
    before = array(model(x))
    keep = method.keep(model, tfsparse.find_groups(model, method.kinds))
    small, *_ = shrinking.collect(model, keep)
    np.testing.assert_allclose(array(small(x)), before, rtol=1e-4, atol=1e-5)
    conv = small.get_layer("conv")
    assert conv.log_variance.shape == conv.kernel.shape == (3, 3, 2, 3)
    assert conv.bias_log_variance.shape == (3,)
    stays = np.flatnonzero(keep["conv"])
    np.testing.assert_array_equal(
        array(conv.log_variance),
        array(model.get_layer("conv").log_variance)[..., stays],
    )
    small.fit(x, np.zeros((32, 3)), verbose=0)  # it goes on
    assert int(small.optimizer.iterations) == 2


@pytest.mark.parametrize(
    "method", [BayesianCompression(), tfsparse.ShrinkNets(features=True)]
)
def test_a_channel_goes_with_its_features(method):
    plain = net()
    model = method.prepare(plain, tfsparse.find_groups(plain, method.kinds))
    model.compile("adam", "mse", run_eagerly=True)
    x = np.random.default_rng(0).normal(size=(32, 6, 6, 2)).astype("float32")
    model.fit(x, np.zeros((32, 3)), verbose=0)
    features = np.arange(20) % 5 != 3
    if isinstance(method, BayesianCompression):
        set_noise(model, "fc_features_noise", ~features)
    else:
        (switch,) = (x for x in model.layers if x.name.startswith("fc_features"))
        switch.trainable_variables[0].assign(np.where(features, 0.7, -1.0))
    before = array(model(x))
    keep = method.keep(model, tfsparse.find_groups(model, method.kinds))
    assert keep["conv"].tolist() == [True, True, True, False, True]
    np.testing.assert_array_equal(keep["fc:features"], features)
    small, *_ = shrinking.collect(model, keep)
    assert small.get_layer("conv").filters == 4
    np.testing.assert_allclose(array(small(x)), before, rtol=1e-4, atol=1e-5)
    small.fit(x, np.zeros((32, 3)), verbose=0)
    # Left behind, a channel that nothing reads is a group of its own.
    parted, *_ = shrinking.collect(model, {"fc:features": features})
    groups = tfsparse.find_groups(parted, method.kinds)
    keep = method.keep(parted, groups)
    assert keep["conv"].shape == (4,) and keep["conv:part1"].shape == (1,)
    if isinstance(method, BayesianCompression):
        assert set(method.trace(parted, groups)["bits"]) == {"conv", "fc", "out"}


def test_a_saved_model_is_the_same(tmp_path):
    _, model = prepared("groups", prior="horseshoe")
    set_noise(model, "fc_noise", [1])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    x = np.random.default_rng(0).normal(size=(3, 6, 6, 2)).astype("float32")
    np.testing.assert_array_equal(array(again(x)), array(model(x)))


def test_lowered_layers_are_stock_and_compute_the_same():
    _, model = prepared("layers")
    set_noise(model, "fc_inputs_noise", [4])
    stock = lower(model)
    x = np.random.default_rng(0).normal(size=(3, 6, 6, 2)).astype("float32")
    np.testing.assert_allclose(array(stock(x)), array(model(x)), rtol=1e-4, atol=1e-6)
    assert not [s for s in stock.layers if "noise" in s.name]


def test_the_widest_gap_decides_and_a_threshold_overrules():
    scores = np.array([-9.0, -8.5, -5.0, 0.5, 1.0, 7.0])
    assert numerics.widest_gap(scores, -4, 3) == pytest.approx(-1.75)
    assert numerics.widest_gap(np.array([-9.0, -8.0]), -4, 3) == pytest.approx(-0.5)
    method, model = prepared("groups", layer_thresholds="fc*=-7,fc=1")
    scale = model.get_layer("conv_noise")
    scale.log_variance.assign([-8.0, -7.0, -6.0, 1.0, 2.0])
    scale.mean.assign(np.ones(5))
    method.decide(model)
    assert float(scale.threshold) == pytest.approx(-1.5, abs=1e-5)
    assert float(model.get_layer("fc_features_noise").threshold) == -7
    assert float(model.get_layer("fc_noise").threshold) == 1
    trace = method.trace(model, tfsparse.find_groups(model, method.kinds))
    assert sum(trace["scores"]["conv_noise"]["counts"]) == 5
    assert trace["thresholds"]["fc_noise"] == 1


@pytest.mark.parametrize("scales", ["groups", "layers"])
def test_bits_follow_the_marginal_posterior(scales):
    """The moments of w z_in z_out, sampled, give the same bits."""
    method, model = prepared(scales)
    groups = tfsparse.find_groups(model, method.kinds)
    rng = np.random.default_rng(1)
    for variable in model.trainable_variables:
        if variable.name.endswith("log_variance"):
            variable.assign(rng.uniform(-8, -4, variable.shape))
        elif variable.name == "mean":
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    fc = model.get_layer("fc")
    draws = 4000
    weights = array(fc.kernel) + np.sqrt(array(fc.variance())) * rng.normal(
        size=(draws, *fc.kernel.shape)
    )
    sides = {
        "groups": ("fc_features_noise", "fc_noise"),
        "layers": ("fc_inputs_noise",),
    }
    for name, shape in zip(sides[scales], ((1, -1, 1), (1, 1, -1)), strict=False):
        mean, variance = map(array, model.get_layer(name).moments())
        z = mean + np.sqrt(variance) * rng.normal(size=(draws, len(mean)))
        weights = weights * (z[:, :, None] if shape[1] < 0 else z[:, None, :])
    expected = numerics.significant_bits(weights.mean(0), weights.var(0))
    found = method.trace(model, groups)["bits"]
    assert set(found) == {"conv", "fc", "out"}
    assert abs(found["fc"] - expected) <= 1


def test_multipliers_weigh_layers_and_factors():
    method, model = prepared("groups", multipliers="fc*=0.5,fc_features=3,out=2")
    method.begin_epoch(model, 10**6, samples=100)
    found = {
        x.name: 100 * float(x.strength) for x in model.layers if hasattr(x, "strength")
    }
    assert found == pytest.approx(
        {
            "conv": 1, "conv_noise": 1, "fc": 0.5, "fc_noise": 0.5,
            "fc_features_noise": 3, "out": 2,
        }
    )  # fmt: skip
    again = BayesianCompression(**method.get_config())
    assert again.get_config() == method.get_config()


def test_a_threshold_that_is_given_holds_from_the_start():
    _, model = prepared("groups", layer_thresholds="fc=6")
    assert float(model.get_layer("fc_noise").threshold) == 6
    assert float(model.get_layer("conv_noise").threshold) == 3


def test_groups_of_two_units_lose_one():
    """As many units as a state of random numbers has words."""
    image = keras.Input((4, 4, 1))
    x = layers.Conv2D(2, 3, activation="relu", name="conv")(image)
    model = keras.Model(image, layers.Dense(2, name="out")(layers.Flatten()(x)))
    method = BayesianCompression()
    sparse = method.prepare(model, tfsparse.find_groups(model, method.kinds))
    sparse.compile("adam", "mse")
    set_noise(sparse, "conv_noise", [1])
    keep = method.keep(sparse, tfsparse.find_groups(sparse, method.kinds))
    small, *_ = shrinking.collect(sparse, keep)
    assert small.get_layer("conv").filters == 1


def test_a_unit_that_something_without_a_factor_reads_stays():
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    y = layers.Conv2D(3, 3, activation="relu", name="other")(x)
    both = [layers.GlobalAveragePooling2D()(t) for t in (x, y)]
    one = layers.Dense(2, name="one")(both[0])
    model = keras.Model(
        image, layers.Add()([one, layers.Dense(2, name="two")(both[1])])
    )
    method = BayesianCompression(scales="layers")
    sparse = method.prepare(model, tfsparse.find_groups(model, method.kinds))
    sparse.compile("adam", "mse")
    set_noise(sparse, "one_inputs_noise", [1])
    keep = method.keep(sparse, tfsparse.find_groups(sparse, method.kinds))
    assert keep["conv"].all()
    set_noise(sparse, "conv_noise", [2])
    data = np.random.default_rng(0).normal(size=(5, 8, 8, 1)).astype("float32")
    small, _ = finishing.finish(sparse, method)
    np.testing.assert_allclose(array(small(data)), array(sparse(data)), atol=1e-5)
    assert small.get_layer("conv").filters == 3


def test_channels_that_the_output_shows_get_no_factor():
    image = keras.Input((6, 6, 1))
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    x = layers.Conv2D(3, 1, name="classes")(x)
    model = keras.Model(image, layers.GlobalAveragePooling2D()(x))
    method = BayesianCompression(scales="layers")
    sparse = method.prepare(model, tfsparse.find_groups(model, method.kinds))
    assert [s.name for s in bayesian.scales(sparse)] == ["conv_noise"]


def test_no_factor_draws_what_a_layer_draws():
    from tfsparse.layers import noise

    _, model = prepared("groups")
    drawn = [
        array(noise.normal((500,), layer.noise))
        for layer in [*bayesian.twins(model), *bayesian.scales(model)]
    ]
    assert np.abs(np.corrcoef(drawn) - np.eye(len(drawn))).max() < 0.3


@pytest.mark.parametrize(
    ("argument", "text", "pattern"),
    [
        ("layer_thresholds", "conv9=1", "conv9"),
        ("deviations", "conv9=1", "conv9"),
        ("deviations", "pool=1", "pool"),  # has no twin
        ("ignore", "fc, conv9", "conv9"),
        ("ignore", "pool", "pool"),
        ("multipliers", "conv9=2", "conv9"),
    ],
)
def test_patterns_that_fit_nothing(argument, text, pattern):
    with pytest.raises(
        ValueError, match=f"`{argument}` must name some of.*'{pattern}'"
    ):
        prepared("groups", **{argument: text})


def test_nothing_is_left_where_all_is_ignored():
    with pytest.raises(ValueError, match="`ignore` must leave a layer.*ignore='\\*'"):
        prepared("groups", ignore="*")


@pytest.mark.parametrize("method", [SparseVD(), BayesianCompression()])
def test_weight_decay_leaves_a_posterior_alone(method):
    """It decays means of weights; drawn to 0, a log variance would be noise."""
    model, ends = net(), []
    for variable in model.trainable_variables:
        variable.assign(0.1 * ops.ones_like(variable))
    for decay in (None, 0.5):
        sparse = method.prepare(model, tfsparse.find_groups(model, method.kinds))
        optimizer = keras.optimizers.SGD(0.1, weight_decay=decay)
        optimizers.spare_decay(optimizer, sparse.trainable_variables)
        sparse.compile(optimizer, "mse")
        x, y = np.ones((4, 6, 6, 2)), np.zeros((4, *sparse.output_shape[1:]))
        sparse.train_on_batch(x, y)
        ends.append({v.path: array(v) for v in sparse.trainable_variables})
    for path, plain in ends[0].items():
        alike = np.allclose(plain, ends[1][path], rtol=0, atol=1e-6)
        assert alike == ("kernel" not in path and not path.endswith("/bias")), path


def test_layers_that_are_ignored_stay_plain():
    _, model = prepared("groups", ignore="fc, out")
    assert [layer.name for layer in bayesian.twins(model)] == ["conv"]


def test_channels_must_come_last():
    image = keras.Input((2, 6, 6))
    first = {"data_format": "channels_first"}
    x = layers.Conv2D(5, 3, name="conv", **first)(image)
    x = layers.GlobalAveragePooling2D(**first)(x)
    model = keras.Model(image, layers.Dense(3)(x))
    for method in (BayesianCompression(), tfsparse.ShrinkNets()):
        with pytest.raises(ValueError, match="channels last.*channels_first.*'conv'"):
            method.prepare(model, tfsparse.find_groups(model, method.kinds))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("prior", SCALE_PRIORS)
def test_factors_in_half_precision_are_as_exact_as_they_are_stored(prior, policy):
    drawn = {}
    for own in ("float32", policy):
        layer = VariationalScale(64, prior=prior, dtype=own, seed=3)
        ones = np.ones((256, 64), "float32")
        drawn[own] = array(layer(ones, training=True)).astype("float32")
        assert np.isfinite(drawn[own]).all()
    np.testing.assert_allclose(drawn[policy], drawn["float32"], atol=8e-3)


@pytest.mark.parametrize("share", [0.6, 0.3])
def test_a_target_sets_the_thresholds(share):
    method, model = prepared("groups")
    bounds = {"params": share * tfsparse.measure(net()).params}
    rng = np.random.default_rng(1)
    for scale in bayesian.scales(model):
        scale.log_variance.assign(rng.normal(-4, 2, scale.units))
    model.compile("adam", "mse")
    small, _ = finishing.finish(model, method, bounds=bounds)
    left = tfsparse.measure(small).params
    assert 0.75 * bounds["params"] < left <= bounds["params"]  # units are large here
    (threshold,) = {float(array(s.threshold)) for s in bayesian.scales(model)}
    scores = np.concatenate([array(s.score()) for s in bayesian.scales(model)])
    assert 0 < (scores < threshold).sum() < len(scores)


def test_a_network_whose_factors_are_all_noise_is_not_finished():
    method, model = prepared("groups", layer_thresholds="*=-20")
    model.compile("adam", "mse")
    with pytest.raises(records.TrainingError, match="once stripped.*Lower --strength"):
        finishing.finish(model, method)


def test_variances_have_a_bound():
    _, model = prepared("groups", deviations="conv=0.2")
    assert model.get_layer("conv").largest_deviation == 0.2
    assert model.get_layer("fc").largest_deviation is None
    layer = model.get_layer("conv")
    wide = ops.full(layer.log_variance.shape, 5.0)
    assert float(ops.max(layer.log_variance.constraint(wide))) == pytest.approx(
        2 * np.log(0.2)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scales": "rows"}, "`scales` must be one of"),
        ({"prior": "flat"}, "`prior` must be one of.*flat"),
        ({"strength": -1}, "`strength` must be 0 or more"),
        ({"strength": math.inf}, "`strength` must be 0 or more.*inf"),
        ({"tail": 0}, r"`tail` must be in \[1e-15, 0.1\]"),
        ({"tail": 1e-20}, r"`tail` must be in \[1e-15, 0.1\].*1e-20"),
        ({"tail": 0.5}, r"`tail` must be in \[1e-15, 0.1\].*0.5"),
        ({"deviations": "fc=-1"}, "`deviations`, in 'fc=-1': must be positive"),
        ({"layer_thresholds": "fc=1,fc=2"}, "must name fc once.*fc=1,fc=2"),
        ({"layer_thresholds": "fc"}, "`layer_thresholds` must be a list"),
        (
            {"layer_thresholds": "fc=inf"},
            "`layer_thresholds`, in 'fc=inf': must be finite",
        ),
        (
            {"layer_thresholds": "fc=9"},
            r"`layer_thresholds`.*fc=9.*`threshold` must be in \[-20, 8\]",
        ),
        ({"layer_thresholds": "fc=99", "prior": "horseshoe"}, r"\[-10, 23\]"),
        ({"warm_up_epochs": -1}, "`warm_up_epochs` must be 0 or more"),
        (
            {"multipliers": "fc=-1"},
            "`multipliers`, in 'fc=-1': must be positive. Received: -1",
        ),
    ],
)
def test_refused_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        BayesianCompression(**arguments)


def test_epochs_must_fit():
    with pytest.raises(
        ValueError, match="leave epochs with the divergence.*Received: "
    ):
        BayesianCompression(pretrain_epochs=5, warm_up_epochs=0).check_epochs(5)
    with pytest.raises(ValueError, match="must fit into the epochs.*10"):
        BayesianCompression(pretrain_epochs=5, warm_up_epochs=6).check_epochs(10)


@pytest.mark.parametrize(
    "prior", ["normal_jeffreys", pytest.param("horseshoe", marks=pytest.mark.slow)]
)
def test_it_learns_which_inputs_are_noise(prior):
    """Of 20 inputs the first 4 decide the class: they stay, most others go."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 20)).astype("float32")
    y = (x[:, :4] @ rng.normal(size=(4, 3))).argmax(1)
    inputs = keras.Input((20,))
    h = layers.Dense(12, activation="relu", name="fc")(inputs)
    model = keras.Model(inputs, layers.Dense(3, name="out")(h))
    model.compile(
        keras.optimizers.Adam(0.02),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=40,
    )
    method = BayesianCompression(
        prior=prior, tail=1e-2, pretrain_epochs=2, warm_up_epochs=3
    )
    result = tfsparse.fit_shrinking(
        model, method, x, y, epochs=25, batch_size=100, remove=False
    )
    answer = array(result.model(x[:50]))
    moved = [array(result.model(x[:50] + step)) for step in np.eye(20, dtype="float32")]
    chosen = [i for i, own in enumerate(moved) if not np.array_equal(own, answer)]
    assert set(chosen) >= {0, 1, 2, 3} and len(chosen) <= 7
    found = array(result.model.predict(x, verbose=0)).argmax(1)
    assert (found == y).mean() > 0.9
    assert result.model.get_layer("fc").units < 12
