"""Schedules of step sizes."""

from __future__ import annotations

import keras
from keras import ops


@keras.saving.register_keras_serializable("tfsparse")
class ProxDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A step size that decays as the convergence proof of ProxSGD wants.

    value_t = initial / (t + offset)^power.

    Args:
        initial: Numerator, positive.
        offset: Added to the step's number, at least 1.
        power: In (0.5, 1] by the proof; the authors run 0.5.

    Raises:
        ValueError: An argument outside its range.

    Example:
        >>> decay = ProxDecay(0.06)
        >>> round(float(decay(0)), 4), round(float(decay(96)), 4)
        (0.03, 0.006)

    Reference: Yang et al. 2020, ProxSGD, and its released code.
    """

    def __init__(self, initial: float, offset: float = 4.0, power: float = 0.5):
        if not (initial > 0 and offset >= 1 and 0 < power <= 1):
            raise ValueError(
                "`initial` must be positive, `offset` at least 1 and `power` in (0, 1]. "
                f"Received: {initial}, {offset}, {power}."
            )
        self.initial, self.offset, self.power = initial, offset, power

    def __call__(self, step):
        return self.initial / (ops.cast(step, "float32") + self.offset) ** self.power

    def get_config(self):
        return {"initial": self.initial, "offset": self.offset, "power": self.power}
