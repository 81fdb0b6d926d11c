"""Every space builds, takes two steps, prunes, derives, strips and ships, at width 4."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tfsparse
from tfsparse import deploy, nas, zoo
from tfsparse.deploy import recalibrate
from tfsparse.engine import filling, finishing
from tfsparse.methods import bayesnas

LARGE = ("darts", "s1", "s2", "s4")
SPACES = [
    *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE),
    "mcu_cells",
    "mcu_cells, series",
    "tree_pyramid",
    pytest.param("bench201", marks=pytest.mark.slow),
]


def supernet(name: str):
    """A small one: of cells the first, which halves the picture."""
    if name == "tree_pyramid":
        image = keras.Input((8, 8, 1))
        return keras.Model(image, zoo.pyramid.network(image, 4, 1, 4, 4))
    if name == "bench201":
        return nas.bench201.supernet((8, 8, 1), 4, filters=4, cells=1)
    name, _, kind = name.partition(", ")
    own = nas.SPACES[name]
    space = nas.Space(name, own.kinds, 1, filters=4, stem_strides=own.stem_strides)
    return space.supernet((16, 2) if kind else (8, 8, 1), 4)


@pytest.mark.parametrize("name", SPACES)
def test_from_supernet_to_chip(name, tmp_path):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    model = supernet(name)
    x = rng.normal(size=(24, *model.input_shape[1:])).astype("float32")
    method = tfsparse.BayesNAS(ignore="*_add*")
    groups = tfsparse.find_groups(model, method.kinds)
    searched = method.prepare(model, groups)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    searched.compile(method.optimizer(searched, groups), loss, run_eagerly=True)
    for _ in range(2):
        assert np.isfinite(searched.train_on_batch(x, np.arange(24) % 4))
    before = filling.operations(model)
    _kill(bayesnas.parameters(searched), rng)
    recalibrate.recalibrate(searched, x)
    expected = searched.predict(x, verbose=0)
    small, _ = finishing.finish(searched, method)
    np.testing.assert_allclose(
        small.predict(x, verbose=0), expected, rtol=1e-3, atol=1e-3
    )
    assert small.count_params() < model.count_params()
    assert 0 < filling.operations(small) < before or name == "tree_pyramid"
    (file,) = deploy.export(small, str(tmp_path), x, ("tflite_int8",))
    assert deploy.verify(small, (file,), x), (
        "it runs, on the interpreters that are there"
    )
    assert file.file_bytes > 0


def _kill(parameters, rng) -> None:
    """Most operations are off; of each sum one stays on, and every edge."""
    kept = {}
    for layer in parameters:
        kept.setdefault((layer.target, layer.edge), layer.name)
    for layer in parameters:
        on = layer.name in kept.values() or rng.random() < 0.1
        layer.factor.assign([float(on) * rng.uniform(0.5, 1.5)])
