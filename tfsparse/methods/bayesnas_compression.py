"""BayesNAS compression: a re-weighted group lasso, its weights set by the evidence."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np

from tfsparse import options, records
from tfsparse.methods import base, evidence_shapes, partitions, reweighted
from tfsparse.methods.gsparsity import optimizer_of
from tfsparse.records import GONE

_LOG = logging.getLogger("tfsparse")


@options.record
class BayesNASCompression(reweighted.Reweighted):
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

    No data were found on which the evidence makes smaller networks better than one weight for
    all groups does (`evidence=False`); by how much they differ stands in docs/results.md.

    Raises:
        ValueError: An argument outside its range.

    Example:
        >>> small = tfsparse.fit_shrinking(model, BayesNASCompression(), x, y, epochs=40)

    Reference: BayesNAS, Algorithm 3, eqs. B.0.1 to B.0.5 and table S3.
    """

    name = "bayesnas_compression"

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

    def end_epoch(self, model, epoch: int, tools) -> dict | None:
        """Steps 2 to 4, as a loop ends. See `Method.end_epoch`."""
        if not self.begins_loop(model, epoch):
            return None
        optimizer = optimizer_of(model)
        values = optimizer.values()
        bends, found = self.bends(model, tools)
        gone = rows = 0
        updates = [
            self._update(partition, base.array_of(held), values, bends)
            for partition, held in zip(
                optimizer.partitions, optimizer.factors, strict=True
            )
        ]
        relative = _relative(updates, optimizer.partitions)
        for number, (partition, (_, stays)) in enumerate(
            zip(optimizer.partitions, updates, strict=True)
        ):
            bounded = np.minimum(relative[number], self.largest_factor)
            factors = np.where(stays, self._multiplied(partition) * bounded, GONE)
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
            "omega": _spread(optimizer),
        }

    def _update(self, partition, held, values, curvature):
        """The next omega of each group of a partition, and which groups stay."""
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
        # Without curvature no sample reaches the group: it looks important, and is not. Where
        # a whole kernel has none, nothing is known: a saturated output, or no gradient.
        silent = np.ones(partition.groups, bool)
        for path, labels in partition.labels.items():
            if curvature[path].any():
                silent[np.unique(labels[labels >= 0])] = False
        stays = relevant & ((bends > 0) | silent) & (held < GONE / 2)
        return factors, stays

    def importance(self, model, groups) -> dict[str, np.ndarray]:
        """What the weights that write a unit, and those that read it, have of the penalty.

        sum over groups g of omega_g sum w^2 / ||w_g|| on either side: where a penalty holds
        its balance, a removal costs about that, times its strength. Of the two sides the
        root of their product, as neither is of use alone; a feature has its readers only.
        Groups without a penalty have no rank, and stay.
        """
        optimizer = optimizer_of(model)
        values = optimizer.values()
        shares = {path: np.zeros(own.shape) for path, own in values.items()}
        for factors, partition in zip(
            optimizer.factors, optimizer.partitions, strict=True
        ):
            norms, factors = partition.norms(values), base.array_of(factors)
            living = (norms > 0) & (factors < GONE / 2)
            rates = np.where(living, factors / np.where(living, norms, 1.0), 0.0)
            for path, labels in partition.labels.items():
                own = np.where(labels >= 0, rates[labels], 0.0)
                shares[path] += own * np.square(values[path], dtype="float64")
        held = {path for p in optimizer.partitions for path in p.labels}
        found: dict[str, np.ndarray] = {}
        for group in groups:
            sides: dict[str, np.ndarray] = {}
            for member in () if group.frozen else group.members:
                if member.role != records.CARRIER and member.path in held:
                    own = member.slices(shares[member.path]).sum(axis=1)
                    sums = sides.setdefault(member.role, np.zeros(group.size))
                    np.add.at(sums, member.units, own)
            if sides:
                whole = np.prod(list(sides.values()), axis=0)
                found[group.name] = whole ** (1 / len(sides))
        return found

    def sections(self, facts):
        """What each loop pruned."""
        table = records.sections
        loops = [loop for loop in facts["loops"] if "omega" in loop]
        columns = (
            table.Column("after epoch"),
            table.Column("groups"),
            table.Column("pruned by then"),
            table.Column("negative curvatures, made tiny"),
            table.Column("weights without curvature"),
            table.Column("smallest factor", table.NUMBER),
            table.Column("largest factor", table.NUMBER),
        )
        keys = ("epoch", "groups", "pruned", "negative_curvature", "zero_curvature")
        rows = tuple(
            (
                *(loop[key] for key in keys),
                min((own[0] for own in loop["omega"].values()), default=None),
                max((own[-1] for own in loop["omega"].values()), default=None),
            )
            for loop in loops
        )
        if not rows:
            return []
        return [
            table.Table(
                "What the evidence pruned",
                columns,
                rows,
                note="Groups of all shapes, those of the running model: removed ones are "
                "not counted any more. A group without curvature is one that no sample "
                "reaches; it is pruned, unless its whole layer has none.",
            ),
            _omegas(loops[-1]),
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


def _relative(updates, parts) -> list[np.ndarray]:
    """Factors over their mean among the groups that compete for a kernel's weights.

    The mean is over living groups of all shapes: what tells shapes, and groups of one
    shape, apart stays. Without it the penalty would fade as the loss, and with it the
    curvature, falls.

    Args:
        updates: Of each partition, its factors and which of its groups stay.
        parts: The partitions.
    """
    held: dict[str, list[np.ndarray]] = {}
    for (factors, stays), partition in zip(updates, parts, strict=True):
        for path, labels in partition.labels.items():
            own = np.unique(labels[labels >= 0])
            held.setdefault(path, []).append(factors[own][stays[own]])
    means = {path: _mean(np.concatenate(own)) for path, own in held.items()}
    found = []
    for (factors, _), partition in zip(updates, parts, strict=True):
        factors = factors.copy()
        for path, labels in partition.labels.items():
            own = np.unique(labels[labels >= 0])
            factors[own] = factors[own] / means[path] if means[path] > 0 else 1.0
        found.append(factors)
    return found


def _spread(optimizer) -> dict[str, list[float]]:
    """Layer -> least, middle and largest factor of its living groups of all shapes."""
    held: dict[str, list[np.ndarray]] = {}
    for factors, partition in zip(optimizer.factors, optimizer.partitions, strict=True):
        factors = base.array_of(factors)
        for path, labels in partition.labels.items():
            own = factors[np.unique(labels[labels >= 0])]
            held.setdefault(_layer(path), []).append(own[own < GONE / 2])
    found = {}
    for layer, parts in held.items():
        own = np.concatenate(parts)
        if len(own):
            found[layer] = [float(f(own)) for f in (np.min, np.median, np.max)]
    return found


def _omegas(loop) -> records.sections.Table:
    """How far apart the evidence holds the groups of each layer, as the last loop ended."""
    table = records.sections
    names = ("least", "middle", "largest")
    return table.Table(
        "How the evidence weighs the groups of a layer",
        (
            table.Column("layer", table.TEXT),
            *(table.Column(name, table.NUMBER) for name in names),
        ),
        tuple((layer, *spread) for layer, spread in loop["omega"].items()),
        note="omega, the factor on a group's penalty, of a layer's living groups as the last "
        "loop ended, a layer's multiplier included. Their mean was 1, or the multiplier, before "
        "the bound and the pruning; where all are alike the evidence tells nothing apart.",
    )


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0
