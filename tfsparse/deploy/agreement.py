"""How much worse a file answers than the network that it was made of, and how sure that is."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping

import numpy as np

from tfsparse import records
from tfsparse.deploy.verify import MODEL, compare

LOUD = 15.0
"""Decibels of outputs below which a file is wrong, whatever it scores: an error of a sixth."""

PART = 1000
"""Samples in memory at a time."""


@dataclasses.dataclass(frozen=True)
class Change:
    """How much better or worse a file does than the network.

    Attributes:
        gain: By so much better; below zero, worse.
        half: Half of an interval that holds the true change in 95 of 100 cases.
        unit: `points` of a share, or `percent` of the spread of what is predicted.
        what: Changes: the `accuracy`, the `agreement` with the network, or the `error`.
    """

    gain: float
    half: float
    unit: str
    what: str = "accuracy"

    @classmethod
    def of(
        cls,
        before: np.ndarray,
        after: np.ndarray,
        shares: bool = True,
        what: str = "accuracy",
    ) -> Change:
        """The change of a mean, sample by sample: 1.96 sd(d) / sqrt(n) is half.

        Args:
            before, after: How well each does each sample, `(n,)`, more is better: right or
                wrong, a share, or an error below zero in units of the spread.
            shares: Whether they are no errors.
            what: See the attribute.

        Example:
            >>> Change.of(np.ones(100), np.array([0.0] + [1.0] * 99)).told()
            'accuracy -1.00 +- 1.96 points'
        """
        gained = 100 * (after.astype(np.float64) - before)
        half = 100.0
        if len(gained) > 1:
            half = float(1.96 * gained.std(ddof=1) / np.sqrt(len(gained)))
        unit = "points" if shares else "percent"
        return cls(float(gained.mean()), half, unit, what if shares else "error")

    def beyond(self, tolerance: float) -> bool:
        """Whether more is lost than is allowed, beyond chance."""
        return -self.gain - self.half > tolerance

    def told(self) -> str:
        """In a few words."""
        if self.what == "error":
            return f"error {-self.gain:+.2f} +- {self.half:.2f} percent of the spread"
        return f"{self.what} {self.gain:+.2f} +- {self.half:.2f} {self.unit}"


def check(
    changes: Mapping[str, Change],
    decibels: Mapping[str, float | None],
    tolerance: float,
) -> None:
    """Checks that no file does much worse than its network.

    Args:
        changes: Of the score, by file.
        decibels: Signal to noise of the outputs, by file; None where nothing differs. A file
            may name the right class by outputs that are all wrong: ranges that are too small
            do not harm the winner.
        tolerance: What may be lost, in the units of the changes; 100 allows anything.

    Raises:
        ParityError: One does.
    """
    for name, quiet in decibels.items():
        if quiet is not None and quiet < LOUD and tolerance < 100:
            raise records.ParityError(
                f"`{name}` must answer as the network does. Received: outputs whose error is "
                f"{10 ** (-quiet / 20):.0%} of them ({quiet:.1f} dB). Everything is written; "
                "ranges that calibration set too small do that, and layers that these "
                "numbers do not suit. --tolerance=100 accepts it."
            )
    for name, change in changes.items():
        if name != "keras" and change.beyond(tolerance):
            raise records.ParityError(
                f"`{name}` must lose at most {tolerance:g} {change.unit} against the "
                f"network (--tolerance). Received: {-change.gain:.2f} +- "
                f"{change.half:.2f}. Everything is written."
            )


def balanced(
    count: int, labels: np.ndarray | None, wanted: int, seed: int
) -> np.ndarray:
    """Numbers of samples that set int8 ranges, as many of each class so far as there are.

    Args:
        count: Samples in all.
        labels: The class of each, `(count,)`; None for no classes.
        wanted: How many.
        seed: Draws them.

    Returns:
        Whole numbers, sorted.

    Example:
        >>> balanced(6, np.array([0, 0, 0, 0, 0, 1]), 2, seed=0)  # one of each
        array([2, 5])
    """
    order = np.random.default_rng((seed, 2)).permutation(count)
    if labels is not None:
        # The first of each class, then the second of each, and so on.
        drawn = np.asarray(labels).reshape(-1)[order]
        places = np.zeros(count, np.int64)
        for label in np.unique(drawn):
            own = drawn == label
            places[own] = np.arange(own.sum())
        order = order[np.argsort(places, kind="stable")]
    return np.sort(order[:wanted])


def judged(
    model, artifacts, arrays: list[np.ndarray], labels: np.ndarray | None = None
) -> tuple[tuple[records.Parity, ...], dict[str, Change]]:
    """Every file against its network on samples, which may have labels.

    Args:
        model: The network, as it ships.
        artifacts: Files of it.
        arrays: One an input.
        labels: The class of each sample; without them, the network's own answer counts as
            right, and of numbers the error is taken in units of their spread.

    Returns:
        Rows of parity, and name -> change.
    """
    parts: dict[str, list[list[np.ndarray]]] = collections.defaultdict(list)
    starts = range(0, len(arrays[0]), PART)
    samples = ([a[i : i + PART] for a in arrays] for i in starts)
    rows = compare(
        model, artifacts, samples, lambda name, outputs, _: parts[name].append(outputs)
    )
    found = {
        name: [np.concatenate(each) for each in zip(*outputs, strict=True)]
        for name, outputs in parts.items()
    }
    whole = {row.artifact for row in rows if row.samples == len(arrays[0])}
    expected = found.pop(MODEL)
    found = {name: outputs for name, outputs in found.items() if name in whole}
    changes = {}
    for name, outputs in found.items():
        gains = [
            _change(one, other, labels if len(expected) == 1 else None)
            for one, other in zip(expected, outputs, strict=True)
        ]
        changes[name] = min(gains, key=lambda change: change.gain)
    return rows, changes


def _change(expected, found, labels) -> Change:
    """The change of one output."""
    if labels is not None and expected.ndim == 2:
        # Whether these are logits or probabilities, the network itself tells.
        threshold = 0.0 if expected.min() < 0 or expected.max() > 1 else 0.5
        right = (_answers(one, threshold) == labels for one in (expected, found))
        return Change.of(*right)
    if expected.ndim > 1 and expected.shape[-1] > 1:
        same = expected.argmax(-1) == found.argmax(-1)
        same = same.reshape(len(same), -1).mean(1)
        return Change.of(np.ones(len(same)), same, what="agreement")
    spread = float(expected.std()) or 1.0
    found = np.nan_to_num(found, nan=1e30, posinf=1e30, neginf=-1e30)
    error = np.abs(expected - found).reshape(len(expected), -1).mean(1) / spread
    return Change.of(np.ones(len(error)), 1.0 - error, shares=False)


def _answers(outputs: np.ndarray, threshold: float) -> np.ndarray:
    """The class that outputs name; of a single one, whether it is above a threshold."""
    if outputs.shape[-1] > 1:
        return outputs.argmax(-1)
    return (outputs[:, 0] > threshold).astype(int)
