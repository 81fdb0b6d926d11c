"""ProxSGD against Algorithm 1 in NumPy loops, optimality conditions, and Keras's machinery."""

from __future__ import annotations

import keras
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from tfsparse import records
from tfsparse.optimizers import ProxSGD


def prox_in_metric(b, tau, mu):
    """argmin 1/2 sum tau (x - b)^2 + mu ||x||, by a root of its norm."""
    if np.linalg.norm(tau * b) <= mu:
        return np.zeros_like(b)
    if mu == 0:
        return b

    def excess(s):
        return ((tau * b) ** 2 / (tau * s + mu) ** 2).sum() - 1.0

    s = optimize.brentq(excess, 1e-12, 1.0 + np.linalg.norm(b) * 10, xtol=1e-14)
    return tau * s / (tau * s + mu) * b


class Algorithm1:
    """The paper's step, one group at a time."""

    def __init__(self, weights, partition, mu, eps, rho, tau, beta=0.999, power=0.0):
        self.w = {k: v.astype("float64").copy() for k, v in weights.items()}
        self.v = {k: np.zeros_like(v) for k, v in self.w.items()}
        self.r = {k: np.zeros_like(v) for k, v in self.w.items()}
        self.partition, self.mu, self.eps, self.rho = partition, mu, eps, rho
        self.tau, self.beta, self.power, self.t = tau, beta, power, 0

    def step(self, gradients):
        self.t += 1
        for k, g in gradients.items():
            self.v[k] = (1 - self.rho) * self.v[k] + self.rho * g
            self.r[k] = self.beta * self.r[k] + (1 - self.beta) * g**2
        rms = {
            k: np.sqrt(r / (1 - self.beta**self.t)) + 1e-8 for k, r in self.r.items()
        }
        where = {
            k: np.broadcast_to(self.partition.labels.get(k, np.array(-1)), w.shape)
            for k, w in self.w.items()
        }
        new = {k: w.copy() for k, w in self.w.items()}
        factors = self.partition.multipliers
        for group in range(self.partition.groups):
            spots = {k: places == group for k, places in where.items()}
            size = sum(s.sum() for s in spots.values())
            if not size:
                continue
            mu = self.mu * size**self.power
            mu *= 1.0 if factors is None else factors[group]
            gather = lambda d: np.concatenate([d[k][s] for k, s in spots.items()])  # noqa: B023, E731
            w, v, tau = gather(self.w), gather(self.v), np.ones(size)
            if self.tau == "group":
                tau = np.full(size, gather(rms).mean())
            elif self.tau == "element":
                tau = gather(rms)
            x = w + self.eps * (prox_in_metric(w - v / tau, tau, mu) - w)
            start = 0
            for k, s in spots.items():
                new[k][s] = x[start : start + s.sum()]
                start += s.sum()
        for k, places in where.items():
            free = places < 0
            tau = {"constant": 1.0, "group": rms[k].mean(), "element": rms[k]}[self.tau]
            plain = self.w[k] - self.eps * self.v[k] / tau
            new[k][free] = plain[free]
        self.w = new


def variables(shapes, rng, scale=1.0):
    found = []
    for number, shape in enumerate(shapes):
        value = rng.normal(size=shape).astype("float32") * scale
        found.append(keras.Variable(value, name=f"v{number}"))
    return found


def random_labels(shape, groups, rng):
    """Labels on a random choice of axes, some of them unpenalised."""
    kept = [n if rng.random() < 0.6 else 1 for n in shape]
    return rng.integers(-1, groups, kept).astype("int32")


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["constant", "group", "element"]))
def test_a_step_is_algorithm_1(seed, tau):
    rng = np.random.default_rng(seed)
    shapes = [
        tuple(rng.integers(1, 5, rng.integers(1, 5))) for _ in range(rng.integers(1, 5))
    ]
    weights = variables(shapes, rng)
    groups = int(rng.integers(1, 7))
    labels = {
        v.path: random_labels(v.shape, groups, rng)
        for v in weights
        if rng.random() < 0.8
    } or {weights[0].path: np.zeros([1] * len(shapes[0]), "int32")}
    partition = records.Partition(labels)
    if rng.random() < 0.5:
        partition = records.Partition(
            labels, multipliers=rng.uniform(0, 2, partition.groups)
        )
    scaling = rng.choice(["none", "sqrt", "inverse_sqrt"])
    power = {"none": 0.0, "sqrt": 0.5, "inverse_sqrt": -0.5}[scaling]
    mu, eps, rho = rng.uniform(0, 1.5), rng.uniform(0.05, 1), rng.uniform(0.05, 1)
    optimizer = ProxSGD(partition, mu, eps, rho, tau, scaling=str(scaling))
    expected = Algorithm1(
        {v.path: np.asarray(v) for v in weights},
        partition, mu, eps, rho, tau, power=power,
    )  # fmt: skip
    for _ in range(3):
        gradients = [rng.normal(size=v.shape).astype("float32") for v in weights]
        optimizer.apply([keras.ops.array(g) for g in gradients], weights)
        expected.step({v.path: g for v, g in zip(weights, gradients, strict=True)})
    for variable in weights:
        np.testing.assert_allclose(
            variable, expected.w[variable.path], rtol=2e-4, atol=2e-5
        )
