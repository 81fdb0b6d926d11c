"""Training of a stripped network for int8, and for few different weights.

Quantisation-aware training runs in a process beside the run (see `bridge`); training with
clusters, in the run itself. Both go on from their last epoch after a kill.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from typing import Any

import keras
import numpy as np
from keras import ops

from tfsparse import files, meters, numerics, records
from tfsparse.children import process
from tfsparse.engine import beside, training

CLUSTERED, AWARE = "clustered", "aware"
"""Folders of checkpoints."""

SECONDS = 600.0
"""How long a look at a network may take: the library loads for ten."""

COUNTS = (4, 8, 16, 32)
"""Clusters that are tried, layer by layer, where their number is to be found."""

JUDGED, CALIBRATED = 2000, 512
"""Validation samples that judge int8 files, and training samples that set their ranges."""

LEAST_WEIGHTS = 256
"""Kernels of fewer weights keep theirs: a table would save nothing."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be trained, and how.

    Attributes:
        qat: Whether quantisation is simulated.
        clusters: `none`, `auto`, or a number.
        epochs, rate: Of each training.
        distill, temperature: See `stages.finetune.FineTuneSettings`; 0 for labels alone.
    """

    qat: bool
    clusters: str
    epochs: int
    rate: float
    distill: float = 0.0
    temperature: float = 3.0


def check(context, model) -> None:
    """Checks, in a process of its own, that a network can be trained for int8.

    Raises:
        ValueError: It cannot; says why.
    """
    child = process.Child("tfsparse.engine.bridge", {"TF_CPP_MIN_LOG_LEVEL": "3"})
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.keras")
            model.save(path)
            reply = child.ask({"model": path}, SECONDS)
    except process.ChildError as error:
        last = (error.said.strip().splitlines() or ["it said nothing"])[-1]
        raise ValueError(
            "`quantise=qat` must be able to load tensorflow-model-optimization. Received: "
            f"{error.why} ({last})."
        ) from error
    finally:
        child.close()
    if "error" in reply:
        raise ValueError(reply["error"])
    if reply["carried"]:
        context.progress.say(
            f"quantise=qat: {', '.join(reply['carried'])} train as they are, without "
            "quantisation, as tensorflow-model-optimization does not know such layers."
        )


def train(context, plan: Plan, model, teacher) -> records.Result:
    """Trains a network for what ships.

    Args:
        context: The run.
        plan: What is asked for.
        model: The network; it is not changed.
        teacher: The network whose answers are followed, or None.

    Returns:
        A network of the same layers, the history of both trainings, and facts.
    """
    found = records.Result(model)
    if plan.clusters != "none":
        found = _clustered(context, plan, model)
    if plan.qat:
        aware = _aware(context, plan, found.model, teacher)
        facts = {**found.facts, **aware.facts}
        kept = aware.model if facts["qat_kept"] else found.model
        found = records.Result(kept, [*found.history, *aware.history], facts)
    return found


def kernels(model) -> list[Any]:
    """Variables that clusters, or zeros, may be kept of."""
    return [v for v in model.trainable_variables if len(v.shape) > 1]


def _clustered(context, plan: Plan, model) -> records.Result:
    """Trains with clusters, whose members move together."""
    from tfsparse.engine.stages.dense import copied

    facts: dict[str, Any] = {}

    def start():
        copy = copied(context, model, plan.rate)
        facts["clusters"] = counts = _counts(context, plan, copy)
        for variable in kernels(copy):
            if variable.path in counts:
                values = ops.convert_to_numpy(variable)
                labels = numerics.clusters.assigned(values, counts[variable.path])
                ids = numerics.clusters.ids_of(values, labels)
                variable.assign(numerics.clusters.shared(variable.value, ids))
        return copy

    def hold(fitted):
        training.hold_zeros(fitted)
        for variable in kernels(fitted):
            values = ops.convert_to_numpy(variable)
            if values.size >= LEAST_WEIGHTS and few(values):
                keep = _keeper(values)
                variable.constraint = keep

    result = training.train(context, CLUSTERED, start, plan.epochs, plan.rate, hold)
    if not facts:
        facts["clusters"] = {
            v.path: most(ops.convert_to_numpy(v))
            for v in kernels(result.model)
            if few(ops.convert_to_numpy(v))
        }
    return records.Result(result.model, result.history, facts)


def _keeper(values: np.ndarray):
    """A constraint that holds the clusters which weights are in."""
    ids = numerics.clusters.ids_of(values, labels_of(values))
    return lambda weights: numerics.clusters.shared(weights, ids)


def labels_of(values: np.ndarray) -> np.ndarray:
    """The clusters of weights that are on their centroids: equal ones of a channel."""
    flat = values.reshape(-1, values.shape[-1])
    labels = np.stack([np.unique(c, return_inverse=True)[1] for c in flat.T], axis=-1)
    return labels.reshape(values.shape)


def most(values: np.ndarray) -> int:
    """The most different weights that a channel has."""
    return max(len(np.unique(c)) for c in values.reshape(-1, values.shape[-1]).T)


def few(values: np.ndarray) -> bool:
    """Whether weights are on clusters: half as many different ones as there are, or fewer."""
    each = values.size // values.shape[-1]
    return values.size >= LEAST_WEIGHTS and most(values) <= min(128, each // 2)


def _counts(context, plan: Plan, model) -> dict[str, int]:
    """How many clusters each kernel gets: what was said, or the fewest that cost nothing."""
    large = [v for v in kernels(model) if int(np.prod(v.shape)) >= LEAST_WEIGHTS]
    if plan.clusters != "auto":
        return {v.path: int(plan.clusters) for v in large}
    from tfsparse.engine import scoring

    before, found = context.validated(model), {}
    for variable in large:
        values = ops.convert_to_numpy(variable)
        for count in COUNTS:
            labels = numerics.clusters.assigned(values, count)
            ids = numerics.clusters.ids_of(values, labels)
            variable.assign(numerics.clusters.shared(ops.convert_to_tensor(values), ids))
            harmed = scoring.worse(before, context.validated(model))
            variable.assign(values)
            if not harmed:
                found[variable.path] = count
                break
    return found


def _aware(context, plan: Plan, model, teacher) -> records.Result:
    """Trains with simulated int8 in a process beside the run."""
    done = context.latest(AWARE)
    if done is not None:
        return done
    folder = context.store.path("checkpoints", f"{AWARE}-epochs")
    os.makedirs(folder, exist_ok=True)
    work = {
        "model": _saved(context, model, "before.keras"),
        "teacher": _saved(context, teacher, "teacher.keras") if plan.distill else None,
        "folder": folder,
        "plan": dataclasses.asdict(plan),
    }
    context.progress.say("Training for int8, in a process of its own")
    with beside.Processes(context.home.workdir, 1, "quantise", plain=True) as child:
        reply = child.ask(**work)
    copy = _loaded(model, reply["weights"])
    history = reply["history"]
    facts = {"carried": reply["carried"], "rebuilt_difference": reply["difference"]}
    result = records.Result(copy, history, facts | _judged(context, model, copy))
    context.store.save(AWARE, len(history), result)
    files.remove(folder)
    return result


def _judged(context, before, after) -> dict[str, Any]:
    """Whether training made the int8 file better or worse on validation, beyond chance."""
    from tfsparse.engine import scoring

    was, now = (_int8_goodness(context, one) for one in (before, after))
    return {
        "qat_kept": not scoring.worse(was, now),
        "int8_validation": {"before": float(was.mean()), "after": float(now.mean())},
    }


def _int8_goodness(context, model) -> np.ndarray:
    """How well the int8 file of a network does validation samples."""
    from tfsparse import deploy
    from tfsparse.deploy import interpreters
    from tfsparse.engine import scoring

    found, task = context.dataset, context.task
    x = scoring.as_floats(found.x_validation[:JUDGED])
    y = None if found.y_validation is None else found.y_validation[:JUDGED]
    with tempfile.TemporaryDirectory() as folder:
        samples = context.calibration_samples(CALIBRATED)
        (artifact,) = deploy.export(model, folder, samples, ("tflite_int8",))
        outputs = interpreters.run(artifact, x)
    return task.goodness(task.reduced(outputs, x), y)


def _saved(context, model, name: str) -> str:
    path = context.store.path("checkpoints", name)
    with files.appears_whole(path) as temporary:
        model.save(temporary)
    return path


def _loaded(model, path: str):
    """A copy of a network with weights from a file of arrays."""
    from tfsparse.graph import rebuild

    copy = rebuild.copied(model)
    with np.load(path, allow_pickle=False) as stored:
        for number, variable in enumerate(copy.weights):
            variable.assign(stored[str(number)])
    return copy


def loop(context, plan: Plan, model, teacher, folder: str) -> dict[str, Any]:
    """Quantisation-aware training, in the process beside the run.

    Args:
        context: Of the run, made anew.
        plan: How.
        model: The network of Keras 3; its weights are changed.
        teacher: Whose answers are followed, or None.
        folder: Where each epoch's state is kept.

    Returns:
        `weights`, a file of arrays in the order of the network's; `history`; `carried`.
    """
    import tensorflow as tf
    import tf_keras

    from tfsparse.engine import bridge

    rebuilt = bridge.Rebuilt(model)
    difference = rebuilt.difference(np.random.default_rng(context.seed))
    if difference > bridge.ROUNDING:
        raise ValueError(
            "`quantise=qat` must train the network that it was given. Received: one that "
            f"differs by {difference:.2g} in tf_keras. --quantise=int8 needs no copy."
        )
    aware = rebuilt.aware()
    optimizer = tf_keras.optimizers.Adam(plan.rate)
    extra = [v.value for layer in rebuilt.carried for v in layer.trainable_variables]
    variables = [*aware.trainable_variables, *extra]
    optimizer.build(variables)
    state = [*aware.weights, *extra, *optimizer.variables]
    holds = [
        (new, _held(ops.convert_to_numpy(old), new.shape))
        for old, new in rebuilt.kernels(aware)
    ]
    holds = [(variable, hold) for variable, hold in holds if hold is not None]
    loss = context.task.loss()
    distance = _distance(context, teacher)

    @tf.function(reduce_retracing=True)
    def step(x, y):
        with tf.GradientTape() as tape:
            outputs = aware(x, training=True)
            value = loss(y, outputs)
            if teacher is not None:
                told = teacher(x, training=False)
                far = distance(outputs, told, plan.temperature)
                value = (1 - plan.distill) * value + plan.distill * far
        optimizer.apply_gradients(
            zip(tape.gradient(value, variables), variables, strict=True)
        )
        for variable, hold in holds:
            variable.assign(hold(variable))
        return value

    history = _restored(folder, state)
    for epoch in range(len(history), plan.epochs):
        with meters.metered() as spent:
            rate = context.training.rate(plan.rate, epoch, plan.epochs)
            optimizer.learning_rate.assign(rate)
            keras.utils.set_random_seed(context.seed + epoch)
            losses = [float(step(x, y)) for x, y in context.epoch(AWARE, epoch)]
        mean = float(np.mean(losses))
        if not np.isfinite(mean):
            raise records.TrainingError(
                f"The loss must stay finite. Received: {mean} in quantisation-aware "
                f"training, epoch {epoch + 1}. Lower --qat_learning_rate."
            )
        entry = {"loss": mean, **_validated(context, aware, loss), **spent}
        history.append(entry)
        _keep(folder, state, history)
    rebuilt.bring_back(aware)
    path = os.path.join(folder, "weights.npz")
    with files.appears_whole(path) as temporary, open(temporary, "wb") as file:
        arrays = [ops.convert_to_numpy(v) for v in model.weights]
        np.savez(file, **{str(n): value for n, value in enumerate(arrays)})
    carried = [layer.name for layer in rebuilt.carried]
    return {
        "weights": path,
        "history": history,
        "carried": carried,
        "difference": difference,
    }


def _held(values: np.ndarray, shape):
    """What keeps the zeros and clusters of a kernel where they are; None for nothing."""
    shape = tuple(shape)
    if few(values):
        ids = numerics.clusters.ids_of(values, labels_of(values))
        own = (ids[0], ids[1], ids[2].reshape(shape))
        return lambda variable: numerics.clusters.shared(variable, own)
    if np.all(values):
        return None
    there = (values != 0).astype(values.dtype).reshape(shape)
    return lambda variable: variable * there


def _distance(context, teacher):
    """How far answers are from the teacher's; None without one."""
    from tfsparse.engine.stages.finetune import distance_of

    return distance_of(context.task) if teacher is not None else None


def _validated(context, aware, loss) -> dict[str, float]:
    """Loss and score on validation, quantisation simulated."""
    import tensorflow as tf

    answer = tf.function(lambda x: aware(x, training=False), reduce_retracing=True)
    losses, outputs, sizes = [], [], []
    for x, y in context.validation_batches():
        found = answer(x)
        losses.append(float(loss(y, found)))
        sizes.append(len(x))
        outputs.append(context.task.reduced(found.numpy(), np.asarray(x)))
    score = context.task.on_validation.score(
        np.concatenate(outputs), context.dataset.y_validation
    )
    return {
        "val_loss": float(np.average(losses, weights=sizes)),
        f"val_{context.task.metric}": score.value,
    }


def _keep(folder: str, state, history) -> None:
    """Keeps the state of all variables, and the epochs that led there."""
    path = os.path.join(folder, f"epoch-{len(history):04d}")
    with files.appears_whole(path) as temporary:
        os.makedirs(temporary)
        arrays = {str(n): np.asarray(v) for n, v in enumerate(state)}
        np.savez(os.path.join(temporary, "state.npz"), **arrays)
        files.write_json(os.path.join(temporary, "history.json"), history)
    for old in sorted(n for n in os.listdir(folder) if n.startswith("epoch-"))[:-2]:
        files.remove(os.path.join(folder, old))


def _restored(folder: str, state) -> list[dict]:
    """Puts back the newest state that was kept; the epochs that led there."""
    kept = sorted(n for n in os.listdir(folder) if n.startswith("epoch-"))
    if not kept:
        return []
    path = os.path.join(folder, kept[-1])
    with np.load(os.path.join(path, "state.npz"), allow_pickle=False) as stored:
        for number, variable in enumerate(state):
            variable.assign(stored[str(number)])
    return files.read_json(os.path.join(path, "history.json"))
