"""What is predicted: found in the labels, answered by the model, scored by hand."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
from sklearn import metrics

from tfsparse import data
from tfsparse.data import labels as labels_of
from tfsparse.data import losses

RNG = np.random.default_rng(0)


def found(*parts, kind="auto", classes=(), columns=()):
    """Task and labels, completed with samples of three columns."""
    told, labels = labels_of.labelled("set", list(parts), kind, classes, columns)
    x = np.zeros((len(parts[0]) if parts[0] is not None else 4, 3), "float32")
    return labels_of.completed(told, "set", "", x, labels[0], labels[-1]), labels


@pytest.mark.parametrize(
    ("labels", "kind", "shape", "names"),
    [
        ([0, 2, 1, 0], "classification", (3,), ("0", "1", "2")),
        ([3, 7, 3, 7], "classification", (2,), ("3", "7")),
        ([0, 3, 1, 0], "classification", (4,), ("0", "1", "2", "3")),
        ([-1, 1, -1, 1], "classification", (2,), ("-1", "1")),
        ([[1], [0], [1], [0]], "classification", (2,), ("0", "1")),
        (["walk", "rest", "walk", "rest"], "classification", (2,), ("rest", "walk")),
        ([b"walk", b"rest"], "classification", (2,), ("rest", "walk")),
        ([True, False, True], "classification", (2,), ("False", "True")),
        ([[0.0, 1], [1, 0], [0, 1]], "classification", (2,), ("0", "1")),
        ([[0, 1, 1], [1, 0, 0], [0, 0, 0]], "multilabel", (3,), None),
        ([0.0, 1.0, 2.0], "regression", (1,), ()),
        (list(range(101)), "regression", (1,), ()),
        (list(range(100)), "classification", (100,), None),
        ([[0.5, 1.0], [2.0, 3.0]], "regression", (2,), ("label 1", "label 2")),
    ],
)
def test_labels_tell_the_task(labels, kind, shape, names):
    told, _ = found(np.array(labels))
    assert (told.kind, told.shape) == (kind, shape)
    assert names is None or told.names == names
    assert f"Task: {kind}" in told.told() and "--task says otherwise" in told.told()


def test_without_labels_the_input_is_predicted():
    told, labels = found(None, None, np.array([0, 0, 5, 1]))
    assert told.kind == "reconstruction" and told.anomalies and told.shape == (3,)
    assert labels[2].tolist() == [0, 0, 1, 1]
    alone, _ = found(None, None, None)
    assert not alone.anomalies and alone.score_name == "reconstruction error"


def test_labels_are_numbered_as_in_train():
    told, (train, _, test) = found(np.array([5, 9, 7]), None, np.array([7, 9]))
    assert told.names == ("5", "7", "9")
    assert train.tolist() == [0, 2, 1] and test.tolist() == [1, 2]


def test_the_user_overrules():
    told, _ = found(np.array([1.0, 2.0, 1.0]), kind="classification")
    assert told.kind == "classification" and told.names == ("1", "2")
    told, (y,) = found(np.array([0, 1, 1]), kind="binary")
    assert told.shape == (1,) and y.dtype == np.int32
    told, (y,) = found(np.array([0, 4, 8]), kind="regression")
    assert told.kind == "regression" and y.shape == (3, 1)


@pytest.mark.parametrize(
    ("shape", "activation", "kind", "probabilities"),
    [
        ((2,), "", "classification", False),
        ((2,), "softmax", "classification", True),
        ((1,), "", "binary", False),
        ((1,), "sigmoid", "binary", True),
    ],
)
def test_two_classes_may_be_answered_four_ways(shape, activation, kind, probabilities):
    told, _ = found(np.array([0, 1, 1]))
    fitted = told.fitted(shape, activation, "net")
    assert (fitted.kind, fitted.probabilities) == (kind, probabilities)


@pytest.mark.parametrize(
    ("labels", "shape", "activation", "sentence"),
    [
        ([0, 1, 2], (4,), "", "3 logits or probabilities.*shape \\(4,\\)"),
        ([0, 1, 2], (3,), "sigmoid", "logits or a softmax.*sigmoid"),
        ([0, 1, 1], (1,), "softmax", "logits or a sigmoid.*softmax"),
        ([0.5, 1.5], (2,), "", "1 number, one a number"),
        ([[0, 1, 1], [1, 1, 1]], (3,), "softmax", "logits or a sigmoid"),
    ],
)
def test_models_that_answer_something_else(labels, shape, activation, sentence):
    told, _ = found(np.array(labels))
    with pytest.raises(ValueError, match=sentence):
        told.fitted(shape, activation, "net")


def loss_of(task, y, outputs):
    return float(task.loss()(keras.ops.array(y), keras.ops.array(outputs, "float32")))


def test_losses_are_those_of_the_formulas():
    z = RNG.normal(size=(5, 3))
    y = np.array([0, 2, 1, 1, 0])
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    told, _ = found(y)
    expected = -np.log(p[np.arange(5), y]).mean()
    assert loss_of(told.fitted((3,), "", "n"), y, z) == pytest.approx(
        expected, rel=1e-5
    )
    soft = told.fitted((3,), "softmax", "n")
    assert loss_of(soft, y, p) == pytest.approx(expected, rel=1e-5)

    b, z1 = np.array([0, 1, 1, 0, 1]), z[:, :1]
    q = 1 / (1 + np.exp(-z1[:, 0]))
    expected = -(b * np.log(q) + (1 - b) * np.log(1 - q)).mean()
    told, _ = found(b)
    assert loss_of(told.fitted((1,), "", "n"), b, z1) == pytest.approx(
        expected, rel=1e-5
    )
    sigmoid = told.fitted((1,), "sigmoid", "n")
    assert loss_of(sigmoid, b, q[:, None]) == pytest.approx(expected, rel=1e-4)

    numbers = np.array([[100.0], [300.0], [200.0]])
    told, (y,) = found(numbers[:, 0])
    assert loss_of(told, y, np.full((3, 1), 200.0)) == pytest.approx(1.0)  # of the mean
    assert told.scale == (pytest.approx(numbers.std()),) and told.offset == (200.0,)


def test_a_loss_of_ones_own():
    y = np.array([0, 2, 1])
    told = dataclasses.replace(found(y)[0], loss_name="categorical_focal_crossentropy")
    z = np.array([[3.0, 0, 0], [0, 0, 3.0], [0, 3.0, 0]])
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    own = p[np.arange(3), y]
    expected = (0.25 * (1 - own) ** 2 * -np.log(own)).mean()
    assert loss_of(told.fitted((3,), "", "n"), y, z) == pytest.approx(
        expected, rel=1e-4
    )
    huber = dataclasses.replace(found(np.array([0.0, 4.0]))[0], loss_name="huber")
    assert loss_of(huber, np.array([[0.0]]), [[8.0]]) == pytest.approx(4 - 0.5)  # 8 / 2
    with pytest.raises(ValueError, match="name of keras.losses"):
        dataclasses.replace(told, loss_name="none").loss()


def scored(task, outputs, y, x=None):
    return task.score(task.reduced(outputs, x), y)


def test_scores_against_other_implementations():
    outputs = RNG.normal(size=(50, 3)).astype("float32")
    y = np.arange(50) % 3
    score = scored(found(y)[0], outputs, y)
    assert score.value == metrics.accuracy_score(y, outputs.argmax(1))
    assert (score.name, score.unit, score.higher_is_better) == ("accuracy", "%", True)

    rows = RNG.integers(0, 2, (50, 3))
    told, (labels,) = found(rows)
    score = scored(told, outputs, labels)
    assert score.value == pytest.approx(
        metrics.f1_score(rows, outputs > 0, average="micro")
    )
    assert score.others["labels right"] == pytest.approx((rows == (outputs > 0)).mean())

    told, (numbers,) = found(
        RNG.normal(size=(50, 3)) * [1, 10, 100], columns=("a", "b", "c")
    )
    score = scored(told, outputs, numbers)
    assert score.value == pytest.approx(metrics.mean_absolute_error(numbers, outputs))
    assert score.others["R2"] == pytest.approx(
        metrics.r2_score(numbers, outputs), rel=1e-4
    )
    assert not score.higher_is_better and told.names == ("a", "b", "c")

    told, _ = found(None, None, np.repeat([0, 1], 25))
    x = RNG.normal(size=(50, 3)).astype("float32")
    score = scored(told, outputs, np.repeat([0, 1], 25), x)
    error = np.square(outputs - x).mean(1)
    assert score.value == metrics.roc_auc_score(np.repeat([0, 1], 25), error)
    assert score.name == "area under the ROC curve" and score.higher_is_better


def test_goodness_is_what_two_models_are_compared_by():
    y = np.array([0, 1, 2, 1])
    outputs = np.eye(3)[[0, 1, 0, 1]]
    assert found(y)[0].goodness(outputs, y).tolist() == [True, True, False, True]
    told, (labels,) = found(np.array([[0, 1, 1], [1, 0, 1]]))
    close = told.goodness(np.array([[-1, 1, -1], [1, -1, 1.0]]), labels)
    np.testing.assert_allclose(close, [2 / 3, 1])
    told, (labels,) = found(np.array([0.0, 10.0]))
    assert told.goodness(np.array([[5.0], [10.0]]), labels).tolist() == [-1.0, 0.0]


def test_f1_over_batches_is_f1_over_all():
    wanted = RNG.integers(0, 2, (60, 4))
    outputs = RNG.normal(size=(60, 4)).astype("float32")
    metric = losses.MicroF1(threshold=0.0)
    for start in range(0, 60, 7):
        metric.update_state(wanted[start : start + 7], outputs[start : start + 7])
    expected = metrics.f1_score(wanted, outputs > 0, average="micro")
    assert float(metric.result()) == pytest.approx(expected)


def test_packaged_data_tell_their_task():
    assert data.load("wine").task.names == ("class_0", "class_1", "class_2")
    diabetes = data.load("diabetes")
    assert diabetes.task.kind == "regression"
    assert diabetes.task.unit == "disease progression"
    assert not diabetes.scaled and data.load("digits").scaled
