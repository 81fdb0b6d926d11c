"""Folders of images too large for memory: decoded, cropped and scaled as batches ask."""

from __future__ import annotations

import dataclasses
import os
from concurrent import futures

import numpy as np
import tensorflow as tf

CENTRE = 7 / 8
"""Side of the square that is cut from a test image's middle, in shorter sides (224 / 256)."""

ASPECT = 4 / 3
"""Largest ratio of the sides of a random crop, either way (Szegedy et al. 2015)."""

LUMA = (0.299, 0.587, 0.114)
"""Share of red, green and blue in gray (ITU-R BT.601)."""

CALLS = os.cpu_count() or 2
"""Images or batches that are made at once."""

CHECKED = 1024
"""Files that are looked at together for a damaged one."""

GRAY = ("1", "L", "I", "I;16", "I;16B", "I;16L", "F", "LA", "La")
"""Modes of Pillow with one channel of light."""

PILLOW = "pillow:"
"""Stands before the path of a file that Pillow has to read."""

ITSELF = ("PNG", "JPEG", "GIF", "BMP")
"""Formats that TensorFlow decodes."""


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """Image files that stand for one array of pixels and are read when they are used.

    Indexing gives another `Images`; `np.asarray` reads them all: the square in the middle of
    each, 7/8 of the shorter side, scaled.

    Args:
        paths: `(samples,)` of files of any format that Pillow opens.
        size: Side of the square that it is scaled to, pixels.
        channels: 1 or 3.
        plain: `(samples,)` bool: those that TensorFlow decodes, in the graph; Pillow reads
            the others. None for all.

    Example:
        >>> images = Images(np.array(["a.jpg", "b.jpg"]), 224, 3)
        >>> images.shape, np.asarray(images[:1]).shape
        ((2, 224, 224, 3), (1, 224, 224, 3))
    """

    paths: np.ndarray
    size: int
    channels: int
    plain: np.ndarray | None = None
    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the array that they stand for."""
        return len(self.paths), self.size, self.size, self.channels

    @property
    def ndim(self) -> int:
        """Axes of the array that they stand for."""
        return 4

    @property
    def keys(self) -> list[str]:
        """Paths, with a sign before those that Pillow has to read."""
        if self.plain is None:
            return list(self.paths)
        pairs = zip(self.paths, self.plain, strict=True)
        return [path if plain else PILLOW + path for path, plain in pairs]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index) -> Images:
        plain = None if self.plain is None else np.atleast_1d(self.plain[index])
        paths = np.atleast_1d(self.paths[index])
        return dataclasses.replace(self, paths=paths, plain=plain)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        read = tf.data.Dataset.from_tensor_slices(self.keys).map(
            self.read, num_parallel_calls=CALLS, deterministic=True
        )
        pixels = np.empty(self.shape, self.dtype)
        for number, image in enumerate(untuned(read).as_numpy_iterator()):
            pixels[number] = image
        return pixels.astype(dtype or self.dtype, copy=False)

    def read(self, path):
        """One image's centre, in the graph. `(size, size, channels)` uint8."""
        image = centre(self._decode(path), self.size)
        return tf.ensure_shape(image, self.shape[1:])

    def read_crop(self, path, area: float, key):
        """A random part of one image, scaled; the same key, the same part.

        Args:
            path: Of the file.
            area: The least share of the image's area.
            key: `(2,)` integers.
        """
        image = self._decode(path)
        height, width = _sides(image)
        box = random_boxes(1, area, key, height, width)[0]
        pixels = tf.stack([height, width, height, width])
        top, left, bottom, right = tf.unstack(tf.cast(tf.round(box * pixels), tf.int32))
        last = tf.cast(pixels, tf.int32) - 1
        top, left = tf.minimum(top, last[0]), tf.minimum(left, last[1])
        extent = [tf.maximum(bottom - top, 1), tf.maximum(right - left, 1), -1]
        image = tf.slice(image, [top, left, 0], extent)
        image = tf.image.resize(image, [self.size, self.size], antialias=True)
        return tf.ensure_shape(_rounded(image), self.shape[1:])

    def damaged(self) -> str | None:
        """Path of the first file that cannot be read; reads them all until there."""

        def broken(path) -> bool:
            try:
                self._decode(path)
            except tf.errors.OpError:
                return True
            return False

        with futures.ThreadPoolExecutor() as pool:
            keys = self.keys
            for start in range(0, len(self), CHECKED):
                part = keys[start : start + CHECKED]
                for path, bad in zip(part, pool.map(broken, part), strict=True):
                    if bad:
                        return str(path).removeprefix(PILLOW)
        return None

    def _decode(self, path):
        if self.plain is None or self.plain.all():
            return self._decoded(path)
        here = tf.strings.regex_full_match(path, f"{PILLOW}.*")
        return tf.cond(here, lambda: self._by_pillow(path), lambda: self._decoded(path))

    def _decoded(self, path):
        # Not every format decodes to one channel, so gray is made here.
        image = tf.io.decode_image(tf.io.read_file(path), 3, expand_animations=False)
        if self.channels == 1:
            image = tf.tensordot(tf.cast(image, tf.float32), LUMA, 1)[..., None]
        return tf.cast(image, tf.float32)

    def _by_pillow(self, path):
        from tfsparse.data import pictures

        def read(key: bytes) -> np.ndarray:
            name = key.decode().removeprefix(PILLOW)
            return pictures.upright(name, self.channels == 1).astype(np.float32)

        image = tf.numpy_function(read, [path], tf.float32, stateful=False)
        return tf.ensure_shape(image, (None, None, self.channels))


def decodes_itself(header) -> bool:
    """Whether TensorFlow reads a picture as people see it: upright, of 8 bits a colour."""
    return (
        header.format in ITSELF
        and header.orientation == 1
        and header.mode in ("1", "L", "LA", "P", "RGB", "RGBA")
    )


def centre(image, size: int):
    """The square in the middle of an image, scaled.

    Args:
        image: `(height, width, channels)` pixels up to 255.
        size: Side of the result, pixels; it shows 7/8 of the image's shorter side.

    Returns:
        `(size, size, channels)` uint8.
    """
    height, width = _sides(image)
    side = tf.maximum(tf.round(tf.minimum(height, width) * CENTRE), 1.0)
    corner = [(height - side) / 2, (width - side) / 2]
    top, left, side = (tf.cast(tf.floor(n), tf.int32) for n in (*corner, side))
    image = image[top : top + side, left : left + side]
    return _rounded(tf.image.resize(image, [size, size], antialias=True))


def _rounded(image):
    return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)


def _sides(image):
    shape = tf.cast(tf.shape(image), tf.float32)
    return shape[0], shape[1]


def random_boxes(count, area: float, key, height, width):
    """Random parts of images of one size, of random area and aspect.

    Args:
        count: How many.
        area: Their least share of the whole area; the greatest is 1.
        key: `(2,)` integers; the same key, the same parts.
        height, width: Of the images, pixels.

    Returns:
        `(count, 4)`: top, left, bottom, right as shares of the sides. Width to height is 3/4
        to 4/3, in pixels, or as near as the image lets a part of that area be.
    """

    def uniform(number, low, high):
        # Far enough apart that no sample's number reaches from one to the next.
        seed = key + tf.constant([0, number << 40], key.dtype)
        return tf.random.stateless_uniform((count,), seed, low, high)

    share = uniform(1, area, 1.0)
    aspect = tf.exp(uniform(2, -np.log(ASPECT), np.log(ASPECT))) * height / width
    aspect = tf.clip_by_value(aspect, share, 1.0 / share)  # no side beyond the image's
    tall, wide = tf.sqrt(share / aspect), tf.sqrt(share * aspect)
    top = uniform(3, 0.0, 1.0) * (1.0 - tall)
    left = uniform(4, 0.0, 1.0) * (1.0 - wide)
    return tf.stack([top, left, top + tall, left + wide], axis=1)


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The dataset with the parallelism that it was given, for good.

    An iterator that tunes itself ends only as its tuner wakes up, from sleeps that double
    from 10 ms on: a pass takes up to twice its own time (TensorFlow 2.21).
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
