"""What a network costs with so many units in each group, without looking at the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

Masks = dict[str, np.ndarray]

CHECKS = 4
"""Random masks on which a polynomial has to agree with the measure."""

CLOSE = 1e-9
"""Relative difference up to which it does."""


class Counted:
    """Measures of a network as polynomials of how many units each group drops.

    Weights and products of a layer are bilinear in the units that it reads and writes, so
    that with d_g units of group g dropped a measure is

        f(d) = f_0 - sum_g a_g d_g + sum_g b_gg d_g^2 + sum_{g < h} b_gh d_g d_h,

    b_gh only where g and h meet in a layer. The coefficients are found by measuring a few
    networks once; what is no such polynomial (a peak of memory) is measured each time.

    Args:
        sizes: Group name -> units.
        meetings: Pairs of names of groups that share a layer.
        amounts: `(masks, names) -> measure -> amount`, the masks of those groups that drop
            units: slow, and exact.
        names: Which measures are wanted.
        seed: Of the masks that the polynomials are checked on.

    Attributes:
        exact: Measure -> whether its polynomial is; others are measured.

    Example:
        >>> counted = Counted(sizes, meetings, amounts, ["macs"])
        >>> counted({"conv1": 12, "conv2": 30})["macs"]
        120000.0
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        meetings: Iterable[tuple[str, str]],
        amounts: Callable[[Masks, Sequence[str]], Mapping[str, float]],
        names: Sequence[str],
        seed: int = 0,
    ):
        self.sizes, self.names = dict(sizes), list(names)
        self._amounts, self._places = amounts, {g: n for n, g in enumerate(sizes)}
        count = len(self.sizes)
        whole = self._measured({})
        linear = {name: np.zeros(count) for name in names}
        square = {name: np.zeros((count, count)) for name in names}
        spare = {g: size - 1 for g, size in self.sizes.items()}
        alone: dict[str, dict[str, float]] = {}
        for g, most in spare.items():
            if not most:
                continue
            n, half = self._places[g], most // 2
            alone[g] = far = self._measured({g: most})
            near = self._measured({g: half}) if half else None
            for name in names:
                y = far[name] - whole[name]
                b = 0.0
                if near is not None:
                    z = near[name] - whole[name]
                    b = (y / most - z / half) / (most - half)
                linear[name][n] = y / most - b * most
                square[name][n, n] = b
        for g, h in {tuple(sorted(pair)) for pair in meetings if len(set(pair)) == 2}:
            if g in alone and h in alone:
                both = self._measured({g: spare[g], h: spare[h]})
                for name in names:
                    more = both[name] - alone[g][name] - alone[h][name] + whole[name]
                    place = self._places[g], self._places[h]
                    square[name][place] = more / (spare[g] * spare[h])
        self._whole, self._linear, self._square = whole, linear, square
        self.exact = dict.fromkeys(names, True)
        rng = np.random.default_rng(seed)
        for _ in range(CHECKS):
            dropped = {g: int(rng.integers(most + 1)) for g, most in spare.items()}
            expected, found = self._measured(dropped), self._polynomials(dropped)
            for name in names:
                error = abs(found[name] - expected[name])
                self.exact[name] &= error <= CLOSE * max(abs(whole[name]), 1.0)

    @classmethod
    def of_groups(cls, groups, amounts, names: Sequence[str]) -> Counted:
        """The counts of a model's free groups of units.

        Args:
            groups: From `find_groups`.
            amounts, names: As for the class.
        """
        free = [g for g in groups if not g.frozen and g.kind == "unit"]
        readers: dict[str, set[str]] = {}
        for group in free:
            for member in group.members:
                readers.setdefault(member.path, set()).add(group.name)
        meetings = {
            (g, h) for own in readers.values() for g in own for h in own if g < h
        }
        sizes = {g.name: g.size for g in free}
        return cls(sizes, sorted(meetings), amounts, names)

    def __call__(
        self, kept: Mapping[str, int], names: Sequence[str] | None = None
    ) -> dict[str, float]:
        """What is left with so many units kept; groups that are not named are whole.

        Args:
            kept: Group name -> units.
            names: Measures that are wanted, all by default.
        """
        dropped = {g: self.sizes[g] - int(count) for g, count in kept.items()}
        found = self._polynomials(dropped)
        slow = [name for name in names or self.names if not self.exact[name]]
        if slow:
            found |= self._measured(dropped, slow)
        return {name: found[name] for name in names or self.names}

    def _polynomials(self, dropped: Mapping[str, int]) -> dict[str, float]:
        d = np.zeros(len(self.sizes))
        for group, count in dropped.items():
            d[self._places[group]] = count
        return {
            name: float(
                self._whole[name] + self._linear[name] @ d + d @ self._square[name] @ d
            )
            for name in self.names
        }

    def _measured(self, dropped: Mapping[str, int], names=None) -> dict[str, float]:
        """The measures of a network whose groups drop their last units."""
        masks = {
            group: np.arange(self.sizes[group]) < self.sizes[group] - count
            for group, count in dropped.items()
            if count
        }
        found = self._amounts(masks, names or self.names)
        return {name: float(found[name]) for name in names or self.names}
