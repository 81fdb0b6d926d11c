"""Goes through the stages of a run: one rule for checkpoints, seeds, resuming and reports."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfsparse import budgets, checkpoints, data, meters, progress, records, zoo
from tfsparse.deploy import finished
from tfsparse.engine import network, preflight, telling
from tfsparse.engine.context import Context, RunContext, strategy_of
from tfsparse.engine.settings import Run, Settings, every_setting
from tfsparse.engine.stage import Stage
from tfsparse.engine.stages import export, quantise, verify
from tfsparse.engine.training import Training

Results = dict[str, records.Result | None]


def go(
    stages: Sequence[Stage],
    context: Context,
    results: Results,
    start: str | None = None,
) -> Results:
    """Goes through stages, each from its checkpoints on.

    Args:
        stages: In order.
        context: What they may ask.
        results: By stage, what is known already: `model`, the untouched one, at least.
        start: The stage to begin with, where the results of those before are known: a family
            goes through one list again from there, each time with a context of its own.

    Returns:
        The results of all stages, by name.

    Raises:
        ValueError: No stage is called `start`, or one before it has no result.
    """
    names = [stage.name for stage in stages]
    first = 0 if start is None else _place(names, start, results)
    found = dict(results)
    before: Any = found["model"]
    for number, stage in enumerate(stages):
        if number >= first:
            inputs = {name: found.get(name) for name in stage.inputs}
            found[stage.name] = stage.run(context, before, **inputs)
        result = found[stage.name]
        if result is not None and result.model is not None and not stage.aside:
            before = result
    return found


def _place(names: list[str], start: str, results: Results) -> int:
    if start not in names:
        raise ValueError(f"`start` must be among {names}. Received: {start!r}.")
    first = names.index(start)
    if missing := [name for name in names[:first] if name not in results]:
        raise ValueError(
            f"`results` must hold those of the stages before {start!r}. Received: none of "
            f"{missing}."
        )
    return first


def run(settings: Settings, *, resume: bool = False) -> dict:
    """Does a whole run and returns its report.

    Args:
        settings: What to do.
        resume: Go on with the run in its folder; it must be of the same settings.

    Returns:
        What is in `report.json`.

    Raises:
        ValueError: Something that the user gave cannot be used.
        TrainingError: Training led nowhere.
        ParityError: A file does worse than --tolerance allows; all is written, and its
            `result` is the report.
        OSError: A file could not be read or written.
    """
    parts = settings.parts
    tolerance = parts.get(verify.VerifySettings, verify.VerifySettings()).tolerance
    store = checkpoints.Store(parts[Run].workdir, parts[Run].tensorboard)
    told = (
        settings.to_json(),
        settings.defaults(),
        settings.locations(),
        every_setting(),
    )
    with progress.Progress() as shown:
        before = store.check(*told, resume=resume)
        if before:
            shown.say(f"Finished before. The report is {store.path('report.html')}")
            verify.check(before, tolerance)
            return before
        context, model = context_of(settings, store, shown)
        with finished.ships(*shipped(settings)):
            for stage in settings.stages:
                stage.rehearse(context, model)
        if parts[Run].preflight and not store.begun():
            with _naming_damaged_files(context):
                shown.say(_preflight(settings, context, model))
        keras.utils.set_random_seed(context.seed)  # a rehearsal leaves no trace
        meant = finished.ships(*shipped(settings))
        with store.locked(), _naming_damaged_files(context), meant:
            store.check(*told, resume=resume)
            store.begin(told[0])
            results = go(settings.stages, context, {"model": records.Result(model)})
            family = relatives(settings.stages, context, results)
            context.door.open()
            documents = {
                one.label: telling.report(
                    one.stages, one.context, one.results, told[0] | one.changed
                )
                for one in family
            }
            report = telling.report(
                settings.stages, context, results, told[0], documents
            )
        for document in (report, *documents.values()):
            verify.check(document, tolerance)
        return report


@dataclasses.dataclass(frozen=True)
class Relative:
    """Another network of a run's family.

    Attributes:
        label: Its folder, below the run's.
        stages: Those that it went through.
        context: With that folder.
        results: By stage.
        changed: Settings in which it differs, as JSON.
    """

    label: str
    stages: Sequence[Stage]
    context: RunContext
    results: Results
    changed: dict[str, Any]


def relatives(
    stages: Sequence[Stage], context: RunContext, results: Results
) -> list[Relative]:
    """Goes through the end of the list again for every other version of a stage.

    Args:
        stages: Of the run.
        context: Of the run, which is over but for its report.
        results: Of the run.
    """
    found = []
    for number, one in enumerate(stages):
        before = {
            name: results[name]
            for name in ("model", *(s.name for s in stages[:number]))
        }
        for label, other in one.family(context):
            own = context.beside(label)
            listed = [*stages[:number], other, *stages[number + 1 :]]
            context.progress.say(f"Once more from {other.name}: {label}")
            made = go(listed, own, before, start=other.name)
            changed = {
                key: value
                for key, value in other.settings.get_config().items()
                if one.settings.get_config()[key] != value
            }
            found.append(Relative(label, listed, own, made, changed))
    return found


def context_of(settings: Settings, store: checkpoints.Store, shown):
    """The run's data and network, told of in a few lines; its context and the network."""
    parts = settings.parts
    chosen, training = parts[data.Data], parts[Training]
    strategy = strategy_of(parts[Run].strategy)
    model, dataset = network.untouched(
        parts[zoo.Model], chosen, data.read(chosen), parts[Run].seed, strategy.scope()
    )
    for line in (*dataset.summary(), dataset.task.told()):
        shown.say(line)
    check(chosen, training, dataset)
    if (passes := training.passes_of(len(dataset.x_train))) > 1:
        shown.say(
            f"Few samples: an epoch goes {passes} times through them, in batches of "
            f"{training.batch_of(len(dataset.x_train))}; --passes and --batch_size say "
            "otherwise."
        )
    context = RunContext(
        settings.method,
        dataset,
        store,
        shown,
        training,
        parts[budgets.Limits],
        data.parse_augmentation(chosen.augment),
        parts[Run].seed,
        strategy,
    )
    return context, model


def check(chosen: data.Data, training: Training, dataset: data.Dataset) -> None:
    """Checks the data against what is to be done with them.

    Raises:
        ValueError: They do not go together.
    """
    if training.batch_size > len(dataset.x_train):
        raise ValueError(
            f"`batch_size` must not exceed the training data's {len(dataset.x_train)} "
            f"samples. Received: batch_size={training.batch_size}."
        )
    if chosen.augment and len(dataset.shape) != 3:
        raise ValueError(
            f"`augment` must be empty for data that are no images. Received: samples of "
            f"shape {dataset.shape}."
        )


def _preflight(settings: Settings, context: RunContext, model) -> str:
    """What a network that will be trained for hours costs, once it is known to ship.

    Raises:
        ValueError: It cannot.
    """
    kind, _ = shipped(settings)
    formats = [s.formats(kind) for s in settings.stages if isinstance(s, export.Export)]
    try:
        with finished.ships(*shipped(settings)):
            return preflight.fly(
                context,
                settings.method,
                model,
                formats[0] if formats else (),
                None
                if tf.config.list_physical_devices("GPU")
                else meters.machine_bytes(),
            ).told()
    except (ValueError, records.StripError) as error:
        raise ValueError(f"{error} --preflight=false trains all the same.") from error


def shipped(settings: Settings) -> tuple[str, str]:
    """The file that ships: its numbers, and how its weights are packed."""
    kind = settings.parts.get(
        quantise.QuantiseSettings, quantise.QuantiseSettings()
    ).kind
    own = settings.parts.get(export.ExportSettings, export.ExportSettings())
    return kind, own.compress


@contextlib.contextmanager
def _naming_damaged_files(context: RunContext) -> Iterator[None]:
    """Names the file that stopped the run, if one did."""
    try:
        yield
    except tf.errors.ResourceExhaustedError:
        raise
    except tf.errors.OpError as error:
        dataset = context.dataset
        held = (dataset.x_train, dataset.x_validation, context.door.files())
        for images in held:
            if not isinstance(images, data.Images):
                continue
            context.progress.say(f"Looking for a damaged file among {len(images):,}")
            if damaged := images.damaged():
                raise ValueError(
                    f"`data` must hold images that open. Received: {damaged!r}. Replace "
                    "it and go on with --resume."
                ) from error
        raise
