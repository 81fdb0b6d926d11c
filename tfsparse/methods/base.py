"""What every method shares."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from tfsparse import options, records

METHODS: dict[str, type[Method]] = {}
"""Methods by the name that `--method` takes."""

NO_METHOD = "none"
"""What `--method` takes for training without one."""


class Method(abc.ABC, options.Options):
    """A way to decide which units of a model go. A method is its settings.

    A method receives groups and never traces a model. A subclass is made a record by
    `options.record`, declares its settings as fields, and sets `name`, what `--method`
    takes. Modules that declare methods import Keras where they use it, not at their top.

    Example:
        >>> @options.record
        ... class Halve(Method):
        ...     '''Keeps the first half of every group.'''
        ...     name = "halve"
        ...     def prepare(self, model, groups):
        ...         return model
        ...     def keep(self, model, groups, tools=None):
        ...         return {g.name: np.arange(g.size) <= g.size // 2
        ...                 for g in groups if not g.frozen}
    """

    name: ClassVar[str]
    stages: ClassVar[tuple] = (
        "dense",
        "sparse",
        "strip",
        "finetune",
        "quantise",
        "export",
        "verify",
    )
    """The stages of a run, by name or class, in order."""
    sparser: ClassVar[str] = "strength"
    """The setting that makes it sparser: what trials turn."""
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

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.part = f"The method {getattr(cls, 'name', cls.__name__)}"
        if "callbacks" in cls.__dict__:
            raise TypeError(
                "A method must not define callbacks: nobody calls them. Received: "
                f"{cls.__name__}; use begin_epoch and end_epoch."
            )
        if "name" in cls.__dict__:  # not a base class of several
            known = METHODS.setdefault(cls.name, cls)
            if (known.__module__, known.__qualname__) != (
                cls.__module__,
                cls.__qualname__,
            ):
                raise TypeError(
                    f"`name` of a method must be its own. Received: {cls.name!r} of "
                    f"{cls.__module__}.{cls.__qualname__}, which is "
                    f"{known.__module__}.{known.__qualname__}'s."
                )
            METHODS[cls.name] = cls

    @property
    def kinds(self) -> tuple[str, ...]:
        """Which kinds of groups it decides about."""
        return ("unit",)

    @property
    def learning_rate(self) -> float | None:
        """Of its own optimizer while the penalty is on; None where it has none."""
        return None

    @property
    def holds_zeros(self) -> bool:
        """Whether weights that are zero once the model is stripped stay so as it is tuned."""
        return False

    @property
    def recalibrates(self) -> bool:
        """Whether BatchNorm's statistics are taken again once the model is stripped."""
        return False

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Where a report tells what `settle` costs; none where it costs nothing."""
        return ()

    @abc.abstractmethod
    def prepare(self, model, groups):
        """Returns the model to train, layers inserted; the argument stays as it is."""

    def optimizer(self, model, groups):
        """The optimizer that a prepared model needs; None where any will do."""
        return None

    def with_strength(self, value: float) -> Method:
        """The same method with another penalty."""
        return self.replaced(**{self.sparser: value})

    def set_strength(self, model, value: float) -> None:
        """Sets the penalty of a prepared model while it trains; 0 ends it."""

    def check_epochs(self, epochs: int) -> None:
        """Checks that a schedule fits into the epochs of the penalty.

        Raises:
            ValueError: It does not.
        """

    def check_tools(self, model, tools: records.Tools) -> None:
        """Checks, before a prepared model is trained, that the tools know it.

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

    def end_epoch(self, model, epoch: int, tools: records.Tools) -> dict | None:
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

    def levels(self, model) -> np.ndarray | None:
        """Thresholds of a trained model, from the strictest on: how much may stay.

        Returns:
            Numbers for `set_level`; None of a method whose dead are dead, so that a target
            is met by rank.
        """
        return None

    def set_level(self, model, level: float) -> None:
        """Sets the threshold to one of `levels`, before `keep` is asked."""

    def importance(self, model, groups) -> Mapping[str, np.ndarray] | None:
        """How much each living unit matters, where a target wants fewer of them.

        Returns:
            Group name -> `(units,)`, comparable from group to group; None takes the norm
            of what writes a unit.
        """
        return None

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

    def trace(self, model, groups) -> dict[str, Any]:
        """What is worth keeping of a trained, prepared model, as JSON; none by default."""
        return {}

    def sections(self, facts: Mapping[str, Any]) -> list[records.sections.Section]:
        """What the method adds to the report; nothing by default.

        Args:
            facts: `loops`, what `end_epoch` returned; `trace`; and `layers`, the layers
                that are left, `{"layer", "params", "weights", ...}` each.
        """
        return []


SEARCH = (*Method.stages[:3], "prune", *Method.stages[3:])
"""The stages of a method that searches: a second one may prune what it left."""


def find(name: str) -> type[Method] | None:
    """The class of a method by name, or by `package.module:Class`; None for `none`.

    Raises:
        ValueError: No method of that name exists, or the class is no method.

    Example:
        >>> import tfsparse.methods
        >>> find("gsparsity").__name__
        'GSparsity'
    """
    if name == NO_METHOD:
        return None
    if ":" in name:
        return _imported(name)
    if name not in METHODS:
        raise ValueError(
            f"`method` must be one of {[*sorted(METHODS), NO_METHOD]}, or "
            f"package.module:Class. Received: method={name!r}."
        )
    return METHODS[name]


def _imported(name: str) -> type[Method]:
    found = options.imported("method", name, "class")
    if not isinstance(found, type) or not issubclass(found, Method):
        raise ValueError(
            f"`method` must name a subclass of tfsparse.methods.Method. Received: {name!r}."
        )
    check_class(found)
    return found


def check_class(cls: type[Method]) -> None:
    """Checks that a method's class is whole.

    Raises:
        ValueError: It is abstract, has no name, or is no record.
    """
    received = f"Received: {cls.__module__}:{cls.__qualname__}."
    if inspect.isabstract(cls):
        missing = sorted(cls.__abstractmethods__)
        raise ValueError(f"`method` must be a class that defines {missing}. {received}")
    if not isinstance(getattr(cls, "name", None), str):
        raise ValueError(f"`method` must be a class with a `name`. {received}")
    own = {
        name
        for name, kind in cls.__dict__.get("__annotations__", {}).items()
        if "ClassVar" not in str(kind)
    }
    if not own <= {one.name for one in options.fields_of(cls)}:
        raise ValueError(
            "`method` must be a class whose settings are fields: put "
            f"@tfsparse.options.record above it. {received}"
        )


def title_of(method: Method | type[Method] | None) -> str:
    """What `--method` takes for a method: its name, or where its class is."""
    if method is None:
        return NO_METHOD
    cls = method if isinstance(method, type) else type(method)
    if METHODS.get(getattr(cls, "name", "")) is cls and cls.__module__.startswith(
        __package__
    ):
        return cls.name
    return f"{cls.__module__}:{cls.__qualname__}"


def array_of(tensor) -> np.ndarray:
    """A Keras tensor or variable as a NumPy array."""
    import keras

    return keras.ops.convert_to_numpy(tensor)


def values_of(model) -> dict[str, np.ndarray]:
    """Path -> value of every variable of a model."""
    return {variable.path: array_of(variable) for variable in model.variables}


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
