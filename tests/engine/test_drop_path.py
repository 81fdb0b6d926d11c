"""Whole operations left out while a network trains, and training from scratch."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfsparse import files, train
from tfsparse.engine.stages import finetune
from tfsparse.layers import DropPath


def test_samples_are_left_out_and_the_mean_stays():
    layer = DropPath(0.25, seed=1)
    x = ops.ones((4000, 3))
    y = np.asarray(layer(x, training=True))
    assert set(np.unique(y.round(4))) == {0.0, np.float32(1.3333)}
    assert (y == y[:, :1]).all(), "a sample is left out as a whole"
    assert y.mean() == pytest.approx(1.0, abs=0.03)
    np.testing.assert_array_equal(layer(x, training=False), x)
    half = DropPath(0.5, share=lambda: 0.5, seed=1)
    assert (np.asarray(half(x, training=True)) == 0).mean() == pytest.approx(
        0.25, abs=0.03
    )
    with pytest.raises(ValueError, match="`rate` must be in \\[0, 1\\)"):
        DropPath(1.0)


def net():
    image = keras.Input((6,))
    x = layers.Dense(8, name="first")(image)
    y = layers.BatchNormalization(name="norm")(layers.Dense(8, name="branch")(x))
    x = layers.Add(name="add")([layers.Identity(name="same")(x), y])
    return keras.Model(image, layers.Dense(2, name="logits")(x))


def test_weights_are_shared_identities_stay_and_the_rate_grows():
    model = net()
    model.compile("sgd", "mse", jit_compile=False)
    fitted = finetune._dropping(model, 0.9, steps=10)
    dropped = [x for x in fitted.layers if isinstance(x, DropPath)]
    assert len(dropped) == 1
    assert {id(v) for v in fitted.trainable_variables} == {
        id(v) for v in model.trainable_variables
    }
    x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    np.testing.assert_allclose(fitted(x), model(x), rtol=1e-6)
    # At first nothing is left out; at the end nine of ten branches are.
    plain = np.asarray(model(x, training=True))
    start = np.asarray(fitted(x, training=True))
    np.testing.assert_allclose(start, plain, rtol=1e-4, atol=1e-5)
    model.optimizer.iterations.assign(10)
    assert np.abs(np.asarray(fitted(x, training=True)) - plain).max() > 0.1
    model.optimizer.iterations.assign(0)
    fitted.fit(x, np.zeros((64, 2)), batch_size=8, verbose=0)
    assert int(model.optimizer.iterations) == 8
    again = keras.models.clone_model(model)  # the model itself knows nothing of it
    assert not any(isinstance(x, DropPath) for x in again.layers)


@pytest.mark.parametrize("retrain", ["inherit", "scratch"])
def test_a_run_retrains(tmp_path, retrain):
    """From scratch the first loss is that of a network that knows nothing."""
    path = tmp_path / "net.keras"
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(6, 3, activation="relu", padding="same", name="conv")(image)
    x = layers.Add(name="add")([x, layers.Conv2D(6, 1, name="branch")(x)])
    x = layers.Dense(10, name="logits")(layers.Flatten()(x))
    keras.Model(image, x).save(path)
    folder = tmp_path / "run"
    code = train.main(
        ["train", "--data=digits", f"--model={path}", "--method=none", "--epochs=3",
         "--fine_tune_epochs=2", f"--retrain={retrain}", "--drop_path=0.2",
         "--formats=keras", "--tensorboard=false", "--preflight=false",
         f"--workdir={folder}"]
    )  # fmt: skip
    assert code == 0
    report = files.read_json(folder / "report.json")
    history = report["method"]["fine_tune_history"]
    before = report["method"]["history"][-1]["loss"]
    assert len(history) == 2
    assert history[0]["loss"] > before if retrain == "scratch" else True
    names = {x.name for x in keras.saving.load_model(folder / "model.keras").layers}
    assert not any("drop" in name for name in names)
