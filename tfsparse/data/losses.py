"""Losses and metrics that Keras lacks, and those that a user names."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from tfsparse import options


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


def on_logits(loss, logits: bool):
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
