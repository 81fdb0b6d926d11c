"""The drop-in for `fit`: a model goes in, a smaller trained one comes out."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfsparse import bisection, curvature, methods, optimizers, records, shrinking
from tfsparse.graph import find_groups, measure
from tfsparse.graph.rebuild import flat

CURVATURE_SAMPLES = 2048
"""Training samples that the curvature of a loss is worked out on."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What `fit_shrinking` returns.

    Attributes:
        model: The small model, stock layers only, compiled like the one given.
        history: One dict an epoch, see `State.history`.
        removals: What was removed, and when.
    """

    model: Any
    history: list[dict]
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
    remove: bool = True,
    **fit_arguments,
) -> Result:
    """Trains a model while its dead units are removed; the drop-in for `model.fit`.

    Args:
        model: A compiled Functional or Sequential model; it is not changed.
        method: Such as `ShrinkNets(strength=4e-3)`.
        x, y: As for `fit`: arrays `(samples, ...)`, or a `tf.data.Dataset` as `x`.
        epochs: Passes over the data.
        shrink_epochs: How many of them the penalty lasts at most; half by default.
        target: Ends the penalty as soon as it is met, such as `{"params": 0.1}`;
            values up to 1 are the fraction that remains, larger ones absolute.
        trials: If positive, the penalty is not ended by the target: its strength is
            bisected until `shrink_epochs` of it just meet the target, in at most that
            many trials; then training goes on from the best one. Callbacks see that last
            part alone.
        remove: Whether dead units leave during training or only at its end.
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
    method.check_target(target, trials)
    bounds = shrinking.absolute_target(target, measure(model))
    if trials and (bounds is None or not 1 <= shrink_epochs < epochs):
        raise ValueError(
            "`trials` must come with a target, and with epochs before and after the end "
            f"of the penalty. Received: trials={trials}, target={target}, "
            f"shrink_epochs={shrink_epochs}, epochs={epochs}."
        )
    job = _Fit(model, x, y, bounds, epochs, shrink_epochs, remove, fit_arguments)
    plain = flat(model)
    if trials:
        state = job.bisected(method, plain, trials)
    else:
        state = job.started(method, plain)
    state = job.run(state, method, bounds)
    small, _ = shrinking.finish(state.model, method)
    optimizers.recompile(small, model, job.fresh_optimizer(small))
    return Result(small, state.history, state.removals)


def _check(method, x, y, epochs, shrink_epochs) -> None:
    """Looks at what needs no model. Raises ValueErrors."""
    if not isinstance(method, methods.Method):
        raise ValueError(
            "`method` must be an object, such as ShrinkNets(strength=4e-3). Received: "
            f"{method!r}."
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


class _Fit:
    """What all trainings of one call of `fit_shrinking` share."""

    def __init__(self, model, x, y, bounds, epochs, shrink_epochs, remove, arguments):
        callbacks = keras.tree.flatten(arguments.pop("callbacks", None) or [])
        self.model, self.x, self.y, self.bounds = model, x, y, bounds
        self.epochs, self.shrink_epochs, self.remove = epochs, shrink_epochs, remove
        self.arguments = {"verbose": 0, **arguments}
        self.callbacks = [_Continued(callback) for callback in callbacks]

    def fresh_optimizer(self, model):
        """The user's optimizer for another model, without its state."""
        optimizer = self.model.optimizer
        fresh = optimizer.__class__.from_config(optimizer.get_config())
        optimizers.spare_decay(
            fresh, model.trainable_variables, optimizer, self.model.trainable_variables
        )
        return fresh

    def started(self, method, plain, parent=None) -> shrinking.State:
        """Where a run of a method begins: at the plain model, or where a state ended."""
        if parent is not None:
            plain, _ = shrinking.finish(parent.model, method)
        groups = find_groups(plain, method.kinds)
        sparse = method.prepare(plain, groups)
        optimizer = method.optimizer(sparse, groups) or self.fresh_optimizer(sparse)
        optimizers.recompile(sparse, self.model, optimizer)
        if parent is not None:
            return shrinking.State(
                sparse, removals=list(parent.removals), groups=parent.groups
            )
        return shrinking.State(sparse)

    def run(self, state, method, target, until_settled=False) -> shrinking.State:
        """Goes on to the last epoch, or to the end of the penalty."""

        def fit_epoch(running, epoch):
            callbacks = [] if until_settled else self.callbacks
            for callback in callbacks:
                callback.last = epoch == self.epochs - 1
            own = method.callbacks(running, find_groups(running, method.kinds))
            logs = running.fit(
                self.x,
                self.y,
                initial_epoch=epoch,
                epochs=epoch + 1,
                callbacks=[*callbacks, *own],
                **self.arguments,
            )
            return {key: values[-1] for key, values in logs.history.items()}

        return shrinking.run(
            state,
            method,
            fit_epoch,
            epochs=self.epochs,
            shrink_epochs=self.shrink_epochs,
            target=target,
            samples=_samples(self.x, self.arguments),
            remove=self.remove,
            until_settled=until_settled,
            tools=records.Tools(self.curvature, self.check_curvature),
        )

    def check_curvature(self, model, form: str) -> None:
        """Raises a ValueError where the loss or a layer has no known curvature."""
        if not _is_sparse_cross_entropy(self.model.loss):
            raise ValueError(
                "`model` must be compiled with sparse categorical cross-entropy, whose "
                f"curvature is known. Received: loss={self.model.loss!r}."
            )
        curvature.check(model, form)

    def curvature(self, model, form: str) -> curvature.Curvature:
        """The diagonal Hessian on some training samples: of arrays, evenly spaced ones."""
        if self.y is not None:
            # Not the first ones: files are often sorted by class.
            count = _samples(self.x, self.arguments)
            few = np.unique(np.linspace(0, count - 1, CURVATURE_SAMPLES).astype(int))
            x = keras.tree.map_structure(lambda a: np.asarray(a)[few], self.x)
            data = curvature.batches(x, np.asarray(self.y)[few])
        else:  # batches already
            stream = self.x if hasattr(self.x, "take") else map(self.x.__getitem__,
                range(len(self.x)))  # fmt: skip
            data = _first(stream, CURVATURE_SAMPLES)
        return curvature.diagonal(model, data, form)

    def bisected(self, method, plain, trials: int) -> shrinking.State:
        """The end of the penalty, with the strength that just meets the target."""
        states: dict[int, shrinking.State] = {}

        def trial(number, strength, parent):
            own = method.with_strength(strength)
            first = self.started(own, plain, states.get(parent))
            state = self.run(first, own, None, until_settled=True)
            states[number] = state
            cost = shrinking.share(measure(state.model), self.bounds)
            return cost, method.warm and shrinking.steady(state.history)

        made = bisection.search(trial, method.get_config()["strength"], trials)
        return states[bisection.best(made)]


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


def _is_sparse_cross_entropy(loss) -> bool:
    if isinstance(loss, list | tuple) and len(loss) == 1:
        loss = loss[0]
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    return (
        isinstance(loss, keras.losses.SparseCategoricalCrossentropy)
        or loss is keras.losses.sparse_categorical_crossentropy
    )


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
