"""How the project takes a new part: counts of its structure, beside those of before.

    python benchmarks/structure.py [--tests]

Counts, each by doing it: the files that a toy method needs (a copy of the package is given
one file, and a run with it must end well); the fields of the largest record of settings;
the functions that are handed the whole record, beside the runner; the longest function
of the library, in lines of its body; how often a graph is read while a network shrinks for
six epochs; the seconds of `--help`; with --tests also those of `make test`. Writes
benchmarks/results/structure.json.
"""

from __future__ import annotations

import argparse
import ast
import filecmp
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from tfsparse import files

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tfsparse"
RESULT = ROOT / "benchmarks" / "results" / "structure.json"

BEFORE = {
    "commit": "766b515",
    "files_of_a_toy_method": 33,
    "fields_of_the_largest_record": 62,
    "functions_given_all_settings": 8,
    "longest_function_lines": 71,
    "graph_reads_in_six_epochs": 93,
    "help_seconds": 6.5,
}
"""The same counts before parts owned their options; files are those that the newest method
had touched, seconds the middle of 6 to 7."""

TOY = '''"""A toy: the first half of every group stays."""

import numpy as np

from tfsparse import options
from tfsparse.methods.base import Method


@options.record
class Toy(Method):
    """Keeps the first half of every group."""

    name = "toy"
    removes = False
    strength: float = options.field(0.5, "Share that goes.", low=0, below=1)

    def prepare(self, model, groups):
        """The model itself, copied."""
        import keras

        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
        return copy

    def keep(self, model, groups, tools=None):
        """The first half."""
        return {
            group.name: np.arange(group.size) < group.size * (1 - self.strength)
            for group in groups
            if not group.frozen
        }
'''

SIX_EPOCHS = """
import keras, numpy as np, tfsparse
from tfsparse.engine import shrinking
from tfsparse.graph import trace
shrinking.RETRACE_MACS = 1.0
reads = []
reader = trace._Reader
class Counted(reader):
    def __init__(self, *arguments):
        reads.append(1)
        super().__init__(*arguments)
trace._Reader = Counted
rng = np.random.default_rng(0)
x, y = rng.random((256, 8, 8, 1), "float32"), rng.integers(0, 4, 256)
image = keras.Input((8, 8, 1))
h = keras.layers.Conv2D(12, 3, activation="relu")(image)
h = keras.layers.Dense(16, activation="relu")(keras.layers.Flatten()(h))
model = keras.Model(image, keras.layers.Dense(4)(h))
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(0.01), loss, jit_compile=False)
found = tfsparse.fit_shrinking(model, tfsparse.ShrinkNets(0.03), x, y, epochs=6)
print(len(reads), len(found.removals))
"""


def python(code_or_args, cwd=ROOT, **more) -> subprocess.CompletedProcess:
    """Runs this Python somewhere; the package is that of the folder."""
    environment = {**os.environ, "PYTHONPATH": str(cwd), "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        [sys.executable, *code_or_args], cwd=cwd, env=environment, check=True,
        capture_output=True, text=True, **more,
    )  # fmt: skip


def files_of_a_toy_method() -> int:
    """Files that differ from the project's once a toy method runs from the command line."""
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / "tfsparse"
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / "methods" / "toy.py").write_text(TOY)
        flags = ["--data=digits", "--model=mlp", "--hidden=8", "--method=toy", "--epochs=1",
                 "--shrink_epochs=1", "--fine_tune_epochs=1", "--formats=keras",
                 "--tensorboard=false", f"--workdir={folder}/run"]  # fmt: skip
        python(["-m", "tfsparse.train", *flags], folder)
        report = files.read_json(f"{folder}/run/report.json")
        if report["groups"][0]["kept"] != 4:
            raise RuntimeError("The toy method decided nothing.")
        mine = {p.relative_to(copy) for p in copy.rglob("*.py")}
        return sum(
            not (PACKAGE / name).exists()
            or not filecmp.cmp(copy / name, PACKAGE / name, shallow=False)
            for name in mine
        )


def trees() -> dict[str, ast.Module]:
    """Every module of the library, parsed."""
    return {
        str(p.relative_to(PACKAGE)): ast.parse(p.read_text())
        for p in sorted(PACKAGE.rglob("*.py"))
    }


def fields_of_the_largest_record() -> tuple[str, int]:
    """The record of settings with most fields, and how many."""
    from tfsparse import options
    from tfsparse.engine import settings, stage

    stage.find("sparse")

    def below(cls):
        for one in cls.__subclasses__():
            yield one
            yield from below(one)

    records = [
        c for c in below(options.Options) if "__dataclass_params__" in c.__dict__
    ]
    counts = {c.__name__: len(options.fields_of(c)) for c in records}
    counts |= {settings.Settings.__name__: len(settings.Settings.__dataclass_fields__)}
    name = max(counts, key=counts.__getitem__)
    return name, counts[name]


def functions_given_all_settings() -> list[str]:
    """Functions with a parameter that is all settings, the runner's and their own apart."""
    found = []
    for name, tree in trees().items():
        if name in ("engine/settings.py", "engine/runner.py"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                given = [
                    ast.unparse(a.annotation) for a in node.args.args if a.annotation
                ]
                if any(text.split(".")[-1] == "Settings" for text in given):
                    found.append(f"{name}:{node.name}")
    return found


def longest_function() -> tuple[str, int]:
    """The function with most lines of body, its docstring not counted."""
    worst = ("", 0)
    for name, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                if body:
                    lines = (body[-1].end_lineno or 0) - body[0].lineno + 1
                    worst = max(
                        worst, (f"{name}:{node.name}", lines), key=lambda w: w[1]
                    )
    return worst


def help_seconds(times: int = 5) -> float:
    """Median wall time of `--method=gsparsity --help`, warm."""
    found = []
    for _ in range(times):
        started = time.perf_counter()
        python(["-m", "tfsparse.train", "--method=gsparsity", "--help"])
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def test_seconds() -> float:
    """Wall time of `make test`."""
    started = time.perf_counter()
    subprocess.run(["make", "test"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tests", action="store_true", help="time `make test`, too")
    given = parser.parse_args()
    old = files.read_json(str(RESULT)) if RESULT.exists() else {"after": {}}
    name, fields = fields_of_the_largest_record()
    function, lines = longest_function()
    reads, removals = python(["-c", SIX_EPOCHS]).stdout.split()[-2:]
    after = {
        "files_of_a_toy_method": files_of_a_toy_method(),
        "fields_of_the_largest_record": fields,
        "largest_record": name,
        "functions_given_all_settings": len(functions_given_all_settings()),
        "longest_function_lines": lines,
        "longest_function": function,
        "graph_reads_in_six_epochs": int(reads),
        "removals_in_six_epochs": int(removals),
        "help_seconds": round(help_seconds(), 2),
    }
    if given.tests:
        after["test_seconds"] = round(test_seconds())
    elif "test_seconds" in old["after"]:
        after["test_seconds"] = old["after"]["test_seconds"]
    files.write_json(str(RESULT), {"before": BEFORE, "after": after})
    for key, value in after.items():
        print(f"{key}: {BEFORE.get(key, '-')} -> {value}")
    for name in functions_given_all_settings():
        print(f"  handed all settings: {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
