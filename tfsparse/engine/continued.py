"""A user's callbacks, where one training is many calls of `fit` and its network shrinks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from tfsparse.deploy.lower import lower

FORGETFUL = (keras.callbacks.EarlyStopping, keras.callbacks.ReduceLROnPlateau)
"""They compare epochs: after a removal with those of the smaller network alone."""

REFUSED = (keras.callbacks.BackupAndRestore,)
"""They bring back the weights of a network that is another one by then."""


def check(callbacks: list) -> None:
    """Checks a user's callbacks.

    Raises:
        ValueError: One is none, or cannot work where the network gets smaller.
    """
    for callback in callbacks:
        if not isinstance(callback, keras.callbacks.Callback):
            raise ValueError(
                "`callbacks` must be Keras callbacks. Received: "
                f"{type(callback).__name__}."
            )
        if isinstance(callback, REFUSED):
            raise ValueError(
                "`callbacks` must bring back no whole training. Received: "
                f"{type(callback).__name__}, whose network may have got smaller since: "
                "python -m tfsparse.train --resume goes on after a kill."
            )


class Continued(keras.callbacks.Callback):
    """Lets a user's callback see one training run where there is one `fit` per epoch.

    Args:
        callback: The user's.
        compile_: Compiles a model as the user's is.
    """

    def __init__(self, callback, compile_: Callable[[Any], None]):
        super().__init__()
        self._callback, self._compile = callback, compile_
        self._begun = False
        self.last = False

    def set_model(self, model):
        if self.model is model:
            return
        smaller = self.model is not None
        super().set_model(model)
        if isinstance(self._callback, keras.callbacks.ModelCheckpoint):
            model = _InStock(model, self._compile)
            if smaller:
                self._callback.best = None  # of another network
        self._callback.set_model(model)
        if smaller and isinstance(self._callback, FORGETFUL):
            self._callback.on_train_begin()

    def set_params(self, params):
        super().set_params(params)
        self._callback.set_params(params)

    def on_train_begin(self, logs=None):
        if not self._begun:
            self._begun = True
            self._callback.on_train_begin(logs)

    def on_train_end(self, logs=None):
        if self.last or self.model.stop_training:
            self._callback.on_train_end(logs)

    def __getattribute__(self, name):
        if name.startswith("on_") and name not in ("on_train_begin", "on_train_end"):
            return getattr(self._callback, name)
        return super().__getattribute__(name)


class _InStock:
    """A running model that is saved as stock layers, which plain Keras loads."""

    def __init__(self, model, compile_: Callable[[Any], None]):
        self._model, self._compile = model, compile_

    def save(self, *args, **kwargs):
        """As `keras.Model.save`."""
        self._lowered().save(*args, **kwargs)

    def save_weights(self, *args, **kwargs):
        """As `keras.Model.save_weights`."""
        self._lowered().save_weights(*args, **kwargs)

    def _lowered(self):
        stock = lower(self._model)
        self._compile(stock)
        stock.optimizer.build(stock.trainable_variables)  # else it cannot be read back
        return stock

    def __getattr__(self, name):
        return getattr(self._model, name)
