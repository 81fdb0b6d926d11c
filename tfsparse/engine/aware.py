"""Training of a stripped network for int8, and for few different weights.

Quantisation-aware training runs in a process beside the run (see `bridge`); training with
clusters, in the run itself. Both go on from their last epoch after a kill.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import tempfile
from typing import Any

import keras
import numpy as np
from keras import ops

from tfsparse import files, numerics, records
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
        teacher: The network whose answers training for int8 follows, or None.

    Returns:
        A network of the same layers, the history of both trainings, and facts.
    """
    found = records.Result(model)
    if plan.clusters != "none":
        found = _clustered(context, plan, model)
    if plan.qat:
        aware = _aware(context, plan, found.model, teacher)
        facts = {**found.facts, **aware.facts}
        kept = aware.model
        if not facts["qat_kept"]:
            kept = found.model
            context.progress.say(
                "Training for int8 made the int8 file worse on validation than chance "
                "explains: the network before it ships."
            )
        found = records.Result(kept, [*found.history, *aware.history], facts)
    return found


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel, and where its output channels lie.

    Attributes:
        variable: Of a Keras layer.
        layout: `last`, its last axis; `pair`, its last two together, of a depthwise
            convolution; `transposed`, the last but one, of a transposed one.
    """

    variable: Any
    layout: str

    @property
    def values(self) -> np.ndarray:
        """Its numbers."""
        return ops.convert_to_numpy(self.variable)

    def rows(self) -> np.ndarray:
        """Its numbers as `(weights of a channel, channels)`."""
        values = self.values
        if self.layout == "transposed":
            values = np.moveaxis(values, -2, -1)
        pair = values.shape[-2] * values.shape[-1]
        return values.reshape(-1, pair if self.layout == "pair" else values.shape[-1])

    def clusters(self, count: int | None = None):
        """What `numerics.clusters.shared` needs: so many a channel, or those that are there."""
        rows = self.rows()
        labels = numerics.clusters.assigned(rows, count) if count else labels_of(rows)
        numbers = labels + np.arange(rows.shape[1]) * (labels.max() + 1)
        shape = self.values.shape
        if self.layout == "transposed":
            moved = (*shape[:-2], shape[-1], shape[-2])
            numbers = np.moveaxis(numbers.reshape(moved), -1, -2)
        return numerics.clusters.ids_of(self.values, numbers.reshape(shape))


def kernels(model) -> list[Kernel]:
    """The kernels of a model, of which clusters or zeros may be kept."""
    return [kernel for layer in model.layers for kernel in kernels_of(layer)]


def kernels_of(layer) -> list[Kernel]:
    """The trained kernels of a layer."""
    depthwise = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
    transposed = (
        keras.layers.Conv1DTranspose,
        keras.layers.Conv2DTranspose,
        keras.layers.Conv3DTranspose,
    )
    found = []
    for variable in layer.trainable_variables:
        if len(variable.shape) > 1:
            layout = "last"
            if isinstance(layer, depthwise) or "depthwise" in variable.name:
                layout = "pair"
            elif isinstance(layer, transposed):
                layout = "transposed"
            found.append(Kernel(variable, layout))
    return found


def _clustered(context, plan: Plan, model) -> records.Result:
    """Trains with clusters, whose members move together."""
    from tfsparse.engine.stages.dense import copied

    counts = _counts(context, plan, model)

    def start():
        copy = copied(context, model, plan.rate)
        for kernel in kernels(copy):
            if count := counts.get(kernel.variable.path):
                move(kernel, kernel.clusters(count))
        return copy

    def hold(fitted):
        training.hold_zeros(fitted)
        for kernel in kernels(fitted):
            if kernel.variable.path in counts:
                kernel.variable.constraint = functools.partial(
                    numerics.clusters.shared, clusters=kernel.clusters()
                )

    result = training.train(context, CLUSTERED, start, plan.epochs, plan.rate, hold)
    return records.Result(result.model, result.history, {"clusters": counts})


def move(kernel: Kernel, clusters) -> None:
    """Moves every weight to the mean of its cluster."""
    values = ops.convert_to_tensor(kernel.values)
    kernel.variable.assign(numerics.clusters.shared(values, clusters))


def labels_of(rows: np.ndarray) -> np.ndarray:
    """The clusters of weights that are on their centroids: equal ones of a channel."""
    return np.stack([np.unique(c, return_inverse=True)[1] for c in rows.T], axis=-1)


def most(rows: np.ndarray) -> int:
    """The most different weights that a channel has."""
    return max(len(np.unique(c)) for c in rows.T)


def few(rows: np.ndarray) -> bool:
    """Whether some weights of every channel are equal, so that they are on clusters."""
    return most(rows) < len(rows)


def _counts(context, plan: Plan, model) -> dict[str, int]:
    """How many clusters each kernel gets: what was said, or the fewest that cost nothing."""
    every = kernels(model)
    large = [kernel for kernel in every if kernel.values.size >= LEAST_WEIGHTS]
    if plan.clusters != "auto":
        count = int(plan.clusters)
        own = [k.variable.path for k in large if len(k.rows()) > count]
        left = [k.variable.path for k in every if k.variable.path not in own]
        if left:
            context.progress.say(
                f"clusters={count}: {', '.join(left)} keep their weights, as a channel has "
                "no more of them, or a table would save nothing."
            )
        return dict.fromkeys(own, count)
    from tfsparse.engine import scoring

    before, found = context.validated(model), {}
    for kernel in large:
        values = kernel.values
        for count in COUNTS:
            if count >= len(kernel.rows()):
                break
            move(kernel, kernel.clusters(count))
            harmed = scoring.worse(before, context.validated(model))
            kernel.variable.assign(values)
            if not harmed:
                found[kernel.variable.path] = count
                break
    return found


def _aware(context, plan: Plan, model, teacher) -> records.Result:
    """Trains with simulated int8 in a process beside the run."""
    done = context.latest(AWARE)
    folder = context.store.path("checkpoints", f"{AWARE}-epochs")
    if done is not None:
        files.remove(folder)
        return done
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
    facts = {
        "carried": reply["carried"],
        "rebuilt_difference": reply["difference"],
        "distilled": bool(plan.distill),
    }
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
    x = scoring.some(found.x_validation, JUDGED)
    y = None if found.y_validation is None else found.y_validation[: len(x)]
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
