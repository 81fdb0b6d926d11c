"""Prunes a trained network to a target, by a criterion."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from tfsparse import budgets, options, records
from tfsparse.cli import command

USAGE = """Prunes a trained .keras model to a target and writes the smaller one.

  tfsparse prune model.keras small.keras --target=macs=0.5 --criterion=l2

With --data and --epochs the model is fine-tuned after each of --steps removals.

  tfsparse prune runs/one/trained.keras small.keras --target=macs=0.5 \\
      --ranking=runs/one/ranking.json"""


@options.record
class PruneSettings(options.Options):
    """What is pruned, how far, and by what."""

    part = "What goes"

    target: str = options.pairs(
        "",
        "What may remain, fractions up to 1 or absolute numbers, of "
        f"{', '.join(budgets.MEASURES)}; needed unless --ratios names groups.",
        example=budgets.EXAMPLE,
    )
    criterion: str = options.field(
        "l2",
        "How much each unit matters.",
        choices=records.CRITERIA,
    )
    ranking: str = options.field(
        "",
        "A ranking.json that a run learned on this model, which says what goes "
        "instead of a criterion.",
    )
    scope: str = options.field(
        "layer",
        "layer keeps the same share of every group, global ranks all units together.",
        choices=("layer", "global"),
    )
    ignore: str = options.patterns(
        "", "Patterns of groups that stay whole.", example="stem*,head*"
    )
    steps: int = options.field(
        1, "How many removals the way to the target takes.", low=1
    )
    seed: int = options.field(0, "Seed of the criterion random.", low=0)


@options.record
class TuneSettings(options.Options):
    """Data, and training after each removal."""

    part = "Data, and training after each removal"

    data: str = options.field(
        "", "An .npz with arrays x and y, to judge units and to fine-tune."
    )
    epochs: int = options.field(0, "Epochs after each removal; 0 for none.", low=0)
    batch_size: int = options.field(128, "Samples a step.", low=1)
    learning_rate: float = options.field(1e-3, "Adam's learning rate.", above=0)
    loss: str = options.field(
        "", "A Keras loss by name; by default the one that fits labels and model."
    )
    task: str = options.field(
        "auto",
        "What is predicted; auto finds it in the labels.",
        choices=("auto", *records.TASKS),
    )

    def check(self) -> None:
        """Checks that there is data to train on."""
        if self.epochs and not self.data:
            raise ValueError("`data` must be given with --epochs. Received: none.")


def main(arguments: Sequence[str]) -> int:
    """The subcommand."""
    parts = (PruneSettings, budgets.Limits, TuneSettings)
    return command.run(arguments, USAGE, ("model", "small"), parts, work)


def work(
    path: str,
    small_path: str,
    chosen: PruneSettings,
    limits: budgets.Limits,
    tune: TuneSettings,
) -> dict[str, Any]:
    """Prunes the model at `path` and writes the smaller one."""
    import keras

    import tfsparse
    from tfsparse import data, files, zoo
    from tfsparse.cli import judging

    model = zoo.load(path)
    samples: Any = data.samples(tune.data) if tune.data else None
    loss: Any = None
    if samples is not None:
        task, y = judging.task_of(
            tune.data, model, samples[0], samples[1], tune.task, tune.loss
        )
        samples, loss = (samples[0], y), task.loss()

    def fine_tune(small) -> None:
        small.compile(keras.optimizers.Adam(tune.learning_rate), loss)
        small.fit(*samples, tune.batch_size, tune.epochs, verbose=0)

    small, report = tfsparse.prune(
        model,
        budgets.parse(chosen.target),
        samples,
        fine_tune if tune.epochs else None,
        criterion=chosen.criterion,
        scope=chosen.scope,
        steps=chosen.steps,
        ignore=options.listed(chosen.ignore),
        limits=limits,
        loss=loss,
        seed=chosen.seed,
        ranking=chosen.ranking or None,
    )
    with files.appears_whole(small_path) as temporary:
        small.save(temporary)
    for group in report.groups:
        reason = f", {group.reason}" if group.reason else ""
        command.say(f"{group.name}: {group.kept} of {group.size} units{reason}")
    before, after = report.before, report.after
    command.say(
        f"parameters {before.params:,} -> {after.params:,}, "
        f"MACs {before.macs:,} -> {after.macs:,}"
    )
    return {
        "model": small_path,
        "before": dataclasses.asdict(before),
        "after": dataclasses.asdict(after),
        "groups": {group.name: group.kept for group in report.groups},
    }
