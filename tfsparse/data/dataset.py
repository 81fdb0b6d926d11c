"""Data by name or path, checked, in splits that are always the same."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfsparse.data import splits, task
from tfsparse.data.found import PICTURES, SERIES, TABLE, Found, Part
from tfsparse.data.images import Images
from tfsparse.data.settings import Data

WHITE = {"uint8": 255.0, "uint16": 65535.0}
"""Whole-number types of pixels -> what is white."""

SCALED_MEAN, SCALED_DEVIATION = 1.0, (0.1, 3.0)
"""Columns whose mean and deviation lie within need no scaling."""

SHOWN_CLASSES = 12
"""So many classes are told of with their counts at most."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set split three ways, in memory or on disk, and what to predict of it.

    Attributes:
        name: As asked for.
        x_train, x_validation, x_test: `(samples, ...)`, uint8 pixels or float32, pixels of
            16 bits in [0, 1]; `Images` if they stay on disk.
        y_train, y_validation, y_test: int32 classes `(samples,)`, or float32 numbers
            `(samples, outputs)`; of a reconstruction None, and in test perhaps 1 for what
            is anomalous.
        task: What is predicted.
        kind: What samples are: pictures, series, table, or arrays.
        columns: Names of the features along the last axis, where they are known.
        notes: What was skipped, cut or scaled, and why.
        front_end: How samples were made of raw signals; None where they were not.
    """

    name: str
    x_train: Any
    y_train: np.ndarray | None
    x_validation: Any
    y_validation: np.ndarray | None
    x_test: Any
    y_test: np.ndarray | None
    task: task.Task
    kind: str = "arrays"
    columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    front_end: Mapping[str, Any] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """One sample's shape."""
        return self.x_train.shape[1:]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes or labels, in order."""
        return self.task.names

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.task.names)

    def with_channel(self) -> Dataset:
        """The same samples with an axis of one channel at their end."""
        return self._each(lambda x: x[..., None])

    def without_channel(self) -> Dataset:
        """The same samples without their last axis, of one channel."""
        return self._each(lambda x: x if isinstance(x, Images) else x[..., 0])

    def _each(self, change) -> Dataset:
        names = ("x_train", "x_validation", "x_test")
        found = {name: change(getattr(self, name)) for name in names}
        return dataclasses.replace(self, **found)

    def statistics(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Mean and deviation of each column or channel in train; None of pixels.

        A column that never changes has deviation 1.
        """
        if isinstance(self.x_train, Images) or self.x_train.dtype == np.uint8:
            return None
        axes = tuple(range(self.x_train.ndim - 1))
        mean = self.x_train.mean(axes, dtype=np.float64)
        deviation = self.x_train.std(axes, dtype=np.float64)
        quiet = deviation <= 1e-7 * np.maximum(1e-30, np.abs(mean))
        return mean, np.where(quiet, 1.0, deviation)

    @property
    def scaled(self) -> bool:
        """Whether a network can take the samples as they are."""
        found = self.statistics()
        if found is None:
            return True
        mean, deviation = found
        low, high = SCALED_DEVIATION
        return bool(
            (np.abs(mean) <= SCALED_MEAN).all()
            and deviation.min() >= low
            and deviation.max() <= high
        )

    def summary(self) -> list[str]:
        """A few lines: samples, shape, range, classes with counts, what was skipped."""
        parts = {
            "train": (self.x_train, self.y_train),
            "validation": (self.x_validation, self.y_validation),
            "test": (self.x_test, self.y_test),
        }
        counted = ", ".join(f"{len(x):,} {name}" for name, (x, _) in parts.items())
        shape = " x ".join(map(str, self.shape))
        what = {
            PICTURES: f"pictures of {shape}",
            SERIES: f"windows of {shape}, steps x channels",
            TABLE: f"rows of {shape} columns",
        }.get(self.kind, f"samples of {shape}")
        lines = [f"Data: {self.name}: {what}, {counted}; {self._range()}."]
        if self.task.sorts:
            lines.append(self._classes(parts))
        lines += [f"{note[0].upper()}{note[1:]}." for note in self.notes]
        return lines

    def _range(self) -> str:
        if isinstance(self.x_train, Images):
            return "8-bit pixels, divided by 255"
        low, high = self.x_train.min(), self.x_train.max()
        told = f"values {low:g} to {high:g}"
        if self.x_train.dtype == np.uint8:
            return f"8-bit pixels, {told}, divided by 255"
        return told

    def _classes(self, parts) -> str:
        total = sum(np.bincount(y, minlength=self.classes) for _, y in parts.values())  # type: ignore[arg-type]
        pairs = [f"{n} {c:,}" for n, c in zip(self.task.names, total, strict=True)]  # type: ignore[call-overload]
        more = f" and {len(pairs) - SHOWN_CLASSES} more" * (len(pairs) > SHOWN_CLASSES)
        return f"Classes: {', '.join(pairs[:SHOWN_CLASSES])}{more}."


def load(
    name: str,
    data_dir: str | None = None,
    validation: float = 0.1,
    image_size: int = 0,
    **settings: Any,
) -> Dataset:
    """Loads a data set, finds what is to be predicted, and splits it, always the same way.

    Args:
        name: A TFDS name (`mnist`, `fashion_mnist`, `cifar10`, ...); `digits`, `wine`,
            `breast_cancer` or `diabetes` of scikit-learn; an `.npz` of arrays such as
            x_train; `.npy` files side by side; a CSV or TSV table; or a folder of pictures,
            of WAV files or of CSV recordings, one folder a class.
        data_dir: TFDS's folder; `TFDS_DATA_DIR` or TFDS's own default if None.
        validation: Fraction of train held out where people brought no validation split,
            every class alike.
        image_size: Side of the square that images are scaled and cut to, pixels; those of
            a folder then stay on disk. 0 takes images as they are, into memory.
        **settings: Others of `tfsparse.data.Data`: task, loss, label, group, columns,
            window, stride, sample_rate, mel_bands, frame_ms, hop_ms.

    Returns:
        A `Dataset`.

    Raises:
        ValueError: The data cannot be found, read, or used.

    Example:
        >>> load("digits").x_train.shape
        (1294, 8, 8, 1)
    """
    return read(
        Data(
            data=name,
            data_dir=data_dir,
            validation=validation,
            image_size=image_size,
            **settings,
        )
    )


def read(chosen: Data) -> Dataset:
    """The data set that settings ask for, see `load`."""
    found = _found(chosen)
    parts = [
        None if part is None else _checked(chosen.data, where, part, found.kind)
        for where, part in (
            ("train", found.train),
            ("validation", found.validation),
            ("test", found.test),
        )
    ]
    _check_alike(chosen.data, parts)
    told, labels = task.labelled(
        chosen.data,
        [None if part is None else part.y for part in parts],
        found.task if chosen.task == "auto" else chosen.task,
        found.class_names,
        found.labels,
    )
    train, held, test = (
        part and dataclasses.replace(part, y=y)
        for part, y in zip(parts, labels, strict=True)
    )
    notes = list(found.notes)
    if getattr(found.train.x, "dtype", None) == np.uint16:
        notes.append("16-bit pixels were divided by 65,535")
    train, held, test = _split(chosen, told, train, held, test, notes)
    told = task.completed(told, chosen.data, chosen.loss, train.x, train.y, test.y)
    return Dataset(
        chosen.data,
        train.x,
        None if told.kind == "reconstruction" else train.y,
        held.x,
        None if told.kind == "reconstruction" else held.y,
        test.x,
        test.y if told.kind != "reconstruction" or told.anomalies else None,
        told,
        _kind(found.kind, train.x),
        found.columns,
        tuple(notes),
        found.front_end,
    )


def _found(chosen: Data) -> Found:
    """What lies where the settings say."""
    from tfsparse.data import arrays, folders, named, pictures, sounds, tables

    name, path = chosen.data, chosen.data.lower()
    if os.path.isdir(name):
        if arrays.holds_npy(name):
            kind: str | None = "npy"
        else:
            kind = folders.kinds_of(
                name,
                {
                    "pictures": pictures.endings(),
                    "sounds": sounds.ENDINGS,
                    "tables": tables.ENDINGS[:2],
                },
            )
        if kind is None:
            raise ValueError(
                "`data` folder must hold pictures, WAV files or CSV recordings, a folder "
                f"for each of two or more classes, or .npy files. Received: {name!r} "
                "without any."
            )
    else:
        kind = next(
            (
                kind
                for kind, endings in {
                    "npz": (".npz",),
                    "npy": (".npy",),
                    "table": tables.ENDINGS,
                }.items()
                if path.endswith(endings)
            ),
            "packaged" if name in named.PACKAGED else "tfds",
        )
        if kind in ("npz", "npy", "table") and not os.path.isfile(name):
            raise ValueError(
                f"`data` must be a file or folder that exists. Received: {name!r}."
            )
    _check_settings(chosen, kind)
    if kind == "npz":
        return arrays.from_npz(name)
    if kind == "npy":
        return arrays.from_npy(name)
    if kind == "table":
        return tables.from_table(name, chosen)
    if kind == "tables":
        return tables.from_recordings(name, chosen)
    if kind == "sounds":
        return sounds.from_folder(name, chosen)
    if kind == "pictures":
        return pictures.from_folder(name, chosen.image_size)
    if kind == "packaged":
        return named.from_scikit_learn(name)
    return named.from_tfds(name, chosen.data_dir, chosen.image_size)


USES = {
    "image_size": ("pictures", "tfds"),
    "label": ("table", "tables"),
    "group": ("table", "tables"),
    "columns": ("table", "tables"),
    "window": ("table", "tables", "sounds"),
    "stride": ("table", "tables", "sounds"),
    "sample_rate": ("sounds",),
    "mel_bands": ("sounds",),
    "frame_ms": ("sounds",),
    "hop_ms": ("sounds",),
}
"""Setting -> kinds of sources that it is for."""


def _check_settings(chosen: Data, kind: str) -> None:
    """Checks that every setting is of use to the source.

    Raises:
        ValueError: One is not.
    """
    default = Data()
    for name, kinds in USES.items():
        value = getattr(chosen, name)
        if value != getattr(default, name) and kind not in kinds:
            words = {"pictures": "folders of pictures", "tfds": "TFDS's images",
                     "table": "tables", "tables": "folders of recordings",
                     "sounds": "folders of WAV files"}  # fmt: skip
            raise ValueError(
                f"`{name}` must be {getattr(default, name) or 0!r} for arrays, it is for "
                f"{' and '.join(words[k] for k in kinds)}. Received: {chosen.data!r} with "
                f"{name}={value}."
            )
    if chosen.stride and not chosen.window and kind != "sounds":
        raise ValueError(
            f"`stride` must come with a window. Received: stride={chosen.stride}."
        )


def _checked(name: str, where: str, part: Part, kind: str) -> Part:
    """A part as networks take it, each sample with its label.

    Raises:
        ValueError: It is empty, or holds what no network takes.
    """
    x = part.x
    if not isinstance(x, Images):
        x = np.asarray(x)
        if x.dtype.kind not in "biuf":
            raise ValueError(
                f"`data` samples must be numbers. Received: {name!r}, {where} of {x.dtype}."
            )
        pixels = x.dtype.name in WHITE
        if x.dtype == np.uint16:
            x = x.astype(np.float32)
            x /= WHITE["uint16"]  # in place: data may be large
        elif x.dtype != np.uint8:
            x = x.astype(np.float32)
        if x.ndim == 3 and (kind == PICTURES or pixels):
            x = x[..., None]
    if not len(x):
        raise ValueError(
            f"`data` must hold samples. Received: {name!r}, {where} is empty."
        )
    if part.y is not None and len(np.atleast_1d(part.y)) != len(x):
        raise ValueError(
            f"`data` must hold one label a sample. Received: {name!r} with "
            f"{len(x)} {where} samples and {len(np.atleast_1d(part.y))} labels."
        )
    if x.ndim < 2 or 0 in x.shape:
        raise ValueError(
            f"`data` samples must have a shape. Received: {name!r}, {where} of shape "
            f"{x.shape}."
        )
    if not isinstance(x, Images) and x.dtype == np.float32 and not np.isfinite(x).all():
        raise ValueError(
            f"`data` values must be finite. Received: {name!r} with "
            f"{int((~np.isfinite(x)).sum())} nan or infinite values in {where}."
        )
    return dataclasses.replace(part, x=x)


def _check_alike(name: str, parts) -> None:
    shapes = {part.x.shape[1:] for part in parts if part is not None}
    if len(shapes) > 1:
        raise ValueError(
            f"`data` train and test samples must have one shape. Received: {name!r} with "
            f"{' and '.join(map(str, sorted(shapes)))}."
        )
    kinds = {part.x.dtype for part in parts if part is not None}
    if len(kinds) > 1:
        raise ValueError(
            f"`data` train and test samples must be of one type. Received: {name!r} with "
            f"{' and '.join(sorted(map(str, kinds)))}."
        )


def _split(chosen: Data, told, train: Part, held, test, notes: list[str]):
    """Train, validation and test: those that people brought, or drawn from train."""
    name, anomalous = chosen.data, None
    if told.kind == "reconstruction" and train.y is not None and train.y.any():
        normal = train.y == 0
        if not normal.any():
            raise ValueError(
                "`data` must hold normal samples, of label 0, to learn from. Received: "
                f"{name!r} without."
            )
        train, anomalous = train.taken(normal), train.taken(~normal)
        where = "are in test alone" if test is None else "were left out of train"
        notes.append(f"{len(anomalous):,} anomalous samples {where}")
    if held is not None and held.y is not None and told.kind == "reconstruction":
        held = held.taken(held.y == 0)

    def drawn(part: Part, share: float, what: str) -> tuple[Part, Part]:
        labels = part.y if told.sorts else None
        leaves = splits.held_out(name, share, len(part), labels, part.groups, what)
        return part.taken(~leaves), part.taken(leaves)

    if test is None:
        train, test = drawn(train, splits.TEST_SHARE, "test")
        if anomalous is not None:
            test = Part(
                np.concatenate([test.x, anomalous.x]),
                np.concatenate([test.y, anomalous.y]),
            )
    if held is None:
        train, held = drawn(train, chosen.validation, "validation")
    return train, held, test


def _kind(kind: str, x) -> str:
    """What samples are, by their shape where the source does not tell."""
    if kind in (PICTURES, SERIES, TABLE):
        return kind
    return {2: TABLE, 3: SERIES, 4: PICTURES}.get(x.ndim, kind)
