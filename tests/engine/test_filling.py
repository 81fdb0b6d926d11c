"""A target is filled: masks by rank, what they kill, and trainings that end at it."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
from conformance import models
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

import tfsparse
from tfsparse import budgets, methods, options
from tfsparse.deploy import collect
from tfsparse.engine import filling, shrinking

SIZES = {"a": 5.0, "b": 2.0, "c": 1.0}


def share_of(bound):
    def share(masks) -> float:
        return sum(SIZES[name] * own.sum() for name, own in masks.items()) / bound

    return share


@functools.cache
def drawn(seed: int):
    rng = np.random.default_rng(seed)
    keep = {name: rng.random(n) < 0.8 for name, n in (("a", 6), ("b", 9), ("c", 20))}
    keep = budgets.spare_one(keep)
    return keep, {name: rng.random(len(own)) for name, own in keep.items()}


@given(seed=st.integers(0, 30), part=st.floats(0.02, 1.2))
def test_masks_fit_and_nothing_that_went_would_fit_too(seed, part):
    keep, scores = drawn(seed)
    whole = share_of(1.0)(keep)
    share = share_of(part * whole)
    found = filling.fitted(keep, scores, share)
    if found is None:
        assert share_of(part * whole)({n: np.ones(1) for n in keep}) > 1
        return
    assert share(found) <= 1
    for name, own in found.items():
        assert not (own & ~keep[name]).any(), "the dead stay dead"
        living = np.flatnonzero(keep[name])
        assert own[living[scores[name][living].argmax()]], "the strongest stays"
        for unit in np.flatnonzero(keep[name] & ~own):
            more = {n: m.copy() for n, m in found.items()}
            more[name][unit] = True
            assert share(more) > 1 or share(found) >= filling.NEARLY_FULL
        if own.any() and (keep[name] & ~own).any():
            gone = scores[name][keep[name] & ~own]
            assert gone.max() < scores[name][own].min(), "the weakest of a group went"


def test_a_unit_is_swapped_where_that_fills_more():
    """By rank two of "a" go, and 19 of 22 are left; with one of "b" in place of one, 21."""
    keep = {"a": np.ones(4, bool), "b": np.ones(3, bool)}
    scores = {"a": np.array([0.1, 0.2, 0.8, 0.9]), "b": np.array([0.5, 0.6, 0.7])}
    found = filling.fitted(
        keep, scores, lambda masks: (5 * masks["a"].sum() + 3 * masks["b"].sum()) / 22
    )
    assert found["a"].tolist() == [False, True, True, True]
    assert found["b"].tolist() == [False, True, True]


def test_where_much_has_to_go_no_layer_is_left_with_one_unit():
    """All of "a" are weaker than any of "b"; of both a quarter or more stays."""
    keep = {"a": np.ones(20, bool), "b": np.ones(20, bool)}
    scores = {"a": np.linspace(0, 1, 20), "b": np.linspace(2, 3, 20)}

    def share(bound):
        return lambda masks: masks["a"].sum() * masks["b"].sum() / bound

    found = filling.fitted(keep, scores, share(100))
    assert share(100)(found) <= 1 and found["a"].sum() >= 5 and found["b"].sum() >= 5
    found = filling.fitted(keep, scores, share(1))  # a quarter of either is too much
    assert found["a"].sum() == found["b"].sum() == 1


def test_a_group_without_a_score_stays():
    keep = {"a": np.ones(2, bool), "c": np.ones(4, bool)}
    found = filling.fitted(keep, {"c": np.arange(4.0)}, share_of(12.0))
    assert found["a"].all() and found["c"].tolist() == [False, False, True, True]


def test_a_target_is_filled_where_removals_take_others_along():
    """Three of "a" are read by the weakest of "b" alone: with it they go, too."""
    keep = {"a": np.ones(16, bool), "b": np.ones(16, bool)}
    scores = {"a": np.linspace(3, 4, 16), "b": np.linspace(0, 1, 16)}

    def used(masks):
        readers = masks["b"][:3]
        return {"a": masks["a"] & np.append(readers, [True] * 13), "b": masks["b"]}

    def share(masks):
        return (masks["a"].sum() + masks["b"].sum()) / 29

    plain = filling.fitted(keep, scores, share)
    assert share(plain) == 1 and share(used(plain)) < filling.FILLED
    found = filling.fitted_in_use(keep, scores, share, used)
    assert filling.FILLED <= share(found) <= 1
    assert all((used(found)[name] == own).all() for name, own in found.items())


def test_what_is_in_use_once_masks_have_dropped_the_rest():
    """first[2] is read by second[1] alone, and second[0] reads first[0] alone."""
    model = net()
    reads = np.ones((24, 16), "float32")
    reads[2], reads[:, 0] = 0, 0
    reads[2, 1] = reads[0, 0] = 1
    model.get_layer("second").kernel.assign(reads)
    groups = tfsparse.find_groups(model, ("unit", "feature"))
    masks = {g.name: np.ones(g.size, bool) for g in groups if not g.frozen}
    used = filling.in_use(model, groups)
    assert all(own.all() for own in used(masks).values())
    masks["second"][1] = False
    assert np.flatnonzero(~used(masks)["first"]).tolist() == [2]
    masks["first"][0] = False
    found = used(masks)
    assert np.flatnonzero(~found["second"]).tolist() == [0, 1]
    masks["second"][2:] = False  # what is left of second reads what is not there
    masks["second"][0] = True
    assert used(masks) is None


def test_what_passes_nothing_any_more_is_not_taken():
    """The strongest of either group are not each other's: the bound is widened to both."""
    keep = {"a": np.ones(4, bool), "b": np.ones(4, bool)}
    scores = {"a": np.array([4.0, 3, 2, 1]), "b": np.array([1.0, 2, 3, 4])}

    def used(masks):  # unit n of b reads unit n of a alone
        both = masks["a"] & masks["b"]
        return {"a": both, "b": both} if both.any() else None

    def share(masks):
        return (masks["a"].sum() + masks["b"].sum()) / 4

    found = filling.fitted_in_use(keep, scores, share, used)
    assert used(found) is not None and share(found) <= 1


@pytest.mark.parametrize(
    "builder",
    [models.conv_bn_chain, models.residual_projection, models.depthwise_multiplier_2,
     models.grouped_conv, models.prelu, models.separable, models.flatten_from_conv],
    ids=lambda builder: builder.__name__,
)  # fmt: skip
def test_what_is_killed_leaves_and_nothing_else_changes(builder):
    model = models.randomise(builder())
    groups = tfsparse.find_groups(model)
    keep = {g.name: models.half(g) for g in groups if not g.frozen}
    filling.kill(model, groups, keep)
    done = collect.collect(model, keep)
    assert done.model.count_params() < model.count_params()
    inputs = models.inputs_for(model)
    before, after = (models.outputs(one, inputs) for one in (model, done.model))
    assert models.difference(before, after) < 1e-5


# Trainings -----------------------------------------------------------------------------


def data():
    rng = np.random.default_rng(0)
    x = rng.random((192, 12)).astype("float32")
    return x, (x[:, 0] > x[:, 1]).astype(int)


def net():
    inputs = keras.Input((12,))
    x = layers.Dense(24, name="first")(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Dense(16, activation="relu", name="second")(x)
    model = keras.Model(inputs, layers.Dense(2, name="out")(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, jit_compile=False)
    return model


METHODS = {
    "shrinknets": tfsparse.ShrinkNets(0.3),
    "gsparsity": tfsparse.GSparsity(0.02),
    "too weak": tfsparse.GSparsity(1e-6),
    "too strong": tfsparse.ShrinkNets(1.0),
    "bayesian_compression": tfsparse.BayesianCompression(
        pretrain_epochs=0, warm_up_epochs=1
    ),
    "sparse_vd": tfsparse.SparseVD(pretrain_epochs=0, warm_up_epochs=1),
    "bayesnas": tfsparse.BayesNASCompression(0.01, loop_epochs=2),
}

WITHOUT = {
    "switches": tfsparse.ShrinkNets(form="norms"),
    "sign variance": tfsparse.ShrinkNets(0.01, form="signed", gamma=1.0),
    "proximal map": tfsparse.GSparsity(0.02, proximal=False),
    "divergence": tfsparse.SparseVD(0.0, pretrain_epochs=0, warm_up_epochs=1),
    "evidence": tfsparse.BayesNASCompression(0.01, loop_epochs=2, evidence=False),
}
"""Methods without their own idea."""


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    "target",
    [{"params": 0.4}, pytest.param({"macs": 150}, marks=pytest.mark.slow)],
    ids=str,
)
def test_every_method_fills_its_target(name, target):
    found = tfsparse.fit_shrinking(
        net(), METHODS[name], *data(), epochs=8, shrink_epochs=6, batch_size=16,
        target=target,
    )  # fmt: skip
    whole = tfsparse.measure(net())
    ((measure, value),) = target.items()
    bound = value * getattr(whole, measure) if value <= 1 else value
    left = getattr(tfsparse.measure(found.model), measure)
    assert filling.FILLED * bound <= left <= bound


@pytest.mark.parametrize("name", WITHOUT)
def test_a_method_without_its_idea_fills_its_target_too(name):
    found = tfsparse.fit_shrinking(
        net(), WITHOUT[name], *data(), epochs=6, shrink_epochs=4, batch_size=16,
        target={"params": 0.4},
    )  # fmt: skip
    bound = 0.4 * tfsparse.measure(net()).params
    assert filling.FILLED * bound <= tfsparse.measure(found.model).params <= bound


@pytest.mark.parametrize("name", ["switches", "proximal map"])
def test_without_its_idea_nothing_dies_by_itself(name):
    found = tfsparse.fit_shrinking(
        net(), WITHOUT[name], *data(), epochs=4, batch_size=16
    )
    assert tfsparse.measure(found.model).params == tfsparse.measure(net()).params


def test_sparse_vd_fills_a_target_of_single_weights():
    found = tfsparse.fit_shrinking(
        net(), METHODS["sparse_vd"], *data(), epochs=6, batch_size=16,
        target={"nonzero": 0.3},
    )  # fmt: skip
    bound = 0.3 * tfsparse.measure(net()).nonzero
    assert 0.97 * bound <= tfsparse.measure(found.model).nonzero <= bound


@pytest.mark.parametrize(
    "name",
    ["gsparsity"]
    + [pytest.param(n, marks=pytest.mark.slow) for n in ("shrinknets", "sparse_vd")],
)
def test_trials_fill_it_too(name):
    found = tfsparse.fit_shrinking(
        net(), METHODS[name], *data(), epochs=8, shrink_epochs=6, batch_size=16,
        target={"params": 0.4}, trials=3,
    )  # fmt: skip
    bound = 0.4 * tfsparse.measure(net()).params
    assert filling.FILLED * bound <= tfsparse.measure(found.model).params <= bound


def test_an_epoch_that_took_too_much_is_taken_back(monkeypatch):
    """Half of all units die at once: what the epoch before left is trimmed instead."""
    seen = []
    real = shrinking.Shrinking._with_epoch_taken_back

    def watched(self, model, groups, keep, before):
        found = real(self, model, groups, keep, before)
        seen.append(
            (self._share(model, groups, keep), self._share(model, groups, found))
        )
        return found

    monkeypatch.setattr(shrinking.Shrinking, "_with_epoch_taken_back", watched)
    found = tfsparse.fit_shrinking(
        net(), tfsparse.ShrinkNets(1.0), *data(), epochs=10, batch_size=16,
        target={"params": 0.8},
    )  # fmt: skip
    ((_, after),) = seen
    assert after > 1, "nothing had to be taken back"
    bound = 0.8 * tfsparse.measure(net()).params
    assert filling.FILLED * bound <= tfsparse.measure(found.model).params <= bound


@pytest.mark.parametrize(
    ("target", "limits"),
    [
        ({"params": 3}, {}),
        ({"macs": 0.2}, {"minimum": 12}),
        ({"units": 10}, {"round_to": 8}),
    ],
)
def test_a_target_below_what_limits_leave_is_refused_before_training(target, limits):
    method, never = tfsparse.GSparsity(0.02), Never()
    with pytest.raises(ValueError, match="`target` must be within reach.*remain"):
        tfsparse.fit_shrinking(
            net(), method, *data(), epochs=4, target=target, callbacks=[never],
            limits=budgets.Limits(**limits),
        )  # fmt: skip


class Never(keras.callbacks.Callback):
    """Fails as training begins."""

    def on_train_begin(self, logs=None):
        raise AssertionError("training began")


@pytest.mark.parametrize("ramp", [1.0, 1.5])
def test_a_target_may_end_the_penalty_with_the_only_epoch(ramp):
    found = tfsparse.fit_shrinking(
        net(), tfsparse.ShrinkNets(), *data(), epochs=1, batch_size=16,
        target={"params": 0.4}, ramp=ramp,
    )  # fmt: skip
    assert tfsparse.measure(found.model).params <= 0.4 * tfsparse.measure(net()).params


@pytest.mark.parametrize("share", [0.15, 0.3])
def test_a_small_target_empties_no_group(share):
    found = tfsparse.fit_shrinking(
        net(), METHODS["bayesian_compression"], *data(), epochs=2, batch_size=16,
        target={"params": share},
    )  # fmt: skip
    assert (
        tfsparse.measure(found.model).params <= share * tfsparse.measure(net()).params
    )


def padded():
    """Sigmoids in front of padding: no bias can hold what a dead unit still emits."""
    inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(8, 3, padding="same", activation="sigmoid")(inputs)
    x = layers.Conv2D(8, 3, padding="same", activation="sigmoid")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(4)(layers.Dense(16, "relu")(x)))
    model.compile("adam", "mse", jit_compile=False)
    return model


@pytest.mark.parametrize("method", ["shrinknets", "gsparsity"])
def test_units_that_cannot_be_folded_go_too_where_a_target_wants_it(method):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 8, 8, 2)), rng.normal(size=(64, 4))
    found = tfsparse.fit_shrinking(
        padded(), METHODS[method], x, y, epochs=4, target={"params": 0.3}
    )
    bound = 0.3 * tfsparse.measure(padded()).params
    assert 0.8 * bound <= tfsparse.measure(found.model).params <= bound


@options.record
class Halve(methods.Method):
    """Keeps the first half of every group; has no strength."""

    name = "halve-of-the-tests"

    def prepare(self, model, groups):
        return keras.models.clone_model(model)

    def keep(self, model, groups, tools=None):
        return {
            g.name: np.arange(g.size) <= g.size // 2 for g in groups if not g.frozen
        }


def test_a_method_without_a_strength_takes_a_target():
    found = tfsparse.fit_shrinking(
        net(), Halve(), *data(), epochs=4, target={"params": 0.2}
    )
    assert tfsparse.measure(found.model).params <= 0.2 * tfsparse.measure(net()).params


@pytest.mark.parametrize("ramp", [1.0, 2.0])
def test_a_strength_that_falls_behind_grows(ramp):
    method = tfsparse.ShrinkNets(1e-3)
    found = tfsparse.fit_shrinking(
        net(), method, *data(), epochs=16, shrink_epochs=14, batch_size=16,
        target={"params": 0.3}, ramp=ramp, fill=False,
    )  # fmt: skip
    left = tfsparse.measure(found.model).params / tfsparse.measure(net()).params
    assert (left <= 0.3) == (ramp > 1)


def test_a_target_need_not_be_filled():
    found = tfsparse.fit_shrinking(
        net(), METHODS["too weak"], *data(), epochs=4, batch_size=16,
        target={"params": 0.4}, fill=False, ramp=1.0,
    )  # fmt: skip
    assert tfsparse.measure(found.model).params == tfsparse.measure(net()).params
