"""What every method shares."""

from __future__ import annotations

import abc
import fnmatch
from collections.abc import Mapping, Sequence

import numpy as np

from tfsparse import records

METHODS: dict[str, type[Method]] = {}
"""Methods by the name that `--method` takes."""


class Method(abc.ABC):
    """A way to decide which units of a model go.

    A method receives groups and never traces a model. Subclasses set `name` (what
    `--method` takes) and `strength` (which argument makes the result sparser).
    """

    name: str
    strength: str
    kinds: tuple[str, ...] = ("unit",)
    learning_rate: float | None = None
    """Of its own optimizer while the penalty is on; None where it has none."""
    regrows = False
    """Whether dead units come back without the penalty, if they have not left by then."""
    warm = False
    """Whether a stronger penalty may go on from the model that a weaker one left."""
    removes = True
    """Whether dead units may leave the running model; if not, they leave at its end."""
    stays = False
    """Whether the penalty stays on as the rates fall at the end."""
    products = 1
    """How many products of a layer's size a training step makes where inference makes one."""
    holds_zeros = False
    """Whether weights that are zero once the model is stripped stay so as it is tuned."""
    thresholds: tuple[float, ...] = ()
    """Where a report tells what `settle` costs; none where it costs nothing."""

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:  # not a base class of several
            METHODS[cls.name] = cls

    @abc.abstractmethod
    def prepare(self, model, groups):
        """Returns the model to train, layers inserted; the argument stays as it is."""

    def optimizer(self, model, groups):
        """The optimizer that a prepared model needs; None where any will do."""
        return None

    def callbacks(self, model, groups) -> list:
        """Keras callbacks that training needs; none by default."""
        return []

    def with_strength(self, value: float) -> Method:
        """The same method with another penalty."""
        return type(self)(**{**self.get_config(), "strength": value})

    def set_strength(self, model, value: float) -> None:
        """Sets the penalty of a prepared model while it trains; 0 ends it."""

    def check_epochs(self, epochs: int) -> None:
        """Looks whether a schedule fits into the epochs of the penalty.

        Raises:
            ValueError: It does not.
        """

    def check_target(self, target, trials: int) -> None:
        """Looks whether a target, or trials at one, can decide where the penalty ends.

        Raises:
            ValueError: It cannot.
        """

    def check_tools(self, model, tools) -> None:
        """Looks, before a prepared model is trained, whether the tools know it.

        Raises:
            ValueError: They do not.
        """

    def begin_epoch(self, model, epoch: int, samples: int) -> None:
        """Called before each epoch that the penalty is on.

        Args:
            model: The prepared model.
            epoch: Counted from 0.
            samples: Training samples an epoch.
        """

    def end_epoch(self, model, epoch: int, tools) -> dict | None:
        """Called after each epoch that the penalty is on, before the dead are counted.

        Args:
            model: The prepared model.
            epoch: Counted from 0.
            tools: See `records.Tools`.

        Returns:
            What happened, as JSON, for the report; None for nothing.
        """
        return None

    def groups(self, model) -> int:
        """How many groups the penalty of a prepared model has; 0 where none is told."""
        return 0

    def decide(self, model) -> None:
        """Called once, as training ends: the method sets the thresholds it chooses itself."""

    def settle(self, model, threshold: float | None = None) -> np.ndarray | None:
        """Makes what has died exactly zero, before it leaves; nothing by default.

        Args:
            model: The prepared model.
            threshold: Norm up to which a group is dead; None for the method's own.

        Returns:
            Which groups of its penalty are dead, bool; None where nothing was to do.
        """
        return None

    @abc.abstractmethod
    def keep(self, model, groups, tools=None) -> Mapping[str, np.ndarray]:
        """The decision: group name -> bool array, True = stays."""

    def trace(self, model, groups) -> dict:
        """Numbers worth a plot, one JSON value a name; none by default."""
        return {}

    @abc.abstractmethod
    def get_config(self) -> dict:
        """Constructor arguments, as JSON."""


def build(name: str, **arguments) -> Method:
    """Builds a method by name.

    Raises:
        ValueError: No method of that name exists.
    """
    if name not in METHODS:
        raise ValueError(
            f"`method` must be one of {sorted(METHODS)}. Received: method={name!r}."
        )
    return METHODS[name](**arguments)


def numbers(text: str, name: str, example: str, check=None) -> dict[str, float]:
    """Reads what a user writes as `stage2*=2,stage3*=2`.

    Args:
        text: The list.
        name: Of the argument that it was given for.
        example: What such a list looks like.
        check: Called with each number; raises a ValueError about one that will not do.

    Returns:
        What stands before each `=` -> the number behind it.

    Raises:
        ValueError: A part is not `name=number`, a name stands there twice, or `check`
            refuses its number.
    """
    found = {}
    for part in filter(None, text.split(",")):
        key, _, value = part.partition("=")
        key = key.strip()
        if key in found:
            raise ValueError(f"`{name}` must name {key} once. Received: {text!r}.")
        try:
            found[key] = float(value)
        except ValueError as error:
            raise ValueError(
                f"`{name}` must be a list such as {example}. Received: {part!r}."
            ) from error
        try:
            if check:
                check(found[key])
        except ValueError as error:
            raise ValueError(f"`{name}`, in {part!r}: {error}") from error
    return found


def multipliers(text: str, example: str, below: float = np.inf) -> dict[str, float]:
    """`numbers` of an argument `multipliers`, all of them positive and `below` a bound.

    Raises:
        ValueError: A part is not `name=number`, or a number outside its range.
    """
    found = numbers(text, "multipliers", example)
    if not all(0 < factor < below for factor in found.values()):
        bound = "" if below == np.inf else f" below {below:g}"
        raise ValueError(
            f"`multipliers` must be positive numbers{bound}. Received: {text!r}."
        )
    return found


def check_step(eps: float) -> None:
    """Looks whether a step size will do, by the name that users know it by.

    Raises:
        ValueError: It is not in (0, 1].
    """
    if not 0 < eps <= 1:
        raise ValueError(f"`eps` must be in (0, 1]. Received: eps={eps!r}.")


def patterns(text: str) -> list[str]:
    """Patterns that stand in a text, separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def check_patterns(argument: str, found, names: Sequence[str]) -> None:
    """Looks whether every pattern fits a name.

    Raises:
        ValueError: One does not.
    """
    for pattern in found:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            wanted = (
                f"must name some of {list(names)}"
                if names
                else "must name nothing: this model has no layer for it"
            )
            raise ValueError(f"`{argument}` {wanted}. Received: {pattern!r}.")


def own_number(name: str, numbers: dict[str, float], rest=None):
    """The number of the last pattern that fits a name; `rest` where none does."""
    fits = [x for pattern, x in numbers.items() if fnmatch.fnmatchcase(name, pattern)]
    return fits[-1] if fits else rest


def alive_units(groups, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Units that something writes, and features that something reads.

    Args:
        groups: From `find_groups`.
        values: Path -> value of every variable of the model.

    Returns:
        For every group of units or features that is not frozen, a keep mask.
    """
    role_of = {"unit": records.PRODUCER, "feature": records.CONSUMER}
    return {
        group.name: with_weights(group, values, role_of[group.kind])
        for group in groups
        if not group.frozen and group.kind in role_of
    }


def used_units(groups, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As `alive_units`, and units that nothing reads any more go, too."""
    keep = alive_units(groups, values)
    for group in groups:
        if group.name in keep and group.kind == "unit" and not group.gates:
            keep[group.name] &= with_weights(group, values, records.CONSUMER)
    return keep


def with_weights(group, values: Mapping[str, np.ndarray], role: str) -> np.ndarray:
    """Units for which the members of a role hold weights that are not zero. `(units,)`."""
    alive = np.zeros(group.size, bool)
    for member in group.members:
        if member.role == role:
            own = member.slices(values[member.path]).any(axis=1)
            np.logical_or.at(alive, member.units, own)
    return alive


def factored_units(groups, active: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Units that a live factor sends on: a channel's own, and one of its features'.

    Members tell whose a factor is, not names: a group may have fallen into parts since.

    Args:
        groups: From `find_groups`, of the model with its factors.
        active: Name of a `PerUnit` layer -> which of its factors are alive, `(units,)`.

    Returns:
        For every group with a factor, frozen ones apart, a keep mask.
    """
    keep = {}
    for group in groups:
        factors = factors_of(group, active)
        if group.frozen or not factors:
            continue
        alive = np.ones(group.size, bool)
        for layer, member in factors.items():
            own = np.zeros(group.size, bool)
            np.logical_or.at(own, member.units, active[layer][member.indices])
            alive[member.units] &= own[member.units]
        keep[group.name] = alive
    return keep


def factors_of(group, layers) -> dict[str, records.Member]:
    """Name of each of `layers` that scales units of a group -> which of them, and how."""
    found = {}
    for member in group.members:
        name = member.path.rpartition("/")[0]
        if member.role == records.CARRIER and name in layers:
            found[name] = member
    return found
