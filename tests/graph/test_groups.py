"""Groups of hand-drawn models: members, index maps, names, sites, reasons, errors."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from conformance import models
from keras import layers, ops

import tfsparse
from tfsparse.graph import groups
from tfsparse.records import Site


def groups_of(model, kinds=("unit",)):
    return {group.name: group for group in tfsparse.find_groups(model, kinds)}


def maps(group) -> dict:
    """(path, axis, role) -> {unit: positions}, as written by hand below."""
    return {
        (m.path, m.axis, m.role): {
            unit: m.indices[m.units == unit].tolist() for unit in range(group.size)
        }
        for m in group.members
    }


def same(size: int, start: int = 0) -> dict:
    """Unit u sits at position start + u."""
    return {unit: [start + unit] for unit in range(size)}


def carried(layer: str, names: str, positions: dict) -> dict:
    return {(f"{layer}/{name}", 0, "carrier"): positions for name in names.split()}


BN = "gamma beta moving_mean moving_variance"

EXPECTED = {
    ("conv_bn_chain", "a"): {
        ("a/kernel", 3, "producer"): same(5),
        **carried("a_bn", BN, same(5)),
        ("b/kernel", 2, "consumer"): same(5),
    },
    ("flatten_from_conv", "conv"): {  # 3 x 5 positions after the pool, 5 channels
        ("conv/kernel", 3, "producer"): same(5),
        **carried("conv", "bias", same(5)),
        ("dense/kernel", 0, "consumer"): {
            u: [p * 5 + u for p in range(3 * 5)] for u in range(5)
        },
    },
    ("depthwise_multiplier_2", "conv"): {
        ("conv/kernel", 3, "producer"): same(4),
        **carried("conv", "bias", same(4)),
        ("dw/kernel", 2, "carrier"): same(4),
        ("dw/bias", 0, "carrier"): {u: [2 * u, 2 * u + 1] for u in range(4)},
        ("pw/kernel", 2, "consumer"): {u: [2 * u, 2 * u + 1] for u in range(4)},
    },
    ("depthwise_multiplier_3_without_bias", "conv"): {  # 7 positions, 12 channels
        ("conv/kernel", 2, "producer"): same(4),
        **carried("conv", "bias", same(4)),
        ("dw/kernel", 1, "carrier"): same(4),
        ("out/kernel", 0, "consumer"): {
            u: [p * 12 + 3 * u + k for p in range(7) for k in range(3)]
            for u in range(4)
        },
    },
    ("separable", "conv"): {
        ("conv/kernel", 3, "producer"): same(4),
        **carried("conv", "bias", same(4)),
        ("sep/depthwise_kernel", 2, "carrier"): same(4),
        ("sep/pointwise_kernel", 2, "consumer"): {
            u: [2 * u, 2 * u + 1] for u in range(4)
        },
    },
    ("concat_into_conv", "a"): {
        ("a/kernel", 3, "producer"): same(3),
        **carried("a", "bias", same(3)),
        **carried("bn", BN, same(3)),
        ("c/kernel", 2, "consumer"): same(3),
    },
    ("concat_into_conv", "b"): {
        ("b/kernel", 3, "producer"): same(4),
        **carried("b", "bias", same(4)),
        **carried("bn", BN, same(4, start=3)),
        ("c/kernel", 2, "consumer"): same(4, start=3),
    },
    ("concat_with_the_input", "a"): {
        ("a/kernel", 3, "producer"): same(3),
        **carried("a", "bias", same(3)),
        ("b/kernel", 2, "consumer"): same(3, start=2),
    },
    ("add_of_a_concat", "b"): {
        ("b/kernel", 3, "producer"): same(4),
        **carried("b", "bias", same(4)),
        ("c/kernel", 3, "producer"): same(4, start=3),
        **carried("c", "bias", same(4, start=3)),
        ("d/kernel", 2, "consumer"): same(4, start=3),
    },
    ("residual_identity", "stem"): {
        ("stem/kernel", 3, "producer"): same(6),
        **carried("stem", "bias", same(6)),
        ("inner/kernel", 2, "consumer"): same(6),
        ("back/kernel", 3, "producer"): same(6),
        **carried("back", "bias", same(6)),
        ("out/kernel", 0, "consumer"): {
            u: [p * 6 + u for p in range(7 * 6)] for u in range(6)
        },
    },
    ("squeeze_excite", "conv"): {
        ("conv/kernel", 3, "producer"): same(8),
        **carried("bn", BN, same(8)),
        ("squeeze/kernel", 0, "consumer"): same(8),
        ("excite/kernel", 1, "producer"): same(8),
        **carried("excite", "bias", same(8)),
        ("next/kernel", 2, "consumer"): same(8),
    },
    ("pools_side_by_side", "conv"): {
        ("conv/kernel", 3, "producer"): same(5),
        **carried("conv", "bias", same(5)),
        ("out/kernel", 0, "consumer"): {u: [u, 5 + u] for u in range(5)},
    },
    ("prelu", "b"): {  # alpha of shape (4, 3, 5)
        ("b/kernel", 3, "producer"): same(5),
        **carried("b", "bias", same(5)),
        ("full/alpha", 2, "carrier"): same(5),
        ("c/kernel", 0, "consumer"): {
            u: [p * 5 + u for p in range(4 * 3)] for u in range(5)
        },
    },
    ("reshape_merges_width_and_channels", "a"): {
        ("a/kernel", 3, "producer"): same(6),
        **carried("a", "bias", same(6)),
        ("b/kernel", 1, "consumer"): {u: [u, 6 + u, 12 + u] for u in range(6)},
    },
    ("shared_dense", "shared"): {
        ("shared/kernel", 1, "producer"): same(6),
        **carried("shared", "bias", same(6)),
        ("joint/kernel", 0, "consumer"): {u: [u, 6 + u] for u in range(6)},
    },
    ("multi_input", "dense"): {  # behind 4 x 5 positions of 5 channels
        ("dense/kernel", 1, "producer"): same(3),
        **carried("dense", "bias", same(3)),
        ("out/kernel", 0, "consumer"): same(3, start=100),
    },
    ("fan_out", "trunk"): {
        ("trunk/kernel", 3, "producer"): same(6),
        **carried("trunk", "bias", same(6)),
        ("a/kernel", 2, "consumer"): same(6),
        ("b/kernel", 2, "consumer"): same(6),
    },
    ("custom_layers_with_rules", "b"): {
        ("b/kernel", 1, "producer"): same(5),
        **carried("b", "bias", same(5)),
        **carried("offset", "offset", same(5)),
        ("out/kernel", 0, "consumer"): same(5),
    },
}


@pytest.mark.parametrize(("name", "group"), EXPECTED, ids=lambda value: value)
def test_members_and_index_maps_by_hand(name, group):
    found = groups_of(models.TABLE[name].build())[group]
    received = maps(found)
    assert received.keys() == EXPECTED[name, group].keys()
    for key, positions in EXPECTED[name, group].items():
        # the numbering of units is free, as long as all members share it
        assert received[key] == positions, key
    assert found.paths == {path for path, _, _ in received}


@pytest.mark.parametrize(
    ("name", "group", "unit", "zeroed"),
    [
        ("flatten_from_conv", "conv", 3, {"dense/kernel": np.s_[3::5]}),
        ("depthwise_multiplier_2", "conv", 1, {"pw/kernel": np.s_[:, :, 2:4]}),
        ("separable", "conv", 2, {"sep/pointwise_kernel": np.s_[:, :, 4:6]}),
        ("concat_into_conv", "b", 0, {"c/kernel": np.s_[:, :, 3]}),
        ("pools_side_by_side", "conv", 4, {"out/kernel": np.s_[4::5]}),
        ("reshape_merges_width_and_channels", "a", 5, {"b/kernel": np.s_[:, 5::6]}),
        (
            "squeeze_excite",
            "conv",
            7,
            {"squeeze/kernel": np.s_[7], "next/kernel": np.s_[:, :, 7]},
        ),
    ],
)
def test_mask_zeroes_these_slices_and_no_others(name, group, unit, zeroed):
    model = models.randomise(models.TABLE[name].build())
    keep = np.arange(groups_of(model)[group].size) != unit
    after = models.weights_of(tfsparse.mask(model, {group: keep}))
    for path, value in models.weights_of(model).items():
        if path in zeroed:
            assert (value[zeroed[path]] != 0).all()
            value[zeroed[path]] = 0
        np.testing.assert_array_equal(after[path], value, err_msg=path)


SITES = {
    ("conv_bn_chain", "a"): (Site("a_bn", 0, 5),),
    ("conv_bn_chain", "b"): (Site("b", 0, 4),),
    ("flatten_from_conv", "conv"): (Site("conv", 0, 5),),
    ("depthwise_multiplier_1", "conv"): (Site("conv", 0, 5), Site("dw_bn", 0, 5)),
    ("depthwise_multiplier_2", "conv"): (
        Site("conv", 0, 4),
        Site("dw", 0, 8, (0, 0, 1, 1, 2, 2, 3, 3)),
    ),
    ("depthwise_multiplier_3_without_bias", "conv"): (Site("conv", 0, 4),),
    ("concat_into_conv", "b"): (
        Site("b", 0, 4),
        Site("bn", 0, 7, (-1, -1, -1, 0, 1, 2, 3)),
    ),
    ("add_of_a_concat", "a"): (
        Site("a", 0, 3),
        Site("c", 0, 7, (0, 1, 2, -1, -1, -1, -1)),
    ),
    ("residual_identity", "stem"): (Site("stem", 0, 6), Site("back", 0, 6)),
    ("shared_dense", "shared"): (Site("shared", 0, 6), Site("shared", 1, 6)),
}


@pytest.mark.parametrize(("name", "group"), SITES, ids=lambda value: value)
def test_sites_end_the_affine_chains(name, group):
    found = groups_of(models.TABLE[name].build())[group]
    assert len(found.sites) == len(SITES[name, group])
    assert set(found.sites) == set(SITES[name, group])


def test_features_are_positions_of_the_flattened_tensor():
    found = groups_of(models.flatten_from_conv(), ("feature",))["dense:features"]
    assert (found.kind, found.size, found.frozen) == ("feature", 75, None)
    assert maps(found) == {("dense/kernel", 0, "consumer"): same(75)}
    assert found.sites == (Site("flat", 0, 75),)


def test_kinds_come_one_after_the_other_and_are_checked():
    model = models.flatten_from_conv()
    both = tfsparse.find_groups(model, ("unit", "feature"))
    assert [g.kind for g in both] == ["unit"] * 3 + ["feature"]
    assert [g.name for g in tfsparse.find_groups(model)] == [g.name for g in both[:3]]
    with pytest.raises(
        ValueError, match=r"`kinds` must be among .* Received: .*'wheel'"
    ):
        tfsparse.find_groups(model, ("unit", "wheel"))


def test_groups_compare_and_hash():
    model = models.named_vector()
    first, again = tfsparse.find_groups(model), tfsparse.find_groups(model)
    assert first[0] != first[1]
    assert again[0] != first[1]
    assert len({*first}) == 2


def _between(make, width=4):
    """vector -> Dense(width) 'units' -> make -> Dense 'out'."""
    vector = keras.Input((5,), name="vector")
    x = layers.Dense(width, activation="relu", name="units")(vector)
    return keras.Model(vector, layers.Dense(2, name="out")(make(x, vector)))


def _image(make):
    image = keras.Input((6, 5, 2), name="image")
    x = layers.Conv2D(4, 2, activation="relu", name="units")(image)
    x = layers.GlobalAveragePooling2D()(make(x, image))
    return keras.Model(image, layers.Dense(2, name="out")(x))


def _turned(make):
    """6 x 4 -> Dense(5) 'units' -> the units on the axis of time -> make."""
    series = keras.Input((6, 4), name="series")
    x = layers.Dense(5, name="units")(series)
    x = layers.Permute((2, 1), name="turn")(x)
    x = layers.GlobalAveragePooling1D()(make(x))
    return keras.Model(series, layers.Dense(2, name="out")(x))


def _grid(make):
    """vector -> 'units', 3 x 4 of them -> make -> Dense 'out'."""
    vector = keras.Input((5,), name="vector")
    x = layers.EinsumDense("ab,bcd->acd", (3, 4), name="grid")(vector)
    return keras.Model(vector, layers.Dense(2, name="out")(make(x)))


TURNED = [
    (
        lambda x: layers.MultiHeadAttention(2, 3, name="att")(x, x),
        "the time axis of 'att'",
    ),
    (lambda x: layers.Attention(name="att")([x, x]), "the time axis of 'att'"),
    (lambda x: layers.AdditiveAttention(name="att")([x, x]), "the time axis of 'att'"),
    (
        lambda x: layers.LSTM(3, return_sequences=True, name="rec")(x),
        "a time or spatial axis of 'rec'",
    ),
    (
        lambda x: layers.Bidirectional(
            layers.GRU(3, return_sequences=True), name="both"
        )(x),
        "a time axis of 'both'",
    ),
    (
        lambda x: layers.TimeDistributed(layers.Dense(3), name="each")(x),
        "the time axis of 'each'",
    ),
    (lambda x: layers.Conv1D(3, 2, name="conv")(x), "a spatial axis of 'conv'"),
    (
        lambda x: layers.GroupNormalization(2, name="norm")(x),
        "'norm' normalises over this axis",
    ),
    (
        lambda x: layers.EinsumDense("abc,cd->ad", (3,), name="sum")(x)[:, None],
        "summed over by 'sum'",
    ),
    (lambda x: ops.mean(x, axis=1, keepdims=True), "works over all of them"),
    (lambda x: x[:, 2:3] * 1.0 + x[:, 3][:, None], "picks one of them"),
]


@pytest.mark.parametrize(
    ("make", "sentence"), TURNED, ids=[sentence for _, sentence in TURNED]
)
def test_units_on_another_axis_than_the_channels_say_why(make, sentence):
    found = groups_of(_turned(make))["units"]
    assert sentence in found.frozen and found.size == 5


def test_units_that_two_axes_would_tell_apart_say_why():
    found = groups_of(_grid(lambda x: layers.Flatten(name="flat")(x)))
    assert "'flat' joins two axes that have units" in {
        g.frozen for name, g in found.items() if name.startswith("grid")
    }


def test_joins_and_moves_of_unknown_size_say_why():
    series, more = keras.Input((6, 4)), keras.Input((None, 6))
    x = layers.Permute((2, 1))(layers.Dense(5, name="units")(series))
    x = layers.Concatenate(axis=1, name="join")([x, more])
    x = layers.Dense(2, name="out")(layers.GlobalAveragePooling1D()(x))
    joined = keras.Model([series, more], x)
    assert "'join' joins axes of unknown size" in groups_of(joined)["units"].frozen
    series = keras.Input((None, 4), name="series")
    x = layers.Dense(5, name="units")(series)
    x = layers.Dense(2, name="out")(layers.Reshape((21, 5), name="move")(x))
    model = keras.Model(series, x)
    assert "'move' moves them where sizes" in groups_of(model)["units"].frozen


def test_states_without_units_say_why():
    series, start = keras.Input((6, 4)), keras.Input((3,), name="start")
    x = layers.GRU(3, name="units")(series, initial_state=[start])
    x = layers.Dense(2, name="out")(layers.Concatenate()([x, start]))
    model = keras.Model([series, start], x)
    sentence = "'units' starts from a state without units"
    assert sentence in groups_of(model)["units"].frozen
    (found,) = tfsparse.find_groups(model, ("feature",))
    assert "the initial state of 'units'" in found.frozen


def test_an_attention_as_wide_as_its_query_says_why():
    series = keras.Input((6, 4))
    x = layers.GroupQueryAttention(3, 4, 2, name="units")(series, series)
    model = keras.Model(series, layers.Dense(2, name="out")(x[:, 0]))
    frozen = {name: g.frozen for name, g in groups_of(model).items()}
    assert frozen["units:output"] == "'units' writes as many features as it reads"


def test_a_head_holds_its_part_of_every_kernel():
    series = keras.Input((6, 4))
    x = layers.MultiHeadAttention(2, 3, name="att")(series, series)
    found = groups_of(keras.Model(series, layers.Dense(2, name="out")(x[:, 0])))
    heads = {(m.path, m.axis, m.role) for m in found["att"].members}
    assert heads == {
        *((f"att/{part}/kernel", 1, "carrier") for part in ("query", "key")),
        *((f"att/{part}/bias", 0, "carrier") for part in ("query", "key", "value")),
        ("att/value/kernel", 1, "producer"),
        ("att/attention_output/kernel", 0, "consumer"),
    }


def test_what_is_looked_up_and_what_has_a_mean_say_why():
    vector = keras.Input((5,), name="vector")
    x = layers.Dense(4, activation="relu", name="units")(vector)
    x = layers.Flatten()(layers.Embedding(7, 3, name="look")(ops.cast(x, "int32")))
    model = keras.Model(vector, layers.Dense(2, name="out")(x))
    assert groups_of(model)["units"].frozen == "looked up by 'look'"
    norm = layers.Normalization(mean=[1.0] * 4, variance=[1.0] * 4, name="mean")
    found = groups_of(_between(lambda x, _: norm(x)))["units"]
    assert found.frozen == "'mean' holds a mean for each of them"
    group = layers.GroupNormalization(1, name="all")
    found = groups_of(_image(lambda x, _: group(x)))["units"]
    assert found.frozen == "'all' normalises over all units"
    masking = layers.Masking(name="mask")
    found = groups_of(_turned(lambda x: masking(layers.Permute((2, 1))(x))))["units"]
    assert found.frozen == "'mask' compares all of them"


def test_units_normalised_with_what_stays_and_broadcast_units_say_why():
    image = keras.Input((6, 5, 2), name="image")
    x = layers.Conv2D(4, 2, name="units")(image)
    x = layers.Concatenate()([x, image[:, 1:, 1:]])
    x = layers.GroupNormalization(2, name="norm")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, layers.Dense(2, name="out")(x))
    (frozen,) = {g.frozen for g in groups_of(model).values() if g.name != "out"} - {
        None
    }
    assert frozen == "'norm' normalises them with what stays"
    model = _between(lambda x, v: layers.Multiply(name="times")([x, v]), width=1)
    assert groups_of(model)["units"].frozen == "broadcast by 'times'"


FROZEN = [
    (
        _between(lambda x, _: layers.Softmax(name="soft")(x)),
        "'soft' normalises across units",
    ),
    (_between(lambda x, _: ops.softmax(x)), "normalises across units"),
    (_between(lambda x, _: ops.log_softmax(x, axis=1)), "normalises across units"),
    (
        _between(lambda x, _: layers.Activation("log_softmax", name="act")(x)),
        "activation 'log_softmax' of 'act' mixes units",
    ),
    (
        _between(lambda x, _: layers.Activation(lambda y: y[:, ::-1], name="mine")(x)),
        "activation '<lambda>' of 'mine' mixes units",
    ),
    (
        _between(lambda x, v: layers.Add(name="sum")([x, v]), width=5),
        "meets a tensor without units in 'sum'",
    ),
    (
        _between(lambda x, _: x * np.arange(4, dtype="float32")),
        "of class Multiply, for which no rule is registered",
    ),
    (
        _between(lambda x, _: ops.sort(x, axis=-1)),
        "of class Sort, for which no rule is registered (see tfsparse.register_rule)",
    ),
    (
        _image(lambda x, _: layers.Rescaling(np.ones((4, 1)), name="each")(x)),
        "reaches 'each' of class Rescaling",
    ),
    (
        _image(lambda x, _: layers.Permute((3, 1, 2), name="turn")(x)),
        "a spatial axis of 'global_average_pooling2d",
    ),
    (
        _image(lambda x, _: layers.Reshape((5, 3, 4), name="twist")(x[:, :, :, :3])),
        "'twist' spreads a unit over two axes",
    ),
    (
        _image(
            lambda x, i: layers.Concatenate(axis=1, name="stack")(
                [x, layers.Conv2D(4, 2, name="other")(i) * np.ones(4, "float32")]
            )
        ),
        "concatenated by 'stack'",
    ),
]


@pytest.mark.parametrize(("model", "sentence"), FROZEN, ids=lambda v: str(v)[:30])
def test_frozen_units_say_why(model, sentence):
    found = groups_of(model)
    assert sentence in found["units"].frozen
    assert found["out"].frozen == "its units are the model's output"
    with pytest.raises(
        ValueError, match="must not name frozen groups. Received: 'units'"
    ):
        tfsparse.strip(model, {"units": np.arange(found["units"].size) > 0})


def test_only_what_touches_the_trouble_is_frozen():
    found = groups_of(models.input_residual())
    assert found["conv"].frozen == "meets a tensor without units in 'sum'"
    assert found["free"].frozen is None
    assert found["out"].frozen == "its units are the model's output"


def test_a_part_of_a_layer_can_be_frozen():
    """Concat(x, input) + y: the second half of y meets the input, and must stay."""
    image = keras.Input((6, 5, 2))
    x = layers.Conv2D(3, 3, padding="same", name="x")(image)
    y = layers.Conv2D(5, 3, padding="same", name="y")(image)
    total = layers.Add(name="sum")([layers.Concatenate()([x, image]), y])
    out = layers.Dense(2, name="out")(layers.GlobalAveragePooling2D()(total))
    found = tfsparse.find_groups(keras.Model(image, out))
    free = [g for g in found if not g.frozen]
    stuck = [g for g in found if g.frozen == "meets a tensor without units in 'sum'"]
    assert [g.size for g in free] == [3] and [g.size for g in stuck] == [2]
    assert maps(stuck[0])["y/kernel", 3, "producer"] == same(2, start=3)
    assert maps(free[0])["y/kernel", 3, "producer"] == same(3)


def test_one_layer_that_writes_two_groups():
    """Half of a layer's units meet another layer's: two groups, two names."""
    vector = keras.Input((5,))
    a = layers.Dense(3, name="a")(vector)
    b = layers.Dense(4, name="b")(vector)
    c = layers.Dense(7, name="c")(vector)
    x = layers.Add()([c, layers.Concatenate()([a, b])])
    names = groups_of(keras.Model(vector, layers.Dense(2, name="out")(x)))
    sizes = {name: group.size for name, group in names.items() if not group.frozen}
    assert sorted(sizes.values()) == [3, 4] and len(sizes) == 2
    assert all(group.name == name for name, group in names.items())


def test_a_reshape_that_folds_the_batch_keeps_the_units():
    sequence = keras.Input((4, 6))
    x = layers.Dense(5, activation="relu", name="units")(sequence)
    x = ops.reshape(x, (-1, 5))
    model = keras.Model(sequence, layers.Dense(2, name="out")(x))
    assert groups_of(model)["units"].frozen is None
    keep = {"units": np.arange(5) % 2 == 0}
    data = np.random.default_rng(0).uniform(size=(3, 4, 6)).astype("float32")
    expected = tfsparse.mask(model, keep)(data)
    np.testing.assert_allclose(tfsparse.strip(model, keep)(data), expected, rtol=1e-5)


def test_a_sequential_names_its_groups_like_its_functional_twin():
    model = models.sequential_with_dropout()
    twin = keras.models.clone_model(keras.Model(model.inputs[0], model.outputs[0]))
    assert list(groups_of(model)) == list(groups_of(twin)) == ["conv", "dense", "out"]


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (
            keras.Sequential([layers.Dense(3)], name="bare"),
            "`model` must be built. Received: Sequential 'bare' without an input shape.",
        ),
        (
            type("Mine", (keras.Model,), {"call": lambda self, x: x})(),
            r"Functional or Sequential. Received: Mine, a subclass whose call\(\)",
        ),
        (layers.Dense(3), "`model` must be a keras.Model. Received: keras.*Dense"),
        ("model.keras", r"`model` must be a keras.Model. Received: builtins.str"),
    ],
    ids=["unbuilt", "subclass", "layer", "string"],
)
def test_what_cannot_be_read_is_refused(model, sentence):
    for function in (tfsparse.find_groups, tfsparse.measure):
        with pytest.raises(ValueError, match=sentence):
            function(model)


def _meets(make):
    """vector (5) -> Dense 'units' (4), reshaped (2, 4) by a second axis -> make."""
    vector = keras.Input((3, 5), name="vector")
    x = layers.Dense(4, activation="relu", name="units")(vector)
    return keras.Model(vector, make(x, vector))


@pytest.mark.parametrize(
    ("make", "gates"),
    [
        (
            lambda x, _: layers.Dense(2)(layers.RMSNormalization(name="norm")(x)),
            [("norm", 0, 0, 2, (0, 1, 2, 3))],
        ),
        (
            lambda x, _: layers.Dense(2)(layers.UnitNormalization(name="norm")(x)),
            [("norm", 0, 0, 2, (0, 1, 2, 3))],
        ),
        (
            lambda x, v: layers.Dot(2, name="dot")([x, layers.Dense(4)(v)]),
            [("dot", 0, 0, 2, (0, 1, 2, 3)), ("dot", 0, 1, 2, (0, 1, 2, 3))],
        ),
        (
            lambda x, v: layers.Attention(name="meet")([x, v, layers.Dense(4)(v)]),
            [("meet", 0, 0, 2, (0, 1, 2, 3))],
        ),
        (
            lambda x, _: ops.matmul(x, ops.transpose(x, (0, 2, 1))),
            [("matmul", 0, 0, 2, (0, 1, 2, 3)), ("matmul", 0, 1, 1, (0, 1, 2, 3))],
        ),
        (lambda x, _: layers.Dense(2)(x), []),
    ],
)
def test_units_that_end_without_weights_end_at_a_gate(make, gates):
    found = groups_of(_meets(make))["units"]
    assert found.frozen is None
    received = [
        (g.layer, g.call, g.input, g.axis % 3, tuple(g.units)) for g in found.gates
    ]
    assert [(name.split("_")[0], *rest) for name, *rest in received] == gates


def test_inputs_of_a_sum_are_gates_of_its_branches():
    x = image = keras.Input((4, 4, 3))
    y = layers.Conv2D(3, 1, name="a")(x)
    x = layers.Add(name="sum")([x, y])
    (found,) = tfsparse.find_groups(keras.Model(image, x), ("branch",))
    assert (found.name, found.size) == ("sum:branches", 2)
    assert [(g.layer, g.input, g.axis, g.units) for g in found.gates] == [
        ("sum", 0, None, (0,)),
        ("sum", 1, None, (1,)),
    ]
    assert found.paths == {"a/kernel", "a/bias"}


def test_rows_that_must_stay_even_by_hand():
    image = keras.Input((4, 4, 2))
    x = layers.Conv2D(6, 1, name="a")(image)
    x = layers.Conv2D(9, 1, groups=3, name="grouped")(x)
    model = keras.Model(image, layers.Conv2D(2, 1)(x))
    rows = groups.analyse(model).walks["unit"].lanes
    assert [(row.layer, [len(p) for p in row.parts]) for row in rows] == [
        ("grouped", [2, 3])
    ] * 3
    assert len({row.number for row in rows}) == 1
    reads = np.concatenate([row.parts[0] for row in rows])
    assert len(set(reads.tolist())) == 6 and (np.diff(reads) > 0).all()

    sequence = keras.Input((4, 5))
    x = layers.MultiHeadAttention(2, 3, value_dim=4, name="mha")(sequence, sequence)
    model = keras.Model(sequence, layers.Dense(2)(x))
    rows = groups.analyse(model).walks["unit"].lanes
    assert [(row.layer, [len(p) for p in row.parts]) for row in rows] == [
        ("mha", [3, 4])
    ] * 2
    assert len({row.owner for row in rows}) == 2 and min(r.owner for r in rows) >= 0


def test_a_grouped_convolution_of_what_stays_says_why():
    image = keras.Input((6, 5, 4), name="image")
    x = layers.Conv2D(6, 2, groups=2, name="units")(image)
    x = layers.Dense(2, name="out")(layers.GlobalAveragePooling2D()(x))
    found = groups_of(keras.Model(image, x))["units"]
    assert "'units', a grouped convolution, reads channels that stay" in found.frozen
    vector = keras.Input((12,), name="vector")
    x = layers.Conv1D(4, 1, groups=2, name="conv")(layers.Reshape((1, 12))(vector))
    x = layers.Dense(2, name="out")(layers.Concatenate()([layers.Flatten()(x), vector]))
    found = tfsparse.find_groups(keras.Model(vector, x), ("feature",))
    assert "read by the grouped convolution 'conv'" in {g.frozen for g in found}


def test_an_embedding_that_reads_what_stays_keeps_its_width():
    tokens = keras.Input((5,), dtype="int32", name="tokens")
    stays = keras.Input((5, 6), name="stays")
    table = layers.ReversibleEmbedding(10, 6, tie_weights=False, name="table")
    model = keras.Model([tokens, stays], [table(tokens), table(stays, reverse=True)])
    head = layers.Dense(2, name="head")(layers.Flatten()(model.outputs[0]))
    model = keras.Model([tokens, stays], [head, model.outputs[1]])
    found = groups_of(model)["table"]
    assert found.size == 6
    assert found.frozen == "'table' is as wide when it reads what stays"
