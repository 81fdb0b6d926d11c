"""Model builders, one family a file, and the door to a user's own models."""

from __future__ import annotations

import importlib

_HOMES = {
    "MODELS": "builder",
    "Model": "settings",
    "Scaling": "builder",
    "axes_of": "builder",
    "build": "builder",
    "input_shape_of": "builder",
    "is_file": "builder",
    "load": "builder",
    "named": "builder",
}

__all__ = [
    "MODELS",
    "Model",
    "Scaling",
    "axes_of",
    "build",
    "input_shape_of",
    "is_file",
    "load",
    "named",
]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
