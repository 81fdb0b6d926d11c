"""Windows of recordings: cut by length and stride, never across recordings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfsparse.data.found import Part


@dataclasses.dataclass(frozen=True, eq=False)
class Recording:
    """One recording: what was measured, one row a step.

    Attributes:
        name: Recordings of one name stay in one split.
        x: `(steps, channels)`.
        y: `(steps,)` labels, one a step, `(steps, labels)`, or None.
    """

    name: str
    x: np.ndarray
    y: Any


def cut(
    name: str, recordings: Sequence[Recording], window: int, stride: int
) -> tuple[Part, list[str]]:
    """Windows of all recordings, in order.

    A window has the label that all its steps have; of numbers, their mean. Windows over a
    change of class are left out.

    Args:
        name: Of the data, for errors.
        recordings: One or more.
        window: Steps of a window; 0 makes each recording one sample, all of one length.
        stride: Steps from one window to the next; 0 for windows side by side.

    Returns:
        Samples `(windows, window, channels)`, their labels and recordings; sentences of
        what was left out.

    Raises:
        ValueError: Lengths differ and no window is set, or no recording holds one.
    """
    lengths = [len(recording.x) for recording in recordings]
    if not window and len(set(lengths)) > 1:
        raise ValueError(
            f"`window` must be set where recordings differ in length. Received: window=0, "
            f"{name!r} with {min(lengths)} to {max(lengths)} steps."
        )
    window = window or lengths[0]
    stride = stride or window
    short = sum(length < window for length in lengths)
    if short == len(lengths):
        raise ValueError(
            f"`window` must not be longer than every recording. Received: window={window}, "
            f"{name!r} with at most {max(lengths)} steps."
        )
    xs, ys, groups, mixed = [], [], [], 0
    for recording in recordings:
        for start in range(0, len(recording.x) - window + 1, stride):
            part = slice(start, start + window)
            label, known = _label(recording.y, part)
            if not known:
                mixed += 1
                continue
            xs.append(recording.x[part])
            ys.append(label)
            groups.append(recording.name)
    if not xs:
        raise ValueError(
            f"`window` must fit between changes of the label. Received: window={window}, "
            f"{name!r}, in which every window holds such a change."
        )
    notes = []
    if short:
        notes.append(f"{short} of {len(lengths)} recordings are shorter than --window")
    if mixed:
        notes.append(f"{mixed} windows over a change of the label were left out")
    y = None if ys[0] is None else np.array(ys)
    return Part(np.stack(xs), y, np.array(groups)), notes


def _label(y, part) -> tuple[Any, bool]:
    """A window's label, and whether it has one."""
    if y is None:
        return None, True
    own = y[part]
    if own.dtype.kind == "f":
        return own.mean(0), True
    return own[0], bool((own == own[0]).all())
