"""Sparse variational dropout: single weights whose noise drowns them go."""

from __future__ import annotations

import numpy as np

from tfsparse import options, records
from tfsparse.methods import base, bayesian

THRESHOLDS = {"above": -records.LOG_ALPHA_LIMIT, "high": records.LOG_ALPHA_LIMIT}
"""Log alpha lies there; with the lowest no weight would stay."""


@options.record
class SparseVD(bayesian.Bayesian):
    """Learns a noise for each weight; what is more noise than signal goes.

    Minimises L + strength * w(epoch) * KL / samples, KL the divergence of the weights'
    posterior from the log-uniform prior, w rising from 0 to 1. A weight is zero where
    log alpha = log(sigma^2 / theta^2) reaches the threshold; units and features whose
    weights are all zero leave, for good, while the network trains.

    Raises:
        ValueError: An argument outside its range.

    Example:
        >>> small = tfsparse.fit_shrinking(model, SparseVD(), x, y, epochs=60).model

    Reference: Molchanov et al. 2017 (arXiv 1701.05369); SpArSe, appendix A.
    """

    name = "sparse_vd"

    threshold: float = options.field(
        3.0,
        "Threshold on log alpha, the log of a weight's noise over its signal, from which a "
        "weight is zero.",
        **THRESHOLDS,
    )
    layer_thresholds: str = options.pairs(
        "",
        "Thresholds on log alpha of single layers, by patterns of their names.",
        example="dense*=2.5,conv1=4",
        **THRESHOLDS,
    )

    @property
    def holds_zeros(self):
        """Zeros inside kernels are the result, and stay."""
        return True

    def prepare(self, model, groups):
        """Swaps layers for their Bayesian twins. See `Method.prepare`.

        Layers with weights of a class that has no twin stay plain; a line says so.

        Raises:
            ValueError: No layer has a twin.
        """

        from tfsparse.graph import rebuild

        own = self._thresholds()

        def arguments(layer):
            return {"threshold": self._threshold(layer, own)}

        swap, configure = self._swap(model, arguments)
        names = [x.name for x in model.layers if swap(x) is not type(x)]
        options.check_patterns("layer_thresholds", own, names)
        options.check_patterns("multipliers", self._multipliers(), names)
        return rebuild.graft(model, configure, swap=swap)

    def thresholded(self, model, groups) -> set[str]:
        """Layers that have a twin."""
        from tfsparse import layers

        return {layer.name for layer in model.layers if type(layer) in layers.TWINS}

    def decide(self, model) -> None:
        """Sets the thresholds that it was given, on a model trained with others, too."""
        self.set_level(model, 0.0)

    def levels(self, model) -> np.ndarray:
        """Shifts of all thresholds between which single weights go, at most 4,096."""
        from tfsparse import numerics

        own = self._thresholds()
        scores = [
            base.array_of(layer.log_alpha()) - self._threshold(layer, own)
            for layer in bayesian.twins(model)
        ]
        return numerics.gaps(np.concatenate([np.ravel(s) for s in scores]), 4096)

    def set_level(self, model, level: float) -> None:
        """Shifts the thresholds of all layers, as far as log alpha reaches."""
        from tfsparse import numerics

        own, end = self._thresholds(), numerics.LIMIT
        for layer in bayesian.twins(model):
            shifted = self._threshold(layer, own) + float(level)
            layer.threshold = float(np.clip(shifted, -end, end))

    def _thresholds(self) -> dict[str, float]:
        return options.numbers(self.layer_thresholds, "layer_thresholds", "dense*=2.5")

    def _threshold(self, layer, own) -> float:
        return options.own_number(layer.name, own, self.threshold)

    def groups(self, model) -> int:
        return sum(int(np.prod(layer.kernel.shape)) for layer in bayesian.twins(model))

    def settle(self, model, threshold: float | None = None) -> None:
        """Zeroes whole inputs and outputs of a kernel of which no weight stays."""
        import keras

        for layer in bayesian.twins(model):
            stays = base.array_of(layer.active())
            place = tuple(range(stays.ndim - 2))
            if isinstance(layer, keras.layers.DepthwiseConv2D):
                used = stays.any(axis=place)  # an output for each of the last two
            else:
                inputs = stays.any(axis=(*place, -1), keepdims=True)
                used = inputs & stays.any(axis=(*place, -2))
            layer.kernel.assign(layer.kernel * used)

    def keep(self, model, groups, tools=None) -> dict[str, np.ndarray]:
        """Units that a weight which stays writes and reads; features that one reads."""
        values = base.values_of(model)
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

    def sections(self, facts):
        """Histograms of log alpha, and what stayed plain."""
        return bayesian.sections(facts.get("trace", {}))
