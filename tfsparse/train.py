"""The main job: train, shrink, strip, fine-tune, export, verify, report.

python -m tfsparse.train --flagfile=configs/mnist.flags
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
from typing import Any

from tfsparse import files

with files.quiet():  # TensorFlow's native start-up chatter would hide our one line
    import keras
    import numpy as np
    import tensorflow as tf

    from tfsparse import (
        bisection,
        checkpoints,
        curvature,
        data,
        deploy,
        distillation,
        fitting,
        flags,
        meters,
        optimizers,
        outcome,
        records,
        shrinking,
        zoo,
    )
    from tfsparse import progress as progress_lib
    from tfsparse.deploy import interpreters
    from tfsparse.graph import find_groups, measure
    from tfsparse.graph.rebuild import flat

    tf.config.list_logical_devices()
    tf.get_logger().setLevel("ERROR")  # a removal retraces; that is no news

STEPS_PER_CALL = 20
"""Steps that run in the graph between two looks of Python."""


NOTHING = records.Cost(*[0] * len(dataclasses.fields(records.Cost)))
"""To check a target's names before any work is done."""


DEFAULTS = flags.as_json(flags.RunConfig())
"""What a run of an older version had for flags that it did not know."""


@dataclasses.dataclass
class Run:
    """What all stages of one run share."""

    config: flags.RunConfig
    dataset: data.Dataset
    store: checkpoints.Store
    strategy: Any
    progress: progress_lib.Progress
    train: data.Batches
    validation: data.Batches

    def scope(self):
        """Where models are built."""
        return self.strategy.scope()

    def latest(self, stage: str) -> checkpoints.Checkpoint | None:
        """The newest checkpoint of a stage, or None."""
        found = self.store.latest(stage, self.scope)
        if found is not None and found.model.optimizer is not None:
            # What weight decay leaves alone, no file tells.
            model = found.model
            optimizers.spare_decay(model.optimizer, model.trainable_variables)
        return found


def main(arguments: list[str] | None = None) -> int:
    """The program. Returns the exit code: 0, or 2 after one line of explanation."""
    try:
        config, resume = flags.parse(list(sys.argv if arguments is None else arguments))
        run(config, resume=resume)
    except (ValueError, records.StripError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    except OSError as error:
        sys.stderr.write(
            f"error: a file could not be read or written: {error.strerror or error}"
            f"{f' ({error.filename})' if error.filename else ''}. Free space or choose "
            "another --workdir, then go on with --resume.\n"
        )
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted. Go on with --resume.\n")
        return 2
    return 0


def run(config: flags.RunConfig, *, resume: bool = False) -> dict:
    """Does the whole job and returns the report.

    Args:
        config: What to do.
        resume: Go on with the run in `config.workdir`; it must be of the same flags.

    Returns:
        What is in `report.json`.

    Raises:
        ValueError: Something that the user gave cannot be used.
        TrainingError: Training led nowhere.
        OSError: A file could not be read or written.
    """
    augmentation = data.parse_augmentation(config.augment)
    shrinking.absolute_target(flags.parse_target(config.target), NOTHING)
    store = checkpoints.Store(config.workdir)
    as_json = flags.as_json(config)
    with progress_lib.Progress() as progress:
        finished = store.check(as_json, DEFAULTS, flags.LOCATIONS, resume=resume)
        if finished:
            progress.say(f"Finished before. The report is {store.path('report.html')}")
            return finished
        dataset = data.load(
            config.data, config.data_dir, config.validation, config.image_size
        )
        _check_batch(config, dataset, augmentation)
        job = Run(
            config,
            dataset,
            store,
            _strategy(config),
            progress,
            data.Batches(
                dataset.x_train, dataset.y_train, config.batch_size, augmentation
            ),
            data.Batches(
                dataset.x_validation,
                dataset.y_validation,
                interpreters.batch_size(dataset.shape),
            ),
        )
        if config.dense_epochs and config.method != "none":
            # What a method cannot use it says now, and not after the dense training.
            method = flags.method_of(config)
            method.check_tools(_prepared(job, method, _build(job)), _tools(job))
        dense = _build(job)
        with store.locked():
            store.check(as_json, DEFAULTS, flags.LOCATIONS, resume=resume)
            store.begin(as_json)
            try:
                return _stages(job, dense)
            except tf.errors.ResourceExhaustedError:
                raise
            except tf.errors.OpError as error:
                _check_files(job, error)
                raise


def _build(job: Run):
    """The model as it is before anything is removed, initialised by the seed."""
    config, dataset = job.config, job.dataset
    keras.utils.set_random_seed(config.seed)
    with job.scope():
        model = zoo.build(
            config.model,
            dataset.shape,
            dataset.classes,
            config.width,
            config.hidden or None,
        )
        return flat(model)


def _stages(job: Run, dense) -> dict:
    """The way of the data, top to bottom."""
    started = {}
    if job.config.dense_epochs:
        started["dense"] = _fit_dense(job, dense)
    if job.config.from_dense:
        dense.set_weights(started["dense"].model.get_weights())
    sparse = _fit_sparse(job, dense)
    stripped, decision = _strip(job, sparse.model)
    _tell_missed(job, dense, stripped)
    tuned = _fine_tune(job, stripped, started.get("dense"))
    artifacts = _export(job, tuned.model)
    return outcome.tell(
        job, dense, started, sparse, stripped, decision, tuned, artifacts
    )


# Training ------------------------------------------------------------------------


def _fit_dense(job: Run, dense) -> checkpoints.Checkpoint:
    """Trains the untouched model, to compare with and perhaps to start from."""
    config = job.config
    with job.scope():
        model = keras.models.clone_model(dense)
    model.set_weights(dense.get_weights())
    return _fit_plain(
        job, "dense", model, config.dense_epochs, config.settle_learning_rate
    )


def _fine_tune(job: Run, stripped, trained) -> checkpoints.Checkpoint:
    """Fine-tunes; the stripped model ships if that made it worse beyond chance.

    A few validation samples more or less say nothing: see `outcome.worse`. With --distill
    it follows `trained`, the dense stage's checkpoint.
    """
    config = job.config
    with job.scope():
        model = keras.models.clone_model(stripped)  # the stripped row stays as it is
    model.set_weights(stripped.get_weights())
    tuned = _fit_plain(
        job,
        "finetuned",
        model,
        config.fine_tune_epochs,
        config.fine_tune_learning_rate,
        optimizer=config.fine_tune_optimizer,
        zeros_stay=config.method != "none" and flags.method_of(config).holds_zeros,
        teacher=trained.model if config.distill else None,
    )
    x, y = job.dataset.x_validation, job.dataset.y_validation
    before, after = outcome.right(stripped, x, y), outcome.right(tuned.model, x, y)
    kept = not outcome.worse(before, after)
    shipped, answers = (tuned.model, after) if kept else (stripped, before)
    told = {"fine_tune_kept": kept, "validation_accuracy": float(answers.mean())}
    return checkpoints.Checkpoint(shipped, tuned.history, told)


def _fit_plain(
    job: Run,
    stage: str,
    model,
    epochs: int,
    rate: float,
    *,
    optimizer: str | None = None,
    zeros_stay: bool = False,
    teacher=None,
):
    """Trains a model as it is, rate falling along a cosine; resumes by itself."""
    latest = job.latest(stage)
    if latest is None:
        with job.scope():
            _compile(job, model, rate, optimizer)
        latest = checkpoints.Checkpoint(model)
    if zeros_stay or job.config.hold_zeros:
        shrinking.hold_zeros(latest.model)
    if teacher is not None:
        config = job.config
        distillation.follow(
            latest.model, teacher, config.distill, config.distill_temperature
        )
    with job.progress.stage(stage, epochs, _steps(job)) as bar:
        for epoch in range(len(latest.history), epochs):
            latest.model.optimizer.learning_rate.assign(
                _rate(job.config, rate, epoch, epochs)
            )
            with meters.metered() as spent:
                logs = _fit_epoch(job, latest.model, stage, epoch, bar)
            logs.update(spent)
            if not math.isfinite(logs["loss"]):
                raise records.TrainingError(
                    f"The loss must stay finite. Received: {logs['loss']} in stage "
                    f"{stage!r}, epoch {epoch + 1}. Lower the learning rate."
                )
            latest.history.append(logs)
            job.store.save(stage, epoch + 1, latest)
            job.store.log(stage, epoch, logs, job.config.tensorboard)
        if not epochs:
            # An optimizer that was never built cannot be read back.
            latest.model.optimizer.build(latest.model.trainable_variables)
            job.store.save(stage, 0, latest)
    return latest


def _fit_sparse(job: Run, dense) -> checkpoints.Checkpoint:
    """Trains with the method's penalty while dead units leave."""
    config = job.config
    if config.method == "none":
        return _fit_plain(
            job, "sparse", dense, config.epochs, config.settle_learning_rate
        )
    method = flags.method_of(config)
    bounds = shrinking.absolute_target(
        flags.parse_target(config.target), measure(dense)
    )
    if not config.trials:
        return _shrink(job, "sparse", method, dense, bounds)

    def trial(number, strength, parent):
        own, first, stage = method.with_strength(strength), dense, f"trial-{number + 1}"
        held = {}
        if parent is not None and job.store.latest_path(stage) is None:
            before = job.latest(f"trial-{parent + 1}")
            held = {key: before.state[key] for key in ("groups", "removals")}
            with job.scope(), _naming_the_last_checkpoint(job, f"trial-{parent + 1}"):
                first, _ = shrinking.finish(before.model, own)
        found = _shrink(job, stage, own, first, held=held, until_settled=True)
        cost = shrinking.share(measure(found.model), bounds)
        return cost, method.warm and shrinking.steady(found.history)

    made = bisection.search(trial, config.strength, config.trials)
    best = bisection.best(made)
    first = job.latest(f"trial-{best + 1}")
    found = _shrink(job, "sparse", method, dense, first=first)
    found.state["trials"] = [dataclasses.asdict(t) for t in made]
    found.state["strength"] = made[best].strength
    return found


def _tell_missed(job: Run, dense, stripped) -> None:
    """Says so where nothing went, or not as much as the target asks."""
    target = flags.parse_target(job.config.target)
    whole, cost = measure(dense), measure(stripped)
    bounds = shrinking.absolute_target(target, whole)
    all_live = all((v != 0).all() for v in stripped.get_weights() if v.ndim > 1)
    if job.config.method != "none" and cost.params == whole.params and all_live:
        job.progress.say(
            "Nothing has died. Raise --strength, or give the penalty more --epochs: what "
            "counts is steps, and small data makes few of them an epoch."
        )
    asked = job.config.method != "none" and not job.config.trials
    if asked and bounds and shrinking.share(cost, bounds) > 1:
        left = ", ".join(f"{name}={getattr(cost, name):,}" for name in bounds)
        job.progress.say(
            f"The target {job.config.target} is not met yet: {left}. Raise --strength or "
            "--shrink_epochs, or let --trials=8 find the strength."
        )


def _shrink(
    job: Run,
    stage,
    method,
    model,
    bounds=None,
    *,
    first=None,
    held=None,
    until_settled=False,
) -> checkpoints.Checkpoint:
    """Trains `model` with a penalty, or goes on from a checkpoint; resumes by itself.

    Args:
        job: The run.
        stage: Under which name checkpoints are kept.
        method: What decides.
        model: The untouched model.
        bounds: A target that ends the penalty.
        first: The checkpoint to start from, if not from the untouched model.
        held: What of the state is known before the first epoch.
        until_settled: Whether to stop as the penalty ends.
    """
    config = job.config
    latest = job.latest(stage) or first
    if latest is None:
        latest = checkpoints.Checkpoint(_prepared(job, method, model), state=held or {})
    state = shrinking.State(latest.model, latest.history, **_from_json(latest.state))
    if until_settled and state.settled is not None:
        return latest
    last = config.shrink_epochs if until_settled else config.epochs
    bar = job.progress.stage(stage, last, _steps(job))

    def fit_epoch(model, epoch):
        rate = method.learning_rate or config.learning_rate
        if state.settled is None and config.drop_every:
            rate = _rate(config, rate, epoch, config.epochs)
        if state.settled is not None:
            rate = _rate(
                config,
                method.learning_rate or config.settle_learning_rate,
                epoch - state.settled,
                config.epochs - state.settled,
            )
        model.optimizer.learning_rate.assign(rate)
        return _fit_epoch(job, model, "sparse", epoch, bar)

    def on_epoch(state, epoch):
        bar.note(f"{state.history[-1]['params']:,} parameters alive")
        point = checkpoints.Checkpoint(state.model, state.history, _to_json(state))
        job.store.save(stage, epoch + 1, point)
        job.store.log(stage, epoch, state.history[-1], config.tensorboard)

    def accuracy(model):
        return outcome.accuracy(model, job.dataset.x_test, job.dataset.y_test)

    with bar, _naming_the_last_checkpoint(job, stage):
        state = shrinking.run(
            state,
            method,
            fit_epoch,
            epochs=config.epochs,
            shrink_epochs=config.shrink_epochs,
            target=bounds,
            samples=len(job.dataset.x_train),
            remove=config.remove,
            on_epoch=on_epoch,
            scope=job.scope,
            accuracy=accuracy,
            until_settled=until_settled,
            tools=_tools(job),
        )
    return checkpoints.Checkpoint(state.model, state.history, _to_json(state))


def _prepared(job: Run, method, model):
    """The model as the method trains it, compiled."""
    groups = find_groups(model, method.kinds)
    with job.scope():
        model = method.prepare(model, groups)
        _compile(job, model, job.config.learning_rate, method.optimizer(model, groups))
    return model


@contextlib.contextmanager
def _naming_the_last_checkpoint(job: Run, stage: str):
    """Adds to what went wrong in a stage where the last good model of it lies."""
    try:
        yield
    except records.TrainingError as error:
        kept = job.store.latest_path(stage) or "none yet"
        raise records.TrainingError(f"{error} Last good checkpoint: {kept}.") from error


def _fit_epoch(job: Run, model, stage: str, epoch: int, bar) -> dict[str, float]:
    """One epoch, its random numbers drawn from (seed, stage, epoch) alone."""
    seed = (job.config.seed, sum(map(ord, stage)), epoch)
    _reseed(model, seed)
    result = model.fit(
        job.train.epoch(seed),
        validation_data=job.validation.epoch(),
        initial_epoch=epoch,
        epochs=epoch + 1,
        verbose=0,
        shuffle=False,
        callbacks=[bar.callback()],
    )
    return {key: float(values[-1]) for key, values in result.history.items()}


def _reseed(model, seed: tuple[int, ...]) -> None:
    """Restarts Dropout's generators, so that a resumed epoch draws the same."""
    for number, variable in enumerate(model.variables):
        if "seed_generator_state" in variable.path:
            words = np.random.SeedSequence((*seed, number)).generate_state(2, np.uint32)
            variable.assign(words.astype(variable.dtype))


def _compile(job: Run, model, rate: float, optimizer=None) -> None:
    """Compiles; the optimizer is a method's own, a flag's value, or --optimizer's."""
    mirrored = job.strategy.num_replicas_in_sync > 1
    decay = job.config.weight_decay or None
    if optimizer in (None, "same"):
        optimizer = job.config.optimizer
    if optimizer == "adam":
        optimizer = keras.optimizers.Adam(rate, weight_decay=decay)
    elif optimizer == "sgd":
        optimizer = keras.optimizers.SGD(rate, momentum=0.9, weight_decay=decay)
    optimizers.spare_decay(optimizer, model.trainable_variables)
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        # Replicas inside Keras's loop of steps: TensorFlow loses a placeholder (2.21).
        steps_per_execution=1 if mirrored else min(STEPS_PER_CALL, _steps(job)),
        # XLA on a CPU halves the speed of convolutions and quadruples a retrace.
        jit_compile="auto" if tf.config.list_physical_devices("GPU") else False,
    )


def _rate(config: flags.RunConfig, rate: float, epoch: int, epochs: int) -> float:
    """The learning rate of an epoch without penalty: along a cosine, or in drops."""
    if config.drop_every:
        return rate * 0.1 ** (epoch // config.drop_every)
    return 0.5 * rate * (1 + math.cos(math.pi * epoch / max(1, epochs)))


def _steps(job: Run) -> int:
    return math.ceil(len(job.dataset.x_train) / job.config.batch_size)


def _strategy(config: flags.RunConfig):
    if config.strategy == "mirrored":
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def _check_batch(config, dataset, augmentation) -> None:
    if config.batch_size > len(dataset.x_train):
        raise ValueError(
            f"`--batch_size` must not exceed the training data's {len(dataset.x_train)} "
            f"samples. Received: --batch_size={config.batch_size}."
        )
    if augmentation and len(dataset.shape) != 3:
        raise ValueError(
            f"`--augment` must be empty for data that are no images. Received: samples of "
            f"shape {dataset.shape}."
        )


def _check_files(job: Run, error: Exception) -> None:
    """Names the file that stopped the run, if one did."""
    dataset = job.dataset
    for images in (dataset.x_train, dataset.x_validation, dataset.x_test):
        if not isinstance(images, data.Images):
            continue
        job.progress.say(f"Looking for a damaged file among {len(images):,}")
        damaged = images.damaged()
        if damaged:
            raise ValueError(
                f"`data` must hold images that open. Received: {damaged!r}. Replace it and "
                "go on with --resume."
            ) from error


def _to_json(state: shrinking.State) -> dict:
    return {
        "settled": state.settled,
        "reasons": state.reasons,
        "groups": state.groups,
        "settling": state.settling,
        "loops": state.loops,
        "removals": [dataclasses.asdict(r) for r in state.removals],
    }


def _from_json(stored: dict) -> dict:
    if not stored:
        return {}
    removals = [records.Removal(**entry) for entry in stored["removals"]]
    return {**stored, "removals": removals}


# After training ------------------------------------------------------------------


def _strip(job: Run, sparse):
    """The stock model without what died, kept with the checkpoints.

    Returns:
        The model; `reasons` (group -> why dead units stayed) and what the method traced.
    """
    latest = job.store.latest("stripped", job.scope)
    method = None if job.config.method == "none" else flags.method_of(job.config)
    if latest is not None:
        if method is not None:  # what `finish` did to the model that was kept before it
            method.decide(sparse)
            method.settle(sparse)
        return latest.model, latest.state
    decision = {"reasons": {}, "trace": {}}
    with job.scope():
        if method is None:
            stripped = deploy.strip(sparse)
        else:
            with _naming_the_last_checkpoint(job, "sparse"):
                stripped, decision["reasons"] = shrinking.finish(sparse, method)
            traced = method.trace(sparse, find_groups(sparse, method.kinds))
            decision["trace"] = traced if "scores" in traced else {}
    job.store.save("stripped", 0, checkpoints.Checkpoint(stripped, [], decision))
    return stripped, decision


def _export(job: Run, model) -> tuple[records.Artifact, ...]:
    job.progress.say("Exporting " + ", ".join(job.config.formats))
    calibration, _ = _training_samples(job, job.config.calibration_samples)
    return deploy.export(model, job.config.workdir, calibration, job.config.formats)


def _tools(job: Run) -> records.Tools:
    """The diagonal Hessian on some training samples, for methods that ask."""

    def diagonal(model, form: str) -> curvature.Curvature:
        x, y = _training_samples(job, fitting.CURVATURE_SAMPLES)
        return curvature.diagonal(model, curvature.batches(x, y), form)

    return records.Tools(diagonal, curvature.check)


def _training_samples(job: Run, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Training samples and their labels, drawn by the run's seed."""
    rng = np.random.default_rng((job.config.seed, 1))
    samples = len(job.dataset.x_train)
    chosen = rng.choice(samples, min(count, samples), False)
    return outcome.as_floats(job.dataset.x_train[chosen]), job.dataset.y_train[chosen]


if __name__ == "__main__":
    sys.exit(main())
