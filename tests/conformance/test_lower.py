"""For every model of the table and both switches: lowering changes nothing."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest

import tfsparse
from conformance import models
from tfsparse.deploy import lower
from tfsparse.graph.rebuild import flat
from tfsparse.layers import Filter, SwitchDecay

EXACT = 1e-5
FORMS = ("relu", "signed")

ROWS = list(models.TABLE)


def filters(model) -> dict[str, Filter]:
    return {layer.name: layer for layer in model.layers if isinstance(layer, Filter)}


@functools.cache
def randomised(name: str):
    """A model of the table with random weights; nobody changes it."""
    return flat(models.randomise(models.TABLE[name].build(), seed=6))


def prepared(model, **arguments):
    method = tfsparse.ShrinkNets(**arguments)
    return method.prepare(model, tfsparse.find_groups(model, method.kinds))


def throw_switches(model, seed: int) -> None:
    """Random switches: of both signs, a third of them off (at least one on, one off)."""
    rng = np.random.default_rng(seed)
    for layer in filters(model).values():
        off = rng.random(layer.units) < 1 / 3
        on, never = rng.permutation(layer.units)[:2]
        off[on], off[never] = False, True
        values = rng.uniform(0.3, 1.5, layer.units)
        if layer.form == "relu":
            layer.switch.assign(np.where(off, -values, values))
        else:
            layer.switch.assign(values * rng.choice([-1.0, 1.0], layer.units))
            layer.mean.assign(np.sign(layer.switch.numpy()))
            layer.alive.assign((~off).astype("float32"))
            layer.last.assign(layer.switch)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ROWS)
def test_lower_and_then_strip_equal_the_sparse_model(name, form):
    model = randomised(name)
    sparse = prepared(model, form=form)
    assert filters(sparse)
    throw_switches(sparse, seed=8)
    inputs = models.inputs_for(model)
    expected = models.outputs(sparse, inputs)
    before = models.weights_of(sparse)
    lowered = lower(sparse)
    received = models.outputs(lowered, inputs)
    assert models.difference(expected, received) <= EXACT
    assert models.difference(models.outputs(model, inputs), expected) > 10 * EXACT
    assert not any(
        type(op).__module__.startswith("tfsparse") for op in lowered.operations
    )
    named = {layer.name for layer in model.layers if layer.weights}
    assert {layer.name for layer in lowered.layers if layer.weights} == named
    after = models.weights_of(sparse)
    assert all(np.array_equal(after[path], before[path]) for path in before)
    if form == "relu":  # both leave the same stock layers
        small = tfsparse.strip(lowered)
        assert models.difference(expected, models.outputs(small, inputs)) <= EXACT
        assert models.params_of(small) <= models.params_of(lowered)


@pytest.mark.parametrize("name", ROWS)
def test_switches_that_are_one_change_nothing(name):
    model = randomised(name)
    sparse = prepared(model, form="signed", initial="ones", strength=0.0, decay=0.0)
    inputs = models.inputs_for(model)
    expected = models.outputs(model, inputs)
    assert models.difference(expected, models.outputs(sparse, inputs)) <= EXACT
    assert all(float(loss) == 0.0 for loss in sparse.losses)
    names = {layer.name for layer in sparse.layers if not isinstance(layer, Filter)}
    assert names >= {layer.name for layer in model.layers if layer.weights}


@pytest.mark.parametrize(
    "name",
    [
        "flatten_from_conv",
        "named_vector",
        "single_channel",
        "multi_input",
        "op_layers",
        "depthwise_multiplier_3_without_bias",
        "prelu",
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_switches_on_features_lower_too(name, form):
    model = randomised(name)
    sparse = prepared(model, form=form, features=True)
    assert any("features" in key for key in filters(sparse))
    throw_switches(sparse, seed=8)
    inputs = models.inputs_for(model)
    expected = models.outputs(sparse, inputs)
    lowered = lower(sparse)
    assert models.difference(expected, models.outputs(lowered, inputs)) <= EXACT
    assert not any(
        type(op).__module__.startswith("tfsparse") for op in lowered.operations
    )


@pytest.mark.parametrize(
    "name", ["conv_bn_chain", "flatten_from_conv", "residual_projection", "separable"]
)
def test_dead_switches_leave_zero_slices_behind(name):
    """What lowering a dead switch leaves is dead for dead_units, whatever wrote it."""
    model = randomised(name)
    sparse = prepared(model, form="relu")
    for layer in filters(sparse).values():
        layer.switch.assign(np.where(np.arange(layer.units) % 2 == 1, -0.5, 1.0))
    lowered = lower(sparse)
    groups = {g.name: g for g in tfsparse.find_groups(lowered)}
    dead = {key: ~alive for key, alive in tfsparse.dead_units(lowered).items()}
    assert len(dead) == len(models.TABLE[name].free)
    for key, gone in dead.items():
        odd = np.arange(groups[key].size) % 2 == 1
        if key in ("a", "first", "second", "sep"):  # their factor went into a BatchNorm
            continue
        assert np.array_equal(gone, odd), key


def test_strip_finds_what_a_batch_norm_killed():
    model = models.randomise(models.conv_bn_chain())
    sparse = prepared(model, form="relu")
    filters(sparse)["a_switch"].switch.assign([1.0, -1.0, 1.0, -1.0, 1.0])
    small = tfsparse.strip(lower(sparse))
    assert small.get_layer("a").filters == 3


def test_a_switch_that_died_in_the_last_step_is_dead_everywhere():
    model = models.randomise(models.named_vector())
    sparse = prepared(model, form="signed", gamma=0.0, initial="ones")
    (layer,) = filters(sparse).values()
    layer.switch.assign([1.0, 1.0, -1.0, 1.0, 1.0, 1.0])  # as an optimizer would
    inputs = models.inputs_for(model)
    assert layer.alive_units().tolist() == [True, True, False, True, True, True]
    received = models.outputs(lower(sparse), inputs)
    assert models.difference(models.outputs(sparse, inputs), received) <= EXACT


def test_lower_takes_the_penalties_off_and_leaves_the_users():
    image = keras.Input((6, 5, 2))
    own = keras.regularizers.L2(0.25)
    mine = keras.layers.Conv2D(4, 2, name="mine", kernel_regularizer=own)
    x = keras.layers.ReLU()(mine(image))
    x = keras.layers.SeparableConv2D(5, 2, activation="relu", name="ours")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(3, name="out")(x))
    sparse = prepared(model, strength=0.5, decay=0.1)
    ours = sparse.get_layer("ours")
    assert isinstance(ours.pointwise_regularizer, SwitchDecay)
    assert isinstance(
        sparse.get_layer("mine").kernel_regularizer, keras.regularizers.L2
    )
    lowered = lower(sparse)
    kernel = lowered.get_layer("mine").kernel.numpy()
    expected = 0.25 * (kernel**2).sum()
    assert len(lowered.losses) == 1
    np.testing.assert_allclose(float(lowered.losses[0]), expected, rtol=1e-5)


def test_activations_return_to_their_layers():
    model = models.randomise(models.flatten_from_conv())
    sparse = prepared(model)
    assert sparse.get_layer("conv").activation is keras.activations.linear
    lowered = lower(sparse)
    assert lowered.get_layer("conv").activation is keras.activations.relu
    assert [op.name for op in lowered.operations][1:] == [
        op.name for op in model.operations
    ][1:]


def test_the_switch_stands_before_the_activation():
    """tanh(s * z), not s * tanh(z): by NumPy."""
    vector = keras.Input((3,), name="vector")
    x = keras.layers.Dense(4, activation="tanh", name="hidden")(vector)
    model = models.randomise(keras.Model(vector, keras.layers.Dense(2, name="out")(x)))
    sparse = prepared(model, form="relu")
    (layer,) = filters(sparse).values()
    layer.switch.assign([0.5, -2.0, 2.0, 0.0])
    inputs = models.inputs_for(model)
    w, b, v, c = (x.numpy() for x in model.weights)
    expected = np.tanh((inputs @ w + b) * [0.5, 0.0, 2.0, 0.0]) @ v + c
    for model in (sparse, lower(sparse)):
        received = models.outputs(model, inputs)[0]
        np.testing.assert_allclose(received, expected, rtol=1e-5)


def test_a_model_without_a_group_is_refused_with_its_reasons():
    vector = keras.Input((3,), name="vector")
    model = keras.Model(vector, keras.layers.Dense(2, name="out")(vector), name="flat")
    with pytest.raises(
        ValueError, match="'flat' without one .out: its units are the mod"
    ):
        prepared(model)
