"""What subcommands share: positional arguments, flags of some records, one line of error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from tfsparse import files, flags, options, records, train


@options.record
class Output(options.Options):
    """How results are told."""

    part = "Output"

    json: bool = options.field(
        False,
        "One line of JSON on standard output, for scripts; sentences go to standard error.",
    )


def run(
    arguments: Sequence[str],
    usage: str,
    positional: Sequence[str],
    parts: Sequence[type[options.Options]],
    work: Callable[..., dict[str, Any]],
) -> int:
    """Reads a command line and does the work. Returns the exit code.

    Args:
        arguments: What stands behind the subcommand.
        usage: What the command does: a headline, and how it is called.
        positional: Names of the arguments without a flag.
        parts: Records whose settings may stand there as flags.
        work: Called with the positional arguments, then a record for each part; returns
            what a script wants to know.
    """

    def job() -> None:
        line = flags.expanded(arguments)
        every = [*parts, Output]
        if flags.asks_for_help(line):
            sys.stdout.write(flags.page(usage, every))
            return
        given, rest = flags.read(line, every, positional=positional, once=True)
        settings: list[Any] = [part(**given[part]) for part in parts]
        with files.told_as_json(Output(**given[Output]).json) as tell:
            try:
                tell(work(*rest, *settings))
            except records.ParityError as error:
                tell(error.result)
                raise

    return train.exit_code(job)


def say(text: str) -> None:
    """Prints a line."""
    sys.stdout.write(f"{text}\n")
