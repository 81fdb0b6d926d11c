"""Masks held in variables: what one copy computes equals `mask`, whatever came before."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from conformance import models

import tfsparse
from tfsparse.deploy.masked import Masked


def alike(expected, found, tolerance: float) -> None:
    for one, two in zip(*map(keras.tree.flatten, (expected, found)), strict=True):
        one, two = np.asarray(one), np.asarray(two)
        assert np.abs(one - two).max() <= tolerance * max(np.abs(one).max(), 1e-30)


def drawn(free, rng):
    """Some units of every free group, now and then none or all of a group."""
    keep = {}
    for name, group in free.items():
        keep[name] = rng.random(group.size) < rng.choice([0.2, 0.6, 1.0])
        if not keep[name].any():
            keep[name][0] = True
    return keep


@pytest.mark.parametrize("name", list(models.TABLE))
def test_one_copy_equals_mask_for_every_mask(name):
    model = models.randomise(models.TABLE[name].build(), seed=3)
    before = models.weights_of(model)
    free = {g.name: g for g in tfsparse.find_groups(model) if not g.frozen}
    inputs = models.inputs_for(model)
    own, rng = Masked(model), np.random.default_rng(0)
    for number in range(3):
        keep = drawn(free, rng)
        own.set(keep)
        alike(tfsparse.mask(model, keep)(inputs), own.model(inputs), 1e-6)
        if number == 1:
            own.set({})
            alike(model(inputs), own.model(inputs), 0)
    after = models.weights_of(model)
    assert all(np.array_equal(before[k], after[k]) for k in before)


def small_net():
    image = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(6, 3, padding="same", name="a", use_bias=False)(image)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(name="n")(x))
    y = keras.layers.Conv2D(6, 3, padding="same", name="b")(x)
    x = keras.layers.Add()([x, y])
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(3, name="out")(x))


def test_training_between_two_masks_is_forgotten():
    model = models.randomise(small_net(), seed=1)
    x = np.random.default_rng(0).normal(size=(32, 8, 8, 1)).astype("float32")
    y = np.arange(32) % 3
    own = Masked(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    own.model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, jit_compile=False)
    keep = {"a": np.arange(6) < 4}
    own.set(keep)
    first = np.asarray(own.model(x))
    own.model.fit(x, y, epochs=2, verbose=0)
    assert np.abs(np.asarray(own.model(x)) - first).max() > 1e-3
    own.restore()
    own.set(keep)
    assert np.array_equal(np.asarray(own.model(x)), first)


def test_nothing_is_traced_again():
    import tensorflow as tf

    own, traces = Masked(models.randomise(small_net(), seed=1)), []

    @tf.function
    def run(x):
        traces.append(1)
        return own.model(x, training=False)

    x = tf.constant(np.random.default_rng(0).normal(size=(4, 8, 8, 1)), tf.float32)
    told = []
    for kept in (6, 3, 1, 6):
        own.set({"a": np.arange(6) < kept})
        told.append(run(x).numpy())
    assert len(traces) == 1
    assert np.array_equal(told[0], told[3]) and not np.allclose(told[0], told[1])


def test_steps_leave_at_zero_what_a_mask_zeroes():
    """Training under a mask is training of the small network: the same losses."""
    model = models.randomise(small_net(), seed=1)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 8, 8, 1)).astype("float32")
    y = np.arange(64) % 3
    keep = {"a": np.arange(6) < 4}
    own, small = Masked(model), tfsparse.strip(model, keep)
    own.hold()
    own.set(keep)
    told = []
    for net in (own.model, small):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        net.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss, jit_compile=False)
        logs = net.fit(x, y, batch_size=16, epochs=3, shuffle=False, verbose=0)
        told.append(logs.history["loss"])
    np.testing.assert_allclose(told[0], told[1], rtol=1e-4)
    after = {
        v.path.split("/")[-2]: np.asarray(v)
        for v in own.model.weights
        if v.name == "kernel"
    }
    assert not after["out"][4:].any() and not after["b"][:, :, 4:].any()
    assert after["out"][:4].any()


def test_masks_fit_their_model():
    own = Masked(models.randomise(small_net(), seed=1))
    with pytest.raises(ValueError, match="`keep` must name groups"):
        own.set({"nothing": np.ones(3, bool)})
