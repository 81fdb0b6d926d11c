"""The groups of a penalty: labels over the weights of a model."""

from __future__ import annotations

import base64
import dataclasses
import zlib
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Partition:
    """The groups of a penalty: equal labels, in any variable, are one group.

    Attributes:
        labels: Variable path -> integers that broadcast against the variable; -1 is
            unpenalised, and so is a variable without an entry.
        names: What each label stands for, such as `conv[3]`; none where they are many.
        multipliers: Label -> factor on the penalty's strength. `(groups,)`; None for 1.
        followers: Variable path -> labels of what has no penalty, but is zero once its
            group is (the biases of a dead filter).
    """

    labels: Mapping[str, np.ndarray]
    names: tuple[str, ...] = ()
    multipliers: np.ndarray | None = None
    followers: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def groups(self) -> int:
        """Number of groups: the largest label and 1."""
        return 1 + max((int(own.max()) for own in self.labels.values()), default=-1)

    def sums(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """Sum over each group of arrays that stand in for the variables. `(groups,)`."""
        totals = np.zeros(self.groups + 1)  # the last one collects label -1
        for path, labels in self.labels.items():
            value = np.asarray(values[path], "float64")
            spread = np.broadcast_to(labels, value.shape)
            totals += np.bincount(
                np.where(spread < 0, self.groups, spread).ravel(),
                value.ravel(),
                minlength=self.groups + 1,
            )
        return totals[:-1]

    def norms(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """L2 norm of each group. `(groups,)`.

        Args:
            values: Path -> value of each of the variables in `labels`.
        """
        scale = max(  # squares of 1e-200 would be zero
            (float(np.abs(values[path]).max(initial=0)) for path in self.labels),
            default=0.0,
        )
        if not 0 < scale < np.inf:
            scale = 1.0
        squares = {
            path: np.square(np.asarray(values[path], "float64") / scale)
            for path in self.labels
        }
        return scale * np.sqrt(self.sums(squares))

    def emptied(
        self, values: Mapping[str, np.ndarray], dead: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The values, those of dead groups and of what follows them zero.

        Args:
            values: Path -> value; other paths than the partition's stay as they are.
            dead: `(groups,)` bool.
        """
        places = {**self.followers, **self.labels} if len(dead) else {}
        found = dict(values)
        for path in places.keys() & values.keys():
            gone = (places[path] >= 0) & dead[places[path]]
            if gone.any():
                found[path] = np.where(gone, 0, values[path]).astype(values[path].dtype)
        return found

    def sizes(self, shapes: Mapping[str, tuple[int, ...]]) -> np.ndarray:
        """Elements in each group. `(groups,)`.

        Args:
            shapes: Path -> shape of each of the variables in `labels`.
        """
        return self.sums({path: np.ones(shapes[path]) for path in self.labels})

    def cut(self, pairs: Mapping[str, str], shapes, take) -> Partition:
        """The partition of smaller variables; groups of which nothing is left go.

        Args:
            pairs: Path of a new variable -> path of the old one.
            shapes: Old path -> its shape.
            take: `(old path, array of that shape) -> what stays of it`.
        """

        def smaller(held):
            found = {}
            for new, old in pairs.items():
                if old in held:
                    whole = take(old, np.broadcast_to(held[old], shapes[old]).copy())
                    first = tuple(
                        slice(None) if size > 1 else slice(0, 1)
                        for size in held[old].shape
                    )
                    found[new] = whole[first]
            return found

        labels, followers = smaller(self.labels), smaller(self.followers)
        left = np.unique(
            np.concatenate([np.zeros(0, int), *map(np.ravel, labels.values())])
        )
        left = left[left >= 0]
        places = np.full(self.groups + 1, -1, "int32")  # the last one is for label -1
        places[left] = np.arange(len(left))
        return Partition(
            {path: places[own] for path, own in labels.items()},
            tuple(self.names[k] for k in left) if self.names else (),
            None if self.multipliers is None else np.asarray(self.multipliers)[left],
            {path: places[own] for path, own in followers.items()},
        )

    def to_json(self) -> dict:
        """The partition as JSON, its labels as compressed text."""
        return {
            "labels": {path: _to_text(own) for path, own in self.labels.items()},
            "followers": {path: _to_text(own) for path, own in self.followers.items()},
            "names": list(self.names),
            "multipliers": None
            if self.multipliers is None
            else np.asarray(self.multipliers, float).tolist(),
        }

    @classmethod
    def from_json(cls, stored: Mapping) -> Partition:
        """What `to_json` wrote."""
        return cls(
            {path: _from_text(own) for path, own in stored["labels"].items()},
            tuple(stored["names"]),
            None if stored["multipliers"] is None else np.array(stored["multipliers"]),
            {path: _from_text(own) for path, own in stored["followers"].items()},
        )


def _to_text(labels: np.ndarray) -> dict:
    packed = zlib.compress(np.ascontiguousarray(labels, "<i4").tobytes(), 9)
    return {
        "shape": list(labels.shape),
        "labels": base64.b64encode(packed).decode("ascii"),
    }


def _from_text(stored: Mapping) -> np.ndarray:
    packed = zlib.decompress(base64.b64decode(stored["labels"]))
    return np.frombuffer(packed, "<i4").reshape(stored["shape"]).astype("int32")
