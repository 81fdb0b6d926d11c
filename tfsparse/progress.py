"""What a person sees while a run works: bars, sentences, the table at its end."""

from __future__ import annotations

import contextlib
import textwrap

import keras
from rich import box, console, table
from rich import progress as bars

HEADING_WIDTH = 7
"""Characters of a heading of the table in a line; the numbers below are not broken."""


class Progress:
    """Progress of a run on the terminal; a context manager."""

    def __init__(self):
        self._console = console.Console(stderr=False)
        self._bars = bars.Progress(
            bars.TextColumn("{task.description:>10}"),
            bars.BarColumn(bar_width=28),
            bars.TextColumn("{task.fields[count]}"),
            bars.TimeElapsedColumn(),
            bars.TextColumn("{task.fields[note]}"),
            console=self._console,
        )

    def __enter__(self):
        self._bars.__enter__()
        return self

    def __exit__(self, *error):
        self._bars.__exit__(*error)

    def say(self, text: str) -> None:
        """Prints a sentence above the bars."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def stage(self, name: str, epochs: int, steps: int) -> Bar:
        """A bar for one stage of training."""
        return Bar(self._bars, name, epochs, steps)

    def table(self, stages: list[dict]) -> None:
        """Prints the stages of a finished run."""
        shown = table.Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        shown.add_column("stage", no_wrap=True)
        score = stages[-1]["score"]
        unit = f", {score['unit']}" if score["unit"] not in ("", "%") else ""
        sizes = ("params", "MACs", "weights (B)", "file (B)", "arena (B)")
        for name in (f"{score['name']}{unit}", *score["others"], *sizes):
            heading = "\n".join(
                textwrap.wrap(name, HEADING_WIDTH, break_long_words=False)
            )
            shown.add_column(heading, justify="right", no_wrap=True)
        for row in stages:
            sizes = (row["weight_bytes"], row["file_bytes"], row["arena_bytes"])
            shown.add_row(
                row["name"],
                _number(row["score"]["value"], row["score"]["unit"]),
                *(f"{value:.3g}" for value in row["score"]["others"].values()),
                f"{row['params']:,}",
                f"{row['macs']:,}",
                *("" if n is None else f"{n:,}" for n in sizes),
            )
        self._bars.stop()
        self._console.print(shown)


def _number(value: float, unit: str) -> str:
    """A share as percents, another number as it is."""
    return f"{value:.2%}" if unit == "%" else f"{value:.4g}"


class Silent:
    """Progress that nobody sees: of a call of Python, which has callbacks of its own."""

    def say(self, text: str) -> None:
        """Says nothing."""

    def table(self, rows) -> None:
        """Shows none."""

    def stage(self, name: str, epochs: int, steps: int) -> SilentBar:
        """A bar that nobody sees."""
        return SilentBar(name)


class SilentBar(contextlib.AbstractContextManager):
    """The bar of `Silent`.

    Args:
        name: Of the stage.
    """

    def __init__(self, name: str):
        self.name = name

    def __exit__(self, *error) -> None:
        """Does nothing."""

    def note(self, text: str) -> None:
        """Shows nothing."""

    def callback(self) -> keras.callbacks.Callback:
        """A Keras callback that does nothing."""
        return keras.callbacks.Callback()


class Bar:
    """The bar of one stage; a context manager."""

    def __init__(self, shown, name: str, epochs: int, steps: int):
        self._shown, self.name = shown, name
        self._epochs, self._steps = epochs, steps
        self._task = None
        self._note = ""

    def __enter__(self):
        self._task = self._shown.add_task(
            self.name, total=max(1, self._epochs * self._steps), count="", note=""
        )
        return self

    def __exit__(self, *error):
        if error[0] is None:
            self._shown.update(self._task, completed=max(1, self._epochs * self._steps))

    def note(self, text: str) -> None:
        """Shows a few words behind the bar."""
        self._note = text

    def move(self, epoch: int, step: int, logs: dict | None) -> None:
        """Moves the bar to a step of an epoch."""
        loss = (logs or {}).get("loss")
        shown = "" if loss is None else f"loss {float(loss):.3f}"
        self._shown.update(
            self._task,
            completed=epoch * self._steps + step,
            count=f"epoch {epoch + 1}/{self._epochs}",
            note=f"{shown}  {self._note}",
        )

    def callback(self) -> keras.callbacks.Callback:
        """A Keras callback that moves this bar."""
        return _Mover(self)


class _Mover(keras.callbacks.Callback):
    def __init__(self, bar: Bar):
        super().__init__()
        self._bar = bar
        self._epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self._bar.move(self._epoch, batch + 1, logs)
