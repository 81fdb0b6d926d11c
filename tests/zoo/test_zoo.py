"""The zoo: published parameter counts, shapes, and a user's own models."""

import keras
import numpy as np
import pytest

from tfsparse import zoo
from tfsparse.graph import find_groups, measure


@pytest.mark.parametrize(
    ("name", "shape", "params", "macs"),
    [
        ("lenet_300_100", (28, 28, 1), 266_610, 266_200),
        ("lenet5", (28, 28, 1), 431_080, 2_293_000),
        ("mlp", (28, 28, 1), 109_962, 109_184),
        ("mcu_cnn", (28, 28, 1), 14_426, None),
        ("mcu_cnn", (96, 96, 3), 25_082, None),
        ("mcu_tcn", (100, 6), 15_292, None),
        # As published by MLPerf Tiny.
        ("resnet8", (32, 32, 3), 78_666, None),
        ("ds_cnn", (49, 10, 1), 24_908, None),
        ("mobilenet_v1_025", (96, 96, 3), 221_794, None),
        ("autoencoder", (640,), 269_992, 264_192),
        # As drawn by hand for MNIST.
        ("drawn_lenet", (28, 28, 1), 7_920, None),
        ("drawn_strided", (28, 28, 1), 1_768, None),
        ("drawn_strided_bn", (28, 28, 1), 1_852, None),
        ("resnet50", (224, 224, 3), 25_557_032, 4_089_184_256),
        ("vgg16", (32, 32, 3), 14_995_146, None),
        ("resnet20", (32, 32, 3), 274_042, None),
        ("resnet56", (32, 32, 3), 860_026, None),
        (
            "mobilenet_v2",
            (224, 224, 3),
            3_538_984,
            None,
        ),  # as keras.applications builds it
    ],
)
def test_published_sizes(name, shape, params, macs):
    classes = {
        "ds_cnn": 12,
        "resnet50": 1000,
        "autoencoder": 640,
        "mobilenet_v2": 1000,
    }.get(name, 10)
    classes = 2 if shape == (96, 96, 3) else 4 if shape == (100, 6) else classes
    model = zoo.build(name, shape, classes)
    assert model.output_shape == (None, classes)
    cost = measure(model)
    assert cost.params == model.count_params()
    assert cost.params == params or name in ("vgg16", "resnet50")
    assert abs(cost.params - params) < 0.01 * params
    assert macs is None or cost.macs == macs
    assert any(not group.frozen for group in find_groups(model))


def test_width_and_hidden():
    half = zoo.build("lenet5", (28, 28, 1), 10, width=0.5)
    assert [half.get_layer(n).filters for n in ("conv1", "conv2")] == [10, 25]
    mlp = zoo.build("mlp", (7,), 3, hidden=(5, 4, 6))
    dense = [layer for layer in mlp.layers if isinstance(layer, keras.layers.Dense)]
    assert [layer.units for layer in dense] == [5, 4, 6, 3]
    tiny = zoo.build("mlp", (7,), 3, width=1e-6)
    assert tiny.get_layer("fc1").units == 1


def own_model(input_shape, classes):
    return keras.Sequential(
        [keras.Input(input_shape), keras.layers.Flatten(), keras.layers.Dense(classes)]
    )


def too_few(input_shape):
    return own_model(input_shape, 10)


def no_model(input_shape, classes):
    return 3


def with_lambda(input_shape, classes):
    x = inputs = keras.Input(input_shape)
    x = keras.layers.Lambda(lambda t: t * 2)(x)
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, keras.layers.Dense(classes)(x))


def test_own_function_and_file(tmp_path):
    model = zoo.build(f"{__name__}:own_model", (4, 4, 1), 3)
    assert model.count_params() == 51
    path = str(tmp_path / "own.keras")
    model.save(path)
    assert zoo.build(path, (4, 4, 1), 3).count_params() == 51


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnet9000", "one of"),
        ("none.keras", "exists"),
        ("no_such_package_x:f", "can be imported"),
        (f"{__name__}:missing", "can be imported"),
        (f"{__name__}:too_few", r"function of \(input_shape, outputs\)"),
        (f"{__name__}:no_model", "keras.Model"),
        (f"{__name__}:with_lambda", "Lambda"),
    ],
)
def test_unusable_models(name, sentence):
    with pytest.raises(ValueError, match=sentence):
        zoo.build(name, (4, 4, 1), 3)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x05\x06" + 18 * b"\x00"])
def test_damaged_keras_file(tmp_path, content):
    path = tmp_path / "bad.keras"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="`model` must"):
        zoo.build(str(path), (4, 4, 1), 3)


def test_lambda_in_a_file_is_refused_by_safe_mode(tmp_path):
    path = str(tmp_path / "lambda.keras")
    with_lambda((4, 4, 1), 3).save(path)
    with pytest.raises(ValueError, match="safe mode"):
        zoo.build(path, (4, 4, 1), 3)


def test_wrong_shapes():
    with pytest.raises(ValueError, match="too small"):
        zoo.build("lenet5", (6, 6, 1), 10)
    with pytest.raises(ValueError, match="images"):
        zoo.build("resnet8", (60,), 10)
    with pytest.raises(ValueError, match="made for"):
        zoo.build(f"{__name__}:fixed", (5, 5, 1), 3)
    with pytest.raises(ValueError, match="width"):
        zoo.build("lenet5", (28, 28, 1), 10, width=0)


def fixed(input_shape, classes):
    return own_model((4, 4, 1), classes)


def test_hidden_layers_are_for_the_mlp_alone(tmp_path):
    path = str(tmp_path / "own.keras")
    zoo.build("mlp", (4, 4, 1), 3, hidden=(5,)).save(path)
    for name in (path, "lenet5"):
        with pytest.raises(ValueError, match="`hidden` is for the model 'mlp'"):
            zoo.build(name, (28, 28, 1), 3, hidden=(5,))


@pytest.mark.parametrize(
    ("shape", "reconstructs", "name"),
    [
        ((13,), False, "mlp"),
        ((100, 6), False, "mcu_tcn"),
        ((28, 28, 1), False, "mcu_cnn"),
        ((100, 6), True, "autoencoder"),
    ],
)
def test_a_network_to_start_from(shape, reconstructs, name):
    assert zoo.named("auto", shape, reconstructs) == name
    assert zoo.named("lenet5", shape) == "lenet5"


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8, 15, 16, 17, 33, 64, 97, 224])
def test_any_picture_and_any_series_fits(side):
    assert zoo.build("mcu_cnn", (side, side, 3), 2).output_shape == (None, 2)
    assert zoo.build("mcu_cnn", (side, 7, 1), 2).output_shape == (None, 2)
    assert zoo.build("mcu_tcn", (side, 3), 2).output_shape == (None, 2)


def test_scaling_stands_around_a_network():
    scaling = zoo.Scaling((10.0, 20.0), (2.0, 4.0), (5.0,), (100.0,))
    model = zoo.build("mlp", (2,), 1, hidden=(3,), scaling=scaling)
    plain = zoo.build("mlp", (2,), 1, hidden=(3,))
    plain.set_weights(model.get_weights())
    x = np.array([[12.0, 16.0], [8.0, 24.0]], "float32")
    expected = 5.0 * plain(np.array([[1.0, -1.0], [-1.0, 1.0]], "float32")) + 100.0
    np.testing.assert_allclose(model(x), expected, rtol=1e-5)


def test_outputs_may_have_a_shape():
    model = zoo.build("autoencoder", (20, 3), (20, 3))
    assert model.output_shape == (None, 20, 3)
