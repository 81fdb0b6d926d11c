"""Table 7 as a space of keras-tuner's, and the networks that configurations stand for."""

from __future__ import annotations

import keras
import keras_tuner
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfsparse.search import HyperNetwork, Space, build, space, table_7

SHAPES = [(28, 28, 1), (12, 9, 3), (40, 6), (12,)]
TABLE_7 = {
    "downsample-input-in-depth", "downsample-input", "input-downsampling-rate",
    "zero-regularization-epochs", "annealing-epochs", "alpha", "pretraining", "batch-norm",
    "num-conv-blocks", "num-fc-layers", "pruning-thresholds", "total-fc-layer-weights",
    "weight-fraction-main-branch", "num-conv-layers", "layer-type", "kernel-size",
    "num-filters", "downsample", "left-branch", "right-branch",
    "weight-fraction-left-branch", "weight-fraction-right-branch", "merge-type",
}  # fmt: skip
"""Its rows, `weight-fraction-left-branch` as what its second one means."""


def configurations(shape, structured=True):
    """Samples of the space of a shape."""
    held = Space(table_7(shape, structured))

    def made(seed):
        return held, held.sample(np.random.default_rng(seed))

    return st.integers(0, 10_000).map(made)


def row_of(name: str) -> str:
    """The row of the table that a parameter belongs to."""
    return name.partition("-block-")[0]


def test_every_row_of_the_table_is_there():
    names = {row_of(p.name) for p in table_7((12, 9, 3), False).space}
    assert names == TABLE_7 | {"residual-connections"}
    assert "batch-norm" not in {p.name for p in table_7((12, 9, 3)).space}
    ranges = {p.name: p for p in table_7((28, 28, 1)).space}
    for name, low, high in (
        ("input-downsampling-rate", 2, 4), ("zero-regularization-epochs", 5, 30),
        ("annealing-epochs", 15, 25), ("alpha", 0.01, 1), ("num-conv-blocks", 1, 2),
        ("num-fc-layers", 0, 1), ("total-fc-layer-weights", 1, 800),
        ("weight-fraction-main-branch", 0, 1), ("num-conv-layers-block-2", 1, 3),
        ("kernel-size-block-1-layer-3", 2, 5), ("num-filters-block-2-layer-1", 1, 100),
        ("downsample-block-2-layer-1", 0, 0.5), ("weight-fraction-right-branch", 0.01, 1),
        ("pruning-thresholds-block-1-layer-1", -6, 3),
    ):  # fmt: skip
        own = ranges[name]
        assert (own.min_value, own.max_value) == (low, high), name


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_every_configuration_is_whole_and_builds(shape, data):
    held, values = data.draw(configurations(shape, data.draw(st.booleans())))
    held.check(values)
    model = build(values, shape, 5)
    assert model.output_shape == (None, 5)
    assert model.input_shape == (None, *shape)
    names = {layer.name for layer in model.layers}
    for block in range(1, values.get("num-conv-blocks", 0) + 1):
        count = values[f"num-conv-layers-block-{block}"]
        assert {f"block{block}_conv{n}" for n in range(1, count + 1)} <= names
        assert f"block{block}_conv{count + 1}" not in names
    for side in ("left", "right"):
        assert (f"{side}_fc" in names) == bool(values.get(f"{side}-branch"))


def test_what_is_not_active_is_not_there():
    held = Space(table_7((28, 28, 1)))
    values = held.sample(np.random.default_rng(0))
    fewer = held.completed({**values, "num-conv-blocks": 1}, np.random.default_rng(0))
    assert not [name for name in fewer if "block-2" in name]
    more = held.completed({**fewer, "num-conv-blocks": 2}, np.random.default_rng(0))
    assert any("block-2" in name for name in more)
    assert {k: more[k] for k in fewer if k != "num-conv-blocks"} == {
        k: v for k, v in fewer.items() if k != "num-conv-blocks"
    }
    with pytest.raises(ValueError, match="active parameters alone"):
        held.check({**fewer, "num-filters-block-2-layer-1": 4})
    with pytest.raises(ValueError, match="must hold alpha within its range.*alpha=2"):
        held.check({**fewer, "alpha": 2})
    del fewer["alpha"]
    with pytest.raises(ValueError, match="must hold .'alpha'"):
        held.check(fewer)


def test_draws_are_uniform():
    held = Space(table_7((28, 28, 1)))
    rng = np.random.default_rng(0)
    drawn = [held.sample(rng) for _ in range(2000)]
    for name in ("left-branch", "downsample-input", "pretraining"):
        assert np.mean([v[name] for v in drawn]) == pytest.approx(0.5, abs=0.04)
    kernels = np.array([v["kernel-size-block-1-layer-1"] for v in drawn])
    assert np.bincount(kernels)[2:] / 2000 == pytest.approx(np.full(4, 0.25), abs=0.04)
    tau = np.array([v["pruning-thresholds-block-1-layer-1"] for v in drawn])
    assert tau.mean() == pytest.approx(-1.5, abs=0.2)
    np.testing.assert_allclose(tau * 10, np.round(tau * 10), atol=1e-6)
    merged = [v for v in drawn if "merge-type" in v]
    assert all(v["left-branch"] or v["right-branch"] for v in merged)
    assert len(merged) == sum(v["left-branch"] or v["right-branch"] for v in drawn)


@pytest.mark.parametrize("fractions", [(0.5, 0.25), (0.1, 0.9)])
def test_branches_have_their_fraction_of_the_weights(fractions):
    held = Space(table_7((28, 28, 1)))
    values = held.completed(
        {"left-branch": True, "right-branch": True, "num-fc-layers": 1, "merge-type":
         "concatenate", "total-fc-layer-weights": 800, "downsample-input": False,
         "weight-fraction-left-branch": fractions[0],
         "weight-fraction-right-branch": fractions[1]},
        np.random.default_rng(0),
    )  # fmt: skip
    model = build(values, (28, 28, 1), 10)
    for side, fraction in zip(("left", "right"), fractions, strict=True):
        kernel = model.get_layer(f"{side}_fc").kernel
        spare = 800_000 * fraction - np.prod(kernel.shape)
        assert 0 <= spare < kernel.shape[0]
    units = [model.get_layer(f"{b}_fc").units for b in ("main", "left", "right")]
    assert model.get_layer("logits").kernel.shape[0] == sum(units)
    summed = build({**values, "merge-type": "sum"}, (28, 28, 1), 10)
    assert summed.get_layer("logits").kernel.shape[0] == min(units)


def test_depth_is_pooled_by_its_largest():
    held = Space(table_7((6, 5, 3)))
    values = held.completed(
        {"downsample-input-in-depth": True, "downsample-input": False},
        np.random.default_rng(0),
    )
    model = build(values, (6, 5, 3), 4)
    x = np.random.default_rng(0).normal(size=(2, 6, 5, 3)).astype("float32")
    joined = keras.Model(model.input, model.get_layer("depth_joined").output)
    np.testing.assert_array_equal(joined(x), x.max(-1, keepdims=True))


class Own(keras_tuner.HyperModel):
    """A user's, whose second layer hides behind an `if`."""

    def build(self, hp):
        x = inputs = keras.Input((4,))
        x = keras.layers.Dense(hp.Int("units", 2, 6, step=2))(x)
        if hp.Boolean("deep"):
            with hp.conditional_scope("deep", [True]):
                kind = hp.Choice("kind", ["relu", "tanh"])
                x = keras.layers.Dense(3, activation=kind)(x)
                if kind == "tanh":
                    with hp.conditional_scope("kind", ["tanh"]):
                        x = keras.layers.Dropout(hp.Float("rate", 0.1, 0.5))(x)
        model = keras.Model(inputs, keras.layers.Dense(2)(x))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss, metrics=["accuracy"])
        return model


def test_the_space_of_a_users_own_hypermodel():
    held = Space.of(Own())
    assert tuple(held.ranges) == ("units", "deep", "kind", "rate")
    for seed in range(20):
        values = held.sample(np.random.default_rng(seed))
        assert ("kind" in values) == values["deep"]
        assert ("rate" in values) == (values.get("kind") == "tanh")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["RandomSearch", "Hyperband"])
def test_tuners_of_keras_tuner_search_it(name, tmp_path, digits):
    (x, y), _ = digits
    more = {"max_trials": 3} if name == "RandomSearch" else {"max_epochs": 2}
    tuner = getattr(keras_tuner, name)(
        HyperNetwork((8, 8, 1), 10),
        objective="val_accuracy",
        directory=tmp_path,
        seed=0,
        **more,
    )
    tuner.search(x[:200], y[:200], validation_data=(x[200:300], y[200:300]),
                 epochs=1, verbose=0)  # fmt: skip
    best = tuner.get_best_hyperparameters()[0]
    assert best.values["num-conv-blocks"] in (1, 2)
    trials = tuner.oracle.trials.values()
    assert len({str(sorted(t.hyperparameters.values.items())) for t in trials}) > 1


def test_a_shape_of_four_axes_is_refused():
    with pytest.raises(ValueError, match=r"`shape` must be that of.*\(2, 3, 4, 5\)"):
        table_7((2, 3, 4, 5))


def test_numbers_are_brought_into_their_range():
    alpha = Space(table_7((12,))).ranges["alpha"]
    assert space.clipped(alpha, 7.0) == 1.0 and space.clipped(alpha, 0.014) == 0.01
