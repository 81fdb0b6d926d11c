"""What labels tell of the task, and labels as it takes them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tfsparse.data.task import Task

MOST_CLASSES = 100
"""Whole numbers of more different values than this are quantities, not classes."""


def labelled(
    name: str, parts: list, kind: str, classes: tuple[str, ...], columns: tuple
) -> tuple[Task, list]:
    """The task that labels tell of, and the labels as it takes them.

    Args:
        name: Of the data, for errors.
        parts: Labels of train, and of others: arrays, or None where there are none.
        kind: One of `KINDS`, or `auto`.
        classes: Names of the classes where the data set knows them; else empty.
        columns: Names of the labels, one for each number.

    Returns:
        The task, and each part's labels as int32 classes or float32 numbers.

    Raises:
        ValueError: The labels cannot be what is asked for.
    """
    parts = [None if y is None else _squeezed(name, np.asarray(y)) for y in parts]
    found, why = (kind, "") if kind != "auto" else _kind_of(name, parts[0], classes)
    if found == "reconstruction":
        return _of_reconstruction(name, parts, why)
    if parts[0] is None:
        raise ValueError(
            f"`data` must hold labels for {found}. Received: {name!r} without; "
            "--task=reconstruction needs none."
        )
    if found in ("classification", "binary"):
        return _of_classes(name, parts, found, classes, why)
    parts = [None if y is None else _numbers(name, y, found) for y in parts]
    wide = [y.shape[1] for y in parts if y is not None]
    if len(set(wide)) > 1:
        raise ValueError(
            f"`data` must hold as many labels a sample in every part. Received: {name!r} "
            f"with {sorted(set(wide))}."
        )
    if len(columns) != wide[0]:
        columns = tuple(f"label {i + 1}" for i in range(wide[0])) if wide[0] > 1 else ()
    return Task(found, (wide[0],), tuple(columns), why), parts


def _squeezed(name: str, y: np.ndarray) -> np.ndarray:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.dtype.kind == "S":
        y = np.char.decode(y, "utf-8", "replace")
    if y.dtype == object:
        y = _of_objects(name, y)
    if y.ndim not in (1, 2) or y.dtype.kind not in "biufU":
        raise ValueError(
            "`data` labels must be one class, word or number a sample, or a row of them. "
            f"Received: {name!r} with labels of shape {y.shape}, {y.dtype}."
        )
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        raise ValueError(
            f"`data` labels must be finite. Received: {name!r} with "
            f"{int((~np.isfinite(y)).sum())} nan or infinite ones."
        )
    return y


def _of_objects(name: str, y: np.ndarray) -> np.ndarray:
    kinds = {type(one) for one in y.ravel()}
    if kinds <= {str}:
        return y.astype(str)
    if str in kinds:
        raise ValueError(
            f"`data` labels must all be words or all be numbers. Received: {name!r} with "
            f"{sorted(kind.__name__ for kind in kinds)}."
        )
    try:
        return y.astype(np.float64)
    except (TypeError, ValueError):
        return y


def _kind_of(name: str, y: np.ndarray | None, classes) -> tuple[str, str]:
    if y is None:
        return "reconstruction", "train has no labels"
    if classes:
        return "classification", "as the data set says"
    if y.ndim == 2:
        binary = np.isin(y, (0, 1)).all()
        if binary and (y.sum(1) == 1).all():
            return "classification", "labels are one-hot"
        if binary:
            return "multilabel", "labels are rows of 0 and 1"
        return "regression", "labels are rows of numbers"
    if y.dtype.kind == "U":
        return "classification", "labels are words"
    if y.dtype.kind == "b":
        return "classification", "labels are true or false"
    if y.dtype.kind == "f":
        return "regression", "labels are floats"
    values = len(np.unique(y))
    if values > MOST_CLASSES:
        return "regression", f"labels are whole numbers of {values:,} values"
    return "classification", f"labels are whole numbers of {values} values"


def _of_classes(name, parts, kind, classes, why) -> tuple[Task, list]:
    if parts[0].ndim == 2:
        _check_one_hot(name, parts)
        width = parts[0].shape[1]
        classes = classes if len(classes) == width else tuple(map(str, range(width)))
        parts = [None if y is None else y.argmax(1) for y in parts]
    elif classes:
        parts = [None if y is None else _whole(name, y) for y in parts]
    else:
        classes, parts = _numbered(name, parts)
    _check_classes(name, parts, len(classes))
    parts = [None if y is None else y.astype(np.int32) for y in parts]
    if kind == "binary":
        if len(classes) != 2:
            raise ValueError(
                f"`task` binary must have two classes. Received: {name!r} with "
                f"{len(classes)}."
            )
        return Task("binary", (1,), classes, why), parts
    return Task("classification", (len(classes),), classes, why), parts


def _check_one_hot(name, parts) -> None:
    for y in parts:
        if y is not None and not (
            y.ndim == 2 and np.isin(y, (0, 1)).all() and (y.sum(1) == 1).all()
        ):
            raise ValueError(
                "`data` labels in rows must have a single 1 each to be classes. Received: "
                f"{name!r} with others; --task=multilabel takes them."
            )


def _whole(name: str, y: np.ndarray) -> np.ndarray:
    if y.dtype.kind == "U" or (y.dtype.kind == "f" and (y != np.round(y)).any()):
        raise ValueError(
            "`data` labels must be one whole number a sample. Received: "
            f"{name!r} with {y.dtype}."
        )
    return y.astype(np.int64)


def _numbered(name: str, parts) -> tuple[tuple[str, ...], list]:
    """Classes by their values in train, in order; labels as places in it."""
    train = parts[0] if parts[0].dtype.kind == "U" else _whole(name, parts[0])
    values = np.unique(train)
    if len(values) < 2:
        raise ValueError(
            f"`data` must hold two or more classes. Received: {name!r}, all labels are "
            f"{values[0]}."
        )
    if train.dtype.kind == "i" and values[0] == 0 and values[-1] < 2 * len(values):
        values = np.arange(values[-1] + 1)  # as they are numbered: some may be unused
    found: list[Any] = []
    for y in parts:
        if y is None:
            found.append(None)
            continue
        if (y.dtype.kind == "U") != (train.dtype.kind == "U"):
            raise ValueError(
                "`data` labels must be of one kind in every part. Received: "
                f"{name!r} with {parts[0].dtype} and {y.dtype}."
            )
        y = y if y.dtype.kind == "U" else _whole(name, y)
        places = np.clip(np.searchsorted(values, y), 0, len(values) - 1)
        if (strange := np.unique(y[values[places] != y])).size:
            raise ValueError(
                f"`data` test labels must occur in train. Received: {name!r} with label "
                f"{strange[0]} in test only (train has {values[0]} to {values[-1]})."
            )
        found.append(places)
    names = ("False", "True") if parts[0].dtype.kind == "b" else map(str, values)
    return tuple(names), found


def _check_classes(name: str, parts, classes: int) -> None:
    known = np.unique(parts[0])
    if len(known) < 2:
        raise ValueError(
            f"`data` must hold two or more classes. Received: {name!r}, all labels are "
            f"{parts[0][0]}."
        )
    for y in parts:
        if y is None:
            continue
        if y.min() < 0 or y.max() >= classes:
            raise ValueError(
                f"`data` labels must lie in 0 to {classes - 1}. Received: {name!r} with "
                f"labels {y.min()} to {y.max()}."
            )
        if (strange := np.setdiff1d(y, known)).size:
            raise ValueError(
                f"`data` test labels must occur in train. Received: {name!r} with label "
                f"{strange[0]} in test only (train has {known.min()} to {known.max()})."
            )


def _numbers(name: str, y: np.ndarray, kind: str) -> np.ndarray:
    """Labels as rows of float32."""
    if y.dtype.kind == "U":
        raise ValueError(
            f"`data` labels must be numbers for {kind}. Received: {name!r} with words, "
            f"such as {str(y.ravel()[0])!r}."
        )
    y = (y[:, None] if y.ndim == 1 else y).astype(np.float32)
    if kind == "multilabel" and not np.isin(y, (0, 1)).all():
        raise ValueError(
            f"`data` labels must be 0 or 1 for multilabel. Received: {name!r} with others."
        )
    return y


def _of_reconstruction(name: str, parts, why) -> tuple[Task, list]:
    """What is normal, 0, and what is not, 1, where labels tell it."""
    found = []
    for y in parts:
        if y is not None and (y.ndim != 1 or y.dtype.kind not in "biuf"):
            raise ValueError(
                "`data` labels of a reconstruction must be 0 for normal and others for "
                f"anomalous samples. Received: {name!r} with labels of shape {y.shape}, "
                f"{y.dtype}."
            )
        found.append(None if y is None else (y != 0).astype(np.int32))
    told = [y for y in found[1:] if y is not None]
    anomalies = bool(told) and len(np.unique(told[-1])) == 2
    return Task("reconstruction", (), (), why, anomalies=anomalies), found


def completed(
    task: Task, name: str, loss: str, x, y: np.ndarray | None, y_test: np.ndarray | None
) -> Task:
    """The task with what only the data can tell: scales of numbers, the input's shape.

    Args:
        task: What `labelled` returned.
        name: Of the data, for errors.
        loss: The user's own, or empty.
        x, y: Samples and labels of train.
        y_test: Labels of test.

    Raises:
        ValueError: Numbers never differ, or there is no such loss.
    """
    changes: dict[str, Any] = {"loss_name": loss}
    if task.kind == "regression" and y is not None:
        deviation = y.std(0, dtype=np.float64)
        if not (deviation > 0).all():
            raise ValueError(
                "`data` labels must differ in train. Received: "
                f"{name!r}, all are {y[0].tolist()}."
            )
        changes |= {
            "scale": tuple(map(float, deviation)),
            "offset": tuple(map(float, y.mean(0, dtype=np.float64))),
        }
    if task.kind == "reconstruction":
        changes |= {
            "shape": tuple(x.shape[1:]),
            "anomalies": y_test is not None and len(np.unique(y_test)) == 2,
        }
    task = dataclasses.replace(task, **changes)
    task.loss()  # says now what cannot be
    return task
