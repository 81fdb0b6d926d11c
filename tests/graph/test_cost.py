"""What `measure` counts, against counts made by hand and published ones."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfsparse
from tfsparse import zoo
from tfsparse.deploy import interpreters
from tfsparse.graph import cost

IMAGE, SEQUENCE, VOLUME = (8, 6, 4), (5, 4), (4, 3, 2, 4)

BY_HAND = [
    (layers.Dense(3), (4,), 4 * 3),
    (layers.Dense(3), SEQUENCE, 5 * 4 * 3),
    (layers.EinsumDense("abc,cde->abde", (None, 2, 3)), SEQUENCE, 5 * 4 * 2 * 3),
    (layers.EinsumDense("abc,bd->adc", (7, 4)), SEQUENCE, 5 * 7 * 4),
    (layers.Conv1D(3, 2), SEQUENCE, 4 * 2 * 4 * 3),
    (layers.Conv1D(3, 2, padding="causal", dilation_rate=2), SEQUENCE, 5 * 2 * 4 * 3),
    (layers.Conv2D(3, (2, 3)), IMAGE, 7 * 4 * 2 * 3 * 4 * 3),
    (layers.Conv2D(3, 3, strides=2, padding="same"), IMAGE, 4 * 3 * 9 * 4 * 3),
    (layers.Conv2D(6, 3, groups=2, padding="same"), IMAGE, 48 * 9 * 2 * 6),
    (layers.Conv3D(2, 2), VOLUME, 3 * 2 * 1 * 8 * 4 * 2),
    (layers.DepthwiseConv1D(2, depth_multiplier=3), SEQUENCE, 4 * 2 * 4 * 3),
    (layers.DepthwiseConv2D(3, padding="same"), IMAGE, 48 * 9 * 4),
    (layers.SeparableConv1D(5, 2), SEQUENCE, 4 * (2 * 4 + 4 * 5)),
    (layers.SeparableConv2D(5, 3), IMAGE, 6 * 4 * (9 * 4 + 4 * 5)),
    (layers.Conv1DTranspose(3, 2, 2), SEQUENCE, 5 * 2 * 3 * 4),
    (layers.Conv2DTranspose(3, 2, 2), IMAGE, 48 * 4 * 3 * 4),
    (layers.Conv3DTranspose(3, 2), VOLUME, 24 * 8 * 3 * 4),
    (layers.SimpleRNN(3), SEQUENCE, 5 * (4 * 3 + 3 * 3)),
    (layers.LSTM(3), SEQUENCE, 5 * 4 * (4 * 3 + 3 * 3)),
    (layers.GRU(3, return_sequences=True), SEQUENCE, 5 * 3 * (4 * 3 + 3 * 3)),
    (layers.Bidirectional(layers.LSTM(3)), SEQUENCE, 2 * 5 * 4 * (4 * 3 + 3 * 3)),
    (layers.ConvLSTM1D(3, 2, padding="same"), (5, 6, 4), 5 * 6 * 4 * 2 * (4 + 3) * 3),
    (layers.TimeDistributed(layers.Conv1D(3, 2)), (5, 6, 4), 5 * 5 * 2 * 4 * 3),
    (layers.SpectralNormalization(layers.Dense(3)), (4,), 4 * 3),
    (layers.Embedding(7, 3), (5,), 0),
    (layers.BatchNormalization(), IMAGE, 0),
    (layers.LayerNormalization(), IMAGE, 0),
    (layers.GroupNormalization(2), IMAGE, 0),
    (layers.RMSNormalization(), IMAGE, 0),
    (layers.PReLU(), IMAGE, 0),
    (layers.MaxPooling2D(), IMAGE, 0),
    (layers.UpSampling2D(), IMAGE, 0),
]


@pytest.mark.parametrize(
    ("layer", "shape", "macs"), BY_HAND, ids=lambda v: getattr(v, "name", "")
)
def test_macs_of_a_layer(layer, shape, macs):
    inputs = keras.Input(shape)
    model = keras.Model(inputs, layer(inputs))
    measured = tfsparse.measure(model)
    assert measured.macs == macs
    assert measured.params == sum(
        int(np.prod(v.shape)) for v in model.variables if "seed" not in v.path
    )
    assert sum(row["macs"] for row in cost.layer_costs(model)) == macs


def _attention(x, y):
    return layers.MultiHeadAttention(2, 3, value_dim=4)(x, y)


def _grouped(x, y):
    return layers.GroupQueryAttention(3, 4, 2)(x, y)


PRODUCTS = [
    # width 4, 5 queries, 6 values; queries, keys, values, scores, sums, the way out
    (
        _attention,
        5 * 4 * 6 + 6 * 4 * 6 + 6 * 4 * 8 + 2 * 5 * 6 * (3 + 4) + 5 * 8 * 4,
    ),
    (
        _grouped,
        5 * 4 * 12 + 2 * 6 * 4 * 6 + 4 * 5 * 6 * (3 + 3) + 5 * 12 * 4,
    ),
    (lambda x, y: layers.Attention()([x, y]), 2 * 5 * 6 * 4),
    (lambda x, y: layers.Dot(axes=2)([x, y]), 5 * 6 * 4),
    (lambda x, y: ops.matmul(x, ops.transpose(y, (0, 2, 1))), 5 * 6 * 4),
    (lambda x, y: ops.einsum("abc,adc->abd", x, y), 5 * 6 * 4),
]


@pytest.mark.parametrize(("build", "macs"), PRODUCTS)
def test_macs_of_a_product(build, macs):
    x, y = keras.Input((5, 4)), keras.Input((6, 4))
    assert tfsparse.measure(keras.Model([x, y], build(x, y))).macs == macs


def test_a_shared_layer_counts_its_weights_once_and_its_macs_twice():
    x, shared = keras.Input((4,)), layers.Dense(4)
    measured = tfsparse.measure(keras.Model(x, shared(shared(x))))
    assert (measured.params, measured.macs) == (4 * 4 + 4, 2 * 4 * 4)
    assert measured.weight_bytes == 4 * 4 + 4 * 4


@pytest.mark.parametrize(
    ("builder", "macs"),
    [
        ("MobileNet", 568_740_352),  # "569 million", Howard et al. 2017, table 8
        ("MobileNetV2", 300_774_272),  # "300M", Sandler et al. 2018, table 4
        ("ResNet50", 3_857_973_248),  # "3.8 x 10^9", He et al. 2015, table 1
    ],
)
def test_published_counts(builder, macs):
    model = getattr(keras.applications, builder)(weights=None)
    assert tfsparse.measure(model).macs == macs


def test_resnet50_with_its_strides_on_the_middle_convolution():
    """The variant of 4.1 GMACs: 4,089,184,256 without biases."""
    x = image = keras.Input((224, 224, 3))
    x = layers.Conv2D(64, 7, 2, padding="same")(x)
    x = layers.MaxPooling2D(3, 2, padding="same")(x)
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for number in range(count):
            step = 1 if number else stride
            y = layers.Conv2D(width, 1)(x)
            y = layers.Conv2D(width, 3, step, padding="same")(y)
            y = layers.Conv2D(4 * width, 1)(y)
            x = layers.Add()([y, x if number else layers.Conv2D(4 * width, 1, step)(x)])
    x = layers.Dense(1000)(layers.GlobalAveragePooling2D()(x))
    assert tfsparse.measure(keras.Model(image, x)).macs == 4_089_184_256


def _chain(x):  # 32 -> 64 -> 16 -> 3; ReLU and Flatten stay where their input is
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    x = layers.ReLU()(x)
    x = layers.MaxPooling2D()(x)
    return layers.Dense(3)(layers.Flatten()(x))


def _residual(x):  # 32 -> 64, held while 64 -> 64 are worked out beside it
    x = layers.Conv2D(4, 1)(x)
    y = layers.Conv2D(4, 1)(layers.Conv2D(4, 1)(x))
    return layers.Add()([x, y])


def _order(x):  # the wide branch first, while nothing but the input is held
    small = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 1)(x))  # 32, then 2
    large = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 1)(x))  # 128, then 8
    return layers.Concatenate()([small, large])


@pytest.mark.parametrize(
    ("build", "peak", "memory_1", "memory_2"),
    [
        (_chain, 32 + 64, 32 + 2 * 9 * 4 + 4, 32 + 64),
        (_residual, 64 + 64 + 64, 2 * 64, 2 * 64 + 64),
        (_order, 32 + 128 + 2, 128, 32 + 128),
    ],
)
def test_memory(build, peak, memory_1, memory_2):
    image = keras.Input((4, 4, 2))
    measured = tfsparse.measure(keras.Model(image, build(image)))
    assert measured.peak_activation_bytes == peak
    assert (measured.working_memory_1, measured.working_memory_2) == (
        memory_1,
        memory_2,
    )


@pytest.mark.parametrize(
    ("name", "shape"), [("lenet5", (28, 28, 1)), ("resnet8", (32, 32, 3))]
)
def test_the_arena_is_the_peak_and_some_kilobytes(name, shape, tmp_path):
    """TensorFlow Lite Micro holds the live tensors and 400 to 900 bytes an operator."""
    pytest.importorskip("tflite_micro")
    model = zoo.build(name, shape, 10)
    x = np.random.default_rng(0).uniform(0, 1, (8, *shape)).astype("float32")
    artifacts = tfsparse.export(model, str(tmp_path), x, formats=("tflite_int8",))
    _, arena = interpreters.run_micro(artifacts[-1].path, [x[:1]])
    _, (operators, _) = interpreters.run_tflite(artifacts[-1].path, [x[:1]])
    over = arena - tfsparse.measure(model).peak_activation_bytes
    assert 400 * len(operators) <= over <= 1000 * len(operators)
