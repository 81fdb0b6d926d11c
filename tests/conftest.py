"""Fixtures that several test files share."""

from __future__ import annotations

import gc
import importlib

import keras
import numpy as np
import pytest


def pytest_configure(config):
    # Keras's own convert_to_numpy(variable), seen with NumPy 2: nobody here can mend it.
    note = "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
    config.addinivalue_line("filterwarnings", note)


def pytest_collection_finish(session):
    """Leaves what is imported out of every garbage collection from here on.

    Keras's clear_session and our release_memory collect all of it, a fifth of a second
    each time, most of it spent on TensorFlow's modules.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _coarse_plots():
    """Plots of many small runs cost more than the runs."""
    importlib.import_module("tfsparse.report.write").DPI = 30


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(7)


@pytest.fixture(scope="session")
def digits():
    """The real 8x8 digits: train and test images `(n, 8, 8, 1)` in [0, 1], labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images = (data.images[order] / 16.0).astype("float32")[..., None]
    labels = data.target[order].astype("int32")
    return (images[:1400], labels[:1400]), (images[1400:], labels[1400:])


@pytest.fixture
def image_folder(tmp_path):
    """A folder of two classes of JPEGs of different sizes, told apart by red or blue."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for label, name in enumerate(("blue", "red")):
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            for i in range(12):
                height, width = ((40, 30), (33, 48))[i % 2]
                image = rng.integers(0, 40, (height, width, 3), dtype=np.uint8)
                image[..., 0 if label else 2] += 180
                Image.fromarray(image).save(folder / f"{i}.JPEG", quality=95)
    return str(tmp_path / "images")
