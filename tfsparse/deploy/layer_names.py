"""Which layer of a model a tensor of its TFLite file belongs to."""

from __future__ import annotations

import re

from tfsparse.graph import trace


def known(model) -> dict[str, bool]:
    """Names of a model's operations, and whether each has a kernel."""
    return {
        one.name: any("kernel" in v.name for v in getattr(one, "variables", []))
        for one in trace.read(model).operations
    }


def layer_of(name: str, known: dict[str, bool], constant: bool = False) -> str:
    """The layer that a tensor's name in a TFLite file tells.

    Args:
        name: Such as model_1/conv_1/Relu;model_1/conv_1/BiasAdd.
        known: Names of the model's operations, and whether each has a kernel.
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
        found = [one for one in found if known[one]] or found
    return found[0] if found else name.split(";")[0].split("/")[-1]
