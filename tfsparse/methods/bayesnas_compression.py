"""BayesNAS compression: a re-weighted group lasso, its weights set by the evidence."""

from __future__ import annotations

import dataclasses
import logging

import keras
import numpy as np

from tfsparse import numerics, records
from tfsparse.methods import base, evidence_shapes, partitions
from tfsparse.methods.gsparsity import optimizer_of
from tfsparse.optimizers import GONE, OverlappingProxSGD

_LOG = logging.getLogger("tfsparse")


class BayesNASCompression(base.Method):
    """Prunes groups of weights whose prior variance the evidence takes to nothing.

    Algorithm 3, loop by loop:

        1. train on L + strength sum_g omega_g ||w_g||, by proximal steps;
        2. H: the diagonal Hessian of the mean loss, over lambda;
        3. gamma_g = ||w_g|| / omega_g, alpha = H / (1 + gamma H),
           omega_g = sqrt(sum of alpha over the group), over its mean in the layer;
        4. prune the groups with ln(2 pi e gamma_g) / 2 <= 0, for good.

    Groups of several shapes at once overlap; a weight stays while all of its groups do.
    Zeros inside a kernel that ships make no file smaller: fine-tuning may use these
    weights again, unless `--hold_zeros` says otherwise.

    Args:
        strength: lambda; larger is sparser. The first loop has omega = 1.
        conv_shapes: Shapes of the groups of convolutions, joined by `+`, of
            `evidence_shapes.SHAPES`; or a list with patterns of layers,
            `conv1=shape+filter,conv2=channel`.
        dense_shapes: The same for Dense layers, where `row` is all of an input and
            `column` all of an output.
        loop_epochs: Epochs of a loop.
        curvature: How H is estimated, see `tfsparse.curvature`.
        eps: Step size in (0, 1].
        rho: Weight of the new gradient in the average, in (0, 1].
        threshold: Norm up to which a group is dead between the loops.
        largest_factor: Bound on omega, or re-weighting could run away.
        ignore: Patterns, separated by commas, of layers without a penalty.
        multipliers: Patterns of layers with factors on their lambda: `fc*=3`.

    Raises:
        ValueError: An argument outside its range.

    Example:
        >>> small = tfsparse.fit_shrinking(model, BayesNASCompression(), x, y, epochs=40)

    Reference: BayesNAS, Algorithm 3, eqs. B.0.1 to B.0.5 and table S3.
    """

    name = "bayesnas_compression"
    strength = "lambda"
    kinds = ("unit", "feature")
    regrows = True

    def __init__(
        self,
        strength: float = 2e-3,
        conv_shapes: str = "shape+filter",
        dense_shapes: str = "row+column",
        loop_epochs: int = 3,
        curvature: str = "recursive",
        eps: float = 0.5,
        rho: float = 0.1,
        threshold: float = 1e-6,
        largest_factor: float = 10.0,
        ignore: str = "",
        multipliers: str = "",
    ):
        if curvature not in records.CURVATURES:
            raise ValueError(
                f"`curvature` must be one of {records.CURVATURES}. Received: {curvature!r}."
            )
        if not loop_epochs >= 1 or loop_epochs % 1:
            raise ValueError(
                "`loop_epochs` must be a whole number from 1 on. Received: "
                f"loop_epochs={loop_epochs!r}."
            )
        for name, value in (
            ("threshold", threshold),
            ("largest_factor", largest_factor),
        ):
            if not 0 <= value < GONE / 2:
                raise ValueError(
                    f"`{name}` must be in [0, {GONE / 2:g}). Received: {name}={value!r}."
                )
        self._config = {
            "strength": strength,
            "conv_shapes": conv_shapes,
            "dense_shapes": dense_shapes,
            "loop_epochs": loop_epochs,
            "curvature": curvature,
            "eps": eps,
            "rho": rho,
            "threshold": threshold,
            "largest_factor": largest_factor,
            "ignore": ignore,
            "multipliers": multipliers,
        }
        self._multipliers = base.multipliers(multipliers, "conv1=2,fc*=3", GONE)
        self._shapes = {
            name: evidence_shapes.parse(self._config[name], name)
            for name in ("conv_shapes", "dense_shapes")
        }
        base.check_step(eps)
        self.learning_rate = eps
        self.thresholds = tuple(sorted({1e-6, 1e-3, threshold}))
        self._optimizer([records.Partition({})])  # checks the others

    def get_config(self) -> dict:
        return dict(self._config)

    def _optimizer(self, partitions):
        config = self._config
        return OverlappingProxSGD(
            partitions, config["strength"], config["eps"], config["rho"]
        )

    def prepare(self, model, groups):
        """A copy of the model; the optimizer does it all.

        Layers with weights but no kernel that shapes are cut from stay plain; a line says
        so.
        """
        if left := _plain(model):
            _LOG.warning(
                "Without groups of weights, kept as they are: %s", ", ".join(left)
            )
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
        return copy

    def optimizer(self, model, groups):
        """ProxSGD over the groups of every shape.

        Raises:
            ValueError: Nothing can be penalised.
        """
        written = evidence_shapes.carriers(model, groups)
        ignore = base.patterns(self._config["ignore"])
        shapes = self._shapes["conv_shapes"], self._shapes["dense_shapes"]
        found = evidence_shapes.levels(model, *shapes, written, ignore)
        names = {_layer(path) for p in found for path in p.labels}
        base.check_patterns("multipliers", self._multipliers, sorted(names))
        return self._optimizer(
            [dataclasses.replace(p, multipliers=self._multiplied(p)) for p in found]
        )

    def _multiplied(self, partition) -> np.ndarray:
        """The factor on lambda of each group of a partition."""
        found = np.ones(partition.groups)
        for path, labels in partition.labels.items():
            factor = base.own_number(_layer(path), self._multipliers)
            if factor is not None:
                found[np.unique(labels[labels >= 0])] = factor
        return found

    def set_strength(self, model, value: float) -> None:
        optimizer_of(model).mu.assign(value)

    def groups(self, model) -> int:
        return sum(p.groups for p in optimizer_of(model).partitions)

    def check_epochs(self, epochs: int) -> None:
        if self._config["loop_epochs"] > epochs:
            raise ValueError(
                f"`loop_epochs` must fit into the epochs of the penalty ({epochs}). "
                f"Received: loop_epochs={self._config['loop_epochs']}."
            )

    def check_tools(self, model, tools) -> None:
        """Refuses a model or loss without a known curvature. See `Method.check_tools`."""
        tools.check_curvature(model, self._config["curvature"])

    def end_epoch(self, model, epoch: int, tools) -> dict | None:
        """Steps 2 to 4, as a loop ends. See `Method.end_epoch`."""
        if (epoch + 1) % self._config["loop_epochs"]:
            return None
        found = tools.curvature(model, self._config["curvature"])
        optimizer = optimizer_of(model)
        values = optimizer.values()
        # The loss is weighed 1 / lambda against the prior, and its curvature with it.
        strength = float(keras.ops.convert_to_numpy(optimizer.mu)) or 1.0
        bends = {path: own / strength for path, own in found.diagonal.items()}
        gone = rows = 0
        for number, partition in enumerate(optimizer.partitions):
            held = keras.ops.convert_to_numpy(optimizer.factors[number])
            factors = self._factors(partition, held, values, bends)
            optimizer.reweigh(number, factors)
            gone += int((factors >= GONE).sum())
            rows += partition.groups
        optimizer.prune(self._config["threshold"])
        return {
            "epoch": epoch + 1,
            "groups": rows,
            "pruned": gone,
            "negative_curvature": found.negative,
            "zero_curvature": found.zero,
        }

    def _factors(self, partition, held, values, curvature) -> np.ndarray:
        """The next omega of each group of a partition; `GONE` for what is pruned."""
        norms = partition.norms(values)
        array = keras.ops.convert_to_numpy
        # Each layer's own lambda: its curvature weighs less, its penalty more.
        own = self._multiplied(partition)
        held = np.where(held < GONE / 2, held / own, GONE)
        curvature = {
            path: curvature[path] / np.where(labels >= 0, own[labels], 1.0)
            for path, labels in partition.labels.items()
        }
        gamma = array(
            numerics.evidence_variance(
                keras.ops.convert_to_tensor(norms),
                keras.ops.convert_to_tensor(held, norms.dtype),
            )
        )
        slopes = {}
        for path, labels in partition.labels.items():
            spread = np.where(labels >= 0, gamma[labels], 0.0)
            spread = np.broadcast_to(spread, values[path].shape)
            slopes[path] = array(
                numerics.evidence_slopes(
                    keras.ops.convert_to_tensor(spread),
                    keras.ops.convert_to_tensor(curvature[path], spread.dtype),
                )
            )
        bends = partition.sums(curvature)
        factors = np.sqrt(partition.sums(slopes))
        relevant = array(numerics.is_relevant(keras.ops.convert_to_tensor(gamma)))
        # Without curvature no sample reaches the group: it looks important, and is not.
        stays = relevant & (bends > 0) & (held < GONE / 2)
        factors = _relative(factors, stays, partition)
        bounded = np.minimum(factors, self._config["largest_factor"])
        return np.where(stays, own * bounded, GONE)

    def settle(self, model, threshold: float | None = None) -> np.ndarray:
        """Prunes for good what has died."""
        threshold = self._config["threshold"] if threshold is None else threshold
        return optimizer_of(model).prune(threshold)

    def keep(self, model, groups, tools=None) -> dict[str, np.ndarray]:
        """Units that something writes and reads, and features that something reads."""
        values = {v.path: keras.ops.convert_to_numpy(v) for v in model.variables}
        values |= optimizer_of(model).emptied(self._config["threshold"])
        return base.used_units(groups, values)


def _layer(path: str) -> str:
    """The layer of a variable."""
    return path.rpartition("/")[0]


def _plain(model) -> list[str]:
    """Layers with weights from which no groups are cut, and their classes."""
    cut = {path for path, _ in partitions.kernels(model)}
    return [
        f"{layer.name} ({type(layer).__name__})"
        for layer in model.layers
        if any(len(v.shape) > 1 for v in layer.trainable_variables)
        and not any(v.path in cut for v in layer.trainable_variables)
    ]


def _relative(factors, stays, partition) -> np.ndarray:
    """Factors over their mean in each layer, pruned groups not counted: its lambda^l.

    The curvature falls as the loss does; without this the penalty would fade with it.
    """
    found = factors.copy()
    for labels in partition.labels.values():
        own = np.unique(labels[labels >= 0])
        mean = factors[own][stays[own]].mean() if stays[own].any() else 0.0
        found[own] = factors[own] / mean if mean > 0 else 1.0
    return found
