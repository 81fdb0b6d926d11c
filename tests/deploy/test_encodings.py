"""Kernels written in each encoding come back number by number."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfsparse.deploy import encodings


@settings(max_examples=60, deadline=None)
@given(
    shape=st.sampled_from([(1, 1), (3, 300), (7, 5), (5, 5, 3, 20), (1, 1, 900, 2)]),
    share=st.sampled_from([0.0, 0.002, 0.05, 0.5, 1.0]),
    seed=st.integers(0, 1000),
)
def test_what_is_written_is_read_back(shape, share, seed):
    rng = np.random.default_rng(seed)
    matrix = rng.integers(-127, 128, shape).astype(np.int8)
    matrix[rng.random(shape) >= share] = 0
    for encoding in encodings.ENCODINGS.values():
        stored = encoding.write(matrix)
        np.testing.assert_array_equal(encoding.read(stored, shape), matrix)


def test_gaps_longer_than_a_byte_tells():
    matrix = np.zeros((1, 2000), np.int8)
    matrix[0, [0, 255, 256, 511, 1999]] = [-127, 1, 2, 3, -4]
    stored = encodings.relative(matrix)
    # gaps 0, 254, 0, 254, 1487 = 5 * 256 + 207
    assert len(stored) == 2 * (5 + 5)
    np.testing.assert_array_equal(encodings.read_relative(stored, matrix.shape), matrix)


def test_bytes_of_a_model_follow_its_zeros():
    model = keras.Sequential([keras.Input((100,)), keras.layers.Dense(50)])
    kernel = np.zeros((100, 50), "float32")
    kernel[::10, ::10] = 0.5
    model.layers[0].set_weights([kernel, np.ones(50, "float32")])
    assert encodings.stored_bytes(model) == {
        "dense": 5000,
        "bitmap": 625 + 50,
        "relative": 2 * (50 + 9),  # nine gaps of 459, a filler each
        "csr": 4 * 100 + 50 + 50,
    }


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_quantised_kernels_keep_their_zeros_and_their_largest(scale):
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 8)) * scale
    kernel[0] = 0
    kernel[..., 2] = 0
    found = encodings.quantised(kernel)
    assert found.dtype == np.int8 and not found[0].any() and not found[..., 2].any()
    largest = np.abs(found.astype(int)).reshape(-1, 8).max(axis=0)
    assert largest.tolist() == [127, 127, 0, 127, 127, 127, 127, 127]


def test_depthwise_kernels_have_a_scale_for_each_channel():
    image = keras.Input((6, 6, 2))
    model = keras.Model(image, keras.layers.DepthwiseConv2D(3, use_bias=False)(image))
    (kernel,) = model.trainable_variables
    values = np.ones(kernel.shape)
    values[:, :, 1] = 1e-4  # quiet, and not zero
    kernel.assign(values)
    stored = encodings.stored_bytes(model)
    assert stored["dense"] == 18 and stored["relative"] == 2 * 18
    quiet = encodings.quantised(values, depthwise=True)
    assert (quiet == 127).all()
