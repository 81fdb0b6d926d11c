"""What all training has in common: optimizers, rates, and going on after a kill."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from tfsparse import meters, options, records

if TYPE_CHECKING:
    from tfsparse.engine.context import Context

OPTIMIZERS = ("adam", "sgd")

LEAST_BATCH, MOST_BATCH = 8, 128
"""Limits of a batch size that nobody set."""

LEAST_STEPS = 64
"""So many steps an epoch shall have where nobody set the batch size: on small data what is
learned, and what dies, hangs on steps."""


@options.record
class Training(options.Options):
    """How every stage trains."""

    part = "Training, in every stage"

    batch_size: int = options.field(
        0,
        "Samples a step, those of all replicas together; 0 takes 128, and fewer of small "
        "data, so that an epoch has 64 steps or more.",
        low=0,
    )
    passes: int = options.field(
        0,
        "How often an epoch goes through the data; 0 takes once, and where --batch_size is "
        "0, too, as often as 64 steps need.",
        low=0,
    )
    optimizer: str = options.field(
        "adam",
        "Optimizer of every stage, but of the sparse stage under a method that brings its "
        "own; sgd has momentum 0.9.",
        choices=OPTIMIZERS,
    )
    learning_rate: float = options.field(
        3e-3,
        "Learning rate while a penalty is on, constant. A method with an optimizer of its "
        "own has a rate of its own in the sparse stage.",
        above=0,
    )
    settle_learning_rate: float = options.field(
        2e-3,
        "Learning rate of training without a penalty (of the dense stage, after the "
        "penalty, and without a method), falling to 0 along a cosine.",
        low=0,
    )
    weight_decay: float = options.field(
        0.0, "Weight decay of --optimizer, decoupled from the gradient.", low=0
    )
    drop_every: int = options.field(
        0, "Divide all rates by 10 every so many epochs, instead of the cosine.", low=0
    )
    hold_zeros: bool = options.field(
        False,
        "Weights of kernels that are zero before dense training, training without a method "
        "or fine-tuning stay zero.",
    )

    def batch_of(self, samples: int) -> int:
        """Samples a step: what is set, or a power of two that suits the data.

        Example:
            >>> Training().batch_of(54_000), Training().batch_of(1_294)
            (128, 16)
        """
        if self.batch_size:
            return self.batch_size
        most = max(LEAST_BATCH, min(MOST_BATCH, samples // LEAST_STEPS))
        return min(samples, 1 << (most.bit_length() - 1))

    def passes_of(self, samples: int) -> int:
        """How often an epoch goes through the data.

        Example:
            >>> Training().passes_of(54_000), Training().passes_of(36)
            (1, 13)
        """
        if self.passes or self.batch_size:
            return self.passes or 1
        steps = -(-samples // self.batch_of(samples))
        return -(-LEAST_STEPS // steps)

    def rate(self, first: float, epoch: int, epochs: int) -> float:
        """The learning rate of an epoch without penalty: along a cosine, or in drops."""
        if self.drop_every:
            return first * 0.1 ** (epoch // self.drop_every)
        return 0.5 * first * (1 + math.cos(math.pi * epoch / max(1, epochs)))


def carry_on(
    context: Context,
    name: str,
    last: int,
    start: Callable[[], records.Result],
    step: Callable[[records.Result, int, Any], records.Result],
    done: Callable[[records.Result], bool] = lambda result: False,
) -> records.Result:
    """The one rule of training: from the newest checkpoint on, one kept after each epoch.

    Args:
        context: Knows where checkpoints are.
        name: Under which name they are kept.
        last: Epochs in all.
        start: Makes the result to begin with, where there is no checkpoint.
        step: `(result, epoch, bar) -> result`, trains one epoch and adds it to the history.
        done: Whether to stop before the last epoch.
    """
    result = context.latest(name)
    fresh = result is None
    if result is None:
        result = start()
    bar = context.progress.stage(name, last, context.steps)
    with bar, naming_the_last_checkpoint(context, name):
        while len(result.history) < last and not done(result):
            epoch = len(result.history)
            following = step(result, epoch, bar)
            smaller = following.model is not result.model
            result = following
            if smaller:  # nothing holds the larger one any more
                del following
                meters.release_memory()
            context.store.save(name, epoch + 1, result)
            context.store.log(name, epoch, result.history[-1])
    if not last and fresh:
        # An optimizer that was never built cannot be read back.
        result.model.optimizer.build(result.model.trainable_variables)
        context.store.save(name, 0, result)
    return result


@contextlib.contextmanager
def naming_the_last_checkpoint(context: Context, name: str) -> Iterator[None]:
    """Adds to what went wrong in a stage where the last good model of it lies."""
    try:
        yield
    except records.TrainingError as error:
        if not context.store.keeps:
            raise
        kept = context.store.latest_path(name) or "none yet"
        raise records.TrainingError(f"{error} Last good checkpoint: {kept}.") from error


def train(
    context: Context,
    name: str,
    start: Callable[[], Any],
    epochs: int,
    first_rate: float,
    prepare: Callable[[Any], Any] = lambda model: None,
) -> records.Result:
    """Trains a model as it is, its rate falling; goes on from its checkpoints.

    Args:
        context: Trains an epoch.
        name: Under which name checkpoints are kept, and random numbers drawn.
        start: Makes the compiled model to begin with.
        epochs: In all.
        first_rate: The learning rate of the first epoch.
        prepare: Called with the model before it is trained, or trained on; returns the
            model to fit in its place, such as one with another loss, or None for itself.

    Raises:
        TrainingError: The loss is not finite.
    """
    fitted: list[Any] = []

    def step(result, epoch, bar):
        if not fitted:
            if context.training.hold_zeros:
                hold_zeros(result.model)
            fitted.append(prepare(result.model))
        with meters.metered() as spent:
            rate = context.training.rate(first_rate, epoch, epochs)
            logs = context.fit_epoch(result.model, name, epoch, rate, bar, fitted[0])
        if not math.isfinite(logs["loss"]):
            raise records.TrainingError(
                f"The loss must stay finite. Received: {logs['loss']} in stage "
                f"{name!r}, epoch {epoch + 1}. Lower the learning rate."
            )
        result.history.append({**logs, **spent})
        return result

    return carry_on(context, name, epochs, lambda: records.Result(start()), step)


def hold_zeros(model) -> None:
    """Makes every weight of a kernel that is zero stay zero while the model trains.

    Args:
        model: A model of stock layers; its kernels get a constraint.
    """
    import keras

    for variable in model.trainable_variables:
        if len(variable.shape) > 1:
            there = (keras.ops.convert_to_numpy(variable) != 0).astype(variable.dtype)
            if not there.all():
                variable.constraint = lambda value, there=there: value * there
