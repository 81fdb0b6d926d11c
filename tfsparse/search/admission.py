"""Which configurations are tried: those that can come within the bounds at all."""

from __future__ import annotations

from tfsparse.search.settings import METHODS, SearchSettings

LEAST = {
    "params", "macs", "weight_bytes", "peak_activation_bytes", "working_memory_1",
    "working_memory_2",
}  # fmt: skip
"""Measures whose least is known before training."""

IN_MEMORY = {"peak_activation_bytes", "working_memory_2"}
"""Those that single weights do not make less."""


class Admission:
    """Whether a configuration may be tried: not too large before it is pruned, and such that
    it can be within the bounds, whatever is pruned.

    Args:
        chosen: The search.
        build: `(configuration, shape, outputs) -> model`.
        smallest: The same for what pruning leaves at least; None where that is not known.
        shape: One sample's.
        outputs: How many.
    """

    def __init__(self, chosen: SearchSettings, build, smallest, shape, outputs: int):
        # Single weights may go one by one; what stands in memory stays.
        known = LEAST if METHODS[chosen.method] else LEAST & IN_MEMORY
        limits = {name: own for name, own in chosen.limits().items() if name in known}
        self._looks = [
            ("bounds", smallest, limits if smallest else {}),
            ("largest", build, chosen.trained()),
        ]
        self._of = shape, outputs
        self._least: dict[tuple[str, str], float] = {}

    def __call__(self, values) -> bool:
        """Whether this one may be tried."""
        from tfsparse import graph

        for flag, network, wanted in self._looks:
            if not wanted:
                continue
            cost = graph.measure(network(values, *self._of))
            for name in wanted:
                seen = self._least.get((flag, name), float("inf"))
                self._least[flag, name] = min(seen, getattr(cost, name))
            if any(getattr(cost, name) > own for name, own in wanted.items()):
                return False
        return True

    def told(self) -> str:
        """The least that was seen, for a message."""
        if not self._least:
            return ""
        seen = ", ".join(
            f"{name} {least:,.0f} (--{flag})"
            for (flag, name), least in self._least.items()
        )
        return f" The least of each that was seen: {seen}."
