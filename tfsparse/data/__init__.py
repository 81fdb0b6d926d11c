"""Name or path -> Dataset -> batches. Names load what they need when they are used."""

from __future__ import annotations

import importlib

_HOMES = {
    "AUGMENTATIONS": "settings",
    "Batches": "batches",
    "Data": "settings",
    "Dataset": "dataset",
    "Images": "images",
    "load": "reading",
    "parse_augmentation": "settings",
    "read": "reading",
    "samples": "arrays",
    "Task": "task",
}

__all__ = [
    "AUGMENTATIONS",
    "Batches",
    "Data",
    "Dataset",
    "Images",
    "Task",
    "load",
    "parse_augmentation",
    "read",
    "samples",
]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
