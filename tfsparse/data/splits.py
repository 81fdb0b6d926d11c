"""Splits of samples: the same every time, every class alike, no group in two."""

from __future__ import annotations

import numpy as np

SPLIT_SEED = 20180601
"""Of the train/validation split: the same for every run, so that runs compare."""

TEST_SHARE = 1 / 6
"""Of all samples, where nobody made a test split."""


def held_out(
    name: str,
    share: float,
    samples: int,
    labels: np.ndarray | None,
    groups: np.ndarray | None,
    what: str,
) -> np.ndarray:
    """Which samples leave train.

    Args:
        name: Of the data, for errors.
        share: How much of each class leaves, in (0, 1).
        samples: How many there are.
        labels: `(samples,)` classes, each split alike; None where there are none.
        groups: `(samples,)`; samples of a group go together. None for single samples.
        what: `validation` or `test`, for errors.

    Returns:
        `(samples,)` bool; at least one sample, or group, of each class leaves and one stays.

    Raises:
        ValueError: A class has a single sample, or group: it cannot be in both.
    """
    labels = np.zeros(samples, np.int64) if labels is None else labels
    if groups is None:
        chosen = np.zeros(samples, bool)
        for label in np.unique(labels):
            own = np.flatnonzero(labels == label)
            _check_two(name, len(own), label, labels, "sample", what)
            leaving = min(len(own) - 1, max(1, round(share * len(own))))
            chosen[own[_order(label, len(own))[:leaving]]] = True
        return chosen
    return _held_out_groups(name, share, labels, groups, what)


def _order(label: int, count: int) -> np.ndarray:
    return np.random.default_rng((SPLIT_SEED, int(label))).permutation(count)


def _held_out_groups(name, share, labels, groups, what) -> np.ndarray:
    """Groups leave one by one, those first that the class with most to give has."""
    names, of_sample = np.unique(groups, return_inverse=True)
    classes = np.unique(labels)
    counts = np.zeros((len(names), len(classes)), int)  # (groups, classes)
    np.add.at(counts, (of_sample, np.searchsorted(classes, labels)), 1)
    for number, label in enumerate(classes):
        held_by = np.count_nonzero(counts[:, number])
        _check_two(name, held_by, label, labels, "recording or group", what)
    wanted = share * counts.sum(0)
    gone = np.zeros(len(names), bool)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(names))
    for number in np.argsort((counts > 0).sum(0), kind="stable"):  # the rarest first
        for group in order:
            left = counts[gone, number].sum()
            if left and left + counts[group, number] / 2 > wanted[number]:
                break
            if gone[group] or not counts[group, number]:
                continue
            stays = counts[~gone].sum(0) - counts[group]
            if (stays[counts[group] > 0] > 0).all():
                gone[group] = True
    if not gone.any():
        raise ValueError(
            f"`data` must hold groups of which some can be {what}. Received: {name!r} with "
            f"{len(names)} groups, none of which can leave train."
        )
    return gone[of_sample]


def _check_two(name, count, label, labels, kind, what) -> None:
    if count < 2:
        several = len(np.unique(labels)) > 1
        whose = f"of class {label}" if several else "in all"
        raise ValueError(
            f"`data` must hold 2 or more {kind}s {whose}, so that train and {what} have "
            f"one each. Received: {name!r} with {count}."
        )
