"""What stands at a model's end."""

from __future__ import annotations

import keras


def activation_at_end(graph) -> str | None:
    """Name of the activation that a model's one output comes out of.

    Args:
        graph: What `trace.read` returned.

    Returns:
        `softmax` or `sigmoid`; None for none, or another.
    """
    last = graph.writers.get(graph.outputs[0])
    if last is None:
        return None
    if isinstance(last.operation, keras.layers.Softmax):
        return "softmax"
    known = {keras.activations.softmax: "softmax", keras.activations.sigmoid: "sigmoid"}
    for function, name in known.items():
        if getattr(last.operation, "activation", None) is function:
            return name
    ops_by_name = {"Softmax": "softmax", "Sigmoid": "sigmoid"}
    if isinstance(last.operation, keras.layers.Layer):
        return None
    return ops_by_name.get(type(last.operation).__name__)
