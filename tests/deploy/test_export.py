"""Exported files: whole, int8, equal to the model, down to the microcontroller."""

import os

import keras
import numpy as np
import pytest

import tfsparse
from tfsparse import zoo
from tfsparse.deploy import interpreters
from tfsparse.deploy.export import FORMATS, _save_saved_model


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return zoo.build("lenet5", (16, 16, 1), 5, width=0.2)


@pytest.fixture(scope="module")
def inputs():
    return np.random.default_rng(0).random((64, 16, 16, 1)).astype("float32")


@pytest.fixture(scope="module")
def artifacts(model, inputs, tmp_path_factory):
    return tfsparse.export(model, str(tmp_path_factory.mktemp("out")), inputs)


def test_every_format_appears_and_matches(model, artifacts, inputs):
    assert [a.format for a in artifacts] == list(FORMATS)
    rows = {row.artifact: row for row in tfsparse.verify(model, artifacts, inputs)}
    for name in ("keras", "saved_model", "tflite_float"):
        assert rows[name].max_abs_difference < 1e-5, name
    assert rows["tflite_int8"].argmax_agreement > 0.95
    assert rows["tflite_int8"].max_abs_difference < 0.1
    for artifact in artifacts:
        assert artifact.file_bytes > 1000
    folder = os.path.dirname(artifacts[0].path)
    assert not [name for name in os.listdir(folder) if name.startswith(".partial")]


def test_int8_file_is_int8_throughout(artifacts, inputs):
    from ai_edge_litert.interpreter import Interpreter

    path = artifacts[-1].path
    interpreter = Interpreter(model_path=path)
    interpreter.allocate_tensors()
    (source,), (target,) = (
        interpreter.get_input_details(),
        interpreter.get_output_details(),
    )
    assert source["dtype"] == target["dtype"] == np.int8
    _, (operators, _) = interpreters.run_tflite(path, [inputs[:2]])
    assert set(operators) <= {"CONV_2D", "MAX_POOL_2D", "RESHAPE", "FULLY_CONNECTED"}
    assert len(operators) >= 6


def test_microcontroller_interpreter_agrees(artifacts, inputs):
    pytest.importorskip("tflite_micro")
    (outputs,), arena = interpreters.run_micro(artifacts[-1].path, [inputs])
    (expected,), _ = interpreters.run_tflite(artifacts[-1].path, [inputs])
    step = np.abs(np.diff(np.unique(expected))).min()
    assert np.abs(outputs - expected).max() <= 1.01 * step
    assert 1000 < arena < 30_000


def test_a_float_tensor_in_an_int8_file_is_noticed(model, tmp_path):
    import tensorflow as tf

    _save_saved_model(model, str(tmp_path / "saved"))
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved"))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    path = tmp_path / "half.tflite"
    path.write_bytes(converter.convert())
    x = np.zeros((1, 16, 16, 1), "float32")
    _, facts = interpreters._asked("litert", str(path), [x])
    assert not facts["int8"]
    with pytest.raises(ValueError, match="int8 operators only"):
        interpreters.check_int8(str(path), facts["floats"])


def test_what_export_refuses(model, inputs, tmp_path):
    with pytest.raises(ValueError, match="formats"):
        tfsparse.export(model, str(tmp_path), inputs, formats=("onnx",))
    with pytest.raises(ValueError, match="calibration_data"):
        tfsparse.export(model, str(tmp_path), None)
    with pytest.raises(ValueError, match="hold samples"):
        tfsparse.verify(model, (), inputs[:0])


def test_an_operator_without_int8_form_leaves_nothing_behind(tmp_path, inputs):
    x = entry = keras.Input((16, 16, 1))
    x = keras.ops.erfinv(keras.layers.Flatten()(x) * 0.1)
    broken = keras.Model(entry, keras.layers.Dense(2)(x))
    with pytest.raises(ValueError, match="builtin int8"):
        tfsparse.export(broken, str(tmp_path), inputs, formats=("tflite_int8",))
    assert os.listdir(tmp_path) == []
