"""For every model of the table: dead units leave, and the model computes the same.

The dead keep their biases and BatchNorm betas, so they still send constants on.
"""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest

import tfsparse
from conformance import models
from tfsparse.deploy import fold

EXACT = 1e-5

PADDING = "sees it unevenly (zero padding), so no bias can replace it"

STUBBORN = {
    "strided_same_dilated": ({"strided"}, PADDING),
    "conv_1d": ({"a"}, PADDING),
    "zero_padding": ({"a"}, PADDING),
    "residual_projection": ({"stem", "first"}, PADDING),
    "residual_identity": ({"stem", "inner"}, PADDING),
    "residual_preactivation": ({"stem", "inner"}, PADDING),
    "fan_out": ({"trunk"}, PADDING),
    "broadcast_and_layer_norm": (
        {"wide"},
        "still sends 'normed' what the input decides",
    ),
    "custom_layer_told_its_size": ({"a"}, "a Product that has no bias to take it"),
    "shared_reader": (
        {"b"},
        "'shared' is shared, and a dead unit sends its calls unlike",
    ),
}
"""Groups whose constants no bias can replace, and a piece of the reason."""

ROWS = list(models.TABLE)


def zero(model, group, units, role) -> None:
    """Zeroes what one role's members hold of these units, nothing else."""
    variables = {v.path: v for v in model.variables}
    for member in group.members:
        if member.role == role:
            value = keras.ops.convert_to_numpy(variables[member.path]).copy()
            positions = member.indices[np.isin(member.units, units)]
            np.moveaxis(value, member.axis, 0)[positions] = 0.0
            variables[member.path].assign(value)


@functools.cache
def corpse(name: str):
    """A model whose dropped halves are dead producers, biases and betas left alive."""
    model = models.randomise(models.TABLE[name].build(), seed=11)
    free = {g.name: g for g in tfsparse.find_groups(model) if not g.frozen}
    keep = {key: models.half(group, seed=2) for key, group in free.items()}
    for key, group in free.items():
        zero(model, group, np.flatnonzero(~keep[key]), "producer")
    return model, keep


@pytest.mark.parametrize("name", ROWS)
def test_dead_units_are_those_zeroed(name):
    model, keep = corpse(name)
    found = tfsparse.dead_units(model)
    assert found.keys() == keep.keys() == models.TABLE[name].free.keys()
    assert all(np.array_equal(found[key], keep[key]) for key in keep)


@pytest.mark.parametrize("name", ROWS)
def test_strip_without_keep_equals_the_model(name):
    model, keep = corpse(name)
    before = models.weights_of(model)
    inputs = models.inputs_for(model)
    small = tfsparse.strip(model)
    expected = models.outputs(model, inputs)
    assert models.difference(expected, models.outputs(small, inputs)) <= EXACT
    left = {g.name: g.size for g in tfsparse.find_groups(small) if not g.frozen}
    stays, _ = STUBBORN.get(name, (set(), ""))
    for key, alive in keep.items():
        if name == "grouped_conv":  # uneven rows keep a surplus
            assert alive.sum() <= left[key] <= len(alive)
        else:
            assert left[key] == (len(alive) if key in stays else alive.sum()), key
    assert all(
        np.array_equal(v, before[p]) for p, v in models.weights_of(model).items()
    )


@pytest.mark.parametrize("name", STUBBORN)
def test_the_reason_of_a_unit_that_stays(name):
    model, keep = corpse(name)
    stays, piece = STUBBORN[name]
    folded, _, reasons = fold.fold(model, tfsparse.dead_units(model))
    assert reasons.keys() == stays
    assert all(piece in text for text in reasons.values())
    for key, alive in folded.items():
        assert np.array_equal(alive, keep[key]) == (key not in stays)


@pytest.mark.parametrize("name", ["conv_bn_chain", "flatten_from_conv", "zero_padding"])
def test_constants_matter(name):
    """The same keep masks without folding (`strip(model, keep)`) are another function."""
    model, keep = corpse(name)
    inputs = models.inputs_for(model)
    masked = models.outputs(tfsparse.strip(model, keep), inputs)
    assert models.difference(models.outputs(model, inputs), masked) > 1e-2


def test_a_constant_of_zero_passes_any_padding():
    model = models.randomise(models.zero_padding())
    groups = {g.name: g for g in tfsparse.find_groups(model)}
    zero(model, groups["a"], [0, 2], "producer")
    bias = model.get_layer("a").bias
    bias.assign(np.array([-1.0, 1.0, 0.0, 1.0], "float32"))  # relu: 0 for the dead two
    small, inputs = tfsparse.strip(model), models.inputs_for(model)
    assert small.get_layer("a").filters == 2
    received = models.outputs(small, inputs)
    assert models.difference(models.outputs(model, inputs), received) <= EXACT


def test_folding_by_hand():
    """relu(b) and sigmoid(b) times the consumer's row, into its bias."""
    vector = keras.Input((3,), name="vector")
    x = keras.layers.Dense(4, activation="sigmoid", name="hidden")(vector)
    out = keras.layers.Dense(2, use_bias=False, name="out")(x)
    model = models.randomise(keras.Model(vector, out))
    hidden, last = model.get_layer("hidden"), model.get_layer("out")
    hidden.kernel.assign(hidden.kernel.numpy() * [1, 0, 1, 0])
    hidden.bias.assign([0.5, 2.0, -1.0, -3.0])
    small = tfsparse.strip(model)
    constants = 1.0 / (1.0 + np.exp([-2.0, 3.0]))
    rows = last.kernel.numpy()[[1, 3]]
    np.testing.assert_allclose(
        small.get_layer("out").bias.numpy(), constants @ rows, rtol=1e-5
    )
    np.testing.assert_array_equal(small.get_layer("hidden").bias.numpy(), [0.5, -1.0])


@pytest.mark.parametrize(
    "name",
    [
        "flatten_from_conv",
        "depthwise_multiplier_2",
        "separable",
        "concat_into_conv",
        "residual_identity",
        "fan_out",
        "pools_side_by_side",
    ],
)
def test_units_that_nobody_reads_are_dead(name):
    model = models.randomise(models.TABLE[name].build(), seed=4)
    free = {g.name: g for g in tfsparse.find_groups(model) if not g.frozen}
    inputs = models.inputs_for(model)
    for group in free.values():
        zero(model, group, [0, group.size - 1], "consumer")
    found = tfsparse.dead_units(model)
    for key, group in free.items():
        assert found[key].sum() == group.size - 2 and not found[key][[0, -1]].any()
    small = tfsparse.strip(model)
    left = {g.name: g.size for g in tfsparse.find_groups(small) if not g.frozen}
    assert left == {key: group.size - 2 for key, group in free.items()}
    received = models.outputs(small, inputs)
    assert models.difference(models.outputs(model, inputs), received) <= EXACT


def test_a_coupled_unit_is_dead_only_when_all_its_writers_are():
    model = models.randomise(models.residual_identity())
    group = {g.name: g for g in tfsparse.find_groups(model)}["stem"]
    back = model.get_layer("back").kernel
    back.assign(back.numpy() * (np.arange(6) > 1))
    assert tfsparse.dead_units(model)["stem"].all()
    zero(model, group, [1], "producer")
    assert tfsparse.dead_units(model)["stem"].tolist() == [True, False, *[True] * 4]


def test_norms_are_joint_and_tolerance_bounds_them():
    vector = keras.Input((2,), name="vector")
    x = keras.layers.Dense(4, activation="relu", name="hidden")(vector)
    model = keras.Model(vector, keras.layers.Dense(2, name="out")(x))
    hidden = model.get_layer("hidden")
    hidden.kernel.assign(
        [[3.0, 0.3, 0.03, 0.0], [4.0, 0.4, 0.04, 0.0]]
    )  # 5, .5, .05, 0
    model.get_layer("out").kernel.assign(np.ones((4, 2)))
    alive = [
        tfsparse.dead_units(model, tolerance)["hidden"].tolist()
        for tolerance in (0.0, 0.049, 0.051, 0.51)
    ]
    assert alive[0] == alive[1] == [True, True, True, False]
    assert alive[2:] == [[True, True, False, False], [True, False, False, False]]
    assert tfsparse.dead_units(model, 6.0)["hidden"].tolist() == [True] + [False] * 3


@pytest.mark.parametrize("tolerance", [-0.1, float("nan")])
def test_tolerance_is_checked(tolerance):
    with pytest.raises(ValueError, match="`tolerance` must be a number >= 0. Received"):
        tfsparse.dead_units(models.named_vector(), tolerance)


def test_a_layer_never_loses_its_last_unit():
    model = models.randomise(models.flatten_from_conv())
    model.get_layer("conv").kernel.assign(np.zeros((3, 3, 3, 5)))
    small, inputs = tfsparse.strip(model), models.inputs_for(model)
    assert small.get_layer("conv").filters == 1
    received = models.outputs(small, inputs)
    assert models.difference(models.outputs(model, inputs), received) <= EXACT


def test_many_tiny_constants_do_not_hang(monkeypatch):
    image = keras.Input((6, 6, 1))
    x = keras.layers.Conv2D(40, 1, activation="relu", name="a")(image)
    x = keras.layers.Conv2D(3, 3, padding="same", name="b")(x)
    x = keras.layers.Dense(2, name="out")(keras.layers.Flatten()(x))
    model = models.randomise(keras.Model(image, x))
    model.get_layer("b").kernel.assign(np.ones((3, 3, 40, 3)))
    kernel, bias = model.get_layer("a").weights
    dead_half = np.arange(40) < 20
    kernel.assign(np.where(dead_half, 0.0, kernel.numpy()))
    bias.assign(np.where(dead_half, 6e-8, bias.numpy()))
    rounds = iter(range(6))
    plan = fold.removal.plan

    def counted(*arguments):
        assert next(rounds, None) is not None, "more than 6 rounds"
        return plan(*arguments)

    monkeypatch.setattr(fold.removal, "plan", counted)
    keep, _, _ = fold.fold(model, tfsparse.dead_units(model))
    assert keep["a"][20:].all()


def test_a_living_unit_stays_and_padding_is_not_blamed():
    model = models.randomise(models.named_vector())
    folded, _, reasons = fold.fold(model, {"hidden": np.arange(6) < 4})
    assert folded["hidden"].all()
    assert reasons == {"hidden": "a unit still sends 'out' what the input decides"}


TAKERS = {
    "lstm": lambda: keras.layers.LSTM(4, name="taker"),
    "simple": lambda: keras.layers.SimpleRNN(4, return_sequences=True, name="taker"),
    "gru": lambda: keras.layers.GRU(4, name="taker"),
    "gru_before": lambda: keras.layers.GRU(4, reset_after=False, name="taker"),
    "both_ways": lambda: keras.layers.Bidirectional(keras.layers.LSTM(4), name="taker"),
    "einsum": lambda: keras.layers.EinsumDense(
        "abc,cde->abde", (5, 3, 4), bias_axes="de", name="taker"
    ),
    "distributed": lambda: keras.layers.TimeDistributed(
        keras.layers.Dense(4), name="taker"
    ),
    "spectral": lambda: keras.layers.SpectralNormalization(
        keras.layers.Conv1D(4, 2), name="taker"
    ),
    "no_bias_yet": lambda: keras.layers.Conv1D(4, 2, use_bias=False, name="taker"),
}


def behind_a_dead_pair(layer, call=None):
    """Units 0 and 2 of `hidden` are dead, and send relu(bias) to the layer."""
    sequence = keras.Input((5, 3), name="sequence")
    x = keras.layers.Dense(6, activation="relu", name="hidden")(sequence)
    x = layer(x) if call is None else call(layer, x)
    x = keras.layers.Dense(2, name="out")(keras.layers.Flatten()(x))
    model = models.randomise(keras.Model(sequence, x), seed=8)
    hidden = model.get_layer("hidden").kernel
    hidden.assign(hidden.numpy() * (np.arange(6) % 2 + (np.arange(6) > 3) > 0))
    return model


def small_if_exact(model):
    """The stripped model, after comparing it."""
    small, inputs = tfsparse.strip(model), models.inputs_for(model)
    received = models.outputs(small, inputs)
    assert models.difference(models.outputs(model, inputs), received) <= EXACT
    return small


@pytest.mark.parametrize("name", TAKERS)
def test_every_linear_reader_takes_a_constant(name):
    small = small_if_exact(behind_a_dead_pair(TAKERS[name]()))
    assert small.get_layer("hidden").units == 4


def test_attention_takes_a_constant_three_times():
    attention = keras.layers.MultiHeadAttention(2, 3, name="taker")
    model = behind_a_dead_pair(attention, lambda layer, x: layer(x, x))
    assert small_if_exact(model).get_layer("hidden").units == 4


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (lambda: keras.layers.LSTM(4, use_bias=False, name="taker"), "an LSTM that"),
        (
            lambda: keras.layers.EinsumDense("abc,cd->abd", (5, 4), name="taker"),
            "an EinsumDense that",
        ),
        (
            lambda: keras.layers.EinsumDense(
                "abc,bcd->abd", (5, 4), bias_axes="d", name="taker"
            ),
            "sees it unevenly",
        ),
        (
            lambda: keras.layers.EinsumDense(
                "abc,cde->abde", (5, 3, 4), bias_axes="d", name="taker"
            ),
            "sees it unevenly",
        ),
        (
            lambda: keras.layers.TimeDistributed(
                keras.layers.Dense(4, use_bias=False), name="taker"
            ),
            "a TimeDistributed that",
        ),
    ],
)
def test_readers_that_cannot_take_it(layer, reason):
    model = behind_a_dead_pair(layer())
    _, _, reasons = fold.fold(model, tfsparse.dead_units(model))
    assert reason.replace("an ", "a ") in reasons["hidden"].replace("an ", "a ")
    assert small_if_exact(model).get_layer("hidden").units == 6


def test_a_unit_dies_behind_a_scale_of_zero():
    """As network slimming leaves it: gamma is zero, the convolution is not."""
    image = keras.Input((6, 5, 2), name="image")
    x = keras.layers.Conv2D(6, 3, name="a")(image)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(name="bn")(x))
    x = keras.layers.DepthwiseConv2D(2, name="each")(x)
    x = keras.layers.Conv2D(4, 1, name="b")(keras.layers.ReLU()(x))
    x = keras.layers.Dense(2, name="out")(keras.layers.GlobalAveragePooling2D()(x))
    model = models.randomise(keras.Model(image, x), seed=3)
    gamma, kernel = model.get_layer("bn").gamma, model.get_layer("each").kernel
    gamma.assign(gamma.numpy() * [1, 0, 1, 1, 0, 1])
    kernel.assign(kernel.numpy() * np.array([1, 1, 1, 0, 1, 1])[:, None])
    assert np.flatnonzero(~tfsparse.dead_units(model)["a"]).tolist() == [1, 3, 4]
    assert small_if_exact(model).get_layer("a").filters == 3


def test_a_scale_of_zero_on_one_way_only_kills_nobody():
    image = keras.Input((6, 5, 2), name="image")
    x = keras.layers.Conv2D(4, 3, name="a")(image)
    y = keras.layers.BatchNormalization(name="bn")(x)
    x = keras.layers.Add()([x, y])
    x = keras.layers.Dense(2, name="out")(keras.layers.GlobalAveragePooling2D()(x))
    model = models.randomise(keras.Model(image, x), seed=3)
    gamma = model.get_layer("bn").gamma
    gamma.assign(gamma.numpy() * [1, 0, 1, 0])
    assert tfsparse.dead_units(model)["a"].all()
    assert "add:branches" not in tfsparse.dead_units(model)
