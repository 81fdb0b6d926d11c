"""One learned factor for all that an operation puts out."""

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

    # What graph, deploy and curvature ask of a house layer --------------------------

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

    def curved(self, inputs, slope, bend, averaged: bool):
        """Gradient and curvature by the input, and curvature by the factor w.

        H_x = w^2 H_y and H_w = sum x^2 H_y; `averaged` takes the mean of |x| over the
        batch, squared, for x^2.

        Reference: BayesNAS, eqs. C.3.1 and C.3.2, whose mean over a sample's places and
        channels is the sum of the released code here.
        """
        w = ops.cast(self.factor, inputs.dtype)
        size = ops.abs(inputs)
        if averaged:
            size = ops.mean(size, axis=0, keepdims=True)
        own = ops.reshape(ops.sum(ops.square(size) * bend), (1,))
        return slope * w, bend * ops.square(w), own


@keras.saving.register_keras_serializable("tfsparse")
class ArchitectureParameter(Scale):
    """The factor w of an operation in a search, and its prior variance gamma.

    Args:
        source, target: What the operation reads and the sum that it adds to, as
            `UnitGroup.begins` and `UnitGroup.name` have them.
        edge: Name of the parameter of all operations between the same two nodes; empty
            where there is none.
        operation: Name of the operation.
        shown: Whether anything but operations reads the sum.
        kwargs: As of every layer.

    Example:
        >>> w = ArchitectureParameter("image", "add:branches", "", "conv")

    Reference: BayesNAS, section 4.2.
    """

    def __init__(
        self, source="", target="", edge="", operation="", shown=True, **kwargs
    ):
        super().__init__(**kwargs)
        self.source, self.target = source, target
        self.edge, self.operation, self.shown = edge, operation, shown

    def build(self, input_shape):
        super().build(input_shape)
        self.variance = self.add_weight(
            shape=(1,), name="variance", initializer="ones", trainable=False
        )
        self.factor.undecayed = True  # by an optimizer's weight decay

    def get_config(self):
        """The arguments."""
        return {
            **super().get_config(),
            "source": self.source,
            "target": self.target,
            "edge": self.edge,
            "operation": self.operation,
            "shown": self.shown,
        }
