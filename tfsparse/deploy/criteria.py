"""How much each unit matters: scores of the units of a trained model.

Every criterion is `(group, job) -> scores (units,)`, higher is better; `None` says
that it cannot judge this group, and the group stays.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from typing import Any

import keras
import numpy as np

from tfsparse import gradients, records
from tfsparse.deploy import variables
from tfsparse.graph import groups, trace
from tfsparse.graph.rebuild import rebuild

TAYLOR_BATCH = 4
"""Samples in a batch of `taylor`: at a minimum, the mean over many is mostly noise."""


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """What the criteria look at.

    Attributes:
        analysis: The model's groups and labels.
        data: `(x, y)` arrays, or None.
        loss: `(targets, outputs) -> losses`, for `taylor`.
        seed: For `random`.
    """

    analysis: groups.Analysis
    data: Any = None
    loss: Any = None
    seed: int = 0

    @functools.cached_property
    def values(self) -> dict[str, np.ndarray]:
        """Path -> value of every variable."""
        return variables.values_of(self.analysis.graph)

    @functools.cached_property
    def squared_slopes(self) -> dict[str, np.ndarray]:
        """Group -> mean over batches of the squared slope of the loss by each unit."""
        graph, groups_ = self.analysis.graph, self.analysis.groups
        found = {g.name: np.zeros(g.size) for g in groups_ if not g.frozen}
        samples = 0
        x, y = self.data
        batches = gradients.of_batches(graph.model, self.loss, x, y, TAYLOR_BATCH)
        for count, slopes in batches:
            samples += count
            products = {
                graph.paths[key]: self.values[graph.paths[key]] * slope
                for key, slope in slopes.items()
            }
            for group in groups_:
                if not group.frozen:
                    slope = np.zeros(group.size)
                    for member in _of_taylor(group):
                        if member.path in products:
                            own = rows(products[member.path], member).sum(axis=1)
                            np.add.at(slope, member.units, own)
                    found[group.name] += count * slope**2
        return {name: total / samples for name, total in found.items()}

    @functools.cached_property
    def activations(self) -> dict[trace.Tensor, np.ndarray]:
        """Tensor that ends units -> mean magnitude over samples, by its last axis."""
        graph = self.analysis.graph
        walk = self.analysis.walks["unit"]
        read = {path for path, _, role in walk.members if role == records.CONSUMER}
        wanted: dict[trace.Tensor, None] = {}
        for call in graph.calls:
            if any(
                graph.paths[id(v)] in read for v in trace.variables_of(call.operation)
            ):
                for tensor in call.inputs:
                    if self.analysis.axes["unit"][tensor][-1] is not None:
                        wanted[tensor] = None
        caught: dict[trace.Tensor, Any] = {}

        def after(old, new):
            caught[old] = new
            return new

        twin, operations = rebuild(graph, after=after)
        variables.load(operations, graph, self.values, None)
        means = [
            keras.ops.mean(keras.ops.abs(caught[t]), tuple(range(1, len(t.shape) - 1)))
            if len(t.shape) > 2
            else keras.ops.abs(caught[t])
            for t in wanted
        ]
        if not means:
            return {}
        reader = keras.Model(twin.inputs, means)
        inputs = trace.in_order(graph.model, self.data[0])
        answers = keras.tree.flatten(reader.predict(inputs, verbose=0))
        return {t: a.mean(axis=0) for t, a in zip(wanted, answers, strict=True)}


def rows(value: np.ndarray, member: records.Member) -> np.ndarray:
    """The slices of a variable that a member's positions own, flat. `(n, elements)`."""
    return member.slices(value).astype("float64")


def _producers(group):
    return [m for m in group.members if m.role == records.PRODUCER]


def _summed(group, job, of):
    total = np.zeros(group.size)
    for member in _producers(group):
        np.add.at(total, member.units, of(rows(job.values[member.path], member)))
    return total


def l1(group, job):
    """Sum |w| over all that writes the unit."""
    return _summed(group, job, lambda w: np.abs(w).sum(axis=1))


def l2(group, job):
    """sqrt(sum w^2) over all that writes the unit."""
    return np.sqrt(_summed(group, job, lambda w: np.square(w).sum(axis=1)))


def bn_scale(group, job):
    """Mean |gamma| of the BatchNorms on the unit's way (network slimming)."""
    total, count = np.zeros(group.size), np.zeros(group.size)
    for member in group.members:
        if member.role == records.CARRIER and member.path.endswith("/gamma"):
            gamma = np.abs(job.values[member.path][member.indices])
            np.add.at(total, member.units, gamma)
            np.add.at(count, member.units, 1)
    return total / count if count.all() else None


def _of_taylor(group):
    """The weights whose common factor is a factor on the unit: those that read it.

    Where a unit ends without weights: those that write it, and its biases.
    """
    readers = [m for m in group.members if m.role == records.CONSUMER]
    if readers and not group.gates:
        return readers
    return _producers(group) + [
        m
        for m in group.members
        if m.role == records.CARRIER and m.path.endswith("/bias")
    ]


def taylor(group, job):
    """Mean over batches of (sum w dL/dw)^2 over what reads the unit: how the loss of
    a batch moves without it, to first order (Molchanov et al. 2019, arXiv:1906.10771,
    eq. 8, with a gate behind BatchNorm and activation).
    """
    return job.squared_slopes[group.name]


def fpgm(group, job):
    """Sum of distances to the other units' weights: near the geometric median, others
    can stand in for it (He et al. 2019, arXiv:1811.00250, eq. 5).
    """
    parts = []
    for member in _producers(group):
        own = rows(job.values[member.path], member)
        order = np.argsort(member.units, kind="stable")
        parts.append(own[order].reshape(group.size, -1))
    weights = np.concatenate(parts, axis=1)
    squares = np.square(weights).sum(axis=1)
    gaps = squares[:, None] + squares[None, :] - 2 * weights @ weights.T
    return np.sqrt(np.maximum(gaps, 0)).sum(axis=1)


def activation(group, job):
    """Mean magnitude of what the unit's consumers read, over the data, times the L2 norm
    of the weights that read it: what arrives (Sun et al. 2023, arXiv:2306.11695, eq. 1,
    summed over a unit's weights).
    """
    roots = job.analysis.walks["unit"].units[group.name]
    total, count = np.zeros(group.size), 0
    for tensor, means in job.activations.items():
        labels = job.analysis.axes["unit"][tensor][-1]
        places = labels[None, :] == roots[:, None]
        if places.any():
            total += (places * means).sum(axis=1) / np.maximum(places.sum(axis=1), 1)
            count += 1
    squares = np.zeros(group.size)
    for member in group.members:
        if member.role == records.CONSUMER:
            own = np.square(rows(job.values[member.path], member)).sum(axis=1)
            np.add.at(squares, member.units, own)
    norms = np.sqrt(squares) if squares.any() else 1.0  # 1: they end without weights
    return total / count * norms if count else None


def random(group, job):
    """The same numbers for the same seed and group."""
    return np.random.default_rng([job.seed, zlib.crc32(group.name.encode())]).random(
        group.size
    )


CRITERIA = {f.__name__: f for f in (l1, l2, bn_scale, taylor, fpgm, activation, random)}
NEED_DATA = {"taylor", "activation"}
