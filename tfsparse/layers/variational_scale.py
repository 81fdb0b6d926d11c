"""VariationalScale: one random factor for each unit of a group."""

from __future__ import annotations

import math

import keras
import numpy as np
from keras import ops

from tfsparse import numerics, records
from tfsparse.layers import noise
from tfsparse.layers.per_unit import PerUnit

SMALLEST_TAIL = 1e-15
"""Of the horseshoe: below 1e-18 its divergence is nan in float32."""
LARGEST_TAIL = 0.1
"""Of the horseshoe: nearer to 1, a factor of noise lies beside where all begin."""


@keras.saving.register_keras_serializable("tfsparse")
class VariationalScale(PerUnit):
    """Multiplies each unit by a random factor z, and penalises what the factors tell.

    Training draws a z for each sample and unit, at each place where the layer is called;
    inference uses its mean, or 0 where the
    score reaches the threshold. The penalty is strength * KL from a prior under which
    most factors are noise.

    normal_jeffreys: z ~ N(mu, sigma^2), prior p(z) ~ 1 / |z|; score log alpha =
    log(sigma^2 / mu^2).
    horseshoe: z = sqrt(s_a s_b a b), s ~ C+(0, tail) shared by the layer and sqrt(a b) ~
    C+(0, 1) of each unit; all four are log-normal, so log z ~ N(mu, sigma^2) with mu half
    the sum of their means and sigma^2 a quarter of that of their variances; score
    3 sigma^2 - mu (minus the log of z's mode, plus twice its variance).

    Args:
        units: Number of factors; None for as many as the input has channels.
        prior: `normal_jeffreys` or `horseshoe`.
        strength: Weight of the divergence, in units of the loss; held in a variable.
            1 / samples for a mean loss.
        threshold: On the score; a variable, too.
        tail: tau_0, the scale of the shared factor's half-Cauchy; horseshoe only.
        seed: Of the noise.

    Call arguments:
        See `PerUnit`.

    Raises:
        ValueError: An argument outside its range.

    Example:
        >>> x = VariationalScale(784, strength=1 / 60_000)(keras.layers.Flatten()(image))

    Reference: Louizos et al. 2017 (arXiv 1705.08665), sections 4.1 and 4.2.
    """

    def __init__(
        self,
        units: int | None = None,
        prior: str = "normal_jeffreys",
        strength: float = 0.0,
        threshold: float | None = None,
        tail: float = 1e-5,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(units, **kwargs)
        if prior not in records.SCALE_PRIORS:
            raise ValueError(
                f"`prior` must be one of {records.SCALE_PRIORS}. Received: {prior!r}."
            )
        if not 0 <= strength < math.inf:
            raise ValueError(
                f"`strength` must be a number >= 0. Received: strength={strength}."
            )
        if not SMALLEST_TAIL <= tail <= LARGEST_TAIL:
            raise ValueError(
                f"`tail` must be in [{SMALLEST_TAIL}, {LARGEST_TAIL}]: float32 ends below, "
                f"and noise looks like signal above. Received: tail={tail}."
            )
        if threshold is None:
            threshold = certain(prior, tail)
        low, high = sensible(prior, tail)
        if not low <= threshold <= high:
            raise ValueError(
                f"`threshold` must be in [{low:g}, {high:.3g}], where scores under "
                f"{prior} lie. Received: threshold={threshold}."
            )
        self.prior = prior
        self.initial_strength = float(strength)
        self.initial_threshold = float(threshold)
        self.tail = float(tail)
        self.seed = int(seed)
        self.noise = keras.random.SeedGenerator(self.seed)
        noise.table()

    def build(self, input_shape):
        super().build(input_shape)
        rng = np.random.default_rng(self.seed)

        def start(value):
            return lambda shape, dtype: ops.cast(rng.normal(value, 0.01, shape), dtype)

        def add(name, shape, value):
            return self.add_weight(
                shape=shape, name=name, initializer=start(value), autocast=False
            )

        unit, whole = (self.units,), (2, 1)
        if self.prior == "normal_jeffreys":
            self.mean = add("mean", unit, 1.0)
            self.log_variance = add("log_variance", unit, -9.0)
        else:
            # What the shared factor lacks at the start the heavy tail of b makes up
            # for: so z starts near 1, and falls to `tail` where nothing holds it.
            shared = 2.0 * math.log(self.tail)
            self.inner_mean = add("inner_mean", unit, 0.0)
            self.inner_log_variance = add("inner_log_variance", unit, -9.0)
            self.mean = add("mean", unit, -shared)
            self.log_variance = add("log_variance", unit, -9.0)
            self.shared_mean = self.add_weight(
                shape=whole,
                name="shared_mean",
                initializer=lambda shape, dtype: ops.cast([[shared], [0.0]], dtype),
                autocast=False,
            )
            self.shared_log_variance = add("shared_log_variance", whole, -9.0)
        # A regularizer, not add_loss: one penalty however often the layer is called.
        self.mean.regularizer = self._penalty
        for variable in self.trainable_variables:
            variable.undecayed = True  # by an optimizer's weight decay
        for name, value in (
            ("strength", self.initial_strength),
            ("threshold", self.initial_threshold),
        ):
            variable = self.add_weight(
                shape=(),
                name=name,
                initializer=keras.initializers.Constant(value),
                trainable=False,
                autocast=False,
            )
            setattr(self, name, variable)

    def _log_normal(self):
        """Mean and variance of log z under the horseshoe. `(units,)` each."""
        mean = 0.5 * (self.inner_mean + self.mean + ops.sum(self.shared_mean))
        variance = 0.25 * (
            ops.exp(self.inner_log_variance)
            + ops.exp(self.log_variance)
            + ops.sum(ops.exp(self.shared_log_variance))
        )
        return mean, variance

    def moments(self):
        """Mean and variance of z under the posterior. `(units,)` each."""
        if self.prior == "normal_jeffreys":
            return ops.convert_to_tensor(self.mean), ops.exp(self.log_variance)
        mean, variance = self._log_normal()
        expected = ops.exp(mean + 0.5 * variance)
        return expected, ops.expm1(variance) * ops.square(expected)

    def score(self):
        """What tells noise from signal: larger is noisier. `(units,)`."""
        if self.prior == "normal_jeffreys":
            return self.log_variance - ops.log(ops.square(self.mean) + 1e-8)
        mean, variance = self._log_normal()
        return 3.0 * variance - mean

    def active(self):
        """Which units stay. `(units,)` bool."""
        return self.score() < self.threshold

    def scale(self):
        mean, _ = self.moments()
        return mean * ops.cast(self.active(), mean.dtype)

    def divergence(self):
        """The divergence of all factors from their prior, a scalar."""
        if self.prior == "normal_jeffreys":
            # Without the clip of single weights: factors start at log alpha -9, beyond it.
            return numerics.log_uniform_divergence(
                self.mean, self.log_variance, limit=30.0
            )
        inner = numerics.half_cauchy_kl(self.inner_mean, self.inner_log_variance)
        outer = numerics.inverse_gamma_kl(self.mean, self.log_variance)
        mean, variance = self.shared_mean, self.shared_log_variance
        shared = numerics.half_cauchy_kl(mean[0], variance[0], self.tail)
        shared += numerics.inverse_gamma_kl(mean[1], variance[1])
        return ops.sum(inner + outer) + ops.sum(shared)

    def _penalty(self, _):
        return self.strength * self.divergence()

    def call(self, inputs, units=None, activation=None, training=False):
        if not training:
            return self.apply(inputs, self.scale(), units, activation)
        shape = ops.shape(inputs)
        shape = (shape[0], *(1 for _ in shape[2:]), self.units)
        drawn = noise.normal(shape, self.noise, self.mean.dtype)
        if self.prior == "normal_jeffreys":
            scale = self.mean + ops.exp(0.5 * self.log_variance) * drawn
        else:
            scale = self._drawn(drawn)
        return self.apply(inputs, scale, units, activation)

    def _drawn(self, drawn):
        """Factors of the horseshoe; the shared one is the same for a sample's units."""
        mean, _ = self._log_normal()
        own = 0.25 * (ops.exp(self.inner_log_variance) + ops.exp(self.log_variance))
        common = 0.25 * ops.sum(ops.exp(self.shared_log_variance))
        shape = (*ops.shape(drawn)[:-1], 1)
        shared = noise.normal(shape, self.noise, self.mean.dtype)
        return ops.exp(mean + ops.sqrt(own) * drawn + ops.sqrt(common) * shared)

    def get_config(self):
        return {
            **super().get_config(),
            "prior": self.prior,
            "strength": self.initial_strength,
            "threshold": self.initial_threshold,
            "tail": self.tail,
            "seed": self.seed,
        }


def certain(prior: str, tail: float = 1e-5) -> float:
    """The score from which a unit is noise beyond doubt.

    normal_jeffreys: log alpha 3, as of single weights (95 % dropout); horseshoe: z has
    fallen half of the way, in its logarithm, to `tail`.
    """
    return 3.0 if prior == "normal_jeffreys" else -0.5 * math.log(tail)


def sensible(prior: str, tail: float = 1e-5) -> tuple[float, float]:
    """Between which scores a threshold parts anything.

    normal_jeffreys: from log alpha -20, far below where factors start (-9), to 8, where
    alpha of single weights is clipped; horseshoe: from z = e^10 to the square of `tail`.
    """
    if prior == "normal_jeffreys":
        return -20.0, 8.0
    return -10.0, -2.0 * math.log(tail)
