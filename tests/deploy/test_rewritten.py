"""Recurrent layers and look-ups reach the microcontroller in int8."""

import keras
import numpy as np
import pytest
from keras import layers as L

import tfsparse
from tfsparse.deploy import probe, rewritten

LOOPS = {
    "lstm": lambda: L.LSTM(6),
    "lstm backwards": lambda: L.LSTM(6, go_backwards=True, return_sequences=True),
    "lstm without bias": lambda: L.LSTM(6, use_bias=False),
    "gru": lambda: L.GRU(6),
    "gru without reset_after": lambda: L.GRU(6, reset_after=False),
    "gru without bias": lambda: L.GRU(6, use_bias=False, return_sequences=True),
    "simple": lambda: L.SimpleRNN(6, return_sequences=True),
    "simple without bias": lambda: L.SimpleRNN(6, use_bias=False),
    "concat": lambda: L.Bidirectional(L.GRU(4, return_sequences=True)),
    "sum": lambda: L.Bidirectional(L.LSTM(4), merge_mode="sum"),
    "ave": lambda: L.Bidirectional(
        L.SimpleRNN(4, return_sequences=True), merge_mode="ave"
    ),
    "mul": lambda: L.Bidirectional(L.LSTM(4), merge_mode="mul"),
    "stacked": lambda: L.RNN([L.LSTMCell(4), L.GRUCell(5)], return_sequences=True),
    "cell": lambda: L.RNN(L.SimpleRNNCell(4)),
}


def network(layer, shape=(7, 5), **arguments):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input(shape, **arguments), layer, L.Flatten(), L.Dense(3)]
    )
    rng = np.random.default_rng(0)
    for variable in model.variables:  # zero biases would hide one that is left out
        variable.assign(np.array(variable) + 0.2 * rng.normal(size=variable.shape))
    return model


@pytest.mark.parametrize("name", LOOPS)
def test_steps_compute_what_the_loop_does(name):
    model = network(LOOPS[name]())
    copy = rewritten.rewritten(model)
    assert copy is not model and not any(isinstance(x, L.RNN) for x in copy.layers)
    inputs = probe.random_inputs(model, np.random.default_rng(1), 5)
    for expected, found in zip(
        probe.run(model, inputs), probe.run(copy, inputs), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_states_are_handed_out():
    entry = keras.Input((6, 5))
    outputs = L.LSTM(4, return_state=True, return_sequences=True)(entry)
    model = keras.Model(entry, outputs)
    copy = rewritten.rewritten(model)
    x = np.random.default_rng(0).normal(size=(3, 6, 5)).astype("float32")
    for expected, found in zip(model(x), copy(x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gru", "lstm backwards", "concat", "stacked"])
def test_loops_run_on_the_chip(name, tmp_path):
    pytest.importorskip("tflite_micro")
    model = network(LOOPS[name]())
    x = np.random.default_rng(0).normal(size=(40, 7, 5)).astype("float32")
    files = tfsparse.export(model, str(tmp_path), x, ("tflite_int8",))
    rows = tfsparse.verify(model, files, x[:10])
    assert rows[1].samples == 10, rows[1].note
    assert rows[0].max_abs_difference < 0.15


def test_a_lookup_runs_on_the_chip(tmp_path):
    pytest.importorskip("tflite_micro")
    model = network(L.Embedding(10, 4), (6,), dtype="int32")
    x = np.random.default_rng(0).integers(0, 10, (40, 6)).astype("int32")
    files = tfsparse.export(model, str(tmp_path), x, ("tflite_int8",))
    rows = tfsparse.verify(model, files, x[:10])
    assert rows[1].samples == 10, rows[1].note
    assert rows[0].max_abs_difference < 0.15


NORMALISERS = {
    "layer": lambda: L.LayerNormalization(),
    "layer over two axes": lambda: L.LayerNormalization(axis=(1, 2)),
    "layer without scale": lambda: L.LayerNormalization(scale=False),
    "rms": lambda: L.RMSNormalization(),
    "unit": lambda: L.UnitNormalization(),
    "group": lambda: L.GroupNormalization(2),
    "group without shift": lambda: L.GroupNormalization(3, center=False),
}


@pytest.mark.parametrize("name", NORMALISERS)
def test_a_normaliser_runs_on_the_chip(name, tmp_path):
    pytest.importorskip("tflite_micro")
    model = network(NORMALISERS[name](), (7, 6))
    inputs = probe.random_inputs(model, np.random.default_rng(1), 5)
    copy = rewritten.rewritten(model)
    assert copy is not model
    for expected, found in zip(
        probe.run(model, inputs), probe.run(copy, inputs), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    x = np.random.default_rng(0).normal(size=(40, 7, 6)).astype("float32")
    files = tfsparse.export(model, str(tmp_path), x, ("tflite_int8",))
    rows = tfsparse.verify(model, files, x[:10])
    assert rows[1].samples == 10, rows[1].note
    assert rows[0].max_abs_difference < 0.5


@pytest.mark.parametrize(
    "layer",
    [
        lambda x: L.LSTM(4)(L.Masking()(x)),
        lambda x: L.LSTM(4)(x, initial_state=[L.Dense(4)(x[:, 0])] * 2),
        lambda x: L.Dense(4)(x),
    ],
    ids=["mask", "state from outside", "no loop"],
)
def test_what_is_no_plain_loop_stays(layer):
    entry = keras.Input((6, 5))
    model = keras.Model(entry, layer(entry))
    assert rewritten.rewritten(model) is model


def test_a_loop_that_cannot_be_unrolled_is_said(tmp_path):
    entry = keras.Input((6, 5))
    model = keras.Model(entry, L.LSTM(4, name="words")(L.Masking()(entry)))
    x = np.random.default_rng(0).normal(size=(8, 6, 5)).astype("float32")
    with pytest.raises(ValueError, match="words cannot be unrolled"):
        tfsparse.export(model, str(tmp_path), x, ("tflite_int8",))
    assert not list(tmp_path.iterdir())
