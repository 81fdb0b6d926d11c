"""What stages may ask of whoever runs them: a run with a folder, or one call of Python."""

from __future__ import annotations

import abc
import contextlib
import copy
import math
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from tfsparse import (
    budgets,
    checkpoints,
    curvature,
    data,
    optimizers,
    records,
)
from tfsparse import progress as progress_lib
from tfsparse.deploy import agreement, interpreters
from tfsparse.engine import scoring, sealed, training

if TYPE_CHECKING:
    from tfsparse.methods import Method

STEPS_PER_CALL = 20
"""Steps that run in the graph between two looks of Python."""

CURVATURE_SAMPLES = 2048
"""Training samples that the curvature of a loss is worked out on."""


class Context(abc.ABC):
    """What a stage may ask. Subclasses set the attributes.

    Attributes:
        method: What decides, or None.
        seed: Of everything random.
        samples: Training samples an epoch.
        steps: Steps an epoch.
        training: How every stage trains.
        limits: Of the units that groups keep.
        store: Where checkpoints are.
        progress: What a person sees.
    """

    method: Method | None
    seed: int
    samples: int
    steps: int
    training: training.Training
    limits: budgets.Limits
    store: checkpoints.Store | checkpoints.Nowhere
    progress: progress_lib.Progress | progress_lib.Silent

    def scope(self) -> contextlib.AbstractContextManager:
        """Where models are built."""
        return contextlib.nullcontext()

    def latest(self, name: str) -> records.Result | None:
        """The newest checkpoint of a stage, or None."""
        found = self.store.latest(name, self.scope)
        if found is not None and getattr(found.model, "optimizer", None) is not None:
            # What weight decay leaves alone, no file tells.
            model = found.model
            optimizers.spare_decay(model.optimizer, model.trainable_variables)
        return found

    @abc.abstractmethod
    def compile(self, model, rate: float, optimizer=None) -> None:
        """Compiles a model to be trained.

        Args:
            model: The model.
            rate: Learning rate to begin with.
            optimizer: A method's own, a name, or None for the run's.
        """

    @abc.abstractmethod
    def fit_epoch(
        self, model, name: str, epoch: int, rate: float, bar, fitted=None
    ) -> dict:
        """Trains one epoch; its random numbers come from (seed, name, epoch) alone.

        Args:
            model: What is trained.
            name: Of the stage.
            epoch: Counted from 0.
            rate: The learning rate.
            bar: What a person sees.
            fitted: What is fitted in its place, a model with another loss around it.

        Returns:
            Keras's logs.
        """

    def begin(self, model) -> None:
        """Called with a prepared, compiled model before it is trained: what it begins with."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of groups that the method decides about; units without one."""
        return self.method.kinds if self.method else ("unit",)

    @property
    @abc.abstractmethod
    def tools(self) -> records.Tools:
        """What a method may ask for."""

    def score(self, model) -> float | None:
        """Validation score of a model in training, for the report; None where none is told."""
        return None


class RunContext(Context):
    """A run of the command line: a data set, a folder, learning rates from flags.

    Args:
        method: What decides, or None.
        dataset: The data, with what is predicted, as the network answers it; the context
            keeps their test split behind a door.
        store: The run's folder.
        shown: What a person sees.
        training_: How every stage trains.
        limits: Of the units that groups keep.
        augmentation: What is done to training samples.
        seed: Of everything random.
        strategy: How training is spread over devices, see `strategy_of`.
    """

    store: checkpoints.Store
    progress: progress_lib.Progress

    def __init__(
        self,
        method,
        dataset: data.Dataset,
        store: checkpoints.Store,
        shown: progress_lib.Progress,
        training_: training.Training,
        limits: budgets.Limits,
        augmentation: dict[str, float],
        seed: int,
        strategy: Any,
    ):
        self.method, self.store = method, store
        self.home = store
        """The folder of the run itself, also where `store` is that of one below it."""
        self.door = sealed.Door(dataset)
        self.dataset = dataset = self.door.dataset
        self.task = dataset.task
        self.progress, self.training, self.limits = shown, training_, limits
        self.seed, self.strategy = seed, strategy
        self.samples = len(dataset.x_train)
        batch_size = training_.batch_of(self.samples)
        self._passes = training_.passes_of(self.samples)
        self.steps = math.ceil(self._passes * self.samples / batch_size)
        self._train = data.Batches(
            dataset.x_train, dataset.y_train, batch_size, augmentation
        )
        self._validation = data.Batches(
            dataset.x_validation,
            dataset.y_validation,
            interpreters.batch_size(dataset.shape),
        )

    def beside(self, label: str) -> RunContext:
        """The same run, its results in a folder of that name below its own."""
        other = copy.copy(self)
        other.store = checkpoints.Store(self.store.path(label))
        return other

    @contextlib.contextmanager
    def scope(self):
        own = self.task.custom_objects()
        with self.strategy.scope(), keras.saving.custom_object_scope(own):
            yield

    def compile(self, model, rate, optimizer=None):
        mirrored = self.strategy.num_replicas_in_sync > 1
        decay = self.training.weight_decay or None
        if optimizer in (None, "same"):
            optimizer = self.training.optimizer
        if optimizer == "adam":
            optimizer = keras.optimizers.Adam(rate, weight_decay=decay)
        elif optimizer == "sgd":
            optimizer = keras.optimizers.SGD(rate, momentum=0.9, weight_decay=decay)
        optimizers.spare_decay(optimizer, model.trainable_variables)
        if not optimizer.built:  # variables born in a first step have it traced twice
            optimizer.build(model.trainable_variables)
        model.compile(
            optimizer,
            self.task.loss(),
            metrics=self.task.metrics(),
            # Replicas inside Keras's loop of steps: TensorFlow loses a placeholder (2.21).
            steps_per_execution=1 if mirrored else min(STEPS_PER_CALL, self.steps),
            # XLA on a CPU halves the speed of convolutions and quadruples a retrace.
            jit_compile="auto" if tf.config.list_physical_devices("GPU") else False,
        )

    def fit_epoch(self, model, name, epoch, rate, bar, fitted=None):
        seed = (self.seed, sum(map(ord, name)), epoch)
        model.optimizer.learning_rate.assign(rate)
        _reseed(model, fitted, seed)
        result = (fitted or model).fit(
            self.epoch(name, epoch),
            validation_data=self.validation_batches(),
            initial_epoch=epoch,
            epochs=epoch + 1,
            verbose=0,
            shuffle=False,
            callbacks=[bar.callback()],
        )
        return {key: float(values[-1]) for key, values in result.history.items()}

    def epoch(self, name: str, epoch: int):
        """The batches of an epoch of a stage, as `fit_epoch` trains on them."""
        seed = (self.seed, sum(map(ord, name)), epoch)
        return self._train.epoch(seed, self._passes)

    def validation_batches(self):
        """The batches of the validation split, in order."""
        return self._validation.epoch()

    def first_batch(self):
        """A training batch, in the order of the data; none where devices share batches."""
        if self.strategy.num_replicas_in_sync > 1:
            return iter(())
        return iter(self._train.epoch().take(1))

    @property
    def tools(self):
        """The diagonal Hessian on some training samples, for methods that ask."""

        def diagonal(model, form: str) -> curvature.Curvature:
            x, y = self.training_samples(CURVATURE_SAMPLES)
            batches, loss = curvature.batches(x, y), self.task.loss()
            return curvature.diagonal(model, batches, form, loss=loss)

        def check(model, form: str) -> None:
            curvature.check(model, form, self.task.loss())

        return records.Tools(diagonal, check)

    def training_samples(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Training samples and their targets, drawn by the run's seed."""
        rng = np.random.default_rng((self.seed, 1))
        chosen = rng.choice(self.samples, min(count, self.samples), False)
        x = scoring.as_floats(self.dataset.x_train[chosen])
        labels = self.dataset.y_train
        return x, x if labels is None else labels[chosen]

    def calibration_samples(self, count: int) -> np.ndarray:
        """Training samples that set int8 ranges, drawn by the run's seed.

        Where each has one class, every class has as many, so far as there are.
        """
        labels = self.dataset.y_train if self.task.sorts else None
        chosen = agreement.balanced(self.samples, labels, count, self.seed)
        return scoring.as_floats(self.dataset.x_train[chosen])

    def validated(self, model) -> np.ndarray:
        """How well a model does each validation sample: `(n,)`, more is better."""
        found = self.dataset
        return scoring.goodness(
            self.task, model, found.x_validation, found.y_validation
        )

    def score(self, model):
        found, task = self.dataset, self.task.on_validation
        return scoring.score(task, model, found.x_validation, found.y_validation).value


def strategy_of(name: str) -> Any:
    """How training is spread over devices: `none`, or `mirrored` over all GPUs."""
    if name == "mirrored":
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def _reseed(model, fitted, seed: tuple[int, ...]) -> None:
    """Restarts the random numbers of layers, so that a resumed epoch draws the same."""
    own = {id(variable) for variable in model.variables}
    more = [v for v in fitted.variables if id(v) not in own] if fitted else []
    for number, variable in enumerate([*model.variables, *more]):
        if "seed_generator_state" in variable.path:
            words = np.random.SeedSequence((*seed, number)).generate_state(2, np.uint32)
            variable.assign(words.astype(variable.dtype))
