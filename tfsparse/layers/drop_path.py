"""DropPath: whole operations are left out at random while a network trains."""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import ops


@keras.saving.register_keras_serializable("tfsparse")
class DropPath(keras.layers.Layer):
    """Leaves its input out of random samples; the others grow so that the mean stays.

    y = x m / (1 - p), m 0 with probability p for each sample, else 1; y = x when not
    training.

    Args:
        rate: p at the end of training, in [0, 1).
        share: Returns how much of training is over, a scalar in [0, 1]: p grows with it.
            It is no part of the config: a layer made from that has p from the start.
        seed: Of the random numbers.
        kwargs: As of every layer.

    Call arguments:
        inputs: Of any shape, samples first.
        training: Whether to leave anything out.

    Raises:
        ValueError: `rate` is outside its range.

    Example:
        >>> y = keras.layers.Add()([x, DropPath(0.2)(keras.layers.Dense(8)(x))])

    Reference: Larsson et al. 2017, arXiv:1605.07648; its growth as in the code of Liu et al.
    2019, arXiv:1806.09055.
    """

    def __init__(
        self,
        rate: float,
        share: Callable = lambda: 1.0,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"`rate` must be in [0, 1). Received: rate={rate}.")
        self.rate, self.share, self.seed = rate, share, seed
        self.generator = keras.random.SeedGenerator(seed)
        self.supports_masking = True

    def call(self, inputs, training=None):
        if not training:
            return inputs
        kept = 1.0 - self.rate * ops.cast(self.share(), inputs.dtype)
        shape = (ops.shape(inputs)[0],) + (1,) * (len(inputs.shape) - 1)
        drawn = keras.random.uniform(shape, seed=self.generator, dtype=inputs.dtype)
        return ops.where(drawn < kept, inputs / kept, ops.zeros_like(inputs))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
