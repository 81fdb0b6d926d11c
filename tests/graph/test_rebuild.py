"""One engine copies models: layers reconfigured, swapped, and calls added around them."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from conformance import models
from keras import layers

from tfsparse.graph.rebuild import graft
from tfsparse.layers import VariationalDense

NAMES = [
    "conv_bn_chain", "shared_dense", "multi_input", "multi_output", "named_vector",
    "op_layers", "residual_projection", "separable",
]  # fmt: skip


def same(first, second) -> bool:
    inputs = models.inputs_for(first)
    pairs = zip(
        models.outputs(first, inputs), models.outputs(second, inputs), strict=True
    )
    return all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", NAMES)
def test_a_graft_of_nothing_is_the_model(name):
    model = models.randomise(models.TABLE[name].build())
    copy = graft(model)
    assert copy is not model and same(model, copy)
    assert [x.name for x in copy.operations] == [x.name for x in model.operations]
    assert not {id(v) for v in copy.variables} & {id(v) for v in model.variables}


def test_calls_are_added_around_calls_and_behind_vectors():
    model = models.randomise(models.shared_dense())
    seen, read = [], []

    def after(name, index, outputs):
        seen.append((name, index))
        return outputs * 2.0 if (name, index) == ("shared", 1) else outputs

    def before(name, index, number, tensor):
        read.append((name, index, number))
        return tensor

    copy = graft(model, after=after, before=before)
    assert {("shared", 0), ("shared", 1), ("out", 0)} <= set(seen)
    vectors = {x.name for x in model.inputs if len(x.shape) == 2}
    assert vectors <= {name for name, _ in seen}
    assert ("shared", 1, 0) in read and len(set(read)) == len(read)
    assert not same(model, copy)


def test_another_class_takes_the_weights_by_name():
    vector = keras.Input((4,))
    x = layers.Dense(5, activation="relu", name="a")(vector)
    model = models.randomise(keras.Model(vector, layers.Dense(3, name="b")(x)))

    def swap(layer):
        return VariationalDense if layer.name == "a" else type(layer)

    def configure(layer, config):
        return config | {"activation": "tanh"} if layer.name == "a" else config

    copy = graft(model, configure, swap=swap)
    a = copy.get_layer("a")
    assert type(a) is VariationalDense and a.activation is keras.activations.tanh
    assert type(copy.get_layer("b")) is layers.Dense
    np.testing.assert_array_equal(a.kernel, model.get_layer("a").kernel)
    assert "log_variance" in {v.name for v in a.variables}


def test_nested_models_are_opened():
    inner = keras.Sequential([keras.Input((5,)), layers.Dense(4, name="inner")])
    vector = keras.Input((3,))
    x = inner(layers.Dense(5, name="a")(vector))
    model = models.randomise(keras.Model(vector, layers.Dense(2, name="b")(x)))
    seen = []
    copy = graft(model, after=lambda name, index, x: seen.append(name) or x)
    assert same(model, copy) and seen[1:] == ["a", "inner", "b"]
