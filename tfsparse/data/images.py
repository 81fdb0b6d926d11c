"""Folders of images too large for memory: decoded, cropped and scaled as batches ask."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

MARGIN = 8 / 7
"""Shorter side of a test image before its centre is cut out, in sides of the crop (256 / 224)."""

ASPECT = 4 / 3
"""Largest ratio of the sides of a random crop, either way (Szegedy et al. 2015)."""


@dataclasses.dataclass(frozen=True)
class Images:
    """Image files that stand for one array of pixels and are read when they are used.

    Indexing gives another `Images`; `np.asarray` reads them all, as the centre of the image
    whose shorter side has been scaled to 8/7 of `size`.

    Args:
        paths: `(samples,)` of PNG, JPEG, GIF or BMP files.
        size: Side of the square that is cut out, pixels.
        channels: 1 or 3.

    Example:
        >>> images = Images(np.array(["a.jpg", "b.jpg"]), 224, 3)
        >>> images.shape, np.asarray(images[:1]).shape
        ((2, 224, 224, 3), (1, 224, 224, 3))
    """

    paths: np.ndarray
    size: int
    channels: int
    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the array that they stand for."""
        return len(self.paths), self.size, self.size, self.channels

    @property
    def ndim(self) -> int:
        """Axes of the array that they stand for."""
        return 4

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index) -> Images:
        return dataclasses.replace(self, paths=self.paths[index])

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        read = tf.data.Dataset.from_tensor_slices(self.paths).map(
            self.read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        pixels = np.empty(self.shape, self.dtype)
        for number, image in enumerate(read.as_numpy_iterator()):
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
        extent = [tf.maximum(bottom - top, 1), tf.maximum(right - left, 1), -1]
        image = tf.slice(image, [top, left, 0], extent)
        image = tf.image.resize(image, [self.size, self.size], antialias=True)
        return tf.ensure_shape(_rounded(image), self.shape[1:])

    def damaged(self) -> str | None:
        """Path of the first file that cannot be read; reads them one after another."""
        for path in self.paths:
            try:
                self._decode(path)
            except tf.errors.OpError:
                return str(path)
        return None

    def _decode(self, path):
        content = tf.io.read_file(path)
        return tf.io.decode_image(content, self.channels, expand_animations=False)


def centre(image, size: int):
    """The square in the middle of an image that has been scaled to a little more.

    Args:
        image: `(height, width, channels)` uint8.
        size: Side of the square, pixels; the image's shorter side becomes 8/7 of it.

    Returns:
        `(size, size, channels)` uint8.
    """
    height, width = _sides(image)
    scale = size * MARGIN / tf.minimum(height, width)
    sides = tf.cast(tf.round(tf.stack([height, width]) * scale), tf.int32)
    image = tf.image.resize(image, sides, antialias=True)
    top, left = tf.unstack((sides - size) // 2)
    return _rounded(image[top : top + size, left : left + size])


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
        `(count, 4)`: top, left, bottom, right as shares of the sides.
    """

    def uniform(number, low, high):
        seed = key + tf.constant([0, 1_000_003 * number], key.dtype)
        return tf.random.stateless_uniform((count,), seed, low, high)

    share = uniform(6, area, 1.0)
    aspect = tf.exp(uniform(7, -np.log(ASPECT), np.log(ASPECT))) * height / width
    tall = tf.minimum(tf.sqrt(share / aspect), 1.0)
    wide = tf.minimum(tf.sqrt(share * aspect), 1.0)
    top = uniform(8, 0.0, 1.0) * (1.0 - tall)
    left = uniform(9, 0.0, 1.0) * (1.0 - wide)
    return tf.stack([top, left, top + tall, left + wide], axis=1)
