"""Table 8: what each morph changes, and nothing else; and what a child takes over."""

from __future__ import annotations

import collections

import keras
import numpy as np
import pytest

import tfsparse
from tfsparse.methods import BayesianCompression, SparseVD
from tfsparse.search import Space, build, inheritance, morphs, table_7
from tfsparse.search.inheritance import inherit

SHAPE = (12, 10, 3)


@pytest.fixture(scope="module")
def held():
    return Space(table_7(SHAPE, structured=False))


def applied(held, name, seeds=300):
    """`(parent, child)` of every seed at which a morph applies."""
    found = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        parent = held.sample(rng)
        kept = dict(parent)
        child = morphs.apply(name, held, parent, rng)
        assert parent == kept, "the parent stays as it is"
        if child is not None:
            held.check(child)
            found.append((parent, child))
    assert found, name
    return found


def changed(parent, child) -> dict:
    """What is another value, came or went: name -> (before, after)."""
    return {
        name: (parent.get(name), child.get(name))
        for name in sorted(parent.keys() | child.keys())
        if parent.get(name) != child.get(name)
    }


SHARED = {"total-fc-layer-weights", "weight-fraction-main-branch"}

STEPS = {"num-fc-layers": 1, "total-fc-layer-weights": 5, "alpha": 0.1}


@pytest.mark.parametrize("name", STEPS)
def test_numbers_move_by_their_step(held, name):
    seen = set()
    for parent, child in applied(held, name):
        told = changed(parent, child)
        before, after = told[name]
        # Without a branch and a hidden layer there are no weights to share out.
        assert set(told) - {name} <= SHARED
        step = after - before
        inside = 5 < before < 795 if STEPS[name] == 5 else 0.11 < before < 0.9
        if inside or STEPS[name] == 1:
            assert abs(step) == pytest.approx(STEPS[name])
        seen.add(bool(step > 0))
    assert seen == {True, False}


@pytest.mark.parametrize("name", ["batch-norm", "residual-connections"])
def test_switches_switch(held, name):
    for parent, child in applied(held, name):
        assert changed(parent, child) == {name: (parent[name], not parent[name])}


@pytest.mark.parametrize("side", ["left-branch", "right-branch"])
def test_a_branch_that_comes_begins_small(held, side):
    for parent, child in applied(held, side):
        told = changed(parent, child)
        assert told.pop(side) == (parent[side], not parent[side])
        fraction = told.pop(f"weight-fraction-{side}")
        assert fraction[1] == (0.05 if child[side] else None)
        assert set(told) <= {"merge-type", *SHARED}


REDRAWN = {
    "layer-type": "layer-type-", "num-conv-filters": "num-filters-",
    "kernel-size": "kernel-size-", "downsampling-rate": "downsample-block-",
    "merge-type": "merge-type",
}  # fmt: skip


@pytest.mark.parametrize("name", REDRAWN)
def test_one_layer_is_drawn_again(held, name):
    where = collections.Counter()
    for parent, child in applied(held, name):
        told = changed(parent, child)
        own = [key for key in told if key.startswith(REDRAWN[name])]
        if name == "layer-type":  # its rate comes and goes with it
            own = [key for key in own if not key.startswith("downsample")]
            assert all(
                key.startswith(("layer-type", "downsample-block")) for key in told
            )
        else:
            assert set(told) == set(own)
        assert len(own) == 1
        where[own[0]] += 1
    assert len(where) > 1 or name == "merge-type"


def test_a_new_block_has_one_layer(held):
    more = fewer = 0
    for parent, child in applied(held, "num-conv-blocks"):
        step = child["num-conv-blocks"] - parent["num-conv-blocks"]
        assert abs(step) == 1
        assert all(
            "block-2" in key
            for key in changed(parent, child)
            if key != "num-conv-blocks"
        )
        if step > 0:
            assert child["num-conv-layers-block-2"] == 1
            more += 1
        fewer += step < 0
    assert more and fewer


def test_a_block_gains_or_loses_a_layer(held):
    for parent, child in applied(held, "num-conv-layers"):
        told = {
            k: v for k, v in changed(parent, child).items() if "num-conv-layers" in k
        }
        ((_, (before, after)),) = told.items()
        assert abs(after - before) == 1


def test_one_threshold_moves_by_a_half(held):
    for parent, child in applied(held, "threshold"):
        ((name, (before, after)),) = changed(parent, child).items()
        assert name.startswith("pruning-thresholds-")
        if -5.5 < before < 2.5:
            assert abs(after - before) == pytest.approx(0.5)


def test_every_active_fraction_moves(held):
    for parent, child in applied(held, "weight-fraction"):
        told = changed(parent, child)
        active = {k for k in parent if k.startswith("weight-fraction-")}
        assert set(told) == active
        for before, after in told.values():
            assert abs(after - before) <= 0.05 + 1e-9


def test_children_are_uniform_over_the_morphs_and_repeatable(held):
    rng = np.random.default_rng(0)
    values, counts = held.sample(rng), collections.Counter()
    always = {"num-fc-layers", "alpha", "threshold", "kernel-size", "left-branch"}
    for _ in range(3000):
        values, how = morphs.child(held, values, rng)
        assert 1 <= len(how)
        counts.update(how)
    own = np.array([counts[name] for name in always])
    assert own.min() > 0.8 * own.max()
    assert set(counts) == set(morphs.MORPHS)
    one, two = (morphs.child(held, values, np.random.default_rng(7)) for _ in range(2))
    assert one == two and one[0] != values


def test_morphs_of_a_space_of_ones_own():
    import keras_tuner

    hp = keras_tuner.HyperParameters()
    hp.Int("units", 1, 9)
    hp.Int("units-more", 1, 9)
    hp.Boolean("deep")
    with hp.conditional_scope("deep", [True]):
        hp.Float("rate", 0.1, 0.9)
    own = Space(hp)
    found = morphs.of_one_parameter(own)
    assert set(found) == {"units", "units-more", "deep", "rate"}
    values = {"units": 3, "units-more": 4, "deep": False}
    for seed in range(20):
        rng = np.random.default_rng(seed)
        child = morphs.apply("units", own, values, rng, found)
        assert child["units"] != 3 and child["units-more"] == 4
    assert morphs.apply("rate", own, values, rng, found) is None
    assert set(morphs.apply("deep", own, values, rng, found)) == {*values, "rate"}


# Inheritance ---------------------------------------------------------------------------


def network(**changes):
    base = {
        "downsample-input-in-depth": False, "downsample-input": False,
        "residual-connections": False, "num-conv-blocks": 1, "num-conv-layers-block-1": 1,
        "layer-type-block-1-layer-1": "Conv2D", "kernel-size-block-1-layer-1": 3,
        "num-filters-block-1-layer-1": 4, "num-fc-layers": 1, "batch-norm": False,
        "total-fc-layer-weights": 1, "weight-fraction-main-branch": 0.5,
        "left-branch": False, "right-branch": False,
    }  # fmt: skip
    space = Space(table_7(SHAPE, structured=False))
    values = space.completed({**base, **changes}, np.random.default_rng(0))
    space.check(values)
    return build(values, SHAPE, 5)


def array(variable):
    return keras.ops.convert_to_numpy(variable)


def test_the_same_network_takes_over_all():
    parent, child = network(), network()
    told = inherit(child, parent)
    assert told.share == 1 and not told.partly and not told.fresh
    for one, two in zip(child.variables, parent.variables, strict=True):
        np.testing.assert_array_equal(one, two)


def test_more_filters_keep_place_and_channel():
    """Unit u of the Dense reads (place, channel) as it did before."""
    parent, child = network(), network(**{"num-filters-block-1-layer-1": 7})
    told = inherit(child, parent)
    one, two = child.get_layer("block1_conv1"), parent.get_layer("block1_conv1")
    np.testing.assert_array_equal(array(one.kernel)[..., :4], array(two.kernel))
    rows = array(child.get_layer("main_fc").kernel)
    before = array(parent.get_layer("main_fc").kernel)
    places = child.get_layer("flatten").input.shape[1:3]
    units = min(rows.shape[1], before.shape[1])
    np.testing.assert_array_equal(
        rows.reshape(*places, 7, -1)[:, :, :4, :units],
        before.reshape(*places, 4, -1)[..., :units],
    )
    assert set(told.partly) >= {"block1_conv1", "main_fc"}
    assert 0 < told.share < 1 and told.elements < told.total


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(
    ("before", "size"), [(3, 5), (2, 3), (2, 5), (4, 5), (5, 3), (5, 2)]
)
def test_what_a_kernel_put_out_stays_in_its_place(padding, before, size):
    """With the new places at zero, or the lost ones, outputs are those of the parent."""

    def net(width):
        image = keras.Input((9, 9, 2))
        conv = keras.layers.Conv2D(3, width, padding=padding, name="conv")
        return keras.Model(image, conv(image))

    parent, child = net(before), net(size)
    kernel = array(parent.get_layer("conv").kernel).copy()
    if size < before:  # what the child cannot hold
        lost = (before - 1) // 2 - (size - 1) // 2 if padding == "same" else 0
        stays = np.zeros(before, bool)
        stays[lost : lost + size] = True
        kernel[~stays], kernel[:, ~stays] = 0, 0
        parent.get_layer("conv").kernel.assign(kernel)
    child.get_layer("conv").kernel.assign(np.zeros((size, size, 2, 3)))
    inherit(child, parent)
    x = np.random.default_rng(0).normal(size=(2, 9, 9, 2)).astype("float32")
    one, two = array(parent(x)), array(child(x))
    least = min(one.shape[1], two.shape[1])
    np.testing.assert_allclose(
        two[:, :least, :least], one[:, :least, :least], atol=1e-5
    )


def test_a_branch_that_comes_leaves_the_others_rows_alone():
    parent = network(**{"right-branch": True, "merge-type": "concatenate"})
    child = network(
        **{"right-branch": True, "left-branch": True, "merge-type": "concatenate"}
    )
    told = inherit(child, parent)
    sizes = [child.get_layer(f"{b}_fc").units for b in ("main", "left", "right")]
    rows, before = (array(m.get_layer("logits").kernel) for m in (child, parent))
    np.testing.assert_array_equal(rows[: sizes[0]], before[: sizes[0]])
    np.testing.assert_array_equal(rows[sizes[0] + sizes[1] :], before[sizes[0] :])
    assert "left_fc" in told.fresh and "logits" in told.partly


def test_another_kind_of_layer_is_new():
    parent = network()
    child = network(**{"layer-type-block-1-layer-1": "SeparableConv2D"})
    told = inherit(child, parent)
    assert "block1_conv1_depthwise" in told.fresh


@pytest.mark.parametrize(
    ("method", "names"),
    [(SparseVD(), {"kernel", "log_variance"}),
     (BayesianCompression(), {"kernel", "log_variance", "mean"})],
    ids=["sparse_vd", "bayesian_compression"],
)  # fmt: skip
def test_posteriors_are_taken_over_too(method, names):
    models = []
    for filters in (4, 6):
        plain = network(**{"num-filters-block-1-layer-1": filters})
        groups = tfsparse.find_groups(plain, method.kinds)
        models.append(method.prepare(plain, groups))
    parent, child = models
    rng = np.random.default_rng(0)
    for variable in parent.variables:
        if variable.name in names:
            variable.assign(rng.normal(size=variable.shape))
    told = inherit(child, parent)
    assert told.share > 0.5
    conv, before = (m.get_layer("block1_conv1") for m in (child, parent))
    for name in ("kernel", "log_variance"):
        np.testing.assert_array_equal(
            array(getattr(conv, name))[..., :4], array(getattr(before, name))
        )
    factors = [x for x in child.layers if x.name.endswith("_noise")]
    for layer in factors:  # of places and channels, where a Flatten stands before them
        value, before = (array(m.get_layer(layer.name).mean) for m in (child, parent))
        if len(value) != len(before) and len(value) % 6 == 0 and len(value) > 6:
            np.testing.assert_array_equal(
                value.reshape(-1, 6)[:, :4], before.reshape(-1, 4)
            )


def test_strengths_and_thresholds_are_the_childs_own():
    plain = network()
    groups = tfsparse.find_groups(plain, SparseVD().kinds)
    parent, child = (SparseVD().prepare(plain, groups) for _ in range(2))
    for layer in parent.layers:
        if hasattr(layer, "strength"):
            layer.strength.assign(0.7)
    inherit(child, parent)
    assert all(
        array(layer.strength) != 0.7
        for layer in child.layers
        if hasattr(layer, "strength")
    )
    assert inheritance.Inherited(0, 0, (), (), ()).share == 0
