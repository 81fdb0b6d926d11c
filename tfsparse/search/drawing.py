"""What a search's page shows: the front, how it grew, how a winner came to be."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np

from tfsparse.records import sections as draw
from tfsparse.search import dominance, front, study
from tfsparse.search import sampler as sampling
from tfsparse.search.front import ERROR


def published(data: str) -> list[dict[str, Any]]:
    """Networks that others published for a data set: `name`, `error`, bytes, `source`."""
    text = resources.files("tfsparse.search").joinpath("published.json").read_text()
    return json.loads(text).get(data, [])


def reference_of(values: np.ndarray) -> np.ndarray:
    """The corner that hypervolumes are measured from: the worst that was seen."""
    return np.maximum(values.max(axis=0), 1e-12) * (1 + 1e-9)


def sections(
    trials: Sequence,
    objectives: Sequence[str],
    data: str,
    points: Sequence[Mapping[str, Any]],
    polished: bool,
) -> list[draw.Section]:
    """All sections that show a search.

    Args:
        trials: Of its study, all of them.
        objectives: Their names.
        data: Name of the data set.
        points: Those that are handed over, as in `pareto.json`.
        polished: Whether they were trained on.
    """
    held = np.array([[point[name] for name in objectives] for point in points])
    handed = "handed over, trained on" if polished else "handed over"
    done = [t for t in trials if t.values and np.isfinite(t.values).all()]
    values = np.array([t.values for t in done], float)
    found: list[draw.Section] = []
    if ERROR in objectives:
        at = list(objectives).index(ERROR)
        found += [
            _front(values, held, handed, at, number, name, data)
            for number, name in enumerate(objectives)
            if number != at
        ]
    found.append(_growth(trials, values))
    numbers = {point["trial"] for point in points}
    found.append(
        _vertices(done, [n for n, t in enumerate(done) if t.number in numbers])
    )
    if ERROR in objectives and len(objectives) > 1:
        other = next(n for n in range(len(objectives)) if n != at)
        first = min(points, key=lambda point: point[ERROR])["trial"]
        winner = next(trial for trial in done if trial.number == first)
        found += _evolution(trials, winner, values, objectives, at, other)
    return [*found, *_inherited(trials)]


def _inherited(trials) -> list[draw.Table]:
    """How much children took over, by the morphs between them and their parents."""
    shares: dict[str, list[float]] = {}
    for trial in trials:
        told = trial.user_attrs.get(study.OUTCOME, {}).get("inherited")
        if told and told["total"]:
            for name in set(trial.user_attrs.get(sampling.MORPHS, ())):
                shares.setdefault(name, []).append(told["elements"] / told["total"])
    if not shares:
        return []
    rows = tuple(
        (name, len(own), float(np.mean(own)), min(own))
        for name, own in sorted(shares.items())
    )
    columns = (
        draw.Column("morph", draw.TEXT),
        draw.Column("children"),
        draw.Column("taken over, mean", draw.PERCENT),
        draw.Column("least", draw.PERCENT),
    )
    return [
        draw.Table(
            "What children took over",
            columns,
            rows,
            before="Of a child's weights and the width of their posterior, what came from its "
            "parent; a child of several morphs counts under each.",
        )
    ]


def _axis(name: str) -> draw.Axis:
    if name == ERROR:
        return draw.Axis("validation error", log=True, format=draw.PERCENT)
    bytes_ = name.endswith("bytes") or name.startswith("working_memory")
    return draw.Axis(
        name.replace("_", " "), log=True, format=draw.BYTES if bytes_ else draw.NUMBER
    )


def _series(name: str, points: np.ndarray, **more) -> draw.Series:
    return draw.Series(
        name,
        tuple(map(float, points[:, 0])),
        tuple(map(float, points[:, 1])),
        **more,
    )


def _front(values, held, handed, at: int, other: int, name: str, data: str):
    """Error against another objective: all trials, the front, what others published."""
    found = [
        _series("tried", values[:, [other, at]], faint=True),
        _series(handed, held[:, [other, at]]),
    ]
    known = [row for row in published(data) if row.get(name)]
    if known:
        places = np.array([[row[name], row["error"]] for row in known])
        labels = tuple(row["name"] for row in known)
        found.append(_series("published (test error)", places, labels=labels))
    return draw.Scatter(
        f"Error against {name.replace('_', ' ')}",
        f"front_{name}",
        _axis(name),
        _axis(ERROR),
        tuple(found),
    )


def _growth(trials, values) -> draw.Curves:
    """Hypervolume after each trial."""
    told = [t.values if t.values else None for t in trials]
    return draw.Curves(
        "How the front grew",
        "growth",
        draw.Axis("trials"),
        draw.Axis("share of the box that is covered", zero=True),
        (
            draw.Line(
                "hypervolume",
                tuple(range(1, len(told) + 1)),
                tuple(dominance.growth(told, reference_of(values))),
            ),
        ),
    )


def _vertices(done, best) -> draw.Scatter:
    """Layers of the networks against their weights that are not zero."""
    costs = [t.user_attrs[study.OUTCOME]["cost"] for t in done]
    pairs = np.array([[c.get("nonzero", 0), c.get("layers", 0)] for c in costs], float)
    return draw.Scatter(
        "Layers against non-zero weights",
        "vertices",
        draw.Axis("weights that are not zero", log=True),
        draw.Axis("layers"),
        (
            _series("tried", pairs, faint=True),
            _series("handed over", pairs[best]),
        ),
    )


def _evolution(trials, winner, values, objectives, at: int, other: int):
    """The way of the most accurate point from a random one, drawn and told."""
    way = front.lineage_of(trials, winner)
    places = np.array([[row["values"][other], row["values"][at]] for row in way])
    name = objectives[other]
    columns = (draw.Column("trial"), draw.Column("changed by", draw.TEXT),
               *(draw.Column(own, draw.PERCENT if own == ERROR else draw.COUNT)
                 for own in objectives))  # fmt: skip
    rows = tuple(
        (row["trial"], ", ".join(row["morphs"]) or "drawn at random",
         *(v if own == ERROR else round(v)
           for own, v in zip(objectives, row["values"], strict=True)))
        for row in way
    )  # fmt: skip
    return [
        draw.Scatter(
            "How the most accurate came to be",
            "evolution",
            _axis(name),
            _axis(ERROR),
            (
                _series("tried", values[:, [other, at]], faint=True),
                _series(
                    "its ancestors, in turn",
                    places,
                    labels=tuple(str(row["trial"]) for row in way),
                    joined=True,
                ),
            ),
        ),
        draw.Table(
            "How the most accurate came to be", columns, rows,
            before="From a random configuration to the most accurate point on validation; "
            "each is a child of the one above.",
        ),
    ]  # fmt: skip
