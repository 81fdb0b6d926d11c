"""Walks the imports of the package and holds them to docs/architecture's table."""

from __future__ import annotations

import ast
import pathlib
import subprocess
import sys

import pytest

import tfsparse

PACKAGE = pathlib.Path(tfsparse.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

ROOMS = {
    "options": set(),
    "flags": {"options"},
    "budgets": {"options", "records"},
    "records": set(),
    "numerics": set(),
    "gradients": {"numerics"},
    "children": {"files"},
    "data": {"options", "files", "records"},
    "files": set(),
    "meters": set(),
    "progress": set(),
    "checkpoints": {"files", "records"},
    "distillation": {"optimizers"},
    "graph": {"records"},
    "layers": {"numerics", "records"},
    "optimizers": {"numerics", "records"},
    "methods": {
        "options", "layers", "optimizers", "numerics", "gradients", "records",
        "graph.rebuild",
    },
    "zoo": {"options", "layers", "records"},
    "nas": {"files", "layers", "zoo", "records", "options"},
    "curvature": {"graph", "gradients", "numerics", "records"},
    "deploy": {
        "graph", "numerics", "gradients", "records", "budgets", "files", "children",
    },
    "report": {"files", "options"},
    "ranking": {"budgets", "gradients", "numerics", "options", "records"},
    "search": {"budgets", "records", "options", "graph"},
}  # fmt: skip
"""Room -> what of tfsparse it may import, itself aside. The others are conductors."""

CONDUCTORS = {"__init__", "__main__", "train", "fitting", "pruning", "engine", "cli"}

SEARCH_CONDUCTORS = {"search.__main__", "search.job", "search.tuner"}
"""Modules of the search that run its trials: they may import the engine."""

ABOVE = {
    "engine": {"train", "fitting", "pruning", "cli"},
    "fitting": {"train", "pruning", "cli"},
    "pruning": {"train", "fitting", "engine", "cli"},
    "train": {"fitting", "pruning", "cli"},
    "cli": set(),
    "__init__": set(),
    "__main__": set(),
}
"""Conductor -> those that it may not import."""

LIGHT = {"options", "flags", "budgets", "records", "methods"}
"""Rooms whose modules import Keras where they use it, not at their top; so do the settings
and stages of the engine, and what a command line is made of elsewhere."""

LIGHT_MODULES = {
    "train", "engine.stage", "engine.settings", "engine.training", "data", "zoo",
    "data.settings", "data.found", "data.splits", "data.arrays", "data.folders",
    "data.tables", "data.windows", "data.sounds", "zoo.settings", "cli.main",
    "cli.command", "children.process", "children.converting", "children.interpreting",
}  # fmt: skip

TENSORFLOW = {
    "data.batches", "data.images", "data.named", "data.streams",
    "gradients", "train",
    "children.converting", "children.interpreting", "deploy.interpreters",
    "deploy.rewritten",
    "deploy.compress", "deploy.slim",  # the schema of TFLite files
    "engine.context", "engine.judging", "engine.runner",
    "engine.bridge", "engine.simulated",
}  # fmt: skip
"""The only modules that may say `import tensorflow`, or an interpreter of its files."""


def module_of(path: pathlib.Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and parts[1:] else parts)


def imports_of(path: pathlib.Path) -> set[str]:
    """Dotted names that a file imports, wherever in it; names of `from` spelt out."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def allowed(target: str, rooms: set[str]) -> bool:
    return any(target == room or target.startswith(f"{room}.") for room in rooms)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_room_enters_only_where_it_may(path):
    module = module_of(path)
    room = module.split(".")[0]
    inside = {
        name.removeprefix("tfsparse.")
        for name in imports_of(path)
        if name.startswith("tfsparse.")
    }
    assert not any(allowed(name, {"tools"}) for name in inside)
    if module in SEARCH_CONDUCTORS:
        return
    if room in CONDUCTORS:
        above = {name for name in inside if allowed(name, ABOVE[room] - {room})}
        assert not above, f"{module} may not import what calls it"
        return
    assert room in ROOMS, f"{module} is a room that the table does not know"
    wrong = {name for name in inside if not allowed(name, ROOMS[room] | {room})}
    assert not wrong, f"{module} may import {sorted(ROOMS[room])}"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_tensorflow_stands_in_few_places(path):
    tops = {name.split(".")[0] for name in imports_of(path)}
    module = module_of(path)
    if module not in TENSORFLOW:
        assert not tops & {"tensorflow", "ai_edge_litert", "tflite_micro", "tf_keras"}
    if module.split(".")[0] in ("report", "files", "meters", "records", "options"):
        assert not tops & {"keras", "tensorflow"}
    assert not tops & {"pickle", "dill", "torch"}
    assert "tensorflow_model_optimization" not in tops or module == "engine.bridge"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_the_library_neither_prints_nor_asserts(path):
    tree = ast.parse(path.read_text())
    assert not [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Assert)]
    called = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
    names = {n.func.id: n.lineno for n in called if isinstance(n.func, ast.Name)}
    assert not names.keys() & {"print", "eval", "exec", "breakpoint"}


def test_rooms_form_no_circle():
    edges = {room: set() for room in ROOMS}
    for path in FILES:
        room = module_of(path).split(".")[0]
        if room in ROOMS:
            for name in imports_of(path):
                target = name.removeprefix("tfsparse.").split(".")[0]
                if name.startswith("tfsparse.") and target in ROOMS and target != room:
                    edges[room].add(target)
    assert edges["deploy"] and edges["methods"]
    while leaves := [room for room, to in edges.items() if not to]:
        for leaf in leaves:
            del edges[leaf]
        for targets in edges.values():
            targets -= set(leaves)
    assert not edges, f"these import each other: {sorted(edges)}"


def test_the_door_names_what_it_holds():
    assert sorted(tfsparse.__all__) == tfsparse.__all__
    assert all(hasattr(tfsparse, name) for name in tfsparse.__all__)
    assert set(dir(tfsparse)) >= set(tfsparse.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tfsparse.nothing


def test_the_door_opens_without_keras():
    code = "import sys, tfsparse; print(sorted({'keras', 'tensorflow'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_only_flags_defines_flags():
    defining = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr.startswith("DEFINE_"):
                defining.append(module_of(path))
    assert set(defining) <= {"flags"}


def heads(path: pathlib.Path) -> set[str]:
    """What a module imports as it is loaded, outside of functions and type checks."""
    found = set()

    def visit(nodes):
        for node in nodes:
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                visit(node.orelse)
            elif isinstance(node, ast.If | ast.With | ast.Try):
                visit(node.body)

    visit(ast.parse(path.read_text()).body)
    return found


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_what_declares_settings_loads_no_keras(path):
    module = module_of(path)
    light = module.split(".")[0] in LIGHT or module in LIGHT_MODULES
    if light or module.startswith(("engine.stages.", "cli.")):
        heavy = {"keras", "tensorflow", "matplotlib", "jinja2", "rich"}
        assert not {name.split(".")[0] for name in heads(path)} & heavy


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_no_room_above_names_a_method(path):
    """Report, engine, flags and command hold what methods and stages hand in."""
    module = module_of(path)
    if module.split(".")[0] not in (
        "report",
        "engine",
        "cli",
        "flags",
        "options",
        "train",
    ):
        return
    from tfsparse import methods

    inside = [
        c for c in methods.METHODS.values() if c.__module__.startswith("tfsparse.")
    ]
    words = {c.name for c in inside} | {c.__name__ for c in inside}
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):  # a docstring may cite a paper, and show an example
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(0)
    text = ast.unparse(tree)
    default = {"shrinknets"} if module == "engine.settings" else set()
    assert not {word for word in words - default if word in text}


PAGE = pathlib.Path(__file__).parents[1] / "docs" / "architecture.md"


def test_the_page_tells_the_same_table():
    rows = [x.split("|") for x in PAGE.read_text().splitlines() if x.startswith("| `")]
    told = {}
    for _, rooms, _, may, _ in rows:
        for room in rooms.replace("`", "").replace("/", "").split(","):
            told[room.strip()] = {x.strip() for x in may.split(",")} - {"nothing"}
    for room, may in ROOMS.items():
        assert told[room] == may, room


def test_tests_mirror_the_rooms():
    here = pathlib.Path(__file__).parent
    folders = {p.name for p in here.iterdir() if p.is_dir()} - {
        "conformance", "__pycache__", ".hypothesis",
    }  # fmt: skip
    rooms = {p.name for p in PACKAGE.iterdir() if p.is_dir()}
    assert folders <= rooms
    names = [p.name for p in here.rglob("test_*.py")]
    assert len(names) == len(set(names))


def test_every_subcommand_can_be_called():
    """What `tfsparse --help` lists has a `main`: helpers of the folder are no commands."""
    import importlib

    from tfsparse.cli import main

    for name in main.commands():
        assert callable(importlib.import_module(f"tfsparse.cli.{name}").main), name
