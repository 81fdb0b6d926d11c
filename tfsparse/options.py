"""Settings declared once: a frozen record a part, from which flags, help, JSON and checks come.

A part of a run (the data, a stage, a method) declares what a user can set as the fields of
a frozen record, each with its default, its help and its range. The command line, flagfiles,
the JSON of reports and the constructor are all read off these fields.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import importlib
import math
import numbers as abstract
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

if typing.TYPE_CHECKING:
    from typing_extensions import Self, dataclass_transform
else:

    def dataclass_transform(**_):
        """What type checkers are told of `record`; nothing while a program runs."""
        return lambda decorated: decorated


PAIRS, PATTERNS = "pairs", "patterns"
"""Kinds of text fields: `conv1=2,fc*=0.5`, and `stem*,head*`."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a field may hold, and how it is told to a user.

    Attributes:
        help: A sentence that is understood alone.
        choices: All values that it may have; none for any.
        low, high: Bounds that a number may reach.
        above, below: Bounds that a number may not reach.
        kind: `pairs`, `patterns`, or None for a plain value.
        example: What such a text looks like.
        check: Called with the value (of pairs with each number); raises a ValueError.
        location: Whether it only says where things lie, so that a resumed run may differ.
    """

    help: str
    choices: tuple = ()
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    kind: str | None = None
    example: str = ""
    check: Callable[[Any], object] | None = None
    location: bool = False

    def range(self) -> str:
        """The range in words, such as `in [0, 1]`; empty for none."""
        first = self.low if self.above is None else self.above
        last = self.high if self.below is None else self.below

        def told(bound):
            return str(bound) if isinstance(bound, int) else f"{bound:g}"

        if last is not None and first is not None:
            left, right = "[("[self.above is not None], "])"[self.below is not None]
            return f"in {left}{told(first)}, {told(last)}{right}"
        if last is not None:
            return f"{'below' if self.high is None else 'at most'} {told(last)}"
        if first is None:
            return ""
        if self.above is None:
            return "0 or more" if not first else f"{told(first)} or more"
        return "positive" if not first else f"above {told(first)}"

    def holds(self, value: float) -> bool:
        """Whether a number lies in the range; nan and infinities do not."""
        return (
            math.isfinite(value)
            and (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )


def field(default: Any, help: str, **rule: Any) -> Any:  # noqa: A002  (argparse's word)
    """Declares one setting of a record.

    Args:
        default: Its value where nothing is said.
        help: What it does, in a sentence that is understood alone.
        **rule: See `Rule`.

    Returns:
        A dataclass field.

    Example:
        >>> @record
        ... class Step(Options):
        ...     eps: float = field(0.5, "Step size.", above=0, high=1)
        >>> Step(eps=0.1).get_config()
        {'eps': 0.1}
    """
    return dataclasses.field(default=default, metadata={"rule": Rule(help, **rule)})


def pairs(default: str, help: str, example: str, **rule: Any) -> Any:  # noqa: A002
    """Declares a setting that is a number for each of some names: `conv1=2,fc*=0.5`.

    Python may give a mapping; it is kept as text. `numbers` reads it.
    """
    return field(default, help, kind=PAIRS, example=example, **rule)


def patterns(default: str, help: str, **rule: Any) -> Any:  # noqa: A002
    """Declares a setting that is a list of patterns: `stem*,head*`.

    Python may give a sequence; it is kept as text. `listed` reads it.
    """
    return field(default, help, kind=PATTERNS, **rule)


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of one part of a run. A base class; subclasses are made by `record`."""

    part: ClassVar[str] = ""
    """Whose settings these are, as a headline of help and in errors."""

    def __post_init__(self) -> None:
        kinds = types_of(type(self))
        for one in fields_of(type(self)):
            value = settled(one, kinds[one.name], getattr(self, one.name))
            object.__setattr__(self, one.name, value)
        self.check()

    def check(self) -> None:
        """Checks what more than one field decides; a ValueError says what is wrong."""

    def get_config(self) -> dict[str, Any]:
        """The settings as JSON: name -> value; what the constructor takes."""
        found = {}
        for one in fields_of(type(self)):
            value = getattr(self, one.name)
            found[one.name] = list(value) if isinstance(value, tuple) else value
        return found

    def replaced(self, **changes: Any) -> Self:
        """The same settings but for some."""
        return type(self)(**{**self.get_config(), **changes})

    def chosen(self) -> list[str]:
        """Names of the settings that are not at their default."""
        return [
            f.name for f in fields_of(type(self)) if getattr(self, f.name) != f.default
        ]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The record that `get_config` told of.

        Raises:
            ValueError: A name is no setting of this record, or a value is outside its range.
        """
        known = [one.name for one in fields_of(cls)]
        if strange := sorted(set(config) - set(known)):
            raise ValueError(
                f"{cls.__name__} must be given settings among {known}. Received: {strange}."
            )
        return cls(**config)


@dataclass_transform(frozen_default=True)
def record(cls):
    """Decorator: makes a subclass of `Options` a frozen record, its fields in its docstring.

    Example:
        >>> @record
        ... class Step(Options):
        ...     '''How far a step goes.'''
        ...     eps: float = field(0.5, "Step size.", above=0, high=1)
        >>> Step(0.2).eps
        0.2
    """
    cls = dataclasses.dataclass(frozen=True)(cls)
    _check_record(cls)
    told = "\n".join(
        textwrap.fill(
            f"{one.name}: {described(one)}",
            88,
            initial_indent=" " * 8,
            subsequent_indent=" " * 12,
        )
        for one in fields_of(cls)
    )
    lines, ends = (cls.__doc__ or "").rstrip(), ("Raises:", "Example:", "Reference:")
    if told and "Args:" not in lines:
        places = [place for end in ends if (place := lines.find(f"    {end}")) > 0]
        place = min(places, default=len(lines))
        before, after = lines[:place].rstrip(), lines[place:].rstrip()
        cls.__doc__ = f"{before}\n\n    Args:\n{told}\n\n{after}".rstrip() + "\n    "
    return cls


def _check_record(cls: type) -> None:
    """Checks that every field is a setting, of a type that a flag can have.

    Raises:
        TypeError: One is not.
    """
    kinds = types_of(cls)
    for one in dataclasses.fields(cls):
        if one.init and "rule" not in one.metadata:
            raise TypeError(
                f"Every field of {cls.__name__} must be made by options.field, pairs or "
                f"patterns, or be a ClassVar. Received: {one.name}."
            )
        if plain_type(kinds[one.name]) not in (bool, int, float, str):
            raise TypeError(
                f"A setting must be of bool, int, float, str, a tuple of one of them, or "
                f"that or None. Received: {one.name} of {cls.__name__}, {kinds[one.name]}."
            )


def _without_none(kind: Any) -> Any:
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        rest = [one for one in typing.get_args(kind) if one is not type(None)]
        return rest[0] if len(rest) == 1 else kind
    return kind


def is_list(kind: Any) -> bool:
    """Whether a setting's type is a tuple of any length."""
    kind = _without_none(kind)
    return typing.get_origin(kind) is tuple and typing.get_args(kind)[1:] == (...,)


def plain_type(kind: Any) -> Any:
    """The type of a single value: without None, and of what a tuple holds."""
    kind = _without_none(kind)
    return typing.get_args(kind)[0] if is_list(kind) else kind


def fields_of(cls: type) -> list[dataclasses.Field]:
    """The settings that a record declares, in order."""
    return [one for one in dataclasses.fields(cls) if "rule" in one.metadata]


def types_of(cls: type) -> dict[str, Any]:
    """Name of each field -> its type."""
    return typing.get_type_hints(cls)


def described(one: dataclasses.Field, default: bool = True) -> str:
    """A setting's help, its choices, range, an example, and its default if it is wanted."""
    rule: Rule = one.metadata["rule"]
    more = []
    if rule.choices:
        more.append("one of " + ", ".join(map(str, rule.choices)))
    if rule.range():
        more.append(rule.range())
    if rule.example:
        more.append(f"such as {rule.example}")
    if default and one.default not in (None, "", ()):
        more.append(f"default {shown(one.default)}")
    return f"{rule.help} ({'; '.join(more)})" if more else rule.help


def shown(value: Any) -> str:
    """A value as it would be written behind a flag's `=`."""
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def written(value: Any) -> str:
    """A value as a flagfile holds it: read back, it is the same.

    Example:
        >>> written(1234567.0), written((1, 2)), written(None)
        ('1234567.0', '1,2', '')
    """
    if isinstance(value, tuple | list):
        return ",".join(map(written, value))
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


# Checks --------------------------------------------------------------------------


def settled(one: dataclasses.Field, kind: Any, value: Any) -> Any:
    """A value as a record keeps it.

    Raises:
        ValueError: It is of another type than the field's, or outside its range.
    """
    rule: Rule = one.metadata["rule"]
    if rule.kind is not None:
        value = _as_text(one.name, value, rule)
    elif value is None and type(None) in typing.get_args(kind):
        return None
    else:
        value = _typed(one.name, value, kind, rule)
    if rule.choices:
        for part in value if isinstance(value, tuple) else (value,):
            if part not in rule.choices:
                raise ValueError(
                    f"`{one.name}` must be one of {list(rule.choices)}. Received: "
                    f"{one.name}={value!r}."
                )
    if rule.kind != PAIRS and rule.check is not None:
        rule.check(value)
    return value


def _typed(name: str, value: Any, kind: Any, rule: Rule) -> Any:
    """A value of one of the types that flags have, checked against its range."""
    if is_list(kind):
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise ValueError(f"`{name}` must be a list. Received: {name}={value!r}.")
        return tuple(_typed(name, one, plain_type(kind), rule) for one in value)
    kind = plain_type(kind)
    words = f"`{name}` must be {{}}. Received: {name}={value!r}."
    if kind is bool:
        if not isinstance(value, bool) and str(type(value)) != "<class 'numpy.bool'>":
            raise ValueError(words.format("True or False"))
        return bool(value)
    if kind is str:
        if not isinstance(value, str):
            raise ValueError(words.format("a text"))
        return value
    wanted = abstract.Integral if kind is int else abstract.Real
    name_of_kind = "a whole number" if kind is int else "a number"
    said = f"{name_of_kind}{' ' if rule.range() else ''}{rule.range()}"
    if isinstance(value, bool) or not isinstance(value, wanted):
        raise ValueError(words.format(said))
    if not rule.holds(float(value)):
        raise ValueError(words.format(rule.range() or "finite"))
    return kind(value)


def _as_text(name: str, value: Any, rule: Rule) -> str:
    """Pairs or patterns as text, read once to see that they can be."""
    if rule.kind == PAIRS:
        if isinstance(value, Mapping):
            value = as_text(value)
        if isinstance(value, str):
            numbers(value, name, rule.example, functools.partial(_in_range, rule))
            return value
    elif isinstance(value, str):
        return value
    elif isinstance(value, Sequence) and all(isinstance(one, str) for one in value):
        return ",".join(value)
    wanted = f"a list such as {rule.example}" if rule.example else "patterns of names"
    raise ValueError(f"`{name}` must be {wanted}. Received: {name}={value!r}.")


def _in_range(rule: Rule, number: float) -> None:
    if not rule.holds(number):
        raise ValueError(f"must be {rule.range() or 'finite'}. Received: {number:g}.")
    if rule.check is not None:
        rule.check(number)


# Texts that a user writes ---------------------------------------------------------


def numbers(text: str, name: str, example: str, check=None) -> dict[str, float]:
    """Reads what a user writes as `stage2*=2,stage3*=2`.

    Args:
        text: The list.
        name: Of the setting that it was given for.
        example: What such a list looks like.
        check: Called with each number; raises a ValueError about one that will not do.

    Returns:
        What stands before each `=` -> the number behind it.

    Raises:
        ValueError: A part is not `name=number`, a name stands there twice, or `check`
            refuses its number.

    Example:
        >>> numbers("conv*=2,fc=0.5", "multipliers", "conv1=2")
        {'conv*': 2.0, 'fc': 0.5}
    """
    found: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        key = key.strip()
        if key in found:
            raise ValueError(f"`{name}` must name {key} once. Received: {text!r}.")
        try:
            if not (key and equals):
                raise ValueError
            found[key] = float(value)
        except ValueError:
            raise ValueError(
                f"`{name}` must be a list such as {example}. Received: {part!r}."
            ) from None
        try:
            if check is not None:
                check(found[key])
        except ValueError as error:
            raise ValueError(f"`{name}`, in {part!r}: {error}") from error
    return found


def as_text(pairs_: Mapping[str, float] | str | None) -> str:
    """A mapping as the text that a setting of pairs keeps; empty for None.

    Example:
        >>> as_text({"params": 0.5})
        'params=0.5'
    """
    if isinstance(pairs_, Mapping):
        return ",".join(f"{key}={written(one)}" for key, one in pairs_.items())
    return pairs_ or ""


def listed(text: str) -> list[str]:
    """Patterns that stand in a text, separated by commas.

    Example:
        >>> listed("stem*, head*")
        ['stem*', 'head*']
    """
    return [part.strip() for part in text.split(",") if part.strip()]


def imported(name: str, text: str, kind: str) -> Any:
    """What `package.module:Thing` names; `name` is the option, `kind` what it asks for."""
    module, _, attribute = text.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"`{name}` must name a {kind} that can be imported. Received: {text!r} "
            f"({error})."
        ) from error


def check_patterns(name: str, found: Iterable[str], names: Sequence[str]) -> None:
    """Checks that every pattern fits a name.

    Raises:
        ValueError: One does not.
    """
    for pattern in found:
        if not any(fnmatch.fnmatchcase(one, pattern) for one in names):
            wanted = (
                f"must name some of {list(names)}"
                if names
                else "must name nothing: this model has no layer for it"
            )
            raise ValueError(f"`{name}` {wanted}. Received: {pattern!r}.")


def own_number(name: str, found: Mapping[str, float], rest=None):
    """The number of the last pattern that fits a name; `rest` where none does.

    Example:
        >>> own_number("conv2", {"conv*": 2.0, "fc": 0.5}, 1.0)
        2.0
    """
    fits = [x for pattern, x in found.items() if fnmatch.fnmatchcase(name, pattern)]
    return fits[-1] if fits else rest
