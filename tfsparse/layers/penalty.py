"""The second term of the regularized ShrinkNets penalty."""

from __future__ import annotations

import keras
from keras import ops


@keras.saving.register_keras_serializable("tfsparse")
class SwitchDecay(keras.regularizers.Regularizer):
    """Decay of the weights beside switches: strength * sum |w|^power.

    Without it a switch could shrink for nothing while the weights grow, and the
    penalised problem has no minimum (draft, propositions A.3 and A.4). `lower`
    takes it off again.

    Args:
        strength: Factor, not negative.
        power: 1 or 2.

    Raises:
        ValueError: `strength` is negative, or `power` is neither 1 nor 2.

    Example:
        >>> keras.layers.Dense(8, kernel_regularizer=SwitchDecay(1e-4))

    Reference: ShrinkNets draft, eq. 10.
    """

    def __init__(self, strength: float = 1e-4, power: int = 2):
        if not strength >= 0:
            raise ValueError(f"`strength` must be >= 0. Received: strength={strength}.")
        if power not in (1, 2):
            raise ValueError(f"`power` must be 1 or 2. Received: power={power}.")
        self.strength = strength
        self.power = power

    def __call__(self, weights):
        values = ops.abs(weights) if self.power == 1 else ops.square(weights)
        return self.strength * ops.sum(values)

    def get_config(self):
        return {"strength": self.strength, "power": self.power}
