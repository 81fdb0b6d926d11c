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
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
RULES = ROOT / "tfsparse" / "graph" / "rules"
RESULTS = ROOT / "benchmarks" / "results" / "mutations.json"
TESTS = ("tests/test_groups.py", "tests/conformance/test_stock.py",
         "tests/conformance/test_strip.py", "tests/conformance/test_branch.py",
         "tests/conformance/test_hostile.py")  # fmt: skip
DROPPED = {"carry", "consume", "gate", "freeze", "freeze_all", "join", "lanes", "site"}
SHIFTED = {"repeat", "tile", "concatenate"}


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
    """Whether the tests stay green on a package with this file."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "tfsparse", pathlib.Path(folder) / "tfsparse")
        (pathlib.Path(folder) / "tfsparse" / "graph" / "rules" / name).write_text(
            source
        )
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        command += ["-c", str(ROOT / "setup.cfg"), *(str(ROOT / t) for t in TESTS)]
        done = subprocess.run(  # python -m looks for the package in its folder first
            command,
            cwd=folder,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
        )
    if done.returncode not in (0, 1, 2):
        raise SystemExit(done.stdout + done.stderr)
    return done.returncode == 0


def main(wanted: list[str]) -> int:
    """Runs the mutants that have no result yet."""
    from tfsparse import files

    rows = files.read_json(RESULTS)["rows"] if RESULTS.exists() else []
    have = {(row["file"], row["line"], row["kind"], row["code"]) for row in rows}
    for name, line, kind, source in mutants():
        code = (RULES / name).read_text().splitlines()[line - 1].strip()
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
            files.write_json(RESULTS, {"rows": rows})
    return int(any(row["survived"] for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
