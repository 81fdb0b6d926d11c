"""Branches: a dropped input of an Add or Average goes with all that only it needs."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import tfsparse
from conformance import models
from tfsparse.deploy import probe

EXACT = 1e-5


def residual(merge):
    image = keras.Input((8, 7, 2))
    x = layers.Conv2D(6, 2, activation="relu", name="stem")(image)
    y = layers.Conv2D(4, 3, padding="same", activation="relu", name="inner")(x)
    y = layers.Conv2D(6, 3, padding="same", name="back")(y)
    z = layers.Conv2D(6, 1, name="other")(x)
    x = layers.ReLU()(merge([x, y, z]))
    return keras.Model(image, layers.Dense(3, name="out")(layers.Flatten()(x)))


@pytest.mark.parametrize("kind", [layers.Add, layers.Average])
@pytest.mark.parametrize("stays", [(1, 0, 1), (1, 0, 0), (0, 1, 1), (0, 0, 1)])
def test_strip_equals_mask(kind, stays):
    model = models.randomise(residual(kind(name="sum")))
    (group,) = tfsparse.find_groups(model, ("branch",))
    assert (group.name, group.kind, group.size) == ("sum:branches", "branch", 3)
    units = {
        g.name: models.half(g) for g in tfsparse.find_groups(model) if not g.frozen
    }
    keep = {"sum:branches": np.array(stays, bool), **units}
    inputs = probe.random_inputs(model, np.random.default_rng(1))
    expected = probe.run(tfsparse.mask(model, keep), inputs)
    small = tfsparse.strip(model, keep)
    assert models.difference(expected, probe.run(small, inputs)) <= EXACT
    assert (
        models.difference(expected, probe.run(tfsparse.mask(model, units), inputs))
        > 0.01
    )
    names = {layer.name for layer in small.layers}
    assert ("inner" in names) == ("back" in names) == bool(stays[1])
    assert ("other" in names) == bool(stays[2])
    assert "stem" in names


def test_members_are_the_weights_of_each_branch():
    (group,) = tfsparse.find_groups(residual(layers.Add()), ("branch",))
    own = {(m.path.split("/")[0], int(m.units[0])) for m in group.members}
    assert own == {("inner", 1), ("back", 1), ("other", 2)}


def test_a_broadcast_sum_is_frozen():
    vector = keras.Input((7,), name="vector")
    x = layers.Dense(6, name="a")(vector)
    x = layers.Add(name="sum")([x, layers.Dense(1, name="b")(vector)])
    model = keras.Model(vector, layers.Dense(2, name="out")(x))
    (group,) = tfsparse.find_groups(model, ("branch",))
    assert "broadcasts inputs of unlike shapes" in group.frozen
    with pytest.raises(ValueError, match="must not name frozen groups"):
        tfsparse.strip(model, {group.name: np.array([True, False])})


@pytest.mark.parametrize("bias", [0.0, 0.7])
def test_a_dead_branch_leaves_and_its_constant_stays(bias):
    model = models.randomise(residual(layers.Add(name="sum")))
    back = model.get_layer("back")
    back.kernel.assign(np.zeros(back.kernel.shape))
    back.bias.assign(np.full(back.bias.shape, bias))
    keep = tfsparse.dead_units(model)
    assert keep["sum:branches"].tolist() == [True, False, True]
    small = tfsparse.strip(model)
    inputs = probe.random_inputs(model, np.random.default_rng(1))
    expected = probe.run(model, inputs)
    assert models.difference(expected, probe.run(small, inputs)) <= EXACT
    assert not {"inner", "back"} & {layer.name for layer in small.layers}


def test_all_units_of_a_branch_take_the_branch_along():
    model = models.randomise(residual(layers.Add(name="sum")))
    keep = {"inner": np.zeros(4, bool)}
    inputs = probe.random_inputs(model, np.random.default_rng(1))
    expected = probe.run(tfsparse.mask(model, keep), inputs)
    small = tfsparse.strip(model, keep)
    assert models.difference(expected, probe.run(small, inputs)) <= EXACT
    assert not {"inner", "back"} & {layer.name for layer in small.layers}


@pytest.mark.parametrize("name", ["stem"])
def test_all_units_elsewhere_are_refused(name):
    model = residual(layers.Add(name="sum"))
    with pytest.raises(ValueError, match="at least one unit"):
        tfsparse.strip(model, {name: np.zeros(6, bool)})
