"""Filter: one learned on/off switch for each unit of a group."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from tfsparse import numerics, records
from tfsparse.layers.per_unit import PerUnit

LEAST = 1e-2
"""What a held switch has at least."""

NO_FLOOR = -1e9


@keras.saving.register_keras_serializable("tfsparse")
class Filter(PerUnit):
    """Multiplies each unit by a learned switch, and penalises the switches.

    relu form (the draft):      y = x * max(0, theta), penalty strength * sum max(0, theta);
                                a unit is dead where theta <= 0.
    signed form (Smallify):     y = x * beta, penalty strength * sum |beta|;
                                a unit dies, for good, when the running variance of
                                its switch's sign passes 0.5.

    One Filter may be called at several places: coupled units (a residual sum, a
    depthwise stage) then share their switch.

    Args:
        units: Number of switches; None for as many as the input has channels.
        form: `relu` or `signed`.
        strength: The penalty's factor lambda; held in a variable (`strength`), so
            that changing it retraces nothing.
        gamma: Inertia of the sign-variance rule, in [0, 1]; signed form only.
        initial: `uniform` (U(0, 1] for relu; U(-1, 1) for signed, as in Smallify's code,
            whose paper says N(0, 1)) or `ones`.
        seed: Seed of the initial values.

    Call arguments:
        See `PerUnit`.

    Raises:
        ValueError: An unknown form, a negative strength or a gamma outside [0, 1].

    Example:
        >>> y = Filter(8, strength=4e-3)(keras.layers.Conv2D(8, 3)(x), activation="relu")

    Reference: ShrinkNets draft, eqs. 1 and 2; Smallify (arXiv 1806.03723).
    """

    def __init__(
        self,
        units: int | None = None,
        form: str = "relu",
        strength: float = 0.0,
        gamma: float = 0.99,
        initial: str = "uniform",
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(units, **kwargs)
        if form not in records.SWITCH_FORMS:
            raise ValueError(
                f"`form` must be one of {records.SWITCH_FORMS}. Received: form={form!r}."
            )
        if not strength >= 0:
            raise ValueError(f"`strength` must be >= 0. Received: strength={strength}.")
        if not 0 <= gamma <= 1:
            raise ValueError(f"`gamma` must be in [0, 1]. Received: gamma={gamma}.")
        if initial not in ("uniform", "ones"):
            raise ValueError(
                f"`initial` must be 'uniform' or 'ones'. Received: initial={initial!r}."
            )
        self.form = form
        self.initial_strength = float(strength)
        self.gamma = float(gamma)
        self.initial = initial
        self.seed = int(seed)

    def build(self, input_shape):
        super().build(input_shape)
        self.switch = self._state("switch", self._start, trainable=True)
        if self.form == "signed":
            self.mean = self._state("mean", lambda: np.sign(self._start()))
            self.variance = self._state("variance", lambda: np.zeros(self.units))
            self.alive = self._state("alive", lambda: np.ones(self.units))
            self.last = self._state("last", self._start)
        # A regularizer, not add_loss: one penalty however often the layer is called.
        self.switch.regularizer = self.penalty
        self.floor = self._state("floor", lambda: np.full(self.units, NO_FLOOR))
        self.switch.constraint = self._held
        self.strength = self.add_weight(
            shape=(),
            name="strength",
            initializer=keras.initializers.Constant(self.initial_strength),
            trainable=False,
        )

    def _start(self) -> np.ndarray:
        if self.initial == "ones":
            return np.ones(self.units)
        uniform = np.random.default_rng(self.seed).random(self.units)
        return 1.0 - uniform if self.form == "relu" else 2.0 * uniform - 1.0

    def _state(self, name, values, trainable=False):
        # Replicas compute the same state, so any of them may write it.
        return self.add_weight(
            shape=(self.units,),
            name=name,
            initializer=lambda shape, dtype: ops.cast(values(), dtype),
            trainable=trainable,
            aggregation="mean" if trainable else "only_first_replica",
        )

    def scale(self):
        """The factor of each unit. `(units,)`; exactly 0 where the unit is dead.

        A death that the last optimizer step caused counts, judged or not.
        """
        if self.form == "relu":
            return ops.relu(self.switch)
        return self.switch * self.pending()[2]

    def penalty(self, switch):
        """Strength * sum |scale|, the first term of draft eq. 10, as a scalar."""
        if self.form == "relu":
            return self.strength * ops.sum(ops.relu(switch))
        return self.strength * ops.sum(ops.abs(switch * self.alive))

    def pending(self):
        """`(mean, variance, alive)` once the last optimizer step has been judged.

        A step shows as a change of the switches: so the rule runs once per update,
        whatever number of calls or of accumulated micro-batches lies between.
        """
        judged = numerics.sign_variance(
            self.switch, self.mean, self.variance, self.alive, self.gamma
        )
        moved = ops.any(ops.not_equal(self.switch, self.last))
        mean, variance, alive = judged
        judged = (
            mean,
            variance,
            ops.maximum(alive, ops.cast(self.floor > 0, alive.dtype)),
        )
        state = (self.mean, self.variance, self.alive)
        return tuple(
            ops.where(moved, new, old) for new, old in zip(judged, state, strict=True)
        )

    def hold(self) -> None:
        """From here on no living unit dies: what the penalty left is meant to stay."""
        switch, alive = ops.convert_to_numpy(self.switch), self.alive_units()
        if self.form == "relu":
            self.switch.assign(np.where(alive, np.maximum(switch, LEAST), switch))
        self.floor.assign(np.where(alive, LEAST, NO_FLOOR))

    def _held(self, switch):
        """The switches once the optimizer has moved them: none that is held dies."""
        if self.form == "relu":
            return ops.maximum(switch, self.floor)
        return switch

    def alive_units(self) -> np.ndarray:
        """Which units live, the last optimizer step included. `(units,)` bool."""
        if self.form == "relu":
            return ops.convert_to_numpy(self.switch) > 0
        return ops.convert_to_numpy(self.pending()[2]) > 0

    def call(self, inputs, units=None, activation=None, training=False):
        if self.form == "signed" and training:
            mean, variance, alive = self.pending()
            self.mean.assign(mean)
            self.variance.assign(variance)
            self.alive.assign(alive)
            self.last.assign(self.switch)
        return self.apply(inputs, self.scale(), units, activation)

    def get_config(self):
        return {
            **super().get_config(),
            "form": self.form,
            "strength": self.initial_strength,
            "gamma": self.gamma,
            "initial": self.initial,
            "seed": self.seed,
        }
