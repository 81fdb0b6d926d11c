"""What every stage of a run is: its settings, what it reads, what it hands on and reports."""

from __future__ import annotations

import abc
import dataclasses
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from tfsparse import methods, options, records

if TYPE_CHECKING:
    from tfsparse.engine.context import Context
    from tfsparse.methods import Method

STAGES: dict[str, type[Stage]] = {}
"""Stages by name."""

PLAIN = ("dense", "plain", "strip", "finetune", "quantise", "export", "verify")
"""The stages of a run without a method."""


@options.record
class Nothing(options.Options):
    """No settings."""


@dataclasses.dataclass
class Told:
    """What a stage adds to the report.

    Attributes:
        rows: Of the table of stages.
        method: Entries of `report.json` under `method`: histories, traces.
        document: Entries of `report.json` itself.
        sections: In the order in which they are shown.
    """

    rows: list[records.StageRow] = dataclasses.field(default_factory=list)
    method: dict[str, Any] = dataclasses.field(default_factory=dict)
    document: dict[str, Any] = dataclasses.field(default_factory=dict)
    sections: list[records.sections.Section] = dataclasses.field(default_factory=list)


class Stage(abc.ABC):
    """One stage of a run. A subclass in `engine/stages/` is found by its name.

    Args:
        settings: Its own, of the class `Settings` names.
        method: What decides, or None.
    """

    name: ClassVar[str]
    settings_class: ClassVar[type[options.Options]] = Nothing
    inputs: ClassVar[tuple[str, ...]] = ()
    """Results that it reads beside that of the stage before it: `model`, or a stage's name."""
    aside: ClassVar[bool] = False
    """Whether the next stage goes on from the stage before this one."""

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            known = STAGES.setdefault(cls.name, cls)
            if (
                known.__qualname__ != cls.__qualname__
                or known.__module__ != cls.__module__
            ):
                raise TypeError(
                    f"`name` of a stage must be its own. Received: {cls.name!r} of "
                    f"{cls.__module__}.{cls.__qualname__}, which is "
                    f"{known.__module__}.{known.__qualname__}'s."
                )
            STAGES[cls.name] = cls

    def __init__(self, settings: Any, method: Method | None):
        self.settings = settings
        self.method: Any = method

    def check(self, stages: Mapping[str, Stage]) -> None:
        """Checks the settings beside those of the other stages, before any work.

        Raises:
            ValueError: They do not go together.
        """

    def rehearse(self, context: Context, model) -> None:
        """Checks what can be checked on the untouched model, before anything is trained.

        Raises:
            ValueError: The model or the data cannot be used.
        """

    @abc.abstractmethod
    def run(
        self, context: Context, before: records.Result, **inputs: records.Result | None
    ) -> records.Result | None:
        """Does the stage's work, or goes on with it from its checkpoints.

        Args:
            context: What the stage may ask of whoever runs it.
            before: The result of the stage before it.
            **inputs: The results that `inputs` names; None of a stage that did nothing.

        Returns:
            What it hands on; None for nothing, so that the next goes on from `before`.
        """

    def beside(
        self, context: Context, before: records.Result, **work: Any
    ) -> dict[str, Any]:
        """A part of the stage's work, in a process beside the run's own (`engine.beside`).

        Args:
            context: Of the run, made anew; its folder is the run's.
            before: The untouched network.
            **work: What is to be done, as JSON.

        Returns:
            What came of it, as JSON.
        """
        raise NotImplementedError(f"{self.name} does nothing beside itself.")

    def family(self, context: Context) -> list[tuple[str, Stage]]:
        """Other versions of this stage, from which the list is gone through again.

        Args:
            context: As for `run`, which is over.

        Returns:
            Names of folders, and stages: several networks of one search, say. None by default.
        """
        return []

    def tell(
        self, context: Context, results: Mapping[str, records.Result | None]
    ) -> Told:
        """What it adds to the report, once all stages are done.

        Args:
            context: As for `run`.
            results: By stage, and `model`: the untouched one.
        """
        return Told()


def check_workers(method: Method, workers: int) -> None:
    """Checks that processes beside the run's own (`engine.beside`) can do its work.

    Raises:
        ValueError: They do not know the method.
    """
    if workers > 1 and ":" in methods.title_of(method):
        raise ValueError(
            "`workers` must be 1 with a method of your own, which other processes do not "
            f"import. Received: workers={workers}."
        )


def known() -> dict[str, type[Stage]]:
    """Stages by name, the package's own loaded."""
    importlib.import_module("tfsparse.engine.stages")
    return STAGES


def find(stage: str | type[Stage]) -> type[Stage]:
    """The class of a stage that a method names.

    Raises:
        ValueError: There is no stage of that name.
    """
    names = known()
    if isinstance(stage, type) and issubclass(stage, Stage) and hasattr(stage, "name"):
        return stage
    if not isinstance(stage, str) or stage not in names:
        raise ValueError(
            f"`stages` of a method must be names among {sorted(names)}, or subclasses of "
            f"Stage with a name. Received: {stage!r}."
        )
    return names[stage]


def listed(method: Method | type[Method] | None) -> list[type[Stage]]:
    """The stages of a run with a method, or without one."""
    return [find(one) for one in (PLAIN if method is None else method.stages)]
