"""README and docs: short, true to the program, and everything printed runs."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import keras
import numpy as np
import pytest

import tfsparse
from tfsparse import flags
from tfsparse.cli import main as command
from tfsparse.engine import settings

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *sorted(f"docs/{p.relative_to(ROOT / 'docs')}"
                              for p in (ROOT / "docs").rglob("*.md"))]  # fmt: skip
WRITTEN = ("docs/commands.md", "docs/api.md", "docs/results.md", "docs/limits.md")


def text_of(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def blocks_of(page: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", text_of(page), re.M | re.S)


def shell_lines(page: str) -> list[str]:
    """Commands that a page prints, those of several lines joined."""
    text = text_of(page).replace("\\\n", " ")
    found = []
    for line in text.splitlines():
        line = line.strip()
        if line.startswith(("python -m tfsparse.train ", "tfsparse ")):
            found.append(line.split("  #")[0])
    return found


def test_the_readme_is_a_landing_page():
    assert len(text_of("README.md").splitlines()) <= 130


def test_every_link_leads_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text_of(page)):
            if "://" not in link:
                target = (ROOT / page).parent / link
                assert target.exists(), f"{page}: {link}"


def test_pages_written_by_a_program_are_up_to_date():
    """In a process of its own: other tests add methods of theirs."""
    command_line = [sys.executable, str(ROOT / "tools" / "pages.py"), "--check"]
    done = subprocess.run(command_line, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stderr[-500:]} python tools/pages.py"


@pytest.mark.parametrize("page", [p for p in PAGES if p not in WRITTEN])
def test_every_command_that_is_printed_can_be_given(page, monkeypatch):
    """Read as the programs read them: names of files stand for a reader's own."""
    monkeypatch.chdir(ROOT)
    for line in shell_lines(page):
        words = shlex.split(line, comments=True)
        words = words[3:] if words[0] == "python" else words[1:]
        if words and words[0] == "train":
            words = words[1:]
        elif not line.startswith("python"):
            if "..." in line or words[0] not in command.commands():
                continue
            module = importlib.import_module(f"tfsparse.cli.{words[0]}")
            parts = [
                value
                for value in vars(module).values()
                if isinstance(value, type) and hasattr(value, "part") and value.part
            ]
            from tfsparse import budgets
            from tfsparse.cli.command import Output

            own = [*dict.fromkeys([*parts, Output, budgets.Limits])]
            flags.read(words[1:], own, positional=("a", "b", "c")[: _count(words)])
            continue
        if any("..." in word or "[" in word for word in words):
            continue
        if any(":" in w for w in words if w.startswith(("--method", "--model"))):
            continue  # a reader's own class
        given = words if "--workdir" in line else [*words, "--workdir=unused"]
        try:
            settings.parse(given)
        except ValueError as error:  # that of a run which a reader has made before
            assert "must be a file that exists" in str(error), line


def _count(words: list[str]) -> int:
    return sum(not word.startswith("-") for word in words[1:])


@pytest.fixture
def yours(tmp_path, monkeypatch):
    """What stands for a reader's own: a model, data, what trains it."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 8, 8, 1)).astype("float32")
    y = rng.integers(0, 3, 120)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def network():
        model = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                keras.layers.Conv2D(8, 3, activation="relu", name="conv1"),
                keras.layers.Flatten(),
                keras.layers.Dense(16, activation="relu", name="fc1"),
                keras.layers.Dense(3, name="head"),
            ]
        )
        model.compile("adam", loss)
        return model

    def fine_tune(small):
        small.compile("adam", loss)
        small.fit(x, y, epochs=1, verbose=0)

    return {
        "model": network(), "x": x, "y": y, "x_test": x, "y_test": y, "loss": loss,
        "fine_tune": fine_tune, "keep": np.arange(8) < 4,
    }  # fmt: skip


EXAMPLES = [page for page in PAGES if page not in WRITTEN and blocks_of(page, "python")]


@pytest.mark.parametrize("page", EXAMPLES)
def test_every_example_in_python_runs(page, yours, monkeypatch):
    """In order, in one namespace; README's own needs nothing but itself."""
    module = types.ModuleType("printed")
    monkeypatch.setitem(sys.modules, "printed", module)
    if page != "README.md":
        vars(module).update(yours, np=np, keras=keras, tfsparse=tfsparse)
    before = set(vars(module))
    for number, block in enumerate(blocks_of(page, "python"), 1):
        exec(compile(block, f"{page}, example {number}", "exec"), vars(module))
    assert set(vars(module)) - before, "an example makes something"
