"""What `fit` is given one epoch at a time, so that it sees what one long `fit` would.

Each epoch of a training that gets smaller is a `fit` of its own. Most data begin anew with
each epoch anyway; a stream that goes on (any data with `steps_per_epoch`, a generator) is
held here, between the epochs.
"""

from __future__ import annotations

import abc
import itertools
import logging
import numbers
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

_LOG = logging.getLogger("tfsparse")

NO_SAMPLES = "`x` must hold samples. Received: none."

BATCH = 32
"""Samples a batch where `fit` is not told."""


class Feed(abc.ABC):
    """Data, epoch after epoch.

    Attributes:
        samples: Samples an epoch.
    """

    samples: int

    def more(self) -> bool:
        """Whether another epoch can begin."""
        return True

    @abc.abstractmethod
    def epoch(self) -> dict[str, Any]:
        """The arguments of the next epoch's `fit` that tell its data."""

    @abc.abstractmethod
    def first(self, samples: int) -> Iterator[tuple]:
        """Batches `(x, y, ...)` of so many samples or a few more.

        They are not taken from the epochs.
        """


def open_feed(
    x, y, arguments: Mapping[str, Any], steps_name: str = "steps_per_epoch"
) -> tuple[Feed, dict[str, Any]]:
    """Data as `fit` takes them.

    Args:
        x, y: As for `fit`: arrays in any structure, a `tf.data.Dataset`, a PyDataset, a
            generator, or what else can be iterated.
        arguments: Those of `fit`.
        steps_name: Which of them says how many batches are an epoch.

    Returns:
        The feed, and the arguments that it does not stand for.

    Raises:
        ValueError: The data hold no samples; or are gone through once only, or never end,
            and nothing says how much of them is an epoch.
    """
    rest = dict(arguments)
    steps = rest.pop(steps_name, None)
    if steps is not None and (not isinstance(steps, numbers.Integral) or steps < 1):
        raise ValueError(
            f"`{steps_name}` must be a whole number from 1 on. Received: {steps!r}."
        )
    steps = None if steps is None else int(steps)
    y = _as_array(y)
    if "sample_weight" in rest:
        rest["sample_weight"] = _as_array(rest["sample_weight"])
    if _holds_numbers(x):
        raise ValueError(
            "`x` must be arrays. Received: numbers of Python; np.asarray(x) makes an array."
        )
    if _holds_arrays(x):
        if not _size(x):
            raise ValueError(NO_SAMPLES)
        if steps is None:
            return _Arrays(x, y, rest), rest
        return _sliced(x, y, steps, rest)
    if isinstance(x, str | bytes) or not hasattr(x, "__iter__"):
        if not isinstance(x, tf.data.Dataset | keras.utils.PyDataset):
            raise ValueError(
                "`x` must be arrays, a tf.data.Dataset, a PyDataset or a generator. "
                f"Received: {type(x).__name__}."
            )
    if y is not None:
        raise ValueError(
            "`y` must be None where `x` is no array: its batches bring it. Received: "
            f"both, with a {type(x).__name__}."
        )
    shuffle = bool(rest.pop("shuffle", True))  # else Keras warns that it does not
    try:
        if isinstance(x, tf.data.Dataset):
            return _of_dataset(x, steps), rest
        if isinstance(x, keras.utils.PyDataset):
            return _Sequence(x, steps, shuffle), rest
        return _Pulled(x.__iter__, steps, once=hasattr(x, "__next__")), rest
    except _Endless as error:
        raise ValueError(
            f"`{steps_name}` must say how many batches are an epoch. Received: none, "
            f"with {error}."
        ) from None


class _Endless(Exception):
    """Nothing says where an epoch of this ends."""


def _holds_arrays(x) -> bool:
    """Whether it is an array, or arrays in lists, tuples and dicts."""
    parts = keras.tree.flatten(x)
    return bool(parts) and all(len(getattr(part, "shape", ())) for part in parts)


def _holds_numbers(x) -> bool:
    """Whether it is lists of numbers."""
    parts = keras.tree.flatten(x) if isinstance(x, list | tuple) else []
    return bool(parts) and all(isinstance(part, numbers.Number) for part in parts)


def _as_array(given):
    """Lists of numbers as an array; anything else as it is."""
    return np.asarray(given) if _holds_numbers(given) else given


class _Arrays(Feed):
    """Arrays: `fit` shuffles and cuts them itself."""

    def __init__(self, x, y, arguments):
        self._given = {"x": x, "y": y}
        self.samples = int(_size(x) * (1.0 - _split(arguments)))

    def epoch(self):
        return self._given

    def first(self, samples):
        # Evenly spaced ones: files are often sorted by class.
        few = np.unique(np.linspace(0, self.samples - 1, samples).astype(int))
        yield tuple(
            keras.tree.map_structure(lambda part: np.asarray(part)[few], given)
            for given in self._given.values()
        )


class _Counted(Feed):
    """A dataset whose length nobody knows: it begins anew with each epoch."""

    def __init__(self, dataset):
        self._dataset = dataset
        _LOG.warning(
            "Reading `x` once to count its samples, as its length is not known: "
            "steps_per_epoch=N spares that."
        )
        self.samples = int(dataset.reduce(np.int64(0), _counted))
        if not self.samples:
            raise ValueError(NO_SAMPLES)
        if next(iter(dataset.take(1)), None) is None:
            raise ValueError(
                "`x` must be a dataset that can be read again in each epoch. Received: one "
                "that is used up after a pass; its generator must start anew."
            )

    def epoch(self):
        return {"x": self._dataset, "shuffle": False}

    def first(self, samples):
        return _until(iter(self._dataset), samples)


class _Held(Feed):
    """A dataset that goes on where the last epoch stopped, as it does inside one `fit`.

    Where a pass ends within an epoch, so does the epoch; the next one begins anew.

    Args:
        dataset: Of batches.
        steps: Batches an epoch; None for a whole pass.
        batches: Batches a pass; None if it never ends.
    """

    def __init__(self, dataset, steps: int | None, batches: int | None):
        self._dataset, self._batches = dataset, batches
        known = [number for number in (steps, batches) if number is not None]
        if not known:
            raise _Endless("a dataset that never ends")
        self._steps = min(known)
        self._iterator, self._seen = iter(dataset), 0
        # Put back below: to look at a shuffled dataset is to shuffle it once more.
        self._ahead: Any = next(self._iterator)
        self.samples = self._steps * _size(self._ahead)

    def epoch(self):
        if self._seen == self._batches:
            self._iterator, self._seen = iter(self._dataset), 0
        left = self._steps if self._batches is None else self._batches - self._seen
        count = min(self._steps, left)
        self._seen += count
        held, ahead = self._iterator, self._ahead
        # Within the graph: no batch passes through Python.
        rest = tf.data.Dataset.range(count - (ahead is not None)).map(
            lambda number: held.get_next()
        )
        if ahead is not None:
            first = tf.data.Dataset.from_tensors(ahead)
            rest, self._ahead = first.concatenate(rest), None
        return {"x": rest, "shuffle": False}

    def first(self, samples):
        return _until(iter(self._dataset), samples)


class _Open(Feed):
    """As `_Held`, of a dataset whose length nobody knows.

    Args:
        dataset: Of batches.
        steps: Batches an epoch.
    """

    def __init__(self, dataset, steps: int):
        self._dataset, self._steps = dataset, steps
        self._iterator: Any = iter(dataset)
        self._ahead: Any = None
        if not self.more():
            raise ValueError(NO_SAMPLES)
        self.samples = steps * _size(self._ahead)

    def more(self):
        for _ in range(2):
            if self._ahead is not None:
                return True
            found = self._iterator.get_next_as_optional()
            if bool(found.has_value()):
                self._ahead = found.get_value()
            else:
                self._iterator = iter(self._dataset)
        return self._ahead is not None

    def epoch(self):
        self.more()
        held, ahead = self._iterator, tf.data.Dataset.from_tensors(self._ahead)
        self._ahead = None
        rest = tf.data.Dataset.range(self._steps - 1)
        rest = rest.map(lambda number: held.get_next_as_optional())
        rest = rest.take_while(lambda found: found.has_value())
        part = ahead.concatenate(rest.map(lambda found: found.get_value()))
        return {"x": part, "shuffle": False, "steps_per_epoch": self._steps}

    def first(self, samples):
        return _until(iter(self._dataset), samples)


class _Sequence(Feed):
    """A PyDataset; of one with more batches than an epoch has steps, the next ones."""

    def __init__(self, whole, steps: int | None, shuffle: bool):
        self._whole, self._steps, self._shuffle = whole, steps, shuffle
        length = whole.num_batches
        if length is None and steps is None:
            raise _Endless("a PyDataset without a length")
        if length == 0:
            raise ValueError(NO_SAMPLES)
        self._order: Iterator[int] = iter(())
        self._begun = False
        batches = length if steps is None else min(steps, length or steps)
        self.samples = _size(whole[0]) * batches

    def epoch(self):
        chosen = list(itertools.islice(self._order, self._steps))
        if not chosen:
            self._order = self._pass()
            chosen = list(itertools.islice(self._order, self._steps))
        part = _Part(self._whole, chosen, told=not self._begun)
        self._begun = True
        return {"x": part, "shuffle": False}

    def _pass(self) -> Iterator[int]:
        if self._whole.num_batches is None:
            return itertools.count()
        order = list(range(self._whole.num_batches))
        if self._shuffle:
            random.shuffle(order)  # as Keras does, by the same generator
        return iter(order)

    def first(self, samples):
        length = self._whole.num_batches
        order = itertools.count() if length is None else range(length)
        return _until(map(self._whole.__getitem__, order), samples)


class _Part(keras.utils.PyDataset):
    """Some batches of a PyDataset, in the order given.

    Args:
        whole: Of which.
        chosen: Which batches.
        told: Whether the end of epoch that each `fit` begins with is passed on: the first
            one is, as in a long `fit`.
    """

    def __init__(self, whole, chosen: list[int], told: bool):
        super().__init__(whole.workers, whole.use_multiprocessing, whole.max_queue_size)
        self._whole, self._chosen, self._told = whole, chosen, told

    @property
    def num_batches(self):
        return len(self._chosen)

    def __getitem__(self, index):
        return self._whole[self._chosen[index]]

    def on_epoch_begin(self):
        self._told = True
        self._whole.on_epoch_begin()

    def on_epoch_end(self):
        if self._told:
            self._whole.on_epoch_end()


class _Pulled(Feed):
    """Batches that Python makes: a generator, or what else can be iterated.

    Args:
        begin: Starts a pass.
        steps: Batches an epoch; None for a whole pass.
        once: Whether there is one pass only.
    """

    def __init__(self, begin: Callable[[], Iterator], steps: int | None, once: bool):
        if steps is None and once:
            raise _Endless("a generator, which can be read once only")
        self._begin, self._steps, self._once = begin, steps, once
        self._iterator = begin()
        self._ahead: list = []
        if not self.more():
            raise ValueError(NO_SAMPLES)
        batches = sum(1 for _ in begin()) if steps is None else steps
        self.samples = _size(self._ahead[0]) * batches

    def more(self):
        for _ in range(1 if self._once else 2):
            self._ahead += itertools.islice(self._iterator, 0 if self._ahead else 1)
            if self._ahead:
                return True
            self._iterator = self._begin()
        return False

    def epoch(self):
        self.more()
        return {
            "x": self._part(),
            "shuffle": False,
            "steps_per_epoch": self._steps,
        }

    def _part(self):
        source = itertools.chain(self._drained(), self._iterator)
        for batch in itertools.islice(source, self._steps):
            yield tuple(batch) if isinstance(batch, list) else batch

    def _drained(self):
        """What was read ahead."""
        while self._ahead:
            yield self._ahead.pop(0)

    def first(self, samples):
        if not self._once:
            return _until(self._begin(), samples)
        held = sum(map(_size, self._ahead))
        while held < samples:
            more = list(itertools.islice(self._iterator, 1))
            if not more:
                break
            self._ahead += more
            held += _size(more[0])
        return iter(list(self._ahead))


def _of_dataset(dataset, steps: int | None) -> Feed:
    cardinality = int(dataset.cardinality())
    if cardinality == 0:
        raise ValueError(NO_SAMPLES)
    if cardinality == tf.data.INFINITE_CARDINALITY:
        return _Held(dataset, steps, None)
    if cardinality == tf.data.UNKNOWN_CARDINALITY:
        if steps is None:
            return _Counted(dataset)
        return _Open(dataset, steps)
    return _Held(dataset, steps, cardinality)


def _sliced(x, y, steps: int, rest: dict) -> tuple[Feed, dict]:
    """Arrays of which an epoch is so many batches: a dataset of them that goes on."""
    weights, size = rest.pop("sample_weight", None), rest.pop("batch_size", None)
    parts = tuple(part for part in (x, y, weights) if part is not None)
    count, split = _size(x), _split(rest)
    rest.pop("validation_split", None)
    if split and rest.get("validation_data") is None:
        count = int(count * (1.0 - split))
        rest["validation_data"] = _rows_from(parts, count, None)
        parts = _rows_from(parts, 0, count)
    if not count:
        raise ValueError(NO_SAMPLES)
    order = tf.data.Dataset.range(count)
    if rest.pop("shuffle", True):
        order = order.shuffle(count)
    held = keras.tree.map_structure(tf.convert_to_tensor, _without_lists(parts))

    def gather(chosen):
        return keras.tree.map_structure(lambda part: tf.gather(part, chosen), held)

    dataset = order.batch(size or BATCH).map(gather)
    return _Held(dataset, steps, int(dataset.cardinality())), rest


def _split(arguments) -> float:
    """Which share of arrays is for validation."""
    return float(arguments.get("validation_split") or 0.0)


def _rows_from(parts, begin: int, end: int | None):
    return keras.tree.map_structure(lambda part: np.asarray(part)[begin:end], parts)


def _without_lists(parts):
    """The same structure in tuples: a list is one array for tf.data."""
    if isinstance(parts, list | tuple):
        return tuple(map(_without_lists, parts))
    if isinstance(parts, Mapping):
        return {name: _without_lists(part) for name, part in parts.items()}
    return parts


def _counted(total, *batch):
    """Samples so far, with those of a batch."""
    return total + tf.shape(keras.tree.flatten(batch)[0], tf.int64)[0]


def _size(batch) -> int:
    """Samples in a batch."""
    return len(keras.tree.flatten(batch)[0])


def _until(batches: Iterator, samples: int) -> Iterator[tuple]:
    """Batches until they hold so many samples."""
    for batch in batches:
        yield batch
        samples -= _size(batch)
        if samples <= 0:
            return
