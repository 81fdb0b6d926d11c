"""What is expected of configurations that nobody has tried: a Gaussian process an objective."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence

import numpy as np
from sklearn import exceptions, gaussian_process
from sklearn.gaussian_process import kernels

NOISE = 1e-6, 1.0
"""Bounds of the variance of what is measured, of standardised objectives."""

MOST = 300
"""Kernel parameters are fitted to at most so many configurations, evenly spaced ones."""

WIDE = 10.0
"""An objective whose largest value is so many times its least is looked at by its logarithm."""


_QUIETLY = threading.Lock()
"""Filters of warnings are one for all threads."""


class Arc(kernels.Kernel):
    """Matern 5/2 over an embedding that knows which dimensions exist.

    A dimension x in [0, 1] that is active becomes (sin(pi rho x), cos(pi rho x)), one that
    is not, which is negative, becomes (0, 0): so configurations that both lack it are alike
    in it, one that has it is as far from one that lacks it whatever its value, and two that
    have it differ by their values. With r the distance over `length`:
    k = (1 + sqrt(5) r + 5 r^2 / 3) exp(-sqrt(5) r).

    Args:
        rho: How far apart the ends of a range are, in (0.1, 0.9).
        length: Of the distances.

    Reference: Swersky et al. 2014 (arXiv 1409.4011), section 3.
    """

    def __init__(
        self,
        rho: float = 0.5,
        length: float = 1.0,
        rho_bounds: tuple[float, float] = (0.1, 0.9),
        length_bounds: tuple[float, float] = (0.05, 50.0),
    ):
        self.rho, self.length = rho, length
        self.rho_bounds, self.length_bounds = rho_bounds, length_bounds

    @property
    def hyperparameter_length(self):
        """For scikit-learn."""
        return kernels.Hyperparameter("length", "numeric", self.length_bounds)

    @property
    def hyperparameter_rho(self):
        """For scikit-learn."""
        return kernels.Hyperparameter("rho", "numeric", self.rho_bounds)

    def _embedded(self, x):
        """`(sin, cos, x)` of active dimensions, 0 of others."""
        active = x >= 0
        x = np.where(active, x, 0.0)
        angle = np.pi * self.rho * x
        return active * np.sin(angle), active * np.cos(angle), x

    def __call__(self, X, Y=None, eval_gradient=False):
        """`(n, m)`; with `eval_gradient` also by the logarithms of length and rho."""
        if Y is not None and eval_gradient:
            raise ValueError("Gradients are for Y=None. Received: Y.")
        s, c, x = self._embedded(np.atleast_2d(X))
        t, d, y = (s, c, x) if Y is None else self._embedded(np.atleast_2d(Y))
        first, second = (s**2 + c**2).sum(1), (t**2 + d**2).sum(1)
        squares = first[:, None] + second[None] - 2 * (s @ t.T + c @ d.T)
        squares = np.maximum(squares, 0.0) / self.length**2
        r = np.sqrt(5 * squares)
        decay = np.exp(-r)
        found = (1 + r + r**2 / 3) * decay
        if not eval_gradient:
            return found
        slope = -5 / 6 * (1 + r) * decay  # by the squared distance over length^2
        turned = (x * s) @ d.T - (x * c) @ t.T - s @ (y * d).T + c @ (y * t).T
        by_rho = slope * 2 * np.pi * self.rho * turned / self.length**2
        return found, np.stack([slope * -2 * squares, by_rho], axis=-1)

    def diag(self, X):
        """Ones."""
        return np.ones(len(X))

    def is_stationary(self) -> bool:
        """It is not: values matter beside whether they exist."""
        return False


class Surrogate:
    """Gaussian processes of several objectives over the same configurations.

    Args:
        x: `(configurations, dimensions)` in [0, 1], -1 where a dimension does not exist.
        y: `(configurations, objectives)`, smaller is better.
        kernel: What `parameters` gave before, so that nothing is fitted again; None fits.
        seed: Of the starts of the fit.

    Example:
        >>> surrogate = Surrogate(x, y)
        >>> surrogate.draw(candidates, np.random.default_rng(0)).shape
        (200, 3)
    """

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        kernel: Sequence[Sequence[float]] | None = None,
        seed: int = 0,
    ):
        self._logs = logarithmic(y)
        seen = scaled(y, self._logs)
        if kernel is None:
            few = np.unique(np.linspace(0, len(x) - 1, MOST).astype(int))
            kernel = [_fitted(x[few], _standard(own[few]), seed) for own in seen.T]
        self.parameters = [list(map(float, own)) for own in kernel]
        """Logarithms of each objective's kernel parameters, as JSON."""
        self._means, self._deviations = seen.mean(axis=0), seen.std(axis=0)
        self._deviations[self._deviations == 0] = 1.0
        standard = (seen - self._means) / self._deviations
        self._models = [
            _process(theta).fit(x, own)
            for theta, own in zip(self.parameters, standard.T, strict=True)
        ]

    def draw(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One joint sample of what the objectives may be: `(candidates, objectives)`.

        The noise of measuring them is no part of it.
        """
        found = []
        for model in self._models:
            mean, covariance = model.predict(x, return_cov=True)
            covariance -= model.kernel_.k2.noise_level * np.eye(len(x))
            sizes, axes = np.linalg.eigh(covariance)
            noise = np.sqrt(np.maximum(sizes, 0.0)) * rng.normal(size=len(x))
            found.append(mean + axes @ noise)
        return self._back(np.stack(found, axis=1))

    def mean(self, x: np.ndarray) -> np.ndarray:
        """What is expected: `(candidates, objectives)`."""
        return self._back(
            np.stack([model.predict(x) for model in self._models], axis=1)
        )

    def _back(self, standard: np.ndarray) -> np.ndarray:
        return unscaled(self._means + self._deviations * standard, self._logs)


def logarithmic(y: np.ndarray) -> np.ndarray:
    """Which objectives span orders of magnitude: `(objectives,)` bool."""
    least = y.min(axis=0)
    return (least > 0) & (y.max(axis=0) > WIDE * np.maximum(least, 1e-300))


def scaled(y: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """Objectives, some of them by their logarithms."""
    return np.where(logs, np.log(np.where(logs, np.maximum(y, 1e-300), 1.0)), y)


def unscaled(y: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """What `scaled` was given."""
    return np.where(logs, np.exp(np.where(logs, np.minimum(y, 600.0), 0.0)), y)


def _process(theta: Sequence[float] | None):
    kernel = kernels.ConstantKernel(1.0, (1e-2, 1e2)) * Arc() + kernels.WhiteKernel(
        1e-2, NOISE
    )
    if theta is not None:
        kernel = kernel.clone_with_theta(np.asarray(theta))
    return gaussian_process.GaussianProcessRegressor(
        kernel,
        optimizer=None if theta is not None else "fmin_l_bfgs_b",
    )


def _standard(y: np.ndarray) -> np.ndarray:
    return (y - y.mean()) / (y.std() or 1.0)


def _fitted(x, y, seed: int) -> np.ndarray:
    """Logarithms of the parameters of greatest likelihood."""
    model = _process(None)
    model.set_params(random_state=seed, n_restarts_optimizer=1)
    with _QUIETLY, warnings.catch_warnings():
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
        return model.fit(x, y).kernel_.theta
