"""`tfsparse COMMAND ...`: finds the subcommand and runs it."""

from __future__ import annotations

import ast
import importlib
import os
import pathlib
import sys
from collections.abc import Sequence

import tfsparse
from tfsparse import train

ORDER = ("train", "prune", "strip", "sensitivity", "export")
"""Subcommands in the order of their help; others of this folder follow."""

NOT_COMMANDS = ("__init__", "main", "command", "judging")


def commands() -> list[str]:
    """The names of all subcommands: the files of this folder."""
    found = [path.stem for path in pathlib.Path(__file__).parent.glob("*.py")]
    own = [name for name in found if name not in NOT_COMMANDS]
    return sorted(
        own, key=lambda name: (ORDER.index(name) if name in ORDER else 99, name)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The program. Returns the exit code.

    Args:
        arguments: What stands behind `tfsparse`; that of the process by default.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] == "--version":
        sys.stdout.write(f"tfsparse {tfsparse.__version__}\n")
        return 0
    if not given or given[0] in ("--help", "-h", "help"):
        sys.stdout.write(usage())
        return 0 if given else 2
    name, rest = given[0], given[1:]
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does, for a user's own modules
    if name not in commands():

        def refuse() -> None:
            raise ValueError(
                f"The command must be one of {commands()}. Received: {name!r}."
            )

        return train.exit_code(refuse)
    return importlib.import_module(f"tfsparse.cli.{name}").main(rest)


def usage() -> str:
    """The page that lists the subcommands."""
    rows = []
    for name in commands():
        source = pathlib.Path(__file__).with_name(f"{name}.py").read_text("utf-8")
        first = (ast.get_docstring(ast.parse(source)) or "").split("\n")[0]
        rows.append(f"  {name:<13}{first}")
    return "\n".join(
        [
            "Makes neural networks small enough for microcontrollers, and proves it.",
            "",
            "  tfsparse COMMAND --help      shows what a command takes",
            "",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
