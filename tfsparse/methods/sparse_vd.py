"""Sparse variational dropout: single weights whose noise drowns them go."""

from __future__ import annotations

import keras
import numpy as np

from tfsparse import layers
from tfsparse.methods import base, bayesian, placing


class SparseVD(bayesian.Bayesian):
    """Learns a noise for each weight; what is more noise than signal goes.

    Minimises L + strength * w(epoch) * KL / samples, KL the divergence of the weights'
    posterior from the log-uniform prior, w rising from 0 to 1. A weight is zero where
    log alpha = log(sigma^2 / theta^2) reaches the threshold; units and features whose
    weights are all zero leave, for good, while the network trains.

    Args:
        strength: gamma, the weight of the divergence; larger is sparser, 1 is the
            variational bound.
        pretrain_epochs: N1, epochs at weight 0.
        warm_up_epochs: N2, epochs over which the weight rises. The defaults suit some
            twenty epochs in all; Molchanov et al. take 5 and 15 of 200.
        threshold: On log alpha.
        layer_thresholds: Patterns of layer names with thresholds of their own:
            `dense*=2.5,conv1=4`.
        ignore: Patterns, separated by commas, of layers that stay as they are.
        multipliers: Factors on the divergence of layers: `conv1=2,fc*=0.5`. Not in the
            papers, whose bound knows none.
        seed: Of the noise.

    Raises:
        ValueError: An argument outside its range.

    Example:
        >>> small = tfsparse.fit_shrinking(model, SparseVD(), x, y, epochs=60).model

    Reference: Molchanov et al. 2017 (arXiv 1701.05369); SpArSe, appendix A.
    """

    name = "sparse_vd"
    holds_zeros = True

    def __init__(
        self,
        strength: float = 1.0,
        pretrain_epochs: int = 1,
        warm_up_epochs: int = 4,
        threshold: float = 3.0,
        layer_thresholds: str = "",
        ignore: str = "",
        multipliers: str = "",
        seed: int = 0,
    ):
        self._config = {
            "strength": strength,
            "pretrain_epochs": pretrain_epochs,
            "warm_up_epochs": warm_up_epochs,
            "threshold": threshold,
            "layer_thresholds": layer_thresholds,
            "ignore": ignore,
            "multipliers": multipliers,
            "seed": seed,
        }
        self._check_weights()

        def check(value):
            layers.VariationalDense(1, strength=strength, threshold=value)

        check(threshold)
        self._thresholds = base.numbers(
            layer_thresholds, "layer_thresholds", "dense*=2.5,conv1=4", check
        )

    def prepare(self, model, groups):
        """Swaps layers for their Bayesian twins. See `Method.prepare`.

        Layers with weights of a class that has no twin stay plain; a line says so.

        Raises:
            ValueError: No layer has a twin.
        """

        def arguments(layer):
            own = base.own_number(
                layer.name, self._thresholds, self._config["threshold"]
            )
            return {"threshold": own}

        swap, configure = self._swap(model, arguments)
        names = [x.name for x in model.layers if swap(x) is not type(x)]
        base.check_patterns("layer_thresholds", self._thresholds, names)
        base.check_patterns("multipliers", self._multipliers, names)
        return placing.graft(model, configure, swap=swap)

    def groups(self, model) -> int:
        return sum(int(np.prod(layer.kernel.shape)) for layer in bayesian.twins(model))

    def settle(self, model, threshold: float | None = None) -> None:
        """Zeroes whole inputs and outputs of a kernel of which no weight stays."""
        for layer in bayesian.twins(model):
            stays = keras.ops.convert_to_numpy(layer.active())
            place = tuple(range(stays.ndim - 2))
            if isinstance(layer, keras.layers.DepthwiseConv2D):
                used = stays.any(axis=place)  # an output for each of the last two
            else:
                inputs = stays.any(axis=(*place, -1), keepdims=True)
                used = inputs & stays.any(axis=(*place, -2))
            layer.kernel.assign(layer.kernel * used)

    def keep(self, model, groups, tools=None) -> dict[str, np.ndarray]:
        """Units that a weight which stays writes and reads; features that one reads."""
        values = {v.path: keras.ops.convert_to_numpy(v) for v in model.variables}
        for layer in bayesian.twins(model):
            values |= layer.stock_values()
        return base.used_units(groups, values)

    def trace(self, model, groups) -> dict:
        """A histogram of the log alpha of each layer's weights, and its threshold."""
        return {
            "plain": bayesian.plain(model),
            "scores": {
                layer.name: bayesian.histogram(layer.log_alpha())
                for layer in bayesian.twins(model)
            },
            "thresholds": {
                layer.name: layer.threshold for layer in bayesian.twins(model)
            },
        }
