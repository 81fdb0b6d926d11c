"""For every model of the table: strip equals mask, and touches nothing else."""

from __future__ import annotations

import dataclasses
import functools

import keras
import numpy as np
import pytest

import tfsparse
from conformance import models
from tfsparse import records
from tfsparse.deploy import removal
from tfsparse.graph import trace

EXACT = 1e-5
"""Relative difference that is float rounding."""

ROWS = list(models.TABLE)

UNEVEN = {"grouped_conv"}
"""Rows whose halves leave a layer uneven rows, so that a surplus stays."""


@dataclasses.dataclass(frozen=True)
class Work:
    """A randomised model, half of its free units dropped, masked and stripped."""

    model: object
    before: dict[str, np.ndarray]
    free: dict[str, object]
    keep: dict[str, np.ndarray]
    masked: object
    small: object
    inputs: object


def own(path: str) -> str:
    """`layer/variable`: a Sequential's variables carry the model's name as well."""
    return "/".join(path.split("/")[-2:])


@functools.cache
def work(name: str) -> Work:
    model = models.randomise(models.TABLE[name].build(), seed=3)
    before = models.weights_of(model)
    free = {g.name: g for g in tfsparse.find_groups(model) if not g.frozen}
    keep = {key: models.half(group) for key, group in free.items()}
    masked, small = tfsparse.mask(model, keep), tfsparse.strip(model, keep)
    inputs = models.inputs_for(model)
    return Work(model, before, free, keep, masked, small, inputs)


@pytest.mark.parametrize("name", ROWS)
def test_groups_are_those_found_by_hand(name):
    case = models.TABLE[name]
    groups = tfsparse.find_groups(case.build())
    frozen = {g.name: g.frozen for g in groups if g.frozen}
    assert {g.name: g.size for g in groups if not g.frozen} == case.free
    assert set(frozen) == set(case.frozen)
    for key, piece in case.frozen.items():
        assert piece in frozen[key]


@pytest.mark.parametrize("name", ROWS)
def test_strip_equals_mask(name):
    done = work(name)
    expected = models.outputs(done.masked, done.inputs)
    received = models.outputs(done.small, done.inputs)
    assert models.difference(expected, received) <= EXACT


@pytest.mark.parametrize("name", ROWS)
def test_every_dropped_group_matters(name):
    done = work(name)
    whole = models.outputs(done.model, done.inputs)
    for key, keep in done.keep.items():
        if not keep.all():
            masked = tfsparse.mask(done.model, {key: keep})
            assert models.difference(whole, models.outputs(masked, done.inputs)) > 1e-3
            assert models.params_of(masked) == models.params_of(done.model)


@pytest.mark.parametrize("name", ROWS)
def test_members_shrink_by_the_dropped_units(name):
    done = work(name)
    before = {own(path): value.shape for path, value in done.before.items()}
    after = {own(v.path): v.shape for v in done.small.variables}
    gone: dict[tuple[str, int], int] = {}
    for key, group in done.free.items():
        for member in group.members:
            dropped = (~done.keep[key])[member.units].sum()
            place = (own(member.path), member.axis)
            gone[place] = gone.get(place, 0) + int(dropped)
    assert sum(gone.values()) > 0
    for (path, axis), dropped in gone.items():
        if not isinstance(axis, tuple) and name not in UNEVEN:
            assert after[path][axis] == before[path][axis] - dropped, path


@pytest.mark.parametrize("name", ROWS)
def test_cost_of_a_removal_is_the_cost_of_the_small_model(name):
    done = work(name)
    planned = removal.plan(done.model, done.keep)
    expected = models.params_of(done.small)
    assert tfsparse.measure(done.model, planned).params == expected
    assert tfsparse.measure(done.small).params == expected
    assert (
        expected < tfsparse.measure(done.model).params == models.params_of(done.model)
    )


@pytest.mark.parametrize("name", ROWS)
def test_argument_and_layer_names_stay(name):
    done = work(name)
    after = models.weights_of(done.model)
    assert after.keys() == done.before.keys()
    assert all(np.array_equal(after[p], done.before[p]) for p in after)
    layers = trace.read(done.model).operations
    named = {x.name for x in layers if getattr(x, "weights", None)}
    assert {layer.name for layer in done.small.layers if layer.weights} == named


@pytest.mark.parametrize("name", ROWS)
def test_small_model_saves_and_loads(name, tmp_path):
    done = work(name)
    path = tmp_path / "small.keras"
    done.small.save(path)
    loaded = keras.saving.load_model(path)
    expected = models.outputs(done.small, done.inputs)
    assert models.difference(expected, models.outputs(loaded, done.inputs)) <= EXACT
    assert loaded.count_params() == done.small.count_params()


@pytest.mark.parametrize("name", ROWS)
def test_group_names_survive_a_removal(name):
    done = work(name)
    left = {g.name: g.size for g in tfsparse.find_groups(done.small) if not g.frozen}
    if name in UNEVEN:
        assert all(left[key] >= keep.sum() for key, keep in done.keep.items())
        assert sum(left.values()) < sum(len(keep) for keep in done.keep.values())
    else:
        assert left == {key: int(keep.sum()) for key, keep in done.keep.items()}


@pytest.mark.parametrize("name", models.TABLE)
def test_members_cover_their_variables(name):
    model = models.TABLE[name].build()
    shapes = {v.path: v.shape for v in model.variables}
    owner: dict[tuple[str, int, str], np.ndarray] = {}
    for number, group in enumerate(tfsparse.find_groups(model)):
        roles = {member.role for member in group.members}
        assert "producer" in roles and (group.frozen or "consumer" in roles)
        for member in group.members:
            assert len(member.indices) == len(member.units) > 0
            assert set(member.units) == set(range(group.size)), member.path
            key = (member.path, member.axis, member.role)
            axes = np.ravel(member.axis)
            size = int(np.prod([shapes[member.path][axis] for axis in axes]))
            owners = owner.setdefault(key, np.full(size, -1))
            assert (owners[member.indices] == -1).all(), f"{key} is owned twice"
            owners[member.indices] = number
    for (path, axis, role), owners in owner.items():
        if role == "producer":
            assert (owners >= 0).all(), f"{path} axis {axis} has units without a group"


FEATURES = {
    "flatten_from_conv": {"dense:features": 75},
    "single_channel": {"dense:features": 12},
    "sequential_with_dropout": {"dense:features": 80},
    "named_vector": {"hidden:features": 7},
    "depthwise_multiplier_3_without_bias": {"out:features": 84},
    "separable_1d": {"out:features": 24},
    "conv_1d": {"out:features": 20},
    "conv_3d": {"out:features": 27},
    "prelu": {"c:features": 60},
    "reshape_merges_width_and_channels": {"out:features": 15},
    "residual_identity": {"out:features": 252},
    "average_maximum_subtract": {"d:features": 7},
    "op_layers": {"out:features": 90},
    "shared_dense": {"shared:features": 7},
    "multi_input": {"dense:features": 4, "out:features": 100},
    "multi_output": {"second:features": 48},
    "softmax_in_the_middle": {"attention:features": 7},
    "custom_layers_with_rules": {"a:features": 7},
}
"""Rows behind a named rank-2 input or a Flatten, counted by hand."""


@pytest.mark.parametrize("name", FEATURES)
def test_feature_groups_are_those_found_by_hand(name):
    groups = tfsparse.find_groups(models.TABLE[name].build(), ("feature",))
    assert {g.name: g.size for g in groups} == FEATURES[name]
    assert {g.kind for g in groups} == {"feature"}
    assert all(m.role == "consumer" for g in groups for m in g.members if m.axis == 0)


@pytest.mark.parametrize(
    ("name", "units"),
    [(name, True) for name in FEATURES]
    + [("flatten_from_conv", False), ("multi_input", False), ("shared_dense", False)],
)
def test_features_strip_like_units(name, units, tmp_path):
    model = models.randomise(models.TABLE[name].build(), seed=5)
    kinds = ("unit", "feature") if units else ("feature",)
    groups = tfsparse.find_groups(model, kinds)
    keep = {g.name: models.half(g, seed=1) for g in groups if not g.frozen}
    before, inputs = models.weights_of(model), models.inputs_for(model)
    masked, small = tfsparse.mask(model, keep), tfsparse.strip(model, keep)
    expected = models.outputs(masked, inputs)
    assert models.difference(expected, models.outputs(small, inputs)) <= EXACT
    assert models.difference(models.outputs(model, inputs), expected) > 10 * EXACT
    planned = removal.plan(model, keep)
    cost = tfsparse.measure(small)
    assert (
        cost.params
        == models.params_of(small)
        == tfsparse.measure(model, planned).params
    )
    assert all(
        np.array_equal(v, before[p]) for p, v in models.weights_of(model).items()
    )
    if units:  # features only are saved just the same
        small.save(tmp_path / "small.keras")
        loaded = keras.saving.load_model(tmp_path / "small.keras")
        assert models.difference(expected, models.outputs(loaded, inputs)) <= EXACT


def test_features_cost_their_index_bytes():
    model = models.flatten_from_conv()
    keep = {"dense:features": np.arange(75) % 3 > 0}
    assert tfsparse.measure(tfsparse.strip(model, keep)).index_bytes == 4 * 50
    assert tfsparse.measure(model).index_bytes == 0


def test_features_of_an_input_without_a_name():
    vector = keras.Input((6,))
    x = keras.layers.Dense(4, activation="relu", name="hidden")(vector)
    model = keras.Model(vector, keras.layers.Dense(2, name="out")(x))
    small = tfsparse.strip(model, {"hidden:features": np.arange(6) < 4})
    assert small.get_layer("hidden").kernel.shape == (4, 4)


def test_features_of_a_stripped_model_can_be_stripped_again():
    model = models.randomise(models.flatten_from_conv())
    once = tfsparse.strip(model, {"dense:features": np.arange(75) % 2 == 0})
    groups = {g.name: g for g in tfsparse.find_groups(once) if not g.frozen}
    keep = {"conv": models.half(groups["conv"])}
    inputs = models.inputs_for(model)
    expected = models.outputs(tfsparse.mask(once, keep), inputs)
    twice = tfsparse.strip(once, keep)
    assert models.difference(expected, models.outputs(twice, inputs)) <= EXACT
    assert models.params_of(twice) < models.params_of(once)


def test_a_masked_sequential_answers_with_one_tensor():
    model = models.sequential_with_dropout()
    masked, inputs = tfsparse.mask(model, {}), models.inputs_for(model)
    answer = masked(inputs, training=False)
    assert keras.ops.shape(answer) == (3, 3)


@pytest.mark.parametrize(
    ("keep", "sentence"),
    [
        (
            {"nothing": [True]},
            r"must name groups of the model. Received: 'nothing'; known",
        ),
        ({"a": np.ones(4, bool)}, r"bool array of shape \(5,\). Received: dtype=bool"),
        ({"a": np.ones(5)}, r"bool array of shape \(5,\). Received: dtype=float64"),
        ({"a": np.zeros(5, bool)}, r"at least one unit. Received: all 5 dropped"),
        ({"out": np.arange(3) < 2}, r"not name frozen groups. Received: 'out', frozen"),
    ],
)
@pytest.mark.parametrize("function", [tfsparse.mask, tfsparse.strip])
def test_wrong_keep_masks_are_refused(function, keep, sentence):
    with pytest.raises(ValueError, match=sentence):
        function(models.conv_bn_chain(), keep)


def test_strip_proves_itself_and_reports_a_wrong_rule():
    vector = keras.Input((7,))
    x = keras.layers.Dense(6, activation="relu", name="hidden")(vector)
    x = Shuffle(name="shuffle")(x)
    model = keras.Model(vector, keras.layers.Dense(3, name="out")(x))
    with pytest.raises(records.StripError, match="must equal the masked one"):
        tfsparse.strip(model, {"hidden": np.arange(6) < 3})


class Shuffle(keras.layers.Layer):
    """Reverses the channels, and claims that it does not."""

    def call(self, inputs):
        return inputs[..., ::-1]

    def unit_rule(self, walk, call, axes):
        return axes
