"""Death is judged by the weights: a way of live units from input to output."""

import keras
import numpy as np
import pytest
from keras import layers as L

import tfsparse
from tfsparse import records
from tfsparse.deploy.connected import connected
from tfsparse.engine import finishing


def chain(*, residual=False):
    keras.utils.set_random_seed(0)
    x = entry = keras.Input((6,))
    x = L.Dense(6, activation="relu", name="a")(x)
    inner = L.Dense(6, activation="relu", name="b")(x)
    x = L.Add()([x, inner]) if residual else inner
    return keras.Model(entry, L.Dense(3, name="c")(x))


def zeroed(model, name, rows=slice(None), columns=slice(None)):
    kernel = model.get_layer(name).kernel
    value = np.array(kernel)
    value[rows, columns] = 0
    kernel.assign(value)
    return model


def test_a_live_network_is_connected():
    assert connected(chain())


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_a_layer_of_zeros_cuts_a_chain(name):
    model = zeroed(chain(), name)
    assert not connected(model)
    with pytest.raises(records.TrainingError, match="must stay alive"):
        finishing.check_alive(model, 0)


def test_live_units_that_do_not_meet_cut_it_too():
    model = zeroed(chain(), "b", columns=slice(0, 3))  # b writes units 3 to 5
    assert connected(model)
    zeroed(model, "c", rows=slice(3, None))  # c reads units 0 to 2
    assert not connected(model)


def test_a_way_around_is_enough():
    assert connected(zeroed(chain(residual=True), "b"))
    assert not connected(zeroed(zeroed(chain(residual=True), "b"), "c"))


def test_a_normaliser_with_scale_zero_cuts_it():
    x = entry = keras.Input((4,))
    x = L.BatchNormalization(name="norm")(L.Dense(5, name="a")(x))
    model = keras.Model(entry, L.Dense(2)(x))
    assert connected(model)
    model.get_layer("norm").gamma.assign(np.zeros(5))
    assert not connected(model)


def small_net(activation):
    return keras.Sequential(
        [
            keras.Input((4,)),
            L.Dense(5, activation="relu", name="a"),
            L.Dense(2, activation=activation, use_bias=False, name="c"),
        ]
    )


def test_saturated_outputs_are_no_death():
    model = small_net("sigmoid")
    for variable in model.variables:
        variable.assign(np.abs(np.array(variable)) * 1e30)
    finishing.check_alive(model, 0)


def test_tiny_outputs_are_no_death():
    model = small_net("linear")
    model.get_layer("c").kernel.assign(np.full((5, 2), 1e-20))
    finishing.check_alive(model, 0)


def test_weights_that_fade_behind_a_bias_are_dead():
    model = chain()
    for variable in model.variables:
        size = 1.0 if len(variable.shape) == 1 else 1e-7
        variable.assign(np.full(variable.shape, size))
    with pytest.raises(records.TrainingError, match="must stay alive"):
        finishing.check_alive(model, 0)


def test_a_model_of_batch_one_and_statistics_that_lag_are_no_death():
    model = keras.Sequential([L.Dense(4), L.BatchNormalization(), L.Dense(2)])
    model.build((1, 3))
    model.layers[1].moving_variance.assign(np.full(4, 1e38))
    finishing.check_alive(model, 0)


def test_a_model_recorded_with_one_sample_is_trained():
    x = np.random.default_rng(0).normal(size=(60, 5)).astype("float32")
    model = keras.Sequential([L.Dense(8, activation="relu"), L.Dense(2)])
    model.build((1, 5))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    y = (x[:, 0] > 0).astype("int32")
    small = tfsparse.fit_shrinking(
        model, tfsparse.ShrinkNets(1e-4), x, y, epochs=2, batch_size=20
    ).model
    assert small(x).shape == (60, 2)
