"""What README and docs claim stands in benchmarks/results or models, and nowhere by hand."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def written():
    """What tools/readme.py would write by now."""
    spec = importlib.util.spec_from_file_location(
        "readme", ROOT / "tools" / "readme.py"
    )
    readme = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        spec.loader.exec_module(readme)
        return readme.pages()


@pytest.mark.parametrize(
    "path", ["README.md", "docs/results.md", "docs/tasks/results.md"]
)
def test_results_are_those_that_were_measured(written, path):
    """A number typed in by hand, or a file of results that nobody told of, shows here."""
    assert (ROOT / path).read_text("utf-8") == written[path]


@pytest.mark.parametrize("name", ["tasks", "fashion_starts", "filled"])
def test_rows_of_a_table_are_told_apart(name):
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    if not path.exists():
        pytest.skip("not measured")
    keys = {"tasks": ("task", "method", "share", "seed"),
            "fashion_starts": ("start", "method", "size", "seed"),
            "filled": ("seed", "net", "method", "measure")}[name]  # fmt: skip
    rows = json.loads(path.read_text())
    assert len({tuple(row[key] for key in keys) for row in rows}) == len(rows) > 0


def test_every_ratio_of_parameters_kept_is_within_what_was_asked():
    """Rows of the tables never exceed their target."""
    for row in json.loads(
        (ROOT / "benchmarks/results/fashion_starts.json").read_text()
    ):
        if "error" not in row:
            assert row["params"] <= row["size"], row
    for row in json.loads((ROOT / "benchmarks/results/tasks.json").read_text()):
        if "error" not in row and row["method"] not in ("dense", "scratch"):
            measure = "nonzero" if row["method"] == "sparse_vd" else "params"
            assert row[measure] <= row["share"] * row["whole"], row


def test_every_trial_of_a_recipe_can_be_run(monkeypatch):
    """Six of each, told apart, and none with a flag that the main job does not know."""
    from tfsparse.engine import settings

    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import lenet_trials

    told = [tuple(lenet_trials.flags_of(row, share)) for row in lenet_trials.wanted()
            for share in (1, 3)]  # fmt: skip
    assert len(set(told)) == len(told) == 12 * len(lenet_trials.RECIPES)
    for flags in told:
        settings.parse([*flags, "--workdir=unused"])
