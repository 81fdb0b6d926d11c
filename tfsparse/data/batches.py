"""The pipelines that feed training: order, augmentation, batches."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tfsparse.data.images import CALLS, Images, random_boxes, untuned


class Batches:
    """The batches of a data set, epoch after epoch; the data are held once.

    Args:
        x: `(samples, ...)`, uint8 (divided by 255) or float32 (as it is); `Images` are
            read from disk as they are needed.
        y: `(samples, ...)` labels; None where the samples themselves are the targets.
        batch_size: Samples a batch; the last one may be smaller.
        augmentation: What `parse_augmentation` returns.

    Example:
        >>> for images, labels in Batches(x, y, 128).epoch((seed, epoch)): ...
    """

    def __init__(
        self,
        x: np.ndarray | Images,
        y: np.ndarray | None,
        batch_size: int,
        augmentation: Mapping[str, float] | None = None,
    ):
        self._files = x if isinstance(x, Images) else None
        self._images = tf.constant(self._files.keys if self._files else x)
        self._itself = y is None
        self._labels = tf.constant(np.zeros(len(x), np.int32) if y is None else y)
        self._batch_size = batch_size
        self._augmentation = dict(augmentation or {})

    def epoch(
        self, seed: tuple[int, ...] | None = None, passes: int = 1
    ) -> tf.data.Dataset:
        """An epoch: `(batch, ...) float32`, pixels in [0, 1], and `(batch, ...)` labels.

        Args:
            seed: Decides order and augmentation; the same seed, the same batches.
                None keeps the order and augments nothing.
            passes: How often it goes through the data, each time in another order.
        """
        order = np.arange(self._labels.shape[0])
        wanted = {}
        if seed is not None:
            rng = np.random.default_rng(seed)
            order = np.concatenate([rng.permutation(order) for _ in range(passes)])
            wanted = dict(self._augmentation)
        fold = _fold(seed or ())
        # Parts of files are cut out before they are scaled, as long as all pixels are there.
        area = wanted.pop("resized_crop", None) if self._files else None

        def key(number):
            return tf.stack([tf.constant(fold, tf.int64), number])

        def read(number, index):
            path = self._images[index]
            if area is None:
                return self._files.read(path), self._labels[index]
            return self._files.read_crop(path, area, key(number)), self._labels[index]

        def gather(index):
            return tf.gather(self._images, index), tf.gather(self._labels, index)

        def finish(step, samples):
            batch, labels = samples
            if batch.dtype == tf.uint8:
                batch = tf.cast(batch, tf.float32) / 255.0
            batch = augment(batch, wanted, key(step)) if wanted else batch
            return batch, batch if self._itself else labels

        options = {"num_parallel_calls": CALLS, "deterministic": True}
        dataset = tf.data.Dataset.from_tensor_slices(order)
        if self._files:
            dataset = dataset.enumerate().map(read, **options).batch(self._batch_size)
        else:
            dataset = dataset.batch(self._batch_size).map(gather, **options)
        dataset = dataset.enumerate().map(finish, **options)
        return untuned(dataset.prefetch(2))


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

    if "resized_crop" in wanted:
        boxes = random_boxes(size, wanted["resized_crop"], key, *_floats(height, width))
        images = tf.image.crop_and_resize(
            images, boxes, tf.range(size), [height, width]
        )
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


def _floats(*values):
    return [tf.cast(value, tf.float32) for value in values]


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
