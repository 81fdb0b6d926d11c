"""ProxSGD: stochastic gradient steps that end in a proximal map, group by group."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from tfsparse import numerics, records
from tfsparse.optimizers import blocks

_LOG = logging.getLogger(__name__)

TAUS = ("constant", "group", "element")
SCALINGS = {"none": 0.0, "sqrt": 0.5, "inverse_sqrt": -0.5}
"""Name -> exponent of a group's size in the strength of its penalty."""


@keras.saving.register_keras_serializable("tfsparse")
class ProxDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A step size that decays as the convergence proof of ProxSGD wants.

    value_t = initial / (t + offset)^power.

    Args:
        initial: Numerator, positive.
        offset: Added to the step's number, at least 1.
        power: In (0.5, 1] by the proof; the authors run 0.5.

    Example:
        >>> ProxSGD(partition, learning_rate=ProxDecay(0.06), rho=ProxDecay(0.9))

    Reference: Yang et al. 2020, ProxSGD, and its released code.
    """

    def __init__(self, initial: float, offset: float = 4.0, power: float = 0.5):
        if not (initial > 0 and offset >= 1 and 0 < power <= 1):
            raise ValueError(
                "`initial` must be positive, `offset` at least 1 and `power` in (0, 1]. "
                f"Received: {initial}, {offset}, {power}."
            )
        self.initial, self.offset, self.power = initial, offset, power

    def __call__(self, step):
        return self.initial / (ops.cast(step, "float32") + self.offset) ** self.power

    def get_config(self):
        return {"initial": self.initial, "offset": self.offset, "power": self.power}


@keras.saving.register_keras_serializable("tfsparse")
class ProxSGD(keras.optimizers.Optimizer):
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
        # Variables that their gradient replaces (scales of float8) are Keras's alone.
        self._own = [
            number
            for number, variable in enumerate(variables)
            if not self._overwrite_variable_with_gradient(variable)
        ]
        own = [variables[number] for number in self._own]
        self._blocks = blocks.lay_out(self.partition, own, SCALINGS[self.scaling])
        self._told = 0
        self._paths = [v.path for v in own]
        self._boxes = [
            next((b for p, b in self.bounds.items() if fnmatch.fnmatchcase(v.path, p)), None)
            for v in own
        ]  # fmt: skip

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        if keras.backend.backend() == "tensorflow":  # by way of the method below
            return super()._backend_update_step(
                grads, trainable_variables, learning_rate
            )
        gradients = self._in_order(zip(grads, trainable_variables, strict=True))
        self._update(self.refused, gradients, self._held(), learning_rate)
        return None

    def _distributed_tf_update_step(self, distribution, grads_and_vars, learning_rate):
        """The step of every replica, gradients summed over them all."""
        held = [[variable.value for variable in kind] for kind in self._held()]
        distribution.extended.update(
            self.refused.value,
            self._update,
            args=(self._in_order(grads_and_vars), held, learning_rate),
            group=False,
        )

    def _held(self) -> list[list]:
        """Weights, averages and squares of the optimizer's own variables."""
        kinds = self._trainable_variables, self.averages, self.squares
        return [[kind[i] for i in self._own] if kind else [] for kind in kinds]

    def _in_order(self, pairs) -> list:
        """A gradient for each own variable, None for those without."""
        found = {self._get_variable_index(v): gradient for gradient, v in pairs}
        return [found.get(number) for number in self._own]

    def _update(self, refused, gradients, held, eps) -> None:
        """Assigns what a step makes of the variables of one replica."""
        weights, averages, squares = (
            [ops.convert_to_tensor(variable) for variable in kind] for kind in held
        )
        gradients = [
            None if g is None else ops.cast(ops.convert_to_tensor(g), w.dtype)
            for g, w in zip(gradients, weights, strict=True)
        ]
        numbers = [
            ops.cast(number, "float32")
            for number in (eps, self._rho(), self.mu, self._iterations - self.refused)
        ]
        finite, *found = self._step(gradients, weights, averages, squares, *numbers)
        self._assign_if(finite, zip(sum(held, []), sum(found, []), strict=True))
        self.assign_add(refused, ops.cast(ops.logical_not(finite), refused.dtype))

    def _assign_if(self, finite, pairs) -> None:
        """Assigns pairs of a variable and its new value, all of them or none."""
        pairs = list(pairs)
        if keras.backend.backend() != "tensorflow":
            for variable, tensor in pairs:
                held = ops.convert_to_tensor(variable)
                self.assign(variable, ops.where(finite, tensor, held))
            return

        def assign():
            for variable, tensor in pairs:
                self.assign(variable, tensor)

        # One branch for the whole step costs less than a choice for each weight.
        ops.cond(finite, assign, lambda: None)

    def _step(self, gradients, weights, averages, squares, eps, rho, mu, done):
        """Algorithm 1.

        Args:
            gradients: One for each variable; None for those that stay as they are.
            weights, averages: One for each variable.
            squares: The same, or none with tau 1.
            eps, rho, mu: As of this step.
            done: Steps made before this one.

        Returns:
            Whether the gradients are finite; new weights, averages and squares.
        """
        averages = [
            v if g is None else numerics.averaged(v, g, ops.cast(rho, v.dtype))
            for g, v in zip(gradients, averages, strict=True)
        ]
        squares = [
            s if g is None else numerics.averaged(s, ops.square(g), 1.0 - self.beta)
            for g, s in zip(gradients, squares, strict=False)
        ]
        taus = [None] * len(weights)
        if squares:
            taus = numerics.root_mean_squares(squares, self.beta, done)
        found = self._moved(list(zip(weights, averages, taus, strict=True)), mu, eps)
        kept = [  # what has no gradient stays as it is
            w if g is None else self._boxed(i, w, new, eps)
            for i, (g, w, new) in enumerate(zip(gradients, weights, found, strict=True))
        ]
        return numerics.all_finite(gradients), kept, averages, squares

    def _moved(self, points, mu, eps) -> list:
        """The new value of each variable, from its (w, v, tau)."""
        found = [self._plain(*point, eps) for point in points]
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
        if callable(self.rho):
            return self.rho(self._iterations)
        return self.rho

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
        return {v.path: tuple(v.shape) for v in self._trainable_variables}

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
        self._tell_refused()
        return self.norms() <= threshold

    def _tell_refused(self) -> None:
        """Logs how many steps were refused since this was last told."""
        refused = int(ops.convert_to_numpy(self.refused))
        if refused > self._told:
            _LOG.warning(
                "%d steps were refused and changed no weight: their gradients were not "
                "finite. Look for nan in the data, or lower the learning rate.",
                refused - self._told,
            )
        self._told = refused

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
        }


def _check(mu, learning_rate, rho, tau, beta, scaling, bounds) -> None:
    if not isinstance(mu, int | float | np.number) or not 0 <= mu < np.inf:
        raise ValueError(f"`mu` must be a number >= 0. Received: mu={mu!r}.")
    for name, value in (("learning_rate", learning_rate), ("rho", rho)):
        if not (callable(value) or isinstance(value, Mapping) or 0 < value <= 1):
            raise ValueError(
                f"`{name}` must be in (0, 1] or a schedule. Received: {name}={value!r}."
            )
    if tau not in TAUS:
        raise ValueError(f"`tau` must be among {TAUS}. Received: tau={tau!r}.")
    if not 0 <= beta < 1:
        raise ValueError(f"`beta` must be in [0, 1). Received: beta={beta!r}.")
    if scaling not in SCALINGS:
        raise ValueError(
            f"`scaling` must be among {sorted(SCALINGS)}. Received: {scaling!r}."
        )
    for pattern, pair in bounds.items():
        if len(pair) != 2 or not pair[0] < pair[1]:
            raise ValueError(
                f"`bounds` must map patterns to (low, high). Received: {pattern!r}: "
                f"{pair!r}."
            )
