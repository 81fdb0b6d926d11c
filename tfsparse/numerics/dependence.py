"""Which operations of a directed graph carry anything from an input to an output."""

from __future__ import annotations

import dataclasses

import numpy as np
from keras import ops

from tfsparse.numerics.evidence import joined_variance


def connected(sources, targets, kept, shown) -> np.ndarray:
    """Operations on a way, along kept ones, from an input to what is read at the end.

    Args:
        sources: The node that each operation reads, -1 for an input. `(operations,)`.
        targets: The node to which it adds. `(operations,)`.
        kept: Which operations are there. `(operations,)` bool.
        shown: Which nodes something beside operations reads. `(nodes,)` bool.

    Returns:
        `(operations,)` bool, no more than `kept`; those kept that are not among them dangle.

    Example:
        >>> connected([-1, 0, 1], [0, 1, 2], np.array([True, False, True]),
        ...           np.array([True, False, True])).tolist()   # 1 is written by nothing
        [True, False, False]

    Reference: BayesNAS, proposition 1 and figure 1b.
    """
    sources, targets = np.asarray(sources), np.asarray(targets)
    kept, shown = np.asarray(kept, bool), np.asarray(shown, bool)
    written, read = np.zeros((2, len(shown)), bool)
    while True:
        begins = kept & ((sources < 0) | written[sources])
        ends = kept & (shown | read)[targets]
        more = np.zeros((2, len(shown)), bool)
        more[0, targets[begins]] = True
        more[1, sources[ends & (sources >= 0)]] = True
        if (more[0] == written).all() and (more[1] == read).all():
            return begins & ends
        written, read = more


@dataclasses.dataclass(frozen=True, eq=False)
class Dependence:
    """Which operations are of use only where others are, those of one group alike.

    Attributes:
        edges: The group of each group's edge; itself where it has none. `(groups,)`.
        labels: The group of each operation. `(operations,)`.
        sources: The sum that each operation reads, -1 for none. `(operations,)`.
        targets: The sum that it adds to. `(operations,)`.
        shown: Whether anything but operations reads a sum. `(sums,)` bool.

    Example:
        >>> chain = Dependence(np.arange(2), np.arange(2), np.array([-1, 0]),
        ...                    np.array([0, 1]), np.array([False, True]))
        >>> chain.variance(np.array([1.0, 1.0])).tolist()
        [1.0, 0.5]

    Reference: BayesNAS, sections 4.1 and 4.2.
    """

    edges: np.ndarray
    labels: np.ndarray
    sources: np.ndarray
    targets: np.ndarray
    shown: np.ndarray

    @property
    def operations(self) -> np.ndarray:
        """Whether a group is one of operations, not of an edge. `(groups,)` bool."""
        return np.isin(np.arange(len(self.edges)), self.labels)

    @property
    def before(self) -> np.ndarray:
        """Whether group h adds to what an operation of g reads. `(groups, groups)` bool."""
        found = np.zeros((len(self.edges),) * 2, bool)
        for label, source in zip(self.labels, self.sources, strict=True):
            found[label, self.labels[self.targets == source]] = True
        return found

    def variance(self, own: np.ndarray, predecessors: bool = True) -> np.ndarray:
        """Gamma of each group, see `joined_variance`. `(groups,)`.

        Args:
            own: s, each group's own prior variance. `(groups,)`.
            predecessors: Whether what leads to an operation counts.
        """
        none, before = np.float32(np.inf), self.before
        edge = np.where(self.edges == np.arange(len(own)), none, own[self.edges])
        leads = np.where(before.any(axis=1) & predecessors, before @ own, none)
        return ops.convert_to_numpy(joined_variance(own, edge, leads))

    def dangling(self, ranks: np.ndarray, kept: int) -> int:
        """How many operations dangle where `kept` groups of the highest rank stay.

        Args:
            ranks: `(groups,)`; edges are left out.
            kept: How many groups of operations stay.
        """
        order = np.argsort(np.where(self.operations, -ranks, np.inf), kind="stable")
        stays = np.isin(self.labels, order[:kept])
        alive = connected(self.sources, self.targets, stays, self.shown)
        return int((stays & ~alive).sum())
