"""What subcommands share: positional arguments, flags of some records, one line of error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from tfsparse import flags, options, train


def run(
    arguments: Sequence[str],
    usage: str,
    positional: Sequence[str],
    parts: Sequence[type[options.Options]],
    work: Callable[..., None],
) -> int:
    """Reads a command line and does the work. Returns the exit code.

    Args:
        arguments: What stands behind the subcommand.
        usage: What the command does: a headline, and how it is called.
        positional: Names of the arguments without a flag.
        parts: Records whose settings may stand there as flags.
        work: Called with the positional arguments, then a record for each part.
    """

    def job() -> None:
        line = flags.expanded(arguments)
        if flags.asks_for_help(line):
            sys.stdout.write(flags.page(usage, parts))
            return
        given, rest = flags.read(line, parts, positional=positional, once=True)
        settings: list[Any] = [part(**given[part]) for part in parts]
        work(*rest, *settings)

    return train.exit_code(job)


def say(text: str) -> None:
    """Prints a line."""
    sys.stdout.write(f"{text}\n")
