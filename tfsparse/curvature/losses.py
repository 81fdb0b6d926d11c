"""How a loss bends by a model's outputs: where curvature begins its way back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfsparse import gradients, numerics

SOFTMAX, SIGMOID = "softmax", "sigmoid"

TINY = 1e-30


@dataclasses.dataclass(frozen=True)
class Bent:
    """First and second derivatives of the mean loss of a batch by what a model puts out.

    Where a model ends in the softmax or sigmoid that its cross-entropy belongs to, both are
    by the logits before it.

    Attributes:
        end: The activation that is left out at the model's end; None for none.
        slope: `(targets, outputs) -> (batch, ...)`, the gradient of each sample's loss.
        bend: `(targets, outputs) -> (batch, ...)`, the diagonal of its Hessian.
        root: `(targets, outputs, vectors) -> (batch, ...)`: R v with R R^T the Hessian.
    """

    end: str | None
    slope: Callable
    bend: Callable
    root: Callable


def bent(loss: Any, activation: str | None) -> Bent:
    """The derivatives of a loss: in closed form where there is one.

    Softmax cross-entropy: p - y, p (1 - p), diag(p) - p p^T. Sigmoid cross-entropy, the mean
    over k outputs: (p - y) / k, p (1 - p) / k. Squared error of k outputs: 2 (z - y) / k, 2 / k.
    Any other: differentiated through the outputs; its Hessian's negative part is left out of
    the root.

    Args:
        loss: What a model may be compiled with: a Loss, a function, a name.
        activation: Name of the activation at the model's end; None for none.

    Raises:
        ValueError: There is no such loss, or more than one.
    """
    loss = single(loss)
    kind = _kind(loss)
    logits = _takes_logits(loss)
    if kind == SOFTMAX and _fits(logits, activation, SOFTMAX):
        return _softmax(loss, None if logits else SOFTMAX)
    if kind == SIGMOID and _fits(logits, activation, SIGMOID):
        return _sigmoid(None if logits else SIGMOID)
    constant = getattr(loss, "output_curvature", None)
    if constant is None and kind == "square":
        constant = _of_squares
    return _general(loss, constant)


def single(loss):
    """The one loss that a model is compiled with, as something that can be called.

    Raises:
        ValueError: There is none, or more than one.
    """
    if isinstance(loss, list | tuple) and len(loss) == 1:
        loss = loss[0]
    if isinstance(loss, dict) and len(loss) == 1:
        (loss,) = loss.values()
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    if not callable(loss):
        raise ValueError(
            "`model` must be compiled with one loss, so that its curvature can be known. "
            f"Received: loss={loss!r}."
        )
    return loss


_KINDS = {
    "SparseCategoricalCrossentropy": SOFTMAX,
    "CategoricalCrossentropy": SOFTMAX,
    "BinaryCrossentropy": SIGMOID,
    "MeanSquaredError": "square",
}


def _kind(loss) -> str | None:
    for name, kind in _KINDS.items():
        cls = getattr(keras.losses, name)
        if type(loss) is cls:
            # Smoothed labels bend a softmax alike, but move its slope: see `_general`.
            smooth = getattr(loss, "label_smoothing", 0) or (
                getattr(loss, "_fn_kwargs", {}).get("label_smoothing", 0)
            )
            ignored = getattr(loss, "ignore_class", None)
            return None if smooth or ignored is not None else kind
        if loss is getattr(cls(), "fn", None):
            return kind
    return None


def _takes_logits(loss) -> bool:
    return bool(getattr(loss, "from_logits", False))


def _fits(logits: bool, activation: str | None, wanted: str) -> bool:
    return logits or activation == wanted


def _before(outputs, end: str | None):
    """Logits of what a model puts out."""
    if end == SOFTMAX:
        return ops.log(ops.maximum(outputs, TINY))
    if end == SIGMOID:
        p = ops.clip(outputs, 1e-7, 1 - 1e-7)
        return ops.log(p / (1 - p))
    return outputs


def through_end(outputs, vectors, end: str | None):
    """What belongs to the logits, as it belongs to the outputs of the activation behind.

    A softmax's logits are log p but for a constant, which a root of its cross-entropy's
    Hessian does not see; so the vector is divided by p, or for a sigmoid by p (1 - p).

    Args:
        outputs: `(batch, ...)`, what the activation puts out.
        vectors: `(batch, ...)`, R v of `Bent.root`.
        end: The activation; None for none.
    """
    if end == SOFTMAX:
        return vectors / ops.maximum(outputs, TINY)
    if end == SIGMOID:
        p = ops.clip(outputs, 1e-7, 1 - 1e-7)
        return vectors / (p * (1 - p))
    return vectors


def _softmax(loss, end: str | None) -> Bent:
    sparse = "sparse" in getattr(loss, "name", getattr(loss, "__name__", ""))

    def one_hot(y, z):
        if not sparse:
            return ops.cast(ops.reshape(y, ops.shape(z)), z.dtype)
        labels = ops.reshape(ops.cast(y, "int32"), ops.shape(z)[:-1])
        return ops.one_hot(labels, z.shape[-1], dtype=z.dtype)

    def places(z):
        """Of a class for each pixel, the loss is the mean over all."""
        return float(math.prod(z.shape[1:-1]))

    def slope(y, outputs):
        z = _before(outputs, end)
        return (ops.softmax(z) - one_hot(y, z)) / places(z)

    def bend(y, outputs):
        z = _before(outputs, end)
        return numerics.cross_entropy_curvature(z) / places(z)

    def root(y, outputs, vectors):
        z = _before(outputs, end)
        held = numerics.cross_entropy_root(z) / places(z) ** 0.5
        return ops.matmul(held, vectors[..., None])[..., 0]

    return Bent(end, slope, bend, root)


def _sigmoid(end: str | None) -> Bent:
    def size(z):
        return float(max(1, z.shape[-1]))

    def slope(y, outputs):
        z = _before(outputs, end)
        wanted = ops.cast(ops.reshape(y, ops.shape(z)), z.dtype)
        return (ops.sigmoid(z) - wanted) / size(z)

    def bend(y, outputs):
        z = _before(outputs, end)
        p = ops.sigmoid(z)
        return p * (1 - p) / size(z)

    def root(y, outputs, vectors):
        return ops.sqrt(bend(y, outputs)) * vectors

    return Bent(end, slope, bend, root)


def _of_squares(outputs):
    """Of the mean squared error over a sample's last axis, mean over the others."""
    size = 1.0
    for side in outputs.shape[1:]:
        size *= side
    return 2.0 / size * ops.ones_like(outputs)


def _general(loss, constant: Callable | None) -> Bent:
    """Of any loss, by differentiation; `constant` where its second derivative is known."""

    each = of_samples(loss)

    def whole(y):
        return lambda z: ops.sum(each(y, z))

    def slope(y, outputs):
        return gradients.slope(whole(y), outputs)

    def bend(y, outputs):
        if constant is not None and (known := constant(outputs)) is not None:
            return known
        flat = ops.reshape(outputs, (ops.shape(outputs)[0], -1))
        held = gradients.hessians(_unfolded(whole(y), outputs), flat)
        return ops.reshape(ops.diagonal(held, axis1=1, axis2=2), ops.shape(outputs))

    def root(y, outputs, vectors):
        if constant is not None and (known := constant(outputs)) is not None:
            return ops.sqrt(known) * vectors
        flat = ops.reshape(outputs, (ops.shape(outputs)[0], -1))
        held = gradients.hessians(_unfolded(whole(y), outputs), flat)
        values, axes = ops.linalg.eigh(held)
        drawn = ops.reshape(vectors, ops.shape(flat))[:, :, None]
        scaled = ops.sqrt(ops.maximum(values, 0.0))[:, :, None] * drawn
        return ops.reshape(ops.matmul(axes, scaled), ops.shape(outputs))

    return Bent(None, slope, bend, root)


def of_samples(loss) -> Callable:
    """A loss before its mean over the batch: `(targets, outputs) -> (batch,)`."""

    def each(y, z):
        y = _like(y, z)
        own = loss.call(y, z) if isinstance(loss, keras.losses.Loss) else loss(y, z)
        return ops.mean(ops.reshape(own, (ops.shape(z)[0], -1)), axis=1)

    return each


def _like(y, z):
    """Targets in the rank of the outputs, as Keras would have them: (n,) beside (n, 1)."""
    if len(y.shape) == len(z.shape) - 1 and z.shape[-1] == 1:
        return ops.expand_dims(y, -1)
    return y


def _unfolded(function: Callable, like) -> Callable:
    """A function of outputs as one of flat outputs."""
    return lambda flat: function(ops.reshape(flat, ops.shape(like)))
