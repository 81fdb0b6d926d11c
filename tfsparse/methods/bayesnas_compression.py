"""BayesNAS compression: a re-weighted group lasso, its weights set by the evidence."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np

from tfsparse import options, records
from tfsparse.methods import base, evidence_shapes, partitions
from tfsparse.methods.gsparsity import optimizer_of
from tfsparse.records import GONE

_LOG = logging.getLogger("tfsparse")


@options.record
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

    Raises:
        ValueError: An argument outside its range.

    Example:
        >>> small = tfsparse.fit_shrinking(model, BayesNASCompression(), x, y, epochs=40)

    Reference: BayesNAS, Algorithm 3, eqs. B.0.1 to B.0.5 and table S3.
    """

    name = "bayesnas_compression"
    regrows = True

    strength: float = options.field(
        2e-3,
        "Weight of the penalty (lambda); larger is sparser. In the first loop every group's "
        "own factor is 1.",
        low=0,
    )
    conv_shapes: str = options.field(
        "shape+filter",
        "Shapes of the groups of convolutions, joined by +, or a list of patterns of "
        "layers: conv1=shape+filter,conv2=channel.",
        check=lambda text: evidence_shapes.parse(text, "conv_shapes"),
    )
    dense_shapes: str = options.field(
        "row+column",
        "The same for Dense layers, where row is all of an input and column all of an "
        "output.",
        check=lambda text: evidence_shapes.parse(text, "dense_shapes"),
    )
    loop_epochs: int = options.field(
        3, "Epochs between two updates of the groups' own factors.", low=1
    )
    curvature: str = options.field(
        "recursive",
        "How the diagonal Hessian of the loss is estimated.",
        choices=records.CURVATURES,
    )
    eps: float = options.field(
        0.5, "Step size of the proximal optimizer.", above=0, high=1
    )
    rho: float = options.field(
        0.1, "Weight of the new gradient in the running average.", above=0, high=1
    )
    threshold: float = options.field(
        1e-6,
        "Norm up to which a group is dead between the loops.",
        low=0,
        below=GONE / 2,
    )
    largest_factor: float = options.field(
        10.0,
        "Bound on omega, the factor on a group's penalty; without it re-weighting could "
        "run away.",
        low=0,
        below=GONE / 2,
    )
    ignore: str = options.patterns(
        "", "Patterns of layers without a penalty.", example="stem*,logits"
    )
    multipliers: str = options.pairs(
        "",
        "Factors on the penalty of layers, by patterns of their names.",
        example="conv1=2,fc*=3",
        above=0,
        below=GONE,
    )

    @property
    def kinds(self):
        """Units and features."""
        return ("unit", "feature")

    @property
    def learning_rate(self):
        """The step size."""
        return self.eps

    @property
    def thresholds(self):
        """Norms at which the report tells what discretisation costs."""
        return tuple(sorted({1e-6, 1e-3, self.threshold}))

    def _multipliers(self) -> dict[str, float]:
        return options.numbers(self.multipliers, "multipliers", "conv1=2,fc*=3")

    def prepare(self, model, groups):
        """A copy of the model; the optimizer does it all.

        Layers with weights but no kernel that shapes are cut from stay plain; a line says
        so.
        """

        if left := _plain(model):
            _LOG.warning(
                "Without groups of weights, kept as they are: %s", ", ".join(left)
            )
        from tfsparse.graph.rebuild import copied

        return copied(model)

    def optimizer(self, model, groups):
        """ProxSGD over the groups of every shape.

        Raises:
            ValueError: Nothing can be penalised.
        """
        from tfsparse import optimizers

        written = evidence_shapes.carriers(model, groups)
        ignore = options.listed(self.ignore)
        shapes = (
            evidence_shapes.parse(self.conv_shapes, "conv_shapes"),
            evidence_shapes.parse(self.dense_shapes, "dense_shapes"),
        )
        found = evidence_shapes.levels(model, *shapes, written, ignore)
        names = {_layer(path) for p in found for path in p.labels}
        options.check_patterns("multipliers", self._multipliers(), sorted(names))
        weighed = [
            dataclasses.replace(p, multipliers=self._multiplied(p)) for p in found
        ]
        return optimizers.OverlappingProxSGD(weighed, self.strength, self.eps, self.rho)

    def _multiplied(self, partition) -> np.ndarray:
        """The factor on lambda of each group of a partition."""
        found, factors = np.ones(partition.groups), self._multipliers()
        for path, labels in partition.labels.items():
            factor = options.own_number(_layer(path), factors)
            if factor is not None:
                found[np.unique(labels[labels >= 0])] = factor
        return found

    def set_strength(self, model, value: float) -> None:
        optimizer_of(model).mu.assign(value)

    def groups(self, model) -> int:
        return sum(p.groups for p in optimizer_of(model).partitions)

    def check_epochs(self, epochs: int) -> None:
        if self.loop_epochs > epochs:
            raise ValueError(
                f"`loop_epochs` must fit into the epochs of the penalty ({epochs}). "
                f"Received: loop_epochs={self.loop_epochs}."
            )

    def check_tools(self, model, tools) -> None:
        """Refuses a model or loss without a known curvature. See `Method.check_tools`."""
        tools.check_curvature(model, self.curvature)

    def end_epoch(self, model, epoch: int, tools) -> dict | None:
        """Steps 2 to 4, as a loop ends. See `Method.end_epoch`."""
        if (epoch + 1) % self.loop_epochs:
            return None
        found = tools.curvature(model, self.curvature)
        optimizer = optimizer_of(model)
        values = optimizer.values()
        # The loss is weighed 1 / lambda against the prior, and its curvature with it.
        strength = float(base.array_of(optimizer.mu)) or 1.0
        bends = {path: own / strength for path, own in found.diagonal.items()}
        gone = rows = 0
        for number, partition in enumerate(optimizer.partitions):
            held = base.array_of(optimizer.factors[number])
            factors = self._factors(partition, held, values, bends)
            optimizer.reweigh(number, factors)
            gone += int((factors >= GONE).sum())
            rows += partition.groups
        optimizer.prune(self.threshold)
        return {
            "epoch": epoch + 1,
            "groups": rows,
            "pruned": gone,
            "negative_curvature": found.negative,
            "zero_curvature": found.zero,
        }

    def _factors(self, partition, held, values, curvature) -> np.ndarray:
        """The next omega of each group of a partition; `GONE` for what is pruned."""
        import keras

        from tfsparse import numerics

        norms = partition.norms(values)
        # Each layer's own lambda: its curvature weighs less, its penalty more.
        own = self._multiplied(partition)
        held = np.where(held < GONE / 2, held / own, GONE)
        curvature = {
            path: curvature[path] / np.where(labels >= 0, own[labels], 1.0)
            for path, labels in partition.labels.items()
        }
        gamma = base.array_of(
            numerics.evidence_variance(
                keras.ops.convert_to_tensor(norms),
                keras.ops.convert_to_tensor(held, norms.dtype),
            )
        )
        slopes = {}
        for path, labels in partition.labels.items():
            spread = np.where(labels >= 0, gamma[labels], 0.0)
            spread = np.broadcast_to(spread, values[path].shape)
            slopes[path] = base.array_of(
                numerics.evidence_slopes(
                    keras.ops.convert_to_tensor(spread),
                    keras.ops.convert_to_tensor(curvature[path], spread.dtype),
                )
            )
        bends = partition.sums(curvature)
        factors = np.sqrt(partition.sums(slopes))
        relevant = base.array_of(
            numerics.is_relevant(keras.ops.convert_to_tensor(gamma))
        )
        # Without curvature no sample reaches the group: it looks important, and is not.
        stays = relevant & (bends > 0) & (held < GONE / 2)
        factors = _relative(factors, stays, partition)
        bounded = np.minimum(factors, self.largest_factor)
        return np.where(stays, own * bounded, GONE)

    def settle(self, model, threshold: float | None = None) -> np.ndarray:
        """Prunes for good what has died."""
        threshold = self.threshold if threshold is None else threshold
        return optimizer_of(model).prune(threshold)

    def sections(self, facts):
        """What each loop pruned."""
        table = records.sections
        columns = (
            "after epoch",
            "groups",
            "pruned by then",
            "negative curvatures, made tiny",
            "weights without curvature",
        )
        keys = ("epoch", "groups", "pruned", "negative_curvature", "zero_curvature")
        rows = tuple(tuple(loop[key] for key in keys) for loop in facts["loops"])
        if not rows:
            return []
        return [
            table.Table(
                "What the evidence pruned",
                tuple(table.Column(name) for name in columns),
                rows,
                note="Groups of all shapes, those of the running model: removed ones are "
                "not counted any more. A group without curvature is one that no sample "
                "reaches; it is pruned.",
            )
        ]

    def keep(self, model, groups, tools=None) -> dict[str, np.ndarray]:
        """Units that something writes and reads, and features that something reads."""
        values = base.values_of(model)
        values |= optimizer_of(model).emptied(self.threshold)
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
