"""A layer class is one record: a user's is counted, fused, folded and cut like stock."""

from __future__ import annotations

import ast
import doctest
import pathlib

import keras
import numpy as np
import pytest
from conformance import models
from keras import layers, ops

import tfsparse
from tfsparse.deploy import fold
from tfsparse.graph import rules
from tfsparse.layers import Filter

EXACT = 1e-5
PACKAGE = pathlib.Path(tfsparse.__file__).parent
ENGINES = (
    "graph/cost.py", "graph/memory.py", "graph/rules/counting.py", "deploy/lower.py",
    "deploy/fold.py", "deploy/dead.py", "deploy/lost.py",
)  # fmt: skip


class Affine(layers.Layer):
    """y = activation(gain * (x @ w) + bias), told its size: all that can be registered."""

    def __init__(self, units, activation=None, **kwargs):
        super().__init__(**kwargs)
        self.units, self.use_bias = units, True
        self.activation = keras.activations.get(activation)

    def build(self, input_shape):
        self.w = self.add_weight(shape=(input_shape[-1], self.units), name="w")
        self.gain = self.add_weight(shape=(self.units,), name="gain")
        self.bias = self.add_weight(shape=(self.units,), name="bias")

    def call(self, inputs):
        return self.activation(self.gain * ops.matmul(inputs, self.w) + self.bias)

    def get_config(self):
        name = keras.activations.serialize(self.activation)
        return {**super().get_config(), "units": self.units, "activation": name}


@keras.saving.register_keras_serializable("tests")
class Whole(Affine):
    """The layer with the whole record."""


@keras.saving.register_keras_serializable("tests")
class Bare(Affine):
    """The same layer with no more than its rule of units and its sizes."""


@keras.saving.register_keras_serializable("tests")
class Child(Whole):
    """A subclass that says how units pass, and is else what its base class is."""


def _units(walk, call, axes):
    layer, (x,) = call.operation, axes
    walk.consume(layer.w, 0, x[-1])
    out = walk.produce(layer.w, 1)
    walk.carry(layer.gain, 0, out)
    walk.carry(layer.bias, 0, out)
    walk.site(call, out)
    return [[*x[:-1], out]]


def _sizes(call, left):
    return {"units": left.shape(call.operation.w)[1]}


RECORD = {
    "macs": lambda call, left: 1000 * left.shape(call.operation.w)[1],
    "stored_bytes": lambda call, left: 7 * left.shape(call.operation.w)[1],
    "in_place": True,
    "scale_output": lambda layer, scale: [
        (layer.gain, layer.gain * scale),
        (layer.bias, layer.bias * scale),
    ],
    "scale_input": lambda layer, scale: [(layer.w, layer.w * scale[:, None])],
    "folds": "linear",
}

tfsparse.register_rule(Whole, sizes=_sizes, **RECORD)(_units)
tfsparse.register_rule(Bare, Child, sizes=_sizes)(_units)


def built(cls, activation=None, size: int = 5):
    """Dense -> ReLU -> the layer -> ReLU -> Dense, random weights."""
    vector = keras.Input((4,))
    x = layers.Dense(6, activation="relu", name="h")(vector)
    x = cls(size, activation, name="own")(x)
    x = layers.ReLU()(x)
    return models.randomise(keras.Model(vector, layers.Dense(3, name="out")(x)))


def differ(first, second) -> float:
    inputs = models.inputs_for(first)
    return models.difference(
        models.outputs(first, inputs), models.outputs(second, inputs)
    )


@pytest.mark.parametrize(
    ("cls", "macs", "stored", "memory"),
    [(Whole, 5000, 35, 6 + 4), (Child, 5000, 35, 6 + 4), (Bare, 30, 30 + 40, 6 + 5)],
)
def test_what_a_layer_costs_is_its_own_to_say(cls, macs, stored, memory):
    measured = tfsparse.measure(built(cls))
    assert measured.macs == 4 * 6 + macs + 5 * 3
    assert measured.weight_bytes == (24 + 4 * 6) + stored + (15 + 4 * 3)
    assert measured.working_memory_2 == memory


@pytest.mark.parametrize("cls", [Whole, Child])
def test_the_cost_of_what_is_left_is_counted_without_building_it(cls):
    model = built(cls)
    keep = {"own": np.arange(5) < 2, "h": np.arange(6) > 0}
    small = tfsparse.strip(model, keep)
    planned = tfsparse.deploy.removal.plan(model, keep)
    assert tfsparse.graph.measure(model, planned) == tfsparse.measure(small)
    assert tfsparse.measure(small).macs == 4 * 5 + 2000 + 2 * 3


@pytest.mark.parametrize("cls", [Whole, Child, Bare])
def test_its_units_are_cut(cls):
    model = built(cls, "tanh")
    keep = {"own": np.arange(5) != 2, "h": np.arange(6) % 2 == 0}
    small = tfsparse.strip(model, keep)
    assert small.get_layer("own").w.shape == (3, 4)
    assert differ(tfsparse.mask(model, keep), small) <= EXACT


def switched(cls, activation=None, behind: bool = True):
    """The layer with switches behind it, or in front of it; two of six are off."""
    vector = keras.Input((6,))
    switches = Filter(6, name="switches")
    own = cls(6, name="own")
    if behind:
        x = switches(own(vector), activation=activation)
    else:
        x = own(switches(layers.ReLU()(vector)))
    model = models.randomise(keras.Model(vector, layers.Dense(3, name="out")(x)))
    switches.switch.assign([0.5, -1.0, 2.0, 0.0, 1.5, 1.0])
    return model


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("cls", [Whole, Child])
def test_a_factor_behind_it_is_fused_into_it(cls, activation):
    model = switched(cls, activation)
    lowered = tfsparse.deploy.lower(model)
    assert [layer.name for layer in lowered.layers][1:] == ["own", "out"]
    assert keras.activations.serialize(lowered.get_layer("own").activation) == (
        activation or "linear"
    )
    assert differ(model, lowered) <= EXACT
    np.testing.assert_array_equal(lowered.get_layer("own").gain.numpy()[[1, 3]], 0)


@pytest.mark.parametrize("cls", [Whole, Child])
def test_a_factor_in_front_of_it_is_fused_into_it(cls):
    model = switched(cls, behind=False)
    lowered = tfsparse.deploy.lower(model)
    assert not [x for x in lowered.layers if isinstance(x, layers.Rescaling)]
    assert differ(model, lowered) <= EXACT


@pytest.mark.parametrize("behind", [False, True])
def test_what_does_not_fuse_gets_a_layer_that_scales(behind):
    model = switched(Bare, "relu" if behind else None, behind)
    lowered = tfsparse.deploy.lower(model)
    scaling = [x for x in lowered.layers if isinstance(x, layers.Rescaling)]
    assert len(scaling) == 1 and differ(model, lowered) <= EXACT


def dead_in_front(cls):
    """A unit of the layer in front is dead and still sends 0.7."""
    model = built(cls, "tanh")
    kernel, bias = (v.numpy() for v in model.get_layer("h").weights)
    kernel[:, 4], bias[4] = 0.0, 0.7
    model.get_layer("h").set_weights([kernel, bias])
    return model


@pytest.mark.parametrize("cls", [Whole, Child])
def test_the_constant_of_a_dead_unit_goes_into_its_bias(cls):
    model = dead_in_front(cls)
    small = tfsparse.strip(model)
    assert small.get_layer("h").units == 5
    own = model.get_layer("own")
    expected = own.bias.numpy() + own.gain.numpy() * own.w.numpy()[4] * 0.7
    np.testing.assert_allclose(small.get_layer("own").bias.numpy(), expected, rtol=1e-5)
    assert differ(model, small) <= EXACT


def test_without_a_fold_the_dead_unit_stays_and_says_why():
    model = dead_in_front(Bare)
    folded = fold.fold(model, tfsparse.dead_units(model))
    assert (
        folded.keep["h"].all()
        and "'own', a Bare that has no bias" in (folded.reasons["h"])
    )


class Gain(layers.Layer):
    """y = x * factor, whose rule says that it multiplies every unit."""

    def build(self, input_shape):
        self.factor = self.add_weight(shape=(input_shape[-1],), name="factor")

    def call(self, inputs):
        return inputs * self.factor


@keras.saving.register_keras_serializable("tests")
class Said(Gain):
    """Registered with what it multiplies."""


@keras.saving.register_keras_serializable("tests")
class Unsaid(Gain):
    """Registered without."""


def _gain(walk, call, axes):
    walk.carry(call.operation.factor, 0, axes[0][-1])
    return axes


tfsparse.register_rule(Said, multiplies=lambda layer: [layer.factor])(_gain)
tfsparse.register_rule(Unsaid)(_gain)


@pytest.mark.parametrize(("cls", "alive"), [(Said, False), (Unsaid, True)])
def test_a_unit_whose_factor_is_zero_is_dead(cls, alive):
    vector = keras.Input((4,))
    x = cls(name="gain")(layers.Dense(5, activation="tanh", name="h")(vector))
    model = models.randomise(keras.Model(vector, layers.Dense(3, name="out")(x)))
    model.get_layer("gain").factor.assign([1.0, 0.0, 0.5, 1.0, 1.0])
    assert tfsparse.dead_units(model)["h"].tolist() == [True, alive, True, True, True]
    small = tfsparse.strip(model)
    assert small.get_layer("h").units == 4 + alive
    assert differ(model, small) <= EXACT


@pytest.mark.parametrize(("cls", "stays"), [(Said, 1), (Unsaid, 2)])
def test_a_branch_whose_factors_are_zero_is_dead(cls, stays):
    x = vector = keras.Input((4,))
    y = cls(name="gain")(layers.Activation("tanh")(x))
    x = layers.Add(name="sum")([x, y])
    model = models.randomise(keras.Model(vector, layers.Dense(3, name="out")(x)))
    model.get_layer("gain").factor.assign(np.zeros(4))
    masks = tfsparse.dead_units(model)
    assert masks.get("sum:branches", np.ones(2, bool)).sum() == stays
    assert differ(model, tfsparse.strip(model)) <= EXACT


def test_a_second_registration_changes_what_it_names(monkeypatch):
    monkeypatch.setattr(rules.registry, "_RULES", dict(rules.registry._RULES))
    tfsparse.register_rule(Child, macs=lambda call, left: 1)(_units)
    assert tfsparse.measure(built(Child)).macs == 4 * 6 + 1 + 5 * 3
    keep = {"own": np.arange(5) < 2}
    assert tfsparse.strip(built(Child), keep).get_layer("own").units == 2  # its sizes
    tfsparse.register_rule(Child, in_place=False)(_units)
    assert tfsparse.measure(built(Child)).working_memory_2 == 6 + 5
    rules.registry._KNOWN.clear()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"macs": 3}, "`macs` must be callable. Received: 3"),
        ({"stored_bytes": "x"}, "`stored_bytes` must be callable. Received: 'x'"),
        ({"scale_output": True}, "`scale_output` must be callable. Received: True"),
        ({"multiplies": ["gain"]}, "`multiplies` must be callable"),
        ({"in_place": 1}, "`in_place` must be a bool. Received: 1"),
        ({"joins_front": "yes"}, "`joins_front` must be a bool. Received: 'yes'"),
        ({"scaled_config": 3}, "`scaled_config` must be a mapping. Received: 3"),
        ({"folds": "bias"}, "`folds` must be 'linear' or callable. Received: 'bias'"),
    ],
)
def test_what_is_registered_is_checked(given, said):
    with pytest.raises(TypeError, match=said):
        tfsparse.register_rule(Bare, **given)


@pytest.mark.parametrize("make", [layers.Dense, lambda n, **k: layers.EinsumDense(
    "ab,bc->ac", n, bias_axes="c", **k)], ids=["dense", "einsum"])  # fmt: skip
def test_weights_that_are_not_plain_are_counted_and_stay(make):
    vector = keras.Input((4,))
    x = layers.Dense(6, activation="relu", name="before")(vector)
    x = layers.Dense(5, name="free")(make(6, name="own")(x))
    model = models.randomise(keras.Model(vector, layers.Dense(2, name="out")(x)))
    macs = tfsparse.measure(model).macs
    model.get_layer("own").enable_lora(2)
    model.get_layer("own").lora_kernel_b.assign(np.ones((2, 6)))
    masks = tfsparse.dead_units(model)
    assert set(masks) == {"free"}
    assert tfsparse.measure(model).macs >= macs
    keep = {"free": np.arange(5) < 3}
    assert differ(tfsparse.mask(model, keep), tfsparse.strip(model, keep)) <= EXACT


def test_no_engine_names_a_layer_class():
    known = {
        name
        for name, value in vars(layers).items()
        if isinstance(value, type) and issubclass(value, layers.Layer)
    } - {"Layer", "Rescaling", "Activation"}  # made where nothing can be fused
    for engine in ENGINES:
        tree = ast.parse((PACKAGE / engine).read_text())
        named = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        named |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        named |= {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)
                  and isinstance(n.value, str)}  # fmt: skip
        assert not named & known, engine
    assert {"Dense", "BatchNormalization", "LSTM"} <= known


def test_the_example_of_the_door_runs():
    finder = doctest.DocTestFinder(recurse=False)
    names = {"keras": keras, "register_rule": tfsparse.register_rule}
    (example,) = finder.find(tfsparse.register_rule, "register_rule", globs=names)
    assert example.examples
    assert doctest.DocTestRunner().run(example, clear_globs=False).failed == 0
    gain = example.globs["Gain"]
    x = keras.Input((4,))
    model = keras.Model(x, layers.Dense(2)(gain()(layers.Dense(5, name="a")(x))))
    measured = tfsparse.measure(model)
    assert (measured.macs, measured.weight_bytes) == (20 + 5 + 10, 40 + 5 + 18)
    assert tfsparse.find_groups(model)[0].frozen is None
