"""How much worse a file is, how sure that is, and what must be noticed."""

import keras
import numpy as np
import pytest

import tfsparse
from tfsparse import records, zoo
from tfsparse.deploy import agreement, noise, shipping, slim


@pytest.fixture(scope="module")
def trained():
    """A small network that separates three kinds of pictures, and some of them."""
    keras.utils.set_random_seed(3)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 600)
    x = rng.random((600, 12, 12, 1)).astype("float32") * (
        0.3 + 0.7 * rng.random((600, 1, 1, 1))
    )
    x = x.astype("float32")
    for k in range(3):
        x[y == k, 4 * k : 4 * k + 4] += 0.6
    model = zoo.build("mcu_cnn", (12, 12, 1), 3, width=0.5)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    model.fit(x, y, epochs=6, verbose=0)
    return model, x, y


def test_a_change_is_a_mean_of_pairs():
    before = np.ones(400)
    after = np.array([0.0] * 8 + [1.0] * 392)
    change = agreement.Change.of(before, after)
    assert change.gain == pytest.approx(-2.0)
    assert change.half == pytest.approx(
        1.96 * 100 * np.sqrt(0.02 * 0.98 * 400 / 399 / 400)
    )
    assert not change.beyond(1.0)  # it may be chance
    assert agreement.Change.of(np.ones(40_000), np.tile(after, 100)).beyond(1.0)
    assert agreement.Change.of(np.ones(1), np.zeros(1)).half == 100
    errors = agreement.Change.of(np.full(9, -0.2), np.full(9, -0.21), shares=False)
    assert (errors.gain, errors.unit) == (pytest.approx(-1.0), "percent")


def test_as_many_of_each_class_set_the_ranges():
    labels = np.array([0] * 500 + [1] * 30 + [2] * 3)
    chosen = agreement.balanced(533, labels, 60, seed=1)
    assert np.array_equal(np.bincount(labels[chosen])[1:], [28, 3]) or np.all(
        np.bincount(labels[chosen]) >= [28, 28, 3]
    )
    assert len(chosen) == len(set(chosen)) == 60
    assert np.array_equal(chosen, agreement.balanced(533, labels, 60, seed=1))
    assert not np.array_equal(chosen, agreement.balanced(533, labels, 60, seed=2))
    assert len(agreement.balanced(10, None, 512, seed=0)) == 10


def judged(model, folder, x, y, calibration):
    made = tfsparse.export(model, str(folder), calibration, ("keras", "tflite_int8"))
    rows, changes = agreement.judged(shipping.shipped(model), made, [x], y)
    return made, changes, {row.artifact: row.decibels for row in rows}


def test_a_good_file_passes(trained, tmp_path):
    model, x, y = trained
    _, changes, decibels = judged(model, tmp_path, x, y, x[:300])
    agreement.check(changes, decibels, 1.0)
    assert abs(changes["tflite_int8"].gain) <= 1.0
    assert decibels["tflite_int8"] > 20
    assert decibels["keras"] is None


def test_ranges_of_one_sample_are_noticed(trained, tmp_path):
    model, x, y = trained
    dark = x[np.argmin(x.reshape(len(x), -1).max(1))][None] * 0.1
    _, changes, decibels = judged(model, tmp_path, x, y, dark)
    with pytest.raises(records.ParityError, match="must answer as the network does"):
        agreement.check(changes, decibels, 1.0)
    agreement.check(changes, decibels, 100.0)


def test_a_swapped_zero_point_is_noticed(trained, tmp_path):
    model, x, y = trained
    made, _, _ = judged(model, tmp_path, x, y, x[:300])
    with open(made[1].path, "rb") as source:
        file = slim.read(source.read())
    graph = file.subgraphs[0]
    ends = (graph.inputs[0], graph.outputs[0])
    first, last = (graph.tensors[number].quantization for number in ends)
    last.zeroPoint, first.zeroPoint = first.zeroPoint, last.zeroPoint
    with open(made[1].path, "wb") as out:
        out.write(slim.write(file))
    rows, changes = agreement.judged(model, made, [x], y)
    with pytest.raises(records.ParityError):
        agreement.check(changes, {r.artifact: r.decibels for r in rows}, 1.0)


def test_without_labels_the_networks_own_answers_count(trained, tmp_path):
    model, x, _ = trained
    _, changes, _ = judged(model, tmp_path, x, None, x[:300])
    assert -2 <= changes["tflite_int8"].gain <= 0
    assert changes["keras"].gain == 0


def test_numbers_are_compared_in_units_of_their_spread(tmp_path):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])
    x = np.random.default_rng(0).normal(size=(200, 6)).astype("float32")
    _, changes, decibels = judged(model, tmp_path, x, None, x)
    assert -3 < changes["tflite_int8"].gain < 0
    assert changes["tflite_int8"].unit == "percent"
    assert decibels["tflite_int8"] > 25


def test_the_noise_of_every_tensor_is_told_and_clipping_named(trained):
    model, x, _ = trained
    found = noise.noise(model, [x[:300]], [x[300:]])
    names = {one.layer for one in found}
    own = {
        layer.name for layer in model.layers if layer.weights and "bn" not in layer.name
    }
    assert own - names <= {layer.name for layer in model.layers if "norm" in layer.name}
    assert {one.what for one in found} == {"weights", "activations"}
    assert all(one.decibels is None or one.decibels > 10 for one in found)
    assert all(one.low <= 0 <= one.high for one in found)
    few = noise.noise(model, [x[:1] * 0.2], [x[300:]])
    worst = noise.worst(few)
    assert len(worst) == 3
    assert worst[0].decibels < 15
    assert "calibration_samples" in worst[0].remedy()
    assert max(one.clipped for one in few) > 0.02
