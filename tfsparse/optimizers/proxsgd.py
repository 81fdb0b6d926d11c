"""ProxSGD: stochastic gradient steps that end in a proximal map, group by group."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from tfsparse import numerics, records
from tfsparse.optimizers import blocks, private
from tfsparse.optimizers.joint import JointOptimizer


@keras.saving.register_keras_serializable("tfsparse")
class ProxSGD(JointOptimizer):
    """Stochastic gradient descent whose steps take whole groups of weights to zero.

    For the gradient g of a batch, group by group k:

        v <- (1 - rho) v + rho g
        x = prox(w - v / tau_k),  prox(b) = max(0, 1 - mu_k / (tau_k ||b_k||)) b
        w <- w + eps (x - w),     eps the learning rate

    which minimises loss + sum_k mu_k ||w_k||. Weights that no group holds take the
    same step without the proximal map. The weights of a dead group decay as
    (1 - eps)^t; `finalize` makes them zero.

    Args:
        partition: The groups, see `tfsparse.methods.partitions`.
        mu: Strength of the penalty, at least 0. A variable: `optimizer.mu.assign(x)`
            changes it without a new trace.
        learning_rate: eps in (0, 1], or a schedule of it.
        rho: Weight of the *new* gradient in (0, 1], or a schedule of it: with tau 1
            and no penalty, Keras's SGD of momentum 1 - rho and rate eps * rho.
        tau: `constant` (1), `group` (mean of the RMS of a group's gradients, corrected
            for its start at 0) or `element` (that RMS itself; the proximal map is
            then taken in its metric).
        beta: Decay of the RMS, in [0, 1).
        scaling: mu_k as it is (`none`), times (`sqrt`) or divided by (`inverse_sqrt`)
            the square root of the group's number of weights.
        bounds: Pattern of variable paths -> (low, high), where x is projected to, such
            as `{"*scale": (0, 1)}`.
        proximal: Whether the penalty acts by its proximal map. If not, by its
            subgradient, which reaches no zero: what the map is worth can so be seen.
        name, kwargs: As for every Keras optimizer (clipping, weight decay, EMA, ...).

    Raises:
        ValueError: An argument outside its range; on the first step, a partition that
            does not fit the variables.

    Example:
        >>> groups = partitions.units(model, tfsparse.find_groups(model))
        >>> model.compile(ProxSGD(groups, mu=4e-3, learning_rate=0.5, rho=0.1), loss)

    Reference: GSparsity, Algorithm 1; Yang et al. 2020, ProxSGD.
    """

    def __init__(
        self,
        partition: records.Partition | Mapping,
        mu: float = 1e-3,
        learning_rate=0.5,
        rho=0.1,
        tau: str = "constant",
        beta: float = 0.999,
        scaling: str = "none",
        bounds: Mapping[str, tuple[float, float]] | None = None,
        proximal: bool = True,
        name: str = "proxsgd",
        **kwargs,
    ):
        _check(mu, learning_rate, rho, tau, beta, scaling, bounds or {})
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.partition = (
            partition
            if isinstance(partition, records.Partition)
            else records.Partition.from_json(partition)
        )
        saved = isinstance(rho, Mapping)
        self.rho = keras.optimizers.schedules.deserialize(rho) if saved else rho
        self.tau, self.beta, self.scaling = tau, float(beta), scaling
        self.bounds = {pattern: tuple(pair) for pattern, pair in (bounds or {}).items()}
        self.proximal = bool(proximal)
        self._initial_mu = float(mu)

    def build(self, variables):
        """Creates the averages, and lays out the groups over the variables."""
        if self.built:
            return
        super().build(variables)
        start = keras.initializers.Constant(self._initial_mu)
        self.mu = self.add_variable((), name="mu", initializer=start)
        self.refused = self.add_variable((), name="refused", dtype="int")
        self.averages = self.add_optimizer_variables(variables, "average")
        self.squares = []
        if self.tau != "constant":
            self.squares = self.add_optimizer_variables(variables, "square")
        own = self.adopt(variables)
        self._blocks = blocks.lay_out(
            self.partition, own, records.SCALINGS[self.scaling]
        )
        self._paths = [v.path for v in own]
        self._boxes = [
            next((b for p, b in self.bounds.items() if fnmatch.fnmatchcase(v.path, p)), None)
            for v in own
        ]  # fmt: skip

    def slots(self) -> tuple[list, list]:
        """Averages and squares, the second none with tau 1."""
        return self.averages, self.squares

    def step(self, gradients, weights, averages, squares, eps) -> tuple:
        """Algorithm 1, from its parts in `numerics`; see `JointOptimizer.step`."""
        rho, mu, done = (
            ops.cast(number, "float32")
            for number in (self._rho(), self.mu, self.iterations - self.refused)
        )
        averages = [
            v if g is None else numerics.averaged(v, g, ops.cast(rho, v.dtype))
            for g, v in zip(gradients, averages, strict=True)
        ]
        squares = [
            s if g is None else numerics.averaged(s, ops.square(g), 1.0 - self.beta)
            for g, s in zip(gradients, squares, strict=False)  # which may be none
        ]
        taus = [None] * len(weights)
        if squares:
            taus = numerics.root_mean_squares(squares, self.beta, done)
        moved = self._moved(list(zip(weights, averages, taus, strict=True)), mu, eps)
        weights = [
            w if g is None else self._boxed(number, w, new, eps)
            for number, (g, w, new) in enumerate(
                zip(gradients, weights, moved, strict=True)
            )
        ]
        return numerics.all_finite(gradients), weights, averages, squares

    def _moved(self, points, mu, eps) -> list:
        """The new value of each variable, from its (w, v, tau)."""
        found = [self._plain(w, v, tau, eps) for w, v, tau in points]
        for block in self._blocks:
            own = self._proximal(block, [points[i] for i in block.members], mu, eps)
            for i, new in zip(block.members, own, strict=True):
                found[i] = new
        return found

    def _plain(self, weight, average, tau, eps):
        """The new value of a variable that no group holds."""
        if self.tau == "group":
            tau = ops.mean(tau)
        return numerics.plain_step(weight, average, ops.cast(eps, weight.dtype), tau)

    def _proximal(self, block: numerics.Block, points, mu, eps) -> list:
        """New values of the variables of a block."""
        weights, averages, taus = (list(kind) for kind in zip(*points, strict=True))
        dtype = weights[0].dtype
        mu = ops.cast(mu, dtype) * ops.cast(block.multipliers, dtype)
        eps = ops.cast(eps, dtype)
        if not self.proximal:
            slopes = numerics.penalty_slopes(block, weights, mu)
            averages = [v + own for v, own in zip(averages, slopes, strict=True)]
            mu = ops.zeros_like(mu)
        if self.tau == "element":
            return numerics.elementwise_step(block, weights, averages, taus, mu, eps)
        if self.tau == "group":
            averages, tau = numerics.preconditioned(block, averages, taus)
            mu = mu / tau
        return numerics.proximal_step(block, weights, averages, mu, eps)

    def _boxed(self, number: int, weight, new, eps):
        """The new weight, its proximal point projected to the variable's box."""
        if self._boxes[number] is None:
            return new
        eps = ops.cast(eps, weight.dtype)
        return numerics.boxed(weight, new, eps, *self._boxes[number])

    def _rho(self):
        return self.rho(private.batches(self)) if callable(self.rho) else self.rho

    def norms(self) -> np.ndarray:
        """L2 norm of every group of the partition. `(groups,)`."""
        return self.partition.norms(self.values())

    def _emptied(self, values, dead) -> dict[str, np.ndarray]:
        """Path -> value, those of dead groups zero."""
        return self.partition.emptied(values, dead)

    def cut_groups(self, pairs: Mapping[str, str], cut) -> dict:
        """Config entries for smaller variables; see `optimizers.resize`."""
        return {"partition": self.partition.cut(pairs, self._shapes(), cut).to_json()}

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {v.path: tuple(v.shape) for v in private.trained(self)}

    def values(self) -> dict[str, np.ndarray]:
        """Path -> value of every trainable variable."""
        weights, *_ = self._held()
        return {
            path: ops.convert_to_numpy(variable)
            for path, variable in zip(self._paths, weights, strict=True)
        }

    def dead(self, threshold: float = 1e-6) -> np.ndarray:
        """Which groups have a norm up to a threshold. `(groups,)` bool.

        Raises:
            ValueError: `threshold` is negative, or the optimizer has not been built.
        """
        if not threshold >= 0:
            raise ValueError(f"`threshold` must be >= 0. Received: {threshold!r}.")
        if not self.built:
            raise ValueError("A partition needs an optimizer that has been built.")
        self.tell_refused()
        return self.norms() <= threshold

    def finalize(self, threshold: float = 1e-6) -> np.ndarray:
        """Sets the groups that have died to exact zero, and their averages with them.

        Args:
            threshold: Norms up to it count as dead.

        Returns:
            Whether each group is dead. `(groups,)` bool.

        Raises:
            ValueError: `threshold` is negative, or the optimizer has not been built.

        Example:
            >>> dead = model.optimizer.finalize()
            >>> f"{dead.mean():.0%} of the groups are gone"
            '62% of the groups are gone'
        """
        dead = self.dead(threshold)
        for held in self._held():
            by_path = dict(zip(self._paths, held, strict=False))  # squares may be none
            values = {p: ops.convert_to_numpy(v) for p, v in by_path.items()}
            for path, value in self._emptied(values, dead).items():
                if value is not values[path]:
                    by_path[path].assign(value)
        return dead

    def get_config(self):
        """The arguments, the partition as text."""
        config = super().get_config()
        mu = float(ops.convert_to_numpy(self.mu)) if self.built else self._initial_mu
        rho = self.rho
        if isinstance(rho, keras.optimizers.schedules.LearningRateSchedule):
            rho = keras.optimizers.schedules.serialize(rho)
        return {
            **config,
            "partition": self.partition.to_json(),
            "mu": mu,
            "rho": rho,
            "tau": self.tau,
            "beta": self.beta,
            "scaling": self.scaling,
            "bounds": {pattern: list(pair) for pattern, pair in self.bounds.items()},
            "proximal": self.proximal,
        }


def _check(mu, learning_rate, rho, tau, beta, scaling, bounds) -> None:
    if not isinstance(mu, int | float | np.number) or not 0 <= mu < np.inf:
        raise ValueError(f"`mu` must be a number >= 0. Received: mu={mu!r}.")
    for name, value in (("learning_rate", learning_rate), ("rho", rho)):
        if not (callable(value) or isinstance(value, Mapping) or 0 < value <= 1):
            raise ValueError(
                f"`{name}` must be in (0, 1] or a schedule. Received: {name}={value!r}."
            )
    if tau not in records.TAUS:
        raise ValueError(f"`tau` must be among {records.TAUS}. Received: tau={tau!r}.")
    if not 0 <= beta < 1:
        raise ValueError(f"`beta` must be in [0, 1). Received: beta={beta!r}.")
    if scaling not in records.SCALINGS:
        raise ValueError(
            f"`scaling` must be among {sorted(records.SCALINGS)}. Received: {scaling!r}."
        )
    for pattern, pair in bounds.items():
        if len(pair) != 2 or not pair[0] < pair[1]:
            raise ValueError(
                f"`bounds` must map patterns to (low, high). Received: {pattern!r}: "
                f"{pair!r}."
            )
