"""An optimizer that moves all its variables in one step, a function of tensors."""

from __future__ import annotations

import logging

import keras
from keras import ops

from tfsparse.optimizers import private

_LOG = logging.getLogger(__name__)


class JointOptimizer(keras.optimizers.Optimizer):
    """Gathers what a step needs, calls it, assigns what comes back.

    Keras updates one variable after the other; norms of groups need them all. A subclass
    calls `adopt` at the end of its `build` and says what a step is:

    - `refused`: A variable that it creates, an integer.
    - `slots()`: Lists of optimizer variables, one for each variable, or empty ones.
    - `step(gradients, weights, *slots, eps)`: From tensors to tensors, see there.

    Under tf.distribute every replica runs the step on gradients summed over them all. A
    step whose gradients are not finite is refused: it changes nothing and is counted.
    """

    def adopt(self, variables) -> list:
        """Notes which variables a step moves, and returns them.

        Those that their gradient replaces (scales of float8) are Keras's alone.
        """
        private.check_hooks()
        self._told = 0
        self._own = [
            number
            for number, variable in enumerate(variables)
            if not getattr(variable, "overwrite_with_gradient", False)
        ]
        return [variables[number] for number in self._own]

    def slots(self) -> tuple[list, ...]:
        """The optimizer variables that a step moves too."""
        raise NotImplementedError

    def step(self, gradients, weights, *slots_and_eps) -> tuple:
        """One step, nothing assigned.

        Args:
            gradients: One for each variable; None for those that stay as they are.
            weights: One for each variable.
            slots_and_eps: Lists of slots, as `slots` has them; then the step size.

        Returns:
            Whether the gradients are finite; new weights; new slots, list by list.
        """
        raise NotImplementedError

    def update_step(self, gradient, variable, learning_rate):
        """Never called while Keras hands over all gradients at once."""
        raise private.moved("Optimizer._backend_update_step", "steps them all at once")

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
        """Weights and slots of the optimizer's own variables."""
        kinds = private.trained(self), *self.slots()
        return [[kind[i] for i in self._own] if kind else [] for kind in kinds]

    def _in_order(self, pairs) -> list:
        """A gradient for each own variable, None for those without."""
        found = {private.number_of(self, v): gradient for gradient, v in pairs}
        return [found.get(number) for number in self._own]

    def _update(self, refused, gradients, held, eps) -> None:
        """Assigns what a step makes of the variables of one replica."""
        weights, *slots = (
            [ops.convert_to_tensor(variable) for variable in kind] for kind in held
        )
        gradients = [
            None if g is None else ops.cast(ops.convert_to_tensor(g), w.dtype)
            for g, w in zip(gradients, weights, strict=True)
        ]
        finite, *found = self.step(gradients, weights, *slots, ops.cast(eps, "float32"))
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

    def tell_refused(self) -> None:
        """Logs how many steps were refused since this was last told."""
        refused = int(ops.convert_to_numpy(self.refused))
        if refused > self._told:
            _LOG.warning(
                "%d steps were refused and changed no weight: their gradients were not "
                "finite. Look for nan in the data, or lower the learning rate.",
                refused - self._told,
            )
        self._told = refused
