"""LeGR's ranking: an affine map of every layer's squared filter norms."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfsparse import records

LEAST = 0.1
"""Share of every group's units that stays, unless somebody says otherwise."""


@dataclasses.dataclass(frozen=True)
class Layers:
    """The layers whose filters are ranked.

    Attributes:
        names: Paths of their kernels, in order.
        norms: Path -> squared norm of each of its filters. `(filters,)`
        groups: Group name -> for each layer that writes its units, the path of its kernel
            and the unit of each filter. Layers of one group (a residual's) are summed.
        sizes: Group name -> units.
    """

    names: tuple[str, ...]
    norms: Mapping[str, np.ndarray]
    groups: Mapping[str, tuple[tuple[str, np.ndarray], ...]]
    sizes: Mapping[str, int]

    @classmethod
    def of_groups(cls, groups, values: Mapping[str, np.ndarray]) -> Layers:
        """The layers that write the units of a model's free groups.

        Args:
            groups: From `find_groups`.
            values: Path -> value of the model's variables.
        """
        norms: dict[str, np.ndarray] = {}
        writers, sizes = {}, {}
        for group in groups:
            if group.frozen or group.kind != "unit":
                continue
            sizes[group.name] = group.size
            own = []
            for member in group.members:
                if member.role == records.PRODUCER:
                    # An attention's kernel writes heads, and what each of them holds.
                    name = member.path
                    name = f"{name} of {group.name}" if name in norms else name
                    rows = member.slices(values[member.path]).astype("float64")
                    norms[name] = np.square(rows).sum(axis=1)
                    own.append((name, member.units))
            writers[group.name] = tuple(own)
        return cls(tuple(norms), norms, writers, sizes)

    def __len__(self) -> int:
        return len(self.names)

    def spreads(self) -> np.ndarray:
        """Standard deviation of each layer's squared norms. `(layers,)`."""
        return np.array([self.norms[name].std() for name in self.names])

    def scores(self, maps: np.ndarray) -> dict[str, np.ndarray]:
        """Scores of all units: s_i = sum over the layers that write i of alpha ||w_i||^2 + kappa.

        Args:
            maps: `(layers, 2)`, alpha and kappa of each.

        Returns:
            Group name -> `(units,)`.

        Reference: LeGR, section 3.1.
        """
        place = {name: number for number, name in enumerate(self.names)}
        found = {}
        for group, writers in self.groups.items():
            total = np.zeros(self.sizes[group])
            for path, units in writers:
                alpha, kappa = maps[place[path]]
                np.add.at(total, units, alpha * self.norms[path] + kappa)
            found[group] = total
        return found


def plain(layers: Layers) -> np.ndarray:
    """The maps that change nothing: global magnitude. `(layers, 2)`."""
    return np.tile([1.0, 0.0], (len(layers), 1))


def to_json(layers: Layers, maps: np.ndarray, **facts: Any) -> str:
    """A learned ranking as a file holds it: alpha and kappa by layer, and the layers' sizes."""
    told = {
        name: {"alpha": float(a), "kappa": float(k), "filters": len(layers.norms[name])}
        for name, (a, k) in zip(layers.names, maps, strict=True)
    }
    return json.dumps({"layers": told, **facts}, indent=1)


def least_of(text: str) -> float:
    """The share of every group's units that stays, as a file that `from_json` took has it.

    Raises:
        ValueError: It is no share.
    """
    told = json.loads(text).get("least", LEAST)
    if not isinstance(told, int | float) or not 0 <= told <= 1:
        raise ValueError(
            "`ranking` must be a file that a search of LeGR wrote. Received: "
            f"least={told!r}, no share."
        )
    return float(told)


def from_json(layers: Layers, text: str) -> np.ndarray:
    """The maps of a file, for these layers.

    Raises:
        ValueError: The file is no ranking, or one of another model.
    """
    try:
        held = json.loads(text)["layers"]
        sizes = {name: int(row["filters"]) for name, row in held.items()}
        maps = {
            name: (float(r["alpha"]), float(r["kappa"])) for name, r in held.items()
        }
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"`ranking` must be a file that a search of LeGR wrote. Received: {error}."
        ) from error
    own = {name: len(layers.norms[name]) for name in layers.names}
    if sizes != own:
        other = sorted(set(sizes.items()) ^ set(own.items()))[:3]
        raise ValueError(
            f"`ranking` must be one of this model. Received: another's, with {other}."
        )
    return np.array([maps[name] for name in layers.names])


def follows(layers: Layers, maps: np.ndarray, costs: Sequence[float]) -> float:
    """Whether kappa follows the cost of a layer, as the bound behind LeGR has it.

    The bound is kappa_l = -(eta tau Omega_l^2 + lambda R_l), with R_l a filter's cost: of
    layers that are alike otherwise, the costlier has the lower kappa.

    Args:
        layers, maps: A ranking.
        costs: R_l of each layer, such as its MACs a filter.

    Returns:
        Spearman's rank correlation of kappa (in units of alpha times the layer's mean squared
        norm) with -R_l, in [-1, 1]; 0 where either is all alike.

    Reference: LeGR, appendix A, equation 8 and below, which calls R by its bound of the whole
    network's cost.
    """
    from scipy import stats

    means = np.array([layers.norms[name].mean() for name in layers.names])
    own = maps[:, 1] / np.maximum(np.abs(maps[:, 0] * means), 1e-30)
    if np.ptp(own) == 0 or np.ptp(costs) == 0:
        return 0.0
    return float(stats.spearmanr(own, -np.asarray(costs, float)).statistic)
