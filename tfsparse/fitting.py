"""The drop-in for `fit`: a model goes in, a smaller trained one comes out."""

from __future__ import annotations

import dataclasses
import inspect
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
from tfsparse.data import streams
from tfsparse.engine import continued, filling, finishing, limiting, shrinking
from tfsparse.engine.context import CURVATURE_SAMPLES, Context
from tfsparse.engine.prunable import prunable
from tfsparse.engine.runner import go
from tfsparse.engine.stages.sparse import Sparse, SparseSettings
from tfsparse.engine.training import Training
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
        x, y: As for `fit`: arrays `(samples, ...)` in any structure; or, as `x`, a
            `tf.data.Dataset`, a PyDataset or a generator. With `steps_per_epoch` an epoch
            goes on in them where the last one stopped, as inside one `fit`.
        epochs: Epochs in all.
        shrink_epochs: How many of those that are trained (without the first
            `initial_epoch`) the penalty lasts at most; half by default.
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
    _check_model(model, fit_arguments)
    begun = fit_arguments.get("initial_epoch", 0)
    if shrink_epochs is None:
        whole = all(isinstance(n, numbers.Integral) for n in (epochs, begun))
        shrink_epochs = max(0, epochs - begun) // 2 if whole else 0
    _check(method, epochs, shrink_epochs, begun)
    methods.check_class(type(method))
    budgets.check(target)
    settings = SparseSettings(
        epochs=epochs - begun,
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
    sizes = limiting.sizes_of(prunable(plain, method.kinds))
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


OWN_STEPS = (
    "train_step",
    "compute_loss",
    "compute_metrics",
    "make_train_function",
    "fit",
)
"""What a model's class may do otherwise, of which a smaller network would know nothing."""


def _check_model(model, arguments) -> None:
    """Checks that copies of the model train as it does, and `fit`'s arguments by name."""
    own = [
        name
        for name in OWN_STEPS
        if getattr(type(model), name) is not getattr(keras.Model, name)
    ]
    if own:
        raise ValueError(
            "`model` must train as Keras trains: smaller networks take its place. Received: "
            f"{type(model).__name__} with its own {', '.join(own)}. Put it into the loss, "
            "metrics or layers."
        )
    known = set(inspect.signature(keras.Model.fit).parameters) - {"self", "x", "y"}
    if unknown := sorted(set(arguments) - known):
        raise ValueError(
            f"`fit` must know its arguments, among {', '.join(sorted(known))}. Received: "
            f"{', '.join(unknown)}."
        )


def _check(method, epochs, shrink_epochs, begun) -> None:
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
        ("initial_epoch", begun, 0),
        ("epochs", epochs, 1),
        ("shrink_epochs", shrink_epochs, 0),
    ):
        if not isinstance(value, numbers.Integral) or value < least:
            raise ValueError(
                f"`{name}` must be a whole number from {least} on. Received: "
                f"{name}={value!r}."
            )
    if begun >= epochs:
        raise ValueError(
            f"`epochs` must be above initial_epoch, {begun}. Received: epochs={epochs}."
        )


class FitContext(Context):
    """One call of `fit_shrinking`: the user's data, optimizer, loss and callbacks.

    Args:
        method: What decides.
        model: The user's compiled model.
        x, y: As for `fit`.
        epochs: In all, those before the first included.
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
        self._model, self._epochs = model, epochs
        self._first = arguments.pop("initial_epoch", 0)
        continued.check(callbacks)
        self._callbacks = [
            continued.Continued(callback, lambda stock: self.compile(stock, None))
            for callback in callbacks
        ]
        self._feed, rest = streams.open_feed(x, y, arguments)
        self._validation, rest = _validation(rest)
        self._arguments = {"verbose": 0, **rest}
        self.samples = self._feed.samples

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
        number = self._first + epoch
        for callback in callbacks:
            callback.last = number == self._epochs - 1
        logs = model.fit(
            **self._feed.epoch(),
            **self._validated(number),
            **self._arguments,
            initial_epoch=number,
            epochs=number + 1,
            callbacks=list(callbacks),
        )
        if number < self._epochs - 1 and not self._feed.more():
            _LOG.warning(
                "The data ran out in epoch %d: training ends there. Give a generator that "
                "yields steps_per_epoch batches in each epoch.",
                number + 1,
            )
            model.stop_training = True
        return {key: values[-1] for key, values in logs.history.items()}

    def _validated(self, number: int) -> dict[str, Any]:
        """The validation data of an epoch, where they are a stream."""
        often = self._arguments.get("validation_freq", 1)
        wanted = (
            (number + 1) % often == 0
            if isinstance(often, numbers.Integral)
            else number + 1 in often
        )
        if self._validation is None or not wanted:
            return {}
        if not self._validation.more():
            _LOG.warning("The validation data ran out: epoch %d has none.", number + 1)
            return {}
        return {"validation_data": self._validation.epoch()["x"]}

    @property
    def tools(self):
        return records.Tools(self.curvature, self.check_curvature)

    def check_curvature(self, model, form: str) -> None:
        """Raises a ValueError where the loss or a layer has no known curvature."""
        curvature.check(model, form, self._model.loss)

    def curvature(self, model, form: str) -> curvature.Curvature:
        """The diagonal Hessian on some training samples: of arrays, evenly spaced ones."""
        samples = self._feed.first(CURVATURE_SAMPLES)
        pairs = ((x, _single(y)) for x, y, *_ in samples)
        batches = (batch for x, y in pairs for batch in curvature.batches(x, y))
        return curvature.diagonal(model, batches, form, loss=self._model.loss)


def _single(y) -> np.ndarray:
    """The targets of the one output, in whatever structure they are given."""
    parts = keras.tree.flatten(y)
    return np.asarray(parts[0] if len(parts) == 1 else y)


def _validation(arguments) -> tuple[Any, dict]:
    """The feed of validation data that begin anew only as `fit` would, and what is left."""
    given = arguments.get("validation_data")
    if given is None or isinstance(given, tuple | list):
        return None, arguments
    rest = {k: v for k, v in arguments.items() if k != "validation_data"}
    steps = {name: rest.pop(name, None) for name in ("validation_steps",)}
    return streams.open_feed(given, None, steps | {"shuffle": False}, *steps)[0], rest
