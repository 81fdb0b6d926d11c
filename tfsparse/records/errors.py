"""Errors that a user can do something about."""

from __future__ import annotations

from typing import Any


class StripError(RuntimeError):
    """A stripped model differs from the masked one by more than float rounding."""


class ParityError(RuntimeError):
    """A shipped file does worse than the network that it was made of.

    Attributes:
        result: What was made all the same.
    """

    result: Any = None


class TrainingError(ValueError):
    """Training reached a state from which no useful model can come."""
