"""Scale: one learned factor for all that an operation without weights puts out."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable("tfsparse")
class Scale(keras.layers.Layer):
    """Multiplies its input by one learned factor, which starts at 1.

    A penalty can so reach an operation that has no weights (a pooling, an identity):
    once the factor is 0, the operation sends nothing on.

    Call arguments:
        inputs: Of any shape.

    Example:
        >>> y = keras.layers.Add()([Scale()(x), keras.layers.Dense(8)(x)])

    Reference: GSparsity, section 3.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape):
        self.channels = input_shape[-1]
        self.factor = self.add_weight(shape=(1,), name="factor", initializer="ones")

    def call(self, inputs):
        return inputs * ops.cast(self.factor, inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    # What graph and deploy ask of a house layer ------------------------------------

    def unit_rule(self, walk, call, axes):
        """Units pass as they are."""
        return [list(axes[0])]

    def resized(self, left) -> dict:
        """Config entries after a removal: none."""
        return {}

    def lowered(self, kwargs) -> tuple[np.ndarray, str | None]:
        """What stock layers have to do instead: scale all channels alike."""
        factor = ops.convert_to_numpy(self.factor).astype("float32")
        return np.repeat(factor, self.channels), None
