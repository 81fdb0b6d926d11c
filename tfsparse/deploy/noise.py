"""What quantisation does to each tensor of a network: float against int8, sample by sample."""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile

import numpy as np

from tfsparse.children import process
from tfsparse.deploy import front, interpreters, layer_names
from tfsparse.deploy.export import convert

WORST = 3
"""So many tensors are named, with what to do about them."""

QUIET = 30.0
"""Decibels from which a tensor needs no remedy: an error of 3 % of it."""

CLIPPED = 1e-3
"""Share of values beyond the range from which calibration has seen too little."""

PEAK = 12.0
"""Largest value over the root mean square from which single values set the range."""


@dataclasses.dataclass(frozen=True)
class Noise:
    """How much of a tensor int8 keeps.

    Attributes:
        layer: That it belongs to.
        what: `weights` or `activations`.
        shape: Of one sample.
        decibels: Signal to noise, 10 log10(sum x^2 / sum (x - q)^2), q what int8 made of x:
            20 is an error of 10 %, 40 of 1 %. None where both are equal.
        low, high: The numbers that it can hold.
        clipped: Share of its values beyond them.
        peak: The largest value over the root mean square.
    """

    layer: str
    what: str
    shape: tuple[int, ...]
    decibels: float | None
    low: float
    high: float
    clipped: float
    peak: float

    def remedy(self) -> str:
        """What to do about it, in a sentence."""
        if self.decibels is None or self.decibels >= QUIET:
            return "nothing: it is quiet enough"
        if self.clipped >= CLIPPED:
            return (
                f"{self.clipped:.2%} of its values are beyond what calibration saw: "
                "calibrate on more samples (--calibration_samples)"
            )
        if self.peak >= PEAK:
            where = "weights" if self.what == "weights" else "values"
            return (
                f"its largest {where} are {self.peak:.0f} times the usual ones and stretch "
                "the range: train with --quantise=qat, or bound them (relu6, weight decay)"
            )
        if self.what == "weights":
            return "its channels differ in size: train with --quantise=qat"
        return (
            "noise of the layers before it adds up here: train with --quantise=qat, or "
            "--quantise=int16x8 for finer activations"
        )


def noise(
    model,
    calibration: list[np.ndarray],
    samples: list[np.ndarray],
    kind: str = "int8",
) -> tuple[Noise, ...]:
    """Signal and noise of every tensor of a network's int8 file, in the file's order.

    Args:
        model: A model as it ships, see `shipping.shipped`.
        calibration: Inputs that set the ranges, one array an input.
        samples: Other inputs, on which float and int8 are compared.
        kind: One of `records.ON_MICRO`.

    Raises:
        ValueError: The model cannot be converted.

    Example:
        >>> for one in noise(small, calibration, samples): print(one.layer, one.decibels)
    """
    smaller, around = front.cut(model)
    given = [around.inputs(part) for part in samples]
    with tempfile.TemporaryDirectory() as folder:
        paths = {
            name: os.path.join(folder, name) for name in ("float", "int8", "x.npz")
        }
        contents = {
            "float": convert(smaller),
            "int8": convert(model, calibration, kind),
        }
        for name, content in contents.items():
            with open(paths[name], "wb") as file:
                file.write(content)
        process.write_arrays(paths["x.npz"], given)
        found = interpreters.compared(paths["float"], paths["int8"], paths["x.npz"])
    known = layer_names.known(model)
    return tuple(_noise(entry, known) for entry in found)


def _noise(entry: dict, known: dict[str, str]) -> Noise:
    signal, error = entry["signal"], entry["error"]
    decibels = None
    if error > 0:
        decibels = 10 * math.log10(signal / error) if signal > 0 else -99.0
    usual = math.sqrt(signal / max(1, entry["count"]))
    return Noise(
        layer_names.layer_of(entry["name"], known, entry["constant"]),
        "weights" if entry["constant"] else "activations",
        tuple(entry["shape"]),
        decibels,
        entry["low"],
        entry["high"],
        entry["clipped"] / max(1, entry["count"]),
        entry["largest"] / usual if usual else 0.0,
    )


def worst(found: tuple[Noise, ...]) -> list[Noise]:
    """The tensors that int8 harms most, the worst first."""
    noisy = [
        (one.decibels, n) for n, one in enumerate(found) if one.decibels is not None
    ]
    return [found[number] for _, number in sorted(noisy)[:WORST]]
