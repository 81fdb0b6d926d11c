"""Trains a network while it gets smaller, strips what died, exports and verifies it."""

from __future__ import annotations

from collections.abc import Sequence

from tfsparse import train


def main(arguments: Sequence[str]) -> int:
    """The subcommand; the same as `python -m tfsparse.train`."""
    return train.main(["tfsparse train", *arguments])
