"""Tables: rows of CSV or TSV files as samples, or as steps of recordings. pandas reads them."""

from __future__ import annotations

import fnmatch
import os
import re
from typing import Any

import numpy as np

from tfsparse import options
from tfsparse.data import folders, windows
from tfsparse.data.found import SERIES, TABLE, Found, Part

ENDINGS = (".csv", ".tsv", ".txt")
TIMES = re.compile(r"(time|timestamp|date|datetime|t|ms|us|millis|sec|seconds|index|id)"
                   r"([ _\[(].*)?", re.IGNORECASE)  # fmt: skip
"""Names of columns that only number the rows, where their values rise all the way."""

SHOWN = 5
"""So many names stand in an error at most."""


def read(path: str):
    """A table as a pandas frame, its columns named by the first line, if that holds words.

    Raises:
        ValueError: pandas is not installed, or the file is no table.
    """
    try:
        import pandas
    except ImportError as error:
        raise ValueError(
            f"`data` in tables must have pandas to read them: pip install "
            f"'tfsparse[data]'. Received: {path!r}."
        ) from error
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            second = file.readline()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"`data` tables must be text in UTF-8. Received: {path!r} ({error.reason})."
        ) from error
    if "\0" in first + second:
        raise ValueError(f"`data` tables must be text. Received: {path!r}, binary.")
    between = max(",;\t", key=first.count)
    decimal = "," if between == ";" and re.search(r"\d,\d", first + second) else "."
    named = _has_head(first.strip().split(between), decimal)
    try:
        frame = pandas.read_csv(
            path, sep=between, decimal=decimal, header=0 if named else None,
            encoding="utf-8-sig", skipinitialspace=True,
        )  # fmt: skip
    except (ValueError, pandas.errors.ParserError) as error:  # EmptyDataError, too
        reason = " ".join(str(error).split())[:160]
        raise ValueError(
            f"`data` must be a table that can be read. Received: {path!r}, of which pandas "
            f"says: {reason}"
        ) from error
    frame.columns = [str(name).strip() for name in frame.columns]
    names = [name.strip().strip('"') for name in first.strip().split(between)]
    if named and len(set(names)) < len(names):  # pandas would number them
        raise ValueError(
            f"`data` columns must have names of their own. Received: {path!r} with "
            f"{_few({name for name in names if names.count(name) > 1})} twice."
        )
    if not len(frame):
        raise ValueError(f"`data` must hold samples. Received: {path!r} without rows.")
    return frame


def _has_head(cells: list[str], decimal: str) -> bool:
    """Whether a table's first line names its columns: by words, or numbered from 0."""
    cells = [cell.strip().strip('"') for cell in cells]
    numbers = [cell for cell in cells if cell and _is_number(cell, decimal)]
    return not numbers or numbers == list(map(str, range(len(numbers))))


def _is_number(cell: str, decimal: str) -> bool:
    cell = cell.strip().strip('"').replace(decimal, ".")
    if cell.lower() in ("", "nan", "na"):
        return True
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _few(names) -> str:
    names = [str(name) for name in names]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more


def from_table(path: str, chosen) -> Found:
    """A table: every row a sample, or with a window, recordings told apart by a group.

    Args:
        path: A CSV or TSV file.
        chosen: The settings of `Data`: label, group, columns, window, stride.
    """
    frame = read(path)
    labels, groups, features, notes = _columns(path, frame, chosen)
    x = _values(path, frame, features)
    y = _labels(path, frame, labels)
    ids = None if groups is None else frame[groups].astype(str).to_numpy()
    if not chosen.window:
        found = Part(x, y, ids)
        return Found(found, kind=TABLE, columns=tuple(features), labels=labels,
                     notes=notes)  # fmt: skip
    ids = np.zeros(len(x), "U1") if ids is None else ids
    order = list(dict.fromkeys(ids))
    listed = [
        windows.Recording(name, x[ids == name], None if y is None else y[ids == name])
        for name in order
    ]
    part, more = windows.cut(path, listed, chosen.window, chosen.stride)
    return Found(part, kind=SERIES, columns=tuple(features), labels=labels,
                 notes=(*notes, *more))  # fmt: skip


def from_recordings(path: str, chosen) -> Found:
    """A folder of CSV recordings: one folder a class, or a label column in the files.

    Args:
        path: The folder; its splits may lie in folders such as train and test.
        chosen: The settings of `Data`: label, group, columns, window, stride.
    """
    layout = folders.layout(path, ENDINGS)
    columns: list[str] = []
    labels: tuple[str, ...] = ()
    notes: list[str] = list(layout.notes)

    def part(files) -> Any:
        nonlocal columns, labels
        if files is None:
            return None
        listed = []
        for file, label in files:
            frame = read(file)
            own, group, features, said = _columns(
                file, frame, chosen, in_classes=label is not None
            )
            if columns and list(features) != columns:
                raise ValueError(
                    "`data` recordings must have the same columns. Received: "
                    f"{file!r} with {_few(features)}, others with {_few(columns)}."
                )
            columns, labels = list(features), own
            notes.extend(one for one in said if one not in notes)
            x = _values(file, frame, features)
            y = (
                np.full(len(x), label)
                if label is not None
                else _labels(file, frame, own)
            )
            name = os.path.relpath(file, path)
            if group is not None:
                name = str(frame[group].iloc[0])
            listed.append(windows.Recording(name, x, y))
        found, more = windows.cut(path, listed, chosen.window, chosen.stride)
        notes.extend(more)
        return found

    task = "reconstruction" if layout.normal else "auto"
    return Found(
        part(layout.train), part(layout.validation), part(layout.test), SERIES,
        layout.classes, tuple(columns), labels, tuple(notes), task=task,
    )  # fmt: skip


def _columns(path, frame, chosen, in_classes: bool = False):
    """Which columns are labels, which one tells groups, and which are features."""
    names = list(frame.columns)
    notes = []

    def known(option: str, text: str) -> list[str]:
        wanted = options.listed(text)
        missing = [name for name in wanted if name not in names]
        if missing:
            raise ValueError(
                f"`{option}` must name columns among {_few(names)}. Received: "
                f"{option}={missing[0]!r} for {path!r}."
            )
        return wanted

    labels = [] if in_classes else known("label", chosen.label)
    group = next(iter(known("group", chosen.group)), None)
    rest = [name for name in names if name not in labels and name != group]
    if not labels and not in_classes and chosen.task != "reconstruction":
        if not rest:
            raise ValueError(
                f"`data` must hold a column of labels. Received: {path!r} without."
            )
        labels = [rest.pop()]
    features = rest
    if chosen.columns:
        patterns = options.listed(chosen.columns)
        features = [n for n in rest if any(fnmatch.fnmatchcase(n, p) for p in patterns)]
        options.check_patterns("columns", patterns, rest)
    else:
        counting = [n for n in rest if _counts_rows(n, frame[n])]
        if counting and len(counting) < len(rest):
            features = [name for name in rest if name not in counting]
            notes.append(
                f"column {_few(counting)} was left out: it numbers the rows; --columns "
                "names what is used"
            )
    if not features:
        raise ValueError(
            f"`data` must hold columns beside the labels. Received: {path!r} with "
            f"{_few(names)}."
        )
    return tuple(labels), group, features, tuple(notes)


def _counts_rows(name: str, column) -> bool:
    if name.startswith("Unnamed:") or TIMES.fullmatch(name):
        return bool(column.notna().all() and column.is_monotonic_increasing
                    and column.is_unique)  # fmt: skip
    return False


def _values(path, frame, features) -> np.ndarray:
    """Features as float32, every cell a finite number. `(rows, columns)`."""
    table = np.empty((len(frame), len(features)), np.float32)
    for number, name in enumerate(features):
        column = frame[name]
        if column.dtype.kind not in "biuf":
            row, cell = next(
                (
                    (i, c)
                    for i, c in enumerate(column)
                    if isinstance(c, str) and not _is_number(c, ".")
                ),
                (0, column.iloc[0]),
            )
            raise ValueError(
                f"`data` features must be numbers. Received: {path!r} with {cell!r} in "
                f"column {name!r}, row {row + 1}; --columns names what is used."
            )
        table[:, number] = column.to_numpy(np.float32)
        bad = np.flatnonzero(~np.isfinite(table[:, number]))
        if len(bad):
            raise ValueError(
                "`data` features must be finite numbers. Received: "
                f"{path!r} with {len(bad)} empty, nan or infinite cells in column "
                f"{name!r}, the first in row {bad[0] + 1}."
            )
    return table


def _labels(path, frame, labels) -> Any:
    """Labels as they are; None where there is no such column."""
    if not labels:
        return None
    for name in labels:
        empty = np.flatnonzero(frame[name].isna().to_numpy())
        if len(empty):
            raise ValueError(
                f"`data` labels must be there for every row. Received: {path!r} without in "
                f"column {name!r}, row {empty[0] + 1}."
            )
    if len(labels) > 1:
        table = frame[list(labels)]
        if any(kind.kind not in "biuf" for kind in table.dtypes):
            raise ValueError(
                "`label` must name one column of words, or several of numbers. Received: "
                f"label={','.join(labels)!r}."
            )
        return table.to_numpy()
    column = frame[labels[0]]
    if column.dtype.kind in "biuf":
        return column.to_numpy()
    kinds = {isinstance(cell, str) for cell in column}
    if kinds != {True}:
        raise ValueError(
            "`data` labels must all be words or all be numbers. Received: "
            f"{path!r}, column {labels[0]!r} with both."
        )
    words = column.to_numpy().astype(str)
    numbers = [_is_number(word, ".") for word in words]
    if any(numbers):
        raise ValueError(
            "`data` labels must all be words or all be numbers. Received: "
            f"{path!r}, column {labels[0]!r} with {words[0]!r} and others."
        )
    return words
