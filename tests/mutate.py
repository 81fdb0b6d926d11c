"""Breaks the package on purpose, one place at a time, and asks the tests to notice.

    python tests/mutate.py                         # what has no result yet; 1 if any lives
    python tests/mutate.py --only=engine/filling   # mutants of files whose path begins so
    python tests/mutate.py --table                 # what is known

Every statement of `graph/rules/` that carries, consumes, gates, ties, joins, freezes or
evens out labels is left out once, and every index map there reversed. Elsewhere `COUNT`
mutants are drawn, from each file by its share of all lines: a statement left out, a condition
negated, a constant shifted, two arguments swapped. A mutant is a copy of the package; the
tests that run its line, those of its own room first, run on the copy until one fails.
Which tests run a line is traced once, by coverage, and again whenever the package changes.
Writes benchmarks/results/mutations.json, each row as it is done.
"""

from __future__ import annotations

import argparse
import ast
import collections
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time

import keras  # noqa: F401
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "tfsparse"
RESULTS = ROOT / "benchmarks" / "results" / "mutations.json"
TRACE = ROOT / "runs" / "mutations_trace.json"

COUNT, SEED = 300, 0
PATIENCE = 300.0
"""Seconds that a mutant's tests may take in all beyond twice their usual time."""

ROOMS = {
    "methods": "tests/methods", "optimizers": "tests/optimizers", "layers": "tests/layers",
    "numerics": "tests/numerics", "curvature": "tests/curvature", "engine": "tests/engine",
    "data": "tests/data", "deploy": "tests/deploy", "children": "tests/children",
    "report": "tests/report", "zoo": "tests/zoo", "budgets.py": "tests/test_budgets.py",
    "fitting.py": "tests/engine", "distillation.py": "tests/test_distillation.py",
}  # fmt: skip
"""What is drawn from -> where its own tests are."""

RULE_TESTS = ("tests/graph/test_groups.py", "tests/conformance/test_stock.py",
              "tests/conformance/test_strip.py", "tests/conformance/test_branch.py",
              "tests/conformance/test_hostile.py")  # fmt: skip
DROPPED = {"carry", "consume", "gate", "freeze", "freeze_all", "join", "lanes", "site"}
SHIFTED = {"repeat", "tile", "concatenate"}

EQUIVALENT = {
    ("graph/rules/moves.py", "reverse",
     "together = np.concatenate([x for x in held if x is not None])"):
    "only the set of the labels is used",
    ("methods/bayesnas_compression.py", "shift", "below=GONE / 2,"):
    "a bound of 5e29 or of 2.5e29: nobody's setting lies between",
}  # fmt: skip
"""(file, kind, line of code) -> why the change changes nothing that anyone can notice."""


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        file: Below the package.
        line: Where.
        kind: What is done there.
        source: The whole file with the change.
    """

    file: str
    line: int
    kind: str
    source: str

    @property
    def key(self) -> tuple:
        """What a row is known by: a change elsewhere in the file does not matter."""
        return self.key_in((PACKAGE / self.file).read_text().splitlines())

    def key_in(self, lines: list[str]) -> tuple:
        """The same, of the lines of its file: file, kind, and the line as it was."""
        return self.file, self.kind, lines[self.line - 1].strip()


def of_rules() -> list[Mutant]:
    """Every change of the rules."""
    found = []
    for path in sorted((PACKAGE / "graph" / "rules").glob("*.py")):
        source, name = path.read_text(), str(path.relative_to(PACKAGE))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Expr) and _calls(node.value, "walk", DROPPED):
                changed = _cut(source, node, "pass")
                found.append(Mutant(name, node.lineno, "drop", changed))
            if _calls(node, "np", SHIFTED):
                text = ast.get_source_segment(source, node)
                changed = _cut(source, node, f"({text})[..., ::-1]")
                found.append(Mutant(name, node.lineno, "reverse", changed))
    return found


def drawn(count: int = COUNT, seed: int = SEED) -> list[Mutant]:
    """Mutants of the other rooms: of each file as many as its share of all lines.

    In a file those come first whose hash is least: a change of the code around them draws
    the same ones.
    """
    paths = [
        path
        for room in ROOMS
        for path in (
            [PACKAGE / room]
            if room.endswith(".py")
            else sorted((PACKAGE / room).rglob("*.py"))
        )
    ]
    sources = [path.read_text() for path in paths]
    ends = np.cumsum([len(source.splitlines()) for source in sources])
    quotas = np.diff(np.round(ends * count / ends[-1]).astype(int), prepend=0)
    found = []
    for path, source, quota in zip(paths, sources, quotas, strict=True):
        known = source.splitlines()
        unique = {m.key_in(known): m for m in _changes(path, source)}
        order = sorted(unique, key=lambda key: _hash(seed, key))
        found += [unique[key] for key in order[:quota]]
    return found


def _hash(seed: int, key: tuple) -> str:
    return hashlib.sha256(repr((seed, *key)).encode()).hexdigest()


def _changes(path: pathlib.Path, source: str):
    """Every change of a file."""
    name, tree = str(path.relative_to(PACKAGE)), ast.parse(source)
    for node in _walked(tree):
        for kind, place, text in _of(node, source):
            yield Mutant(name, place.lineno, kind, _cut(source, place, text))


def _walked(node):
    """What runs: no annotations, no docstrings, nothing for a type checker alone."""
    for child in ast.iter_child_nodes(node):
        annotation = getattr(node, "annotation", None), getattr(node, "returns", None)
        if child in annotation:
            continue
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _walked(child)


def _of(node, source: str):
    """`(kind, node to replace, new text)` of each change at a node."""
    statement = (ast.AugAssign, ast.Raise, ast.Continue, ast.Break)
    if isinstance(node, statement) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ):
        yield "drop", node, "pass"
    if isinstance(node, ast.Assign) and not all(
        isinstance(t, ast.Name | ast.Tuple) for t in node.targets
    ):
        yield "drop", node, "pass"
    if isinstance(node, ast.If | ast.While | ast.IfExp):
        yield "negate", node.test, f"(not ({_text(source, node.test)}))"
    if isinstance(node, ast.comprehension):
        for test in node.ifs:
            yield "negate", test, f"(not ({_text(source, test)}))"
    if isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
        if isinstance(node.value, bool):
            yield "shift", node, repr(not node.value)
        else:
            shifted = node.value + 1 if node.value in (0, 1) else 2 * node.value
            yield "shift", node, repr(shifted)
    if isinstance(node, ast.Call) and len(node.args) > 1:
        first, second = node.args[:2]
        starred = isinstance(first, ast.Starred) or isinstance(second, ast.Starred)
        names = _text(source, first), _text(source, second)
        same_line = first.lineno == second.lineno == second.end_lineno
        if not starred and same_line and names[0] != names[1]:
            both = ast.copy_location(ast.Tuple([first, second], ast.Load()), first)
            both.end_lineno, both.end_col_offset = (
                second.end_lineno,
                second.end_col_offset,
            )
            yield "swap", both, f"{names[1]}, {names[0]}"


def _text(source: str, node) -> str:
    return ast.get_source_segment(source, node) or ast.unparse(node)


def _calls(node, of: str, names: set[str]) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == of
        and node.func.attr in names
    )


def _cut(source: str, node, text: str) -> str:
    """The source with the text in place of a node. Columns count bytes."""
    lines = source.encode().splitlines(keepends=True)
    before = b"".join(lines[: node.lineno - 1])
    before += lines[node.lineno - 1][: node.col_offset]
    after = lines[node.end_lineno - 1][node.end_col_offset :]
    return (
        before + text.encode() + after + b"".join(lines[node.end_lineno :])
    ).decode()


# Which tests run a line ----------------------------------------------------------------


def traced() -> dict:
    """`{"lines": {file: {line: [test, ...]}}, "seconds": {test: s}}`, made where it is old."""
    digest = hashlib.sha256()
    for path in sorted([*PACKAGE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")]):
        if path != pathlib.Path(__file__):
            digest.update(path.read_bytes())
    if TRACE.exists():
        held = json.loads(TRACE.read_text())
        if held["digest"] == digest.hexdigest():
            return held
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(PACKAGE, pathlib.Path(folder) / "tfsparse")
        kept = pathlib.Path(folder) / "trace.json"
        child = os.fork()
        if not child:
            os._exit(_trace(folder, kept))
        os.waitpid(child, 0)
        held = json.loads(kept.read_text()) | {"digest": digest.hexdigest()}
    TRACE.parent.mkdir(exist_ok=True)
    TRACE.write_text(json.dumps(held))
    return held


class _Watch:
    """A pytest plugin: which test runs, and for how long."""

    def __init__(self, cover):
        self.cover, self.seconds = cover, collections.defaultdict(float)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item, nextitem):
        self.cover.switch_context(item.nodeid)

    def pytest_runtest_logreport(self, report):
        self.seconds[report.nodeid] += report.duration


def _trace(folder: str, kept: pathlib.Path) -> int:
    import coverage

    cover = coverage.Coverage(
        data_file=str(pathlib.Path(folder) / "coverage"),
        source=[str(pathlib.Path(folder) / "tfsparse")],
    )
    watch = _Watch(cover)
    cover.start()
    _pytest(folder, ["tests"], [watch], stop=False)
    cover.stop()
    data = cover.get_data()
    lines = {
        str(pathlib.Path(file).relative_to(pathlib.Path(folder) / "tfsparse")): {
            line: [test for test in tests if test]
            for line, tests in data.contexts_by_lineno(file).items()
        }
        for file in data.measured_files()
    }
    kept.write_text(json.dumps({"lines": lines, "seconds": watch.seconds}))
    return 0


def tests_of(mutant: Mutant, trace: dict) -> list[str]:
    """The tests that run a mutant's line, those of its room first, then the quickest."""
    if mutant.file.startswith("graph/rules"):
        return list(RULE_TESTS)
    own = next(tests for room, tests in ROOMS.items() if mutant.file.startswith(room))
    held = trace["lines"].get(mutant.file, {})
    found = held.get(str(mutant.line), [])
    if not found:  # run as the module is read: whatever reads it
        found = sorted({test for tests in held.values() for test in tests})
    if not found:
        return [own]
    seconds = trace["seconds"]
    return sorted(found, key=lambda t: (not t.startswith(own), seconds.get(t, 0.0)))


# Running them --------------------------------------------------------------------------


def survives(mutant: Mutant, tests: list[str], patience: float) -> bool:
    """Whether the tests stay green on a package with a change, in a forked process."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(PACKAGE, pathlib.Path(folder) / "tfsparse")
        (pathlib.Path(folder) / "tfsparse" / mutant.file).write_text(mutant.source)
        child = os.fork()  # Keras is loaded once, by the parent
        if not child:
            os.setpgrp()
            os._exit(_pytest(folder, tests))
        code = _ended(child, patience)
    if code not in (0, 1, 2, 3, 4, None) and code > 0:
        raise SystemExit(f"pytest ended with {code} on {mutant.file}:{mutant.line}")
    return code == 0


def _ended(child: int, patience: float) -> int | None:
    """A child's exit code; None where it took too long, and was ended."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.2)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _pytest(folder: str, tests: list[str], plugins=(), stop: bool = True) -> int:
    os.chdir(folder)
    sys.path.insert(0, folder)
    os.environ["PYTHONPATH"] = folder
    sys.dont_write_bytecode = True
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    arguments = ["-q", "-p", "no:cacheprovider", "-c", str(ROOT / "setup.cfg"),
                 "--rootdir", str(ROOT), *(["-x"] if stop else [])]  # fmt: skip
    paths = [str(ROOT / test) for test in tests]
    return int(pytest.main([*arguments, *paths], list(plugins)))


def main() -> int:
    """Runs the mutants that have no result yet, and those that survived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--table", action="store_true")
    chosen = parser.parse_args()
    made = [*of_rules(), *drawn()]
    keys = {mutant.key for mutant in made}
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    rows = [row for row in rows if (row["file"], row["kind"], row["code"]) in keys]
    known = {(r["file"], r["kind"], r["code"]) for r in rows if not r["survived"]}
    waiting = [
        m
        for m in made
        if m.file.startswith(chosen.only)
        and (chosen.only or m.key not in known)
        and m.key not in EQUIVALENT
    ]
    trace = traced() if waiting and not chosen.table else {}
    for mutant in [] if chosen.table else waiting:
        tests = tests_of(mutant, trace)
        usual = sum(trace["seconds"].get(test, 30.0) for test in tests)
        survived = survives(mutant, tests, PATIENCE + 2 * usual)
        print(f"{mutant.file}:{mutant.line} {mutant.kind}: "
              f"{'SURVIVED' if survived else 'killed'}  {mutant.key[-1]}", flush=True)  # fmt: skip
        own = dict(zip(("file", "kind", "code"), mutant.key, strict=True))
        rows = [row for row in rows if {**row, **own} != row]
        rows.append({**own, "line": mutant.line, "survived": survived})
        rows.sort(key=lambda row: (row["file"], row["line"], row["kind"]))
        RESULTS.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    for name, held in (("rules", of_rules()), ("drawn", drawn())):
        own = [row for row in rows if (row["file"], row["kind"], row["code"]) in
               {m.key for m in held}]  # fmt: skip
        alive = [row for row in own if row["survived"]]
        print(f"{name}: {len(own)} of {len(held)} ran, {len(alive)} live")
    return int(any(row["survived"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
