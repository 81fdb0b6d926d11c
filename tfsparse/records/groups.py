"""Groups of units: what goes together, and where it stands."""

from __future__ import annotations

import dataclasses

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
        begins: For a branch group, what each input's own operations read: the name of the
            branch group that writes it, or of another operation; empty where that is not
            one tensor.
        ends: For a branch group, the name of the operation that writes each input.
        shown: For a branch group, whether anything but branches reads what it adds up.
    """

    name: str
    kind: str
    size: int
    frozen: str | None
    members: tuple[Member, ...]
    sites: tuple[Site, ...] = ()
    gates: tuple[Gate, ...] = ()
    begins: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    shown: bool = True

    @property
    def paths(self) -> frozenset[str]:
        """The paths of all variables that the group touches."""
        return frozenset(member.path for member in self.members)
