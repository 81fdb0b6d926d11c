"""Takes BatchNorm's statistics again, for a network that has lost units."""

from __future__ import annotations

import keras
import numpy as np

from tfsparse.deploy import variables
from tfsparse.graph import trace
from tfsparse.graph.rebuild import clone, rebuild


def recalibrate(model, x, batch_size: int = 128) -> None:
    """Sets the moving mean and variance of every BatchNorm to those of `x`.

    Of batches b with n_b samples, means m_b and variances v_b, as each BatchNorm meets
    them while those before it normalise with their batch's own statistics:
    mean = sum n_b m_b / n, variance = sum n_b (v_b + m_b^2) / n - mean^2. Dropout and
    noise stay off. No weight is trained. A BatchNorm with `trainable=False` and one
    that is called more than once keep theirs.

    Args:
        model: A built Functional or Sequential model; its statistics change.
        x: Inputs, arrays `(samples, ...)` in the model's structure.
        batch_size: Samples at a time.

    Example:
        >>> small = tfsparse.strip(model, keep)
        >>> recalibrate(small, x_train[:2000])
    """
    graph = trace.read(model)
    calls = [call.operation for call in graph.calls]
    norms = [
        layer
        for layer in graph.operations
        if isinstance(layer, keras.layers.BatchNormalization)
        and layer.trainable
        and calls.count(layer) == 1
    ]
    if not norms:
        return

    def make(layer, name):  # without momentum the statistics are those of the batch
        change = {"momentum": 0.0} if layer in norms else None
        return clone(layer, name, change)

    def call(item, layer, args, kwargs):
        if item.operation in norms:
            kwargs = {**kwargs, "training": True}
        return layer(*args, **kwargs)

    twin, operations = rebuild(graph, make, call)
    variables.load(operations, graph, variables.values_of(graph), None)
    twin = keras.Model(twin.inputs, twin.outputs)
    batches = [operations[id(layer)] for layer in norms]
    first: list = [0.0] * len(norms)
    second: list = [0.0] * len(norms)
    arrays = trace.in_order(graph.model, x)
    samples = len(arrays[0])
    for start in range(0, samples, batch_size):
        part = [array[start : start + batch_size] for array in arrays]
        twin(part)
        for k, norm in enumerate(batches):
            mean = np.asarray(norm.moving_mean, "float64")
            first[k] += len(part[0]) * mean
            second[k] += len(part[0]) * (np.asarray(norm.moving_variance) + mean**2)
    for layer, ones, squares in zip(norms, first, second, strict=True):
        mean = ones / samples
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(np.maximum(squares / samples - mean**2, 0))
