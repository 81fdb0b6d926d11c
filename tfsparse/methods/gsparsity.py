"""GSparsity: whole groups of weights go to zero under a proximal optimizer."""

from __future__ import annotations

import logging

import numpy as np

from tfsparse import options, records
from tfsparse.methods import base, partitions

_LOG = logging.getLogger("tfsparse")

PARTITIONS = ("unit", "operation", *partitions.SHAPES)

FACTORS = {"*_scale/factor": (0.0, 1.0)}
"""Where the factors of branches without weights are kept."""


@options.record
class GSparsity(base.Method):
    """Trains with ProxSGD until units are zero; what is zero goes.

    Minimises L + strength * sum_k ||w_k||, each group k a coupled unit (or what
    `partition` says). No layer is inserted; the optimizer does it all.

    Raises:
        ValueError: An argument outside its range.

    Example:
        >>> small = tfsparse.fit_shrinking(model, GSparsity(4e-3), x, y, epochs=10).model

    Reference: GSparsity, Algorithm 1 and sections 4.1 and 4.2.
    """

    name = "gsparsity"
    stages = base.SEARCH
    regrows = warm = True

    strength: float = options.field(
        4e-3,
        "Weight of the penalty on the groups (mu); larger is sparser. A group shrinks by "
        "eps * mu / tau a step, so steps * eps * mu / tau must exceed its first norm "
        "(about 1) or none dies.",
        low=0,
    )
    eps: float = options.field(
        0.5, "Step size of the proximal optimizer.", above=0, high=1
    )
    rho: float = options.field(
        0.1, "Weight of the new gradient in the running average.", above=0, high=1
    )
    tau: str = options.field(
        "constant",
        "Curvature that a step divides by: 1, or the RMS of the gradients by group or by "
        "element.",
        choices=records.TAUS,
    )
    scaling: str = options.field(
        "auto",
        "Whether a group's penalty is mu as it is, or times or divided by the square root "
        "of the group's size; auto is none, but of operations times the square root of the "
        "size over the mean size: else those without weights, of one factor each, die first.",
        choices=("auto", *records.SCALINGS),
    )
    partition: str = options.field(
        "unit",
        "What dies together: all that writes and carries a unit; an operation, that is all "
        "that only one input of an Add needs; or a shape of single kernels.",
        choices=PARTITIONS,
    )
    shared: str = options.patterns(
        "",
        "With the partition operation: how the names of cells begin that share their "
        "operations, a number after each; an operation is then one group over all of them.",
        example="normal,reduction",
    )
    carriers: bool = options.field(
        True,
        "Whether biases and BatchNorm scales belong to a unit's group; if not, they are "
        "zeroed with it.",
    )
    proximal: bool = options.field(
        True,
        "Whether the penalty acts by its proximal map, which reaches zero; if not, by its "
        "subgradient, which does not: only a target then removes anything, by rank.",
    )
    threshold: float = options.field(1e-6, "Norm up to which a group is dead.", low=0)
    ignore: str = options.patterns(
        "",
        "Patterns of groups without a penalty: of units by the groups' names, else by the "
        "variables' paths.",
        example="stem*,head*",
    )
    multipliers: str = options.pairs(
        "",
        "Factors on the penalty of groups, by patterns of their names.",
        example="stage2*=2,stage3*=2",
        low=0,
    )

    def check(self) -> None:
        """Checks that what is shared are operations."""
        if self.shared and self.partition != "operation":
            raise ValueError(
                "`shared` must be empty unless operations die. Received: "
                f"shared={self.shared!r}, partition={self.partition}."
            )

    @property
    def kinds(self):
        """Units, and branches where whole operations die."""
        return ("unit", "branch") if self.partition == "operation" else ("unit",)

    @property
    def learning_rate(self):
        """The step size."""
        return self.eps

    @property
    def holds_zeros(self):
        """Zeros inside kernels stay, where groups are shapes of single kernels."""
        return self.partition in partitions.SHAPES

    @property
    def thresholds(self):
        """Norms at which the report tells what discretisation costs."""
        return tuple(sorted({1e-6, 1e-3, 0.5, self.threshold}))

    def prepare(self, model, groups):
        """A copy of the model, with a `Scale` on every branch that has no weights."""

        from tfsparse import layers
        from tfsparse.graph import rebuild

        bare, trained = {}, {v.path for v in model.trainable_variables}
        for group in groups:
            if group.kind == "branch" and not group.frozen:
                owned = {
                    unit
                    for member in group.members
                    if member.path in trained
                    for unit in member.units.tolist()
                }
                for number, gate in enumerate(group.gates):
                    if number not in owned:
                        bare[gate.layer, gate.call, gate.input] = gate

        if not bare:  # the same paths of variables, of a Sequential too
            return rebuild.copied(model)

        def before(name, index, number, tensor):
            gate = bare.get((name, index, number))
            if gate is None:
                return tensor
            return layers.Scale(name=partitions.scale_name(gate))(tensor)

        return rebuild.graft(model, before=before)

    def optimizer(self, model, groups):
        """ProxSGD over the groups of the penalty.

        Raises:
            ValueError: Nothing can be penalised.
        """
        from tfsparse import optimizers

        ignore = options.listed(self.ignore)
        if self.partition == "unit":
            if apart := partitions.overlapped(model, groups):
                _LOG.warning(
                    "No penalty on %s: their weights are penalised with other units. A "
                    "target may still take them, by rank.",
                    ", ".join(apart),
                )
            found = partitions.units(model, groups, self.carriers, [*ignore, *apart])
        elif self.partition == "operation":
            found = partitions.operations(model, groups, ignore)
            if self.shared:
                found = partitions.shared(found, options.listed(self.shared))
        else:
            found = partitions.by_shape(model, self.partition, ignore)
        factors = options.numbers(self.multipliers, "multipliers", "stage2*=2")
        if factors:
            found = partitions.weighted(found, factors)
        scaling = self.scaling
        if scaling == "auto":
            scaling = "none"
            if self.partition == "operation":
                found = partitions.by_size(found, model)
        return optimizers.ProxSGD(
            found,
            self.strength,
            self.eps,
            self.rho,
            self.tau,
            scaling=scaling,
            bounds=FACTORS,
            proximal=self.proximal,
        )

    def set_strength(self, model, value: float) -> None:
        optimizer_of(model).mu.assign(value)

    def groups(self, model) -> int:
        return optimizer_of(model).partition.groups

    def settle(self, model, threshold: float | None = None) -> np.ndarray:
        threshold = self.threshold if threshold is None else threshold
        return optimizer_of(model).finalize(threshold)

    def importance(self, model, groups) -> dict[str, np.ndarray] | None:
        """Norms of units' groups: where a penalty holds its balance, dL/d||w|| = -strength,
        and a unit's removal costs about ||w|| * strength.
        """
        if self.partition != "unit":
            return None
        trained = {v.path: base.array_of(v) for v in model.trainable_variables}
        found = {}
        for group in groups:
            if group.kind == "unit" and not group.frozen:
                squares = np.zeros(group.size)
                for member in group.members:
                    if member.role != records.CONSUMER and member.path in trained:
                        own = member.slices(trained[member.path]).astype("float64")
                        np.add.at(squares, member.units, np.square(own).sum(axis=1))
                found[group.name] = np.sqrt(squares)
        return found

    def keep(self, model, groups, tools=None) -> dict[str, np.ndarray]:
        """Units and branches that something still writes once dead groups are zero."""
        optimizer = optimizer_of(model)
        dead = optimizer.dead(self.threshold)
        values = base.values_of(model)
        values |= optimizer.partition.emptied(optimizer.values(), dead)
        live = partitions.live_branches(optimizer.partition, groups, dead)
        return live | base.alive_units(groups, values)


def optimizer_of(model):
    """The ProxSGD of a compiled model, behind loss scaling too."""
    optimizer = model.optimizer
    return getattr(optimizer, "inner_optimizer", optimizer)
