"""Keras's own tests of layers, run on every layer of the house."""

import pytest
from keras.src import testing

from tfsparse import layers

IMAGE, SERIES, VECTOR = (2, 8, 8, 3), (2, 9, 3), (2, 7)
CASES = {
    "ArchitectureParameter": (layers.ArchitectureParameter, {}, SERIES),
    "DropPath": (layers.DropPath, {"rate": 0.2}, SERIES),
    "Filter": (layers.Filter, {}, IMAGE),
    "Filter, signed": (layers.Filter, {"units": 7, "form": "signed"}, VECTOR),
    "Scale": (layers.Scale, {}, SERIES),
    "VariationalScale": (layers.VariationalScale, {}, VECTOR),
    "VariationalScale, horseshoe": (
        layers.VariationalScale, {"units": 3, "prior": "horseshoe"}, IMAGE),
    "VariationalDense": (layers.VariationalDense, {"units": 4}, VECTOR),
    "VariationalConv1D": (
        layers.VariationalConv1D, {"filters": 4, "kernel_size": 3}, SERIES),
    "VariationalConv2D": (
        layers.VariationalConv2D, {"filters": 4, "kernel_size": 3}, IMAGE),
    "VariationalDepthwiseConv2D": (
        layers.VariationalDepthwiseConv2D, {"kernel_size": 3}, IMAGE),
}  # fmt: skip


def test_every_layer_of_the_house_is_here():
    exported = {name for name in layers.__all__ if name[0].isupper()}
    assert {cls.__name__ for cls, _, _ in CASES.values()} == exported - {
        "SwitchDecay", "TWINS"
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_keras_finds_nothing_wrong(name):
    cls, arguments, shape = CASES[name]
    testing.TestCase().run_layer_test(
        cls, init_kwargs=arguments, input_shape=shape, run_mixed_precision_check=True
    )
