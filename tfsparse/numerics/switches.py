"""Rules of learned switches."""

from __future__ import annotations

from keras import ops


def sign_variance(switch, mean, variance, alive, gamma, threshold=0.5):
    """One step of the sign-variance rule that decides which switches are dead.

    s = sign(switch); d = s - mean;
    variance <- gamma variance + (1 - gamma) d^2;
    mean <- gamma mean + (1 - gamma) s;
    alive <- alive and variance <= threshold. Death is permanent.

    Args:
        switch: `(units,)` switch values after an optimizer step.
        mean: `(units,)` running mean of the sign.
        variance: `(units,)` running variance of the sign.
        alive: `(units,)` 1.0 alive, 0.0 dead.
        gamma: Inertia in [0, 1]; 0 kills at the first change of sign, 1 never.
        threshold: Variance above which a switch dies.

    Returns:
        `(mean, variance, alive)`, updated.

    Reference: Smallify, the successor of the ShrinkNets draft (arXiv 1806.03723).
    """
    sign = ops.sign(switch)
    deviation = sign - mean
    variance = gamma * variance + (1.0 - gamma) * ops.square(deviation)
    mean = gamma * mean + (1.0 - gamma) * sign
    survives = ops.cast(variance <= threshold, alive.dtype)
    return mean, variance, alive * survives
