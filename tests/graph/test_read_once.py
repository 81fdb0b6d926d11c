"""A graph is read and analysed once for each model, and again where it changed."""

from __future__ import annotations

import gc
import weakref

import keras
import numpy as np
import pytest
from conformance import models
from keras import layers

import tfsparse
from tfsparse.graph import groups, rules, trace


@pytest.fixture
def counted(monkeypatch):
    """How often a graph was really read, and really walked."""
    counts = {"read": 0, "walked": 0}

    def counting(name, function):
        def counted(*args):
            counts[name] += 1
            return function(*args)

        return counted

    monkeypatch.setattr(trace, "read_anew", counting("read", trace.read_anew))
    monkeypatch.setattr(groups, "_found", counting("walked", groups._found))
    return counts


def stack():
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(5, name="a"), layers.Dense(3, name="b")]
    )


def names(model) -> list[str]:
    return [group.name for group in tfsparse.find_groups(model)]


@pytest.mark.parametrize("build", [stack, models.residual_projection])
def test_a_model_is_read_and_walked_once(build, counted):
    model = models.randomise(build())
    keep = {}
    for _ in range(3):
        found = tfsparse.find_groups(model)
        keep = {g.name: np.arange(g.size) > 0 for g in found if not g.frozen}
        tfsparse.measure(model)
        tfsparse.dead_units(model)
    assert counted == {"read": 1, "walked": 1}
    tfsparse.strip(model, keep)  # reads the small model, too, to run it
    assert counted == {"read": 2, "walked": 1}
    tfsparse.find_groups(model, ("unit", "branch"))  # the walk for units is known
    assert counted == {"read": 2, "walked": 2}


def test_weights_are_never_kept(counted):
    model = models.randomise(stack())
    assert tfsparse.dead_units(model)["a"].all()
    nonzero = tfsparse.measure(model).nonzero
    model.get_layer("a").kernel.assign(np.zeros((4, 5)))
    assert tfsparse.dead_units(model)["a"].tolist() == [True] + [False] * 4
    assert tfsparse.measure(model).nonzero == nonzero - 20
    assert counted["read"] == 1


def test_a_layer_added_to_a_sequential_is_seen():
    model = stack()
    assert names(model) == ["a", "b"]
    assert tfsparse.find_groups(model)[1].frozen
    model.add(layers.Dense(2, name="c"))
    assert names(model) == ["a", "b", "c"]
    assert not tfsparse.find_groups(model)[1].frozen
    model.pop()
    assert names(model) == ["a", "b"]
    model.add(layers.ReLU(name="relu"))  # no variable tells of it
    assert [call.name for call in trace.read(model).calls] == ["a", "b", "relu"]


def test_a_layer_added_to_a_nested_sequential_is_seen():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(5, name="a")])
    model = keras.Sequential([keras.Input((4,)), inner])
    assert names(model) == ["a"]
    inner.add(layers.Dense(3, name="b"))
    model = keras.Sequential([keras.Input((4,)), inner])
    assert names(model) == ["a", "b"]


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.enable_lora(2),
        lambda layer: layer.quantize("int8"),
    ],
    ids=["lora", "int8"],
)
def test_weights_that_are_no_longer_plain_are_seen(change):
    model = stack()
    assert tfsparse.find_groups(model)[0].frozen is None
    change(model.get_layer("a"))
    assert "a" not in {g.name for g in tfsparse.find_groups(model) if not g.frozen}
    assert tfsparse.measure(model).params == sum(
        int(np.prod(v.shape)) for v in model.variables
    )


def test_another_activation_is_seen():
    model = stack()
    assert tfsparse.find_groups(model)[0].frozen is None
    model.get_layer("a").activation = keras.activations.softmax
    assert "mixes units" in tfsparse.find_groups(model)[0].frozen
    model.get_layer("a").activation = keras.activations.relu
    assert tfsparse.find_groups(model)[0].frozen is None


class Late(layers.Layer):
    """A layer whose rule is registered once a model was read."""

    def call(self, inputs):
        return inputs * 1.0


def test_a_rule_registered_later_is_seen(monkeypatch):
    monkeypatch.setattr(rules.registry, "_RULES", dict(rules.registry._RULES))
    x = keras.Input((4,))
    model = keras.Model(x, layers.Dense(2)(Late()(layers.Dense(5, name="a")(x))))
    assert "of class Late" in tfsparse.find_groups(model)[0].frozen
    assert tfsparse.measure(model).working_memory_2 == 5 + 5  # read and written
    tfsparse.register_rule(Late, in_place=True)(lambda walk, call, axes: axes)
    assert tfsparse.find_groups(model)[0].frozen is None
    assert tfsparse.measure(model).working_memory_2 == 4 + 5
    rules.registry._KNOWN.clear()


@pytest.mark.parametrize("build", [stack, models.residual_projection])
def test_a_model_that_was_read_is_freed(build):
    model = build()
    tfsparse.find_groups(model, ("unit", "branch", "feature"))
    small = tfsparse.strip(model, {})
    layer, graph = weakref.ref(model.layers[-1]), weakref.ref(trace.read(model))
    refs = [weakref.ref(model), weakref.ref(small), layer, graph]
    assert all(ref() is not None for ref in refs)
    del model, small
    gc.collect()
    assert [ref() for ref in refs] == [None] * 4


def test_what_is_kept_is_neither_saved_nor_cloned(tmp_path):
    model = models.randomise(models.flatten_from_conv())
    before = model.get_config()
    plain = {str(path) for path in tmp_path.iterdir()}
    model.save(tmp_path / "before.keras")
    graph = trace.read(model)
    tfsparse.find_groups(model)
    model.save(tmp_path / "after.keras")
    assert model.get_config() == before and not plain
    sizes = {path.stat().st_size for path in tmp_path.iterdir()}
    assert len(sizes) == 1
    for twin in (
        keras.saving.load_model(tmp_path / "after.keras"),
        keras.models.clone_model(model),
    ):
        assert trace.read(twin) is not graph
        assert trace.read(twin).model is not graph.model
        assert names(twin) == names(model)
    model.export(tmp_path / "saved", verbose=False)


def test_the_models_of_a_layer_shared_by_two_are_apart():
    shared = layers.Dense(5, name="a")
    x = keras.Input((4,))
    one = keras.Model(x, layers.Dense(2, name="b")(shared(x)))
    two = keras.Model(x, shared(x))
    assert [g.frozen is None for g in tfsparse.find_groups(one)] == [True, False]
    assert [g.frozen is None for g in tfsparse.find_groups(two)] == [False]
