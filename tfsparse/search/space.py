"""What may be searched: hyper-parameters, some of which exist only where others want them.

A space is keras-tuner's `HyperParameters`, so that its tuners search the same one; a
configuration is a dictionary of the parameters that are active, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras_tuner
import numpy as np

Configuration = dict[str, Any]

BLOCKS, LAYERS = 2, 3
"""Convolution blocks at most, and layers in each."""

CONV, DOWNSAMPLED, SEPARABLE = "Conv2D", "DownsampledConv2D", "SeparableConv2D"
LAYER_TYPES = (CONV, DOWNSAMPLED, SEPARABLE)

FRACTIONS = ("main-branch", "left-branch", "right-branch")
"""Branches among which the weights of fully connected layers are shared out."""


EITHER = {"merge-type": ("left-branch", "right-branch")}
"""Parameters that are active only where one of others is True: keras-tuner's conditions know
no "or", so its tuners choose a value in vain."""


class Space:
    """Parameters, their ranges, and when each is active.

    Args:
        parameters: As keras-tuner declares them, conditional scopes included.

    Raises:
        ValueError: Two have the same name.

    Example:
        >>> space = Space(table_7((28, 28, 1)))
        >>> configuration = space.sample(np.random.default_rng(0))
        >>> "left-branch" in configuration
        True
    """

    def __init__(self, parameters: keras_tuner.HyperParameters):
        self.parameters = tuple(parameters.space)
        self.names = tuple(p.name for p in self.parameters)
        if len(set(self.names)) < len(self.names):
            raise ValueError(
                "`parameters` must have names of their own: keras-tuner forgets values of a "
                f"name that it knows twice. Received: {sorted(self.names)}."
            )

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
                for value in few_values(parameter)
                if (parameter.name, value) not in seen
            )
            parameter, value = next(fresh, (None, None))
            if parameter is None:
                return cls(found)
            seen.add((parameter.name, value))
            trial = found.copy()
            there = {own.name: own.values[0] for own in parameter.conditions}
            trial.values = {**found.values, **there, parameter.name: value}
            hypermodel.build(trial)
            found.merge(trial.space, overwrite=False)

    def active(self, values: Mapping[str, Any]) -> list:
        """The parameters that exist under these values, in their order."""
        held: Configuration = {}
        found = []
        for parameter in self.parameters:
            if self._exists(parameter, held):
                found.append(parameter)
                if parameter.name in values:
                    held[parameter.name] = values[parameter.name]
        return found

    def _exists(self, parameter, held: Configuration) -> bool:
        either = EITHER.get(parameter.name, ())
        if set(either) <= set(self.names) and either:
            if not any(held.get(name) for name in either):
                return False
        return all(condition.is_active(held) for condition in parameter.conditions)

    def sample(self, rng: np.random.Generator) -> Configuration:
        """A configuration, every active parameter uniform over its range."""
        return self.completed({}, rng)

    def completed(
        self, values: Mapping[str, Any], rng: np.random.Generator
    ) -> Configuration:
        """A whole configuration: what is missing is drawn, what is not active is dropped."""
        held: Configuration = {}
        for parameter in self.parameters:
            if self._exists(parameter, held):
                given = values.get(parameter.name)
                held[parameter.name] = drawn(parameter, rng) if given is None else given
        return held

    def check(self, values: Mapping[str, Any]) -> None:
        """Checks that a configuration is one of the space.

        Raises:
            ValueError: A parameter is missing, not active or outside its range.
        """
        active = {parameter.name: parameter for parameter in self.active(values)}
        if missing := sorted(active.keys() - values.keys()):
            raise ValueError(f"A configuration must hold {missing}. Received: none.")
        if strange := sorted(values.keys() - active.keys()):
            raise ValueError(
                f"A configuration must hold active parameters alone. Received: {strange}."
            )
        for name, parameter in active.items():
            if not holds(parameter, values[name]):
                raise ValueError(
                    f"A configuration must hold {name} within its range. Received: "
                    f"{name}={values[name]!r}."
                )


def grid(parameter) -> np.ndarray | None:
    """The numbers that a stepped parameter may be; None where it has no steps."""
    low, high = (
        getattr(parameter, "min_value", None),
        getattr(parameter, "max_value", 0),
    )
    step = getattr(parameter, "step", None)
    if low is None or step is None or parameter.sampling not in (None, "linear"):
        return None
    count = int(np.floor((high - low) / step + 1e-9)) + 1
    return np.round(low + step * np.arange(count), 10)


def options_of(parameter) -> list | None:
    """What a choice may be; None for a number."""
    kinds = keras_tuner.engine.hyperparameters
    if isinstance(parameter, kinds.Boolean):
        return [False, True]
    if isinstance(parameter, kinds.Fixed):
        return [parameter.value]
    return list(parameter.values) if isinstance(parameter, kinds.Choice) else None


def few_values(parameter) -> list:
    """Values that show what hangs on a parameter: of a long range its ends alone."""
    found = options_of(parameter)
    if found is None:
        steps = grid(parameter)
        kind = int if type(parameter).__name__ == "Int" else float
        ends = (parameter.min_value, parameter.max_value)
        found = [kind(x) for x in (ends if steps is None or len(steps) > 8 else steps)]
    return found


def drawn(parameter, rng: np.random.Generator):
    """A value, uniform over what a parameter may be (over its logarithm, where it says so)."""
    found = options_of(parameter)
    if found is not None:
        return found[int(rng.integers(len(found)))]
    steps = grid(parameter)
    if steps is None:
        value = parameter.prob_to_value(float(rng.random()))
    else:
        value = steps[int(rng.integers(len(steps)))]
    return int(value) if type(parameter).__name__ == "Int" else float(value)


def clipped(parameter, value):
    """A number brought into a parameter's range and onto its steps."""
    value = min(max(value, parameter.min_value), parameter.max_value)
    steps = grid(parameter)
    if steps is not None:
        value = steps[int(np.abs(steps - value).argmin())]
    return int(value) if type(parameter).__name__ == "Int" else float(value)


def holds(parameter, value) -> bool:
    """Whether a value is one that a parameter may be."""
    found = options_of(parameter)
    if found is not None:
        return value in found
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if not parameter.min_value <= value <= parameter.max_value:
        return False
    steps = grid(parameter)
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
    hp.Int("zero-regularization-epochs", 5, 30)
    hp.Boolean("pretraining")
    with hp.conditional_scope("pretraining", [False]):
        hp.Int("annealing-epochs", 15, 25)
    hp.Float("alpha", 0.01, 1.0, step=0.01)
    if not structured:
        hp.Boolean("batch-norm")
    if len(shape) > 1:
        _convolutions(hp)
    hp.Int("num-fc-layers", 0, 1)
    hp.Int("total-fc-layer-weights", 1, 800)
    hp.Float("weight-fraction-main-branch", 0.0, 1.0)
    if len(shape) > 1:
        for side in ("left-branch", "right-branch"):
            hp.Boolean(side)
            with hp.conditional_scope(side, [True]):
                hp.Float(f"weight-fraction-{side}", 0.01, 1.0)
        hp.Choice("merge-type", ["sum", "concatenate"])  # see `EITHER`
    return hp


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
