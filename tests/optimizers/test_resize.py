"""After a removal the next optimizer steps are those of the unshrunken run.

Everything is compared index by index with slices written by hand, weights and slots.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfsparse
from tfsparse import optimizers
from tfsparse.engine import shrinking

SAME = 1e-6

KEPT = {"conv": [0, 2, 3], "dense": [1, 2, 4, 5]}
"""Of 5 channels and 6 neurons; the conv's output is 2 x 3 positions before Flatten."""

ROWS = [p * 5 + c for p in range(6) for c in KEPT["conv"]]

SLICES = {
    "conv/kernel": {3: KEPT["conv"]},
    "bn/gamma": {0: KEPT["conv"]},
    "bn/beta": {0: KEPT["conv"]},
    "bn/moving_mean": {0: KEPT["conv"]},
    "bn/moving_variance": {0: KEPT["conv"]},
    **{
        f"{layer}_switch/{name}": {0: KEPT[layer]}
        for layer in KEPT
        for name in ("switch", "floor", "mean", "variance", "alive", "last")
    },
    "dense/kernel": {0: ROWS, 1: KEPT["dense"]},
    "dense/bias": {0: KEPT["dense"]},
    "out/kernel": {0: KEPT["dense"]},
}


def cut(path: str, value: np.ndarray) -> np.ndarray:
    for axis, indices in SLICES.get(path, {}).items():
        value = np.take(value, indices, axis=axis)
    return value


def running(optimizer, form="relu", steps=3, **compile_arguments):
    """A sparse model in the middle of training, some of its units just dead."""
    image = keras.Input((3, 4, 2), name="image")
    x = layers.Conv2D(5, 2, use_bias=False, name="conv")(image)
    x = layers.ReLU()(layers.BatchNormalization(name="bn")(x))
    x = layers.Dense(6, activation="relu", name="dense")(layers.Flatten()(x))
    model = keras.Model(image, layers.Dense(3, name="out")(x))
    method = tfsparse.ShrinkNets(1e-2, form=form, initial="ones", decay=1e-3)
    sparse = method.prepare(model, tfsparse.find_groups(model))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    sparse.compile(optimizer, loss, run_eagerly=True, **compile_arguments)
    for step in range(steps):
        sparse.train_on_batch(*batch(step))
    for name, kept in KEPT.items():
        layer = sparse.get_layer(f"{name}_switch")
        alive = np.isin(np.arange(layer.units), kept)
        if form == "relu":
            layer.switch.assign(np.where(alive, layer.switch, -0.5))
        else:
            layer.alive.assign(alive.astype("float32"))
    return method, sparse


def batch(step: int):
    rng = np.random.default_rng([9, step])
    x = rng.normal(size=(8, 3, 4, 2)).astype("float32")
    return x, rng.integers(0, 3, 8)


def collected(method, sparse):
    keep = method.keep(sparse, tfsparse.find_groups(sparse))
    small, done, reasons = shrinking.collect(sparse, keep)
    assert {n: np.flatnonzero(k).tolist() for n, k in done.items()} == KEPT
    assert not reasons
    return small


def numpy_of(variables) -> dict[str, np.ndarray]:
    return {v.path: ops.convert_to_numpy(v).copy() for v in variables}


def slots_of(model) -> dict[str, tuple[str, np.ndarray]]:
    """Slot's name -> (path of its variable or "", value), read off the public list."""
    owners = {v.path.replace("/", "_"): v.path for v in model.trainable_variables}
    found = {}
    for path, value in numpy_of(model.optimizer.variables).items():
        name = path.split("/")[-1]
        name = "scalar" if name.startswith("variable") else name  # Nadam's, nameless
        owner = max((o for o in owners if name.startswith(o)), key=len, default="")
        found[name] = (owners.get(owner, ""), value)
    return found


def assert_same(big, small) -> None:
    after = numpy_of(small.variables)
    for path, value in numpy_of(big.variables).items():
        if "strength" in path:
            continue
        expected = cut(path, value)
        assert after[path].shape == expected.shape, path
        np.testing.assert_allclose(after[path], expected, atol=SAME, err_msg=path)
    slots = slots_of(small)
    assert slots.keys() == slots_of(big).keys()
    for name, (path, value) in slots_of(big).items():
        expected = cut(path, value)
        np.testing.assert_allclose(slots[name][1], expected, atol=SAME, err_msg=name)


def without_biases(optimizer):
    optimizer.exclude_from_weight_decay(var_names=["bias", "beta"])
    return optimizer


COSINE = keras.optimizers.schedules.CosineDecay(0.05, 12)
DECAY = keras.optimizers.schedules.ExponentialDecay(0.05, 4, 0.5)

OPTIMIZERS = {
    "adam-cosine": lambda: keras.optimizers.Adam(COSINE),
    "sgd-momentum-exponential": lambda: keras.optimizers.SGD(DECAY, momentum=0.9),
    "sgd-plain": lambda: keras.optimizers.SGD(0.02),
    "adam-amsgrad": lambda: keras.optimizers.Adam(0.02, amsgrad=True),
    "adamw": lambda: keras.optimizers.AdamW(0.02, weight_decay=0.05),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01, momentum=0.5, centered=True),
    "nadam": lambda: keras.optimizers.Nadam(0.02),
    "lion": lambda: keras.optimizers.Lion(0.01),
    "accumulation": lambda: keras.optimizers.Adam(0.02, gradient_accumulation_steps=2),
    "ema": lambda: keras.optimizers.Adam(0.02, use_ema=True, ema_momentum=0.8),
    "adamw-but-biases": lambda: without_biases(keras.optimizers.AdamW(0.02, 0.05)),
    "loss-scale-decay": lambda: keras.optimizers.LossScaleOptimizer(
        without_biases(keras.optimizers.AdamW(0.02, 0.05))
    ),
    "loss-scale": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.02)
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_as_if_nothing_had_been_removed(name):
    method, big = running(OPTIMIZERS[name]())
    small = collected(method, big)
    assert_same(big, small)
    for step in (3, 4):
        big.train_on_batch(*batch(step))
        small.train_on_batch(*batch(step))
        assert_same(big, small)
    assert int(small.optimizer.iterations) == int(big.optimizer.iterations) > 1
    assert small.count_params() < big.count_params()


def test_the_signed_switch_goes_on_too():
    method, big = running(keras.optimizers.Adam(0.02), form="signed")
    small = collected(method, big)
    for step in (3, 4):
        big.train_on_batch(*batch(step))
        small.train_on_batch(*batch(step))
        assert_same(big, small)
    assert small.get_layer("dense_switch").units == 4


def test_slots_are_those_of_the_survivors_not_of_the_first():
    """Cutting by position instead of by index would pass a test of shapes."""
    method, big = running(keras.optimizers.Adam(0.02))
    before = slots_of(big)["dense_kernel_velocity"][1]
    small = collected(method, big)
    received = slots_of(small)["dense_kernel_velocity"][1]
    assert np.array_equal(received, before[ROWS][:, KEPT["dense"]])
    assert not np.allclose(received, before[: len(ROWS), : len(KEPT["dense"])])
    assert received.any()


def test_the_schedule_stands_where_it_stood():
    method, big = running(keras.optimizers.Adam(COSINE), steps=7)
    small = collected(method, big)
    expected = 0.05 * 0.5 * (1 + np.cos(np.pi * 7 / 12))
    np.testing.assert_allclose(
        float(small.optimizer.learning_rate), expected, rtol=1e-5
    )
    assert int(small.optimizer.iterations) == 7


def test_a_learning_rate_set_by_hand_goes_over():
    method, big = running(keras.optimizers.Adam(0.02))
    big.optimizer.learning_rate = 0.0031  # as ReduceLROnPlateau does
    small = collected(method, big)
    np.testing.assert_allclose(float(small.optimizer.learning_rate), 0.0031, rtol=1e-6)


def test_the_loss_scale_and_its_counter_go_over():
    method, big = running(OPTIMIZERS["loss-scale"]())
    big.optimizer.dynamic_scale.assign(128.0)
    big.optimizer.step_counter.assign(17)
    small = collected(method, big)
    assert isinstance(small.optimizer, keras.optimizers.LossScaleOptimizer)
    assert float(small.optimizer.dynamic_scale) == 128.0
    assert int(small.optimizer.step_counter) == 17


def test_an_optimizer_with_slots_of_another_shape_is_refused():
    method, big = running(keras.optimizers.Adafactor(0.02))
    sentence = (
        "`optimizer` must keep slots of its variables' shapes to be cut. Received: "
        "Adafactor, whose .* has shape .* Train with Adam, SGD or RMSprop."
    )
    with pytest.raises(ValueError, match=sentence):
        collected(method, big)


def test_an_unbuilt_optimizer_is_only_copied():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    optimizer = keras.optimizers.Adam(0.123)
    new = optimizers.resize(optimizer, model.trainable_variables, {}, cut)
    assert new is not optimizer and not new.built
    assert float(new.learning_rate) == float(optimizer.learning_rate)


def test_what_the_model_was_compiled_with_goes_over():
    weighted = [keras.metrics.SparseCategoricalAccuracy(name="weighted")]
    method, big = running(
        keras.optimizers.Adam(0.02),
        metrics=["accuracy"],
        weighted_metrics=weighted,
        loss_weights=0.5,
        steps_per_execution=1,
    )
    small = collected(method, big)
    x, y = batch(11)
    expected = big.evaluate(x, y, verbose=0, return_dict=True)
    received = small.evaluate(x, y, verbose=0, return_dict=True)
    assert expected.keys() == received.keys() == {"loss", "accuracy", "weighted"}
    assert received["accuracy"] == expected["accuracy"] and small.run_eagerly
    penalty = [float(sum(model.losses)) for model in (big, small)]
    np.testing.assert_allclose(
        received["loss"] - penalty[1], expected["loss"] - penalty[0], rtol=1e-5
    )


def test_a_constant_becomes_a_bias_with_a_fresh_slot():
    """sigmoid(0) = 1/2 of a dead unit goes into a bias that the reader did not have."""
    vector = keras.Input((4,), name="vector")
    x = layers.Dense(6, activation="sigmoid", name="dense")(vector)
    out = layers.Dense(2, use_bias=False, name="out")(x)
    model = keras.Model(vector, out)
    method = tfsparse.ShrinkNets(1e-2, initial="ones")
    sparse = method.prepare(model, tfsparse.find_groups(model))
    sparse.compile(keras.optimizers.Adam(0.02), "mse", run_eagerly=True)
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(8, 4)).astype("float32"), rng.normal(size=(8, 2))
    sparse.train_on_batch(x, y)
    sparse.get_layer("dense_switch").switch.assign([1.0, -1.0, 1.0, 1.0, -1.0, 1.0])
    keep = method.keep(sparse, tfsparse.find_groups(sparse))
    small, _, _ = shrinking.collect(sparse, keep)
    rows = ops.convert_to_numpy(sparse.get_layer("out").kernel)[[1, 4]]
    bias = ops.convert_to_numpy(small.get_layer("out").bias)
    np.testing.assert_allclose(bias, 0.5 * rows.sum(0), rtol=1e-5)
    assert not slots_of(small)["out_bias_momentum"][1].any()
    assert slots_of(small)["out_kernel_momentum"][1].any()
    small.train_on_batch(x, y)
