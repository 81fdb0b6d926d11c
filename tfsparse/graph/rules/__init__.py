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
    factors_of,
    register_rule,
    rule_of,
    sizes_of,
    unplain,
)

__all__ = ["factors_of", "register_rule", "rule_of", "sizes_of", "unplain"]
