"""For every stock layer: strip equals mask, dead units leave, files load again."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest

import tfsparse
from conformance import models, stock
from tfsparse.deploy import probe, removal

EXACT = 1e-5


@functools.cache
def work(name: str, seed: int = 0):
    model = models.randomise(stock.TABLE[name](), seed=3)
    free = {g.name: g for g in tfsparse.find_groups(model) if not g.frozen}
    keep = {key: models.half(group, seed) for key, group in free.items()}
    inputs = probe.random_inputs(model, np.random.default_rng(4), samples=3)
    return model, free, keep, inputs


@pytest.mark.parametrize("name", stock.TABLE)
def test_groups_are_those_found_by_hand(name):
    _, free, *_ = work(name)
    assert {key: group.size for key, group in free.items()} == stock.FREE[name]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", stock.TABLE)
def test_strip_equals_mask(name, seed, tmp_path):
    model, _, keep, inputs = work(name, seed)
    before = models.weights_of(model)
    expected = probe.run(tfsparse.mask(model, keep), inputs)
    small = tfsparse.strip(model, keep)
    assert models.difference(expected, probe.run(small, inputs)) <= EXACT
    assert models.params_of(small) < models.params_of(model)
    planned = removal.plan(model, keep)
    cost, counted = tfsparse.measure(small), tfsparse.measure(model, planned)
    assert (cost.params, cost.macs) == (counted.params, counted.macs)
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    assert models.difference(expected, probe.run(loaded, inputs)) <= EXACT
    after = models.weights_of(model)
    assert all(np.array_equal(before[path], after[path]) for path in before)


@pytest.mark.parametrize("name", stock.TABLE)
def test_every_dropped_group_matters(name):
    model, free, keep, inputs = work(name)
    whole = probe.run(model, inputs)
    for key, values in keep.items():
        read = free[key].gates or any(m.role == "consumer" for m in free[key].members)
        if not values.all() and read:
            masked = probe.run(tfsparse.mask(model, {key: values}), inputs)
            assert models.difference(whole, masked) > 1e-5, key
            small = probe.run(tfsparse.strip(model, {key: values}), inputs)
            assert models.difference(masked, small) <= EXACT, key


@pytest.mark.parametrize("name", stock.TABLE)
def test_dead_units_leave_and_nothing_changes(name):
    model = models.randomise(stock.TABLE[name](), seed=5)
    variables = {v.path: v for v in model.variables}
    groups = [g for g in tfsparse.find_groups(model) if not g.frozen]
    for group in groups:
        gone = np.flatnonzero(~models.half(group))
        for member in group.members:
            if member.role == "producer" and member.path in variables:
                value = keras.ops.convert_to_numpy(variables[member.path]).copy()
                axes = np.ravel(member.axis).tolist()
                front = np.moveaxis(value, axes, range(len(axes)))
                places = member.indices[np.isin(member.units, gone)]
                shape = front.shape[: len(axes)]
                front[np.unravel_index(places, shape)] = 0
                variables[member.path].assign(value)
    inputs = probe.random_inputs(model, np.random.default_rng(6), samples=3)
    small = tfsparse.strip(model)
    expected = probe.run(model, inputs)
    assert models.difference(expected, probe.run(small, inputs)) <= EXACT


def test_a_surplus_is_said_and_holds_zeros(caplog):
    model = models.randomise(stock.grouped_chain())
    keep = {"b": np.array([1, 1, 0, 1, 0, 0, 1, 0, 0], bool)}  # 2, 1 and 1 of 3
    small = tfsparse.strip(model, keep)
    assert "'b' needs as many units in each of its parts: 2 stay" in caplog.text
    kernel = keras.ops.convert_to_numpy(small.get_layer("b").kernel)
    alive = np.abs(kernel).sum((0, 1, 2)) > 0
    assert alive.tolist() == [True, True, True, False, True, False]
    small, report = tfsparse.prune(model, {"units": 0.6}, criterion="random", seed=3)
    entries = {entry.name: entry for entry in report.groups}
    assert any("weights of zero" in (e.reason or "") for e in entries.values())


def test_the_query_takes_the_change_of_the_key_width():
    model = models.randomise(stock.cross_attention())
    small = tfsparse.strip(model, {"mha:key": np.arange(12) % 4 == 0})
    before = keras.ops.convert_to_numpy(model.get_layer("mha").query_dense.kernel)
    after = keras.ops.convert_to_numpy(small.get_layer("mha").query_dense.kernel)
    assert small.get_layer("mha").key_dim == 1
    np.testing.assert_allclose(after, before[:, :, ::4] * np.sqrt(1 / 4), rtol=1e-6)


def test_heads_leave_whole():
    model = models.randomise(stock.attention_block())
    small = tfsparse.strip(model, {"mha": np.array([True, False, False, True])})
    layer = small.get_layer("mha")
    assert (layer.num_heads, layer.key_dim, layer.value_dim) == (2, 3, 2)
