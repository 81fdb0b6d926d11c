"""The Filter layer: its equations, its penalty, and when its rule runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfsparse import records
from tfsparse.layers import Filter, SwitchDecay


def built(units=4, **arguments):
    layer = Filter(units, **arguments)
    layer.build((None, units))
    return layer


def values(variable) -> np.ndarray:
    return ops.convert_to_numpy(variable).copy()


@pytest.mark.parametrize("shape", [(3, 4), (2, 5, 4), (2, 3, 5, 4), (2, 2, 3, 2, 4)])
def test_eq_1_multiplies_by_the_positive_part(shape):
    layer = built()
    layer.switch.assign([0.5, -1.0, 0.0, 2.0])
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    expected = x * np.maximum(0.0, np.array([0.5, -1.0, 0.0, 2.0]))
    np.testing.assert_allclose(values(layer(x)), expected, rtol=1e-6)
    assert layer.alive_units().tolist() == [True, False, False, True]


def test_the_signed_form_multiplies_by_the_switch_while_alive():
    layer = built(form="signed")
    layer.switch.assign([0.5, -1.0, 0.25, 2.0])
    layer.alive.assign([1.0, 1.0, 0.0, 1.0])
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    received = values(layer(x))
    np.testing.assert_allclose(received, x * [0.5, -1.0, 0.0, 2.0], rtol=1e-6)
    np.testing.assert_allclose(values(layer.scale()), [0.5, -1.0, 0.0, 2.0])


@pytest.mark.parametrize(
    ("form", "expected"), [("relu", 0.3 * 2.5), ("signed", 0.3 * (0.5 + 1.0 + 2.0))]
)
def test_eq_2_penalises_what_is_on(form, expected):
    layer = built(form=form, strength=0.3)
    layer.switch.assign([0.5, -1.0, 0.0, 2.0])
    np.testing.assert_allclose(float(ops.sum(layer.losses)), expected, rtol=1e-6)
    layer.strength.assign(0.6)
    np.testing.assert_allclose(float(ops.sum(layer.losses)), 2 * expected, rtol=1e-6)


def test_a_dead_signed_switch_is_not_penalised():
    layer = built(form="signed", strength=1.0)
    layer.switch.assign([0.5, -1.0, 3.0, 2.0])
    layer.alive.assign([1.0, 0.0, 0.0, 1.0])
    np.testing.assert_allclose(float(ops.sum(layer.losses)), 2.5, rtol=1e-6)


@pytest.mark.parametrize("form", records.SWITCH_FORMS)
def test_one_penalty_for_a_switch_called_at_three_sites(form):
    vector = keras.Input((4,))
    layer = Filter(4, form=form, strength=0.5, name="switch")
    x = [layer(layers.Dense(4)(vector), activation="relu") for _ in range(3)]
    model = keras.Model(vector, layers.Dense(1)(layers.Add()(x)))
    layer.switch.assign([1.0, 1.0, 1.0, -1.0])
    assert len(model.losses) == 1
    expected = 0.5 * (3.0 if form == "relu" else 4.0)
    np.testing.assert_allclose(float(model.losses[0]), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("form", "low", "high"), [("relu", 0.0, 1.0), ("signed", -1.0, 1.0)]
)
def test_initial_switches_are_uniform_and_seeded(form, low, high):
    first = values(built(2000, form=form, seed=3).switch)
    assert (first > low).all() if form == "relu" else first.min() < -0.99
    assert first.max() <= high and abs(first.mean() - (low + high) / 2) < 0.05
    assert np.array_equal(first, values(built(2000, form=form, seed=3).switch))
    assert not np.array_equal(first, values(built(2000, form=form, seed=4).switch))


def test_switches_that_begin_as_ones():
    layer = built(form="signed", initial="ones")
    assert values(layer.switch).tolist() == values(layer.mean).tolist() == [1.0] * 4
    assert not values(layer.variance).any() and values(layer.alive).all()


def test_units_and_activation_of_a_call():
    """Channels 0, 3 belong to another group; channels 1, 2 share unit 1."""
    layer = built(2)
    layer.switch.assign([0.5, 3.0])
    x = np.array([[-1.0, 2.0, -1.0, 5.0, 1.0]], "float32")
    received = layer(x, units=(-1, 1, 1, -1, 0), activation="relu")
    np.testing.assert_allclose(values(received), [[0.0, 6.0, 0.0, 5.0, 0.5]])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"form": "step"}, r"`form` must be one of .* Received: form='step'"),
        ({"strength": -1.0}, r"`strength` must be >= 0. Received: strength=-1.0"),
        (
            {"strength": float("nan")},
            r"`strength` must be >= 0. Received: strength=nan",
        ),
        ({"gamma": 1.5}, r"`gamma` must be in \[0, 1\]. Received: gamma=1.5"),
        ({"initial": "zeros"}, r"`initial` must be 'uniform' or 'ones'. Received"),
    ],
)
def test_wrong_arguments_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        Filter(4, **arguments)


@pytest.mark.parametrize(("power", "expected"), [(1, 0.5 * 3.5), (2, 0.5 * 5.25)])
def test_decay_is_the_second_term_of_eq_10(power, expected):
    decay = SwitchDecay(0.5, power)
    np.testing.assert_allclose(
        float(decay(ops.array([[0.5, -1.0], [2.0, 0.0]]))), expected
    )
    again = keras.regularizers.deserialize(keras.regularizers.serialize(decay))
    assert again.get_config() == {"strength": 0.5, "power": power}
    with pytest.raises(ValueError, match="`power` must be 1 or 2. Received: power=3"):
        SwitchDecay(0.5, 3)


# When the rule runs ---------------------------------------------------------------

UNITS = 5
BATCH = 8


class Record(keras.callbacks.Callback):
    """The switches after every batch that Keras reports."""

    def __init__(self):
        super().__init__()
        self.switches = []

    def on_train_batch_end(self, batch, logs=None):
        self.switches.append(values(self.model.get_layer("switch").switch))


def net(sites=1, gamma=0.5, start=None):
    """Dense -> Filter (called `sites` times) -> Dense; the switches flip their signs."""
    vector = keras.Input((3,))
    layer = Filter(UNITS, form="signed", gamma=gamma, name="switch", seed=2)
    x = [layer(layers.Dense(UNITS, name=f"d{k}")(vector)) for k in range(sites)]
    out = layers.Dense(1, name="out")(x[0] if sites == 1 else layers.Add()(x))
    model = keras.Model(vector, out)
    rng = np.random.default_rng(4)
    for variable in model.weights:
        if "switch" not in variable.path:
            variable.assign(rng.normal(0, 1, variable.shape))
    if start is not None:
        layer.switch.assign(start)
        layer.mean.assign(np.sign(start))
        layer.last.assign(start)
    return model


def data(steps=12, seed=5):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(steps * BATCH, 3)).astype("float32")
    return x, rng.normal(0, 3, (steps * BATCH, 1)).astype("float32")


def rule(trace, gamma):
    """mean, variance, alive after a list of switch values, by a NumPy loop."""
    mean, variance = np.sign(trace[0]), np.zeros(UNITS)
    alive = np.ones(UNITS)
    for switch in trace[1:]:
        deviation = np.sign(switch) - mean
        variance = gamma * variance + (1 - gamma) * deviation**2
        mean = gamma * mean + (1 - gamma) * np.sign(switch)
        alive = alive * (variance <= 0.5)
    return mean, variance, alive


def state(layer):
    return [values(x) for x in layer.pending()]


START = np.array([0.05, -0.05, 0.02, -0.02, 0.5], "float32")


@pytest.mark.parametrize("sites", [1, 3])
def test_the_rule_runs_once_for_each_optimizer_step(sites):
    model = net(sites, gamma=0.8, start=START)
    model.compile(keras.optimizers.SGD(0.02), "mse", jit_compile=False)
    record = Record()
    x, y = data()
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[record])
    expected = rule([START, *record.switches], 0.8)
    for mine, theirs in zip(expected, state(model.get_layer("switch")), strict=True):
        np.testing.assert_allclose(theirs, mine, atol=1e-6)
    assert len(record.switches) == 12 and 0 < expected[2].sum() < UNITS


def test_the_rule_waits_for_accumulated_gradients():
    optimizer = keras.optimizers.Adam(0.05, gradient_accumulation_steps=2)
    model = net(gamma=0.8, start=START)
    model.compile(optimizer, "mse", jit_compile=False)
    record = Record()
    x, y = data()
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[record])
    before, half = [START, *record.switches[1:-1:2]], record.switches[::2]
    held = [np.array_equal(a, b) for a, b in zip(before, half, strict=True)]
    assert all(held) and len(held) == 6  # every second micro-batch moves nothing
    expected = rule([START, *record.switches[1::2]], 0.8)
    for mine, theirs in zip(expected, state(model.get_layer("switch")), strict=True):
        np.testing.assert_allclose(theirs, mine, atol=1e-6)
    assert 0 < expected[2].sum() < UNITS


def test_several_steps_in_one_execution_are_several_steps():
    results = []
    for steps in (1, 4):
        model = net(gamma=0.8, start=START)
        model.compile(
            keras.optimizers.SGD(0.02),
            "mse",
            jit_compile=False,
            steps_per_execution=steps,
        )
        x, y = data()
        model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
        results.append([*state(model.get_layer("switch")), *map(values, model.weights)])
    for one, four in zip(*results, strict=True):
        np.testing.assert_allclose(four, one, atol=1e-6)
    assert 0 < results[0][2].sum() < UNITS


def test_death_is_permanent_and_stops_the_units_gradient():
    model = net(gamma=0.0, start=START)
    model.compile(keras.optimizers.SGD(0.02), "mse", jit_compile=False)
    layer, alive = model.get_layer("switch"), []
    x, y = data(24)
    for step in range(24):
        batch = slice(step * BATCH, (step + 1) * BATCH)
        model.train_on_batch(x[batch], y[batch])
        alive.append(layer.alive_units())
    assert 0 < alive[-1].sum() < UNITS
    assert all(
        (now <= before).all() for before, now in zip(alive, alive[1:], strict=False)
    )
    before, gone = values(layer.switch), ~alive[-1]
    column = values(model.get_layer("d0").kernel)
    layer.switch.assign(np.where(gone, -before, before))  # a sign that comes back
    model.train_on_batch(x[:BATCH], y[:BATCH])
    assert not layer.alive_units()[gone].any()
    assert not values(layer(np.ones((1, UNITS))))[:, gone].any()
    now = values(model.get_layer("d0").kernel)
    assert np.array_equal(now[:, gone], column[:, gone])
    assert not np.array_equal(now[:, ~gone], column[:, ~gone])


def test_inference_judges_nothing():
    model = net(gamma=0.0, start=START)
    layer = model.get_layer("switch")
    layer.switch.assign(-START)
    before = [values(v) for v in layer.variables]
    model.predict(data(1)[0], verbose=0)
    assert all(
        np.array_equal(a, values(b))
        for a, b in zip(before, layer.variables, strict=True)
    )
    assert not layer.alive_units().any()


def test_save_and_load_in_the_middle_changes_nothing(tmp_path):
    x, y = data(12)

    def fit(model, part):
        model.fit(x[part], y[part], batch_size=BATCH, shuffle=False, verbose=0)
        return model

    def compiled():
        model = net(sites=2, gamma=0.8, start=START)
        model.compile(keras.optimizers.Adam(0.02), "mse", jit_compile=False)
        return model

    half = len(x) // 2
    whole = fit(fit(compiled(), slice(0, half)), slice(half, None))
    fit(saved := compiled(), slice(0, half)).save(tmp_path / "half.keras")
    loaded = keras.saving.load_model(tmp_path / "half.keras")
    assert isinstance(loaded.get_layer("switch"), Filter)
    assert (
        loaded.get_layer("switch").get_config()
        == saved.get_layer("switch").get_config()
    )
    fit(loaded, slice(half, None))
    for mine, theirs in zip(whole.variables, loaded.variables, strict=True):
        np.testing.assert_allclose(values(theirs), values(mine), atol=1e-6)


REPLICAS = """
import json, sys
import keras, tensorflow as tf
sys.path.insert(0, sys.argv[1])
import test_filter
cpu = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    model = test_filter.fitted()
assert strategy.num_replicas_in_sync == 2
print(json.dumps(test_filter.told(model)))
"""


def fitted():
    model = net(2, gamma=0.8, start=START)
    model.compile(keras.optimizers.SGD(0.02), "mse", jit_compile=False)
    model.fit(*data(), batch_size=BATCH, shuffle=False, verbose=0)
    return model


def told(model) -> dict:
    alive = model.get_layer("switch").alive_units()
    return {v.path: values(v).tolist() for v in model.variables} | {
        "alive": alive.tolist()
    }


def test_two_replicas_equal_one():
    """The same global batch on one and on two logical devices: the same switches."""
    done = subprocess.run(
        [sys.executable, "-c", REPLICAS, os.path.dirname(__file__)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = told(fitted()), json.loads(done.stdout.splitlines()[-1])
    assert "switch/variance" in one and 0 < sum(one["alive"]) < UNITS
    assert two.pop("alive") == one.pop("alive")
    ours = {path: value for path, value in one.items() if not path.startswith("sgd")}
    for path, value in ours.items():
        np.testing.assert_allclose(two[path], value, atol=2e-5, err_msg=path)


@pytest.mark.parametrize("form", records.SWITCH_FORMS)
def test_a_held_unit_does_not_die(form):
    inputs = keras.Input((4,))
    switch = Filter(4, form=form, strength=50.0, gamma=0.0, initial="ones")
    model = keras.Model(inputs, switch(inputs))
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    x = np.ones((8, 4), "float32")
    switch.switch.assign([1.0, 0.001, 0.5, 1.0])
    switch.hold()
    model.fit(x, np.zeros_like(x), epochs=3, batch_size=4, verbose=0)
    assert switch.alive_units().all()
    assert (ops.convert_to_numpy(switch.scale()) != 0).all()
    free = Filter(4, form=form, strength=50.0, gamma=0.0, initial="ones")
    model = keras.Model(inputs, free(inputs))
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    model.fit(x, np.zeros_like(x), epochs=3, batch_size=4, verbose=0)
    assert not free.alive_units().any()
