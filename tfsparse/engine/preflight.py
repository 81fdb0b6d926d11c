"""Before the hours: the untrained network goes the whole way to the chip, in seconds."""

from __future__ import annotations

import dataclasses
import time

import numpy as np

from tfsparse import records
from tfsparse.deploy import collect, finished, recalibrate
from tfsparse.engine import shrinking
from tfsparse.engine.prunable import prunable
from tfsparse.graph import measure, memory

TIMED = 2
"""Steps of which the fastest is taken for all."""

TRACED = 0.1
"""What a traced step needs of the time that one step by step spends around operators."""

SAMPLES = 32
"""Training samples that stand for the data."""


@dataclasses.dataclass(frozen=True)
class Preflight:
    """What was found on the way.

    Attributes:
        units, groups: Units that the method may remove, and in how many groups.
        params: Of the network.
        half: Parameters with half of those units; 0 where operations go instead.
        sizes: `file_bytes` and `arena_bytes` of that half as an int8 file, so far as they
            were asked for.
        step_bytes: About what a training step holds at most.
        epoch_seconds: About what an epoch takes at most; None where it was not measured.
    """

    units: int
    groups: int
    params: int
    half: int
    sizes: dict[str, float]
    step_bytes: int
    epoch_seconds: float | None

    def told(self) -> str:
        """One line about it."""
        line = f"Preflight: {self.params:,} parameters"
        if self.half:
            line += (
                f", {self.units:,} units in {self.groups} groups may go; with half of them "
                f"{self.half:,}"
            )
        else:
            line += (
                f", {self.units:,} operations of {self.groups} sums may go; with all"
            )
        if "file_bytes" in self.sizes:
            line += f", an int8 file of {self.sizes['file_bytes']:,} B"
        if "arena_bytes" in self.sizes:
            line += f" that runs in {self.sizes['arena_bytes']:,} B of memory"
        line += f"; training takes up to {self.step_bytes / 1e6:,.0f} MB of memory"
        if self.epoch_seconds is not None:
            line += f"; an epoch takes {_time(self.epoch_seconds)}"
        return f"{line}."


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"about {max(1, round(seconds))} s"
    return f"about {round(seconds / 60)} minutes"


def fly(
    context, method, model, formats: tuple[str, ...], whole: int | None = None
) -> Preflight:
    """Takes one step under the method, halves the network, converts and runs it.

    Args:
        context: The run.
        method: What decides, or None.
        model: The untouched network; it is not changed.
        formats: What will be exported.
        whole: The machine's memory in bytes; None where a GPU has its own.

    Returns:
        What was found.

    Raises:
        ValueError: The network cannot ship; says why, and what to do.
        StripError: It cannot be stripped.
    """
    x, y = context.training_samples(SAMPLES)
    kinds = method.kinds if method else ("unit",)
    if method is not None:
        sparse = shrinking.prepare(context, method, model)
        needed = _needed(context, sparse, whole)
        seconds = _steps(context, sparse)
    else:
        sparse, seconds, needed = model, None, _needed(context, model, whole)
    free = [g for g in prunable(sparse, kinds) if not g.frozen]
    halves = {g.name: _half(g.size) for g in free if g.kind == "unit"}
    small, _ = collect.finish(sparse, halves)
    recalibrate.recalibrate(small, x)  # an untrained network fades to nothing otherwise
    sizes: dict[str, float] = {}
    if set(records.WHOLE) & set(formats):
        sizes = finished.flight(small, x)
    return Preflight(
        sum(g.size for g in free),
        len(free),
        measure(model).params,
        measure(small).params if halves or not free else 0,
        sizes,
        needed,
        seconds,
    )


def _needed(context, model, whole: int | None) -> int:
    """About what a training step holds at most, in bytes.

    Raises:
        ValueError: It is more than there is.
    """
    batch = context.training.batch_of(context.samples)
    needed = memory.of_training(model, batch)
    if whole is not None and needed > whole:
        raise ValueError(
            f"A training step must fit into memory. Received: about {needed / 1e9:,.1f} GB "
            f"for batches of {batch}, of {whole / 1e9:,.1f} GB. Lower --batch_size or --width."
        )
    return needed


def _half(units: int) -> np.ndarray:
    """The first half stays."""
    return np.arange(units) < max(1, units // 2)


def _fastest(model, batch) -> float:
    """Seconds of a step."""
    times = []
    for _ in range(TIMED):
        started = time.perf_counter()
        model.train_on_batch(*batch)
        times.append(time.perf_counter() - started)
    return min(times)


def _steps(context, model) -> float | None:
    """Takes a few steps, and tells about what an epoch takes.

    Steps that are not traced spend most of their time around the operators: as much as a
    step of a single sample takes, of which a traced step needs a part.

    Raises:
        ValueError: The loss is not finite on the first batch.
    """
    for batch in context.first_batch():
        model.run_eagerly = True  # no tracing, which costs more than the steps
        first = model.train_on_batch(*batch, return_dict=True)
        if not np.isfinite(float(first["loss"])):
            raise ValueError(
                "`model` must give a finite loss on the first batch. Received: "
                f"loss={float(first['loss'])}. Scale the data, or lower the learning rate."
            )
        single = tuple(part[:1] for part in batch)
        around, whole = _fastest(model, single), _fastest(model, batch)
        return (max(0.0, whole - around) + TRACED * around) * context.steps
    return None
