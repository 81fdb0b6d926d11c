"""Which layer of a model a tensor of its TFLite file belongs to."""

from __future__ import annotations

import re

import keras

from tfsparse.graph import trace


def known(model) -> dict[str, str]:
    """Names of a model's operations, and the layer whose kernel each works with.

    That is the layer itself, or of a BatchNormalization the one before it, as converters fold
    the two; "" where there is none.
    """
    graph = trace.read(model)
    found: dict[str, str] = {}
    for call in graph.calls:
        layer = call.operation
        own = ""
        if any("kernel" in v.name for v in getattr(layer, "variables", [])):
            own = layer.name
        elif isinstance(layer, keras.layers.BatchNormalization):
            writer = graph.writers.get(call.inputs[0])
            own = found.get(writer.operation.name, "") if writer else ""
        found[layer.name] = own
    return found


def layer_of(name: str, known: dict[str, str], constant: bool = False) -> str:
    """The layer that a tensor's name in a TFLite file tells.

    Args:
        name: Such as model_1/conv_1/Relu;model_1/conv_1/BiasAdd.
        known: See the function of that name.
        constant: Whether it is a weight, so that a layer with a kernel is meant.

    Returns:
        The layer's name; the last part of the tensor's own where no layer is told.
    """
    if name.startswith(("serving_default", "StatefulPartitionedCall")):
        return "input" if name.startswith("serving") else "output"
    found = []
    for way in name.split(";"):
        for part in way.split("/"):
            for one in (part, re.sub(r"_\d+$", "", part)):
                if one in known:
                    found.append(one)
                    break
    if constant:
        found = [known[one] for one in found if known[one]] or found
    return found[0] if found else name.split(";")[0].split("/")[-1]
