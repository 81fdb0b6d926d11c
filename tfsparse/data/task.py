"""What is predicted: its loss, its score, and which way is better."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from tfsparse import options, records
from tfsparse.data import losses

KINDS = records.TASKS

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

    @property
    def on_validation(self) -> Task:
        """The task where nothing is known to be anomalous: its score is the error."""
        return dataclasses.replace(self, anomalies=False)

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
        found = losses.find_loss(name)
        if self.kind in _ENDS:
            found = losses.on_logits(found, not self.probabilities)
        if self.kind == "classification" and "sparse" not in name.lower():
            found = losses.OneHot(found, self.shape[0])
        if self.kind in ("regression", "reconstruction"):
            found = losses.Relative(found, self.scale)
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
            return [losses.MicroF1(threshold)]
        if self.kind == "regression":
            return [keras.metrics.MeanAbsoluteError("mae")]
        return [
            keras.metrics.MeanMetricWrapper(losses.Relative(None, self.scale), "mse")
        ]

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

    def goodness(self, reduced: np.ndarray, y: Any) -> np.ndarray:
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
            raise ValueError(f"`y` must be there for {self.kind}. Received: None.")
        if self.sorts:
            return self.decided(reduced) == y
        if self.kind == "multilabel":
            return (self.decided(reduced) == (y > 0.5)).mean(1)
        error = np.abs(reduced - y.reshape(reduced.shape))
        return -(error / self._scales()).mean(1)

    def score(self, reduced: np.ndarray, y: Any) -> records.Score:
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
            others["error of normal"] = float(reduced[y == 0].mean())
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
