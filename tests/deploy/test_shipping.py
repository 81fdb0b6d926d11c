"""What ships: all inputs and outputs, in float32, without what acts in training alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

import tfsparse
from tfsparse.deploy import shipping


def several(structure="list"):
    """Two inputs, one of them whole numbers, and two outputs."""
    keras.utils.set_random_seed(0)
    a = keras.Input((8,), name="zeta")
    b = keras.Input((4,), dtype="int32", name="alpha")
    h = L.Dense(8, activation="relu")(a)
    k = L.Flatten()(L.Embedding(5, 3)(b))
    h = L.Concatenate()([h, k])
    outputs = [L.Dense(3, name="winner")(h), L.Dense(1, name="height")(h)]
    if structure == "dict":
        names = ("winner", "height")
        return keras.Model(
            {"zeta": a, "alpha": b}, dict(zip(names, outputs, strict=True))
        )
    return keras.Model([a, b], outputs)


def arrays(count=40):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 8)).astype("float32")
    return x, rng.integers(0, 5, (count, 4)).astype("int32")


@pytest.mark.parametrize("structure", ["list", "dict"])
def test_several_inputs_and_outputs_reach_the_chip(structure, tmp_path):
    pytest.importorskip("tflite_micro")
    model, (a, b) = several(structure), arrays()
    x = {"zeta": a, "alpha": b} if structure == "dict" else [a, b]
    made = tfsparse.export(model, str(tmp_path), x)
    rows = {row.artifact: row for row in tfsparse.verify(model, made, x)}
    for name in ("keras", "saved_model", "tflite_float"):
        assert rows[name].max_abs_difference < 1e-5, name
    assert rows["tflite_int8"].max_abs_difference < 0.1
    assert rows["mcu"].samples == 40 and rows["mcu"].max_abs_difference < 0.05
    # Swapped inputs or outputs would be far off.
    spread = np.std(np.asarray(keras.tree.flatten(model(x))[0]))
    assert spread > 0.3


def test_many_inputs_keep_their_order(tmp_path):
    entries = [keras.Input((2,), name=f"in{11 - n}") for n in range(11)]
    weighted = [
        L.Rescaling(float(2**n), name=f"times{n}")(x) for n, x in enumerate(entries)
    ]
    model = keras.Model(entries, L.Add()(weighted))
    x = [np.full((3, 2), n, "float32") for n in range(11)]
    (made,) = tfsparse.export(model, str(tmp_path), x, ("tflite_float",))
    (row,) = tfsparse.verify(model, (made,), x)
    assert row.max_abs_difference < 1e-2


def classifier(*layers, shape=(8,)):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input(shape), *layers, L.Dense(3)])


@keras.saving.register_keras_serializable("tests")
class OwnNoise(L.Layer):
    """A user's augmentation."""

    def call(self, x, training=None):
        return x + keras.random.normal(keras.ops.shape(x)) if training else x


@keras.saving.register_keras_serializable("tests")
class OwnScale(L.Layer):
    """Takes `training`, and acts outside it, too."""

    def call(self, x, training=None):
        return x * (1.0 if training else 0.5)


def test_what_acts_in_training_alone_does_not_ship():
    model = classifier(
        L.RandomTranslation(0.1, 0.1), L.RandomFlip(), L.Conv2D(4, 3),
        L.SpatialDropout2D(0.5), L.GaussianNoise(0.1), OwnNoise(), OwnScale(),
        L.Flatten(), L.Dropout(0.5), shape=(12, 12, 3),
    )  # fmt: skip
    small = shipping.shipped(model)
    names = [type(layer).__name__ for layer in small.layers]
    assert names == ["InputLayer", "Conv2D", "OwnScale", "Flatten", "Dense"]
    x = np.random.default_rng(0).random((4, 12, 12, 3)).astype("float32")
    np.testing.assert_allclose(small(x), model(x, training=False), rtol=1e-6)
    assert len(model.layers) == 10  # the user's own stays


def test_what_a_call_says_of_training_does_not_count():
    # Keras: predict is training=False, whatever was recorded.
    entry = keras.Input((8,))
    model = keras.Model(entry, L.Dense(3)(L.Dropout(0.5)(entry, training=True)))
    x = np.ones((5, 8), "float32")
    np.testing.assert_allclose(model.predict(x, verbose=0), model(x, training=False))
    assert [type(x).__name__ for x in shipping.shipped(model).layers] == [
        "InputLayer", "Dense"
    ]  # fmt: skip


def test_half_precision_ships_in_float32(tmp_path):
    half = {"dtype": "mixed_float16"}
    model = classifier(
        L.Dense(16, activation="relu", **half),
        L.TimeDistributed(L.Dense(4, **half), **half),
        L.Bidirectional(L.LSTM(3, **half), **half),
        shape=(5, 8),
    )
    small = shipping.shipped(model)
    layers = [layer for layer in small._flatten_layers()]
    assert {layer.compute_dtype for layer in layers} == {"float32"}
    x = np.random.default_rng(0).normal(size=(20, 5, 8)).astype("float32")
    np.testing.assert_allclose(small(x), model(x), atol=5e-3)
    files = tfsparse.export(model, str(tmp_path), x, ("keras", "tflite_int8"))
    assert tfsparse.verify(model, files, x)[-1].samples in (0, 20)
    loaded = keras.saving.load_model(files[0].path)
    assert loaded.layers[1].compute_dtype == "float32"


def test_open_axes_get_a_length(tmp_path):
    model = classifier(L.Conv1D(4, 3), L.GlobalAveragePooling1D(), shape=(None, 6))
    x = np.random.default_rng(0).normal(size=(16, 20, 6)).astype("float32")
    with pytest.raises(ValueError, match="known sizes.*length"):
        tfsparse.export(model, str(tmp_path), x, ("tflite_int8",))
    files = tfsparse.export(model, str(tmp_path), x, ("tflite_int8",), length=20)
    assert tfsparse.verify(model, files, x)[0].max_abs_difference < 0.1
    with pytest.raises(ValueError, match="`length` must be a whole"):
        tfsparse.export(model, str(tmp_path), x, length=0)
    with pytest.raises(ValueError, match="must fit input"):
        tfsparse.export(model, str(tmp_path), x, ("tflite_int8",), length=30)


def batches(x):
    return [(x[k : k + 5], np.zeros(5)) for k in range(0, 40, 5)]


class Sequence(keras.utils.PyDataset):
    def __init__(self, x):
        super().__init__()
        self.items = batches(x)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def representative(x):
    def generator():
        for sample in x:
            yield [sample[None]]

    return generator


@pytest.mark.parametrize(
    "given",
    [
        lambda x: x,
        lambda x: x.tolist(),
        lambda x: [x],
        lambda x: iter(batches(x)),
        lambda x: tf.data.Dataset.from_tensor_slices((x, np.zeros(40))).batch(5),
        lambda x: tf.data.Dataset.from_tensor_slices(x).batch(5),
        Sequence,
        representative,
    ],
    ids=["array", "numbers", "list", "generator", "dataset", "without targets", "sequence",
         "converter"],
)  # fmt: skip
def test_calibration_takes_what_fit_and_the_converter_take(given):
    model, (x, _) = classifier(), arrays()
    (found,) = shipping.arrays_of(model, given(x))
    np.testing.assert_allclose(found, x)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda x: x[:0], "Received: none"),
        (lambda x: None, "Received: none"),
        (lambda x: x[:, :3], "must fit input"),
        (lambda x: iter([]), "Received: none"),
        (lambda x: [x, x], "`data` must hold an x"),
        (lambda x: 7, "fit input|Received: int"),
        (lambda x: representative(x[:, :3]), "must fit input"),
    ],
)
def test_calibration_that_does_not_fit_is_said(given, said, tmp_path):
    model, (x, _) = classifier(), arrays()
    with pytest.raises(ValueError, match=said):
        tfsparse.export(model, str(tmp_path), given(x), ("tflite_int8",))
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="as many for each input"):
        tfsparse.verify(several(), (), [x, np.zeros((3, 4), "int32")])


def test_an_input_that_nothing_reads_is_named(tmp_path):
    a, b = keras.Input((8,), name="read"), keras.Input((4,), name="unread")
    model = keras.Model([a, b], L.Dense(3)(a))
    x, _ = arrays()
    with pytest.raises(ValueError, match="Received: unread, which nothing reads"):
        tfsparse.export(model, str(tmp_path), [x, x[:, :4]], ("tflite_int8",))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_calibration_is_finite(value, tmp_path):
    x, _ = arrays()
    x[3, 2] = value
    with pytest.raises(ValueError, match="must be finite"):
        tfsparse.export(classifier(), str(tmp_path), x, ("tflite_int8",))


def test_a_winner_runs_on_the_chip(tmp_path):
    pytest.importorskip("tflite_micro")
    entry = keras.Input((8,))
    model = keras.Model(entry, keras.ops.argmax(L.Dense(5)(entry), axis=-1))
    x, _ = arrays(200)
    files = tfsparse.export(model, str(tmp_path), x, ("tflite_float", "tflite_int8"))
    rows = tfsparse.verify(model, files, x)
    assert rows[0].max_abs_difference == 0 and rows[2].samples == 200
    assert tfsparse.verify(model, files[0], x[:3])[0].samples == 3


def test_a_layer_with_state_of_its_own_is_refused_by_strip():
    entry = keras.Input((8,))
    gain = OwnGain()
    gain.gain = 100.0
    hidden = L.Dense(6, activation="relu", name="hidden")(entry)
    model = keras.Model(entry, gain(L.Dense(3)(hidden)))
    for keep in ({}, {"hidden": np.arange(6) < 3}):
        with pytest.raises(ValueError, match="must hold its state in weights"):
            tfsparse.strip(model, keep)
    with pytest.raises(ValueError, match="must hold its state in weights"):
        tfsparse.prune(model, {"params": 1.0})


class OwnGain(L.Layer):
    """Holds what is neither a weight nor in its config."""

    gain = 1.0

    def call(self, x):
        return x * self.gain
