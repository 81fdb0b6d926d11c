"""ProxSGD under several partitions at once, each group with a factor that may change."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras import ops

from tfsparse import numerics, records
from tfsparse.optimizers import blocks
from tfsparse.optimizers.proxsgd import ProxSGD

GONE = 1e30
"""The factor of a group that was pruned: its weights are zero, and stay so."""


@keras.saving.register_keras_serializable("tfsparse")
class OverlappingProxSGD(ProxSGD):
    """ProxSGD whose groups may overlap: rows and columns of one kernel.

    Minimises loss + mu sum_p sum_k f_pk ||w_pk|| over partitions p and their groups k. The
    proximal map of the sum is Dykstra's alternation of the single ones. The factors f
    are variables: `reweigh` changes them without a new trace, and a factor of `GONE`
    prunes its group for good.

    Args:
        partitions: A list of partitions; within one nothing overlaps. Their multipliers
            are the first factors.
        mu, learning_rate, rho: As of `ProxSGD`.
        sweeps: Of the alternation.
        name, kwargs: As for every Keras optimizer.

    Raises:
        ValueError: An argument outside its range, or no partition.

    Example:
        >>> rows, columns = by_shape(net, "row"), by_shape(net, "filter")
        >>> net.compile(OverlappingProxSGD([rows, columns], mu=4e-3), loss)

    Reference: BayesNAS, eq. B.0.1; GSparsity, Algorithm 1.
    """

    def __init__(
        self,
        partitions: Sequence[records.Partition | Mapping],
        mu: float = 1e-3,
        learning_rate=0.5,
        rho=0.1,
        sweeps: int = 5,
        name: str = "overlapping_proxsgd",
        **kwargs,
    ):
        for own in ("partition", "tau", "beta", "scaling", "bounds", "proximal"):
            kwargs.pop(own, None)  # of a config that ProxSGD wrote
        super().__init__(
            records.Partition({}), mu, learning_rate, rho, name=name, **kwargs
        )
        if not partitions or not sweeps >= 1:
            raise ValueError(
                "`partitions` must hold a partition and `sweeps` be at least 1. "
                f"Received: {len(partitions)} partitions, sweeps={sweeps}."
            )
        self.partitions = tuple(
            p if isinstance(p, records.Partition) else records.Partition.from_json(p)
            for p in partitions
        )
        self.sweeps = int(sweeps)

    def build(self, variables):
        """Creates averages and factors, and lays each partition out."""
        if self.built:
            return
        super().build(variables)
        own = [variables[number] for number in self._own]
        self._levels = [blocks.lay_out(p, own, 0.0) for p in self.partitions]
        self.factors = tuple(  # a list would look like a slot for each variable
            self.add_variable(
                (p.groups,),
                name=f"factors_{number}",
                initializer=_initial(p),
            )
            for number, p in enumerate(self.partitions)
        )

    def _moved(self, points, mu, eps) -> list:
        found = [self._plain(w, v, tau, eps) for w, v, tau in points]
        factors = [ops.convert_to_tensor(own) for own in self.factors]
        held = sorted({i for level in self._levels for b in level for i in b.members})
        moved = numerics.overlapping_step(
            {i: points[i][0] for i in held},
            {i: points[i][1] for i in held},
            self._levels,
            [mu * own for own in factors],
            [own < GONE / 2 for own in factors],
            eps,
            self.sweeps,
        )
        for i, new in moved.items():
            found[i] = new
        return found

    def reweigh(self, number: int, factors: np.ndarray) -> None:
        """Sets the factors of a partition; groups of factor `GONE` become zero.

        Args:
            number: Of the partition.
            factors: `(groups,)`, not negative.

        Raises:
            ValueError: They are not as many, or not numbers >= 0.
        """
        count = self.partitions[number].groups
        if np.shape(factors) != (count,) or not (np.asarray(factors) >= 0).all():
            raise ValueError(
                f"`factors` must be {count} numbers >= 0. Received: shape "
                f"{np.shape(factors)}, {factors!r}."
            )
        self.factors[number].assign(factors)

    def prune(self, threshold: float = 1e-6) -> np.ndarray:
        """Sets dead groups to zero, for good: their factors become `GONE`.

        Args:
            threshold: Norms up to it count as dead.

        Returns:
            Whether each group, of all partitions, is dead. Bool.
        """
        dead = self.finalize(threshold)
        start = 0
        for number, own in enumerate(self.factors):
            factors = ops.convert_to_numpy(own)
            here = dead[start : start + len(factors)]
            self.reweigh(number, np.where(here, GONE, factors))
            start += len(factors)
        return dead

    def gone(self) -> np.ndarray:
        """Which groups of all partitions, one behind the other, were pruned. Bool."""
        held = [ops.convert_to_numpy(own) for own in self.factors]
        return np.concatenate(held) >= GONE / 2

    def norms(self) -> np.ndarray:
        """L2 norms of the groups of all partitions, one behind the other."""
        values = self.values()
        return np.concatenate([p.norms(values) for p in self.partitions])

    def dead(self, threshold: float = 1e-6) -> np.ndarray:
        return super().dead(threshold) | self.gone()

    def _emptied(self, values, dead) -> dict[str, np.ndarray]:
        start = 0
        for partition in self.partitions:
            own = dead[start : start + partition.groups]
            values, start = partition.emptied(values, own), start + partition.groups
        return values

    def emptied(self, threshold: float = 1e-6) -> dict[str, np.ndarray]:
        """Path -> value of every trainable variable, dead groups zero."""
        return self._emptied(self.values(), self.dead(threshold))

    def cut_groups(self, pairs: Mapping[str, str], cut) -> dict:
        shapes = self._shapes()
        return {
            "partitions": [p.cut(pairs, shapes, cut).to_json() for p in self._now()]
        }

    def _now(self) -> list[records.Partition]:
        """The partitions with the factors of now."""
        if not self.built:
            return list(self.partitions)
        return [
            dataclasses.replace(p, multipliers=ops.convert_to_numpy(own))
            for p, own in zip(self.partitions, self.factors, strict=True)
        ]

    def get_config(self):
        """The arguments, the partitions as text."""
        config = super().get_config()
        for own in ("partition", "tau", "beta", "scaling", "bounds", "proximal"):
            del config[own]
        stored = [p.to_json() for p in self._now()]
        return {**config, "partitions": stored, "sweeps": self.sweeps}


def _initial(partition):
    values = partition.multipliers
    values = np.ones(partition.groups) if values is None else np.asarray(values)
    return lambda shape, dtype: ops.cast(values, dtype)
