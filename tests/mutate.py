"""Breaks the rules on purpose, one statement at a time, and asks the tests to notice.

    python tests/mutate.py                  # all; prints who survived, exit code 1 if any
    python tests/mutate.py norms.py:42      # one

Each mutant is a copy of the package with one change in `graph/rules/`: a statement that
carries, consumes, gates, ties, joins, freezes or evens out labels is left out, or an index
map (tile, repeat, concatenate, reshape, transpose of labels) is reversed. The tests in
`TESTS` run on the copy until one fails. Writes benchmarks/results/mutations.json.
"""

from __future__ import annotations

import ast
import json
import os
import pathlib
import shutil
import sys
import tempfile

import keras  # noqa: F401
import pytest

ROOT = pathlib.Path(__file__).parents[1]
RULES = ROOT / "tfsparse" / "graph" / "rules"
RESULTS = ROOT / "benchmarks" / "results" / "mutations.json"
TESTS = ("tests/graph/test_groups.py", "tests/conformance/test_stock.py",
         "tests/conformance/test_strip.py", "tests/conformance/test_branch.py",
         "tests/conformance/test_hostile.py")  # fmt: skip
DROPPED = {"carry", "consume", "gate", "freeze", "freeze_all", "join", "lanes", "site"}
SHIFTED = {"repeat", "tile", "concatenate"}
EQUIVALENT = {
    ("moves.py", "together = np.concatenate([x for x in held if x is not None])"),
}
"""Statements whose reversal changes nothing: only the set of the labels is used."""


def mutants() -> list[tuple[str, int, str, str]]:
    """`(file, line, kind, new source)` of every change."""
    found = []
    for path in sorted(RULES.glob("*.py")):
        source = path.read_text()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Expr) and _is_dropped(node.value):
                found.append(
                    (path.name, node.lineno, "drop", _cut(source, node, "pass"))
                )
            if isinstance(node, ast.Call) and _is_shifted(node):
                text = ast.get_source_segment(source, node)
                changed = _cut(source, node, f"({text})[..., ::-1]")
                found.append((path.name, node.lineno, "reverse", changed))
    return found


def _is_dropped(node) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "walk"
        and node.func.attr in DROPPED
    )


def _is_shifted(node) -> bool:
    return (
        isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "np"
        and node.func.attr in SHIFTED
    )


def _cut(source: str, node, text: str) -> str:
    lines = source.splitlines(keepends=True)
    before = "".join(lines[: node.lineno - 1]) + _bytes(
        lines, node.lineno, 0, node.col_offset
    )
    last = lines[node.end_lineno - 1]
    after = last.encode()[node.end_col_offset :].decode()
    return before + text + after + "".join(lines[node.end_lineno :])


def _bytes(lines, number, start, end) -> str:
    return lines[number - 1].encode()[start:end].decode()


def survives(name: str, source: str) -> bool:
    """Whether the tests stay green on a package with this file, in a forked process."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "tfsparse", pathlib.Path(folder) / "tfsparse")
        (pathlib.Path(folder) / "tfsparse" / "graph" / "rules" / name).write_text(
            source
        )
        child = os.fork()  # Keras is loaded once, by the parent
        if not child:
            os._exit(_tests(folder))
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
    if code not in (0, 1, 2):
        raise SystemExit(f"pytest ended with {code} on {name}")
    return code == 0


def _tests(folder: str) -> int:
    os.chdir(folder)
    sys.path.insert(0, folder)
    sys.dont_write_bytecode = True
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    arguments = ["-q", "-x", "-p", "no:cacheprovider", "-c", str(ROOT / "setup.cfg")]
    return int(pytest.main([*arguments, *(str(ROOT / t) for t in TESTS)]))


def main(wanted: list[str]) -> int:
    """Runs the mutants that have no result yet, and those that survived."""
    made = [
        (name, line, kind, (RULES / name).read_text().splitlines()[line - 1].strip())
        for name, line, kind, _ in mutants()
    ]
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    rows = [
        row
        for row in rows
        if (row["file"], row["line"], row["kind"], row["code"]) in made
        and not row["survived"]
    ]
    have = {(row["file"], row["line"], row["kind"], row["code"]) for row in rows}
    for (name, line, kind, code), (*_, source) in zip(made, mutants(), strict=True):
        if (name, code) in EQUIVALENT:
            continue
        if wanted and f"{name}:{line}" not in wanted:
            continue
        if not wanted and (name, line, kind, code) in have:
            continue
        survived = survives(name, source)
        print(
            f"{name}:{line} {kind}: {'SURVIVED' if survived else 'killed'}  {code}",
            flush=True,
        )
        if not wanted:
            rows.append({"file": name, "line": line, "kind": kind, "code": code,
                         "survived": survived})  # fmt: skip
            RESULTS.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    return int(any(row["survived"] for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
