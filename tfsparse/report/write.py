"""Writes report.json, report.html and the plots of a run."""

from __future__ import annotations

import json
import os


def write(document: dict, directory: str) -> None:
    """Placeholder."""
    with open(os.path.join(directory, "report.json"), "w") as file:
        json.dump(document, file, indent=1)
    with open(os.path.join(directory, "report.html"), "w") as file:
        file.write("")
