"""How good one network is under many masks, without building or tracing anything anew."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfsparse.deploy.masked import Masked
from tfsparse.engine import scoring

BATCH = 500
"""Samples in a batch that is only looked at, at most."""

MOMENTUM = 0.9


class Judge:
    """Losses of a network whose units are switched off, on the same samples every time.

    Args:
        model: The trained network; it is not changed.
        loss: Of its outputs.
        x, y: Samples to judge on, as they lie in a `Dataset`.
        steps: Training steps before; 0 for none.
        rate: Learning rate of them.
        train: `(x, y)`, a batch for each step, `steps` times `batch` samples.
        batch: Samples in a step.
        fresh: Whether BatchNorm takes the statistics of the samples at hand, see `Masked`.

    Example:
        >>> judge = Judge(net, loss, x_validation, y_validation)
        >>> judge({"conv": np.arange(8) < 4})
        0.41
    """

    def __init__(
        self,
        model,
        loss: Any,
        x,
        y,
        steps: int = 0,
        rate: float = 0.01,
        train: tuple | None = None,
        batch: int = 64,
        fresh: bool = False,
    ):
        self.masked = Masked(model, fresh)
        self._steps, self._train, self._batch = steps, train, batch
        if steps:
            self.masked.hold()
        count = len(x)
        # Batches all alike: a smaller last one would be traced on its own.
        size = max(n for n in range(1, min(BATCH, count) + 1) if count % n == 0)
        if size < min(BATCH, count) // 2:  # an awkward number: some samples less
            size = min(BATCH, count)
            count -= count % size
        parts = count // size
        self._batches = [
            tf.reshape(
                tf.constant(own), (parts, size, *own.shape[1:])
            )  # they stay there
            for own in (scoring.as_floats(x[:count]), np.asarray(y[:count]))
        ]
        self._loss, self._mean = keras.losses.get(loss), tf.function(self._of_all)
        optimizer = keras.optimizers.SGD(rate, momentum=MOMENTUM)
        net = self.masked.model
        net.compile(optimizer, loss, jit_compile=False)
        if steps:
            optimizer.build(net.trainable_variables)
        self.samples, self.count = count, 0

    def __call__(self, keep) -> float:
        """The loss with only these units on; whatever was judged before, it is the same."""
        self.count += 1
        net = self.masked.model
        if self._steps:
            self._begin_anew()
        self.masked.set(keep)
        if self._steps and self._train is not None:
            net.fit(
                *self._train, batch_size=self._batch, epochs=1, shuffle=False, verbose=0
            )
        return float(self._mean())

    def _of_all(self):
        """The mean loss of all batches, in the graph."""
        x, y = self._batches
        total = tf.constant(0.0)
        for number in tf.range(len(x)):
            answers = self.masked.model(x[number], training=False)
            total += tf.cast(self._loss(y[number], answers), tf.float32)
        return total / len(x)

    def _begin_anew(self) -> None:
        """Weights, BatchNorm and the optimizer as they were before the first step."""
        self.masked.restore()
        for variable in self.masked.model.optimizer.variables:
            if "learning_rate" not in variable.path:
                variable.assign(np.zeros(variable.shape))
