"""Training with simulated int8: what the process beside a run does."""

from __future__ import annotations

import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tf_keras
from keras import ops

from tfsparse import distillation, files, meters, numerics, records
from tfsparse.engine import aware, bridge


def train(context, plan: aware.Plan, model, teacher, folder: str) -> dict[str, Any]:
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
    rebuilt = bridge.Rebuilt(model)
    difference = rebuilt.check(np.random.default_rng(context.seed))
    network = rebuilt.aware()
    optimizer = tf_keras.optimizers.Adam(plan.rate)
    extra = [v.value for layer in rebuilt.carried for v in layer.trainable_variables]
    variables = [*network.trainable_variables, *extra]
    optimizer.build(variables)
    held = [variable.value for variable in rebuilt.kept]
    state = [*network.weights, *held, *optimizer.variables]
    holds = _holds(rebuilt, model, network)
    loss = context.task.loss()
    distance = _distance(context, teacher)

    @tf.function(reduce_retracing=True)
    def step(x, y):
        with tf.GradientTape() as tape:
            outputs = network(x, training=True)
            value = loss(y, outputs)
            if teacher is not None:
                told = teacher(x, training=False)
                far = distance(outputs, told, plan.temperature)
                value = distillation.mixed(value, far, plan.distill)
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
            keras.utils.set_random_seed((context.seed + epoch) % 2**32)
            losses = [float(step(x, y)) for x, y in context.epoch(aware.AWARE, epoch)]
        mean = float(np.mean(losses))
        if not np.isfinite(mean):
            raise records.TrainingError(
                f"The loss must stay finite. Received: {mean} in quantisation-aware "
                f"training, epoch {epoch + 1}. Lower --qat_learning_rate."
            )
        entry = {"loss": mean, **_validated(context, network, loss), **spent}
        history.append(entry)
        _keep(folder, state, history)
    rebuilt.bring_back(network)
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


def _holds(rebuilt, model, network) -> list[tuple]:
    """The variables whose zeros or clusters stay, and what each step does to them."""
    own = {id(kernel.variable): kernel for kernel in aware.kernels(model)}
    pairs = [
        (own[id(old)], new) for old, new in rebuilt.kernels(network) if id(old) in own
    ]
    carried = [k for layer in rebuilt.carried for k in aware.kernels_of(layer)]
    pairs += [(kernel, kernel.variable.value) for kernel in carried]
    found = [(new, _held(kernel, new.shape)) for kernel, new in pairs]
    return [(variable, hold) for variable, hold in found if hold is not None]


def _held(kernel: aware.Kernel, shape):
    """What keeps the zeros and clusters of a kernel where they are; None for nothing."""
    shape, values = tuple(shape), kernel.values
    if aware.few(kernel.rows()):
        ids, sizes, there = kernel.clusters()
        own = (ids, sizes, there.reshape(shape))
        return lambda variable: numerics.clusters.shared(variable, own)
    if np.all(values):
        return None
    there = (values != 0).astype(values.dtype).reshape(shape)
    return lambda variable: variable * there


def _distance(context, teacher):
    """How far answers are from the teacher's; None without one."""
    from tfsparse.engine.stages.finetune import distance_of

    return distance_of(context.task) if teacher is not None else None


def _validated(context, network, loss) -> dict[str, float]:
    """Loss and score on validation, quantisation simulated."""
    answer = tf.function(lambda x: network(x, training=False), reduce_retracing=True)
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
        np.savez(os.path.join(temporary, "state.npz"), **arrays)  # type: ignore[arg-type]
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
