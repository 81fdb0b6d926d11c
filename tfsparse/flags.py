"""Records of settings as command-line flags: the only place that defines flags."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Collection, Sequence
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


def value_of(
    name: str, arguments: Sequence[str], default: str, switches: Collection[str] = ()
) -> str:
    """What an expanded command line says of one flag, before the others are known.

    Args:
        name: The flag.
        arguments: The command line, flagfiles expanded.
        default: Where it says nothing.
        switches: Flags that take no value of their own: `--resume`.
    """
    found, rest = default, iter(arguments)
    for argument in rest:
        if argument == "--":
            break
        key, equals, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or equals:
            found = value if key == name and equals else found
        elif key not in switches and key.removeprefix("no") not in switches:
            value = next(rest, "")  # `--key value`
            found = value if key == name else found
    return found


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether an expanded command line holds `--help` or `-h`."""
    return any(
        one.lstrip("-").partition("=")[0] in ("help", "h", "helpfull", "helpshort")
        and one.startswith("-")
        for one in arguments
    )


def is_set(name: str, arguments: Sequence[str]) -> bool:
    """Whether a switch is on in an expanded command line."""
    found = [one.lstrip("-") for one in arguments if one.startswith("-")]
    on = {name: True, f"no{name}": False, f"{name}=true": True, f"{name}=false": False}
    return [False, *(on[one] for one in found if one in on)][-1]


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
    of_type: dict[str, Any] = {
        k: t for part in parts for k, t in options.types_of(part).items()
    }
    for name, one in kinds.items():
        if of_type[name] is bool:
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
                one.name, values[one.name].value, of_type[one.name]
            )
    return given, rest


def from_text(name: str, text: Any, kind: Any) -> Any:
    """The value of a setting that was written as text.

    Raises:
        ValueError: The text is no such value.
    """
    if text == "" and kind not in (str, int, float) and not options.is_list(kind):
        return None
    plain = options.plain_type(kind)
    if options.is_list(kind):
        parts = [part.strip() for part in text.split(",") if part.strip()]
        try:
            return tuple(from_text(name, part, plain) for part in parts)
        except ValueError:
            words = "whole numbers" if plain is int else "numbers"
            raise ValueError(
                f"`{name}` must be a list of {words}. Received: --{name}={text}."
            ) from None
    if plain not in (int, float):
        return text
    try:
        return plain(text)
    except ValueError:
        words = "a whole number" if plain is int else "a number"
        raise ValueError(
            f"`{name}` must be {words}. Received: --{name}={text}."
        ) from None


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
    text = options.described(one, default=False)
    head = f"  --{one.name}={'' if one.default is None else options.shown(one.default)}"
    gap = " " * 30
    filled = textwrap.fill(text, WIDTH, initial_indent=gap, subsequent_indent=gap)
    return f"{head:<29} {filled.strip()}" if len(head) < 30 else f"{head}\n{filled}"
