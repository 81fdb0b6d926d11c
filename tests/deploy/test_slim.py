"""A file without what nobody reads: the same answers, bit by bit, from fewer bytes."""

import keras
import numpy as np
import pytest

from tfsparse.deploy import interpreters, slim
from tfsparse.deploy.export import convert


def network():
    image = keras.Input((12, 12, 1))
    x = keras.layers.Conv2D(8, 3, activation="relu")(image)
    x = keras.layers.DepthwiseConv2D(3)(x)
    x = keras.layers.Flatten()(x)
    x = keras.ops.take(x, np.arange(0, 512, 3, dtype="int32"), axis=-1)
    return keras.Model(image, keras.layers.Dense(5)(x))


@pytest.fixture(scope="module")
def samples():
    return [np.random.default_rng(0).random((16, 12, 12, 1)).astype("float32")]


@pytest.fixture(scope="module")
def content(samples):
    keras.utils.set_random_seed(0)
    return convert(network(), samples)


def test_what_goes_changes_no_answer(content, samples):
    small = slim.slim(content)
    assert len(small) < len(content) - 1000
    assert interpreters.same(content, small, samples)


@pytest.mark.parametrize("name", slim.STEPS)
def test_each_step_alone_changes_no_answer(content, samples, name):
    others = tuple(one for one in slim.STEPS if one != name)
    assert interpreters.same(content, slim.slim(content, without=others), samples)


def test_a_file_for_the_microcontroller_alone_is_smaller_still(content, samples):
    pytest.importorskip("tflite_micro")
    small = slim.slim(content, micro=True)
    assert len(small) < len(slim.slim(content))
    expected, _ = interpreters.micro_answers(content, samples)
    found, _ = interpreters.micro_answers(small, samples)
    assert np.array_equal(expected[0], found[0])


def test_a_step_that_harms_is_left_out_and_named(content, samples, monkeypatch):
    def harm(model):
        for tensor in slim._tensors(model):
            if (
                tensor.quantization is not None
                and tensor.quantization.scale is not None
            ):
                tensor.quantization.scale = tensor.quantization.scale * 2

    monkeypatch.setitem(slim.STEPS, "scales", harm)
    small, left = slim.proven(
        content, lambda other: interpreters.same(content, other, samples)
    )
    assert left == ("scales",)
    assert len(small) < len(content) - 1000
    assert interpreters.same(content, small, samples)


def test_weights_begin_where_they_are_aligned(content):
    small = slim.slim(content)
    for buffer in slim.read(small).buffers:
        if buffer.data is not None and len(buffer.data) > 64:
            assert small.index(bytes(bytearray(buffer.data))) % slim.ALIGNMENT == 0


def test_inputs_keep_their_order():
    one, other = (keras.Input((6,), name=name) for name in ("zebra", "ape"))
    x = keras.layers.Dense(4)(one) - 3 * keras.layers.Dense(4)(other)
    model = keras.Model([one, other], [keras.layers.Dense(2)(x), x])
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=(8, 6)).astype("float32") for _ in range(2)]
    content = convert(model, inputs)
    small = slim.slim(content)
    assert len(small) < len(content)
    assert interpreters.same(content, small, inputs)
    assert not interpreters.same(content, small, inputs) or not np.array_equal(
        *[
            interpreters._bytes_asked("litert", small, i)[0][0]
            for i in (inputs, inputs[::-1])
        ]
    )
