"""Removal while a model trains and at its end: one order of steps, proved or compared."""

from __future__ import annotations

import importlib

import keras
import numpy as np
import pytest
from conformance import models
from keras import layers

import tfsparse
from tfsparse import records
from tfsparse.deploy import collect as collecting
from tfsparse.deploy import removal
from tfsparse.layers import Filter

EXACT = 1e-5
STRIP = importlib.import_module(
    "tfsparse.deploy.strip"
)  # the name is a function's, too


def differ(first, second) -> float:
    inputs = models.inputs_for(first)
    return models.difference(
        models.outputs(first, inputs), models.outputs(second, inputs)
    )


def sparse(off=(1, 3)):
    """Conv, switches, BatchNorm, Dense: two of five channels are switched off."""
    image = keras.Input((6, 5, 2))
    x = layers.Conv2D(5, 3, name="conv")(image)
    x = Filter(5, name="switches")(x, activation="relu")
    x = layers.Conv2D(4, 2, activation="relu", name="next")(x)
    x = layers.Dense(3, name="out")(layers.GlobalAveragePooling2D()(x))
    model = models.randomise(keras.Model(image, x))
    switch = np.linspace(0.5, 1.5, 5)
    switch[list(off)] = -1.0
    model.get_layer("switches").switch.assign(switch)
    return model


def test_dead_units_leave_a_running_model():
    model, keep = sparse(), {"conv": np.array([True, False, True, False, True])}
    found = collecting.collect(model, keep)
    assert found.model is not model and found.reasons == {}
    assert found.keep["conv"].tolist() == keep["conv"].tolist()
    assert found.model.get_layer("switches").units == 3  # still sparse
    assert differ(model, found.model) <= EXACT


def test_every_variable_has_its_pair_and_is_cut_alike():
    model, keep = sparse(), {"conv": np.array([True, False, True, False, True])}
    found = collecting.collect(model, keep)
    old = {v.path: keras.ops.convert_to_numpy(v) for v in model.variables}
    assert {v.path for v in found.model.variables} == set(found.pairs)
    for variable in found.model.variables:
        path = found.pairs[variable.path]
        slot = found.cuts(path, old[path])  # as an optimizer's slot would be
        np.testing.assert_array_equal(slot, keras.ops.convert_to_numpy(variable))


def test_where_nothing_can_leave_the_model_is_the_same():
    model = sparse()
    found = collecting.collect(model, {"conv": np.ones(5, bool)})
    assert found.model is model and found.pairs == {} and found.cuts is None


def test_a_unit_that_still_works_is_no_garbage():
    """It sends what the input decides: it is kept, and the reason is told."""
    model, keep = sparse(), {"conv": np.array([True, False, True, False, False])}
    found = collecting.collect(model, keep)
    assert found.keep["conv"].tolist() == [True, False, True, False, True]
    assert "the input decides" in found.reasons["conv"]


def test_the_end_lowers_and_strips_what_the_method_gave_up():
    model, keep = sparse(), {"next": np.arange(4) != 2}
    small, reasons = collecting.finish(model, keep)
    assert not [layer for layer in small.layers if isinstance(layer, Filter)]
    assert small.get_layer("conv").filters == 3
    assert small.get_layer("next").filters == 3 and reasons == {}
    lowered = tfsparse.deploy.lower(model)
    assert differ(tfsparse.mask(lowered, keep), small) <= EXACT


def test_a_group_that_died_as_a_whole_keeps_a_unit_and_says_so():
    model = sparse()
    small, reasons = collecting.finish(model, {"next": np.zeros(4, bool)})
    assert small.get_layer("next").filters == 1
    assert reasons == {"next": "all of it died, and a layer keeps one unit"}


WAYS = {
    "strip": lambda model: tfsparse.strip(tfsparse.deploy.lower(model)),
    "strip_keep": lambda model: tfsparse.strip(model, {"next": np.arange(4) < 3}),
    "collect": lambda model: collecting.collect(
        model, {"conv": np.array([True, False, True, False, True])}
    ),
    "finish": lambda model: collecting.finish(model, {"next": np.arange(4) < 3}),
}


@pytest.mark.parametrize("way", WAYS)
def test_there_is_one_order_of_steps(way, monkeypatch):
    steps = []

    def noted(name, function):
        def noting(*args, **kwargs):
            steps.append(name)
            return function(*args, **kwargs)

        return noting

    for module, name in (
        (STRIP.shrink, "build"),
        (STRIP, "fill"),
        (STRIP, "_prove"),
        (STRIP, "compare"),
    ):
        monkeypatch.setattr(module, name, noted(name, getattr(module, name)))
    WAYS[way](sparse())
    expected = {
        "strip": ["build", "fill", "_prove", "compare"],
        "strip_keep": ["build", "fill", "_prove"],
        "collect": ["build", "fill", "compare"],
        "finish": ["build", "fill", "_prove"],
    }
    assert steps == expected[way]


@pytest.mark.parametrize("way", WAYS)
def test_no_way_lets_a_wrong_cut_pass(way, monkeypatch):
    cut = removal.Plan.cut

    def wrong(self, path, value):
        found = cut(self, path, value)
        touched = self.variables.get(path, {})
        if touched and found.ndim > 1:  # its units in another order
            (axis, *_) = touched
            found = np.flip(found, axis)
        return found

    monkeypatch.setattr(removal.Plan, "cut", wrong)
    with pytest.raises(records.StripError, match="must"):
        WAYS[way](sparse())


def test_rounding_is_told_from_faults_in_double_precision(monkeypatch):
    """With BatchNorm, whose statistics are drawn once and must serve both precisions."""
    model = models.randomise(models.conv_bn_chain())
    found, measured = [], STRIP.probe.largest_difference

    def rough(expected, received):  # as if rounding had grown in single precision
        found.append((expected[0].dtype, measured(expected, received)))
        return 1.0 if len(found) == 1 else found[-1][1]

    monkeypatch.setattr(STRIP.probe, "largest_difference", rough)
    small = tfsparse.strip(model, {"a": np.arange(5) < 2, "b": np.arange(4) > 0})
    assert [kind for kind, _ in found] == ["float32", "float64"]
    assert found[1][1] <= 1e-12
    own = model.get_layer("a_bn").moving_variance.numpy()[:2]
    left = small.get_layer("a_bn").moving_variance.numpy()
    np.testing.assert_array_equal(left, own)


def test_the_small_model_draws_no_weights_and_keeps_its_initializers():
    model = models.randomise(models.flatten_from_conv())
    small = tfsparse.strip(model, {"conv": np.arange(5) < 2})
    for layer in small.layers:
        old = model.get_layer(layer.name) if layer.weights else layer
        assert layer.get_config().get("kernel_initializer") == (
            old.get_config().get("kernel_initializer")
        )
    assert type(small.get_layer("conv").kernel_initializer) is (
        keras.initializers.GlorotUniform
    )
