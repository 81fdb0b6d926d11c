"""What came of a piece of work: models, rows of the report, files, comparisons, removals."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypedDict

from tfsparse.records.cost import Cost


class Epoch(TypedDict, total=False):
    """What is noted of an epoch; Keras's own logs stand beside these.

    `live` (units of each group), `params`, `nonzero` and `macs` are those of the model at
    its end, `strength_on` tells whether the penalty was on; the rest `meters.metered`
    measures.
    """

    loss: float
    live: dict[str, int]
    params: int
    nonzero: int
    macs: int
    strength_on: bool
    seconds: float
    cpu_seconds: float
    peak_memory_bytes: int


@dataclasses.dataclass
class Result:
    """What a stage hands on, and what a checkpoint holds.

    Attributes:
        model: A Keras model, compiled where training goes on; None of a stage without one.
        history: One entry an epoch, those done so far.
        facts: More, as JSON.
    """

    model: Any = None
    history: list[Epoch] = dataclasses.field(default_factory=list)
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Wall time of all its epochs."""
        return sum(entry["seconds"] for entry in self.history)


@dataclasses.dataclass(frozen=True)
class Score:
    """How good a model is: a number, its name, and which way is better.

    Attributes:
        unit: % where the value is a share, to be shown as such; else of the value itself.
        others: More figures of the same outputs, by name.
    """

    name: str
    value: float
    higher_is_better: bool = True
    unit: str = ""
    others: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class StageRow:
    """A line of the report's table of stages.

    Attributes:
        name: Of the stage, or of the file that was run.
        what: What it is, in words.
        accuracy: Share of the test samples that it gets right, where each has one class.
        score: How good it is at its task.
        samples: Test samples.
        params, nonzero, macs, weight_bytes, index_bytes: See `Cost`.
        file, file_bytes: What ships, and its size; None before there is a file.
        arena_bytes: Memory on the microcontroller interpreter.
        seconds: Wall time of the training, or of the evaluation where none was.
    """

    name: str
    what: str
    accuracy: float | None
    score: Score
    samples: int
    params: int
    nonzero: int
    macs: int
    weight_bytes: int
    index_bytes: int
    seconds: float
    file: str | None = None
    file_bytes: int | None = None
    arena_bytes: int | None = None


@dataclasses.dataclass(frozen=True)
class GroupReport:
    """What became of a group: `kept` of `size` units, and why it stayed, if it did."""

    name: str
    kind: str
    size: int
    kept: int
    reason: str | None


@dataclasses.dataclass(frozen=True)
class PruneReport:
    """What `prune` did: costs before and after, and every group."""

    criterion: str
    before: Cost
    after: Cost
    groups: tuple[GroupReport, ...]


@dataclasses.dataclass(frozen=True)
class Artifact:
    """One exported file or folder.

    Attributes:
        format: One of `records.EVERY_FORMAT`, or `tflite_compressed`.
        path: Where it is.
        file_bytes: Its size.
        facts: How it came to that size, as JSON; of TFLite files alone.
    """

    format: str
    path: str
    file_bytes: int
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Parity:
    """How an exported artefact compares with the Keras model it came from.

    Attributes:
        artifact: A format of `records.EVERY_FORMAT`; `mcu` (the int8 file on TensorFlow
            Lite Micro, compared with LiteRT), or `tflite_compressed` (compared with that).
        samples: Number of inputs compared.
        max_abs_difference: Of the (dequantised) outputs.
        argmax_agreement: Share of samples with the same winning output; None of a single
            output, and of numbers, which have no winner.
        operators: Operator names in the file; empty for other formats.
        arena_bytes: Memory that TensorFlow Lite Micro used; None of another interpreter.
        note: A sentence, where something needs saying.
        output_steps: The largest difference in steps of an int8 output; None of floats.
        decibels: Signal to noise of the outputs, 10 log10(sum y^2 / sum (y - z)^2), of the
            noisiest output; None where they are equal.
        seconds: What running it took.
    """

    artifact: str
    samples: int
    max_abs_difference: float
    argmax_agreement: float | None
    operators: tuple[str, ...] = ()
    arena_bytes: int | None = None
    note: str | None = None
    output_steps: float | None = None
    decibels: float | None = None
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Removal:
    """One garbage collection: what left the running model, and when."""

    epoch: int
    removed: Mapping[str, int]
    params: int
    macs: int
    seconds: float
