"""Shows what a network loses when each of its groups alone is pruned."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from tfsparse import options, records
from tfsparse.cli import command

USAGE = """Shows what a trained .keras model loses when each of its groups alone is pruned.

  tfsparse sensitivity model.keras plot.png --data=validation.npz

The score is that of the data given: accuracy of classes, errors of numbers. Writes the
plot, and its rows beside it as .json."""


@options.record
class SensitivitySettings(options.Options):
    """What is pruned, and what is measured."""

    part = "What is pruned, and what is measured"

    data: str = options.field("", "An .npz with arrays x and y; needed.")
    criterion: str = options.field(
        "l2",
        "How much each unit matters.",
        choices=records.CRITERIA,
    )
    task: str = options.field(
        "auto",
        "What is predicted; auto finds it in the labels.",
        choices=("auto", *records.TASKS),
    )
    remains: tuple[float, ...] = options.field(
        (0.75, 0.5, 0.25), "Shares of units that remain.", above=0, high=1
    )
    ignore: str = options.patterns(
        "", "Patterns of groups that stay whole.", example="stem*,head*"
    )

    def check(self) -> None:
        """Checks that there is data."""
        if not self.data:
            raise ValueError(
                "`data` must be an .npz with arrays x and y. Received: none."
            )


def main(arguments: Sequence[str]) -> int:
    """The subcommand."""
    parts = (SensitivitySettings,)
    return command.run(arguments, USAGE, ("model", "plot"), parts, work)


def work(path: str, plot: str, settings: SensitivitySettings) -> dict:
    """Measures the model at `path`, draws, prints."""
    import tfsparse
    from tfsparse import data, files, zoo
    from tfsparse.cli import judging
    from tfsparse.deploy import interpreters
    from tfsparse.report import plots

    model = zoo.load(path)
    x, y = data.samples(settings.data)

    task, y = judging.task_of(settings.data, model, x, y, settings.task)

    def score(small) -> float:
        outputs = task.reduced(interpreters.predict(small, x), x)
        return task.score(outputs, y).value

    rows = tfsparse.sensitivity(
        model,
        score,
        settings.remains,
        criterion=settings.criterion,
        data=(x, y),
        loss=task.loss(),
        ignore=options.listed(settings.ignore),
    )
    figure = plots.sensitivity(rows, task.score_name)
    with files.appears_whole(plot) as temporary:
        figure.savefig(temporary, dpi=150)
    files.write_json(str(pathlib.Path(plot).with_suffix(".json")), rows)

    def shown(value: float) -> str:
        return f"{value:.2%}" if task.unit == "%" else f"{value:.4g}"

    command.say(f"{task.score_name}, whole: {shown(rows[0]['value'])}")
    for row in rows[1:]:
        command.say(
            f"{row['group']}: {row['kept']} of {row['size']}: {shown(row['value'])}"
        )
    return {"plot": plot, "score": task.score_name, "rows": rows}
