"""Distillation: a small model learns the answers of the large one, not the labels alone.

Reference: Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network" (2015),
section 2.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import ops

from tfsparse import optimizers


def mixed(plain, distance, weight):
    """The loss on labels, mixed with the distance from a teacher: (1 - w) L + w D.

    Args:
        plain: L, a scalar.
        distance: D, a scalar, see the functions below.
        weight: w, the share of the teacher's term, in [0, 1].

    Example:
        >>> float(mixed(ops.array(2.0), ops.array(0.0), 0.5))
        1.0
    """
    return (1 - weight) * plain + weight * distance


def distance_of_classes(outputs, told, temperature, probabilities: bool = False):
    """T^2 KL(softmax(t / T), softmax(z / T)); T^2 keeps the gradient's size at any T.

    Args:
        outputs: z of the student, `(batch, classes)`.
        told: t of the teacher, of that shape; no gradient goes there.
        temperature: T > 0; larger tells more of the classes that it takes for unlikely.
        probabilities: Whether both are softmaxes already; their logarithms are logits.

    Returns:
        A scalar; of one replica, as Keras scales losses under tf.distribute.
    """
    soft = keras.losses.CategoricalCrossentropy(from_logits=True)
    told, answer = (
        _logits(x, probabilities, _log) / temperature for x in (told, outputs)
    )
    wanted = ops.stop_gradient(ops.softmax(told))
    return temperature**2 * (soft(wanted, answer) - soft(wanted, told))


def distance_of_labels(outputs, told, temperature, probabilities: bool = False):
    """The same of labels one by one: sigmoids in the place of the softmax."""
    soft = keras.losses.BinaryCrossentropy(from_logits=True)
    told, answer = (
        _logits(x, probabilities, _log_odds) / temperature for x in (told, outputs)
    )
    wanted = ops.stop_gradient(ops.sigmoid(told))
    return temperature**2 * (soft(wanted, answer) - soft(wanted, told))


def distance_of_numbers(outputs, told, temperature, scale: tuple[float, ...] = ()):
    """Mean squared difference of numbers, in units of `scale`; no temperature is needed."""
    del temperature
    answer, told = ops.cast(outputs, "float32"), ops.cast(told, "float32")
    unit = ops.convert_to_tensor(scale or 1.0, "float32")
    return keras.losses.MeanSquaredError()(
        ops.stop_gradient(told) / unit, answer / unit
    )


def _logits(x, probabilities: bool, inverse):
    x = ops.cast(x, "float32")
    return inverse(x) if probabilities else x


def _log(p):
    return ops.log(ops.maximum(p, 1e-7))


def _log_odds(p):
    p = ops.clip(p, 1e-7, 1 - 1e-7)
    return ops.log(p / (1 - p))


class Distilled(keras.Model):
    """Trains a compiled student that follows a teacher's answers, too: fit this model.

    It calls the student, is compiled alike and shares the student's layers and optimizer:
    the student is trained, and may be saved and go on as if it had been fitted itself.
    Nothing of the teacher is saved with it. Evaluation tells the loss on labels alone.

    Args:
        student: Compiled.
        teacher: A model of the same inputs and outputs; it is not trained.
        weight: Share of the teacher's term, in [0, 1].
        temperature: T > 0; larger tells more of the classes that it takes for unlikely.
        distance: `(outputs, told, temperature) -> scalar`, one of those above.

    Example:
        >>> small.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))
        >>> history = Distilled(small, large, weight=0.7, temperature=3.0).fit(x, y)
        >>> small.save("small.keras")
    """

    def __init__(
        self,
        student,
        teacher,
        weight: float,
        temperature: float,
        distance: Callable = distance_of_classes,
    ):
        super().__init__(name=f"{student.name}_distilled")
        self.student = student
        # A function, not a model: its weights are neither trained here nor saved.
        self.teach = lambda x: teacher(x, training=False)
        self.weight, self.temperature, self.distance = weight, temperature, distance
        optimizers.recompile(self, student, student.optimizer)
        self.built = True

    def call(self, x, training=None):
        return self.student(x, training=training)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """The loss on labels; in training mixed with the distance from the teacher."""
        plain = super().compute_loss(x, y, y_pred, sample_weight, training)
        if not training:
            return plain
        distance = self.distance(y_pred, self.teach(x), self.temperature)
        return mixed(plain, distance, self.weight)
