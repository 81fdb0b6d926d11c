"""Frozen records that cross rooms: what one room may know of another's work."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

PRODUCER = "producer"
CARRIER = "carrier"
CONSUMER = "consumer"


@dataclasses.dataclass(frozen=True, eq=False)  # arrays inside: equal is identical
class Member:
    """One axis of one variable, and which of its indices belong to which unit.

    Attributes:
        path: The variable's path, such as `conv/kernel`.
        axis: The axis of that variable that counts units; or two axes (outer, inner)
            read as one, position = outer * inner size + inner, where units sit at
            other inner places for each outer one (grouped convolutions, the key
            width of attention heads).
        role: `producer` (writes the unit), `carrier` (per-channel weights on the
            way) or `consumer` (reads the unit).
        indices: Positions on that axis. `(n,)` integers.
        units: The unit that owns each of these positions. `(n,)` integers.
    """

    path: str
    axis: int | tuple[int, int]
    role: str
    indices: np.ndarray
    units: np.ndarray


@dataclasses.dataclass(frozen=True)
class Site:
    """A layer call whose output holds units at the end of an affine chain.

    A factor applied there scales everything that the unit sends on.

    Attributes:
        layer: Name of the layer whose output is meant.
        call: Which call of that layer, counted from 0 (shared layers have several).
        channels: Length of the output's last axis.
        units: For each channel the unit that it carries, -1 for another group's;
            None where channel i is unit i.
    """

    layer: str
    call: int
    channels: int
    units: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Gate:
    """Where units end without weights: a normaliser, a contraction, a sum, an Add.

    A mask cannot zero what reads them, so it multiplies them by zero here.

    Attributes:
        layer: Name of the operation that reads them.
        call: Which call of it, counted from 0.
        input: Which of the call's inputs.
        axis: Axis of that input; None for a branch, which is the whole input.
        units: For each index on that axis the unit, -1 for another group's.
    """

    layer: str
    call: int
    input: int
    axis: int | None
    units: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class UnitGroup:
    """Units that share one signature: the same members in the same roles.

    Attributes:
        name: The first producer's layer name (`:key` and the like for units inside a
            layer, `:part2` where one layer writes several groups);
            `<layer>:features` for a feature group, `<layer>:branches` for the inputs
            of an Add or Average.
        kind: `unit`, `branch` or `feature`.
        size: Number of units.
        frozen: None, or the sentence that says why the group cannot be pruned.
        members: The weights that go with each unit.
        sites: Where a switch can stand. For a feature group, the call whose output
            the features are.
        gates: Where units end without weights.
    """

    name: str
    kind: str
    size: int
    frozen: str | None
    members: tuple[Member, ...]
    sites: tuple[Site, ...] = ()
    gates: tuple[Gate, ...] = ()

    @property
    def paths(self) -> frozenset[str]:
        """The paths of all variables that the group touches."""
        return frozenset(member.path for member in self.members)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a model costs on a device, counted without running it.

    Attributes:
        params: Elements of every variable of the deployed graph (BatchNorm's four
            included; switches and seed states are not part of it).
        nonzero: The same, zeros left out.
        macs: Multiply-accumulates of one sample.
        weight_bytes: As int8 TFLite stores them: a byte a weight, 4 bytes a bias,
            BatchNorm folded into the layer before it where there is one.
        index_bytes: What feature gathers add (4 bytes an index).
        peak_activation_bytes: Largest sum of live int8 activations, executed in
            the model's order.
        working_memory_1: max over layers of input + weights (SpArSe, eq. 5), bytes.
        working_memory_2: max over layers of input + output (SpArSe, eq. 6), bytes.
    """

    params: int
    nonzero: int
    macs: int
    weight_bytes: int
    index_bytes: int
    peak_activation_bytes: int
    working_memory_1: int
    working_memory_2: int


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
    """One exported file or folder. `format` is one of `deploy.export.FORMATS`."""

    format: str
    path: str
    file_bytes: int


@dataclasses.dataclass(frozen=True)
class Parity:
    """How an exported artefact compares with the Keras model it came from.

    Attributes:
        artifact: `keras`, `saved_model`, `tflite_float`, `tflite_int8`, or `mcu`
            (the int8 file on TensorFlow Lite Micro, compared with LiteRT).
        samples: Number of inputs compared.
        max_abs_difference: Of the (dequantised) outputs.
        argmax_agreement: Share of samples with the same winning class.
        operators: Operator names in the file; empty for other formats.
        arena_bytes: Memory that the interpreter used, `mcu` only.
        note: A sentence, where something needs saying.
    """

    artifact: str
    samples: int
    max_abs_difference: float
    argmax_agreement: float
    operators: tuple[str, ...] = ()
    arena_bytes: int | None = None
    note: str | None = None


@dataclasses.dataclass(frozen=True)
class Removal:
    """One garbage collection: what left the running model, and when."""

    epoch: int
    removed: Mapping[str, int]
    params: int
    macs: int
    seconds: float


class StripError(RuntimeError):
    """A stripped model differs from the masked one by more than float rounding."""


class TrainingError(ValueError):
    """Training reached a state from which no useful model can come."""
