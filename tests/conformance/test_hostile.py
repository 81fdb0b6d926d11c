"""Models that once were stripped wrongly, crashed, or were refused without a reason.

`dead(layer)`: unit 0 of the layer has a kernel of zero and a bias that is not.
"""

from __future__ import annotations

import importlib

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfsparse
from conformance import models
from tfsparse import records

EXACT = 1e-5


def built(inputs, outputs, *dead):
    """A model with random weights of both signs, and dead units 0."""
    model, rng = keras.Model(inputs, outputs), np.random.default_rng(3)
    for variable in model.variables:
        if variable.dtype == "float32" and "state" not in variable.path:
            low = 0.5 if variable.name == "moving_variance" else -1.0
            variable.assign(rng.uniform(low, 1.5, variable.shape))
    for layer in dead:
        kernel = keras.ops.convert_to_numpy(layer.kernel).copy()
        kernel[..., 0] = 0
        layer.kernel.assign(kernel)
        layer.bias.assign(np.abs(keras.ops.convert_to_numpy(layer.bias)) + 0.5)
    return model


def differ(first, second, inputs) -> float:
    return models.difference(
        *(
            [ops.convert_to_numpy(x) for x in keras.tree.flatten(m(inputs, training=False))]
            for m in (first, second)
        )
    )  # fmt: skip


def normal(*shape):
    return np.random.default_rng(9).normal(size=shape).astype("float32")


def test_a_gate_that_pixels_never_close():
    x, h = keras.Input((4,)), layers.Dense(3, name="h")
    gate = ops.cast(x[:, :1] > 0, "float32")
    model = built(x, layers.Dense(2)(h(x) * gate), h)
    small = tfsparse.strip(model)
    assert small.get_layer("h").units == 3
    assert differ(model, small, normal(50, 4)) <= EXACT


def _pad(x):
    return layers.GlobalAveragePooling1D()(layers.ZeroPadding1D(2)(x))


@pytest.mark.parametrize(
    "reduce", [_pad, lambda x: ops.sum(x, axis=1)], ids=["padding", "sum"]
)
def test_a_constant_that_depends_on_the_length(reduce):
    x, h = keras.Input((None, 3)), layers.Dense(4, name="h")
    model = built(x, layers.Dense(2)(reduce(h(x))), h)
    small = tfsparse.strip(model)
    for length in (3, 6, 32):
        assert differ(model, small, normal(4, length, 3)) <= EXACT


def test_a_dead_branch_whose_sum_depends_on_the_length():
    x, h = keras.Input((None, 3)), layers.Dense(4, name="h")
    other = layers.Dense(4)(ops.sum(x, axis=1))
    total = layers.Add()([other, ops.sum(h(x), axis=1)])
    model = built(x, layers.Dense(2)(total))
    h.kernel.assign(np.zeros((3, 4)))
    small = tfsparse.strip(model)
    assert differ(model, small, normal(4, 5, 3)) <= EXACT


def test_steps_that_are_masked():
    words = keras.Input((6,), dtype="int32")
    h = layers.SimpleRNN(3, return_sequences=True, name="h")
    x = h(layers.Embedding(500, 4, mask_zero=True)(words))
    model = built(words, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))
    h.cell.kernel.assign(h.cell.kernel.numpy() * [0, 1, 1])
    h.cell.recurrent_kernel.assign(h.cell.recurrent_kernel.numpy() * [0, 1, 1])
    tokens = np.random.default_rng(1).integers(0, 3, (20, 6))
    assert differ(model, tfsparse.strip(model), tokens) <= EXACT


def test_one_attention_called_on_one_and_on_two_tensors():
    x, y, d = (
        keras.Input((4, 3), name="x"),
        keras.Input((4, 3), name="y"),
        layers.Dense(5),
    )
    attention, a, b = layers.MultiHeadAttention(2, 3), d(x), d(y)
    out = layers.Add()([attention(a, a), attention(a, b)])
    model = built([x, y], layers.Dense(2)(out), d)
    inputs = [normal(6, 4, 3), normal(6, 4, 3) + 1]
    small = tfsparse.strip(model)
    assert differ(model, small, inputs) <= EXACT
    assert small.count_params() < model.count_params()


def test_two_layers_of_one_name_one_without_a_bias():
    inside = keras.Input((3,))
    inner = keras.Model(inside, layers.Dense(3, name="dense")(inside), name="inner")
    x, h = keras.Input((3,)), layers.Dense(4, activation="relu", name="h")
    y = layers.Dense(3, name="dense", use_bias=False)(h(x))
    model = built(x, layers.Dense(2, name="out")(layers.Add()([inner(x), y])), h)
    assert differ(model, tfsparse.strip(model), normal(6, 3)) <= EXACT


@pytest.mark.parametrize("listed", [False, True])
def test_a_nested_model_takes_its_inputs_by_name(listed):
    a, b = keras.Input((3,), name="zz"), keras.Input((3,), name="aa")
    out = layers.Dense(2)(layers.Concatenate()([layers.Dense(4)(a), b]))
    inner = keras.Model([a, b] if listed else {"zz": a, "aa": b}, out)
    x, y = keras.Input((3,), name="x"), keras.Input((3,), name="y")
    model = built([x, y], inner({"zz": x, "aa": y}))
    inputs = [normal(5, 3), normal(5, 3) * 2]
    assert differ(model, tfsparse.strip(model, {}), inputs) <= EXACT


def test_a_tolerance_folds_constants_too():
    x, h = keras.Input((3,)), layers.Dense(4, name="h")
    model = built(x, layers.Dense(2)(h(x)), h)
    h.kernel.assign(h.kernel.numpy() + [1e-5, 0, 0, 0])
    small = tfsparse.strip(model, tolerance=1e-3)
    assert small.get_layer("h").units == 3
    assert differ(model, small, normal(6, 3)) <= 1e-4
    assert tfsparse.strip(model).get_layer("h").units == 4
    with pytest.raises(ValueError, match="`tolerance` must be left out"):
        tfsparse.strip(model, {"h": np.arange(4) > 1}, tolerance=1e-3)


def _flat(x, h):
    return layers.BatchNormalization(name="n")(layers.Flatten()(h(x)))


def _twice(x, h):
    y = h(x)
    return layers.Flatten()(
        layers.BatchNormalization(name="n")(ops.concatenate([y, y], -1))
    )


def _grouped(x, h):
    return layers.Flatten()(layers.GroupNormalization(2, name="n")(h(x)))


@pytest.mark.parametrize("norm", [_flat, _twice, _grouped])
def test_a_scale_of_zero_at_one_of_several_places(norm):
    x, h = keras.Input((3, 4)), layers.Dense(4, name="h")
    model = built(x, layers.Dense(2)(norm(x, h)))
    gamma = model.get_layer("n").gamma
    gamma.assign(gamma.numpy() * (np.arange(gamma.shape[0]) != 0))
    assert tfsparse.dead_units(model)["h"].all()
    assert differ(model, tfsparse.strip(model), normal(5, 3, 4)) <= EXACT


def test_a_unit_that_only_a_norm_reads_is_alive():
    x, h = keras.Input((3,)), layers.Dense(4, name="h")
    out = layers.Dense(2, name="out")
    model = built(x, out(layers.RMSNormalization()(h(x))))
    out.kernel.assign(out.kernel.numpy() * (np.arange(4) != 1)[:, None])
    assert tfsparse.dead_units(model)["h"].all()


def test_what_a_normalization_has_learnt_goes_along(tmp_path):
    learnt = layers.Normalization()
    x, h = keras.Input((3,)), layers.Dense(4, name="h")
    model = built(x, layers.Dense(2)(h(learnt(x))))
    learnt.adapt(normal(99, 3) * 3 + 5)
    keep = {"h": np.arange(4) > 1}
    small = tfsparse.strip(model, keep)
    assert differ(tfsparse.mask(model, keep), small, normal(5, 3)) <= EXACT
    assert differ(model, tfsparse.strip(model, {}), normal(5, 3)) <= EXACT
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    assert differ(small, loaded, normal(5, 3)) <= EXACT


def test_states_stay_as_they_are():
    x = keras.Input((4, 3), batch_size=3)
    h = layers.Dense(4, name="h")
    model = built(x, layers.Dense(2)(layers.GRU(3, stateful=True)(h(x))), h)
    small = tfsparse.strip(model)
    assert small.get_layer("h").units == 3
    assert differ(model, small, normal(3, 4, 3)) <= EXACT


def test_a_shared_sum_and_another_of_its_second_name():
    x, add = keras.Input((3,)), layers.Add(name="add")
    a, b, c, d = (layers.Dense(3)(x) for _ in range(4))
    y = layers.Add(name="add_1")([add([add([a, b]), c]), d])
    model = built(x, layers.Dense(2)(y))
    names = [g.name for g in tfsparse.find_groups(model, ("branch",))]
    assert sorted(names) == ["add:branches", "add:branches_1", "add_1:branches"]


def test_one_pattern_may_stand_alone():
    x = keras.Input((3,))
    y = layers.Dense(8, name="head")(layers.Dense(8, name="body")(x))
    model = built(x, layers.Dense(2)(y))
    small, _ = tfsparse.prune(model, {"units": 0.6}, ignore="head")
    assert small.get_layer("head").units == 8


def test_a_sequential_with_a_call_of_its_own_is_refused():
    class Tripled(keras.Sequential):
        def call(self, *arguments, **named):
            return super().call(*arguments, **named) * 3

    model = Tripled([keras.Input((3,)), layers.Dense(2)])
    with pytest.raises(ValueError, match="Tripled, a subclass whose call"):
        tfsparse.find_groups(model)


def test_time_distributed_behind_a_mask():
    words = keras.Input((6,), dtype="int32")
    x = layers.Embedding(9, 4, mask_zero=True)(words)
    x = layers.TimeDistributed(layers.Dense(5), name="td")(x)
    model = built(words, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))
    keep = {
        g.name: np.arange(g.size) > 1
        for g in tfsparse.find_groups(model)
        if not g.frozen
    }
    assert len(keep) == 2
    tokens = np.random.default_rng(1).integers(0, 9, (5, 6))
    assert (
        differ(tfsparse.mask(model, keep), tfsparse.strip(model, keep), tokens) <= EXACT
    )


def _scores(x, h):
    y, scores = layers.MultiHeadAttention(2, 3, name="h")(
        x, x, return_attention_scores=True
    )
    return layers.Concatenate()([layers.Flatten()(y), layers.Flatten()(scores)])


def _is_mask(x, h):
    mask = ops.cast(layers.Dense(4, name="h")(x) > 0, "bool")
    return layers.Flatten()(layers.MultiHeadAttention(2, 3)(x, x, attention_mask=mask))


@pytest.mark.parametrize(
    ("make", "reason"),
    [(_scores, "puts out the scores of each head"), (_is_mask, "are a mask of")],
)
def test_frozen_with_a_reason(make, reason):
    x = keras.Input((4, 4))
    model = built(x, layers.Dense(2)(make(x, None)))
    found = {g.name: g for g in tfsparse.find_groups(model)}["h"]
    assert reason in found.frozen
    keep = {
        g.name: np.arange(g.size) > 0
        for g in tfsparse.find_groups(model)
        if not g.frozen
    }
    expected, received = tfsparse.mask(model, keep), tfsparse.strip(model, keep)
    assert differ(expected, received, normal(3, 4, 4)) <= EXACT


def test_lora_freezes():
    x, h = keras.Input((4,)), layers.Dense(8, name="h")
    y = layers.Dense(6, name="after")(h(layers.Dense(5, name="before")(x)))
    model = built(x, layers.Dense(2, name="out")(y))
    h.enable_lora(2)
    found = {g.name: g.frozen for g in tfsparse.find_groups(model)}
    assert "LoRA or quantised weights" in found["before"]
    assert found["after"] is None and "h" not in found


def test_weights_that_two_layers_share_are_told_of(caplog):
    x, y, d = keras.Input((3, 4)), keras.Input((4,)), layers.Dense(5, name="d")
    out = layers.Concatenate()(
        [layers.Flatten()(layers.TimeDistributed(d, name="td")(x)), d(y)]
    )
    model = built([x, y], layers.Dense(2)(layers.Dense(6, name="h")(out)))
    keep = {"h": np.arange(6) > 1}
    expected, received = tfsparse.mask(model, keep), tfsparse.strip(model, keep)
    assert differ(expected, received, [normal(2, 3, 4), normal(2, 4)]) <= EXACT
    assert "share td/d/kernel" in caplog.text


def test_strip_what_was_stripped():
    x = keras.Input((3,))
    y = layers.Average(name="av")([layers.Dense(4, name=n)(x) for n in "abcd"])
    model = built(x, layers.Dense(2)(y))
    small = model
    for left in (3, 2):
        keep = {"av:branches": np.arange(left + 1) > 0}
        masked, small = tfsparse.mask(small, keep), tfsparse.strip(small, keep)
        assert differ(masked, small, normal(4, 3)) <= EXACT


def test_an_initializer_that_holds_an_array():
    words = keras.Input((5,), dtype="int32")
    table = keras.initializers.Constant(normal(6, 4))
    x = layers.Embedding(6, 4, embeddings_initializer=table, name="h")(words)
    model = keras.Model(words, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))
    small = tfsparse.strip(model, {"h": np.arange(4) > 1})
    assert small.get_layer("h").output_dim == 2


def test_an_activation_that_keras_does_not_know():
    def swoosh(x):
        return x * ops.sigmoid(1.5 * x)

    x = keras.Input((3,))
    y = layers.Dense(5, activation=swoosh, name="own")(layers.Dense(4, name="h")(x))
    model = built(x, layers.Dense(2)(y))
    keep = {"h": np.arange(4) > 1}
    expected, received = tfsparse.mask(model, keep), tfsparse.strip(model, keep)
    assert differ(expected, received, normal(4, 3)) <= EXACT


class Secret(layers.Layer):
    """A layer whose config does not tell what it needs."""

    def __init__(self, number, **kwargs):
        super().__init__(**kwargs)
        self.number = number

    def call(self, x):
        return x * self.number

    def get_config(self):
        return {"name": self.name}


def test_a_layer_that_cannot_be_made_again_is_named():
    x = keras.Input((3,))
    y = Secret(3.0, name="secret")(layers.Dense(4)(layers.Dense(4, name="h")(x)))
    model = built(x, layers.Dense(2)(y))
    with pytest.raises(ValueError, match="'secret' must be one that Keras can make"):
        tfsparse.strip(model, {"h": np.arange(4) > 1})


def test_sizes_that_a_model_cannot_take_are_not_tried():
    x = keras.Input((None,))
    y = layers.Dense(4, name="h")(layers.Reshape((-1, 3))(x))
    model = built(x, layers.Dense(2)(layers.GlobalMaxPooling1D()(y)))
    keep = {"h": np.arange(4) > 1}
    expected, received = tfsparse.mask(model, keep), tfsparse.strip(model, keep)
    assert differ(expected, received, normal(2, 12)) <= EXACT


def test_words_are_refused():
    words = keras.Input((1,), dtype="string")
    x = layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")(words)
    model = keras.Model(words, layers.Dense(2)(layers.Dense(3, name="h")(x)))
    with pytest.raises(ValueError, match="`model` must take numbers"):
        tfsparse.strip(model, {"h": np.arange(3) > 0})


@pytest.mark.parametrize(
    ("keep", "sentence"),
    [
        ([True], "`keep` must map group names to bool arrays. Received: list"),
        ({3: [True]}, "`keep` must name groups of the model. Received: 3"),
        ({"h": [[True], [True, False]]}, r"`keep\['h'\]` must be a bool array"),
        (
            {"h": np.ones(3, int)},
            r"must be a bool array of shape \(3,\). Received: dtype=int",
        ),
        ({"h": np.ones(4, bool)}, r"Received: dtype=bool, shape=\(4,\)"),
        ({"h": np.zeros(3, bool)}, "at least one unit"),
        ({"out": np.zeros(2, bool)}, "must not name frozen groups|at least one unit"),
    ],
)
def test_masks_that_do_not_fit(keep, sentence):
    x = keras.Input((3,))
    model = built(x, layers.Dense(2, name="out")(layers.Dense(3, name="h")(x)))
    with pytest.raises(ValueError, match=sentence):
        tfsparse.strip(model, keep)


@pytest.mark.parametrize("tolerance", [None, "a", [1], 1j, -1.0, np.ones(2)])
def test_tolerances_that_are_none(tolerance):
    x = keras.Input((3,))
    with pytest.raises(ValueError, match="`tolerance` must be a number >= 0. Received"):
        tfsparse.dead_units(built(x, layers.Dense(2)(x)), tolerance)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"target": None}, "`target` must map"),
        ({"target": 0.5}, "`target` must map"),
        ({"target": {"macs": "0.5"}}, "`target` must map"),
        ({"target": {"units": True}}, "`target` must map"),
        ({"target": {"macs": float("nan")}}, "`target` must map"),
        ({"ignore": None}, "`ignore` must be patterns"),
        ({"ignore": [1]}, "`ignore` must be patterns"),
        ({"seed": -1}, "`seed` must be an int >= 0. Received: -1"),
        ({"fine_tune": 5}, "`fine_tune` must be callable. Received: 5"),
        ({"criterion": "activation", "data": normal(4, 3)}, r"`data` must be \(x, y\)"),
        (
            {"criterion": "activation", "data": (normal(4, 3), np.zeros(5))},
            "equally many of each",
        ),
        (
            {"criterion": "activation", "data": (normal(0, 3), np.zeros(0))},
            "equally many of each",
        ),
        ({"criterion": "taylor", "data": (normal(4, 3), np.zeros(4)), "loss": "nice"},
         "`loss` must be given"),
    ],
)  # fmt: skip
def test_pruning_that_cannot_be(arguments, sentence):
    x = keras.Input((3,))
    model = built(x, layers.Dense(2)(layers.Dense(3, name="h")(x)))
    with pytest.raises(ValueError, match=sentence):
        tfsparse.prune(model, **{"target": {"units": 0.5}, **arguments})


def test_several_inputs_given_as_a_dict():
    a, b = keras.Input((3,), name="zz"), keras.Input((3,), name="aa")
    h = layers.Concatenate()(
        [layers.Dense(4, name="h")(a), layers.Dense(4, name="g")(b)]
    )
    model = built([a, b], layers.Dense(2)(h))
    x, y = [normal(9, 3), 5 * normal(9, 3)], np.zeros(9)
    asked = {"target": {"units": 0.5}, "criterion": "activation"}
    by_list, one = tfsparse.prune(model, data=(x, y), **asked)
    by_name, two = tfsparse.prune(model, data=({"zz": x[0], "aa": x[1]}, y), **asked)
    assert one.groups == two.groups
    assert differ(by_list, by_name, x) == 0
    with pytest.raises(ValueError, match="none for .'aa'."):
        tfsparse.prune(model, data=({"zz": x[0]}, y), **asked)


def test_a_strip_that_changed_something_is_not_handed_out(monkeypatch):
    x, h = keras.Input((3,)), layers.Dense(4, name="h")
    model = built(x, layers.Dense(2)(h(x)), h)
    path = model.layers[-1].bias.path
    monkeypatch.setattr(
        "tfsparse.deploy.fold._Read._linear",
        lambda read, alone: ({path: np.ones(2, "float32")}, None),
    )
    with pytest.raises(records.StripError, match="A removal must change nothing"):
        tfsparse.strip(model)


def test_clip_with_a_bound_for_each_unit_stays_and_says_so():
    x, h = keras.Input((4,)), layers.Dense(3, name="h")
    low = np.array([-1.0, -0.5, 0.0], "float32")
    model = built(x, layers.Dense(2)(ops.clip(h(x), low, 2.0)))
    (group,) = [g for g in tfsparse.find_groups(model) if g.name == "h"]
    assert "of class Clip, for which no rule is registered" in group.frozen
    plain = built(x, layers.Dense(2)(ops.clip(h(x), -1.0, 2.0)), h)
    assert tfsparse.strip(plain).get_layer("h").units == 2


class Strange(layers.Layer):
    """A user's layer whose rule answers what `reply` says."""

    reply = None

    def call(self, inputs):
        return inputs

    def unit_rule(self, walk, call, axes):
        return type(self).reply


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (None, "None"),
        ([None, None], "[None, None]"),
        ([[None]], "[1]"),
        ([[None, None], [None, None]], "[2, 2]"),
        ([[None, np.arange(2)]], "array([0, 1]) for axis 1 of output 0"),
        ([[None, np.zeros(3)]], "array([0., 0., 0.]) for axis 1 of output 0"),
        ([[None, [0, 1, 2]]], "[0, 1, 2] for axis 1 of output 0"),
    ],
)
def test_a_rule_that_answers_nonsense_is_named(reply, said, monkeypatch):
    monkeypatch.setattr(Strange, "reply", reply)
    x = keras.Input((4,))
    model = keras.Model(x, layers.Dense(2)(Strange(name="odd")(layers.Dense(3)(x))))
    with pytest.raises(ValueError, match="The rule of Strange must return") as caught:
        tfsparse.find_groups(model)
    assert str(caught.value).endswith(f"Received: {said}.")


def test_a_rule_is_for_classes_and_callable():
    with pytest.raises(TypeError, match="must be layer or op classes"):
        tfsparse.register_rule(Strange())
    with pytest.raises(TypeError, match="must be layer or op classes"):
        tfsparse.register_rule()
    with pytest.raises(TypeError, match="`sizes` must be callable"):
        tfsparse.register_rule(Strange, sizes={"units": 3})
    with pytest.raises(TypeError, match="A rule must be callable. Received: None"):
        tfsparse.register_rule(Strange)(None)


@pytest.mark.parametrize("value", ["good", None, [0.5, 0.7]])
def test_a_value_of_sensitivity_is_a_number(value):
    x = keras.Input((4,))
    model = built(x, layers.Dense(2)(layers.Dense(3)(x)))
    with pytest.raises(ValueError, match="`evaluate` must return a number. Received"):
        tfsparse.sensitivity(model, lambda _: value)
    with pytest.raises(ValueError, match="`evaluate` must be callable"):
        tfsparse.sensitivity(model, value)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("mixed", ["mixed_", ""])
@pytest.mark.parametrize("how", ["dropped", "dead"])
def test_half_precision_is_proven_in_single(kind, mixed, how):
    """Its rounding, 1e-3, must not fail a right strip, nor let a wrong one pass."""
    keras.config.set_dtype_policy(mixed + kind)
    try:
        image = keras.Input((8, 8, 3), dtype="float32")
        x = layers.Conv2D(24, 3, padding="same", use_bias=False, name="stem")(image)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        branches = [
            layers.Conv2D(24, 3, padding="same", name=f"b{k}")(x) for k in range(3)
        ]
        x = layers.GlobalAveragePooling2D()(layers.Average(name="mean")(branches))
        x = layers.Dense(40, activation="tanh", name="h")(x)
        model = keras.Model(image, layers.Dense(3)(x))
    finally:
        keras.config.set_dtype_policy("float32")
    rng = np.random.default_rng(0)
    for variable in model.variables:
        value = rng.normal(size=variable.shape) / np.sqrt(np.prod(variable.shape[:-1]))
        variable.assign(np.abs(value) if "variance" in variable.path else value)
    model.layers[2].moving_mean.assign(np.zeros(24))
    keep = {"stem": np.arange(24) % 3 > 0, "h": np.arange(40) % 2 > 0}
    if how == "dropped":
        keep["mean:branches"] = np.array([True, False, True])
        small, expected = tfsparse.strip(model, keep), tfsparse.mask(model, keep)
    else:
        for name, alive in keep.items():
            layer = model.get_layer(name)
            kernel = ops.convert_to_numpy(ops.cast(layer.kernel, "float32")) * alive
            layer.kernel.assign(kernel)
            if name == "stem":
                model.layers[2].beta.assign(np.where(alive, 0.25, -1.0))
        small, expected = tfsparse.strip(model), model
    assert small.get_layer("stem").filters == 16 and small.get_layer("h").units == 20
    for layer in [*small.layers, *model.layers]:
        assert layer.dtype_policy.name in ("float32", kind, mixed + kind)
    pixels = rng.uniform(size=(8, 8, 8, 3)).astype("float32")
    assert differ(expected, small, pixels) <= 16 * float(
        ops.cast(np.finfo("float16").eps if kind == "float16" else 2.0**-7, "float32")
    )


@pytest.mark.parametrize("dropped", ["q", "v", "att:output", "both"])
def test_an_attention_writes_as_many_features_as_its_query_has(dropped):
    x = keras.Input((5, 4))
    q = layers.Dense(6, name="q")(x)
    y = layers.GroupQueryAttention(3, 4, 2, name="att")(q, layers.Dense(6, name="v")(x))
    model = built(x, layers.Dense(2)(layers.Flatten()(y)))
    keep = {}
    if dropped in ("q", "both"):
        keep["q"] = np.arange(6) > 1
    if dropped in ("v", "both"):
        keep["v"] = np.arange(6) < 3
    if dropped in ("att:output", "both"):
        keep["att:output"] = np.arange(6) < 3
    small, expected = tfsparse.strip(model, keep), tfsparse.mask(model, keep)
    assert differ(expected, small, normal(4, 5, 4)) <= EXACT
    assert small.get_layer("q").units == (4 if dropped == "both" else 6)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_nan_in_half_precision_is_named(kind):
    x = keras.Input((4,))
    h = layers.Dense(3, name="h", dtype=kind)
    model = keras.Model(x, layers.Dense(2)(h(x)))
    h.kernel.assign(np.full((4, 3), np.nan))
    with pytest.raises(ValueError, match="must have finite weights. Received: nan"):
        tfsparse.strip(model, {"h": np.arange(3) < 2})


@pytest.mark.parametrize("kind", ["multi", "grouped"])
@pytest.mark.parametrize("part", ["att", "att:key", "att:value", "all"])
def test_attention_with_a_gate(kind, part):
    x = keras.Input((5, 6))
    if kind == "multi":
        layer = layers.MultiHeadAttention(2, 4, use_gate=True, name="att")
    else:
        layer = layers.GroupQueryAttention(4, 4, 2, use_gate=True, name="att")
    q = layers.Dense(6, name="q")(x)
    model = built(x, layers.Dense(2)(layers.Flatten()(layer(q, q))))
    keep = {
        g.name: np.arange(g.size) % 4 > 1 if g.size > 2 else np.arange(g.size) > 0
        for g in tfsparse.find_groups(model)
        if not g.frozen and part in (g.name, "all")
    }
    assert keep
    small, expected = tfsparse.strip(model, keep), tfsparse.mask(model, keep)
    assert differ(model, expected, normal(4, 5, 6)) > 1e-3
    assert differ(expected, small, normal(4, 5, 6)) <= EXACT
    if kind == "multi" or part in ("att", "all"):  # grouped: one width for both
        assert small.count_params() < model.count_params()


class Rounded(layers.Layer):
    """Errs by a last bit for each of its features, as a sum of so many terms may.

    Real sums do so as the processor likes; this one does on every processor, and other
    widths err otherwise. In double precision it is that of double precision.
    """

    def call(self, inputs):
        last_bit = np.finfo(keras.backend.standardize_dtype(inputs.dtype)).eps
        return inputs * (1.0 + inputs.shape[-1] * last_bit)

    def unit_rule(self, walk, call, axes):
        return axes


def test_a_model_that_makes_much_of_rounding_is_proven_in_double_precision(monkeypatch):
    """x -> 4 x (1 - x), twenty times: the last bit of single precision becomes 0.1."""
    x, h = keras.Input((40,)), layers.Dense(30, name="h")
    y = layers.Dense(5, activation="sigmoid")(layers.ReLU()(Rounded()(h(x))))
    for _ in range(20):
        y = 4.0 * y * (1.0 - y)
    model = built(x, y, h)
    silent = np.array([-1.0] + [1.0] * 29)  # no constant, which a bias would round
    h.bias.assign(h.bias * silent)
    dropped = np.arange(30) % 2 > 0
    small, masked = (f(model, {"h": dropped}) for f in (tfsparse.strip, tfsparse.mask))
    inputs = normal(20, 40)
    assert differ(masked, small, inputs) > 10 * EXACT
    assert tfsparse.strip(model).get_layer("h").units == 29
    # Where single precision sees noise, and which of the proofs does, a processor decides.
    strip = importlib.import_module("tfsparse.deploy.strip")  # not the function
    real, seen = strip._without_rounding, []

    def both(difference, bound):
        seen.append((difference("float32"), real(difference, bound)))
        return seen[-1][1]

    monkeypatch.setattr(strip, "_without_rounding", both)
    tfsparse.strip(model, {"h": dropped})
    tfsparse.strip(model)
    assert len(seen) >= 2
    assert max(single for single, _ in seen) > strip.TOLERANCE
    assert all(proven <= strip.TOLERANCE for _, proven in seen)
    monkeypatch.setattr(strip, "_without_rounding", lambda f, bound: f("float32"))
    with pytest.raises(records.StripError, match="must (equal|change nothing)"):
        tfsparse.strip(model, {"h": dropped})
        tfsparse.strip(model)


def test_a_transposed_convolution_under_a_spectral_norm():
    image = keras.Input((4, 5, 2))
    x = layers.Conv2D(6, 2, name="before")(image)
    wrapped = layers.Conv2DTranspose(4, 2, name="up")
    x = layers.SpectralNormalization(wrapped, name="norm")(x)
    model = built(image, layers.Dense(2)(layers.Flatten()(x)))
    keep = {"before": np.arange(6) % 3 > 0}
    small, expected = tfsparse.strip(model, keep), tfsparse.mask(model, keep)
    assert differ(expected, small, normal(3, 4, 5, 2)) <= EXACT
    assert small.get_layer("norm").vector_u.shape == (1, 4)


@pytest.mark.parametrize("biased", [None, "b", "c", "bc"])
def test_an_einsum_that_scales_what_it_reads(biased):
    x, h = keras.Input((4,)), layers.Dense(6, name="h")
    scaled = layers.EinsumDense("ab,bc->abc", (6, 3), bias_axes=biased, name="e")
    model = built(x, layers.Dense(2)(layers.Flatten()(scaled(h(x)))))
    keep = {"h": np.arange(6) % 3 > 0}
    small, expected = tfsparse.strip(model, keep), tfsparse.mask(model, keep)
    assert differ(expected, small, normal(5, 4)) <= EXACT
    assert small.get_layer("e").kernel.shape == (4, 3)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dropped", ["e", "h", "both"])
def test_an_embedding_that_reads_as_wide_as_it_writes(tied, dropped):
    tokens = keras.Input((5,), dtype="int32")
    table = layers.ReversibleEmbedding(10, 6, tie_weights=tied, name="e")
    h = layers.Dense(6, name="h")
    model = built(tokens, table(h(table(tokens)), reverse=True))
    keep = {
        g.name: np.arange(g.size) % 3 > 0
        for g in tfsparse.find_groups(model)
        if not g.frozen and dropped in (g.name, "both")
    }
    small, expected = tfsparse.strip(model, keep), tfsparse.mask(model, keep)
    numbers = np.arange(10).reshape(2, 5)
    assert differ(expected, small, numbers) <= EXACT
    if dropped == "both":
        assert small.get_layer("e").embeddings.shape == (10, 4)
