"""The network that a configuration of table 7 stands for.

Layers are called by their place, so that parent and child have the same names where they have
the same parts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
import keras_tuner
import numpy as np
from keras import layers

from tfsparse.search import space as spaces

BN_MOMENTUM = 0.9


def build(configuration: Mapping[str, Any], shape: tuple[int, ...], outputs: int):
    """Builds the network of a configuration; it puts out logits.

    Convolutions do not pad where their input is large enough and no residual wants its size
    kept. A block ends in max pooling by 2 where its output has two places a side. Of
    the fully connected layers' weights each branch has its fraction.

    Args:
        configuration: Active parameters of `table_7(shape)`.
        shape: One sample's.
        outputs: How many.

    Returns:
        A Keras model.

    Example:
        >>> values = Space(table_7((28, 28, 1))).sample(np.random.default_rng(1))
        >>> build(values, (28, 28, 1), 10).output_shape
        (None, 10)

    Reference: SpArSe, table 7.
    """
    return _built(_Network(configuration, len(shape) - 1), shape, outputs)


def smallest(configuration: Mapping[str, Any], shape: tuple[int, ...], outputs: int):
    """The least that pruning can leave of a configuration's network: one unit a layer.

    Of what a Flatten puts out, one feature is read. What this network needs, no pruned one
    goes below: the bounds that it misses can be told before anything is trained.

    Args:
        configuration, shape, outputs: As for `build`.

    Example:
        >>> tfsparse.measure(smallest(values, (28, 28, 1), 10)).params
        43
    """
    ones = {name: 1 for name in configuration if name.startswith("num-filters-")}
    values = {**configuration, **ones, "total-fc-layer-weights": 0}
    return _built(_Network(values, len(shape) - 1, least=True), shape, outputs)


def _built(network: _Network, shape, outputs: int):
    inputs = keras.Input(shape, name="input")
    return keras.Model(inputs, network.logits(inputs, outputs))


class HyperNetwork(keras_tuner.HyperModel):
    """Table 7 for any tuner of keras-tuner's: declares it, and builds what is chosen.

    Args:
        shape: One sample's.
        outputs: Classes.
        structured: As for `table_7`.

    Example:
        >>> space = HyperNetwork((28, 28, 1), 10)
        >>> tuner = keras_tuner.Hyperband(space, "val_accuracy", max_epochs=9)
        >>> tuner.search(x, y, validation_split=0.1)

    Reference: SpArSe, table 7.
    """

    def __init__(self, shape: tuple[int, ...], outputs: int, structured: bool = True):
        super().__init__()
        self.shape, self.outputs, self.structured = tuple(shape), outputs, structured

    def build(self, hp):
        """The network of what a tuner has chosen, compiled."""
        spaces.table_7(self.shape, self.structured, hp)
        active = spaces.Space(hp).active(hp.values)
        chosen = {name: hp.values[name] for name in active}
        model = build(chosen, self.shape, self.outputs)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, metrics=["accuracy"])
        return model


class _Network:
    """Layers of one configuration.

    Args:
        values: The configuration.
        places: Axes along which convolutions go: 2 of pictures, 1 of series, 0 of rows.
        least: Whether one feature of each Flatten is read, and no more.
    """

    def __init__(self, values: Mapping[str, Any], places: int, least: bool = False):
        self.values, self.places, self.least = values, places, least
        self.normed = values.get("batch-norm", False)

    def logits(self, x, outputs: int):
        x = self._downsampled(x)
        first, after_block = x, None
        for block in range(1, self.values.get("num-conv-blocks", 0) + 1):
            x = self._block(x, block)
            after_block = x if after_block is None else after_block
        merged = self._merged(x, after_block, first)
        return layers.Dense(outputs, name="logits")(merged)

    def _downsampled(self, x):
        """The input with its channels, then its places, pooled."""
        if self.values.get("downsample-input-in-depth"):
            *sides, channels = x.shape[1:]
            x = layers.Reshape((math.prod(sides), channels, 1), name="depth_apart")(x)
            x = layers.MaxPooling2D((1, channels), name="depth_pool")(x)
            x = layers.Reshape((*sides, 1), name="depth_joined")(x)
        if self.values.get("downsample-input"):
            rate = min(self.values["input-downsampling-rate"], *x.shape[1:-1])
            x = self._pool(rate, "downsample")(x)
        return x

    def _pool(self, size: int, name: str):
        kind = layers.MaxPooling2D if self.places == 2 else layers.MaxPooling1D
        return kind(size, name=name)

    def _conv(self, filters: int, size: int, padding: str, name: str):
        kind = layers.Conv2D if self.places == 2 else layers.Conv1D
        return kind(filters, size, padding=padding, use_bias=not self.normed, name=name)

    def _depthwise(self, size: int, padding: str, name: str):
        kind = layers.DepthwiseConv2D if self.places == 2 else layers.DepthwiseConv1D
        return kind(size, padding=padding, use_bias=False, name=name)

    def _ended(self, x, name: str):
        """Behind a convolution: BatchNorm, if there is any, and ReLU."""
        if self.normed:
            x = layers.BatchNormalization(momentum=BN_MOMENTUM, name=f"{name}_bn")(x)
        return layers.ReLU(name=f"{name}_relu")(x)

    def _block(self, x, block: int):
        residual = self.values["residual-connections"]
        start = x
        for number in range(1, self.values[f"num-conv-layers-block-{block}"] + 1):
            x = self._layer(x, block, number, residual)
        if residual:
            if start.shape[-1] != x.shape[-1]:
                start = self._conv(x.shape[-1], 1, "same", f"block{block}_skip")(start)
            x = layers.Add(name=f"block{block}_sum")([x, start])
        if min(x.shape[1:-1]) > 1:
            x = self._pool(2, f"block{block}_pool")(x)
        return x

    def _layer(self, x, block: int, number: int, residual: bool):
        end, name = spaces.layer(block, number), f"block{block}_conv{number}"
        kind, size = self.values[f"layer-type-{end}"], self.values[f"kernel-size-{end}"]
        filters = self.values[f"num-filters-{end}"]
        padding = "valid" if not residual and min(x.shape[1:-1]) >= size else "same"
        if kind == spaces.DOWNSAMPLED:
            fewer = max(1, round(self.values[f"downsample-{end}"] * x.shape[-1]))
            x = self._ended(
                self._conv(fewer, 1, "same", f"{name}_fewer")(x), f"{name}_fewer"
            )
        if kind == spaces.SEPARABLE:
            x = self._depthwise(size, padding, f"{name}_depthwise")(x)
            size, padding = 1, "same"
        return self._ended(self._conv(filters, size, padding, name)(x), name)

    def _merged(self, x, after_block, first):
        """What the last Dense reads: the main branch, with those at its sides."""
        sides = [
            (name, start)
            for name, start in (("left", after_block), ("right", first))
            if self.values.get(f"{name}-branch")
        ]
        main = self._flat(x, "flatten")
        if not sides and not self._has_main:
            return main
        units = self._units("main", main.shape[-1])
        if not sides:
            return self._full(main, units, "main")
        flat = [(name, self._flat(start, f"{name}_flatten")) for name, start in sides]
        counts = {name: self._units(name, own.shape[-1]) for name, own in flat}
        summed = self.values["merge-type"] == "sum"
        if summed:
            least = min(counts.values())
            least = min(least, units) if self._has_main else least
            units, counts = least, dict.fromkeys(counts, least)
        if self._has_main or summed:
            main = self._full(main, units, "main")
        parts = [main, *(self._full(own, counts[name], name) for name, own in flat)]
        return (layers.Add if summed else layers.Concatenate)(name="merge")(parts)

    @property
    def _has_main(self) -> bool:
        return self.values["num-fc-layers"] > 0

    def _units(self, branch: str, inputs: int) -> int:
        """Units of a branch's Dense, so that it has its fraction of the weights."""
        weights = 1000 * self.values["total-fc-layer-weights"]
        return max(
            1, int(weights * self.values[f"weight-fraction-{branch}-branch"] / inputs)
        )

    def _full(self, x, units: int, name: str):
        x = layers.Dense(units, use_bias=not self.normed, name=f"{name}_fc")(x)
        return self._ended(x, f"{name}_fc")

    def _flat(self, x, name: str):
        if len(x.shape) > 2 and max(x.shape[1:-1]) == 1:
            # Two Dense layers behind a Flatten of one place are nan in TFLite 2.21.
            pool = (
                layers.GlobalMaxPooling2D
                if self.places == 2
                else layers.GlobalMaxPooling1D
            )
            x = pool(name=name)(x)
        elif len(x.shape) > 2:
            x = layers.Flatten(name=name)(x)
        return keras.ops.take(x, np.array([0]), axis=-1) if self.least else x
