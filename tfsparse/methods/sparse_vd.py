"""Sparse variational dropout: single weights whose noise drowns them go."""

from __future__ import annotations

import fnmatch
import logging

import keras
import numpy as np

from tfsparse import layers, numerics
from tfsparse.methods import base

_LOG = logging.getLogger("tfsparse")


class SparseVD(base.Method):
    """Learns a noise for each weight; what is more noise than signal goes.

    Minimises L + strength * w(epoch) * KL / samples, KL the divergence of the weights'
    posterior from the log-uniform prior, w rising from 0 to 1. A weight is zero where
    log alpha = log(sigma^2 / theta^2) reaches the threshold; units whose weights are
    all zero are stripped.

    Args:
        strength: gamma, the weight of the divergence; larger is sparser, 1 is the
            variational bound.
        pretrain_epochs: N1, epochs at weight 0.
        warm_up_epochs: N2, epochs over which the weight rises.
        threshold: On log alpha.
        layer_thresholds: Patterns of layer names with thresholds of their own:
            `dense*=2.5,conv1=4`.
        ignore: Patterns, separated by commas, of layers that stay as they are.
        seed: Of the noise.

    Raises:
        ValueError: An argument outside its range.

    Example:
        >>> small = tfsparse.fit_shrinking(model, SparseVD(), x, y, epochs=60).model

    Reference: Molchanov et al. 2017 (arXiv 1701.05369); SpArSe, appendix A.
    """

    name = "sparse_vd"
    strength = "gamma"
    removes = False
    stays = True
    holds_zeros = True

    def __init__(
        self,
        strength: float = 1.0,
        pretrain_epochs: int = 5,
        warm_up_epochs: int = 15,
        threshold: float = 3.0,
        layer_thresholds: str = "",
        ignore: str = "",
        seed: int = 0,
    ):
        self._config = {
            "strength": strength,
            "pretrain_epochs": pretrain_epochs,
            "warm_up_epochs": warm_up_epochs,
            "threshold": threshold,
            "layer_thresholds": layer_thresholds,
            "ignore": ignore,
            "seed": seed,
        }
        for key in ("pretrain_epochs", "warm_up_epochs"):
            if not self._config[key] >= 0:
                raise ValueError(
                    f"`{key}` must be >= 0. Received: {self._config[key]!r}."
                )
        self._thresholds = base.numbers(
            layer_thresholds, "layer_thresholds", "dense*=2.5,conv1=4"
        )
        for value in (threshold, *self._thresholds.values()):
            layers.VariationalDense(1, strength=strength, threshold=value)  # checks

    def get_config(self) -> dict:
        return dict(self._config)

    def check_epochs(self, epochs: int) -> None:
        config = self._config
        wanted = config["pretrain_epochs"] + config["warm_up_epochs"]
        if wanted > epochs:
            raise ValueError(
                "`pretrain_epochs` and `warm_up_epochs` must fit into the epochs of the "
                f"penalty ({epochs}). Received: {config['pretrain_epochs']} and "
                f"{config['warm_up_epochs']}."
            )

    def prepare(self, model, groups):
        """Swaps layers for their Bayesian twins. See `Method.prepare`.

        Layers with weights of a class that has no twin stay plain; a line says so.

        Raises:
            ValueError: No layer has a twin.
        """
        config = self._config
        ignored = config["ignore"].split(",")
        plain = []
        numbers = {layer.name: number for number, layer in enumerate(model.layers)}

        def swap(layer):
            if any(fnmatch.fnmatchcase(layer.name, p) for p in ignored):
                return type(layer)
            if type(layer) not in layers.TWINS and _has_kernel(layer):
                plain.append(f"{layer.name} ({type(layer).__name__})")
            return layers.TWINS.get(type(layer), type(layer))

        def configure(layer, arguments):
            if swap(layer) is type(layer):
                return arguments
            own = config["threshold"]
            for pattern, value in self._thresholds.items():
                if fnmatch.fnmatchcase(layer.name, pattern):
                    own = value
            seed = config["seed"] + numbers[layer.name]  # no two draw the same noise
            return arguments | {"threshold": own, "seed": seed}

        sparse = base.graft(model, configure, swap=swap)
        if not twins(sparse):
            raise ValueError(
                "`model` must have a layer with a Bayesian twin "
                f"({', '.join(sorted(c.__name__ for c in layers.TWINS))}). Received: "
                f"{model.name!r} without one."
            )
        if plain:
            _LOG.warning("Without a Bayesian twin, kept as they are: %s", ", ".join(
                dict.fromkeys(plain)))  # fmt: skip
        return sparse

    def begin_epoch(self, model, epoch: int, samples: int) -> None:
        config = self._config
        weight = numerics.warm_up(
            epoch, config["pretrain_epochs"], config["warm_up_epochs"]
        )
        self.set_strength(model, config["strength"] * weight / samples)

    def set_strength(self, model, value: float) -> None:
        for layer in twins(model):
            layer.strength.assign(value)

    def groups(self, model) -> int:
        return sum(int(np.prod(layer.kernel.shape)) for layer in twins(model))

    def keep(self, model, groups, tools=None) -> dict[str, np.ndarray]:
        """Units that a weight which stays still writes."""
        values = {v.path: keras.ops.convert_to_numpy(v) for v in model.variables}
        for layer in twins(model):
            values |= layer.stock_values()
        return base.alive_units(groups, values)

    def trace(self, model, groups) -> dict:
        """The log alpha of all weights of each layer, sorted."""
        return {
            layer.name: np.sort(
                np.ravel(keras.ops.convert_to_numpy(layer.log_alpha()))
            ).tolist()
            for layer in twins(model)
        }


def twins(model) -> list:
    """The Bayesian layers of a model."""
    return [x for x in model.layers if isinstance(x, tuple(layers.TWINS.values()))]


def _has_kernel(layer) -> bool:
    return any(len(v.shape) > 1 for v in layer.trainable_variables)
