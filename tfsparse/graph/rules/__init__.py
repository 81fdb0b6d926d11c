"""How each layer passes units: one small function per layer class, by family."""

from tfsparse.graph.rules import (  # noqa: F401  (each registers its layers)
    attention,
    merges,
    moves,
    norms,
    pointwise,
    recurrent,
    weights,
)
from tfsparse.graph.rules.registry import (
    LINEAR,
    LayerRule,
    register_rule,
    rule_of,
    version,
)

__all__ = ["LINEAR", "LayerRule", "register_rule", "rule_of", "version"]
