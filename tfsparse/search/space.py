"""What may be searched: hyper-parameters, some of which exist only where others want them.

A space is keras-tuner's `HyperParameters`, so that its tuners search the same one; a
configuration is a dictionary of the parameters that are active, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras_tuner
import numpy as np
from optuna import distributions as kinds

Configuration = dict[str, Any]

BLOCKS, LAYERS = 2, 3
"""Convolution blocks at most, and layers in each."""

CONV, DOWNSAMPLED, SEPARABLE = "Conv2D", "DownsampledConv2D", "SeparableConv2D"
LAYER_TYPES = (CONV, DOWNSAMPLED, SEPARABLE)

FRACTIONS = ("main-branch", "left-branch", "right-branch")
"""Branches among which the weights of fully connected layers are shared out."""


SIDES = ("left-branch", "right-branch")

EITHER = {
    "merge-type": SIDES,
    "total-fc-layer-weights": ("num-fc-layers", *SIDES),
    "weight-fraction-main-branch": ("num-fc-layers", *SIDES),
}
"""Parameters that are active only where one of others is True or above 0: keras-tuner's
conditions know no "or", so its tuners choose a value in vain."""


class Space:
    """Parameters, their ranges, and when each is active.

    Args:
        parameters: As keras-tuner declares them, conditional scopes included; or Optuna's
            distributions by name, always active.

    Attributes:
        ranges: Name -> Optuna's distribution, in the order of their declaration.

    Raises:
        ValueError: Two have the same name.

    Example:
        >>> space = Space(table_7((28, 28, 1)))
        >>> configuration = space.sample(np.random.default_rng(0))
        >>> "left-branch" in configuration
        True
    """

    def __init__(
        self,
        parameters: keras_tuner.HyperParameters | Mapping[str, kinds.BaseDistribution],
    ):
        self._conditions: dict[str, list] = {}
        if isinstance(parameters, Mapping):
            self.ranges = dict(parameters)
            return
        names = [parameter.name for parameter in parameters.space]
        if len(set(names)) < len(names):
            raise ValueError(
                "`parameters` must have names of their own: keras-tuner forgets values of a "
                f"name that it knows twice. Received: {sorted(names)}."
            )
        self.ranges = {p.name: distribution_of(p) for p in parameters.space}
        self._conditions = {p.name: list(p.conditions) for p in parameters.space}

    @classmethod
    def of(cls, hypermodel: keras_tuner.HyperModel) -> Space:
        """The space that a hyper-model's `build` walks through, as far as it can be seen.

        What stands under an `if` that its default does not enter is found by trying each
        value of each choice once.
        """
        found = keras_tuner.HyperParameters()
        hypermodel.build(found)
        seen: set[tuple[str, Any]] = set()
        while True:
            fresh = (
                (parameter, value)
                for parameter in found.space
                for value in few_values(distribution_of(parameter))
                if (parameter.name, value) not in seen
            )
            parameter, value = next(fresh, (None, None))
            if parameter is None:
                return cls(found)
            seen.add((parameter.name, value))
            trial = found.copy()
            there = {own.name: own.values[0] for own in parameter.conditions}
            trial.values = {**found.values, **there, parameter.name: value}
            trial.ensure_active_values()
            hypermodel.build(trial)
            found.merge(trial.space, overwrite=False)

    def active(self, values: Mapping[str, Any]) -> list[str]:
        """Names of the parameters that exist under these values, in their order."""
        held: Configuration = {}
        found = []
        for name in self.ranges:
            if self._exists(name, held):
                found.append(name)
                if name in values:
                    held[name] = values[name]
        return found

    def _exists(self, name: str, held: Configuration) -> bool:
        either = [other for other in EITHER.get(name, ()) if other in self.ranges]
        if either and not any(held.get(other) for other in either):
            return False
        return all(own.is_active(held) for own in self._conditions.get(name, ()))

    def sample(self, rng: np.random.Generator) -> Configuration:
        """A configuration, every active parameter uniform over its range."""
        return self.completed({}, rng)

    def completed(
        self, values: Mapping[str, Any], rng: np.random.Generator
    ) -> Configuration:
        """A whole configuration: what is missing is drawn, what is not active is dropped."""
        held: Configuration = {}
        for name, distribution in self.ranges.items():
            if self._exists(name, held):
                held[name] = (
                    values[name] if name in values else drawn(distribution, rng)
                )
        return held

    def check(self, values: Mapping[str, Any]) -> None:
        """Checks that a configuration is one of the space.

        Raises:
            ValueError: A parameter is missing, not active or outside its range.
        """
        active = self.active(values)
        if missing := sorted(set(active) - values.keys()):
            raise ValueError(f"A configuration must hold {missing}. Received: none.")
        if strange := sorted(values.keys() - set(active)):
            raise ValueError(
                f"A configuration must hold active parameters alone. Received: {strange}."
            )
        for name in active:
            if not holds(self.ranges[name], values[name]):
                raise ValueError(
                    f"A configuration must hold {name} within its range. Received: "
                    f"{name}={values[name]!r}."
                )

    def encoded(self, configurations: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Configurations as numbers in [0, 1]; -1 where a parameter does not exist.

        A choice among three or more has a column for each.
        """
        columns: list[np.ndarray] = []
        for name, distribution in self.ranges.items():
            rows = [_encoded(distribution, own, name) for own in configurations]
            columns.append(np.array(rows, float))
        return np.concatenate(columns, axis=1)


def _encoded(distribution, values: Mapping[str, Any], name: str) -> list[float]:
    choices = options_of(distribution)
    count = 1 if choices is None or len(choices) < 3 else len(choices)
    if name not in values:
        return [-1.0] * count
    value = values[name]
    if choices is not None:
        place = choices.index(value)
        return [float(place)] if count == 1 else np.eye(count)[place].tolist()
    low, high = distribution.low, distribution.high
    if distribution.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return [(value - low) / (high - low) if high > low else 0.0]


def distribution_of(parameter) -> kinds.BaseDistribution:
    """Optuna's distribution of a parameter of keras-tuner's."""
    known = keras_tuner.engine.hyperparameters
    if isinstance(parameter, known.Boolean):
        return kinds.CategoricalDistribution([False, True])
    if isinstance(parameter, known.Fixed):
        return kinds.CategoricalDistribution([parameter.value])
    if isinstance(parameter, known.Choice):
        return kinds.CategoricalDistribution(list(parameter.values))
    ends = parameter.min_value, parameter.max_value
    log = parameter.sampling in ("log", "reverse_log")
    if isinstance(parameter, known.Int):
        step = 1 if log else parameter.step or 1
        return kinds.IntDistribution(*ends, log=log, step=step)
    return kinds.FloatDistribution(*ends, log=log, step=None if log else parameter.step)


def options_of(distribution) -> list | None:
    """What a choice may be; None for a number."""
    return list(getattr(distribution, "choices", ())) or None


def grid(distribution) -> np.ndarray | None:
    """The numbers that a stepped range holds; None where it has no steps."""
    step = getattr(distribution, "step", None)
    if step is None or distribution.log:
        return None
    low, high = distribution.low, distribution.high
    count = int(np.floor((high - low) / step + 1e-9)) + 1
    return np.round(low + step * np.arange(count), 10)


def few_values(distribution) -> list:
    """Values that show what hangs on a parameter: of a long range its ends alone."""
    found = options_of(distribution)
    if found is None:
        steps = grid(distribution)
        ends = [distribution.low, distribution.high]
        found = [
            _kind(distribution)(value)
            for value in (ends if steps is None or len(steps) > 8 else steps)
        ]
    return found


def drawn(distribution, rng: np.random.Generator):
    """A value, uniform over a range (over its logarithm, where it says so)."""
    found = options_of(distribution)
    if found is None and (steps := grid(distribution)) is not None:
        found = list(steps)
    if found is not None:
        value = found[int(rng.integers(len(found)))]
        return value if options_of(distribution) else _kind(distribution)(value)
    low, high = distribution.low, distribution.high
    if not distribution.log:
        return float(low + (high - low) * rng.random())
    value = math.exp(math.log(low) + (math.log(high) - math.log(low)) * rng.random())
    return clipped(distribution, value)


def clipped(distribution, value):
    """A number brought into a range and onto its steps."""
    value = min(max(value, distribution.low), distribution.high)
    steps = grid(distribution)
    if steps is not None:
        value = steps[int(np.abs(steps - value).argmin())]
    kind = _kind(distribution)
    return kind(round(value)) if kind is int else kind(value)


def _kind(distribution) -> type:
    return int if isinstance(distribution, kinds.IntDistribution) else float


def holds(distribution, value) -> bool:
    """Whether a value is one that a parameter may be."""
    found = options_of(distribution)
    if found is not None:
        return value in found
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if not distribution.low <= value <= distribution.high:
        return False
    steps = grid(distribution)
    return steps is None or bool(np.abs(steps - value).min() < 1e-6)


def layer(block: int, number: int) -> str:
    """How the names of a convolution layer's parameters end. Both count from 1."""
    return f"block-{block}-layer-{number}"


def table_7(
    shape: tuple[int, ...],
    structured: bool = True,
    hp: keras_tuner.HyperParameters | None = None,
) -> keras_tuner.HyperParameters:
    """The search space of SpArSe, for pictures, series or rows.

    Args:
        shape: One sample's: `(height, width, channels)`, `(steps, channels)` or
            `(columns,)`. Series have no depth to pool, rows no convolutions.
        structured: Whether units are pruned (Bayesian compression) or single weights
            (sparse variational dropout), which alone knows BatchNorm.
        hp: What they are declared in, such as a tuner hands to `build`; None for new ones.

    Returns:
        Parameters with their conditions. `total-fc-layer-weights` counts thousands.

    Raises:
        ValueError: `shape` has other axes than these.

    Example:
        >>> [p.name for p in table_7((784,)).space][:2]
        ['zero-regularization-epochs', 'pretraining']

    Reference: SpArSe, table 7; `residual-connections` of table 8. `pretraining` is always
    active (the paper makes it hang on itself).
    """
    if len(shape) not in (1, 2, 3):
        raise ValueError(
            "`shape` must be that of a picture, a series or a row, of 3, 2 or 1 axes. "
            f"Received: shape={tuple(shape)}."
        )
    hp = keras_tuner.HyperParameters() if hp is None else hp
    if len(shape) == 3 and shape[-1] > 1:
        hp.Boolean("downsample-input-in-depth")
    if len(shape) > 1:
        hp.Boolean("downsample-input")
        with hp.conditional_scope("downsample-input", [True]):
            hp.Int("input-downsampling-rate", 2, 4)
    schedule(hp)
    if not structured:
        hp.Boolean("batch-norm")
    if len(shape) > 1:
        _convolutions(hp)
    # Of a row without a hidden layer no unit could go.
    hp.Int("num-fc-layers", int(len(shape) == 1 and structured), 1)
    if len(shape) > 1:
        for side in ("left-branch", "right-branch"):
            hp.Boolean(side)
            with hp.conditional_scope(side, [True]):
                hp.Float(f"weight-fraction-{side}", 0.01, 1.0)
        hp.Choice("merge-type", ["sum", "concatenate"])  # see `EITHER`
    hp.Int("total-fc-layer-weights", 1, 800)  # and here, too
    hp.Float("weight-fraction-main-branch", 0.0, 1.0)
    return hp


def schedule(hp: keras_tuner.HyperParameters) -> None:
    """How strongly and when a trial prunes, of any space: N1, N2, alpha, pretraining."""
    hp.Int("zero-regularization-epochs", 5, 30)
    hp.Boolean("pretraining")
    with hp.conditional_scope("pretraining", [False]):
        hp.Int("annealing-epochs", 15, 25)
    hp.Float("alpha", 0.01, 1.0, step=0.01)


def _convolutions(hp) -> None:
    """What convolution blocks may be."""
    hp.Boolean("residual-connections")
    hp.Int("num-conv-blocks", 1, BLOCKS)
    for block in range(1, BLOCKS + 1):
        with hp.conditional_scope("num-conv-blocks", list(range(block, BLOCKS + 1))):
            count = f"num-conv-layers-block-{block}"
            hp.Int(count, 1, LAYERS)
            for number in range(1, LAYERS + 1):
                with hp.conditional_scope(count, list(range(number, LAYERS + 1))):
                    end = layer(block, number)
                    # The first layer has no filters before it that could be made fewer.
                    first = block == number == 1
                    kinds = [CONV, SEPARABLE] if first else list(LAYER_TYPES)
                    hp.Choice(f"layer-type-{end}", kinds)
                    hp.Int(f"kernel-size-{end}", 2, 5)
                    hp.Int(f"num-filters-{end}", 1, 100)
                    hp.Float(f"pruning-thresholds-{end}", -6.0, 3.0, step=0.1)
                    if not first:
                        with hp.conditional_scope(f"layer-type-{end}", [DOWNSAMPLED]):
                            hp.Float(f"downsample-{end}", 0.0, 0.5)
