"""BayesNAS: architecture search in which the evidence switches operations off."""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence

import numpy as np

from tfsparse import options, records
from tfsparse.methods import base, partitions, reweighted
from tfsparse.methods.gsparsity import optimizer_of
from tfsparse.records import GONE

LEAST = 1e-4
"""Below it a prior variance is drawn as that."""

CRITERIA = ("evidence", "without predecessors", "magnitude")
"""What operations can be kept by; the first is the paper's, eq. 8."""


@options.record
class BayesNAS(reweighted.Reweighted):
    """Searches among the inputs of every Add: each operation has a factor w, and those go
    whose prior variance the evidence takes to nothing.

    Algorithms 1 (every sum for itself) and 2 (`shared`), loop by loop:

        1. train weights and factors on L + strength sum_g omega_g ||w_g||, g the factors of
           one operation over all cells that share it; by proximal steps;
        2. H: the diagonal Hessian of the mean loss by the factors, over lambda;
        3. alpha = H / (1 + gamma H), omega_g = sqrt(sum of alpha over g), s_g = ||w_g|| / omega_g,
           gamma_g = (1 / s_edge + 1 / sum of s of all operations into what it reads + 1 / s_g)^-1;
        4. prune the operations with ln(2 pi e gamma_g) / 2 <= 0, for good.

    All operations between the same two nodes have a second factor in common, that of their
    edge: no zero operation is needed. It stands behind their sum, not before them, where a
    BatchNorm would undo it.

    Raises:
        ValueError: An argument outside its range.

    Example:
        >>> found = tfsparse.fit_shrinking(supernet, BayesNAS(), x, y, epochs=12).model

    Reference: BayesNAS, Algorithms 1 and 2, eqs. 8, 16 to 21 and A.3.1 to A.3.9.
    """

    name = "bayesnas"
    stages = base.SEARCH

    strength: float = options.field(
        0.01,
        "Weight of the penalty on the operations' factors (lambda_w); larger is sparser.",
        low=0,
    )
    shared: str = options.patterns(
        "",
        "How the names of cells begin that share their operations, a number after each; an "
        "operation is then one group over all of them.",
        example="normal,reduction",
    )
    predecessors: bool = options.field(
        True,
        "Whether an operation's prior variance counts what leads to it: where that dies, it "
        "dies.",
    )
    decay: float = options.field(
        1e-4,
        "Decay of the weights, not of the factors, while operations are searched (lambda).",
        low=0,
    )
    ignore: str = options.patterns(
        "", "Patterns of sums whose operations all stay.", example="stage1*"
    )

    @property
    def kinds(self):
        """Branches."""
        return ("branch",)

    def prepare(self, model, groups):
        """A copy of the model with a factor behind every input of an Add, and one behind the
        sum of those that read the same.
        """
        import keras

        from tfsparse.graph import rebuild

        ignore = options.listed(self.ignore)
        placed = {}
        for group in groups:
            if group.kind == "branch" and not partitions.named(group.name, ignore):
                gate = group.gates[0]
                if not group.frozen:
                    placed[gate.layer, gate.call] = group

        def call(item, operation, args, kwargs):
            group = placed.get((item.name, item.index))
            if group is None:
                return operation(*args, **kwargs)
            flat = keras.tree.flatten((args, kwargs))
            tensors = [x for x in flat if isinstance(x, keras.KerasTensor)]
            nests = isinstance(operation, keras.layers.Add)
            tensors = _weighed(group, tensors, nests)
            if nests:
                return operation(tensors)
            args, kwargs = rebuild.refilled(tensors, args, kwargs)
            return operation(*args, **kwargs)

        return rebuild.graft(model, replay=call)

    def optimizer(self, model, groups):
        """Proximal steps on the factors, plain ones on the weights.

        Raises:
            ValueError: Nothing can be searched.
        """
        from tfsparse import optimizers

        held = parameters(model)
        if not held:
            raise ValueError(
                "`model` must hold an Add of operations to choose among. Received: "
                f"{model.name!r} without one (`ignore`={self.ignore!r})."
            )
        found = records.Partition(
            {
                layer.factor.path: np.full((1,), number, "int32")
                for number, layer in enumerate(held)
            },
            tuple(layer.operation for layer in held),
        )
        if self.shared:
            found = partitions.shared(found, options.listed(self.shared))
        return optimizers.OverlappingProxSGD(
            [found], self.strength, self.eps, self.rho, weight_decay=self.decay or None
        )

    def end_epoch(self, model, epoch: int, tools) -> dict | None:
        """Steps 2 to 4, as a loop ends. See `Method.end_epoch`."""
        if not self.begins_loop(model, epoch):
            return None
        from tfsparse import numerics

        optimizer = optimizer_of(model)
        (partition,), (held,) = optimizer.partitions, optimizer.factors
        layers, values = parameters(model), optimizer.values()
        bends, _ = self.bends(model, tools)
        bends = {x.factor.path: bends[x.factor.path] for x in layers}
        norms, omega = partition.norms(values), _omega(partition, layers, bends)
        # Without curvature no sample reaches the operation: it looks important, and is not.
        reached = (partition.sums(bends) > 0) & (base.array_of(held) < GONE / 2)
        own = base.array_of(numerics.evidence_variance(norms, omega))
        own = np.where(reached, own, 0.0).astype("float32")
        graph = _dependence(partition, layers)
        gamma = graph.variance(own, self.predecessors)
        stays = base.array_of(numerics.is_relevant(gamma)) & reached
        for layer in layers:
            layer.variance.assign(gamma[partition.labels[layer.factor.path]])
        optimizer.reweigh(0, np.where(stays, omega, GONE))
        optimizer.prune(self.threshold)
        ranks = (np.where(stays, gamma, 0.0), graph.variance(own, False), norms)
        kept = int((stays & graph.operations).sum())
        return {
            "epoch": epoch + 1,
            "groups": int(graph.operations.sum()),
            "operations": kept,
            "dangling": {
                name: graph.dangling(rank, kept)
                for name, rank in zip(CRITERIA, ranks, strict=True)
            },
            "names": list(partition.names),
            "weights": norms.tolist(),
            "omega": omega.tolist(),
            "gamma": gamma.tolist(),
            "kept": stays.tolist(),
        }

    def keep(self, model, groups, tools=None) -> dict[str, np.ndarray]:
        """The operations whose factors live."""
        optimizer = optimizer_of(model)
        dead = optimizer.dead(self.threshold)
        return partitions.live_branches(optimizer.partitions[0], groups, dead)

    def sections(self, facts):
        """What each loop pruned, and how the evidence saw every operation at last."""
        loops = [loop for loop in facts["loops"] if "operations" in loop]
        return [_loops(loops), _variances(loops), _last(loops[-1])] if loops else []


def parameters(model) -> list:
    """The factors of a prepared model, in the order of its layers."""
    from tfsparse import layers

    return [x for x in model.layers if isinstance(x, layers.ArchitectureParameter)]


def _weighed(group, tensors, nests: bool) -> list:
    """What an Add reads instead: every operation times its factor, and where there are
    several edges the sum of each with several operations times the edge's.
    """
    import keras

    from tfsparse import layers

    edges: dict[str, list[int]] = collections.defaultdict(list)
    for number, source in enumerate(group.begins):
        edges[source or f"{group.name}[{number}]"].append(number)
    found = []
    for place, (source, numbers) in enumerate(edges.items()):
        name = partitions.scale_name(group.gates[numbers[0]])
        joined = nests and len(edges) > 1 and len(numbers) > 1

        def factor(operation, edge, name, source=source):
            return layers.ArchitectureParameter(
                source, group.name, edge, operation, group.shown, name=name
            )

        own = [
            factor(
                group.ends[number],
                f"{name}_edge" if joined else "",
                partitions.scale_name(group.gates[number]),
            )(tensors[number])
            for number in numbers
        ]
        if joined:
            told = f"{group.gates[0].layer}_edge{place}"
            whole = keras.layers.Add(name=f"{name}_sum")(own)
            own = [factor(told, "", f"{name}_edge")(whole)]
        found += own
    return found


def _omega(partition, layers, bends) -> np.ndarray:
    """The factor on the penalty of each group. `(groups,)`."""
    from tfsparse import numerics

    slopes = {
        x.factor.path: base.array_of(
            numerics.evidence_slopes(
                base.array_of(x.variance),
                np.asarray(bends[x.factor.path], "float32"),
            )
        )
        for x in layers
    }
    return np.sqrt(partition.sums(slopes)).astype("float32")


def _dependence(partition: records.Partition, layers: Sequence):
    """What the operations of a prepared model read, and add to."""
    from tfsparse import numerics

    label = {x.name: int(partition.labels[x.factor.path][0]) for x in layers}
    above = {x.edge for x in layers}
    single = [x for x in layers if x.name not in above]
    sums = {name: n for n, name in enumerate(dict.fromkeys(x.target for x in single))}
    edges, shown = np.arange(partition.groups), np.ones(len(sums), bool)
    for x in single:
        edges[label[x.name]] = label.get(x.edge, label[x.name])
        shown[sums[x.target]] = x.shown
    return numerics.Dependence(
        edges,
        np.array([label[x.name] for x in single], int),
        np.array([sums.get(x.source, -1) for x in single], int),
        np.array([sums[x.target] for x in single], int),
        shown,
    )


def _loops(loops) -> records.sections.Table:
    """How many operations each loop left."""
    draw = records.sections
    return draw.Table(
        "What the evidence left",
        (
            draw.Column("after epoch"),
            draw.Column("operations"),
            draw.Column("left"),
            *(draw.Column(f"dangling by {name}") for name in CRITERIA),
        ),
        tuple(
            (
                loop["epoch"],
                loop["groups"],
                loop["operations"],
                *(loop["dangling"][name] for name in CRITERIA),
            )
            for loop in loops
        ),
        note="Operations that share a group count once, those that dangle in every cell: they "
        "lie on no way from an input to an output, where as many are kept by the evidence, by "
        "the evidence without what leads to an operation, or by the size of its factor. The "
        "strip takes them along.",
    )


def _variances(loops) -> records.sections.Curves:
    """Prior variances from loop to loop."""
    from tfsparse import numerics

    draw = records.sections
    history: dict[str, list[tuple[int, float]]] = {}
    for loop in loops:
        for name, value in zip(loop["names"], loop["gamma"], strict=True):
            history.setdefault(name, []).append((loop["epoch"], max(value, LEAST)))
    epochs = tuple(loop["epoch"] for loop in loops)
    least = (numerics.ENTROPY_GAMMA,) * len(epochs)
    bound = (draw.Line("", epochs, least, dashed=True),)
    lines = tuple(
        draw.Line("", tuple(e for e, _ in own), tuple(v for _, v in own))
        for own in history.values()
    )
    return draw.Curves(
        "Prior variances of the operations",
        "prior_variances",
        draw.Axis("epoch"),
        draw.Axis("prior variance; below the dashes it goes", log=True),
        bound + lines,
    )


def _last(loop) -> records.sections.Table:
    """How the last loop saw each operation."""
    draw = records.sections
    rows = sorted(
        zip(loop["names"], loop["weights"], loop["omega"], loop["gamma"], loop["kept"],
            strict=True),
        key=lambda row: -row[3],
    )  # fmt: skip
    return draw.Table(
        "Operations as the last loop ended",
        (
            draw.Column("operation", draw.TEXT),
            draw.Column("factor", draw.NUMBER),
            draw.Column("omega", draw.NUMBER),
            draw.Column("prior variance", draw.NUMBER),
            draw.Column("entropy", draw.NUMBER),
            draw.Column("kept", draw.TEXT),
        ),
        tuple(
            (name, weight, omega, gamma, _entropy(gamma), "yes" if kept else "no")
            for name, weight, omega, gamma, kept in rows
        ),
        note="The entropy of a Gaussian of that variance, in nats; an operation goes where it "
        "is not above 0. An edge's factor is common to all operations between two nodes.",
    )


def _entropy(gamma: float) -> float | None:
    return math.log(2 * math.pi * math.e * gamma) / 2 if gamma > 0 else None
