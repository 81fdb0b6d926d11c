"""A small model that follows a large one's answers."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
import textwrap
import zipfile

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfsparse.distillation import (
    Distilled,
    distance_of_classes,
    distance_of_labels,
    distance_of_numbers,
    mixed,
)


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
    trainer = Distilled(model, teacher, weight, temperature)
    a, b = softmax(t / temperature), softmax(z / temperature)
    soft = (a * np.log(a / b)).sum(-1).mean()
    expected = (1 - weight) * own + weight * temperature**2 * soft
    assert float(trainer.compute_loss(x, y, model(x))) == pytest.approx(
        expected, rel=1e-5
    )
    told = trainer.evaluate(x, y, batch_size=len(x), verbose=0)[0]
    assert told == pytest.approx(
        own, rel=1e-5
    )  # evaluation tells the labels' loss alone
    trained = trainer.fit(x, y, batch_size=len(x), verbose=0).history["loss"][0]
    assert trained == pytest.approx(expected, rel=1e-5)


def test_the_student_comes_to_agree_and_the_teacher_stays():
    teacher = net(16, 1)
    x, y = samples(256)  # labels that the teacher knows nothing of
    before = teacher.get_weights()
    agrees = []
    for weight in (1.0, 0.0):
        model = compiled(16)
        Distilled(model, teacher, weight, 1.0).fit(x, y, epochs=30, verbose=0)
        a, b = (m.predict(x, verbose=0).argmax(-1) for m in (model, teacher))
        agrees.append((a == b).mean())
    assert agrees[0] > 0.8 > 0.6 > agrees[1]
    for old, new in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_nothing_of_the_teacher_is_saved(tmp_path):
    model = compiled()
    Distilled(model, net(16, 1), 0.5, 2.0).fit(*samples(), verbose=0)
    assert model.count_params() == net(4, 0).count_params()
    model.save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as file:
        assert json.loads(file.read("config.json"))["class_name"] == "Functional"
    again = keras.saving.load_model(tmp_path / "m.keras")
    x, y = samples()
    assert float(again.compute_loss(x, y, again(x))) == pytest.approx(
        again.evaluate(x, y, batch_size=len(x), verbose=0)[0], rel=1e-5
    )


def weights_of(model):
    return [
        ops.convert_to_numpy(v) for v in (*model.variables, *model.optimizer.variables)
    ]


def test_a_saved_student_goes_on_bit_for_bit(tmp_path):
    teacher, (x, y) = net(16, 1), samples()
    model = compiled()
    trainer = Distilled(model, teacher, 0.7, 3.0)
    trainer.fit(x, y, epochs=2, shuffle=False, verbose=0)
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    config, plain = again.get_compile_config(), compiled().get_compile_config()
    assert config.pop("optimizer")["class_name"] == plain.pop("optimizer")["class_name"]
    assert config == plain
    trainer.fit(x, y, epochs=2, shuffle=False, verbose=0)
    Distilled(again, teacher, 0.7, 3.0).fit(x, y, epochs=2, shuffle=False, verbose=0)
    for one, other in zip(weights_of(model), weights_of(again), strict=True):
        np.testing.assert_array_equal(one, other)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


@pytest.mark.parametrize("probabilities", [False, True])
def test_distances_by_hand(probabilities):
    rng = np.random.default_rng(0)
    z, t = rng.normal(size=(2, 5, 3))
    a, b = softmax(t / 2), softmax(z / 2)
    expected = 4 * (a * np.log(a / b)).sum(-1).mean()
    given = (softmax(z), softmax(t)) if probabilities else (z, t)
    found = distance_of_classes(*map(ops.array, given), 2.0, probabilities)
    assert float(found) == pytest.approx(expected, rel=1e-4)
    a, b = sigmoid(t / 2), sigmoid(z / 2)
    each = a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b))
    given = (sigmoid(z), sigmoid(t)) if probabilities else (z, t)
    found = distance_of_labels(*map(ops.array, given), 2.0, probabilities)
    assert float(found) == pytest.approx(4 * each.mean(), rel=1e-3)
    found = distance_of_numbers(ops.array(z), ops.array(t), 2.0, (1.0, 2.0, 4.0))
    expected = np.square((z - t) / [1, 2, 4]).mean()
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_the_example_runs():
    finder = doctest.DocTestFinder(recurse=False)
    (test,) = finder.find(mixed)
    failed, tried = doctest.DocTestRunner().run(test)
    assert failed == 0 and tried


SCRIPT = """
import json, sys
import tensorflow as tf
replicas = int(sys.argv[1])
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
import keras, numpy as np
from keras import layers
from tfsparse.distillation import Distilled
def net(units, seed):
    keras.utils.set_random_seed(seed)
    x = keras.Input((6,))
    return keras.Model(x, layers.Dense(3)(layers.Dense(units, activation="relu")(x)))
with tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)]).scope():
    teacher, model = net(16, 1), net(4, 0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.05), loss, metrics=["accuracy"])
    trainer = Distilled(model, teacher, 0.7, 3.0)
rng = np.random.default_rng(0)
x, y = rng.normal(size=(64, 6)).astype("float32"), rng.integers(0, 3, 64)
history = trainer.fit(x, y, batch_size=16, epochs=3, shuffle=False, verbose=0).history
weights = [np.asarray(v).tolist() for v in model.trainable_variables]
print(json.dumps([history["loss"], history["accuracy"], weights]))
"""


@pytest.mark.slow
def test_two_replicas_learn_like_one():
    found = []
    for replicas in "12":
        command = [sys.executable, "-c", textwrap.dedent(SCRIPT), replicas]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(json.loads(done.stdout.strip().splitlines()[-1]))
    (losses, accuracy, weights), (also, same, others) = found
    np.testing.assert_allclose(losses, also, rtol=1e-5)
    np.testing.assert_allclose(accuracy, same)
    for a, b in zip(weights, others, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
