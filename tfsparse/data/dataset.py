"""Data by name or path, checked, in splits that are always the same."""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from tfsparse.data import sources
from tfsparse.data.images import Images


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A classification data set split three ways, in memory or on disk.

    Attributes:
        name: As asked for.
        x_train, x_validation, x_test: `(samples, ...)`, uint8 pixels or float32; `Images`
            if they stay on disk.
        y_train, y_validation, y_test: `(samples,)` int32 labels.
        classes: Number of labels.
        class_names: Their names.
    """

    name: str
    x_train: np.ndarray | Images
    y_train: np.ndarray
    x_validation: np.ndarray | Images
    y_validation: np.ndarray
    x_test: np.ndarray | Images
    y_test: np.ndarray
    classes: int
    class_names: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """One sample's shape."""
        return self.x_train.shape[1:]


def load(
    name: str,
    data_dir: str | None = None,
    validation: float = 0.1,
    image_size: int = 0,
) -> Dataset:
    """Loads a data set and splits it, always the same way.

    Args:
        name: A TFDS name (`mnist`, `fashion_mnist`, `cifar10`, ...), `digits`
            (scikit-learn's 8 x 8 images), a path to an `.npz` with `x_train, y_train,
            x_test, y_test`, or a folder of class folders of images (with `train/` and
            `test/`, or else `val/`, above them, or split 5 to 1).
        data_dir: TFDS's folder; `TFDS_DATA_DIR` or TFDS's own default if None.
        validation: Fraction of train held out, every class alike.
        image_size: Side of the square that images are scaled and cut to, pixels; those of
            a folder then stay on disk. 0 takes images as they are, into memory.

    Returns:
        A `Dataset`.

    Raises:
        ValueError: The data cannot be found, read, or used.

    Example:
        >>> load("digits").x_train.shape
        (1294, 8, 8, 1)
    """
    if not 0 < validation < 1:
        raise ValueError(
            f"`validation` must be between 0 and 1. Received: validation={validation}."
        )
    if image_size < 0:
        raise ValueError(
            f"`image_size` must be >= 0. Received: image_size={image_size}."
        )
    if name == "digits" or name.endswith(".npz"):
        if image_size:
            raise ValueError(
                f"`image_size` must be 0 for arrays. Received: {name!r} with "
                f"image_size={image_size}."
            )
        arrays = sources.from_digits() if name == "digits" else sources.from_npz(name)
    elif os.path.isdir(name):
        arrays = sources.from_folder(name, image_size)
    else:
        arrays = sources.from_tfds(name, data_dir, image_size)
    return _split(name, *arrays, validation=validation)


def _split(name, x, y, x_test, y_test, class_names, *, validation) -> Dataset:
    x, x_test = _as_images(x), _as_images(x_test)
    y, y_test = _as_labels(name, y), _as_labels(name, y_test)
    _check(name, x, y, x_test, y_test, class_names)
    held_out = np.zeros(len(y), dtype=bool)
    for label in np.unique(y):
        own = np.flatnonzero(y == label)
        order = np.random.default_rng((sources.SPLIT_SEED, int(label))).permutation(
            len(own)
        )
        held_out[own[order[: max(1, round(validation * len(own)))]]] = True
    if held_out.all():
        raise ValueError(
            f"`data` must hold 2 or more samples a class. Received: {name!r}."
        )
    return Dataset(
        name,
        x[~held_out],
        y[~held_out],
        x[held_out],
        y[held_out],
        x_test,
        y_test,
        len(class_names) or int(max(y.max(), y_test.max())) + 1,
        tuple(class_names)
        or tuple(map(str, range(int(max(y.max(), y_test.max())) + 1))),
    )


def _as_images(x: np.ndarray) -> np.ndarray:
    """uint8 as it is, everything else float32; a channel axis for flat images."""
    if isinstance(x, Images):
        return x
    x = np.asarray(x)
    if x.dtype != np.uint8:
        x = x.astype(np.float32)
    return x[..., None] if x.ndim == 3 else x


def _as_labels(name: str, y: np.ndarray) -> np.ndarray:
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or not (
        np.issubdtype(y.dtype, np.integer)
        or (np.issubdtype(y.dtype, np.floating) and (y == np.round(y)).all())
    ):
        raise ValueError(
            f"`data` labels must be one whole number a sample. "
            f"Received: {name!r} with shape {y.shape}, dtype {y.dtype}."
        )
    return y.astype(np.int32)


def _check(name, x, y, x_test, y_test, class_names) -> None:
    for part, images, labels in (("train", x, y), ("test", x_test, y_test)):
        if len(images) != len(labels):
            raise ValueError(
                f"`data` must hold one label a sample. Received: {name!r} with "
                f"{len(images)} {part} samples and {len(labels)} labels."
            )
        if not len(images):
            raise ValueError(
                f"`data` must hold samples. Received: {name!r}, {part} is empty."
            )
        if images.ndim < 2:
            raise ValueError(
                f"`data` samples must have a shape. Received: {name!r}, {part} of shape "
                f"{images.shape}."
            )
        if images.dtype != np.uint8 and not np.isfinite(images).all():
            bad = int((~np.isfinite(images)).sum())
            raise ValueError(
                f"`data` pixels must be finite. Received: {name!r} with {bad} nan or "
                f"infinite values in {part}."
            )
        limit = len(class_names) or None
        if labels.min() < 0 or (limit and labels.max() >= limit):
            raise ValueError(
                f"`data` labels must lie in 0 to {(limit or 1) - 1 if limit else 'classes - 1'}."
                f" Received: {name!r} with labels {labels.min()} to {labels.max()} in {part}."
            )
    if x.shape[1:] != x_test.shape[1:]:
        raise ValueError(
            f"`data` train and test samples must have one shape. Received: {name!r} with "
            f"{x.shape[1:]} and {x_test.shape[1:]}."
        )
    if len(np.unique(y)) < 2:
        raise ValueError(
            f"`data` must hold two or more classes. Received: {name!r}, all labels are {y[0]}."
        )
    known = np.unique(y)
    strange = np.setdiff1d(y_test, known)
    if len(strange):
        raise ValueError(
            f"`data` test labels must occur in train. Received: {name!r} with label "
            f"{strange[0]} in test only (train has {known.min()} to {known.max()})."
        )
    if not limit and known.max() + 1 > 2 * len(known):
        raise ValueError(
            f"`data` labels must be numbered 0 to classes - 1. Received: {name!r} with "
            f"{len(known)} classes, but a label {known.max()}."
        )
