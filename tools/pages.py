"""Writes docs/commands.md and docs/api.md from options and from what tfsparse offers.

python tools/pages.py            # writes
python tools/pages.py --check    # exit code 1 where one is not what it would write
"""

from __future__ import annotations

import contextlib
import io
import pathlib
import sys

import tfsparse
from tfsparse import files, methods
from tfsparse.cli import main as command

DOCS = pathlib.Path(__file__).parents[1] / "docs"

ALSO = {
    "Groups of a penalty": (
        "tfsparse.methods.partitions",
        ("units", "by_shape", "operations"),
    ),
    "Extending": ("tfsparse.methods", ("Method",)),
    "Options": ("tfsparse.options", ("record", "field", "pairs", "patterns")),
    "Stages": ("tfsparse.engine.stage", ("Stage", "Told")),
    "Data": ("tfsparse.data", ("load", "Dataset", "Task")),
    "Records": (
        "tfsparse.records",
        (
            "Cost",
            "UnitGroup",
            "Artifact",
            "Parity",
            "GroupReport",
            "PruneReport",
            "Removal",
        ),
    ),
}


def help_page(*arguments: str) -> str:
    """What a command prints when it is asked for help."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        command.main([*arguments, "--help"])
    return said.getvalue().rstrip()


def commands() -> str:
    """The page of commands: each one's help, then that of every method."""
    parts = [
        "# Commands",
        "Written by `python tools/pages.py` from the options that the commands read.",
    ]
    for name in command.commands():
        parts += [f"## tfsparse {name}", f"```text\n{help_page(name)}\n```"]
    for name in sorted(methods.METHODS):
        page = help_page("train", f"--method={name}")
        parts += [f"## tfsparse train --method={name}", f"```text\n{page}\n```"]
    return "\n\n".join([*parts, ""])


def api() -> str:
    """The page of everything that `import tfsparse` offers, from its docstrings."""
    parts = [
        "# API",
        "Written by `python tools/pages.py` from what the package offers, and from its "
        "docstrings when the site is built.",
        "## tfsparse",
    ]
    names = [name for name in tfsparse.__all__ if not name.startswith("_")]
    parts += [_entry("tfsparse", name) for name in names]
    for title, (module, own) in ALSO.items():
        parts.append(f"## {title}")
        parts += [_entry(module, name) for name in own]
    return "\n\n".join([*parts, ""])


def _entry(module: str, name: str) -> str:
    found = getattr(__import__(module, fromlist=[name]), name)
    kind = "autoclass" if isinstance(found, type) else "autofunction"
    return f"```{{eval-rst}}\n.. {kind}:: {module}.{name}\n```"


def pages() -> dict[str, str]:
    """Path -> text of what is written here."""
    return {"commands.md": commands(), "api.md": api()}


def main() -> int:
    """The program."""
    if "--check" in sys.argv[1:]:
        stale = [
            name
            for name, text in pages().items()
            if (DOCS / name).read_text("utf-8") != text
        ]
        if stale:
            sys.stderr.write(f"not up to date: {', '.join(stale)}\n")
        return 1 if stale else 0
    for name, text in pages().items():
        files.write_text(str(DOCS / name), text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
