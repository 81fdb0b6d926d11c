"""Keras's own tests of optimizers, run on ProxSGD in SGD's place.

Without groups, with mu 0 and rho 1 it is SGD: w <- w - learning_rate * gradient.
"""

import keras
import pytest
from keras.src import optimizers as kept
from keras.src.optimizers import optimizer_test

from tfsparse import records
from tfsparse.optimizers import ProxSGD

# Of SGD alone: its name, its arguments, what `get` finds.
OTHERWISE = {
    "test_clip_args",
    "test_get_method",
    "test_callable_learning_rate",
    "test_optimizer_auto_naming",
}


@keras.saving.register_keras_serializable("tests")
class AsSGD(ProxSGD):
    """ProxSGD as SGD's constructor would make it."""

    def __init__(self, learning_rate=0.01, name="SGD", **kwargs):
        for gone in ("partition", "mu", "rho", "tau", "beta", "scaling", "bounds", "proximal",
                     "momentum", "nesterov"):  # fmt: skip
            kwargs.pop(gone, None)
        empty = records.Partition({}, ())
        super().__init__(empty, 0.0, learning_rate, rho=1.0, name=name, **kwargs)


NAMES = sorted(
    name for name in dir(optimizer_test.OptimizerTest) if name.startswith("test_")
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_keras_finds_nothing_wrong(name, monkeypatch):
    if name in OTHERWISE:
        pytest.skip("of SGD alone")
    monkeypatch.setattr(kept, "SGD", AsSGD)
    case = optimizer_test.OptimizerTest(name)
    result = case.run()
    wrong = [*result.failures, *result.errors]
    assert not wrong, wrong[0][1][-1500:]
