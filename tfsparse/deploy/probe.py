"""Random inputs for a model, and its answers to them."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from tfsparse.graph import trace

UNKNOWN_SIZE = 32


def random_inputs(model, rng, samples: int = 2) -> list[np.ndarray]:
    """Random arrays that fit the model's inputs; unknown sizes become 32.

    What an Embedding looks up gets whole numbers below its `input_dim`.
    """
    graph = trace.read(model)
    arrays = []
    for tensor in graph.inputs:
        shape = (samples, *(n or UNKNOWN_SIZE for n in tensor.shape[1:]))
        below = [
            c.operation.input_dim
            for c in graph.readers.get(tensor, [])
            if isinstance(c.operation, keras.layers.Embedding)
        ]
        whole = below or not tensor.dtype.startswith(("float", "bfloat"))
        values = rng.uniform(0.0, min(below, default=2) if whole else 1.0, shape)
        values = np.floor(values) if whole else values
        arrays.append(
            values.astype(
                np.dtype(tensor.dtype) if tensor.dtype != "bfloat16" else "float32"
            )
        )
    return arrays


def run(model, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Outputs of a model in inference mode, flat, as arrays."""
    model = trace.functional(model)
    structure = keras.tree.pack_sequence_as(model.input, inputs)
    outputs = model(structure, training=False)
    return [ops.convert_to_numpy(x) for x in keras.tree.flatten(outputs)]
