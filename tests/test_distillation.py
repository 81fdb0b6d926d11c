"""A small model that follows a large one's answers."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from tfsparse.distillation import follow


def net(units, seed):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6,))
    x = layers.Dense(units, activation="relu")(inputs)
    return keras.Model(inputs, layers.Dense(3)(x))


def compiled(units=4, seed=0):
    model = net(units, seed)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.05), loss, metrics=["accuracy"])
    return model


def samples(count=64, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 6)).astype("float32"), rng.integers(0, 3, count)


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize(
    ("weight", "temperature"), [(0.7, 3.0), (1.0, 1.0), (0.0, 2.0)]
)
def test_the_loss_by_hand(weight, temperature):
    model, teacher = compiled(), net(16, 1)
    x, y = samples()
    z, t = (m.predict(x, verbose=0).astype("float64") for m in (model, teacher))
    own = -np.log(softmax(z)[np.arange(len(y)), y]).mean()
    follow(model, teacher, weight, temperature)
    a, b = softmax(t / temperature), softmax(z / temperature)
    soft = (a * np.log(a / b)).sum(-1).mean()
    expected = (1 - weight) * own + weight * temperature**2 * soft
    assert float(model.compute_loss(x, y, model(x))) == pytest.approx(
        expected, rel=1e-5
    )
    told = model.evaluate(x, y, batch_size=len(x), verbose=0)[0]
    assert told == pytest.approx(
        own, rel=1e-5
    )  # evaluation tells the labels' loss alone
    trained = model.fit(x, y, batch_size=len(x), verbose=0).history["loss"][0]
    assert trained == pytest.approx(expected, rel=1e-5)


def test_the_student_comes_to_agree_and_the_teacher_stays():
    teacher = net(16, 1)
    x, y = samples(256)  # labels that the teacher knows nothing of
    before = teacher.get_weights()
    agrees = []
    for weight in (1.0, 0.0):
        model = compiled(16)
        follow(model, teacher, weight, 1.0)
        model.fit(x, y, epochs=30, verbose=0)
        a, b = (m.predict(x, verbose=0).argmax(-1) for m in (model, teacher))
        agrees.append((a == b).mean())
    assert agrees[0] > 0.8 > 0.6 > agrees[1]
    for old, new in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_nothing_of_the_teacher_is_saved(tmp_path):
    model = compiled()
    follow(model, net(16, 1), 0.5, 2.0)
    model.fit(*samples(), verbose=0)
    assert model.count_params() == net(4, 0).count_params()
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    x, y = samples()
    assert float(again.compute_loss(x, y, again(x))) == pytest.approx(
        again.evaluate(x, y, batch_size=len(x), verbose=0)[0], rel=1e-5
    )
