"""Transfer learning: what is not trained stays as it is, under every method."""

import keras
import numpy as np
import pytest
from keras import layers as L

import tfsparse
from tfsparse import methods
from tfsparse.engine.prunable import NOT_TRAINED, prunable

METHODS = {
    "shrinknets": {},
    "gsparsity": {},
    "sparse_vd": {"pretrain_epochs": 1, "warm_up_epochs": 1},
    "bayesian_compression": {"pretrain_epochs": 1, "warm_up_epochs": 1},
    "bayesnas_compression": {"loop_epochs": 1},
}


def transfer():
    """A base that is frozen and a head that is trained."""
    keras.utils.set_random_seed(0)
    base = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            L.Conv2D(6, 3, activation="relu", name="first"),
            L.BatchNormalization(name="norm"),
            L.Conv2D(5, 3, activation="relu", name="second"),
        ],
        name="base",
    )
    base.trainable = False
    x = entry = keras.Input((8, 8, 2))
    x = L.Conv2D(8, 3, activation="relu", name="third")(base(x, training=False))
    x = L.Dense(12, activation="relu", name="fourth")(L.GlobalAveragePooling2D()(x))
    model = keras.Model(entry, L.Dense(3, name="logits")(x))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def test_groups_of_a_frozen_base_are_frozen():
    groups = {g.name: g for g in prunable(transfer(), ("unit",))}
    assert groups["first"].frozen == groups["second"].frozen == NOT_TRAINED
    assert not groups["third"].frozen and not groups["fourth"].frozen
    assert not any(g.frozen == NOT_TRAINED for g in tfsparse.find_groups(transfer()))


@pytest.mark.parametrize("name", METHODS)
def test_a_frozen_base_stays_under_every_method(name):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(96, 8, 8, 2)).astype("float32")
    y = np.arange(96) % 3
    model = transfer()
    base = model.get_layer("base")
    before = {layer.name: layer.get_weights() for layer in base.layers}
    small = tfsparse.fit_shrinking(
        model, methods.METHODS[name](**METHODS[name]), x, y,
        epochs=4, batch_size=16, target={"params": 0.7},
    ).model  # fmt: skip
    for layer in ("first", "norm"):
        for old, new in zip(
            before[layer], small.get_layer(layer).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(new, old)
    # Filters of the last one go only where nothing behind reads them any more.
    kernel = small.get_layer("second").get_weights()[0]
    columns = before["second"][0].reshape(-1, 5).T.tolist()
    assert all(column in columns for column in kernel.reshape(54, -1).T.tolist())
    if name != "sparse_vd":
        assert kernel.shape[-1] == 5
    trained = small.get_layer("logits").get_weights()[1]
    assert not np.array_equal(trained, np.zeros(3))  # it learned
    assert small.count_params() < model.count_params()


def test_a_network_with_nothing_to_train_says_so():
    model = transfer()
    for layer in model.layers:
        layer.trainable = False
    x = np.zeros((8, 8, 8, 2), "float32")
    with pytest.raises(ValueError):
        tfsparse.fit_shrinking(model, tfsparse.GSparsity(), x, np.zeros(8), epochs=2)
