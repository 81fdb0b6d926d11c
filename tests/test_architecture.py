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
    "records": set(),
    "numerics": set(),
    "gradients": {"numerics"},
    "data": {"files"},
    "files": set(),
    "meters": set(),
    "progress": set(),
    "checkpoints": {"files"},
    "bisection": {"records"},
    "distillation": {"optimizers"},
    "graph": {"records"},
    "layers": {"numerics", "records"},
    "optimizers": {"numerics", "records"},
    "methods": {"layers", "optimizers", "numerics", "gradients", "records"},
    "zoo": {"layers", "records"},
    "nas": {"layers", "optimizers", "methods", "numerics", "records"},
    "search": {"zoo", "graph.cost", "records"},
    "curvature": {"graph", "gradients", "numerics", "records"},
    "deploy": {"graph", "numerics", "gradients", "records", "files"},
    "report": {"records", "files"},
}
"""Room -> what of tfsparse it may import, itself aside. The others are conductors.

The plan's table did not know `files`, `meters`, `progress` and `checkpoints`.
"""

CONDUCTORS = {
    "__init__", "train", "shrinking", "fitting", "outcome", "search.__main__", "flags",
    "tools",
}  # fmt: skip

TENSORFLOW = {
    "data.batches", "data.images", "data.sources", "gradients", "train", "deploy.export",
    "deploy.interpreters",
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
    if module in CONDUCTORS or room in CONDUCTORS:
        return
    assert room in ROOMS, f"{module} is a room that the table does not know"
    wrong = {name for name in inside if not allowed(name, ROOMS[room] | {room})}
    assert not wrong, f"{module} may import {sorted(ROOMS[room])}"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_tensorflow_stands_in_five_places(path):
    tops = {name.split(".")[0] for name in imports_of(path)}
    module = module_of(path)
    if module not in TENSORFLOW:
        assert not tops & {"tensorflow", "ai_edge_litert", "tflite_micro", "tf_keras"}
    if module.split(".")[0] in ("report", "files", "meters", "records"):
        assert not tops & {"keras", "tensorflow"}
    assert not tops & {"tensorflow_model_optimization", "pickle", "dill", "torch"}


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
