"""Distillation: a small model learns the answers of the large one, not the labels alone."""

from __future__ import annotations

import keras
from keras import ops


def follow(model, teacher, weight: float, temperature: float) -> None:
    """Makes the training of a compiled model follow a teacher's answers, too.

    With logits z of the model and t of the teacher, on the same (augmented) samples:

        (1 - weight) L(y, z) + weight T^2 KL(softmax(t / T), softmax(z / T))

    T^2 keeps the gradient's size at any T. Evaluation tells L alone.
    Nothing of it is saved with the model: call it again after loading.

    Args:
        model: Compiled, with logits as outputs; changed in place.
        teacher: A model of the same inputs and outputs; it is not trained.
        weight: Share of the teacher's term, in [0, 1].
        temperature: T > 0; larger tells more of the classes that it takes for unlikely.

    Example:
        >>> small.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))
        >>> follow(small, large, weight=0.7, temperature=3.0)
        >>> history = small.fit(x, y, verbose=0)

    Reference: Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network"
    (2015), section 2.
    """
    plain = model.compute_loss
    soft = keras.losses.CategoricalCrossentropy(from_logits=True)

    def compute_loss(x=None, y=None, y_pred=None, sample_weight=None, training=True):
        own = plain(x, y, y_pred, sample_weight, training)
        if not training:
            return own
        told = ops.cast(teacher(x, training=False), "float32") / temperature
        answer = ops.cast(y_pred, "float32") / temperature
        wanted = ops.stop_gradient(ops.softmax(told))
        term = soft(wanted, answer) - soft(wanted, told)
        return (1 - weight) * own + weight * temperature**2 * term

    model.compute_loss = compute_loss
