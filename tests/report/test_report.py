"""The report draws any section; what is odd in one loses no finished run."""

from __future__ import annotations

import json

import pytest

from tfsparse import report
from tfsparse.records import sections as draw
from tfsparse.report import plots

AXIS = draw.Axis("x")

ODD = [
    draw.Points("No points", "none", AXIS, AXIS, ()),
    draw.Points("One point", "one", draw.Axis("b", True, draw.BYTES), AXIS,
                (draw.Point(3.0, 0.5, "a$b\\q$"),), joined=True, goal=1.0),
    draw.Curves("No lines", "lines", AXIS, AXIS, ()),
    draw.Curves("Gaps", "gaps", AXIS, draw.Axis("y", log=True),
                (draw.Line("$name", (1, 2, 3), (None, 0.0, -1.0)),
                 draw.Line("right", (1, 2, 3), (1.0, None, 2.0), True)),
                draw.Axis("z", log=True), (draw.Mark(2, "here"),)),
    draw.Bars("Zeros", "bars", draw.Axis("n", log=True), ("a",), (5,), (0,)),
    draw.Histograms("No panels", "no", {}, "score"),
    draw.Histograms("No threshold", "free",
                    {"a_b": {"edges": [0, 1, 2], "counts": [3, 0], "threshold": None}}, "s"),
    draw.Text("Words", "<b>& sentences"),
    draw.Table("Words among numbers", (draw.Column("n"), draw.Column("share", draw.PERCENT)),
               ((3, 0.5), ("many", None)), "before", "after"),
    draw.Network("Layers", (draw.Width("only", 3, 3, 12),)),
]  # fmt: skip


def document(found):
    row = {
        "name": "only", "what": "the only one", "accuracy": None, "samples": 3,
        "score": {"name": "error", "value": 12.345, "higher_is_better": False},
        "params": 12, "nonzero": 12, "macs": 9, "weight_bytes": 12, "index_bytes": 0,
        "file": None, "file_bytes": None, "arena_bytes": None, "seconds": 1.0,
    }  # fmt: skip
    return {
        "config": {
            "model": "m",
            "data": "d",
            "method": "none",
            "limit": None,
            "ok": True,
        },
        "environment": {"python": "3"},
        "seed": 0,
        "method": {"name": "none"},
        "dense_cost": {"params": 24},
        "stages": [row],
        "sections": [section.to_json() for section in found],
    }


@pytest.mark.parametrize("section", ODD, ids=lambda section: section.title)
def test_any_section_is_shown(section, tmp_path):
    report.write(document([section]), str(tmp_path))
    page = (tmp_path / "report.html").read_text("utf-8")
    assert section.title in page
    drawn = plots.draw(section.to_json()) is not None
    assert drawn == bool(list((tmp_path / "plots").iterdir()))
    assert json.loads((tmp_path / "report.json").read_text())["sections"]


def test_a_section_of_a_new_kind_shows_its_title_and_its_text(tmp_path):
    told = document([])
    told["sections"] = [{"kind": "hologram", "title": "From beyond", "text": "Look."}]
    report.write(told, str(tmp_path))
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "From beyond" in page and "Look." in page


def test_a_score_that_is_no_share_is_a_number_and_text_is_escaped(tmp_path):
    report.write(document([ODD[7]]), str(tmp_path))
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "12.35" in page and "1234" not in page and "<th>error</th>" in page
    assert "&lt;b&gt;&amp; sentences" in page
    assert "--ok=true" in page and "--limit" not in page
