"""All settings of a run, part by part: read from a command line, from JSON, or put together."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tfsparse import budgets, data, flags, methods, options, zoo
from tfsparse.engine import stage as stages
from tfsparse.engine.training import Training

STRATEGIES = ("none", "mirrored")


@options.record
class Run(options.Options):
    """What decides, by which numbers, and where results go."""

    part = "Run"

    method: str = options.field(
        methods.DEFAULT,
        "Which method decides what goes: one of "
        f"{', '.join(sorted(methods.METHODS))}, a class of your own as "
        "package.module:Class, or none to train the network as it is. "
        "--method=NAME --help shows its settings.",
    )
    seed: int = options.field(0, "Seed of everything random.", low=0, below=2**32)
    strategy: str = options.field(
        "none",
        "mirrored trains on all GPUs with tf.distribute.",
        choices=STRATEGIES,
    )
    workdir: str = options.field(
        "runs/default", "Folder that every result goes to.", location=True
    )
    preflight: bool = options.field(
        True,
        "Before training, take the untrained network the whole way to the chip: one step, "
        "strip, int8, microcontroller.",
        location=True,
    )
    tensorboard: bool = options.field(
        True, "Write TensorBoard logs to <workdir>/logs.", location=True
    )

    def check(self) -> None:
        """Checks that results can go to the folder."""
        if not self.workdir or (
            os.path.exists(self.workdir) and not os.path.isdir(self.workdir)
        ):
            raise ValueError(
                f"`workdir` must be a folder. Received: workdir={self.workdir!r}."
            )


@options.record
class Resume(options.Options):
    """What a command line says beside a run's settings."""

    part = "Going on"

    resume: bool = options.field(
        False, "Go on with the run in --workdir, or begin it if there is none."
    )
    json: bool = options.field(
        False,
        "One line of JSON on standard output, for scripts; sentences go to standard error.",
    )


ALWAYS: tuple[type[options.Options], ...] = (
    Run,
    data.Data,
    zoo.Model,
    Training,
    budgets.Limits,
)
"""Parts that every run has."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """A run: its parts, its method, its stages.

    Attributes:
        method: What decides, or None.
        parts: Record class -> its settings, those of the stages included.
        stages: What is done, in order.

    Example:
        >>> settings = Settings.of(tfsparse.GSparsity(4e-3), Run(workdir="runs/mine"))
        >>> tfsparse.train.run(settings)
    """

    method: methods.Method | None
    parts: Mapping[Any, Any]
    stages: tuple[stages.Stage, ...] = dataclasses.field(compare=False)

    @classmethod
    def of(cls, method: methods.Method | None, *parts: options.Options) -> Settings:
        """The settings of a run with a method, or without one; parts left out are default.

        Raises:
            ValueError: A part is of no use to this run, or parts do not go together.
        """
        if method is not None:
            methods.check_class(type(method))
        needed: list[Any] = [*ALWAYS, *_of_stages(method)]
        _check_names([*needed, *([type(method)] if method else [])])
        given: dict[type, Any] = {type(part): part for part in parts}
        if strange := [part.__name__ for part in given if part not in needed]:
            raise ValueError(
                f"`parts` must be among {[part.__name__ for part in needed]}. Received: "
                f"{strange}."
            )
        found = {part: given.get(part) or part() for part in needed}
        method, found[Run] = _of_one_seed(method, found[Run], Run in given)
        listed = tuple(
            one(found.get(one.settings_class), method) for one in stages.listed(method)
        )
        _check_inputs(listed)
        by_name = {one.name: one for one in listed}
        for one in listed:
            one.check(by_name)
        return cls(method, found, listed)

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> Settings:
        """The settings that `to_json` told of; what is missing has its default.

        Raises:
            ValueError: It names a class of a user's own, which stored JSON never imports, or
                an unknown method or setting.
        """
        method, parts = _stored(config)
        if strange := sorted(set(config) - _names(parts)):
            raise ValueError(
                f"Settings of method {methods.title_of(method)} must be among its flags. "
                f"Received: {strange}."
            )
        return _put_together(
            method,
            {
                part: {
                    one.name: config[one.name]
                    for one in options.fields_of(part)
                    if one.name in config
                }
                for part in parts
            },
        )

    def to_json(self) -> dict[str, Any]:
        """Every setting by name, as JSON: what a flagfile could hold."""
        found: dict[str, Any] = {}
        for part in self.all():
            found |= part.get_config()
        return found

    def changed(self) -> dict[str, Any]:
        """The settings that are not at their default: what a flagfile has to hold."""
        default = self.defaults()
        return {k: value for k, value in self.to_json().items() if value != default[k]}

    def defaults(self) -> dict[str, Any]:
        """What every setting is where nothing is said, as JSON."""
        found: dict[str, Any] = {}
        for part in self.all():
            for one in options.fields_of(type(part)):
                value = one.default
                found[one.name] = list(value) if isinstance(value, tuple) else value
        return found

    def locations(self) -> list[str]:
        """Settings that change no result, so that a resumed run may differ in them."""
        return [
            one.name
            for part in self.all()
            for one in options.fields_of(type(part))
            if one.metadata["rule"].location
        ]

    def all(self) -> Iterator[options.Options]:
        """Every part, and the method."""
        yield from self.parts.values()
        if self.method is not None:
            yield self.method


def known_to(config: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of stored settings that their method has a use for today.

    Reports of older versions hold the settings of every method.
    """
    known = _names(_stored(config)[1])
    return {key: value for key, value in config.items() if key in known}


def _stored(config: Mapping[str, Any]) -> tuple[Any, list[Any]]:
    """The method that stored settings name, and the records that belong to such a run.

    Raises:
        ValueError: It is a class of a user's own, which stored JSON never imports.
    """
    name = config.get("method", Run().method)
    if ":" in name:
        raise ValueError(
            "`method` in stored settings must be one of the package's own. Received: "
            f"{name!r}; name it on the command line or in Python."
        )
    method = methods.find(name)
    return method, [*ALWAYS, *_of_stages(method), *([method] if method else [])]


def _names(parts) -> set[str]:
    return {one.name for part in parts for one in options.fields_of(part)}


SHARED = ("seed",)
"""Settings that two parts may have, as both mean the same."""


def _check_names(parts) -> None:
    """Checks that no two parts have settings of one name.

    Raises:
        ValueError: Two have.
    """
    owners: dict[str, Any] = {}
    for part in parts:
        for one in options.fields_of(part):
            other = owners.setdefault(one.name, part)
            if other is not part and one.name not in SHARED:
                raise ValueError(
                    f"Settings must have names of their own. Received: {one.name!r} in "
                    f"{other.__name__} and in {part.__name__}."
                )


def _check_inputs(listed: Sequence[stages.Stage]) -> None:
    """Checks that stages are there once, and read what a stage can give.

    Raises:
        ValueError: One is listed twice, or reads what no stage is called.
    """
    names = [one.name for one in listed]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"A run must have each stage once. Received: {twice} twice.")
    for one in listed:
        if strange := set(one.inputs) - {"model", *names, *stages.STAGES}:
            raise ValueError(
                f"`inputs` of stage {one.name!r} must be 'model' or names of stages. "
                f"Received: {sorted(strange)}."
            )


def _of_one_seed(method, run: Run, given: bool):
    """The method and the run with one seed: the run's, or else the method's own.

    Raises:
        ValueError: Both were given, and differ.
    """
    run = dataclasses.replace(run, method=methods.title_of(method))
    own = None if method is None else method.get_config().get("seed")
    if own is None or own == run.seed:
        return method, run
    if own == type(method)().seed:  # the method's was not set
        return method.replaced(seed=run.seed), run
    if given and run.seed != Run().seed:
        raise ValueError(
            f"`seed` of the run and of the method must be the same. Received: {run.seed} "
            f"and {own}."
        )
    return method, dataclasses.replace(run, seed=own)


def _of_stages(method) -> list[type[options.Options]]:
    """The records of the stages of a run."""
    found = dict.fromkeys(one.settings_class for one in stages.listed(method))
    return [part for part in found if options.fields_of(part)]


def _put_together(method, given: Mapping[type, Mapping[str, Any]]) -> Settings:
    """Settings from what was given for each record."""
    parts = [cls(**own) for cls, own in given.items() if cls not in (method, Resume)]
    return Settings.of(method(**given[method]) if method else None, *parts)


def parse(arguments: Sequence[str]) -> tuple[Settings, bool]:
    """Reads a command line.

    Args:
        arguments: `--flag=value`s and `--flagfile=...`s, without the program's name.

    Returns:
        The settings, and whether to resume.

    Raises:
        ValueError: An unknown flag, one of a method or stage that is not in use, or a value
            outside its range.

    Example:
        >>> settings, resume = parse(["--method=gsparsity", "--eps=0.2"])
        >>> settings.method.eps
        0.2
    """
    arguments = flags.expanded(arguments)
    method = methods.find(_named(arguments))
    own = [*ALWAYS, *_of_stages(method), *([method] if method else []), Resume]
    given, _ = flags.read(arguments, own, lambda flag: _whose(flag, method))
    given[Run].pop("method", None)
    resume = given[Resume].get("resume", False)
    return _put_together(method, given), resume


def every_setting() -> set[str]:
    """Names of the settings of all methods and stages."""
    parts = [*ALWAYS, *methods.METHODS.values()]
    parts += [cls.settings_class for cls in stages.known().values()]
    return _names(parts)


def _named(arguments: Sequence[str]) -> str:
    """What an expanded command line says of --method."""
    every = [*ALWAYS, Resume, *methods.METHODS.values()]
    every += [cls.settings_class for cls in stages.known().values()]
    switches = {
        one.name
        for part in every
        for one in options.fields_of(part)
        if options.types_of(part)[one.name] is bool
    }
    return flags.value_of("method", arguments, Run().method, switches)


def _whose(flag: str, method) -> str | None:
    """Says to whom a flag belongs that this run has no use for."""
    chosen = methods.title_of(method)
    owners = [
        cls.name
        for cls in methods.METHODS.values()
        if flag in {one.name for one in options.fields_of(cls)}
    ]
    if owners:
        return f"it belongs to {' and '.join(owners)}, and --method is {chosen}"
    for cls in stages.known().values():
        if flag in {one.name for one in options.fields_of(cls.settings_class)}:
            return (
                f"it belongs to the stage {cls.name}, which --method={chosen} has not"
            )
    return None


def help_of(arguments: Sequence[str]) -> str:
    """The page of help for a command line: the flags of its method and stages, in groups.

    Raises:
        ValueError: The method is unknown.
    """
    arguments = flags.expanded(arguments)
    method = methods.find(_named(arguments))
    own = [Run, Resume, *([method] if method else []), *ALWAYS[1:], *_of_stages(method)]
    names = ", ".join([*sorted(methods.METHODS), methods.NO_METHOD])
    return flags.page(
        "Trains a network while it gets smaller, strips what died, exports and verifies "
        "it.\n\n  tfsparse train --flagfile=configs/mnist.flags\n  tfsparse train "
        "--data=set.npz --model=mlp --hidden=24,16 --workdir=runs/mine\n\nFlags of a run "
        f"with --method={methods.title_of(method)}, and their defaults:",
        own,
        f"Methods are {names}; --method=NAME --help shows another one's flags. "
        "--flagfile=FILE reads flags from a file, one a line.",
    )
