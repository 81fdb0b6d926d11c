"""What the converter is given in place of layers that it makes no int8 of."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfsparse.deploy import probe, unroll
from tfsparse.graph import trace
from tfsparse.graph.rebuild import carry, clone, rebuild

ROUNDING = 1e-4
"""Largest difference of outputs, relative to the largest, that is rounding."""


def rewritten(model):
    """A model for the int8 converter, which computes the same.

    Recurrent layers of fixed length become their steps, see `unroll`; an Embedding becomes
    a plain look-up, as TensorFlow Lite Micro lacks the SELECT by which Keras allows
    negative numbers; a LayerNormalization subtracts its mean first, where Keras negates it,
    of which there is no int8.

    Args:
        model: A model of stock layers; it is not changed.

    Returns:
        The model itself where nothing is to be done, or something else would come out; a
        model that shares the weights of these layers otherwise.
    """
    graph = trace.read(model)
    stand_ins = {
        id(operation): stand_in
        for operation in graph.operations
        if (stand_in := _stand_in(graph, operation)) is not None
    }
    if not stand_ins:
        return model

    def make(operation, name):
        stand_in = stand_ins.get(id(operation))
        if stand_in is None:
            return clone(operation, name)
        return stand_in(operation, name=f"{name}_rewritten")

    copy, operations = rebuild(graph, make)
    carry(graph, {key: new for key, new in operations.items() if key not in stand_ins})
    inputs = probe.random_inputs(graph, np.random.default_rng(0))
    expected, found = (probe.run(one, inputs) for one in (graph, copy))
    same = probe.largest_difference(expected, found) <= ROUNDING
    return copy if same else model


def _stand_in(graph: trace.Graph, operation):
    """What takes a layer's place in all its calls; None for itself."""
    calls = [call for call in graph.calls if call.operation is operation]
    if all(unroll.can(call) for call in calls):
        return unroll.Steps
    if type(operation) is keras.layers.LayerNormalization:
        return Centred
    plain = type(operation) is keras.layers.Embedding and not operation.mask_zero
    return LookUp if plain and not operation.quantization_mode else None


class Centred(keras.layers.Layer):
    """(x - mean) / sqrt(variance + epsilon), times gamma, plus beta; of converters alone.

    Args:
        layer: A LayerNormalization; its weights are shared.
    """

    def __init__(self, layer, **kwargs):
        super().__init__(**kwargs)
        self.layer = layer
        self.built = True

    def call(self, inputs):
        """The layer's outputs."""
        layer = self.layer
        axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
        axes = [axis % len(inputs.shape) for axis in axes]
        wide = [n if k in axes else 1 for k, n in enumerate(inputs.shape)]
        centred = inputs - ops.mean(inputs, axes, keepdims=True)
        variance = ops.mean(centred * centred, axes, keepdims=True)
        found = centred * ops.rsqrt(variance + layer.epsilon)
        if layer.scale:
            found = found * ops.reshape(layer.gamma, wide)
        if layer.center:
            found = found + ops.reshape(layer.beta, wide)
        return found


class LookUp(keras.layers.Layer):
    """The rows of a table, by numbers that are not negative; of converters alone.

    Args:
        layer: An Embedding; its weights are shared.
    """

    def __init__(self, layer, **kwargs):
        super().__init__(**kwargs)
        self.layer = layer
        self.built = True

    def call(self, inputs):
        """`(batch, ...)` numbers to `(batch, ..., columns)` rows."""
        return tf.gather(
            tf.convert_to_tensor(self.layer.embeddings), tf.cast(inputs, "int32")
        )
