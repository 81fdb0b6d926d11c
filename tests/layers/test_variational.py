"""Divergences against Monte Carlo and quadrature, layers against sampled weights."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
from keras import ops
from scipy import integrate, stats

import tfsparse
from tfsparse import numerics
from tfsparse.cli import strip
from tfsparse.deploy import removal
from tfsparse.deploy.lower import lower
from tfsparse.engine import training
from tfsparse.graph import measure
from tfsparse.layers import (
    VariationalConv1D,
    VariationalConv2D,
    VariationalDense,
    VariationalDepthwiseConv2D,
    VariationalScale,
    noise,
)
from tfsparse.methods import SparseVD


def value(tensor) -> float:
    return float(ops.convert_to_numpy(tensor))


# Rules ---------------------------------------------------------------------------


def log_uniform_by_quadrature(log_alpha: float) -> float:
    """-E log N(w; 1, alpha) - E log 1/|w|, shifted to be 0 where alpha is infinite."""
    deviation = math.exp(0.5 * log_alpha)

    def integrand(noise):  # E log |1 + deviation noise|
        return stats.norm.pdf(noise) * math.log(abs(1 + deviation * noise) + 1e-300)

    pole = -1 / deviation
    parts = sorted({-12.0, 12.0, *([pole] if abs(pole) < 12 else [])})
    mean_log = sum(
        integrate.quad(integrand, a, b, limit=400)[0]
        for a, b in zip(parts, parts[1:], strict=False)
    )
    whole = mean_log - 0.5 * log_alpha  # - log sigma + E log |w|
    # as alpha grows, w is sigma times a normal: E log |normal| is what is left
    return whole - 0.5 * (-np.euler_gamma - math.log(2))


@pytest.mark.parametrize("log_alpha", [-8.0, -4.0, -2.0, -1.0, 0.0, 1.0, 3.0, 8.0])
def test_the_fit_to_the_log_uniform_prior_is_exact_to_a_hundredth(log_alpha):
    received = value(numerics.log_uniform_kl(ops.array(log_alpha, "float64")))
    assert received == pytest.approx(log_uniform_by_quadrature(log_alpha), abs=0.012)


def test_the_fit_has_the_published_values_and_ends_at_zero():
    received = [value(numerics.log_uniform_kl(ops.array(x))) for x in (-8.0, 0.0, 3.0)]
    assert received == pytest.approx([4.636, 0.431, 0.0254], abs=1e-3)
    extremes = ops.convert_to_numpy(numerics.log_uniform_kl(ops.array([-300.0, 300.0])))
    assert np.isfinite(extremes).all() and abs(extremes[1]) < 1e-6


@pytest.mark.parametrize("mean, log_variance", [(0.0, 0.0), (1.5, -2.0), (-0.3, 0.7)])
def test_the_gaussian_divergence(mean, log_variance):
    own = stats.norm(mean, math.exp(0.5 * log_variance))
    expected, _ = integrate.quad(
        lambda w: own.pdf(w) * (own.logpdf(w) - stats.norm.logpdf(w)), -25, 25
    )
    received = value(numerics.gaussian_kl(ops.array(mean), ops.array(log_variance)))
    assert received == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("mean, log_variance", [(0.0, 0.0), (-1.2, -1.0), (0.5, 0.4)])
def test_the_two_halves_of_a_half_cauchy(mean, log_variance, scale):
    deviation = math.exp(0.5 * log_variance)
    own = stats.lognorm(deviation, scale=math.exp(mean))
    for rule, prior in (
        (numerics.half_cauchy_kl, stats.gamma(0.5, scale=scale**2)),
        (numerics.inverse_gamma_kl, stats.invgamma(0.5)),
    ):
        expected, _ = integrate.quad(  # over the logarithm: no pole at zero
            lambda t, prior=prior: (
                stats.norm.pdf(t, mean, deviation)
                * (own.logpdf(math.exp(t)) - prior.logpdf(math.exp(t)))
            ),
            mean - 9 * deviation,
            mean + 9 * deviation,
        )
        arguments = [ops.array(mean), ops.array(log_variance)]
        if rule is numerics.half_cauchy_kl:
            arguments.append(scale)
        assert value(rule(*arguments)) == pytest.approx(expected, abs=1e-4)


def test_the_product_of_both_halves_is_half_cauchy():
    rng = np.random.default_rng(0)
    k = 0.7
    a = stats.gamma(0.5, scale=k**2).rvs(200_000, random_state=rng)
    b = stats.invgamma(0.5).rvs(200_000, random_state=rng)
    found = stats.kstest(np.sqrt(a * b), stats.halfcauchy(scale=k).cdf)
    assert found.statistic < 0.005


def test_log_alpha_is_cut_off_and_finite_at_zero():
    mean = ops.array([1.0, 0.0, 1e4, 2.0])
    received = numerics.log_alpha(mean, ops.array([-2.0, 0.0, -9.0, 0.0]))
    np.testing.assert_allclose(received, [-2.0, 8.0, -8.0, -math.log(4)], atol=1e-6)


def test_bits_follow_the_posterior_width():
    mean = np.array([1.0, -0.5])
    wide, narrow = (
        numerics.significant_bits(mean, mean * 0 + v**2) for v in (0.3, 1e-3)
    )
    assert wide == 1 + 1 + 1  # 2^-1 alone is above 0.3
    assert narrow == 9 + 1 + 1
    assert numerics.significant_bits(mean / 1000, mean * 0) == 23 + 5 + 1
    assert numerics.significant_bits(np.zeros(2), mean * 0 + 9.0) == 0 + 1 + 1


def test_the_divergence_warms_up():
    received = [numerics.warm_up(e, 5, 15, 2.0) for e in (0, 4, 5, 12.5, 20, 300)]
    assert received == [0.0, 0.0, 0.0, 1.0, 2.0, 2.0]
    assert [numerics.warm_up(e, 0, 0) for e in (0, 1)] == [1.0, 1.0]
    assert [numerics.warm_up(e, 2, 0) for e in (1, 2)] == [0.0, 1.0]


# Layers --------------------------------------------------------------------------

CASES = {
    "dense": ((7,), lambda **k: VariationalDense(5, **k)),
    "dense of a sequence": ((3, 7), lambda **k: VariationalDense(5, **k)),
    "conv1d": ((9, 3), lambda **k: VariationalConv1D(4, 3, strides=2, **k)),
    "causal": ((9, 3), lambda **k: VariationalConv1D(4, 3, padding="causal", **k)),
    "conv2d": ((6, 6, 2), lambda **k: VariationalConv2D(4, 3, padding="same", **k)),
    "groups": ((4, 4, 4), lambda **k: VariationalConv2D(4, 3, groups=2, **k)),
    "dilated": ((7, 7, 2), lambda **k: VariationalConv2D(3, 3, dilation_rate=2, **k)),
    "depthwise": (
        (6, 6, 3),
        lambda **k: VariationalDepthwiseConv2D(3, depth_multiplier=2, **k),
    ),
}

DRAWS = 300


def of_case(name, **arguments):
    """A model of one layer with weights and variances that differ from each other."""
    shape, make = CASES[name]
    inputs = keras.Input(shape)
    layer = make(name="twin", **arguments)
    model = keras.Model(inputs, layer(inputs))
    rng = np.random.default_rng(3)
    kernel = rng.normal(size=layer.kernel.shape)
    layer.kernel.assign(kernel)
    layer.bias.assign(rng.normal(size=layer.bias.shape))
    layer.log_variance.assign(
        np.log(kernel**2) + rng.uniform(-4, 6, size=layer.kernel.shape)
    )
    x = rng.normal(size=(2, *shape)).astype("float32")
    return model, layer, x


def plain(layer, x):
    """The stock layer of the same configuration and bias."""
    config = {
        key: value
        for key, value in layer.get_config().items()
        if key not in layer.own_arguments
    }
    stock = layer.stock_class.from_config(config)
    stock.build(x.shape)
    stock.bias.assign(layer.bias)
    return stock


def answer(stock, x, kernel):
    """What it answers with another kernel."""
    stock.kernel.assign(kernel)
    return ops.convert_to_numpy(stock(x))


@pytest.mark.parametrize(
    "case, prior",
    [
        *((case, "log_uniform") for case in CASES if case != "groups"),
        ("dense", "normal"),
        ("conv2d", "normal"),
    ],
)
def test_training_draws_what_random_weights_would_give(case, prior):
    model, layer, x = of_case(case, prior=prior)
    if prior == "normal":
        layer.bias_log_variance.assign(np.full(layer.bias.shape, -1.0))
    drawn = ops.convert_to_numpy(model(np.repeat(x, DRAWS, 0), training=True))
    drawn = drawn.reshape(2, DRAWS, *drawn.shape[1:])
    kernel = ops.convert_to_numpy(layer.kernel)
    deviation = np.sqrt(ops.convert_to_numpy(layer.variance()))
    rng, stock = np.random.default_rng(5), plain(layer, x)
    bias = ops.convert_to_numpy(layer.bias)
    sampled = []
    for _ in range(DRAWS):
        if prior == "normal":
            stock.bias.assign(bias + math.exp(-0.5) * rng.normal(size=bias.shape))
        own = kernel + deviation * rng.normal(size=kernel.shape)
        sampled.append(answer(stock, x, own))
    sampled = np.stack(sampled, 1)
    spread = sampled.std(1)
    assert (spread > 0.1).all()
    error = np.abs(drawn.mean(1) - sampled.mean(1)) / spread
    assert error.max() < 6 * math.sqrt(2 / DRAWS)
    ratio = drawn.std(1) / spread
    assert abs(np.median(ratio) - 1) < 0.05 and np.abs(np.log(ratio)).max() < 0.3


@pytest.mark.parametrize("case", CASES)
def test_inference_is_the_plain_layer_with_the_weights_that_stay(case):
    model, layer, x = of_case(case, threshold=1.0)
    log_alpha = ops.convert_to_numpy(layer.log_variance) - np.log(
        ops.convert_to_numpy(layer.kernel) ** 2 + 1e-8
    )
    stays = log_alpha < 1.0
    assert 0.3 < stays.mean() < 0.8
    kernel = ops.convert_to_numpy(layer.kernel)
    expected = answer(plain(layer, x), x, kernel * stays)
    for _ in range(2):  # and nothing is drawn
        received = ops.convert_to_numpy(model(x, training=False))
        np.testing.assert_allclose(received, expected, rtol=1e-5, atol=1e-5)
    stock = lower(model)
    assert type(stock.get_layer("twin")) is layer.stock_class
    np.testing.assert_allclose(stock(x), expected, rtol=1e-5, atol=1e-5)
    assert measure(model).params == measure(stock).params
    assert measure(model).nonzero == measure(stock).nonzero


@pytest.mark.parametrize("prior", ["log_uniform", "normal"])
def test_the_penalty_is_the_divergence_once(prior):
    shared = VariationalDense(6, prior=prior, strength=0.5)
    inputs = keras.Input((6,))
    model = keras.Model(inputs, shared(shared(inputs)))
    model(np.zeros((1, 6), "float32"), training=True)
    expected = 0.5 * value(shared.divergence())
    assert value(ops.sum(ops.stack(model.losses))) == pytest.approx(expected, rel=1e-5)
    shared.strength.assign(0.0)
    assert value(ops.sum(ops.stack(model.losses))) == 0.0


def test_the_divergence_is_the_sum_over_weights():
    _, layer, _ = of_case("dense")
    alpha = ops.convert_to_numpy(layer.log_alpha()).ravel()
    fit = (
        0.63576 / (1 + np.exp(-1.8732 - 1.48695 * alpha)) - np.log1p(np.exp(-alpha)) / 2
    )
    expected = (0.63576 - fit).sum()
    assert value(layer.divergence()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("case", ["dense", "causal", "groups", "depthwise"])
@pytest.mark.parametrize("prior", ["log_uniform", "normal"])
def test_files_hold_everything(case, prior, tmp_path):
    model, layer, x = of_case(case, prior=prior, threshold=1.0, seed=3)
    path = str(tmp_path / "model.keras")
    model.save(path)
    again = keras.saving.load_model(path)
    twin = again.get_layer("twin")
    assert twin.get_config() == layer.get_config()
    for old, new in zip(model.variables, again.variables, strict=True):
        np.testing.assert_array_equal(
            ops.convert_to_numpy(old), ops.convert_to_numpy(new)
        )
    np.testing.assert_array_equal(again(x), model(x))


def test_variances_stay_below_their_bound_under_fit():
    model, layer, x = of_case("dense", prior="normal", largest_deviation=0.2)
    layer.strength.assign(10.0)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(x, np.zeros((2, 5)), epochs=3, verbose=0)
    largest = ops.convert_to_numpy(layer.log_variance).max()
    assert largest == pytest.approx(2 * math.log(0.2), abs=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_the_same_weights_stay_inside_a_call_and_outside(policy):
    """Scores so near the threshold that the rounding of the kernel decides."""
    layer = VariationalDense(64, dtype=policy, use_bias=False)
    layer.build((None, 64))
    rng = np.random.default_rng(0)
    kernel = rng.uniform(0.5, 1.0, (64, 64)).astype("float32")
    layer.kernel.assign(kernel)
    near = rng.normal(layer.threshold, 1e-3, kernel.shape)
    layer.log_variance.assign(near + np.log(kernel**2))
    there = ops.convert_to_numpy(layer(np.eye(64, dtype="float32"))) != 0
    assert 0.2 < there.mean() < 0.8
    assert np.array_equal(there, ops.convert_to_numpy(layer.active()))
    stored = layer.stock_values()
    assert np.array_equal(there, stored[layer.kernel.path] != 0)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    model, layer, x = of_case("conv2d", dtype=policy, strength=1e-3)
    assert layer.kernel.dtype == "float32"
    assert model(x, training=True).dtype == policy.split("_")[1]
    model.compile(keras.optimizers.Adam(1e-3), "mse")
    for images in (x, np.zeros_like(x)):  # the root of no variance, too
        logs = model.fit(images, np.zeros((2, 6, 6, 4)), verbose=0)
        assert np.isfinite(logs.history["loss"]).all()
        assert np.isfinite(ops.convert_to_numpy(layer.log_variance)).all()


@pytest.mark.parametrize(
    "arguments, word",
    [
        ({"prior": "flat"}, "prior"),
        ({"strength": -1.0}, "strength"),
        ({"strength": math.inf}, "strength"),
        ({"strength": math.nan}, "strength"),
        ({"threshold": 9.0}, "threshold"),
        ({"threshold": math.nan}, "threshold"),
        ({"largest_deviation": 0.0}, "largest_deviation"),
    ],
)
def test_bad_arguments(arguments, word):
    with pytest.raises(ValueError, match=f"`{word}`.*Received"):
        VariationalDense(3, **arguments)


def test_small_weights_train_in_float16():
    """Where mean^2 and 1e-8 are both 0 in half precision, alpha is still a number."""
    layer = VariationalDense(3, dtype="mixed_float16", strength=1e-3)
    model = keras.Sequential([keras.Input((4,)), layer])
    tiny = np.full((4, 3), 0.3, "float32")
    tiny[0] = [0.0, 1e-5, 1e-4]
    layer.kernel.assign(tiny)
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    model.fit(np.ones((32, 4)), np.ones((32, 3)), epochs=3, batch_size=8, verbose=0)
    assert (ops.convert_to_numpy(layer.kernel) != tiny).all()
    assert np.isfinite(ops.convert_to_numpy(layer.log_variance)).all()


def test_a_twin_costs_on_a_device_what_its_plain_layer_does():
    image = keras.Input((8, 8, 2))
    x = keras.layers.Conv2D(5, 3, activation="relu", name="conv")(image)
    x = keras.layers.DepthwiseConv2D(3, name="deep")(x)
    x = keras.layers.Dense(4, name="fc")(keras.layers.Flatten()(x))
    plain = keras.Model(image, x)
    method = SparseVD()
    model = method.prepare(plain, tfsparse.find_groups(plain, method.kinds))
    assert measure(model).macs == measure(plain).macs
    assert measure(model).params == measure(plain).params
    # Under a plan, too, zeros are not counted among what stays.
    layer = model.get_layer("conv")
    spread = np.full(layer.kernel.shape, -10.0)
    spread[..., :2] = 10.0  # noise: zeros once it is lowered
    layer.log_variance.assign(spread)
    for variable in model.trainable_variables:
        if variable.name in ("kernel", "bias"):
            variable.assign(np.ones(variable.shape))
    left = removal.plan(model, {"conv": np.array([False, True, True, True, True])})
    before, after = measure(model), measure(model, left)
    assert before.nonzero == before.params - 36
    assert after.nonzero == after.params - 18


def test_settling_zeroes_whole_inputs_and_outputs_alone():
    image = keras.Input((6, 6, 4))
    x = keras.layers.DepthwiseConv2D(3, depth_multiplier=2, name="deep")(image)
    plain = keras.Model(image, keras.layers.Conv2D(3, 3, name="conv")(x))
    method = SparseVD()
    model = method.prepare(plain, tfsparse.find_groups(plain, method.kinds))
    deep, conv = model.get_layer("deep"), model.get_layer("conv")
    for layer, dead in ((deep, np.s_[..., 1, 1]), (conv, np.s_[:, :, 5])):
        layer.kernel.assign(np.ones(layer.kernel.shape))
        spread = np.full(layer.kernel.shape, -6.0)
        spread[0, 0] = 6.0  # a tap of noise everywhere
        spread[dead] = 6.0
        layer.log_variance.assign(spread)
    method.settle(model)
    for layer, dead in ((deep, np.s_[..., 1, 1]), (conv, np.s_[:, :, 5])):
        expected = np.ones(layer.kernel.shape)
        expected[dead] = 0.0
        np.testing.assert_array_equal(ops.convert_to_numpy(layer.kernel), expected)


# Noise ---------------------------------------------------------------------------


def test_noise_is_normal_and_differs_from_draw_to_draw():
    seed = keras.random.SeedGenerator(0)
    draws = [ops.convert_to_numpy(noise.normal((400, 500), seed)) for _ in range(3)]
    for drawn in draws:
        assert stats.kstest(drawn.ravel(), "norm").statistic < 0.004
    for a, b in ((0, 1), (1, 2), (0, 2)):
        assert abs(np.corrcoef(draws[a].ravel(), draws[b].ravel())[0, 1]) < 0.01
    again = noise.normal((400, 500), keras.random.SeedGenerator(0))
    np.testing.assert_array_equal(again, draws[0])


def test_more_noise_than_the_table_holds():
    count = noise.SIZE // 2 + 1
    seed = keras.random.SeedGenerator(0)
    drawn = ops.convert_to_numpy(noise.normal((count,), seed, "float16"))
    assert drawn.shape == (count,) and drawn.dtype == np.float16
    assert abs(drawn.astype("float32").mean()) < 0.01
    wide = keras.Sequential([keras.Input((8,)), VariationalDense(1 << 12)])
    wide.compile("sgd", "mse")
    for samples in (8, 520):  # a batch whose size only the graph knows
        wide.fit(
            np.ones((samples, 8)),
            np.zeros((samples, 1 << 12)),
            batch_size=samples,
            verbose=0,
        )


# The method ----------------------------------------------------------------------


def planted(samples, noise=0.5, inputs=20, support=5):
    """Regression of which only the first inputs matter."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(samples, inputs)).astype("float32")
    weights = np.zeros((inputs, 1), "float32")
    weights[:support, 0] = [2, -1.5, 1, 3, -2][:support]
    return x, x @ weights + noise * rng.normal(size=(samples, 1)).astype("float32")


def test_sparse_vd_finds_the_support_of_a_regression():
    x, y = planted(400)
    times = 50  # more steps an epoch, the same data
    x, y = np.tile(x, (times, 1)), np.tile(y, (times, 1))
    inputs = keras.Input((20,))
    model = keras.Model(inputs, keras.layers.Dense(1, name="out")(inputs))
    rate = keras.optimizers.schedules.CosineDecay(1e-2, 3000)
    model.compile(keras.optimizers.Adam(rate), "mse", steps_per_execution=20)
    # The likelihood is mse / (2 * 0.5^2): so much smaller is the divergence's weight.
    method = SparseVD(2 * 0.5**2 * times, pretrain_epochs=8, warm_up_epochs=4)
    result = tfsparse.fit_shrinking(
        model, method, x, y, epochs=30, shrink_epochs=30, batch_size=200
    )
    kernel = ops.convert_to_numpy(result.model.get_layer("out").kernel)[:, 0]
    np.testing.assert_allclose(kernel[:5], [2, -1.5, 1, 3, -2], atol=0.1)
    # Least squares alone has +-0.025 there, none of them zero.
    assert len(kernel) <= 12  # of 20 inputs: those without a weight have left
    assert type(result.model.get_layer("out")) is keras.layers.Dense


def test_layers_without_a_twin_stay_plain_and_are_named(caplog):
    inputs = keras.Input((8, 4))
    x = keras.layers.LSTM(3, name="memory")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    sparse = SparseVD().prepare(model, ())
    assert type(sparse.get_layer("memory")) is keras.layers.LSTM
    assert type(sparse.get_layer("head")) is VariationalDense
    assert "memory (LSTM)" in caplog.text and "head" not in caplog.text
    with pytest.raises(ValueError, match="twin.*Received"):
        SparseVD(ignore="head").prepare(model, ())


def test_thresholds_by_layer():
    inputs = keras.Input((8,))
    x = keras.layers.Dense(3, name="dense1")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    method = SparseVD(threshold=3.0, layer_thresholds="dense*=2,dense1=1.5")
    sparse = method.prepare(model, ())
    assert [layer.threshold for layer in sparse.layers[1:]] == [1.5, 3.0]
    assert SparseVD(**method.get_config()).get_config() == method.get_config()


def test_frozen_and_low_rank_layers_keep_plain_weights(caplog):
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(4, name="frozen", trainable=False),
            keras.layers.Dense(4, name="low", lora_rank=2),
            keras.layers.Dense(2, name="head"),
        ]
    )
    sparse = SparseVD().prepare(model, ())
    assert [type(layer) is keras.layers.Dense for layer in sparse.layers[1:]] == [
        True, True, False,
    ]  # fmt: skip
    assert "kept as they are: low (Dense)" in caplog.text


def test_a_checkpoint_of_a_sparse_model_is_stripped_to_stock_layers(tmp_path):
    x, _ = planted(50)
    model = keras.Sequential(
        [
            keras.Input((20,)),
            keras.layers.Dense(6, activation="relu", name="body"),
            keras.layers.Dense(1, name="head"),
        ]
    )
    sparse = SparseVD().prepare(model, ())
    body = sparse.get_layer("body")
    body.log_variance.assign(np.where(np.arange(6) < 2, 20.0, -8.0) + np.zeros((20, 1)))
    sparse.save(tmp_path / "checkpoint.keras")
    files = [str(tmp_path / name) for name in ("checkpoint.keras", "small.keras")]
    assert strip.main(files) == 0
    small = keras.saving.load_model(tmp_path / "small.keras")
    assert [type(x) for x in small.layers[-2:]] == [keras.layers.Dense] * 2
    assert small.get_layer("body").units == 4
    np.testing.assert_allclose(small(x), sparse(x), atol=1e-6)


def test_a_callback_needs_no_list():
    x, y = planted(100)
    model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    seen = []
    own = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(epoch)
    )
    method = SparseVD(pretrain_epochs=0, warm_up_epochs=1)
    tfsparse.fit_shrinking(model, method, x, y, epochs=2, callbacks=own)
    assert seen == [0, 1]


def test_multipliers_weigh_layers():
    inputs = keras.Input((8,))
    x = keras.layers.Dense(3, name="dense1")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    method = SparseVD(multipliers="dense*=2,dense1=1.5", pretrain_epochs=0)
    sparse = method.prepare(model, ())
    method.begin_epoch(sparse, 99, samples=10)
    assert [value(x.strength) for x in sparse.layers[1:]] == pytest.approx([0.15, 0.1])
    with pytest.raises(ValueError, match="`multipliers` must name some of.*'fc'"):
        SparseVD(multipliers="fc=2").prepare(model, ())


def test_no_two_layers_draw_the_same_noise():
    inputs = keras.Input((8,))
    x = keras.layers.Dense(8, name="one")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(8, name="two")(x))
    sparse = SparseVD().prepare(model, ())
    one, two = (
        ops.convert_to_numpy(noise.normal((1000,), sparse.get_layer(name).noise))
        for name in ("one", "two")
    )
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.2


def test_the_weight_of_the_divergence_follows_the_epochs():
    inputs = keras.Input((8,))
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(inputs))
    method = SparseVD(2.0, pretrain_epochs=1, warm_up_epochs=2)
    sparse = method.prepare(model, ())
    found = []
    for epoch in range(5):
        method.begin_epoch(sparse, epoch, samples=100)
        found.append(value(sparse.get_layer("head").strength))
    assert found == pytest.approx([0.0, 0.0, 0.01, 0.02, 0.02])


@pytest.mark.parametrize(
    "arguments, word",
    [
        ({"threshold": 8.5}, "threshold"),
        ({"threshold": -8}, "threshold"),
        ({"layer_thresholds": "dense*=99"}, "layer_thresholds"),
        ({"layer_thresholds": "dense*"}, "layer_thresholds"),
        ({"pretrain_epochs": -1}, "pretrain_epochs"),
        ({"warm_up_epochs": math.nan}, "warm_up_epochs"),
        ({"strength": -0.1}, "strength"),
        ({"multipliers": "dense*=0"}, "multipliers"),
    ],
)
def test_bad_arguments_of_the_method(arguments, word):
    with pytest.raises(ValueError, match=f"`{word}`.*Received"):
        SparseVD(**arguments)


def test_a_schedule_longer_than_the_training_is_refused():
    x, y = planted(100)
    model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="fit into the epochs.*Received: 1 and 4"):
        tfsparse.fit_shrinking(model, SparseVD(), x, y, epochs=4)


def test_zeros_stay_zeros_as_a_model_is_tuned():
    x, y = planted(200)
    model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(1)])
    kernel = np.zeros((20, 1), "float32")
    kernel[::2] = 1
    model.layers[0].kernel.assign(kernel)
    training.hold_zeros(model)
    model.compile(keras.optimizers.Adam(0.1), "mse")
    model.fit(x, y, epochs=2, verbose=0)
    now = ops.convert_to_numpy(model.layers[0].kernel)
    assert not now[1::2].any() and (now[::2] != 1).all()
    assert ops.convert_to_numpy(model.layers[0].bias).any()


def test_where_posteriors_start():
    """As in the codes of Molchanov et al. and of Louizos et al."""
    shape = (60, 50)
    noise = VariationalDense(shape[1], seed=3)
    noise.build((None, shape[0]))
    np.testing.assert_array_equal(noise.log_variance, np.full(shape, -10.0))
    normal = VariationalDense(shape[1], prior="normal", seed=3)
    normal.build((None, shape[0]))
    drawn = np.array(normal.log_variance)
    assert abs(drawn.mean() + 9) < 1e-3 and drawn.std() == pytest.approx(0.01, rel=0.05)
    assert np.array(normal.bias_log_variance).std() == pytest.approx(0.01, rel=0.4)
    factors = VariationalScale(4000, seed=3)
    factors.build((None, 4000))
    for own, mean in ((factors.mean, 1.0), (factors.log_variance, -9.0)):
        assert np.array(own).mean() == pytest.approx(mean, abs=1e-3)
        assert np.array(own).std() == pytest.approx(0.01, rel=0.05)
