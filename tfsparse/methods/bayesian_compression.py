"""Bayesian compression: random factors on units, of which most turn out noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tfsparse import options, records
from tfsparse.methods import base, bayesian, placing
from tfsparse.methods.bayesian import SUFFIX

if TYPE_CHECKING:
    from tfsparse import layers

SCALES = ("groups", "layers")

_OTHER_NOISE = 1_000_003
"""Added to the seed, so that no factor draws what a layer's weights draw."""

SIGNAL = {"normal_jeffreys": -4.0, "horseshoe": 1.0}
"""Scores up to which a unit is signal beyond doubt: its factor varies by an eighth at
most; its factor is within e of where it began."""


@options.record
class BayesianCompression(bayesian.Bayesian):
    """Learns a random factor for each unit; units whose factor is noise go.

    Minimises L + strength * w(epoch) * KL / samples. The weights are Gaussian with prior
    N(0, 1), the factors have a prior that favours noise (`VariationalScale`). Where the
    score of a factor reaches its layer's threshold, the unit goes; a weight stays if
    what it reads and what it writes both stay. The width of the posterior tells how
    many bits each layer's weights need.

    Raises:
        ValueError: An argument outside its range.

    Example:
        >>> small = tfsparse.fit_shrinking(model, BayesianCompression(), x, y, epochs=60)

    Reference: Louizos et al. 2017 (arXiv 1705.08665); SpArSe, appendix A.
    """

    name = "bayesian_compression"

    prior: str = options.field(
        "normal_jeffreys",
        "Prior of the factors on units.",
        choices=records.SCALE_PRIORS,
    )
    scales: str = options.field(
        "groups",
        "Where factors stand: on every group of units and features, or, as in the paper, "
        "on the inputs of each Dense and the outputs of each convolution (layers).",
        choices=SCALES,
    )
    layer_thresholds: str = options.pairs(
        "",
        "Thresholds on the score of factors, by patterns of the names of their groups or "
        "layers; others are chosen as training ends, in the widest gap of the scores.",
        example="fc1*=-3,conv*=-2",
    )
    deviations: str = options.pairs(
        "",
        "Bounds on the deviation of layers' weights, by patterns of their names.",
        example="fc1=0.2",
        above=0,
    )
    tail: float = options.field(
        1e-5,
        "Scale of the horseshoe's shared factor (tau_0); float32 ends below its range, and "
        "noise looks like signal above.",
        low=1e-15,
        high=0.1,
    )

    def check(self) -> None:
        """Checks thresholds where scores under the prior lie."""
        options.numbers(
            self.layer_thresholds,
            "layer_thresholds",
            "fc1*=-3",
            lambda value: self._scale(1, "check", 0, value),
        )

    def _thresholds(self) -> dict[str, float]:
        return options.numbers(
            self.layer_thresholds, "layer_thresholds", "fc1*=-3,conv*=-2"
        )

    def _scale(self, units: int, name: str, offset: int, threshold=None):
        from tfsparse import layers

        if threshold is None:
            own = name.removesuffix(SUFFIX)
            threshold = options.own_number(own, self._thresholds())
        return layers.VariationalScale(
            units,
            prior=self.prior,
            strength=self.strength,
            threshold=threshold,
            tail=self.tail,
            seed=self.seed + _OTHER_NOISE + offset,
            name=name,
        )

    def prepare(self, model, groups):
        """Puts factors on units and swaps layers for their twins. See `Method.prepare`.

        Raises:
            ValueError: No layer has a twin, or no group can have a factor.
        """

        bounds = options.numbers(self.deviations, "deviations", "fc1=0.2")

        def arguments(layer):
            bound = options.own_number(layer.name, bounds)
            return {"prior": "normal", "largest_deviation": bound}

        def make(group, number):
            return self._scale(group.size, placing.layer_name(group, SUFFIX), number)

        swap, configure = self._swap(model, arguments)
        options.check_patterns(
            "deviations",
            bounds,
            [layer.name for layer in model.layers if swap(layer) is not type(layer)],
        )
        if self.scales == "groups":
            placed = placing.at_sites(model, groups, make)
            sparse = placing.place(model, placed, configure, swap)
        else:
            sparse = self._on_layers(model, groups, configure, swap)
        found = [bayesian.name_of(scale) for scale in bayesian.scales(sparse)]
        options.check_patterns("layer_thresholds", self._thresholds(), found)
        found += [layer.name for layer in bayesian.twins(sparse)]
        options.check_patterns("multipliers", self._multipliers(), sorted(set(found)))
        return sparse

    def _on_layers(self, model, groups, configure, swap):
        """Factors on the inputs of each Dense and the outputs of each convolution."""
        import keras

        free = {
            member.path
            for group in groups
            if group.kind == "unit" and not group.frozen
            for member in group.members
            if member.role == records.PRODUCER
        }
        known = {layer.name: layer for layer in model.layers}
        shared: dict[str, layers.VariationalScale] = {}

        def scale(layer, part, units):
            name = f"{layer.name}{part}{SUFFIX}"
            if name not in shared:
                shared[name] = self._scale(units, name, len(shared))
            return shared[name]

        def before(name, index, number, tensor):
            layer = known.get(name)
            if isinstance(layer, keras.layers.Dense):
                return scale(layer, "_inputs", tensor.shape[-1])(tensor)
            return tensor

        convolutions = (keras.layers.Conv1D, keras.layers.Conv2D)
        placed = {}
        for layer in model.layers:
            if isinstance(layer, convolutions) and layer.kernel.path in free:
                factor = scale(layer, "", layer.filters)
                site = records.Site(layer.name, 0, layer.filters)
                placed[layer.name, None] = [(factor, site)]
        return placing.place(model, placed, configure, swap, before)

    def thresholded(self, model, groups) -> set[str]:
        """Groups that have a random factor."""
        return {
            placing.layer_name(group, "")
            for group in groups
            if not group.frozen and group.size > 1 and group.sites
        }

    def groups(self, model) -> int:
        return sum(scale.units for scale in bayesian.scales(model))

    def decide(self, model) -> None:
        """Sets the thresholds: those given, and for other factors the widest gap's."""
        from tfsparse import layers, numerics

        noise = layers.certain(self.prior, self.tail)
        for scale in bayesian.scales(model):
            own = options.own_number(bayesian.name_of(scale), self._thresholds())
            if own is not None:
                scale.threshold.assign(own)
        for scale in self._free(model):
            scores = base.array_of(scale.score())
            own = numerics.widest_gap(scores, SIGNAL[self.prior], noise)
            scale.threshold.assign(own)

    def levels(self, model) -> np.ndarray:
        """Thresholds between the scores of all factors whose threshold nobody gave."""
        from tfsparse import numerics

        scores = [base.array_of(scale.score()) for scale in self._free(model)]
        return numerics.gaps(np.concatenate([np.zeros(0), *scores]))

    def set_level(self, model, level: float) -> None:
        """Sets one threshold for all of these factors."""
        for scale in self._free(model):
            scale.threshold.assign(level)

    def _free(self, model) -> list:
        """The factors whose threshold nobody gave."""
        found = self._thresholds()
        return [
            scale
            for scale in bayesian.scales(model)
            if options.own_number(bayesian.name_of(scale), found) is None
        ]

    def keep(self, model, groups, tools=None) -> dict[str, np.ndarray]:
        """Units whose factors, on both sides, still tell something."""
        active = {
            scale.name: base.array_of(scale.active())
            for scale in bayesian.scales(model)
        }
        if self.scales == "groups":
            return base.factored_units(groups, active)
        keep = {}
        for group in groups:
            if not group.frozen:
                alive = np.ones(group.size, bool)
                for side in self._on_sides(group, active).values():
                    alive &= side
                keep[group.name] = alive
        return keep

    def _on_sides(self, group, active) -> dict[str, np.ndarray]:
        """Role -> which units a factor that stands on layers keeps on that side."""
        found: dict[str, np.ndarray] = {}
        parts = {records.PRODUCER: SUFFIX, records.CONSUMER: f"_inputs{SUFFIX}"}
        open_sides = set()  # where something without a factor writes or reads the units
        for member in group.members:
            layer, _, variable = member.path.rpartition("/")
            own = active.get(f"{layer}{parts.get(member.role, '?')}")
            if variable != "kernel" or own is None or isinstance(member.axis, tuple):
                open_sides.add(member.role)
                continue
            alive = found.setdefault(member.role, np.zeros(group.size, bool))
            np.logical_or.at(alive, member.units, own[member.indices])
        if group.gates:
            open_sides.add(records.CONSUMER)
        return {role: own for role, own in found.items() if role not in open_sides}

    def trace(self, model, groups) -> dict:
        """Histograms of the factors' scores, thresholds, and bits for each layer."""
        found = bayesian.scales(model)
        return {
            "plain": bayesian.plain(model),
            "scores": {s.name: bayesian.histogram(s.score()) for s in found},
            "thresholds": {s.name: float(base.array_of(s.threshold)) for s in found},
            "bits": self._bits(model, groups),
        }

    def sections(self, facts):
        """Histograms of the scores, what stayed plain, and bits for each layer."""
        trace = facts.get("trace", {})
        found, bits = bayesian.sections(trace), trace.get("bits", {})
        rows = tuple(
            (row["layer"], n, bits[row["layer"]], n, (n * bits[row["layer"]] + 7) // 8)
            for row in facts["layers"]
            if row["layer"] in bits and (n := row["weights"]) is not None
        )
        if rows:
            table = records.sections
            columns = ("weights", "bits each", "int8, B", "at these bits, B")
            found.append(
                table.Table(
                    "Bits that the weights would need",
                    (
                        table.Column("layer", table.TEXT),
                        *(table.Column(name) for name in columns),
                    ),
                    rows,
                    before="A weight needs no digit that drowns in its posterior's noise. "
                    "int8 is what ships; the last column is what these bits would take, "
                    "biases not counted.",
                )
            )
        return found

    def _bits(self, model, groups) -> dict[str, int]:
        """Bits that the weights of each layer need, by the width of their posterior."""
        from tfsparse import numerics

        moments = self._moments(model, groups)
        bits = {}
        for layer in bayesian.twins(model):
            mean = base.array_of(layer.kernel)
            square = mean**2 + base.array_of(layer.variance())
            stays = np.ones(mean.shape, bool)
            for first, second, active, axis in moments.get(layer.kernel.path, ()):
                shape = [1] * mean.ndim
                shape[axis] = -1
                mean = mean * first.reshape(shape)
                square = square * (first**2 + second).reshape(shape)
                stays = stays & active.reshape(shape)
            if stays.any():
                variance = square - mean**2
                bits[layer.name] = numerics.significant_bits(
                    mean[stays], variance[stays]
                )
        return bits

    def _moments(self, model, groups) -> dict[str, list]:
        """Path of a kernel -> `(mean, variance, stays, axis)` of each factor on it."""
        held = {
            scale.name: [base.array_of(x) for x in (*scale.moments(), scale.active())]
            for scale in bayesian.scales(model)
        }
        if self.scales == "groups":
            return _on_groups(model, groups, held)
        found: dict[str, list] = {}
        for layer in bayesian.twins(model):
            for name, axis in ((layer.name, -1), (f"{layer.name}_inputs", -2)):
                if name + SUFFIX in held:
                    entry = (*held[name + SUFFIX], axis)
                    found.setdefault(layer.kernel.path, []).append(entry)
        return found


def _on_groups(model, groups, held) -> dict[str, list]:
    """What `_moments` returns, of factors that stand on groups."""
    sizes = {variable.path: variable.shape for variable in model.variables}
    of_features = {
        name
        for group in groups
        if group.kind == "feature"
        for name in base.factors_of(group, held)
    }
    found: dict[str, list] = {}
    for group in groups:
        unit = group.kind == "unit"
        side = records.PRODUCER if unit else records.CONSUMER
        kernels = [
            member
            for member in group.members
            if member.role == side and not isinstance(member.axis, tuple)
        ]
        for name, own in base.factors_of(group, held).items():
            if unit and name in of_features:  # stands behind the unit's own
                continue
            factor = np.zeros(group.size, int)
            factor[own.units] = own.indices
            for member in kernels:
                along = _along(member, factor, sizes[member.path])
                entry = map(along, held[name], (1.0, 0.0, True))
                found.setdefault(member.path, []).append((*entry, member.axis))
    return found


def _along(member, factor, shape):
    """`(values of factors, rest) -> what stands along the axis of a member`."""

    def along(values, rest):
        spread = np.full(shape[member.axis], rest)
        spread[member.indices] = values[factor[member.units]]
        return spread

    return along
