"""Records of settings as command-line flags: the only place that defines flags."""

from __future__ import annotations

import dataclasses
import textwrap
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags

from tfsparse import options

WIDTH = 96
"""Columns of a page of help."""


def expanded(arguments: Sequence[str]) -> list[str]:
    """A command line with what its `--flagfile`s hold in their places.

    Raises:
        ValueError: A flagfile cannot be read.
    """
    try:
        return flags.FlagValues().read_flags_from_files(
            list(arguments), force_gnu=False
        )
    except (flags.Error, OSError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def value_of(name: str, arguments: Sequence[str], default: str) -> str:
    """What an expanded command line says of one flag, before the others are known."""
    found = default
    for number, argument in enumerate(arguments):
        key, equals, value = argument.lstrip("-").partition("=")
        if argument == "--":
            break
        if argument.startswith("-") and key == name:
            found = value if equals else "".join(arguments[number + 1 : number + 2])
    return found


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether a command line holds `--help` or `-h`."""
    return any(one in ("--help", "-help", "-h", "--help=true") for one in arguments)


def read(
    arguments: Sequence[str],
    parts: Sequence[type[options.Options]],
    belongs: Callable[[str], str | None] = lambda name: None,
    positional: Sequence[str] = (),
    once: bool = False,
) -> tuple[dict[type, dict[str, Any]], list[str]]:
    """Reads a command line for some records.

    Args:
        arguments: `--flag=value`s, flagfiles expanded, without the program's name.
        parts: The records whose settings may stand there.
        belongs: Flag -> whose it is, of one that is none of these; None for nobody's.
        positional: Names of arguments without a flag, all of them needed.
        once: Whether a flag that stands there twice is an error.

    Returns:
        Record -> the settings that were given, by name; and the positional arguments.

    Raises:
        ValueError: An unknown flag, a value of another type than its flag's, or a missing
            argument.
    """
    values = flags.FlagValues()
    kinds: dict[str, Any] = {
        one.name: one for part in parts for one in options.fields_of(part)
    }
    types_of: dict[str, Any] = {
        k: t for part in parts for k, t in options.types_of(part).items()
    }
    for name, one in kinds.items():
        if types_of[name] is bool:
            flags.DEFINE_bool(name, one.default, "", flag_values=values)
        else:
            flags.DEFINE_string(name, None, "", flag_values=values)
    try:
        rest = values(["", *arguments])[1:]
    except flags.UnrecognizedFlagError as error:
        if owner := belongs(error.flagname.removeprefix("no")) or belongs(
            error.flagname
        ):
            raise ValueError(
                f"`--{error.flagname}` must be left out: {owner}."
            ) from error
        raise ValueError(" ".join(str(error).split())) from error
    except flags.Error as error:
        raise ValueError(" ".join(str(error).split())) from error
    if len(rest) != len(positional):
        wanted = " ".join(positional).upper() or "nothing but --flags"
        raise ValueError(
            f"The arguments must be {wanted}. Received: {' '.join(rest) or 'none'!r}."
        )
    given: dict[type, dict[str, Any]] = {}
    for part in parts:
        own = given.setdefault(part, {})
        for one in options.fields_of(part):
            if not values[one.name].present:
                continue
            if once and values[one.name].present > 1:
                raise ValueError(
                    f"`--{one.name}` must stand there once, several values joined by "
                    f"commas. Received: {values[one.name].present} of them."
                )
            own[one.name] = from_text(
                one.name, values[one.name].value, types_of[one.name]
            )
    return given, rest


def from_text(name: str, text: Any, kind: Any) -> Any:
    """The value of a setting that was written as text.

    Raises:
        ValueError: The text is no such value.
    """
    if isinstance(kind, types.UnionType):
        if text == "":
            return None
        kind = next(one for one in typing.get_args(kind) if one is not type(None))
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        parts = [part.strip() for part in text.split(",") if part.strip()]
        return tuple(from_text(name, part, inner) for part in parts)
    if kind not in (int, float):
        return text
    try:
        return kind(text)
    except ValueError:
        words = "whole numbers" if kind is int else "numbers"
        raise ValueError(
            f"`{name}` must be {words}. Received: --{name}={text}."
        ) from None


def as_flags(config: Mapping[str, Any]) -> list[str]:
    """Settings as the lines of a flagfile.

    Example:
        >>> as_flags({"epochs": 3, "features": True})
        ['--epochs=3', '--features=true']
    """
    return [f"--{key}={options.shown(value)}" for key, value in config.items()]


def page(first: str, parts: Sequence[type[options.Options]], last: str = "") -> str:
    """A page of help: a headline and its flags for each record that has any."""
    found = [first.strip()]
    for part in parts:
        if options.fields_of(part):
            rows = [_row(one) for one in options.fields_of(part)]
            found.append("\n".join([f"{part.part}:", *rows]))
    if last:
        found.append(textwrap.fill(last, WIDTH))
    return "\n\n".join(found) + "\n"


def _row(one: dataclasses.Field) -> str:
    rule = one.metadata["rule"]
    more = [*map(str, rule.choices)] and [f"one of {', '.join(map(str, rule.choices))}"]
    more += [rule.range()] if rule.range() else []
    more += [f"such as {rule.example}"] if rule.example else []
    text = f"{rule.help} [{'; '.join(more)}]" if more else rule.help
    head = f"  --{one.name}={'' if one.default is None else options.shown(one.default)}"
    gap = " " * 30
    filled = textwrap.fill(text, WIDTH, initial_indent=gap, subsequent_indent=gap)
    return f"{head:<29} {filled.strip()}" if len(head) < 30 else f"{head}\n{filled}"
