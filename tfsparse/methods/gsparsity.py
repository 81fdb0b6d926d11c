"""GSparsity: whole groups of weights go to zero under a proximal optimizer."""

from __future__ import annotations

import keras
import numpy as np

from tfsparse import layers, records
from tfsparse.methods import base, partitions, placing
from tfsparse.optimizers import proxsgd

PARTITIONS = ("unit", "operation", *partitions.SHAPES)

FACTORS = {"*_scale/factor": (0.0, 1.0)}
"""Where the factors of branches without weights are kept."""


class GSparsity(base.Method):
    """Trains with ProxSGD until units are zero; what is zero goes.

    Minimises L + strength * sum_k ||w_k||, each group k a coupled unit (or what
    `partition` says). No layer is inserted; the optimizer does it all.

    Args:
        strength: mu; larger is sparser. A group shrinks by eps * mu / tau a step, so
            steps * eps * mu / tau must exceed its first norm (about 1) or none dies.
        eps: Step size in (0, 1].
        rho: Weight of the new gradient in the average, in (0, 1].
        tau: `constant`, `group` or `element`, see `ProxSGD`.
        scaling: mu_k = mu times a power of the group's size: `none`, `sqrt` or
            `inverse_sqrt`.
        partition: `unit` (all that writes and carries a unit), `operation` (all that
            only one input of an Add needs; where that is nothing, a factor in [0, 1]),
            or a shape of single kernels: `filter`, `kernel`, `weight`, `channel`, ...
            (`partitions.SHAPES`).
        carriers: Whether biases and BatchNorm scales belong to a unit's group; if not,
            they are zeroed with it.
        threshold: Norm up to which a group is dead.
        ignore: Patterns, separated by commas, of groups without a penalty: of units by
            the groups' names, else by the variables' paths. `stem*,head*`.
        multipliers: Patterns, as in `ignore`, with factors on their penalty:
            `stage2*=2,stage3*=2`.

    Raises:
        ValueError: An argument outside its range.

    Example:
        >>> small = tfsparse.fit_shrinking(model, GSparsity(4e-3), x, y, epochs=10).model

    Reference: GSparsity, Algorithm 1 and sections 4.1 and 4.2.
    """

    name = "gsparsity"
    strength = "mu"
    regrows = warm = True
    thresholds = (1e-6, 1e-3, 0.5)

    def __init__(
        self,
        strength: float = 4e-3,
        eps: float = 0.5,
        rho: float = 0.1,
        tau: str = "constant",
        scaling: str = "none",
        partition: str = "unit",
        carriers: bool = True,
        threshold: float = 1e-6,
        ignore: str = "",
        multipliers: str = "",
    ):
        if partition not in PARTITIONS:
            raise ValueError(
                f"`partition` must be among {PARTITIONS}. Received: {partition!r}."
            )
        if not threshold >= 0:
            raise ValueError(f"`threshold` must be >= 0. Received: {threshold!r}.")
        self._config = {
            "strength": strength,
            "eps": eps,
            "rho": rho,
            "tau": tau,
            "scaling": scaling,
            "partition": partition,
            "carriers": carriers,
            "threshold": threshold,
            "ignore": ignore,
            "multipliers": multipliers,
        }
        self._multipliers = base.numbers(
            multipliers, "multipliers", "stage2*=2,stage3*=2"
        )
        base.check_step(eps)
        self.learning_rate = eps
        self.thresholds = tuple(sorted({*self.thresholds, threshold}))
        self.holds_zeros = partition in partitions.SHAPES
        if partition == "operation":
            self.kinds = ("unit", "branch")
        self._optimizer(records.Partition({}))  # checks the others

    def get_config(self) -> dict:
        return dict(self._config)

    def _optimizer(self, partition):
        config = self._config
        return proxsgd.ProxSGD(
            partition,
            config["strength"],
            config["eps"],
            config["rho"],
            config["tau"],
            scaling=config["scaling"],
            bounds=FACTORS,
        )

    def prepare(self, model, groups):
        """A copy of the model, with a `Scale` on every branch that has no weights."""
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
            copy = keras.models.clone_model(model)
            copy.set_weights(model.get_weights())
            return copy

        def before(name, index, number, tensor):
            gate = bare.get((name, index, number))
            if gate is None:
                return tensor
            return layers.Scale(name=partitions.scale_name(gate))(tensor)

        return placing.graft(model, before=before)

    def optimizer(self, model, groups):
        """ProxSGD over the groups of the penalty.

        Raises:
            ValueError: Nothing can be penalised.
        """
        config = self._config
        ignore = base.patterns(config["ignore"])
        if config["partition"] == "unit":
            found = partitions.units(model, groups, config["carriers"], ignore)
        elif config["partition"] == "operation":
            found = partitions.branches(model, groups, ignore)
        else:
            found = partitions.by_shape(model, config["partition"], ignore)
        if self._multipliers:
            found = partitions.weighted(found, self._multipliers)
        return self._optimizer(found)

    def set_strength(self, model, value: float) -> None:
        optimizer_of(model).mu.assign(value)

    def groups(self, model) -> int:
        return optimizer_of(model).partition.groups

    def settle(self, model, threshold: float | None = None) -> np.ndarray:
        threshold = self._config["threshold"] if threshold is None else threshold
        return optimizer_of(model).finalize(threshold)

    def keep(self, model, groups, tools=None) -> dict[str, np.ndarray]:
        """Units and branches that something still writes once dead groups are zero."""
        optimizer = optimizer_of(model)
        dead = optimizer.dead(self._config["threshold"])
        values = {v.path: keras.ops.convert_to_numpy(v) for v in model.variables}
        values |= optimizer.partition.emptied(optimizer.values(), dead)
        live = _live_branches(optimizer.partition, groups, dead)
        return live | base.alive_units(groups, values)

    def trace(self, model, groups) -> dict:
        """The norms of all groups, sorted, by their names' first part."""
        optimizer = optimizer_of(model)
        norms = optimizer.norms()
        found: dict[str, list[float]] = {}
        names = optimizer.partition.names or ("weights",) * len(norms)
        for name, norm in zip(names, norms, strict=True):
            found.setdefault(name.rsplit("[", 1)[0], []).append(float(norm))
        return {name: sorted(own) for name, own in found.items()}


def _live_branches(partition, groups, dead) -> dict[str, np.ndarray]:
    """Masks of the branches whose group lives; what has no group, has no verdict.

    The labels in a branch that no inner branch owns are its own.
    """
    found = []
    for group in groups:
        if group.kind == "branch" and not group.frozen:
            for number in range(group.size):
                paths = {m.path for m in group.members if (m.units == number).all()}
                paths &= partition.labels.keys()
                labels = {int(n) for p in paths for n in np.unique(partition.labels[p])}
                found.append((len(paths), group, number, labels - {-1}))
    keep = {group.name: np.ones(group.size, bool) for _, group, *_ in found}
    claimed: set[int] = set()
    for _, group, number, labels in sorted(found, key=lambda entry: entry[0]):
        own = labels - claimed
        claimed |= own
        if own:
            keep[group.name][number] = not dead[list(own)].all()
    return keep


def optimizer_of(model) -> proxsgd.ProxSGD:
    """The ProxSGD of a compiled model, behind loss scaling too."""
    optimizer = model.optimizer
    return getattr(optimizer, "inner_optimizer", optimizer)
