"""Bayesian compression: random factors on units, of which most turn out noise."""

from __future__ import annotations

import keras
import numpy as np

from tfsparse import layers, numerics, records
from tfsparse.methods import base, bayesian, placing
from tfsparse.methods.bayesian import SUFFIX

SCALES = ("groups", "layers")

_OTHER_NOISE = 1_000_003
"""Added to the seed, so that no factor draws what a layer's weights draw."""

SIGNAL = {"normal_jeffreys": -4.0, "horseshoe": 1.0}
"""Scores up to which a unit is signal beyond doubt: its factor varies by an eighth at
most; its factor is within e of where it began."""


class BayesianCompression(bayesian.Bayesian):
    """Learns a random factor for each unit; units whose factor is noise go.

    Minimises L + strength * w(epoch) * KL / samples. The weights are Gaussian with prior
    N(0, 1), the factors have a prior that favours noise (`VariationalScale`). Where the
    score of a factor reaches its layer's threshold, the unit goes; a weight stays if
    what it reads and what it writes both stay. The width of the posterior tells how
    many bits each layer's weights need.

    Args:
        strength: gamma, the weight of the divergence; larger is sparser, 1 is the
            variational bound.
        prior: Of the factors, `normal_jeffreys` or `horseshoe`.
        scales: Where they stand: on every group of units and features (`groups`), or, as
            in the paper, on the inputs of each Dense and the outputs of each
            convolution (`layers`).
        pretrain_epochs: N1, epochs at weight 0.
        warm_up_epochs: N2, epochs over which the weight rises. The defaults suit some
            twenty epochs in all; Molchanov et al. take 5 and 15 of 200.
        layer_thresholds: Patterns of factors, by the names of their groups or layers, with
            thresholds on their score: `fc1*=-3,conv*=-2`. Others are chosen as training
            ends, in the widest gap of the sorted scores.
        deviations: Patterns of layers with a bound on sigma of their weights: `fc1=0.2`.
        tail: tau_0 of the horseshoe.
        ignore: Patterns, separated by commas, of layers whose weights stay plain.
        multipliers: Factors on the divergence of layers and of factors, by the names of
            layers and groups: `conv1=2,fc*=0.5`. Not in the paper, whose bound knows none.
        seed: Of the noise.

    Raises:
        ValueError: An argument outside its range.

    Example:
        >>> small = tfsparse.fit_shrinking(model, BayesianCompression(), x, y, epochs=60)

    Reference: Louizos et al. 2017 (arXiv 1705.08665); SpArSe, appendix A.
    """

    name = "bayesian_compression"

    def __init__(
        self,
        strength: float = 1.0,
        prior: str = "normal_jeffreys",
        scales: str = "groups",
        pretrain_epochs: int = 1,
        warm_up_epochs: int = 4,
        layer_thresholds: str = "",
        deviations: str = "",
        tail: float = 1e-5,
        ignore: str = "",
        multipliers: str = "",
        seed: int = 0,
    ):
        if scales not in SCALES:
            raise ValueError(
                f"`scales` must be one of {SCALES}. Received: scales={scales!r}."
            )
        self._config = {
            "strength": strength,
            "prior": prior,
            "scales": scales,
            "pretrain_epochs": pretrain_epochs,
            "warm_up_epochs": warm_up_epochs,
            "layer_thresholds": layer_thresholds,
            "deviations": deviations,
            "tail": tail,
            "ignore": ignore,
            "multipliers": multipliers,
            "seed": seed,
        }
        self._check_weights()
        self._thresholds = {}
        self._scale(1, "check", 0)  # it knows what the other arguments may be
        self._thresholds = base.numbers(
            layer_thresholds,
            "layer_thresholds",
            "fc1*=-3,conv*=-2",
            lambda value: self._scale(1, "check", 0, value),
        )
        self._deviations = base.numbers(
            deviations,
            "deviations",
            "fc1=0.2",
            lambda bound: layers.VariationalDense(
                1, prior="normal", largest_deviation=bound
            ),
        )

    def _scale(self, units: int, name: str, offset: int, threshold=None):
        config = self._config
        if threshold is None:
            own = name.removesuffix(SUFFIX)
            threshold = base.own_number(own, self._thresholds)
        return layers.VariationalScale(
            units,
            prior=config["prior"],
            strength=config["strength"],
            threshold=threshold,
            tail=config["tail"],
            seed=config["seed"] + _OTHER_NOISE + offset,
            name=name,
        )

    def prepare(self, model, groups):
        """Puts factors on units and swaps layers for their twins. See `Method.prepare`.

        Raises:
            ValueError: No layer has a twin, or no group can have a factor.
        """

        def arguments(layer):
            bound = base.own_number(layer.name, self._deviations)
            return {"prior": "normal", "largest_deviation": bound}

        def make(group, number):
            return self._scale(group.size, placing.layer_name(group, SUFFIX), number)

        swap, configure = self._swap(model, arguments)
        base.check_patterns(
            "deviations",
            self._deviations,
            [layer.name for layer in model.layers if swap(layer) is not type(layer)],
        )
        if self._config["scales"] == "groups":
            placed = placing.at_sites(model, groups, make)
            sparse = placing.place(model, placed, configure, swap)
        else:
            sparse = self._on_layers(model, groups, configure, swap)
        found = [bayesian.name_of(scale) for scale in bayesian.scales(sparse)]
        base.check_patterns("layer_thresholds", self._thresholds, found)
        found += [layer.name for layer in bayesian.twins(sparse)]
        base.check_patterns("multipliers", self._multipliers, sorted(set(found)))
        return sparse

    def _on_layers(self, model, groups, configure, swap):
        """Factors on the inputs of each Dense and the outputs of each convolution."""
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

    def groups(self, model) -> int:
        return sum(scale.units for scale in bayesian.scales(model))

    def decide(self, model) -> None:
        """Sets the thresholds: those given, and for other factors the widest gap's."""
        prior = self._config["prior"]
        noise = layers.certain(prior, self._config["tail"])
        for scale in bayesian.scales(model):
            own = base.own_number(bayesian.name_of(scale), self._thresholds)
            if own is None:
                scores = keras.ops.convert_to_numpy(scale.score())
                own = numerics.widest_gap(scores, SIGNAL[prior], noise)
            scale.threshold.assign(own)

    def keep(self, model, groups, tools=None) -> dict[str, np.ndarray]:
        """Units whose factors, on both sides, still tell something."""
        active = {
            scale.name: keras.ops.convert_to_numpy(scale.active())
            for scale in bayesian.scales(model)
        }
        if self._config["scales"] == "groups":
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
            "thresholds": {
                s.name: float(keras.ops.convert_to_numpy(s.threshold)) for s in found
            },
            "bits": self._bits(model, groups),
        }

    def _bits(self, model, groups) -> dict[str, int]:
        """Bits that the weights of each layer need, by the width of their posterior."""
        moments = self._moments(model, groups)
        bits = {}
        for layer in bayesian.twins(model):
            mean = keras.ops.convert_to_numpy(layer.kernel)
            square = mean**2 + keras.ops.convert_to_numpy(layer.variance())
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
            scale.name: [
                keras.ops.convert_to_numpy(x)
                for x in (*scale.moments(), scale.active())
            ]
            for scale in bayesian.scales(model)
        }
        if self._config["scales"] == "groups":
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
