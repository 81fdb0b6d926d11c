"""What the converter is given in place of layers that it makes no int8 of."""

from __future__ import annotations

import math

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfsparse.deploy import probe, unroll
from tfsparse.graph import trace
from tfsparse.graph.rebuild import carry, clone, rebuild

NORMALISERS = (
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
    keras.layers.UnitNormalization,
)

ARGMAX = trace.operation_class(lambda x: keras.ops.argmax(x, axis=-1))

UNIT_EPSILON = 1e-12
"""The least square of a norm that a UnitNormalization divides by."""

ROUNDING = 1e-4
"""Largest difference of outputs, relative to the largest, that is rounding."""


def rewritten(model, int8: bool = True):
    """A model for the int8 converter, which computes the same.

    Recurrent layers of fixed length become their steps, see `unroll`; an Embedding becomes
    a plain look-up, as TensorFlow Lite Micro lacks the SELECT by which Keras allows
    negative numbers; normalisers are written without SQUARE and NEG, of which there is no
    int8.

    Args:
        model: A model of stock layers; it is not changed.
        int8: Whether the file will be int8; of a float one only the argmax is rewritten.

    Returns:
        The model itself where nothing is to be done, or something else would come out; a
        model that shares the weights of these layers otherwise.
    """
    graph = trace.read(model)
    stand_ins = {
        id(operation): stand_in
        for operation in graph.operations
        if (stand_in := _stand_in(graph, operation, int8)) is not None
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


def _stand_in(graph: trace.Graph, operation, int8: bool):
    """What takes a layer's place in all its calls; None for itself."""
    if type(operation) is ARGMAX and getattr(operation, "axis", None) is not None:
        return Winner
    if not int8:
        return None
    calls = [call for call in graph.calls if call.operation is operation]
    if all(unroll.can(call) for call in calls):
        return unroll.Steps
    if type(operation) in NORMALISERS and _is_simple(operation):
        return Normalised
    plain = type(operation) is keras.layers.Embedding and not operation.mask_zero
    return LookUp if plain and not operation.quantization_mode else None


def _is_simple(layer) -> bool:
    """Whether a normaliser is one whose formula is known: groups of the last axis."""
    grouped = isinstance(layer, keras.layers.GroupNormalization)
    return not grouped or layer.axis in (-1, len(layer.input.shape) - 1)


class Normalised(keras.layers.Layer):
    """A normaliser in operators that there is int8 of; of converters alone.

    c / sqrt(mean(c^2) + epsilon), times gamma, plus beta; c = x - mean(x), or x where the
    layer takes no mean. c * c is MUL, where SQUARE has no int8, and nothing is negated.

    Args:
        layer: A layer of `NORMALISERS`; its weights are shared.
    """

    def __init__(self, layer, **kwargs):
        super().__init__(**kwargs)
        self.layer = layer
        self.built = True

    def call(self, inputs):
        """The layer's outputs."""
        layer, shape = self.layer, tuple(inputs.shape)
        if isinstance(layer, keras.layers.UnitNormalization):
            axes = _axes(layer.axis, len(shape))
            square = ops.sum(inputs * inputs, axes, keepdims=True)
            return inputs * ops.rsqrt(ops.maximum(square, UNIT_EPSILON))
        if isinstance(layer, keras.layers.RMSNormalization):
            axes = _axes(layer.axis, len(shape))
            square = ops.mean(inputs * inputs, axes, keepdims=True)
            return inputs * ops.rsqrt(square + layer.epsilon) * layer.scale
        if isinstance(layer, keras.layers.GroupNormalization):
            axes = [len(shape) - 1]
            places = math.prod(shape[1:-1])
            each = shape[-1] // layer.groups
            split = ops.reshape(inputs, (-1, places, layer.groups, each))
            found = _centred(split, [1, 3], layer.epsilon)
            found = ops.reshape(found, (-1, *shape[1:]))
        else:
            axes = _axes(layer.axis, len(shape))
            found = _centred(inputs, axes, layer.epsilon)
        wide = [n if k in axes else 1 for k, n in enumerate(shape)]
        if layer.scale:
            found = found * ops.reshape(layer.gamma, wide)
        if layer.center:
            found = found + ops.reshape(layer.beta, wide)
        return found


def _centred(x, axes: list[int], epsilon: float):
    """(x - mean) / sqrt(variance + epsilon)."""
    centred = x - ops.mean(x, axes, keepdims=True)
    variance = ops.mean(centred * centred, axes, keepdims=True)
    return centred * ops.rsqrt(variance + epsilon)


def _axes(axis, rank: int) -> list[int]:
    """Axes counted from the front."""
    given = axis if isinstance(axis, list | tuple) else [axis]
    return [one % rank for one in given]


class Winner(keras.layers.Layer):
    """The index of the largest value, without the bits by which Keras tells -0 from 0.

    Args:
        layer: The operation of `keras.ops.argmax`.
    """

    def __init__(self, layer, **kwargs):
        super().__init__(**kwargs)
        self.axis, self.keepdims = layer.axis, layer.keepdims
        self.built = True

    def call(self, inputs):
        """Whole numbers, one for each row."""
        found = tf.argmax(inputs, axis=self.axis, output_type=tf.int32)
        return tf.expand_dims(found, self.axis) if self.keepdims else found


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
