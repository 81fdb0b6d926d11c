"""Distillation: a small model learns the answers of the large one, not the labels alone.

Reference: Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network" (2015),
section 2.
"""

from __future__ import annotations

import keras
from keras import ops

from tfsparse import optimizers


def distillation_loss(plain, logits, teacher_logits, weight, temperature):
    """The loss on labels, mixed with the distance from a teacher's answers.

    (1 - weight) L + weight T^2 KL(softmax(t / T), softmax(z / T)); T^2 keeps the
    gradient's size at any T.

    Args:
        plain: L, the loss on labels, a scalar.
        logits: z of the student, `(batch, classes)`.
        teacher_logits: t, of that shape; no gradient goes there.
        weight: Share of the teacher's term, in [0, 1].
        temperature: T > 0; larger tells more of the classes that it takes for unlikely.

    Returns:
        A scalar; of one replica, as Keras scales losses under tf.distribute.

    Example:
        >>> same = ops.array([[1.0, 0.0]])
        >>> float(distillation_loss(ops.array(2.0), same, same, 0.5, 3.0))
        1.0
    """
    soft = keras.losses.CategoricalCrossentropy(from_logits=True)
    told = ops.cast(teacher_logits, "float32") / temperature
    answer = ops.cast(logits, "float32") / temperature
    wanted = ops.stop_gradient(ops.softmax(told))
    term = soft(wanted, answer) - soft(wanted, told)
    return (1 - weight) * plain + weight * temperature**2 * term


class Distilled(keras.Model):
    """Trains a compiled student that follows a teacher's answers, too: fit this model.

    It calls the student, is compiled alike and shares the student's layers and optimizer:
    the student is trained, and may be saved and go on as if it had been fitted itself.
    Nothing of the teacher is saved with it. Evaluation tells the loss on labels alone.

    Args:
        student: Compiled, with logits as outputs.
        teacher: A model of the same inputs and outputs; it is not trained.
        weight: Share of the teacher's term, in [0, 1].
        temperature: T > 0; larger tells more of the classes that it takes for unlikely.

    Example:
        >>> small.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))
        >>> history = Distilled(small, large, weight=0.7, temperature=3.0).fit(x, y)
        >>> small.save("small.keras")
    """

    def __init__(self, student, teacher, weight: float, temperature: float):
        super().__init__(name=f"{student.name}_distilled")
        self.student = student
        # A function, not a model: its weights are neither trained here nor saved.
        self.teach = lambda x: teacher(x, training=False)
        self.weight, self.temperature = weight, temperature
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
        return distillation_loss(
            plain, y_pred, self.teach(x), self.weight, self.temperature
        )
