"""The estimators: what a user asks for, and what each form does with a batch.

Two recursive forms walk the graph backwards beside the gradient, one layer at a time; two
general ones need nothing but automatic differentiation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from tfsparse import gradients, numerics, records
from tfsparse.curvature import losses, recursion
from tfsparse.graph import precision, trace
from tfsparse.graph.ends import activation_at_end

FORMS = records.CURVATURES
PROBES = 8


@dataclasses.dataclass(frozen=True)
class Curvature:
    """The diagonal, and what had to be mended.

    Attributes:
        diagonal: Path -> array of the variable's shape, of the mean loss; not negative.
        negative: How many values were negative and became tiny.
        zero: How many values of kernels are 0: weights that no sample reaches.
    """

    diagonal: dict[str, np.ndarray]
    negative: int
    zero: int


def diagonal(
    model,
    data: Iterable,
    form: str = "gauss_newton",
    probes: int = PROBES,
    loss: Any = None,
) -> Curvature:
    """Estimates the diagonal Hessian of a mean loss by every weight.

    recursive: eqs. C.1.4, C.1.5 and C.2.1 to C.2.3, every sample and place by itself:
    H_W = sum x^2 H_h, H_x = (W^2)^T H_h, H_h = sigma'^2 H_a + sigma'' g.
    averaged: as eqs. C.2.4 and C.2.5, but for each place by itself: means over the batch of
    x^2, sigma'^2, sigma'' g and H go back instead of samples.
    gauss_newton: mean of (J^T R v)^2, v random signs, R a root of the loss's Hessian by the
    outputs, of softmax cross-entropy diag(p) - p p^T, see `losses.bent`.
    hutchinson: mean of v * (Hessian v), v random signs; may be negative.

    The recursion keeps the tensors between about sqrt(calls) stretches of the model and
    works the others out again, so that it never holds all feature maps.

    Args:
        model: A built model of one output; it may end in the softmax or sigmoid of a
            cross-entropy.
        data: Pairs `(x, targets)`, see `batches`.
        form: One of `FORMS`; the first two know the layers of `RULES`, the others any.
        probes: Random vectors a batch, of the last two forms.
        loss: What the model is trained on: a Keras loss, or `(targets, outputs) -> losses`;
            by default the cross-entropy of classes as whole numbers.

    Returns:
        A Curvature over the variables of the layers that it knows, or all.

    Raises:
        ValueError: An unknown form, no batch, classes that are not whole numbers, a layer
            that the recursion does not know, or a curvature that is not finite.

    Example:
        >>> diagonal(net, [(x, y)], "averaged").diagonal["fc1/kernel"].shape
        (784, 300)

    Reference: BayesNAS, appendix C; Bekas et al. 2007 (Hutchinson's diagonal).
    """
    graph, loss = _prepared(model, form, loss)
    step = step_of(graph, form, probes, loss)
    total: dict[str, np.ndarray] = {}
    samples = 0
    for x, y in data:
        y = (
            _labels(y, graph.outputs[0])
            if _sparse(loss)
            else ops.convert_to_tensor(np.asarray(y))
        )
        count = len(y)
        arrays = zip(trace.in_order(model, x), graph.inputs, strict=True)
        found = step([ops.cast(array, tensor.dtype) for array, tensor in arrays], y)
        samples += count
        for path, own in found.items():
            own = ops.convert_to_numpy(own).astype("float64") * count
            total[path] = total.get(path, 0.0) + own
    if not samples:
        raise ValueError("`data` must hold a batch. Received: none.")
    negative = zero = 0
    for path, own in total.items():
        if not np.isfinite(own).all():
            raise ValueError(
                f"`model` must have a finite curvature. Received: nan or inf for {path}. "
                "Lower the learning rate, or look for nan in the data."
            )
        mean, below = numerics.clamped(ops.convert_to_tensor(own / samples))
        total[path] = ops.convert_to_numpy(mean)
        negative += int(below)
        zero += int((own == 0).sum()) if own.ndim > 1 else 0
    return Curvature(total, negative, zero)


def check(model, form: str = "gauss_newton", loss: Any = None) -> None:
    """Checks that a model's curvature can be estimated, before anything is trained.

    Raises:
        ValueError: As of `diagonal`, but for what only data can tell.
    """
    graph, loss = _prepared(model, form, loss)
    step_of(graph, form, 1, loss)


def _prepared(model, form: str, loss):
    """The model's graph, and its loss as something that can be called."""
    if form not in FORMS:
        raise ValueError(f"`curvature` must be one of {FORMS}. Received: {form!r}.")
    graph = trace.read(precision.in_float32(model))
    if len(graph.outputs) != 1:
        raise ValueError(
            "`model` must have one output, so that its curvature can be known. Received: "
            f"{[t.shape for t in graph.outputs]}."
        )
    if loss is None:
        logits = activation_at_end(graph) != losses.SOFTMAX
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
    return graph, losses.single(loss)


def _sparse(loss) -> bool:
    name = getattr(loss, "__name__", type(loss).__name__)
    return name.lower().startswith("sparse")


def batches(x, y, size: int = 128):
    """Cuts samples (an array, or a structure of arrays) and labels into batches."""
    for start in range(0, len(y), size):
        part = slice(start, start + size)
        yield keras.tree.map_structure(lambda a, part=part: a[part], x), y[part]


def _labels(y, output: trace.Tensor):
    """Labels as whole numbers, one for each row of outputs.

    Raises:
        ValueError: They are not.
    """
    y = np.asarray(y)
    wanted = len(output.shape) - 1
    if y.ndim == wanted + 1 and y.shape[-1] == 1:
        y = y[..., 0]
    if y.ndim != wanted or (y.dtype.kind == "f" and (y != np.floor(y)).any()):
        raise ValueError(
            "`data` must hold labels that are whole numbers, one for each of the "
            f"outputs {tuple(output.shape)} but for its last axis. Received: shape "
            f"{y.shape}, {y.dtype}."
        )
    return ops.convert_to_tensor(y.astype("int32"))


def relative_error(received: dict, expected: dict) -> float:
    """Norm of the difference of two diagonals, over the norm of the second."""
    paths = list(expected)
    difference = sum(float(np.square(received[p] - expected[p]).sum()) for p in paths)
    whole = sum(float(np.square(expected[p]).sum()) for p in paths)
    return math.sqrt(difference / whole) if whole else math.inf


def step_of(graph, form: str, probes: int, loss) -> Callable:
    """`(tensors, y) -> {path: diagonal of the batch's mean loss}`, as a graph."""
    bent = losses.bent(loss, activation_at_end(graph))
    if form in ("recursive", "averaged"):
        sweep = recursion.Sweep(graph, form == "averaged", bent)
        return gradients.compiled(sweep.run)
    # The same layers, whose one output is a tensor and stands in no dict or list.
    model = keras.Model(graph.model.inputs, graph.model.outputs[0])
    variables = model.trainable_variables
    paths = [graph.paths[id(v)] for v in variables]
    seed = keras.random.SeedGenerator(0)
    each = losses.of_samples(loss)

    def signs(shape):
        drawn = keras.random.uniform(shape, seed=seed)
        return ops.where(drawn < 0.5, -1.0, 1.0)

    def probe(x, y):
        if form == "hutchinson":
            vectors = [signs(tuple(v.shape)) for v in variables]
            products = gradients.hessian_products(model, each, x, y, vectors)
            return [v * h for v, h in zip(vectors, products, strict=True)]

        def upstream(outputs):
            count = ops.cast(ops.shape(outputs)[0], outputs.dtype)
            drawn = bent.root(y, outputs, signs(ops.shape(outputs)))
            return losses.through_end(outputs, drawn, bent.end) / ops.sqrt(count)

        return [ops.square(g) for g in gradients.output_products(model, x, upstream)]

    compiled = gradients.compiled(probe)

    def step(tensors, y):
        x = trace.packed(model, tensors)
        sums = None
        for _ in range(probes):
            found = compiled(x, y)
            sums = (
                found
                if sums is None
                else [a + b for a, b in zip(sums, found, strict=True)]
            )
        return {path: own / probes for path, own in zip(paths, sums, strict=True)}

    return step
