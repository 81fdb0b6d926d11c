"""What is predicted: its loss, its score, and which way is better."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops

from tfsparse import options, records

KINDS = records.TASKS

MOST_CLASSES = 100
"""Whole numbers of more different values than this are quantities, not classes."""

SCORES = {
    "classification": ("accuracy", True),
    "binary": ("accuracy", True),
    "multilabel": ("F1", True),
    "regression": ("mean absolute error", False),
    "reconstruction": ("reconstruction error", False),
}
"""Kind -> name of its score, and whether more of it is better."""

ANOMALIES = "area under the ROC curve"
"""The score of a reconstruction where test labels say what is anomalous."""

_LOSSES = {
    "classification": "sparse_categorical_crossentropy",
    "binary": "binary_crossentropy",
    "multilabel": "binary_crossentropy",
    "regression": "mean_squared_error",
    "reconstruction": "mean_squared_error",
}

_ENDS = {
    "classification": "softmax",
    "binary": "sigmoid",
    "multilabel": "sigmoid",
}
"""Kind -> the activation that turns logits into probabilities."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What a model has to predict, how wrong it is, and how good.

    Attributes:
        kind: One of `KINDS`.
        shape: Of a sample's outputs, `(outputs,)`; of a reconstruction the inputs' own.
        names: Of the classes, labels or numbers.
        why: How it was found, in words.
        loss_name: The user's own loss, a name of `keras.losses` or package.module:function.
        probabilities: Whether the model ends in the softmax or sigmoid itself.
        scale: Of numbers: what errors are divided by in the loss, their deviation in train,
            so that a loss of 1 is that of always saying the mean; one for each output.
        offset: Of numbers: their mean in train.
        anomalies: Of a reconstruction: whether labels say what is anomalous in test.

    Example:
        >>> import tfsparse
        >>> tfsparse.data.load("digits").task.kind
        'classification'
    """

    kind: str
    shape: tuple[int, ...]
    names: tuple[str, ...] = ()
    why: str = ""
    loss_name: str = ""
    probabilities: bool = False
    scale: tuple[float, ...] = ()
    offset: tuple[float, ...] = ()
    anomalies: bool = False

    @property
    def sorts(self) -> bool:
        """Whether every sample belongs to one class."""
        return self.kind in ("classification", "binary")

    @property
    def score_name(self) -> str:
        """Of what a report tells."""
        return ANOMALIES if self.anomalies else SCORES[self.kind][0]

    @property
    def higher_is_better(self) -> bool:
        """Which way the score is better."""
        return self.anomalies or SCORES[self.kind][1]

    @property
    def unit(self) -> str:
        """Of the score: % of a share, the labels' name of an error in numbers."""
        if self.kind == "regression":
            return self.names[0] if len(self.names) == 1 else ""
        return "%" if self.kind != "reconstruction" else ""

    @property
    def metric(self) -> str:
        """Name of the score in the logs of training."""
        names = {"multilabel": "f1", "regression": "mae", "reconstruction": "mse"}
        return names.get(self.kind, "accuracy")

    def told(self) -> str:
        """One line about the task, and how to overrule it."""
        what = {
            "classification": f"one of {len(self.names)} classes",
            "binary": "yes or no",
            "multilabel": f"any of {len(self.names)} labels",
            "regression": "a number"
            if self.shape == (1,)
            else f"{self.shape[0]} numbers",
            "reconstruction": "the input itself",
        }[self.kind]
        others = ", ".join(kind for kind in KINDS if kind != self.kind)
        better = "higher" if self.higher_is_better else "lower"
        return (
            f"Task: {self.kind}, {what}{f' ({self.why})' if self.why else ''}; score: "
            f"{self.score_name}, {better} is better. --task says otherwise ({others})."
        )

    # The model ----------------------------------------------------------------------

    def fitted(self, shape: tuple, activation: str, name: str) -> Task:
        """The task as a model answers it.

        Args:
            shape: Of a sample's outputs.
            activation: Name of the function at the model's end, such as `softmax`.
            name: Of the model, for an error.

        Raises:
            ValueError: The model puts out something else than the task needs.
        """
        task = self
        if (
            self.kind == "classification"
            and len(self.names) == 2
            and tuple(shape) == (1,)
        ):
            task = dataclasses.replace(self, kind="binary", shape=(1,))
        if tuple(shape) != task.shape:
            raise ValueError(
                f"`model` must put out {task.answer()}. Received: {name!r} with outputs "
                f"of shape {tuple(shape)}."
            )
        ends = {"softmax", "sigmoid"} & {activation}
        wrong = ends - {_ENDS.get(task.kind, activation)}
        if wrong and self.kind not in ("regression", "reconstruction"):
            raise ValueError(
                f"`model` must end in logits or a {_ENDS[task.kind]} for {task.kind}. "
                f"Received: {name!r}, which ends in a {activation}."
            )
        own = activation == _ENDS.get(task.kind)
        return dataclasses.replace(task, probabilities=own)

    def answer(self) -> str:
        """What a model has to put out, in words."""
        if self.kind == "classification":
            two = " or 1, yes or no" if len(self.names) == 2 else ""
            return f"{len(self.names)} logits or probabilities, one a class{two}"
        if self.kind == "reconstruction":
            return f"what it takes, shape {self.shape}"
        each = {"binary": "for yes or no", "multilabel": "one a label"}
        count = self.shape[0]
        return (
            f"{count} number{'s'[: count > 1]}, {each.get(self.kind, 'one a number')}"
        )

    # The loss -----------------------------------------------------------------------

    def loss(self):
        """The Keras loss that training minimises.

        Raises:
            ValueError: There is no such loss.
        """
        name = self.loss_name or _LOSSES[self.kind]
        found = find_loss(name)
        if self.kind in _ENDS:
            found = _on_logits(found, not self.probabilities)
        if self.kind == "classification" and "sparse" not in name.lower():
            found = OneHot(found, self.shape[0])
        if self.kind in ("regression", "reconstruction"):
            found = Relative(found, self.scale)
        return found

    def custom_objects(self) -> dict[str, Any]:
        """A loss of the user's own, by the name that checkpoints know it by."""
        if ":" not in self.loss_name:
            return {}
        own = options.imported("loss", self.loss_name, "loss")
        return {own.__name__: own}

    def metrics(self) -> list:
        """What Keras tells of each epoch, the score among it."""
        threshold = 0.5 if self.probabilities else 0.0
        if self.kind == "classification":
            return ["accuracy"]
        if self.kind == "binary":
            return [keras.metrics.BinaryAccuracy("accuracy", threshold=threshold)]
        if self.kind == "multilabel":
            return [MicroF1(threshold)]
        if self.kind == "regression":
            return [keras.metrics.MeanAbsoluteError("mae")]
        return [keras.metrics.MeanMetricWrapper(Relative(None, self.scale), "mse")]

    # The score ----------------------------------------------------------------------

    def reduced(self, outputs: np.ndarray, x: np.ndarray) -> np.ndarray:
        """What the score needs of some outputs: themselves, or errors of reconstructions.

        Args:
            outputs: `(samples, *shape)`.
            x: The inputs, `(samples, ...)`.
        """
        if self.kind != "reconstruction":
            return outputs
        error = np.square((outputs - x.reshape(outputs.shape)) / self._scales())
        return error.reshape(len(error), -1).mean(1)

    def _scales(self) -> np.ndarray:
        return np.asarray(self.scale or 1.0, np.float32)

    def decided(self, outputs: np.ndarray) -> np.ndarray:
        """What classes or labels outputs stand for."""
        if self.kind == "classification":
            return outputs.argmax(-1)
        found = outputs > (0.5 if self.probabilities else 0.0)
        return found[:, 0] if self.kind == "binary" else found

    def goodness(self, reduced: np.ndarray, y: np.ndarray | None) -> np.ndarray:
        """How well each sample is done, more is better, to compare two models in pairs.

        Args:
            reduced: What `reduced` returned.
            y: Targets, or None of a reconstruction.

        Returns:
            `(samples,)`: right or not; the share of right labels; errors below zero.
        """
        if self.kind == "reconstruction":
            return -reduced
        if y is None:
            raise ValueError("`y` must be there for every task but reconstruction.")
        if self.sorts:
            return self.decided(reduced) == y
        if self.kind == "multilabel":
            return (self.decided(reduced) == (y > 0.5)).mean(1)
        error = np.abs(reduced - y.reshape(reduced.shape))
        return -(error / self._scales()).mean(1)

    def score(self, reduced: np.ndarray, y: np.ndarray | None) -> records.Score:
        """How good a model is.

        Args:
            reduced: What `reduced` returned of its outputs.
            y: Targets; of a reconstruction what is anomalous, or None.

        Returns:
            A Score; R2 stands beside the error of numbers.
        """
        others: dict[str, float] = {}
        if self.kind == "multilabel":
            value = micro_f1(self.decided(reduced), y > 0.5)
            others["labels right"] = float(self.goodness(reduced, y).mean())
        elif self.kind == "regression":
            wanted = y.reshape(reduced.shape)
            value = np.abs(reduced - wanted).mean()
            others["R2"] = r_squared(reduced, wanted)
        elif self.anomalies:
            from sklearn.metrics import roc_auc_score

            value = roc_auc_score(y, reduced)
            others["reconstruction error of normal samples"] = float(
                reduced[y == 0].mean()
            )
        else:
            value = abs(self.goodness(reduced, y).mean())
        return records.Score(
            self.score_name, float(value), self.higher_is_better, self.unit, others
        )


def r_squared(outputs: np.ndarray, wanted: np.ndarray) -> float:
    """1 - sum (y - z)^2 / sum (y - mean y)^2, its mean over the outputs.

    Example:
        >>> r_squared(np.array([[1.0], [3.0]]), np.array([[1.0], [3.0]]))
        1.0
    """
    rest = np.square(wanted - outputs).sum(0)
    whole = np.square(wanted - wanted.mean(0)).sum(0)
    return float(np.mean(1 - rest / np.maximum(whole, 1e-30)))


def micro_f1(said: np.ndarray, wanted: np.ndarray) -> float:
    """2 hits / (2 hits + misses + false alarms), over all labels of all samples.

    Example:
        >>> micro_f1(np.array([[True, True]]), np.array([[True, False]]))
        0.6666666666666666
    """
    hits = np.count_nonzero(said & wanted)
    wrong = np.count_nonzero(said != wanted)
    return 2 * hits / max(1, 2 * hits + wrong)


# Losses and metrics -----------------------------------------------------------------


def find_loss(name: str) -> Any:
    """A loss by its name in `keras.losses`, or a user's own.

    Raises:
        ValueError: There is none.
    """
    if ":" in name:
        found = options.imported("loss", name, "loss")
        return found() if isinstance(found, type) else found
    try:
        return keras.losses.get(name)
    except ValueError as error:
        raise ValueError(
            "`loss` must be a name of keras.losses, such as mean_absolute_error, or "
            f"package.module:function. Received: loss={name!r}."
        ) from error


def _on_logits(loss, logits: bool):
    """A loss by name that takes logits or probabilities, as the model puts them out."""
    for cls in vars(keras.losses).values():
        if isinstance(cls, type) and issubclass(cls, keras.losses.Loss):
            try:
                own = cls(from_logits=logits)
            except TypeError:
                continue
            if getattr(own, "fn", None) is loss or type(own) is type(loss):
                return own
    return loss


def _stored(loss):
    """A loss as JSON."""
    return keras.saving.serialize_keras_object(loss)


def _restored(loss):
    """A loss, of JSON or itself."""
    if isinstance(loss, dict):
        return keras.saving.deserialize_keras_object(loss)
    return loss


def _of_samples(loss, wanted, outputs):
    """A loss of each sample, of a function or of a Loss before its mean."""
    if isinstance(loss, keras.losses.Loss):
        return loss.call(wanted, outputs)
    return loss(wanted, outputs)


@keras.saving.register_keras_serializable("tfsparse")
class OneHot(keras.losses.Loss):
    """A loss that wants one number a class, given labels as whole numbers.

    Args:
        loss: `(targets, outputs) -> losses`.
        classes: How many there are.
    """

    def __init__(self, loss, classes: int):
        super().__init__(name="loss")
        self.inner, self.classes = _restored(loss), classes

    def get_config(self):
        return {"loss": _stored(self.inner), "classes": self.classes}

    def call(self, y_true, y_pred):
        labels = ops.reshape(ops.cast(y_true, "int32"), (-1,))
        return _of_samples(self.inner, ops.one_hot(labels, self.classes), y_pred)


@keras.saving.register_keras_serializable("tfsparse")
class Relative(keras.losses.Loss):
    """A loss of numbers in units of their deviation: l(y / scale, z / scale).

    Args:
        loss: `(targets, outputs) -> losses`; the mean squared error if None.
        scale: A number for each output, or none for 1.
    """

    def __init__(self, loss, scale: tuple[float, ...] = ()):
        super().__init__(name="loss")
        self.inner = _restored(loss) or keras.losses.mean_squared_error
        self.scale = tuple(scale)

    def get_config(self):
        return {"loss": _stored(self.inner), "scale": list(self.scale)}

    def call(self, y_true, y_pred):
        wanted = ops.reshape(ops.cast(y_true, y_pred.dtype), ops.shape(y_pred))
        if self.scale:
            scale = ops.convert_to_tensor(self.scale, y_pred.dtype)
            wanted, y_pred = wanted / scale, y_pred / scale
        return _of_samples(self.inner, wanted, y_pred)

    def output_curvature(self, outputs):
        """Diagonal of the second derivative of a sample's loss by its outputs, or None.

        Of the mean squared error it is 2 / (outputs scale^2), whatever they are.
        """
        if self.inner is not keras.losses.mean_squared_error:
            return None
        scale = ops.convert_to_tensor(self.scale or 1.0, outputs.dtype)
        size = float(np.prod(outputs.shape[1:]))
        return 2.0 / (size * ops.square(scale)) * ops.ones_like(outputs)


@keras.saving.register_keras_serializable("tfsparse")
class MicroF1(keras.metrics.Metric):
    """F1 over all labels of all samples: 2 hits / (2 hits + misses + false alarms).

    Args:
        threshold: Outputs above it say yes.
    """

    def __init__(self, threshold: float = 0.5, name: str = "f1"):
        super().__init__(name=name)
        self.threshold = threshold
        self.hits = self.add_weight(name="hits", initializer="zeros")
        self.wrong = self.add_weight(name="wrong", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        said, wanted = y_pred > self.threshold, ops.cast(y_true, "float32") > 0.5
        both = ops.logical_and(said, wanted)
        self.hits.assign_add(ops.sum(ops.cast(both, "float32")))
        self.wrong.assign_add(ops.sum(ops.cast(said != wanted, "float32")))

    def result(self):
        return 2 * self.hits / ops.maximum(2 * self.hits + self.wrong, 1.0)

    def get_config(self):
        return {"threshold": self.threshold, "name": self.name}


# From labels ------------------------------------------------------------------------


def labelled(
    name: str, parts: list, kind: str, classes: tuple[str, ...], columns: tuple
) -> tuple[Task, list]:
    """The task that labels tell of, and the labels as it takes them.

    Args:
        name: Of the data, for errors.
        parts: Labels of train, and of others: arrays, or None where there are none.
        kind: One of `KINDS`, or `auto`.
        classes: Names of the classes where the data set knows them; else empty.
        columns: Names of the labels, one for each number.

    Returns:
        The task, and each part's labels as int32 classes or float32 numbers.

    Raises:
        ValueError: The labels cannot be what is asked for.
    """
    parts = [None if y is None else _squeezed(name, np.asarray(y)) for y in parts]
    found, why = (kind, "") if kind != "auto" else _kind_of(name, parts[0], classes)
    if found == "reconstruction":
        return _of_reconstruction(name, parts, why)
    if parts[0] is None:
        raise ValueError(
            f"`data` must hold labels for {found}. Received: {name!r} without; "
            "--task=reconstruction needs none."
        )
    if found in ("classification", "binary"):
        return _of_classes(name, parts, found, classes, why)
    parts = [None if y is None else _numbers(name, y, found) for y in parts]
    wide = [y.shape[1] for y in parts if y is not None]
    if len(set(wide)) > 1:
        raise ValueError(
            f"`data` must hold as many labels a sample in every part. Received: {name!r} "
            f"with {sorted(set(wide))}."
        )
    if len(columns) != wide[0]:
        columns = tuple(f"label {i + 1}" for i in range(wide[0])) if wide[0] > 1 else ()
    return Task(found, (wide[0],), tuple(columns), why), parts


def _squeezed(name: str, y: np.ndarray) -> np.ndarray:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.dtype.kind == "S":
        y = np.char.decode(y, "utf-8", "replace")
    if y.dtype == object:
        y = _of_objects(name, y)
    if y.ndim not in (1, 2) or y.dtype.kind not in "biufU":
        raise ValueError(
            "`data` labels must be one class, word or number a sample, or a row of them. "
            f"Received: {name!r} with labels of shape {y.shape}, {y.dtype}."
        )
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        raise ValueError(
            f"`data` labels must be finite. Received: {name!r} with "
            f"{int((~np.isfinite(y)).sum())} nan or infinite ones."
        )
    return y


def _of_objects(name: str, y: np.ndarray) -> np.ndarray:
    kinds = {type(one) for one in y.ravel()}
    if kinds <= {str}:
        return y.astype(str)
    if str in kinds:
        raise ValueError(
            f"`data` labels must all be words or all be numbers. Received: {name!r} with "
            f"{sorted(kind.__name__ for kind in kinds)}."
        )
    try:
        return y.astype(np.float64)
    except (TypeError, ValueError):
        return y


def _kind_of(name: str, y: np.ndarray | None, classes) -> tuple[str, str]:
    if y is None:
        return "reconstruction", "train has no labels"
    if classes:
        return "classification", "as the data set says"
    if y.ndim == 2:
        binary = np.isin(y, (0, 1)).all()
        if binary and (y.sum(1) == 1).all():
            return "classification", "labels are one-hot"
        if binary:
            return "multilabel", "labels are rows of 0 and 1"
        return "regression", "labels are rows of numbers"
    if y.dtype.kind == "U":
        return "classification", "labels are words"
    if y.dtype.kind == "b":
        return "classification", "labels are true or false"
    if y.dtype.kind == "f":
        return "regression", "labels are floats"
    values = len(np.unique(y))
    if values > MOST_CLASSES:
        return "regression", f"labels are whole numbers of {values:,} values"
    return "classification", f"labels are whole numbers of {values} values"


def _of_classes(name, parts, kind, classes, why) -> tuple[Task, list]:
    if parts[0].ndim == 2:
        _check_one_hot(name, parts)
        width = parts[0].shape[1]
        classes = classes if len(classes) == width else tuple(map(str, range(width)))
        parts = [None if y is None else y.argmax(1) for y in parts]
    elif classes:
        parts = [None if y is None else _whole(name, y) for y in parts]
    else:
        classes, parts = _numbered(name, parts)
    _check_classes(name, parts, len(classes))
    parts = [None if y is None else y.astype(np.int32) for y in parts]
    if kind == "binary":
        if len(classes) != 2:
            raise ValueError(
                f"`task` binary must have two classes. Received: {name!r} with "
                f"{len(classes)}."
            )
        return Task("binary", (1,), classes, why), parts
    return Task("classification", (len(classes),), classes, why), parts


def _check_one_hot(name, parts) -> None:
    for y in parts:
        if y is not None and not (
            y.ndim == 2 and np.isin(y, (0, 1)).all() and (y.sum(1) == 1).all()
        ):
            raise ValueError(
                "`data` labels in rows must have a single 1 each to be classes. Received: "
                f"{name!r} with others; --task=multilabel takes them."
            )


def _whole(name: str, y: np.ndarray) -> np.ndarray:
    if y.dtype.kind == "U" or (y.dtype.kind == "f" and (y != np.round(y)).any()):
        raise ValueError(
            "`data` labels must be one whole number a sample. Received: "
            f"{name!r} with {y.dtype}."
        )
    return y.astype(np.int64)


def _numbered(name: str, parts) -> tuple[tuple[str, ...], list]:
    """Classes by their values in train, in order; labels as places in it."""
    train = parts[0] if parts[0].dtype.kind == "U" else _whole(name, parts[0])
    values = np.unique(train)
    if len(values) < 2:
        raise ValueError(
            f"`data` must hold two or more classes. Received: {name!r}, all labels are "
            f"{values[0]}."
        )
    if train.dtype.kind == "i" and values[0] == 0 and values[-1] < 2 * len(values):
        values = np.arange(values[-1] + 1)  # as they are numbered: some may be unused
    found = []
    for y in parts:
        if y is None:
            found.append(None)
            continue
        if (y.dtype.kind == "U") != (train.dtype.kind == "U"):
            raise ValueError(
                "`data` labels must be of one kind in every part. Received: "
                f"{name!r} with {parts[0].dtype} and {y.dtype}."
            )
        y = y if y.dtype.kind == "U" else _whole(name, y)
        places = np.clip(np.searchsorted(values, y), 0, len(values) - 1)
        if (strange := np.unique(y[values[places] != y])).size:
            raise ValueError(
                f"`data` test labels must occur in train. Received: {name!r} with label "
                f"{strange[0]} in test only (train has {values[0]} to {values[-1]})."
            )
        found.append(places)
    names = ("False", "True") if parts[0].dtype.kind == "b" else map(str, values)
    return tuple(names), found


def _check_classes(name: str, parts, classes: int) -> None:
    known = np.unique(parts[0])
    if len(known) < 2:
        raise ValueError(
            f"`data` must hold two or more classes. Received: {name!r}, all labels are "
            f"{parts[0][0]}."
        )
    for y in parts:
        if y is None:
            continue
        if y.min() < 0 or y.max() >= classes:
            raise ValueError(
                f"`data` labels must lie in 0 to {classes - 1}. Received: {name!r} with "
                f"labels {y.min()} to {y.max()}."
            )
        if (strange := np.setdiff1d(y, known)).size:
            raise ValueError(
                f"`data` test labels must occur in train. Received: {name!r} with label "
                f"{strange[0]} in test only (train has {known.min()} to {known.max()})."
            )


def _numbers(name: str, y: np.ndarray, kind: str) -> np.ndarray:
    """Labels as rows of float32."""
    if y.dtype.kind == "U":
        raise ValueError(
            f"`data` labels must be numbers for {kind}. Received: {name!r} with words, "
            f"such as {str(y.ravel()[0])!r}."
        )
    y = (y[:, None] if y.ndim == 1 else y).astype(np.float32)
    if kind == "multilabel" and not np.isin(y, (0, 1)).all():
        raise ValueError(
            f"`data` labels must be 0 or 1 for multilabel. Received: {name!r} with others."
        )
    return y


def _of_reconstruction(name: str, parts, why) -> tuple[Task, list]:
    """What is normal, 0, and what is not, 1, where labels tell it."""
    found = []
    for y in parts:
        if y is not None and (y.ndim != 1 or y.dtype.kind not in "biuf"):
            raise ValueError(
                "`data` labels of a reconstruction must be 0 for normal and others for "
                f"anomalous samples. Received: {name!r} with labels of shape {y.shape}, "
                f"{y.dtype}."
            )
        found.append(None if y is None else (y != 0).astype(np.int32))
    told = [y for y in found[1:] if y is not None]
    anomalies = bool(told) and len(np.unique(told[-1])) == 2
    return Task("reconstruction", (), (), why, anomalies=anomalies), found


def completed(
    task: Task, name: str, loss: str, x, y: np.ndarray | None, y_test: np.ndarray | None
) -> Task:
    """The task with what only the data can tell: scales of numbers, the input's shape.

    Args:
        task: What `labelled` returned.
        name: Of the data, for errors.
        loss: The user's own, or empty.
        x, y: Samples and labels of train.
        y_test: Labels of test.

    Raises:
        ValueError: Numbers never differ, or there is no such loss.
    """
    changes: dict[str, Any] = {"loss_name": loss}
    if task.kind == "regression" and y is not None:
        deviation = y.std(0, dtype=np.float64)
        if not (deviation > 0).all():
            raise ValueError(
                "`data` labels must differ in train. Received: "
                f"{name!r}, all are {y[0].tolist()}."
            )
        changes |= {
            "scale": tuple(map(float, deviation)),
            "offset": tuple(map(float, y.mean(0, dtype=np.float64))),
        }
    if task.kind == "reconstruction":
        changes |= {
            "shape": tuple(x.shape[1:]),
            "anomalies": y_test is not None and len(np.unique(y_test)) == 2,
        }
    task = dataclasses.replace(task, **changes)
    task.loss()  # says now what cannot be
    return task
