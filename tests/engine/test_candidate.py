"""A configuration is tried: its schedule and thresholds, its parent's posterior, its folder."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tfsparse import data, files, search
from tfsparse.engine import candidate, sealed
from tfsparse.methods import BayesianCompression, SparseVD, bayesian
from tfsparse.search import Space, table_7

SHAPE = (8, 8, 1)
PLAIN = {
    "downsample-input": False, "residual-connections": False, "num-conv-blocks": 1,
    "num-conv-layers-block-1": 1, "layer-type-block-1-layer-1": "Conv2D",
    "kernel-size-block-1-layer-1": 3, "num-filters-block-1-layer-1": 6,
    "num-fc-layers": 1, "total-fc-layer-weights": 1, "weight-fraction-main-branch": 0.9,
    "left-branch": False, "right-branch": False, "batch-norm": False, "alpha": 0.5,
    "pretraining": False,
}  # fmt: skip


def configuration(structured=True, **changes):
    space = Space(table_7(SHAPE, structured))
    rng = np.random.default_rng(0)
    values = space.completed({**PLAIN, **changes}, rng)
    space.check(values)
    return values


def method(cls, epochs, values):
    model = search.build(values, SHAPE, 10)
    return candidate.method_of(cls, values, epochs, model)


@pytest.mark.parametrize(
    ("epochs", "first", "second", "expected"),
    [(60, 20, 20, (20, 20)), (45, 20, 20, (20, 20)), (25, 20, 20, (10, 10)),
     (25, 30, 10, (15, 5)), (6, 30, 15, (0, 0)), (1, 5, 15, (0, 0))],
)  # fmt: skip
def test_short_trials_shrink_the_schedule_in_proportion(
    epochs, first, second, expected
):
    values = {
        **configuration(), "zero-regularization-epochs": first, "annealing-epochs": second,
    }  # fmt: skip
    found = method(BayesianCompression, epochs, values)
    assert (found.pretrain_epochs, found.warm_up_epochs) == expected
    found.check_epochs(epochs)
    assert found.strength == 0.5


@pytest.mark.parametrize("cls", [SparseVD, BayesianCompression])
@pytest.mark.parametrize(
    "changes",
    [{}, {"num-filters-block-1-layer-1": 1}, {"layer-type-block-1-layer-1": "SeparableConv2D"},
     {"residual-connections": True, "num-conv-layers-block-1": 2},
     {"num-conv-blocks": 2, "num-conv-layers-block-2": 1, "residual-connections": True,
      "num-filters-block-2-layer-1": 6}],
    ids=["plain", "one filter", "separable", "residual", "tied blocks"],
)  # fmt: skip
def test_thresholds_reach_what_has_one(cls, changes):
    values = configuration(cls is BayesianCompression, **changes)
    model = search.build(values, SHAPE, 10)
    own = candidate.method_of(cls, values, 8, model)
    import tfsparse

    sparse = own.prepare(model, tfsparse.find_groups(model, own.kinds))
    own.decide(sparse)
    wanted = values["pruning-thresholds-block-1-layer-1"]
    if cls is SparseVD:
        named = [x for x in bayesian.twins(sparse) if x.name.startswith("block1_conv1")]
        assert named and all(x.threshold == wanted for x in named)
    else:
        named = [
            x for x in bayesian.scales(sparse) if x.name.startswith("block1_conv1")
        ]
        assert all(float(x.threshold.numpy()) == pytest.approx(wanted) for x in named)
        assert named or changes.get("num-filters-block-1-layer-1") == 1


def evaluator(folder, cls=SparseVD, epochs=2):
    dataset = sealed.Door(data.load("digits")).dataset
    names = ("error", "nonzero", "weight_bytes")
    return candidate.Candidates(dataset, str(folder), cls, epochs, names)


def test_a_child_takes_over_and_thresholds_alone_train_nothing(tmp_path):
    evaluate = evaluator(tmp_path)
    values = configuration(False)
    first = evaluate(0, values)
    assert set(first.objectives) == {"error", "nonzero", "weight_bytes"}
    assert first.epochs == 2 and first.inherited is None
    small = keras.saving.load_model(evaluate.path(0, candidate.SMALL))
    digits = data.load("digits")
    answers = small.predict(digits.x_validation / np.float32(255), verbose=0).argmax(-1)
    error = (answers != digits.y_validation.ravel()).mean()
    assert first.objectives["error"] == pytest.approx(error)
    more = {**values, "num-filters-block-1-layer-1": 8}
    child = evaluate(1, more, 0)
    assert (
        child.inherited
        and 0.4 < child.inherited["elements"] / child.inherited["total"] < 1
    )
    stricter = {**values, "pruning-thresholds-block-1-layer-1": -6.0}
    other = evaluate(2, stricter, 0)
    assert (
        other.epochs == 0 and other.objectives["nonzero"] < first.objectives["nonzero"]
    )
    pretrained = {**more, "pretraining": True}
    pretrained.pop("annealing-epochs")
    assert evaluate(3, pretrained, 1).inherited["elements"] > 0


def test_a_folder_of_another_search_is_not_gone_on_with(tmp_path):
    evaluate = evaluator(tmp_path, epochs=1)
    (tmp_path / "0000").mkdir()
    files.write_json(tmp_path / "0000" / candidate.CONFIGURATION, {"alpha": 1})
    (tmp_path / "0000" / "left").write_text("over")
    evaluate(0, configuration(False))
    assert not (tmp_path / "0000" / "left").exists()


def test_a_parent_that_is_not_there_is_none(tmp_path):
    found = evaluator(tmp_path, epochs=1)(5, configuration(False), parent=3)
    assert found.inherited is None and found.epochs == 1
