"""Random inputs for a model, and its answers to them."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from tfsparse.graph import trace


def random_inputs(model, rng, samples: int = 2) -> list[np.ndarray]:
    """Random arrays that fit the model's inputs; unknown sizes become 32."""
    arrays = []
    for tensor in trace.functional(model).inputs:
        shape = (samples, *(n or 32 for n in tensor.shape[1:]))
        values = rng.uniform(0.0, 1.0, shape)
        arrays.append(values.astype(tensor.dtype))
    return arrays


def run(model, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Outputs of a model in inference mode, flat, as arrays."""
    model = trace.functional(model)
    structure = keras.tree.pack_sequence_as(model.input, inputs)
    outputs = model(structure, training=False)
    return [ops.convert_to_numpy(x) for x in keras.tree.flatten(outputs)]
