"""The drop-in for `fit`: a model goes in, a smaller trained one comes out."""

from __future__ import annotations

import dataclasses
import logging
import numbers
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfsparse import (
    budgets,
    checkpoints,
    curvature,
    methods,
    optimizers,
    options,
    records,
)
from tfsparse import progress as progress_lib
from tfsparse.engine import filling, finishing, limiting, shrinking
from tfsparse.engine.context import CURVATURE_SAMPLES, Context
from tfsparse.engine.runner import go
from tfsparse.engine.stages.sparse import Sparse, SparseSettings
from tfsparse.engine.training import Training
from tfsparse.graph import find_groups
from tfsparse.graph.rebuild import flat

_LOG = logging.getLogger("tfsparse")


@dataclasses.dataclass(frozen=True)
class Result:
    """What `fit_shrinking` returns.

    Attributes:
        model: The small model, stock layers only, compiled like the one given.
        history: One dict an epoch, see `State.history`.
        removals: What was removed, and when.
    """

    model: Any
    history: list[records.Epoch]
    removals: list[records.Removal]


def fit_shrinking(
    model,
    method,
    x,
    y=None,
    *,
    epochs: int,
    shrink_epochs: int | None = None,
    target: Mapping[str, float] | None = None,
    trials: int = 0,
    fill: bool = True,
    ramp: float = 1.5,
    remove: bool = True,
    limits: budgets.Limits | None = None,
    **fit_arguments,
) -> Result:
    """Trains a model while its dead units are removed; the drop-in for `model.fit`.

    Args:
        model: A compiled Functional or Sequential model; it is not changed.
        method: Such as `ShrinkNets(strength=4e-3)`.
        x, y: As for `fit`: arrays `(samples, ...)`, or a `tf.data.Dataset` as `x`.
        epochs: Passes over the data.
        shrink_epochs: How many of them the penalty lasts at most; half by default.
        target: What may remain, such as `{"params": 0.1}`: values up to 1 are the
            fraction that remains, larger ones absolute; measures are `budgets.MEASURES`.
            Ends the penalty as soon as it is met.
        trials: If positive, the penalty is not ended by the target: its strength is
            bisected until the penalty alone just meets the target, in at most that many
            trials; then training goes on from the best one. Callbacks see that last part
            alone.
        fill: Whether what the penalty left is fitted to the target by rank.
        ramp: With a target and no trials: the factor by which the strength grows after an
            epoch that leaves more of the way to the target than its share; 1 keeps it.
        remove: Whether dead units leave during training or only at its end.
        limits: How many units groups keep, such as `tfsparse.Limits(round_to=4)`.
        **fit_arguments: Passed on to `fit`.

    Returns:
        A `Result`.

    Raises:
        ValueError: The model is not compiled or has nothing to remove, or an argument is
            outside its range.
        TrainingError: Everything died, the penalty is too strong; or no trial met the
            target.

    Example:
        >>> result = fit_shrinking(model, ShrinkNets(4e-3), x, y, epochs=10)
        >>> result.model.evaluate(x_test, y_test)

    Reference: ShrinkNets draft, section 3.1.
    """
    if not getattr(model, "compiled", False):
        raise ValueError(
            "`model` must be compiled. Received: a model without compile()."
        )
    if shrink_epochs is None:
        shrink_epochs = epochs // 2 if isinstance(epochs, numbers.Integral) else 0
    _check(method, x, y, epochs, shrink_epochs)
    methods.check_class(type(method))
    budgets.check(target)
    settings = SparseSettings(
        epochs=epochs,
        shrink_epochs=shrink_epochs,
        target=options.as_text(target),
        trials=trials,
        fill=fill,
        ramp=ramp,
        remove=remove,
    )
    limits = limits or budgets.Limits()
    context = FitContext(method, model, x, y, epochs, limits, fit_arguments)
    stage = Sparse(settings, method)
    stage.check({})
    plain = flat(model)
    results = go([stage], context, {"model": records.Result(plain)})
    found: Any = results["sparse"]
    sizes = limiting.sizes_of(find_groups(plain, method.kinds))
    bounds = found.facts.get("bounds") or {}
    ranked = filling.by_rank(found.facts)
    small, _ = finishing.finish(found.model, method, limits, sizes, ranked)
    for row in filling.shares(small, bounds):
        if row["share"] > 1:
            _LOG.warning(
                "The target %(measure)s=%(bound)g is not met: %(left)g left.", row
            )
    optimizers.recompile(small, model, context.fresh_optimizer(small))
    state = shrinking.State.from_json(found.facts)
    return Result(small, found.history, state.removals)


def _check(method, x, y, epochs, shrink_epochs) -> None:
    """Checks what needs no model. Raises ValueErrors."""
    if not isinstance(method, methods.Method):
        raise ValueError(
            "`method` must be an object, such as ShrinkNets(strength=4e-3). Received: "
            f"{method!r}."
        )
    if "sparse" not in method.stages:
        raise ValueError(
            "`method` must have a penalty to train under. Received: "
            f"{type(method).__name__}, which works in stages of its own: run "
            f"python -m tfsparse.train --method={methods.title_of(method)}."
        )
    for name, value, least in (
        ("epochs", epochs, 1),
        ("shrink_epochs", shrink_epochs, 0),
    ):
        if not isinstance(value, numbers.Integral) or value < least:
            raise ValueError(
                f"`{name}` must be a whole number from {least} on. Received: "
                f"{name}={value!r}."
            )
    if y is not None and not len(keras.tree.flatten(x)[0]):
        raise ValueError("`x` must hold samples. Received: none.")


class FitContext(Context):
    """One call of `fit_shrinking`: the user's data, optimizer, loss and callbacks.

    Args:
        method: What decides.
        model: The user's compiled model.
        x, y: As for `fit`.
        epochs: In all.
        limits: Of the units that groups keep.
        arguments: What else `fit` is given.
    """

    seed = 0
    steps = 1
    training = Training()

    def __init__(self, method, model, x, y, epochs, limits, arguments):
        arguments = dict(arguments)
        callbacks = keras.tree.flatten(arguments.pop("callbacks", None) or [])
        self.method, self.limits = method, limits
        self.store, self.progress = checkpoints.Nowhere(), progress_lib.Silent()
        self._model, self._x, self._y, self._epochs = model, x, y, epochs
        self._arguments = {"verbose": 0, **arguments}
        self._callbacks = [_Continued(callback) for callback in callbacks]
        self.samples = _samples(x, self._arguments)

    def fresh_optimizer(self, model):
        """The user's optimizer for another model, without its state."""
        optimizer = self._model.optimizer
        fresh = optimizer.__class__.from_config(optimizer.get_config())
        optimizers.spare_decay(
            fresh, model.trainable_variables, optimizer, self._model.trainable_variables
        )
        return fresh

    def compile(self, model, rate, optimizer=None):
        """As the user's model is compiled; its learning rate, too, is the user's."""
        optimizer = optimizer or self.fresh_optimizer(model)
        optimizers.recompile(model, self._model, optimizer)

    def fit_epoch(self, model, name, epoch, rate, bar, fitted=None):
        """One epoch of `fit`; trials are not shown to the user's callbacks."""
        callbacks = [] if bar.name.startswith("trial") else self._callbacks
        for callback in callbacks:
            callback.last = epoch == self._epochs - 1
        logs = model.fit(
            self._x,
            self._y,
            initial_epoch=epoch,
            epochs=epoch + 1,
            callbacks=list(callbacks),
            **self._arguments,
        )
        return {key: values[-1] for key, values in logs.history.items()}

    @property
    def tools(self):
        return records.Tools(self.curvature, self.check_curvature)

    def check_curvature(self, model, form: str) -> None:
        """Raises a ValueError where the loss or a layer has no known curvature."""
        curvature.check(model, form, self._model.loss)

    def curvature(self, model, form: str) -> curvature.Curvature:
        """The diagonal Hessian on some training samples: of arrays, evenly spaced ones."""
        if self._y is not None:
            # Not the first ones: files are often sorted by class.
            few = np.linspace(0, self.samples - 1, CURVATURE_SAMPLES).astype(int)
            few = np.unique(few)
            x = keras.tree.map_structure(lambda a: np.asarray(a)[few], self._x)
            batches = curvature.batches(x, np.asarray(self._y)[few])
        else:  # batches already
            stream = self._x if hasattr(self._x, "take") else _items(self._x)
            batches = _first(stream, CURVATURE_SAMPLES)
        return curvature.diagonal(model, batches, form, loss=self._model.loss)


def _items(sequence):
    return map(sequence.__getitem__, range(len(sequence)))


def _first(stream, samples: int):
    """Batches of a stream until they hold so many samples."""
    for x, y, *_ in stream:
        yield x, np.asarray(y)
        samples -= len(y)
        if samples <= 0:
            return


def _samples(x, fit_arguments) -> int:
    if hasattr(x, "cardinality") or isinstance(x, keras.utils.PyDataset):
        stream = hasattr(x, "cardinality")
        batch = next(iter(x.take(1))) if stream else x[0]
        batches = fit_arguments.get("steps_per_epoch")
        if batches is None:
            batches = int(x.cardinality()) if stream else x.num_batches
        return max(0, batches or 0) * len(keras.tree.flatten(batch)[0])
    share = 1.0 - float(fit_arguments.get("validation_split") or 0.0)
    return int(len(keras.tree.flatten(x)[0]) * share)


class _Continued(keras.callbacks.Callback):
    """Lets a user's callback see one training run where there is one fit per epoch."""

    def __init__(self, callback):
        super().__init__()
        self._callback = callback
        self._begun = False
        self.last = False

    def set_model(self, model):
        if self.model is not None and self.model is not model:
            # Weights remembered from before a removal do not fit any more.
            if getattr(self._callback, "best_weights", None) is not None:
                self._callback.best_weights = None
        super().set_model(model)
        self._callback.set_model(model)

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
