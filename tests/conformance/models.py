"""Tiny models, each named after the trouble that it shows, and what groups it holds.

Shapes are odd on purpose: a wrong axis or a shifted index changes a size or a number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
from keras import layers, ops

import tfsparse

IMAGE = (9, 7, 3)


@keras.saving.register_keras_serializable("tests")
class Opaque(layers.Layer):
    """A user's layer for which nobody registered a rule."""

    def call(self, inputs):
        return inputs[..., ::-1] * 2.0


@keras.saving.register_keras_serializable("tests")
class Gain(layers.Layer):
    """A user's layer that brings its own rule: one factor for each channel."""

    def build(self, input_shape):
        self.gain = self.add_weight(shape=(input_shape[-1],), name="gain")

    def call(self, inputs):
        return inputs * self.gain

    def unit_rule(self, walk, call, axes):
        walk.carry(self.gain, 0, axes[0][-1])
        return axes


@keras.saving.register_keras_serializable("tests")
class Offset(layers.Layer):
    """A user's layer whose rule is registered from outside."""

    def build(self, input_shape):
        self.offset = self.add_weight(shape=(input_shape[-1],), name="offset")

    def call(self, inputs):
        return inputs + self.offset


@tfsparse.register_rule(Offset)
def _offset(walk, call, axes):
    walk.carry(call.operation.offset, 0, axes[0][-1])
    return axes


@keras.saving.register_keras_serializable("tests")
class Product(layers.Layer):
    """A user's layer that is told its size, with a rule registered from outside."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape):
        self.w = self.add_weight(shape=(input_shape[-1], self.units), name="w")

    def call(self, inputs):
        return ops.matmul(inputs, self.w)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@tfsparse.register_rule(
    Product, sizes=lambda call, left: {"units": left.shape(call.operation.w)[1]}
)
def _product(walk, call, axes):
    (x,) = axes
    walk.consume(call.operation.w, 0, x[-1])
    return [[*x[:-1], walk.produce(call.operation.w, 1)]]


def _out(x, units=3, name="out"):
    return layers.Dense(units, name=name)(x)


def _pooled(inputs, x, units=3):
    return keras.Model(inputs, _out(layers.GlobalAveragePooling2D()(x), units))


# Chains ---------------------------------------------------------------------------


def conv_bn_chain():
    image = keras.Input(IMAGE)
    x = layers.Conv2D(5, (3, 2), use_bias=False, name="a")(image)
    x = layers.BatchNormalization(name="a_bn")(x)
    x = layers.ReLU()(x)
    x = layers.Conv2D(4, 2, activation="relu", name="b")(x)
    return _pooled(image, x)


def flatten_from_conv():
    image = keras.Input(IMAGE)
    x = layers.Conv2D(5, 3, activation="relu", name="conv")(image)
    x = layers.MaxPooling2D((2, 1))(x)
    x = layers.Flatten(name="flat")(x)
    x = layers.Dense(6, activation="relu", name="dense")(x)
    return keras.Model(image, _out(x))


def strided_same_dilated():
    image = keras.Input((11, 8, 2))
    x = layers.Conv2D(5, 3, 2, padding="same", activation="relu", name="strided")(image)
    x = layers.Conv2D(
        4, 2, padding="same", dilation_rate=(2, 1), activation="tanh", name="dilated"
    )(x)
    x = layers.AveragePooling2D(2, padding="same")(x)
    return _pooled(image, x)


def sequential_with_dropout():
    return keras.Sequential(
        [
            keras.Input((6, 5, 2)),
            layers.Conv2D(4, 2, activation="relu", name="conv"),
            layers.SpatialDropout2D(0.2),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(5, activation="relu", name="dense"),
            layers.GaussianNoise(0.1),
            layers.Dense(3, name="out"),
        ]
    )


def bn_after_activation():
    image = keras.Input(IMAGE)
    x = layers.Conv2D(5, 2, activation="relu", name="a")(image)
    x = layers.BatchNormalization(name="a_bn")(x)
    x = layers.Conv2D(4, 2, name="b")(x)
    x = layers.BatchNormalization(scale=False, name="b_bn")(x)
    x = layers.LeakyReLU()(x)
    x = layers.Conv2D(6, 1, use_bias=False, name="c")(x)
    x = layers.BatchNormalization(center=False, name="c_bn")(x)
    return _pooled(image, layers.Activation("gelu")(x))


def single_channel():
    image = keras.Input((6, 5, 1))
    x = layers.Conv2D(4, 2, activation="relu", name="wide")(image)
    x = layers.Conv2D(1, 2, activation="relu", name="narrow")(x)
    x = layers.Flatten()(x)
    x = layers.Dense(5, activation="relu", name="dense")(x)
    return keras.Model(image, _out(x))


def sigmoid_units():
    image = keras.Input((6, 5, 2))
    x = layers.Conv2D(5, 2, activation="sigmoid", name="conv")(image)
    x = layers.Flatten()(x)
    x = layers.Dense(4, activation="softplus", name="dense")(x)
    return keras.Model(image, _out(x))


def dense_on_a_sequence():
    sequence = keras.Input((5, 3))
    x = layers.Dense(6, activation="relu", name="a")(sequence)
    x = layers.Dense(4, activation="elu", name="b")(x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(sequence, _out(x))


def rescaled_input():
    image = keras.Input((6, 5, 2), name="image")
    x = layers.Rescaling(2.0, -1.0)(image)
    x = layers.Conv2D(5, 2, activation="relu", name="conv")(x)
    return _pooled(image, layers.Rescaling(0.5)(x))


def rescaled_channels():
    image = keras.Input((6, 5, 2), name="image")
    x = layers.Conv2D(4, 2, activation="relu", name="conv")(image)
    x = layers.Rescaling([2.0, -1.0, 0.5, 3.0], [0.1, 0.2, 0.3, 0.4], name="each")(x)
    return _pooled(image, x)


def named_vector():
    vector = keras.Input((7,), name="vector")
    x = layers.Dense(6, activation="relu", name="hidden")(vector)
    x = layers.BatchNormalization()(x)
    return keras.Model(vector, _out(x))


# Other layers ----------------------------------------------------------------------


def depthwise_multiplier_1():
    image = keras.Input(IMAGE)
    x = layers.Conv2D(5, 2, activation="relu", name="conv")(image)
    x = layers.DepthwiseConv2D((2, 3), name="dw")(x)
    x = layers.BatchNormalization(name="dw_bn")(x)
    x = layers.ReLU()(x)
    x = layers.Conv2D(4, 1, activation="relu", name="pw")(x)
    return _pooled(image, x)


def depthwise_multiplier_2():
    image = keras.Input(IMAGE)
    x = layers.Conv2D(4, 2, activation="relu", name="conv")(image)
    x = layers.DepthwiseConv2D(2, depth_multiplier=2, activation="relu", name="dw")(x)
    x = layers.Conv2D(5, 1, activation="relu", name="pw")(x)
    return _pooled(image, x)


def depthwise_multiplier_3_without_bias():
    sequence = keras.Input((9, 2))
    x = layers.Conv1D(4, 2, activation="relu", name="conv")(sequence)
    x = layers.DepthwiseConv1D(2, depth_multiplier=3, use_bias=False, name="dw")(x)
    x = layers.Flatten()(x)
    return keras.Model(sequence, _out(x))


def separable():
    image = keras.Input(IMAGE)
    x = layers.Conv2D(4, 2, activation="relu", name="conv")(image)
    x = layers.SeparableConv2D(6, 2, depth_multiplier=2, name="sep")(x)
    x = layers.BatchNormalization(name="sep_bn")(x)
    x = layers.ReLU()(x)
    return _pooled(image, x)


def separable_1d():
    sequence = keras.Input((9, 2))
    x = layers.SeparableConv1D(5, 3, activation="relu", name="a")(sequence)
    x = layers.SeparableConv1D(4, 2, activation="relu", name="b")(x)
    return keras.Model(sequence, _out(layers.Flatten()(x)))


def conv_1d():
    sequence = keras.Input((11, 2))
    x = layers.Conv1D(5, 3, activation="relu", name="a")(sequence)
    x = layers.MaxPooling1D(2)(x)
    x = layers.ZeroPadding1D(1)(x)
    x = layers.Conv1D(4, 2, activation="relu", name="b")(x)
    return keras.Model(sequence, _out(layers.Flatten()(x)))


def conv_3d():
    volume = keras.Input((5, 4, 6, 2))
    x = layers.Conv3D(5, 2, activation="relu", name="a")(volume)
    x = layers.AveragePooling3D((1, 1, 2))(x)
    x = layers.Conv3D(3, (2, 1, 2), activation="relu", name="b")(x)
    return keras.Model(volume, _out(layers.Flatten()(x)))


def prelu():
    image = keras.Input((6, 5, 2))
    x = layers.Conv2D(4, 2, name="a")(image)
    x = layers.PReLU(shared_axes=[1, 2], name="shared")(x)
    x = layers.Conv2D(5, 2, name="b")(x)
    x = layers.PReLU(name="full")(x)
    x = layers.Flatten()(x)
    x = layers.Dense(6, name="c")(x)
    x = layers.PReLU(name="flat")(x)
    return keras.Model(image, _out(x))


def pools_side_by_side():
    image = keras.Input(IMAGE)
    x = layers.Conv2D(5, 3, activation="relu", name="conv")(image)
    pools = [layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)]
    return keras.Model(image, _out(layers.Concatenate()(pools)))


def zero_padding():
    image = keras.Input((5, 6, 2))
    x = layers.Conv2D(4, 2, activation="relu", name="a")(image)
    x = layers.ZeroPadding2D(((1, 0), (0, 2)))(x)
    x = layers.Conv2D(5, 3, activation="relu", name="b")(x)
    return keras.Model(image, _out(layers.Flatten()(x)))


def reshape_keeps_channels():
    image = keras.Input((5, 4, 2))
    x = layers.Conv2D(6, 2, activation="relu", name="a")(image)
    x = layers.Reshape((12, 6))(x)
    x = layers.Conv1D(4, 3, activation="relu", name="b")(x)
    return keras.Model(image, _out(layers.Flatten()(x)))


def reshape_merges_width_and_channels():
    image = keras.Input((5, 4, 2))
    x = layers.Conv2D(6, 2, activation="relu", name="a")(image)
    x = layers.Reshape((-1, 18))(x)  # 4 rows, 3 columns of 6 channels
    x = layers.Conv1D(5, 2, activation="relu", name="b")(x)
    return keras.Model(image, _out(layers.Flatten()(x)))


# Branches --------------------------------------------------------------------------


def residual_projection():
    image = keras.Input(IMAGE)
    x = layers.Conv2D(6, 3, activation="relu", name="stem")(image)
    y = layers.Conv2D(5, 3, 2, padding="same", name="first", use_bias=False)(x)
    y = layers.BatchNormalization(name="first_bn")(y)
    y = layers.ReLU()(y)
    y = layers.Conv2D(7, 3, padding="same", name="second", use_bias=False)(y)
    y = layers.BatchNormalization(name="second_bn")(y)
    skip = layers.Conv2D(7, 1, 2, name="skip")(x)
    return _pooled(image, layers.ReLU()(layers.Add()([y, skip])))


def residual_identity():
    image = keras.Input((8, 7, 2))
    x = layers.Conv2D(6, 2, activation="relu", name="stem")(image)
    y = layers.Conv2D(4, 3, padding="same", activation="relu", name="inner")(x)
    y = layers.Conv2D(6, 3, padding="same", name="back")(y)
    x = layers.ReLU()(layers.Add()([x, y]))
    return keras.Model(image, _out(layers.Flatten()(x)))


def residual_preactivation():
    image = keras.Input((8, 7, 2))
    x = layers.Conv2D(6, 2, name="stem")(image)
    y = layers.BatchNormalization(name="bn_1")(x)
    y = layers.ReLU()(y)
    y = layers.Conv2D(5, 3, padding="same", name="inner")(y)
    y = layers.BatchNormalization(name="bn_2")(y)
    y = layers.ReLU()(y)
    y = layers.Conv2D(6, 3, padding="same", name="back")(y)
    x = layers.Add()([x, y])
    x = layers.BatchNormalization(name="bn_3")(x)
    return _pooled(image, layers.ReLU()(x))


def concat_into_conv():
    image = keras.Input((8, 7, 2))
    a = layers.Conv2D(3, 2, activation="relu", name="a")(image)
    b = layers.Conv2D(4, 2, activation="relu", name="b")(image)
    x = layers.Concatenate()([a, b])
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.Conv2D(5, 2, activation="relu", name="c")(x)
    return _pooled(image, x)


def concat_with_the_input():
    image = keras.Input((8, 7, 2))
    a = layers.Conv2D(3, 3, padding="same", activation="relu", name="a")(image)
    x = layers.Concatenate()([image, a])
    x = layers.Conv2D(5, 2, activation="relu", name="b")(x)
    return _pooled(image, x)


def add_of_a_concat():
    image = keras.Input((8, 7, 2))
    a = layers.Conv2D(3, 2, name="a")(image)
    b = layers.Conv2D(4, 2, name="b")(image)
    c = layers.Conv2D(7, 2, name="c")(image)
    x = layers.Add()([layers.Concatenate()([a, b]), c])
    x = layers.ReLU()(x)
    x = layers.Conv2D(5, 2, activation="relu", name="d")(x)
    return _pooled(image, x)


def squeeze_excite():
    image = keras.Input((8, 7, 2))
    x = layers.Conv2D(8, 2, use_bias=False, name="conv")(image)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.ReLU()(x)
    gate = layers.GlobalAveragePooling2D()(x)
    gate = layers.Reshape((1, 1, 8))(gate)
    gate = layers.Dense(3, activation="relu", name="squeeze")(gate)
    gate = layers.Dense(8, activation="sigmoid", name="excite")(gate)
    x = layers.Multiply()([x, gate])
    x = layers.Conv2D(5, 2, activation="relu", name="next")(x)
    return _pooled(image, x)


def average_maximum_subtract():
    vector = keras.Input((7,), name="vector")
    a = layers.Dense(6, activation="relu", name="a")(vector)
    b = layers.Dense(6, activation="relu", name="b")(vector)
    c = layers.Dense(5, activation="relu", name="c")(vector)
    d = layers.Dense(5, activation="relu", name="d")(vector)
    left = layers.Average()([a, b])
    right = layers.Maximum()([layers.Subtract()([c, d]), d])
    return keras.Model(vector, _out(layers.Concatenate()([left, right])))


def op_layers():
    image = keras.Input((6, 5, 2))
    x = layers.Conv2D(4, 2, name="a")(image)
    y = layers.Conv2D(4, 2, name="b")(image)
    x = ops.relu(x + y)
    x = ops.tanh(x * 0.5 - 1.0)
    x = ops.reshape(x, (-1, 20, 4))
    x = layers.Conv1D(5, 3, activation="relu", name="c")(x)
    return keras.Model(image, _out(layers.Flatten()(x)))


def fan_out():
    image = keras.Input((8, 7, 2))
    x = layers.Conv2D(6, 2, activation="relu", name="trunk")(image)
    a = layers.Conv2D(3, 2, activation="relu", name="a")(x)
    b = layers.Conv2D(4, 3, padding="same", activation="relu", name="b")(x)
    pools = [layers.GlobalAveragePooling2D()(a), layers.GlobalMaxPooling2D()(b)]
    return keras.Model(image, _out(layers.Concatenate()(pools)))


def shared_dense():
    left, right = keras.Input((7,), name="left"), keras.Input((7,), name="right")
    shared = layers.Dense(6, activation="relu", name="shared")
    x = layers.Concatenate()([shared(left), shared(right)])
    x = layers.Dense(5, activation="relu", name="joint")(x)
    return keras.Model([left, right], _out(x))


def shared_reader():
    vector = keras.Input((7,), name="vector")
    a = layers.Dense(6, activation="relu", name="a")(vector)
    b = layers.Dense(6, activation="sigmoid", name="b")(vector)
    shared = layers.Dense(4, activation="relu", name="shared")
    x = layers.Concatenate()([shared(a), shared(b)])
    return keras.Model(vector, _out(x))


def multi_input():
    inputs = {
        "image": keras.Input((6, 5, 2), name="image"),
        "vector": keras.Input((4,), name="vector"),
    }
    x = layers.Conv2D(5, 2, activation="relu", name="conv")(inputs["image"])
    x = layers.Flatten()(x)
    y = layers.Dense(3, activation="relu", name="dense")(inputs["vector"])
    return keras.Model(inputs, _out(layers.Concatenate()([x, y])))


def multi_output():
    image = keras.Input((6, 5, 2))
    x = layers.Conv2D(5, 2, activation="relu", name="trunk")(image)
    pooled = layers.GlobalAveragePooling2D()(x)
    side = layers.Conv2D(4, 2, activation="relu", name="side")(x)
    side = layers.Dense(2, name="second")(layers.Flatten()(side))
    return keras.Model(image, {"one": _out(pooled), "two": side})


# Frozen ----------------------------------------------------------------------------


def input_residual():
    image = keras.Input((6, 5, 4))
    x = layers.Conv2D(4, 3, padding="same", name="conv")(image)
    x = layers.Add(name="sum")([x, image])
    x = layers.Conv2D(5, 2, activation="relu", name="free")(x)
    return _pooled(image, x)


def softmax_in_the_middle():
    vector = keras.Input((7,), name="vector")
    x = layers.Dense(6, activation="softmax", name="attention")(vector)
    x = layers.Dense(5, name="scores")(x)
    x = layers.Softmax(name="normal")(x)
    x = layers.Dense(4, activation="relu", name="free")(x)
    return keras.Model(vector, _out(x))


def custom_layer_without_a_rule():
    vector = keras.Input((7,), name="vector")
    x = layers.Dense(6, activation="relu", name="before")(vector)
    x = Opaque(name="opaque")(x)
    x = layers.Dense(5, activation="relu", name="free")(x)
    return keras.Model(vector, _out(x))


def custom_layers_with_rules():
    vector = keras.Input((7,), name="vector")
    x = layers.Dense(6, activation="relu", name="a")(vector)
    x = Gain(name="gain")(x)
    x = layers.Dense(5, activation="relu", name="b")(x)
    x = Offset(name="offset")(x)
    return keras.Model(vector, _out(x))


def custom_layer_told_its_size():
    vector = keras.Input((7,), name="vector")
    x = layers.Dense(6, activation="relu", name="a")(vector)
    x = layers.ReLU()(Product(5, name="b")(x))
    return keras.Model(vector, _out(x))


def grouped_conv():
    image = keras.Input((6, 5, 2))
    x = layers.Conv2D(4, 2, activation="relu", name="before")(image)
    x = layers.Conv2D(6, 2, groups=2, activation="relu", name="grouped")(x)
    x = layers.Conv2D(5, 2, activation="relu", name="free")(x)
    return _pooled(image, x)


def broadcast_and_layer_norm():
    vector = keras.Input((7,), name="vector")
    x = layers.Dense(6, activation="relu", name="wide")(vector)
    one = layers.Dense(1, activation="relu", name="one")(vector)
    x = layers.Multiply(name="scaled")([x, one])
    x = layers.Dense(5, name="normed")(x)
    x = layers.LayerNormalization(name="norm")(x)
    return keras.Model(vector, _out(x))


def nested_model():
    inner_in = keras.Input((6,))
    inner = keras.Model(inner_in, layers.Dense(4, name="deep")(inner_in), name="inner")
    vector = keras.Input((7,), name="vector")
    x = layers.Dense(6, activation="relu", name="before")(vector)
    x = inner(x)
    x = layers.Dense(5, activation="relu", name="free")(x)
    return keras.Model(vector, _out(x))


@dataclasses.dataclass(frozen=True)
class Case:
    """What is known by hand about a model of the table.

    Attributes:
        build: Builds the model, untrained.
        free: Units of every group that can be pruned, by name.
        frozen: A piece of the reason of every frozen group, by name.
    """

    build: Callable
    free: dict[str, int]
    frozen: dict[str, str] = dataclasses.field(
        default_factory=lambda: {"out": "model's output"}
    )


OUT = {"out": "model's output"}

CASES = [
    Case(conv_bn_chain, {"a": 5, "b": 4}),
    Case(flatten_from_conv, {"conv": 5, "dense": 6}),
    Case(strided_same_dilated, {"strided": 5, "dilated": 4}),
    Case(sequential_with_dropout, {"conv": 4, "dense": 5}),
    Case(bn_after_activation, {"a": 5, "b": 4, "c": 6}),
    Case(single_channel, {"wide": 4, "narrow": 1, "dense": 5}),
    Case(sigmoid_units, {"conv": 5, "dense": 4}),
    Case(dense_on_a_sequence, {"a": 6, "b": 4}),
    Case(rescaled_input, {"conv": 5}),
    Case(rescaled_channels, {"conv": 4}),
    Case(named_vector, {"hidden": 6}),
    Case(depthwise_multiplier_1, {"conv": 5, "pw": 4}),
    Case(depthwise_multiplier_2, {"conv": 4, "pw": 5}),
    Case(depthwise_multiplier_3_without_bias, {"conv": 4}),
    Case(separable, {"conv": 4, "sep": 6}),
    Case(separable_1d, {"a": 5, "b": 4}),
    Case(conv_1d, {"a": 5, "b": 4}),
    Case(conv_3d, {"a": 5, "b": 3}),
    Case(prelu, {"a": 4, "b": 5, "c": 6}),
    Case(pools_side_by_side, {"conv": 5}),
    Case(zero_padding, {"a": 4, "b": 5}),
    Case(reshape_keeps_channels, {"a": 6, "b": 4}),
    Case(reshape_merges_width_and_channels, {"a": 6, "b": 5}),
    Case(residual_projection, {"stem": 6, "first": 5, "second": 7}),
    Case(residual_identity, {"stem": 6, "inner": 4}),
    Case(residual_preactivation, {"stem": 6, "inner": 5}),
    Case(concat_into_conv, {"a": 3, "b": 4, "c": 5}),
    Case(concat_with_the_input, {"a": 3, "b": 5}),
    Case(add_of_a_concat, {"a": 3, "b": 4, "d": 5}),
    Case(squeeze_excite, {"conv": 8, "squeeze": 3, "next": 5}),
    Case(average_maximum_subtract, {"a": 6, "d": 5}),
    Case(op_layers, {"a": 4, "c": 5}),
    Case(fan_out, {"trunk": 6, "a": 3, "b": 4}),
    Case(shared_dense, {"shared": 6, "joint": 5}),
    Case(shared_reader, {"b": 6, "shared": 4}),
    Case(multi_input, {"conv": 5, "dense": 3}),
    Case(
        multi_output,
        {"trunk": 5, "side": 4},
        {"out": "model's output", "second": "model's output"},
    ),
    Case(input_residual, {"free": 5}, {"conv": "without units in 'sum'", **OUT}),
    Case(
        softmax_in_the_middle,
        {"free": 4},
        {
            "attention": "'softmax' of 'attention'",
            "scores": "'normal' normalises",
            **OUT,
        },
    ),
    Case(
        custom_layer_without_a_rule,
        {"free": 5},
        {"before": "'opaque' of class Opaque, for which no rule", **OUT},
    ),
    Case(custom_layers_with_rules, {"a": 6, "b": 5}),
    Case(custom_layer_told_its_size, {"a": 6, "b": 5}),
    Case(grouped_conv, {"before": 4, "grouped": 6, "free": 5}),
    Case(
        broadcast_and_layer_norm,
        {"wide": 6},
        {"one": "broadcast by 'scaled'", "normed": "a mean and a variance", **OUT},
    ),
    Case(nested_model, {"before": 6, "deep": 4, "free": 5}),
]

TABLE = {case.build.__name__: case for case in CASES}
"""Name -> case; the rows that every property of the conformance room must hold for."""


def randomise(model, seed: int = 0):
    """Gives every weight a value that would betray a wrong index.

    Kernels have both signs but a positive mean, biases and betas are positive: so most
    pre-activations are positive, and every unit speaks.

    Returns:
        The same model.
    """
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if "seed_generator" in variable.path:
            continue
        shape = variable.shape
        if len(shape) > 1 and "alpha" not in variable.name:
            fan_in = max(1, int(np.prod(shape[:-1])))
            values = rng.uniform(-0.5, 1.0, shape) / np.sqrt(fan_in)
        elif variable.name == "moving_mean":
            values = rng.uniform(-0.5, 0.5, shape)
        else:
            values = rng.uniform(0.5, 1.5, shape)
        variable.assign(values.astype("float32"))
    return model


def inputs_for(model, seed: int = 1, samples: int = 3):
    """Seeded inputs in [0, 1], in the structure that the model takes."""
    rng = np.random.default_rng(seed)
    arrays = [
        rng.uniform(0.0, 1.0, (samples, *tensor.shape[1:])).astype("float32")
        for tensor in model.inputs
    ]
    if isinstance(model, keras.Sequential):
        return arrays[0]
    return keras.tree.pack_sequence_as(model.input, arrays)


def outputs(model, inputs) -> list[np.ndarray]:
    """Flat outputs in inference mode."""
    answers = model(inputs, training=False)
    return [ops.convert_to_numpy(x) for x in keras.tree.flatten(answers)]


def difference(expected: list[np.ndarray], received: list[np.ndarray]) -> float:
    """Largest difference of any output, relative to that output's largest magnitude."""
    assert len(expected) == len(received) > 0
    worst = 0.0
    for a, b in zip(expected, received, strict=True):
        assert a.shape == b.shape and np.isfinite(a).all() and np.isfinite(b).all()
        worst = max(worst, float(np.abs(a - b).max() / np.abs(a).max()))
    return worst


def half(group, seed: int = 0) -> np.ndarray:
    """A keep mask that drops a seeded half of a group, never all of it."""
    drop = group.size // 2
    keep = np.ones(group.size, dtype=bool)
    keep[np.random.default_rng([seed, group.size]).permutation(group.size)[:drop]] = (
        False
    )
    return keep


def weights_of(model) -> dict[str, np.ndarray]:
    """Copies of all values, to see whether a call touched its argument."""
    return {v.path: ops.convert_to_numpy(v).copy() for v in model.variables}


def params_of(model) -> int:
    """Elements of all weights, counted from the arrays themselves."""
    return sum(value.size for value in model.get_weights())
