"""Every public layer and operation of Keras has a row, and rows can be made again."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PATH = ROOT / "benchmarks" / "results" / "every_layer.json"
DRAWN = 20


@pytest.fixture(scope="module")
def every_layer():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        import every_layer

        yield every_layer


@pytest.fixture(scope="module")
def rows():
    return json.loads(PATH.read_text())


def test_every_public_name_has_a_row(every_layer, rows):
    wanted = {(row["kind"], row["name"]) for row in every_layer.wanted()}
    assert wanted == {(row["kind"], row["name"]) for row in rows}
    assert len(wanted) > 350  # it did look


def test_no_cell_is_empty_or_a_fault(every_layer, rows):
    for row in rows:
        if "no_network" in row:
            assert row["no_network"], row
            continue
        for name in every_layer.COLUMNS:
            assert row.get(name), (row["name"], name)
            assert every_layer.FAULT not in row[name], row
            assert "site-packages" not in row[name], row
            assert "Traceback" not in row[name] and "\n" not in row[name], row


def drawn() -> list[tuple[str, str]]:
    """Twenty rows, others in each state of the table; whole networks take too long."""
    if not PATH.exists():
        return []
    rows = json.loads(PATH.read_text())
    keys = [(row["kind"], row["name"]) for row in rows if row["kind"] != "model"]
    return random.Random(len(rows)).sample(sorted(keys), DRAWN)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "name"), drawn())
def test_a_row_can_be_made_again(every_layer, rows, kind, name):
    pytest.importorskip("tflite_micro")
    held = next(row for row in rows if (row["kind"], row["name"]) == (kind, name))
    made = every_layer.row_of({"kind": kind, "name": name})
    for column in ("no_network", *every_layer.COLUMNS):
        kept, new = held.get(column), made.get(column)
        # Sentences hold numbers of runs; whether there is one must be the same.
        assert (kept == every_layer.WORKS) == (new == every_layer.WORKS), (column, new)
        assert (kept is None) == (new is None), column
