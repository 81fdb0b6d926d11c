"""What methods share that train Gaussian weights under a divergence."""

from __future__ import annotations

import abc
import fnmatch
import logging
from typing import Any

import numpy as np

from tfsparse import options, records
from tfsparse.methods import base

SUFFIX = "_noise"
"""Of the names of factors."""

_LOG = logging.getLogger("tfsparse")


@options.record
class Bayesian(base.Method):
    """A method that minimises L + strength * w(epoch) * KL / samples. A base class.

    KL is the divergence of the posterior from its prior; w is 0 for `pretrain_epochs`
    (N1), then rises to 1 over `warm_up_epochs` (N2). The divergences of the layers and
    factors that `multipliers` names count that many times.
    """

    stays = True
    products = 2

    strength: float = options.field(
        1.0,
        "Weight of the divergence (gamma); larger is sparser, 1 is the variational bound.",
        low=0,
    )
    pretrain_epochs: int = options.field(
        1, "Epochs without the divergence (N1); Molchanov et al. take 5 of 200.", low=0
    )
    warm_up_epochs: int = options.field(
        4,
        "Epochs over which the divergence's weight rises (N2). The defaults suit some "
        "twenty epochs in all; Molchanov et al. take 15 of 200.",
        low=0,
    )
    ignore: str = options.patterns(
        "", "Patterns of layers whose weights stay as they are.", example="stem*,head*"
    )
    multipliers: str = options.pairs(
        "",
        "Factors on the divergence of layers and random factors, by patterns of their "
        "names. Not in the papers, whose bound knows none.",
        example="conv1=2,fc*=0.5",
        above=0,
    )
    seed: int = options.field(0, "Seed of everything random.", low=0, below=2**32)

    @property
    def kinds(self):
        """Units and features."""
        return ("unit", "feature")

    @abc.abstractmethod
    def thresholded(self, model, groups) -> set[str]:
        """Names that `layer_thresholds` may have, of a plain model and its groups."""

    def _multipliers(self) -> dict[str, float]:
        return options.numbers(self.multipliers, "multipliers", "conv1=2,fc*=0.5")

    def check_epochs(self, epochs: int) -> None:
        if self.pretrain_epochs + self.warm_up_epochs > epochs:
            raise ValueError(
                "`pretrain_epochs` and `warm_up_epochs` must fit into the epochs of the "
                f"penalty ({epochs}). Received: {self.pretrain_epochs} and "
                f"{self.warm_up_epochs}."
            )
        if self.pretrain_epochs >= epochs:
            raise ValueError(
                "`pretrain_epochs` must leave epochs with the divergence, of the penalty's "
                f"{epochs}. Received: pretrain_epochs={self.pretrain_epochs}."
            )

    def begin_epoch(self, model, epoch: int, samples: int) -> None:
        from tfsparse import numerics

        if not samples:
            raise ValueError(
                "`x` must tell how many samples it holds, to weigh the divergence. Received: "
                "none, or a stream of unknown length; give steps_per_epoch, or use "
                "x.apply(tf.data.experimental.assert_cardinality(batches))."
            )
        weight = numerics.warm_up(epoch, self.pretrain_epochs, self.warm_up_epochs)
        self.set_strength(model, self.strength * weight / samples)

    def set_strength(self, model, value: float) -> None:
        found = self._multipliers()
        for layer in [*twins(model), *scales(model)]:
            own = options.own_number(name_of(layer), found, 1.0)
            layer.strength.assign(value * own)

    def _swap(self, model, arguments):
        """`(swap, configure)` for `placing.graft`: layers become their Bayesian twins.

        Layers with weights of a class that has no twin stay plain; a line says so. So do
        those that are not to be trained.

        Args:
            model: The plain model.
            arguments: `layer -> dict` of what its twin takes besides.

        Raises:
            ValueError: No layer has a twin.
        """
        from tfsparse import layers

        ignored = options.listed(self.ignore)
        options.check_patterns(
            "ignore", ignored, [x.name for x in model.layers if type(x) in layers.TWINS]
        )
        numbers = {layer.name: number for number, layer in enumerate(model.layers)}

        def swap(layer):
            left = any(fnmatch.fnmatchcase(layer.name, p) for p in ignored)
            return type(layer) if left or not layer.trainable else _twin(layer)

        def configure(layer, config):
            if swap(layer) is type(layer):
                return config
            seed = self.seed + numbers[layer.name]  # noise of its own
            return config | {"seed": seed} | arguments(layer)

        if all(swap(layer) is type(layer) for layer in model.layers):
            if any(x.trainable and _twin(x) is not type(x) for x in model.layers):
                raise ValueError(
                    "`ignore` must leave a layer with a Bayesian twin. Received: "
                    f"ignore={self.ignore!r}, which covers all of {model.name!r}."
                )
            raise ValueError(
                "`model` must have a layer with a Bayesian twin "
                f"({', '.join(sorted(c.__name__ for c in layers.TWINS))}). Received: "
                f"{model.name!r} without one."
            )
        plain = [
            f"{layer.name} ({type(layer).__name__})"
            for layer in model.layers
            if _twin(layer) is type(layer)
            and any(len(v.shape) > 1 for v in layer.trainable_variables)
        ]
        if plain:
            _LOG.warning(
                "Without a Bayesian twin, kept as they are: %s", ", ".join(plain)
            )
        return swap, configure


def _twin(layer) -> type:
    """The class of a layer's Bayesian twin; its own where there is none."""
    from tfsparse import layers

    if getattr(layer, "lora_enabled", False):  # other variables make its kernel
        return type(layer)
    return layers.TWINS.get(type(layer), type(layer))


def name_of(layer) -> str:
    """What flags call a layer; a factor has the name of its group or layer."""
    return layer.name.removesuffix(SUFFIX)


def plain(model) -> list[str]:
    """Names of the layers with kernels that have no Gaussian weights."""
    from tfsparse import layers

    return [
        layer.name
        for layer in model.layers
        if not isinstance(layer, (*layers.TWINS.values(), layers.VariationalScale))
        and any(len(v.shape) > 1 for v in layer.trainable_variables)
    ]


def twins(model) -> list:
    """The layers of a model with Gaussian weights."""
    from tfsparse import layers

    return [x for x in model.layers if isinstance(x, tuple(layers.TWINS.values()))]


def scales(model) -> list:
    """The random factors of a model."""
    from tfsparse import layers

    return [x for x in model.layers if isinstance(x, layers.VariationalScale)]


def histogram(values, bins: int = 60) -> dict[str, list]:
    """How a tensor's numbers lie, as JSON has it: `edges`, and `counts` between them."""
    counts, edges = np.histogram(np.ravel(base.array_of(values)), bins)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def sections(trace: dict[str, Any]) -> list[records.sections.Section]:
    """What the report tells of scores, thresholds and layers that stayed plain."""
    found: list[records.sections.Section] = []
    if trace.get("scores"):
        panels = {
            name: {**own, "threshold": trace["thresholds"][name]}
            for name, own in trace["scores"].items()
        }
        found.append(
            records.sections.Histograms(
                "Signal and noise: scores at the end of training",
                "scores",
                panels,
                "score (log of the noise over the signal); blue stays",
            )
        )
    if trace.get("plain"):
        found.append(
            records.sections.Text(
                "Layers without noise",
                "Kept as they are, without Gaussian weights: "
                + ", ".join(trace["plain"])
                + ".",
            )
        )
    return found
