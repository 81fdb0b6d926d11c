"""Normalised columns: what an int8 file leaves to the firmware, and what stands beside it."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from keras import layers

import tfsparse
from tfsparse.deploy import front, probe
from tfsparse.graph.rebuild import copied

RNG = np.random.default_rng(0)
WIDE = (RNG.normal(size=(200, 3)) * [800, 6, 0.8] + [101325, 420, 29.5]).astype(
    "float32"
)


def net(*first, last=(), units=2):
    return keras.Sequential(
        [
            keras.Input((3,)),
            *first,
            layers.Dense(8, activation="relu"),
            layers.Dense(units),
            *last,
        ]
    )


def adapted(x=WIDE):
    layer = layers.Normalization()
    layer.adapt(x)
    return layer


@pytest.mark.parametrize("kind", ["adapted", "constants"])
def test_columns_that_int8_cannot_tell_apart_are_left_to_firmware(tmp_path, kind):
    mean, variance = WIDE.mean(0), WIDE.var(0)
    layer = (
        adapted()
        if kind == "adapted"
        else layers.Normalization(mean=mean, variance=variance)
    )
    model = net(layer)
    files = tfsparse.export(
        model, str(tmp_path), WIDE, formats=("tflite_float", "tflite_int8")
    )
    stored = json.loads((tmp_path / "model_int8.json").read_text())
    np.testing.assert_allclose(stored["input"]["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(stored["input"]["deviation"], WIDE.std(0), rtol=1e-3)
    rows = {row.artifact: row for row in tfsparse.verify(model, files, WIDE)}
    spread = np.ptp(model.predict(WIDE, verbose=0))
    assert rows["tflite_int8"].max_abs_difference < 0.05 * spread
    assert rows["mcu"].samples == 200
    assert "SUB" in rows["tflite_float"].operators  # it takes columns as they are
    assert not {"SUB", "MUL"} & set(rows["tflite_int8"].operators)


def test_columns_alike_stay_inside(tmp_path):
    x = RNG.normal(size=(100, 3)).astype("float32")
    model = net(adapted(x))
    core, around = front.cut(model)
    assert around.trivial and core is model
    tfsparse.export(model, str(tmp_path), x, formats=("tflite_int8",))
    assert not (tmp_path / "model_int8.json").exists()


def test_pictures_are_never_cut():
    inputs = keras.Input((8, 8, 3))
    x = layers.Normalization(mean=[0.48, 0.45, 0.41], variance=[0.05] * 3)(inputs)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    assert front.cut(model)[1].trivial


def test_several_numbers_leave_their_units_to_firmware(tmp_path):
    model = net(adapted(), last=[layers.Rescaling([1.0, 1000.0], [5.0, -3.0])])
    files = tfsparse.export(model, str(tmp_path), WIDE, formats=("tflite_int8",))
    around = front.read(files[0].path)
    assert around.scale == (1.0, 1000.0) and around.offset == (5.0, -3.0)
    row = tfsparse.verify(model, files, WIDE)[0]
    outputs = model.predict(WIDE, verbose=0)
    assert row.max_abs_difference < 0.05 * np.ptp(outputs[:, 1])
    one = net(adapted(), last=[layers.Rescaling(50.0, 10.0)], units=1)
    assert front.cut(one)[1].scale is None  # a single number has a scale of its own


def test_the_file_of_an_older_export_is_taken_away(tmp_path):
    tfsparse.export(net(adapted()), str(tmp_path), WIDE, formats=("tflite_int8",))
    assert (tmp_path / "model_int8.json").exists()
    tfsparse.export(net(), str(tmp_path), WIDE, formats=("tflite_int8",))
    assert not (tmp_path / "model_int8.json").exists()


def test_what_else_firmware_needs_stands_beside_it(tmp_path):
    facts = {"outputs": ["dry", "wet"]}
    tfsparse.export(net(), str(tmp_path), WIDE, formats=("tflite_int8",), beside=facts)
    assert json.loads((tmp_path / "model_int8.json").read_text()) == facts
    assert front.read(str(tmp_path / "model_int8.tflite")).trivial


def test_a_copy_normalises_as_its_model_does():
    model = net(adapted())
    x = WIDE[:20]
    np.testing.assert_allclose(copied(model)(x), model(x), rtol=1e-5)
    assert (
        np.abs(np.asarray(model(x))).max() < 100
    )  # a switched-off layer would tell 100,000


def test_random_inputs_lie_where_a_normalization_expects_them():
    (x,) = probe.random_inputs(net(adapted()), np.random.default_rng(0), 400)
    scaled = (x - WIDE.mean(0)) / WIDE.std(0)
    assert np.abs(scaled.mean(0)).max() < 1 and 0.3 < scaled.std(0).min() < 2
