"""Sections of a report: what stages and methods hand in, and the report draws.

Tables and texts become HTML; curves, points, scatters, bars and histograms become plots. A section
says what it shows, not who made it: a new stage or method needs no word in the report.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

COUNT, PERCENT, NUMBER, TEXT = "count", "percent", "number", "text"
"""How a column's cells are written: 12,345; 98.76 %; 0.0123; as they are."""

BYTES = "bytes"
"""How an axis of bytes is written: 12 kB."""


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a report. A base class.

    Attributes:
        title: Its headline.
    """

    kind: ClassVar[str]
    title: str

    def to_json(self) -> dict[str, Any]:
        """The section as JSON, its kind beside its fields."""
        return {"kind": self.kind, **dataclasses.asdict(self)}


@dataclasses.dataclass(frozen=True)
class Text(Section):
    """Sentences.

    Attributes:
        text: One paragraph.
    """

    kind: ClassVar[str] = "text"
    text: str


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table: its headline, and how its cells are written."""

    name: str
    format: str = COUNT


@dataclasses.dataclass(frozen=True)
class Table(Section):
    """Rows of numbers and words.

    Attributes:
        columns: From left to right.
        rows: A cell for each column; None for nothing.
        before, note: A sentence above, and one below.
    """

    kind: ClassVar[str] = "table"
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    before: str = ""
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Line:
    """A curve: its points, on which axis it stands, and how it is drawn."""

    name: str
    xs: tuple[float, ...]
    ys: tuple[float | None, ...]
    right: bool = False
    dashed: bool = False


@dataclasses.dataclass(frozen=True)
class Mark:
    """A vertical line at `x`, with a few words."""

    x: float
    text: str = ""


@dataclasses.dataclass(frozen=True)
class Axis:
    """What an axis counts: its label, whether it is logarithmic, and its unit.

    Attributes:
        format: `number`, `percent` or `bytes`.
    """

    label: str
    log: bool = False
    format: str = NUMBER
    zero: bool = False


@dataclasses.dataclass(frozen=True)
class Plot(Section):
    """A section that is drawn. A base class.

    Attributes:
        name: Of its file in `plots/`.
    """

    name: str


@dataclasses.dataclass(frozen=True)
class Curves(Plot):
    """Lines over one axis, some of them on an axis of their own at the right."""

    kind: ClassVar[str] = "curves"
    x: Axis
    y: Axis
    lines: tuple[Line, ...]
    right: Axis | None = None
    marks: tuple[Mark, ...] = ()


@dataclasses.dataclass(frozen=True)
class Point:
    """A point with its label; `best` is drawn larger, in another colour."""

    x: float
    y: float
    label: str
    best: bool = False


@dataclasses.dataclass(frozen=True)
class Points(Plot):
    """Labelled points; `joined` from left to right; a dotted `goal` to reach."""

    kind: ClassVar[str] = "points"
    x: Axis
    y: Axis
    points: tuple[Point, ...]
    joined: bool = False
    goal: float | None = None


@dataclasses.dataclass(frozen=True)
class Series:
    """Points of one kind in a scatter plot.

    Attributes:
        name: In the legend.
        xs, ys: Where they are.
        labels: Beside them; none, or one each.
        joined: Whether a line goes from one to the next.
        faint: Whether they stand behind the others.
    """

    name: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    labels: tuple[str, ...] = ()
    joined: bool = False
    faint: bool = False


@dataclasses.dataclass(frozen=True)
class Scatter(Plot):
    """Many points, of several kinds."""

    kind: ClassVar[str] = "scatter"
    x: Axis
    y: Axis
    series: tuple[Series, ...]


@dataclasses.dataclass(frozen=True)
class Bars(Plot):
    """A bar for each name, before and after."""

    kind: ClassVar[str] = "bars"
    x: Axis
    names: tuple[str, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Histograms(Plot):
    """A panel of counts between edges for each name, with the threshold that decided.

    Attributes:
        panels: Name -> `edges`, `counts` and `threshold`.
        label: What lies on the axis.
    """

    kind: ClassVar[str] = "histograms"
    panels: Mapping[str, Mapping[str, Any]]
    label: str


@dataclasses.dataclass(frozen=True)
class Arrow:
    """An operation between two nodes of a graph, and whether it is left."""

    source: str
    target: str
    label: str
    alive: bool = True


@dataclasses.dataclass(frozen=True)
class Graph(Plot):
    """Nodes from left to right, and operations between them: those that went are grey.

    Attributes:
        inputs: Nodes at the left.
        nodes: Those between.
        output: The node at the right, which all of `nodes` lead to.
        arrows: Between them.
    """

    kind: ClassVar[str] = "graph"
    inputs: tuple[str, ...]
    nodes: tuple[str, ...]
    output: str
    arrows: tuple[Arrow, ...]


@dataclasses.dataclass(frozen=True)
class Width:
    """A layer in a drawing of a network: units and parameters, and units at first."""

    name: str
    units: int
    units_before: int
    params: int


@dataclasses.dataclass(frozen=True)
class Network(Section):
    """The layers of a network as bars, from input to output, inside what they were."""

    kind: ClassVar[str] = "network"
    layers: tuple[Width, ...]
    before: str = ""
