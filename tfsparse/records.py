"""Frozen records that cross rooms: what one room may know of another's work."""

from __future__ import annotations

import base64
import dataclasses
import zlib
from collections.abc import Callable, Mapping

import numpy as np

PRODUCER = "producer"
CARRIER = "carrier"
CONSUMER = "consumer"

CURVATURES = ("recursive", "averaged", "gauss_newton", "hutchinson")
"""How a diagonal Hessian may be estimated, see `tfsparse.curvature`."""


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

    def slices(self, value: np.ndarray) -> np.ndarray:
        """What of the variable's value lies at these positions, flat. `(n, elements)`."""
        axes = self.axis if isinstance(self.axis, tuple) else (self.axis,)
        front = np.moveaxis(value, axes, range(len(axes)))
        rows = front.reshape(-1, *front.shape[len(axes) :])[self.indices]
        return rows.reshape(len(rows), -1)


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


@dataclasses.dataclass(frozen=True)
class Tools:
    """What a conductor hands a method, so that it need not know data or graphs.

    Attributes:
        curvature: `(model, form) -> tfsparse.curvature.Curvature`, the diagonal Hessian of
            the mean loss on a part of the training data, in float precision.
        check_curvature: `(model, form)`, raises a ValueError where that would; before
            anything is trained.
    """

    curvature: Callable
    check_curvature: Callable = lambda model, form: None  # noqa: E731


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
