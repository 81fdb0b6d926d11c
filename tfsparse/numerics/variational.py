"""Kullback-Leibler divergences and what follows from a variational posterior."""

from __future__ import annotations

import math

import numpy as np
from keras import ops

K1, K2, K3 = 0.63576, 1.87320, 1.48695
"""Constants of the fit to the divergence from a log-uniform prior."""

LIMIT = 8.0
"""log alpha is kept within [-LIMIT, LIMIT]."""


def log_alpha(mean, log_variance, limit: float = LIMIT):
    """The log of the noise's size beside the signal's.

    log alpha = log sigma^2 - log(mean^2 + 1e-8), within [-limit, limit].

    Args:
        mean: Means of the posterior, any shape.
        log_variance: log sigma^2, of the same shape.
        limit: Where it is cut off.

    Returns:
        A tensor of that shape.

    Example:
        >>> float(log_alpha(ops.array(1.0), ops.array(-2.0)))
        -2.0

    Reference: Molchanov et al. 2017, eq. 12 (the additive parametrisation).
    """
    return ops.clip(log_variance - ops.log(ops.square(mean) + 1e-8), -limit, limit)


def log_uniform_kl(log_alpha):
    """Divergence of N(mean, alpha mean^2) from the log-uniform prior, element by element.

    KL = k1 - k1 sigmoid(k2 + k3 log alpha) + log(1 + 1/alpha) / 2: a fit, exact to
    0.01 (the constant of the improper prior is chosen so that it ends at 0). A scale
    with a normal-Jeffreys prior has the same.

    Args:
        log_alpha: See `log_alpha`.

    Returns:
        A tensor of that shape, falling from 4.64 at -8 to 0.

    Example:
        >>> round(float(log_uniform_kl(ops.array(0.0))), 3)
        0.431

    Reference: Molchanov et al. 2017, eq. 14; Louizos et al. 2017, eq. 9.
    """
    # softplus(x) = log(1 + exp(x)) does not overflow where 1/alpha would.
    return K1 - K1 * ops.sigmoid(K2 + K3 * log_alpha) + 0.5 * ops.softplus(-log_alpha)


def log_uniform_divergence(mean, log_variance, limit: float = LIMIT):
    """Sum of `log_uniform_kl` over weights, its gradient in closed form.

    With k the divergence of one weight and l its log alpha, dk/dl = k1 k3 s (s - 1) -
    sigmoid(-l) / 2, s = sigmoid(k2 + k3 l); dl/d(log sigma^2) = 1 and dl/d(mean) =
    -2 mean / (mean^2 + 1e-8) within the limits, 0 beyond. Half as many passes over
    the weights as automatic differentiation takes.

    Args:
        mean: Means of the posterior, any shape.
        log_variance: log sigma^2, of the same shape.
        limit: As of `log_alpha`.

    Returns:
        A scalar.

    Reference: Molchanov et al. 2017, eq. 14.
    """

    # Copies: run eagerly, a variable would count as captured and not as an argument.
    @ops.custom_gradient
    def divergence(mean, log_variance):
        square = ops.square(mean) + 1e-8
        free = log_variance - ops.log(square)
        ratio = ops.clip(free, -limit, limit)
        gate = ops.sigmoid(K2 + K3 * ratio)
        signal = ops.sigmoid(ratio)  # softplus(-l) = -log(sigmoid(l))
        value = ops.sum(K1 * gate + 0.5 * ops.log(signal))

        def slopes(*upstream, **_):
            inside = ops.cast(ops.equal(free, ratio), ratio.dtype) * upstream[0]
            slope = (K1 * K3 * gate * (gate - 1.0) - 0.5 + 0.5 * signal) * inside
            return slope * mean * (-2.0 / square), slope

        return K1 * math.prod(mean.shape) - value, slopes

    return divergence(ops.copy(mean), ops.copy(log_variance))


def log_uniform_variance(mean, log_variance, limit: float = LIMIT):
    """sigma^2 = alpha mean^2, alpha = sigma^2 / (mean^2 + 1e-8) kept within its limits.

    Args:
        mean: Means of the posterior, any shape.
        log_variance: log sigma^2, of the same shape.
        limit: As of `log_alpha`.

    Returns:
        A tensor of that shape.

    Reference: Molchanov et al. 2017, section 4.2.
    """

    @ops.custom_gradient
    def variance(mean, log_variance):
        square = ops.square(mean)
        free = ops.exp(log_variance) / (square + 1e-8)
        alpha = ops.clip(free, math.exp(-limit), math.exp(limit))
        value = alpha * square

        def slopes(*upstream, **_):
            inside = ops.cast(ops.equal(free, alpha), alpha.dtype)
            # alpha follows the mean inside its limits, and there all but undoes square.
            left = 1.0 - inside * (square / (square + 1e-8))
            along = upstream[0] * alpha
            return 2.0 * along * mean * left, along * square * inside

        return value, slopes

    return variance(ops.copy(mean), ops.copy(log_variance))


def gaussian_divergence(mean, log_variance):
    """Sum of `gaussian_kl` over weights, its gradient in closed form.

    d/d(mean) = mean; d/d(log sigma^2) = (sigma^2 - 1) / 2.

    Args:
        mean: Any shape.
        log_variance: log sigma^2, of the same shape.

    Returns:
        A scalar.

    Reference: Louizos et al. 2017, eq. 8.
    """

    @ops.custom_gradient
    def divergence(mean, log_variance):
        variance = ops.exp(log_variance)
        value = ops.sum(variance + ops.square(mean) - log_variance)

        def slopes(*upstream, **_):
            return upstream[0] * mean, (0.5 * upstream[0]) * (variance - 1.0)

        return 0.5 * (value - math.prod(mean.shape)), slopes

    return divergence(ops.copy(mean), ops.copy(log_variance))


def gaussian_kl(mean, log_variance):
    """Divergence of N(mean, sigma^2) from N(0, 1), element by element.

    KL = (sigma^2 + mean^2 - 1 - log sigma^2) / 2.

    Args:
        mean: Any shape.
        log_variance: log sigma^2, of the same shape.

    Returns:
        A tensor of that shape; 0 where both arguments are 0.

    Reference: Louizos et al. 2017, eq. 8.
    """
    return 0.5 * (ops.exp(log_variance) + ops.square(mean) - 1.0 - log_variance)


def half_cauchy_kl(mean, log_variance, scale: float = 1.0):
    """Divergence of LN(mean, sigma^2) from Gamma(1/2, scale^2), element by element.

    KL = log scale + exp(mean + sigma^2 / 2) / scale^2 - (mean + log sigma^2 + 1 + log 2) / 2.
    The root of such a variable times one from InvGamma(1/2, 1) is half-Cauchy.

    Args:
        mean: Of the logarithm, any shape.
        log_variance: log sigma^2 of the logarithm, of the same shape.
        scale: Of the half-Cauchy; positive.

    Returns:
        A tensor of that shape.

    Reference: Louizos et al. 2017, section 4.2 and appendix (the split of a half-Cauchy).
    """
    expected = ops.exp(mean + 0.5 * ops.exp(log_variance)) / scale**2
    entropy = 0.5 * (mean + log_variance + 1.0 + math.log(2.0))
    return math.log(scale) + expected - entropy


def inverse_gamma_kl(mean, log_variance):
    """Divergence of LN(mean, sigma^2) from InvGamma(1/2, 1), element by element.

    KL = exp(-mean + sigma^2 / 2) - (-mean + log sigma^2 + 1 + log 2) / 2.

    Args:
        mean: Of the logarithm, any shape.
        log_variance: log sigma^2 of the logarithm, of the same shape.

    Returns:
        A tensor of that shape.

    Reference: Louizos et al. 2017, section 4.2 and appendix.
    """
    return half_cauchy_kl(-mean, log_variance)


def significant_bits(mean, variance) -> int:
    """Bits that a layer's weights need where their posterior is that wide.

    A weight needs as many bits of fraction as there are round-offs 2^-t (t = 1..23)
    above its standard deviation: what is finer drowns in the posterior's noise. With
    their average, rounded up, go a sign and ceil(log2(|log2 largest| + 1) + 1) bits of
    exponent, `largest` being the largest |mean|.

    Args:
        mean: Means of the weights that stay, any shape with at least one element.
        variance: Their variances, of the same shape.

    Returns:
        Bits of each weight of the layer.

    Example:
        >>> significant_bits(ops.array([1.0]), ops.array([1e-4]))   # 6 + 1 + 1
        8

    Reference: Louizos et al. 2017, section 4.3 and their code, which compares with twice
    the variance where the paper speaks of the standard deviation.
    """
    steps = 2.0 ** -np.arange(1, 24)
    deviation = np.sqrt(np.ravel(ops.convert_to_numpy(variance)))
    fraction = (steps > deviation[:, None]).sum(axis=1).mean()
    largest = float(np.abs(ops.convert_to_numpy(mean)).max())
    exponent = math.log2(abs(math.log2(largest)) + 1) + 1 if largest else 1
    return math.ceil(fraction) + math.ceil(exponent) + 1


def widest_gap(scores, low: float, high: float) -> float:
    """A threshold between signal and noise: the middle of the widest gap in the scores.

    Only the part of a gap that lies in [low, high] counts; what scores less than `low` is
    signal and what scores more than `high` is noise, whatever the gaps are.

    Args:
        scores: `(units,)`, larger is noisier.
        low, high: Where doubt begins and ends.

    Returns:
        The threshold, in [low, high].

    Example:
        >>> widest_gap(np.array([-6.0, -5.0, 1.0, 2.0]), -4.0, 3.0)
        -1.5
    """
    places = np.clip(np.sort(np.ravel(scores)), low, high)
    places = np.concatenate([[low], places, [high]])
    widest = int(np.diff(places).argmax())
    return float(places[widest : widest + 2].mean())


def gaps(scores, most: int | None = None) -> np.ndarray:
    """Every threshold that parts scores in another way: what scores below it stays.

    Args:
        scores: `(units,)`, larger is noisier.
        most: That many of them at most, evenly spread over the order of the scores.

    Returns:
        Rising; below the first lies the lowest score alone, below the last lie all.

    Example:
        >>> gaps(np.array([2.0, -6.0, 1.0, 1.0]))
        array([-2.5,  1.5,  3. ])
    """
    places = np.unique(np.ravel(scores).astype("float64"))
    if not len(places):
        return places
    found = np.append((places[:-1] + places[1:]) / 2, places[-1] + 1.0)
    if most is not None and len(found) > most:
        found = found[np.linspace(0, len(found) - 1, most).astype(int)]
    return found


def warm_up(epoch: float, first: float, rise: float, largest: float = 1.0) -> float:
    """The weight of the divergence: 0, then a line, then constant.

    largest * clip((epoch - first) / rise, 0, 1); without a rise it jumps.

    Args:
        epoch: Epochs done, parts of one included.
        first: Epochs at 0.
        rise: Epochs of the line.
        largest: Weight after them.

    Returns:
        The weight.

    Example:
        >>> [warm_up(e, 5, 15) for e in (0, 5, 12.5, 20, 99)]
        [0.0, 0.0, 0.5, 1.0, 1.0]

    Reference: Molchanov et al. 2017, section 6.1 (with their code's 5 and 15 epochs);
    SpArSe, appendix A (N1, N2, gamma).
    """
    if epoch < first:
        return 0.0
    return largest * (min(1.0, (epoch - first) / rise) if rise else 1.0)
