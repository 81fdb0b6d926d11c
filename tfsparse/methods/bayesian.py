"""What methods share that train Gaussian weights under a divergence."""

from __future__ import annotations

import fnmatch
import logging

import keras
import numpy as np

from tfsparse import layers, numerics
from tfsparse.methods import base

SUFFIX = "_noise"
"""Of the names of factors."""

_LOG = logging.getLogger("tfsparse")


class Bayesian(base.Method):
    """A method that minimises L + strength * w(epoch) * KL / samples. A base class.

    KL is the divergence of the posterior from its prior; w is 0 for `pretrain_epochs`
    (N1), then rises to 1 over `warm_up_epochs` (N2). The divergences of the layers and
    factors that `multipliers` names count that many times. Subclasses keep these in
    `_config`, with `strength`, `ignore` and `seed`.
    """

    strength = "gamma"
    kinds = ("unit", "feature")
    stays = True
    products = 2
    _config: dict
    _multipliers: dict[str, float]

    def get_config(self) -> dict:
        return dict(self._config)

    def _check_weights(self) -> None:
        """Reads what weighs the divergence, over epochs and over layers."""
        self._multipliers = base.multipliers(
            self._config["multipliers"], "conv1=2,fc*=0.5"
        )
        for key in ("pretrain_epochs", "warm_up_epochs"):
            if not self._config[key] >= 0:
                raise ValueError(
                    f"`{key}` must be >= 0. Received: {self._config[key]!r}."
                )

    def check_epochs(self, epochs: int) -> None:
        config = self._config
        wanted = config["pretrain_epochs"] + config["warm_up_epochs"]
        if wanted > epochs:
            raise ValueError(
                "`pretrain_epochs` and `warm_up_epochs` must fit into the epochs of the "
                f"penalty ({epochs}). Received: {config['pretrain_epochs']} and "
                f"{config['warm_up_epochs']}."
            )
        if config["pretrain_epochs"] >= epochs:
            raise ValueError(
                "`pretrain_epochs` must leave epochs with the divergence, of the penalty's "
                f"{epochs}. Received: pretrain_epochs={config['pretrain_epochs']}."
            )

    def check_target(self, target, trials: int) -> None:
        """Refuses both: the divergence stays on, and takes more after any target."""
        if target or trials:
            raise ValueError(
                f"`target` must be empty for {self.name}, whose divergence stays on to the "
                "end: `strength` and thresholds decide how much is left. Received: "
                f"target={target}, trials={trials}."
            )

    def begin_epoch(self, model, epoch: int, samples: int) -> None:
        config = self._config
        if not samples:
            raise ValueError(
                "`x` must tell how many samples it holds, to weigh the divergence. Received: "
                "none, or a stream of unknown length; give steps_per_epoch, or use "
                "x.apply(tf.data.experimental.assert_cardinality(batches))."
            )
        weight = numerics.warm_up(
            epoch, config["pretrain_epochs"], config["warm_up_epochs"]
        )
        self.set_strength(model, config["strength"] * weight / samples)

    def set_strength(self, model, value: float) -> None:
        for layer in [*twins(model), *scales(model)]:
            own = base.own_number(name_of(layer), self._multipliers, 1.0)
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
        ignored = base.patterns(self._config["ignore"])
        base.check_patterns(
            "ignore", ignored, [x.name for x in model.layers if type(x) in layers.TWINS]
        )
        numbers = {layer.name: number for number, layer in enumerate(model.layers)}

        def swap(layer):
            left = any(fnmatch.fnmatchcase(layer.name, p) for p in ignored)
            return type(layer) if left or not layer.trainable else _twin(layer)

        def configure(layer, config):
            if swap(layer) is type(layer):
                return config
            seed = self._config["seed"] + numbers[layer.name]  # noise of its own
            return config | {"seed": seed} | arguments(layer)

        if all(swap(layer) is type(layer) for layer in model.layers):
            if any(x.trainable and _twin(x) is not type(x) for x in model.layers):
                raise ValueError(
                    "`ignore` must leave a layer with a Bayesian twin. Received: "
                    f"ignore={self._config['ignore']!r}, which covers all of {model.name!r}."
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
    if getattr(layer, "lora_enabled", False):  # other variables make its kernel
        return type(layer)
    return layers.TWINS.get(type(layer), type(layer))


def name_of(layer) -> str:
    """What flags call a layer; a factor has the name of its group or layer."""
    return layer.name.removesuffix(SUFFIX)


def plain(model) -> list[str]:
    """Names of the layers with kernels that have no Gaussian weights."""
    return [
        layer.name
        for layer in model.layers
        if not isinstance(layer, (*layers.TWINS.values(), layers.VariationalScale))
        and any(len(v.shape) > 1 for v in layer.trainable_variables)
    ]


def twins(model) -> list:
    """The layers of a model with Gaussian weights."""
    return [x for x in model.layers if isinstance(x, tuple(layers.TWINS.values()))]


def scales(model) -> list:
    """The random factors of a model."""
    return [x for x in model.layers if isinstance(x, layers.VariationalScale)]


def histogram(values, bins: int = 60) -> dict[str, list]:
    """How a tensor's numbers lie, as JSON has it: `edges`, and `counts` between them."""
    counts, edges = np.histogram(np.ravel(keras.ops.convert_to_numpy(values)), bins)
    return {"edges": edges.tolist(), "counts": counts.tolist()}
