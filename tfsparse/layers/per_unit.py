"""What layers share that multiply each unit of a group by a number of its own."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops


class PerUnit(keras.layers.Layer):
    """Multiplies each unit of a group by a factor. A base class.

    One layer may be called at several places: coupled units (a residual sum, a
    depthwise stage) then share their factor. A subclass says what the factors are
    (`scale`), and in `build` makes one variable of shape `(units,)` or more.

    Args:
        units: Number of factors; None for as many as the input has channels.

    Call arguments:
        inputs: `(batch, ..., channels)`.
        units: For each channel its unit, -1 for channels without a factor; None
            where channel i is unit i.
        activation: Name of an activation applied afterwards: the one that a factor
            has to stand before, split off the layer in front.
    """

    def __init__(self, units: int | None = None, **kwargs):
        super().__init__(**kwargs)
        if units is not None and not units >= 1:
            raise ValueError(f"`units` must be 1 or more. Received: units={units}.")
        self.units: Any = None if units is None else int(units)
        self.supports_masking = True

    def build(self, input_shape):
        """Takes the number of factors from the input where nobody told it."""
        if self.units is None:
            if input_shape[-1] is None:
                raise ValueError(
                    "`units` must be given where the number of channels is open. "
                    f"Received: None, and an input of shape {tuple(input_shape)}."
                )
            self.units = int(input_shape[-1])

    def scale(self):
        """The factor of each unit at inference. `(units,)`; exactly 0 of a dead one."""
        raise ValueError("`scale` must be defined by a subclass. Received: none.")

    def apply(self, inputs, scale, units, activation):
        """The inputs times `scale` `(..., units)`, then the activation."""
        if units is not None:
            known = np.asarray(units) >= 0
            index = np.where(known, units, 0)
            scale = ops.where(known, ops.take(scale, index, axis=-1), 1.0)
        outputs = inputs * ops.cast(scale, inputs.dtype)
        if activation is not None:
            outputs = keras.activations.get(activation)(outputs)
        return outputs

    def compute_output_shape(self, input_shape, *args, **kwargs):
        return input_shape

    def compute_output_spec(self, inputs, *args, **kwargs):
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)

    def get_config(self):
        return {**super().get_config(), "units": self.units}

    # What graph and deploy ask of a house layer ------------------------------------

    def _per_unit(self) -> list:
        """The variables that hold a number for each unit."""
        return [v for v in self.weights if tuple(v.shape) == (self.units,)]

    def unit_rule(self, walk, call, axes):
        """Passes units; the factors are carriers on their way."""
        (x,), units = axes, call.kwargs.get("units")
        labels = x[-1]
        if labels is not None:
            if units is None:
                own = labels
            else:
                own = np.full(self.units, -1)
                known = np.asarray(units) >= 0
                own[np.asarray(units)[known]] = labels[known]
            for variable in self._per_unit():
                walk.carry(variable, 0, own)
        return [list(x)]

    def resized(self, left) -> dict:
        """Config entries after a removal; `left` tells what will be left."""
        return {"units": left.shape(self._per_unit()[0])[0]}

    def resized_call(self, kwargs, stays, left) -> dict:
        """Call arguments after a removal: the channels left, units renumbered."""
        if kwargs.get("units") is None:
            return kwargs
        kept = left.positions(self._per_unit()[0], 0)
        own = np.asarray(kwargs["units"])[stays]
        units = np.where(own >= 0, np.searchsorted(kept, own), -1)
        return {**kwargs, "units": tuple(units.tolist())}

    def lowered(self, kwargs) -> tuple[np.ndarray, str | None]:
        """What stock layers have to do instead: scale by a vector, then activate."""
        scale = ops.convert_to_numpy(self.scale())
        units = kwargs.get("units")
        if units is not None:
            known = np.asarray(units) >= 0
            scale = np.where(known, scale[np.where(known, units, 0)], 1.0)
        return scale.astype("float32"), kwargs.get("activation")
