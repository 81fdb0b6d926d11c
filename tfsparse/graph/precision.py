"""Models of half precision, and the same in float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tfsparse.graph import trace
from tfsparse.graph.rebuild import graft

HALF = ("float16", "bfloat16")


def in_float32(model):
    """The model, or, where layers compute in half precision, a copy that does not.

    Args:
        model: A built model; it is not changed.
    """
    layers = trace.sublayers(trace.read(model).operations)
    if not any(layer.compute_dtype in HALF for layer in layers):
        return model
    return graft(model, lambda layer, config: _whole(config))


def _whole(config: Any) -> Any:
    """A configuration in which every policy of half precision is float32."""
    if isinstance(config, list | tuple):
        return type(config)(map(_whole, config))
    if not isinstance(config, Mapping):
        return config
    inner = config.get("config")
    if config.get("class_name") == "DTypePolicy" and isinstance(inner, Mapping):
        return {**config, "config": {**inner, "name": _of(inner.get("name"))}}
    changed = {key: _whole(value) for key, value in config.items()}
    if isinstance(changed.get("dtype"), str):
        changed["dtype"] = _of(changed["dtype"])
    return changed


def _of(name: Any) -> Any:
    """A policy's or a dtype's name."""
    return "float32" if any(kind in str(name) for kind in HALF) else name
