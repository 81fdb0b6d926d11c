"""Data by name or path -> Dataset: found, checked, split."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np

from tfsparse.data import labels, splits
from tfsparse.data.dataset import Dataset
from tfsparse.data.found import PICTURES, SERIES, TABLE, Found, Part
from tfsparse.data.images import Images
from tfsparse.data.settings import Data

WHITE = {"uint8": 255.0, "uint16": 65535.0}
"""Whole-number types of pixels -> what is white."""


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
    told, answers = labels.labelled(
        chosen.data,
        [None if part is None else part.y for part in parts],
        found.task if chosen.task == "auto" else chosen.task,
        found.class_names,
        found.labels,
    )
    pieces: list[Any] = [
        part and dataclasses.replace(part, y=y)
        for part, y in zip(parts, answers, strict=True)
    ]
    notes = list(found.notes)
    if getattr(found.train.x, "dtype", None) == np.uint16:
        notes.append("16-bit pixels were divided by 65,535")
    train, held, test = _split(chosen, told, pieces, notes)
    told = labels.completed(told, chosen.data, chosen.loss, train.x, train.y, test.y)
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
                f"`{name}` must be {getattr(default, name)!r} for this data, it is for "
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


def _split(chosen: Data, told, pieces: list[Any], notes: list[str]):
    """Train, validation and test: those that people brought, or drawn from train."""
    name, anomalous = chosen.data, None
    train, held, test = pieces
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
        classes = part.y if told.sorts else None
        leaves = splits.held_out(name, share, len(part), classes, part.groups, what)
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
