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

NEWTON_STEPS = 12
"""For `tau="element"`; Newton's method from below gains digits quadratically."""


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
        self._blocks = blocks.lay_out(self.partition, variables, SCALINGS[self.scaling])
        self._grouped = {part.index for block in self._blocks for part in block.slices}
        self._told = 0
        self._paths = [v.path for v in variables]
        self._boxes = [
            next((b for p, b in self.bounds.items() if fnmatch.fnmatchcase(v.path, p)), None)
            for v in variables
        ]  # fmt: skip

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        if keras.backend.backend() == "tensorflow":  # by way of the method below
            return super()._backend_update_step(
                grads, trainable_variables, learning_rate
            )
        self._update_here(zip(grads, trainable_variables, strict=True), learning_rate)
        return None

    def _distributed_tf_update_step(self, distribution, grads_and_vars, learning_rate):
        """The step under tf.distribute, gradients summed over the replicas."""
        pairs = [(g, v) for g, v in grads_and_vars if g is not None]
        first = [distribution.experimental_local_results(g)[0] for g, _ in pairs]
        if distribution.num_replicas_in_sync == 1:
            variables = [v for _, v in pairs]
            self._update_here(zip(first, variables, strict=True), learning_rate)
            return

        def on_every_replica(variable, step, *arguments):
            if isinstance(variable, keras.Variable):
                variable = variable.value  # TensorFlow's own
            distribution.extended.update(variable, step, args=arguments, group=False)

        finite = self._are_finite(first)
        self._update(pairs, finite, finite, learning_rate, on_every_replica)

    def _update_here(self, pairs, learning_rate) -> None:
        """The step on one device, or where the backend spreads tensors itself."""
        gradients, variables = zip(*pairs, strict=True)
        gradients = [
            ops.cast(ops.convert_to_tensor(g), v.dtype)
            for g, v in zip(gradients, variables, strict=True)
        ]
        averages = [
            ops.convert_to_tensor(self.averages[self._get_variable_index(v)])
            for v in variables
        ]
        finite = self._are_finite(gradients)
        # In place of gradients that are not finite, averages move no average.
        gradients = ops.cond(finite, lambda: gradients, lambda: averages)
        self._update(
            list(zip(gradients, variables, strict=True)),
            finite,
            None,
            learning_rate,
            lambda variable, step, *arguments: step(variable, *arguments),
        )

    def _are_finite(self, gradients):
        """Whether all gradients are; counts the step as refused if not."""
        finite = ops.isfinite(
            sum(ops.sum(ops.cast(gradient, "float32")) for gradient in gradients)
        )
        refused = ops.cast(ops.logical_not(finite), self.refused.dtype)
        self.assign_add(self.refused, refused)
        return finite

    def _update(self, pairs, finite, unchecked, learning_rate, run) -> None:
        """One step: averages and plain weights first, then the groups.

        Args:
            pairs: (gradient, variable), as `run` passes them on.
            finite: Whether the step is made.
            unchecked: The same if the gradients may still hold what is not finite; None
                if they have been replaced.
            learning_rate: eps.
            run: `(variable, step, *arguments)`, calls the step with the variable.
        """
        eps = ops.where(finite, ops.cast(learning_rate, "float32"), 0.0)
        for gradient, variable in pairs:
            run(variable, self._average, gradient, finite, unchecked, eps)
        variables = self._trainable_variables
        for block in self._blocks:
            points = [self._point(variables[part.index]) for part in block.slices]
            *found, moved = self._shrinkage(block, points)
            if unchecked is not None:  # cheaper to work out anew than to send around
                moved = [None] * len(moved)
            for part, *known in zip(block.slices, *found, moved, strict=True):
                run(variables[part.index], self._shrink, eps, *known)

    def _average(self, variable, gradient, finite, unchecked, eps) -> None:
        """Updates the averages of a variable; the variable too, if it has no group."""
        index = self._get_variable_index(variable)
        average = ops.convert_to_tensor(self.averages[index])
        gradient = ops.cast(ops.convert_to_tensor(gradient), variable.dtype)
        rho = ops.cast(self._rho(), variable.dtype)
        if unchecked is not None:
            gradient = ops.where(unchecked, gradient, average)
        average = average + rho * (gradient - average)
        self.assign(self.averages[index], average)
        if self.squares:
            square = ops.convert_to_tensor(self.squares[index])
            new = ops.where(finite, ops.square(gradient), square)
            square = square + (1.0 - self.beta) * (new - square)
            self.assign(self.squares[index], square)
        if index not in self._grouped:
            tau = 1.0
            if self.squares:
                tau = self._rms(variable)
                tau = ops.mean(tau) if self.tau == "group" else tau
            point = ops.convert_to_tensor(variable) - average / tau
            self._move(variable, index, point, eps)

    def _point(self, variable):
        """`(w, v, tau)` of a variable; tau None where it is 1."""
        index = self._get_variable_index(variable)
        rms = self._rms(variable) if self.squares else None
        return (
            ops.convert_to_tensor(variable),
            ops.convert_to_tensor(self.averages[index]),
            rms,
        )

    def _rms(self, variable):
        """Root of the mean square of the gradients, corrected for its start at zero."""
        square = ops.convert_to_tensor(self.squares[self._get_variable_index(variable)])
        steps = ops.cast(self._iterations - self.refused, "float32") + 1.0
        correction = 1.0 - ops.power(self.beta, ops.maximum(steps, 1.0))
        return ops.sqrt(square / ops.cast(correction, square.dtype)) + 1e-8

    def _shrinkage(self, block: blocks.Block, points) -> tuple[list, list, list]:
        """For each slice of a block: the factor of its proximal map, 1 / tau, w - v / tau."""
        dtype = points[0][0].dtype
        mu = ops.cast(self.mu, dtype) * ops.cast(block.multipliers, dtype)
        if self.tau == "element":
            weighted = [tau * w - v for w, v, tau in points]
            root = self._root(block, weighted, [tau for _, _, tau in points], mu)
            factors, steps = [], []
            for part, (_, _, tau) in zip(block.slices, points, strict=True):
                own = block.spread(root, part, 1.0)
                strength = block.spread(mu, part, 0.0)
                factors.append(tau * own / (tau * own + strength + _TINY))
                steps.append(1.0 / tau)
            return factors, steps, [None] * len(steps)
        tau = 1.0
        if self.tau == "group":
            tau = block.sum([rms for _, _, rms in points])
            tau = tau / ops.cast(block.sizes, dtype)
        steps = [
            None if rms is None else block.spread(1.0 / tau, part, 1.0 / ops.mean(rms))
            for part, (_, _, rms) in zip(block.slices, points, strict=True)
        ]
        moved = [
            w - (v if step is None else v * step)
            for (w, v, _), step in zip(points, steps, strict=True)
        ]
        norms = ops.sqrt(block.sum([ops.square(b) for b in moved]))
        shrinkage = numerics.group_shrinkage(norms, mu / tau)
        factors = [block.spread(shrinkage, part, 1.0) for part in block.slices]
        return factors, steps, moved

    def _root(self, block, weighted, taus, mu):
        """Norms of the groups after a proximal map in the metric of tau.

        x = tau s / (tau s + mu) b with s = ||x||, so s is the root of
        sum (tau b)^2 / (tau s + mu)^2 = 1; 0 where ||tau b|| <= mu.
        """
        squares = [ops.square(c) for c in weighted]
        norms = ops.sqrt(block.sum(squares))
        alive = norms > mu
        mean = block.sum(taus) / ops.cast(block.sizes, mu.dtype)
        root = ops.maximum(norms - mu, 0.0) / mean
        for _ in range(NEWTON_STEPS):
            below = [
                tau * block.spread(root, part, 1.0)
                + block.spread(mu, part, 1.0)
                + _TINY
                for part, tau in zip(block.slices, taus, strict=True)
            ]
            value = block.sum([c / b**2 for c, b in zip(squares, below, strict=True)])
            slope = block.sum(
                [t * c / b**3 for c, b, t in zip(squares, below, taus, strict=True)]
            )
            # Newton on value^(-1/2), which is concave: it never passes the root
            step = value * (ops.sqrt(value) - 1.0) / ops.maximum(slope, _TINY)
            root = ops.maximum(root + ops.where(alive, step, 0.0), 0.0)
        return ops.where(alive, root, 0.0)

    def _shrink(self, variable, eps, factor, step, point=None) -> None:
        """Moves a variable towards its proximal point; `point` is w - step v, if known."""
        index = self._get_variable_index(variable)
        if point is None:
            average = ops.convert_to_tensor(self.averages[index])
            moved = average if step is None else average * step
            point = ops.convert_to_tensor(variable) - moved
        eps = ops.cast(eps, variable.dtype)
        if self._boxes[index] is None:  # fewer passes over the weights than `_move`
            weights = ops.convert_to_tensor(variable)
            self.assign(variable, (1.0 - eps) * weights + (eps * factor) * point)
        else:
            self._move(variable, index, factor * point, eps)

    def _move(self, variable, index: int, point, eps) -> None:
        box = self._boxes[index]
        if box is not None:
            point = ops.clip(point, *box)
        eps = ops.cast(eps, variable.dtype)
        self.assign_add(variable, eps * (point - ops.convert_to_tensor(variable)))

    def _rho(self):
        if callable(self.rho):
            return self.rho(self._iterations)
        return self.rho

    def norms(self) -> np.ndarray:
        """L2 norm of every group of the partition. `(groups,)`."""
        return self.partition.norms(self.values())

    def values(self) -> dict[str, np.ndarray]:
        """Path -> value of every trainable variable."""
        return {
            path: ops.convert_to_numpy(variable)
            for path, variable in zip(
                self._paths, self._trainable_variables, strict=True
            )
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
        for held in (self._trainable_variables, self.averages, self.squares):
            by_path = dict(zip(self._paths, held, strict=False))  # squares may be none
            values = {p: ops.convert_to_numpy(v) for p, v in by_path.items()}
            for path, value in self.partition.emptied(values, dead).items():
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


_TINY = 1e-30


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
