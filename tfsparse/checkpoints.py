"""Where a run keeps itself: whole checkpoints, found again after a kill."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import keras

from tfsparse import files

KEPT = 2
"""Checkpoints a stage keeps: one whole one is always there."""


@dataclasses.dataclass
class Checkpoint:
    """A model in training with what is needed to go on.

    Attributes:
        model: Compiled where training goes on.
        history: One dict an epoch, done so far.
        state: More, as JSON.
    """

    model: Any
    history: list[dict] = dataclasses.field(default_factory=list)
    state: dict = dataclasses.field(default_factory=dict)


class Store:
    """The folder of one run.

    Args:
        workdir: The folder; made when the first thing is written.
    """

    def __init__(self, workdir: str):
        self.workdir = workdir
        self._writer = None

    def path(self, *names: str) -> str:
        """A path inside the folder."""
        return os.path.join(self.workdir, *names)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps a second process out of the folder; a killed one leaves no lock.

        Raises:
            ValueError: Another process works there.
            OSError: The folder cannot be made or written to.
        """
        os.makedirs(self.path("checkpoints"), exist_ok=True)
        with open(self.path("checkpoints", "lock"), "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(
                    f"`--workdir` must not be in use. Received: {self.workdir!r}, in which "
                    "another process is running."
                ) from error
            files.sweep(self.workdir)
            yield

    def check(
        self, config: dict, defaults: dict, may_differ: tuple[str, ...], *, resume: bool
    ):
        """Checks that the folder is free, or holds the run to resume. Writes nothing.

        Args:
            config: The run's flags.
            defaults: Values of flags that an older version did not know.
            may_differ: Flags that a resumed run may change.
            resume: Whether to take up what is there.

        Returns:
            The report if the run is finished, else None.

        Raises:
            ValueError: The folder holds a run and `resume` is False, or a run of other
                flags, or a damaged one.
        """
        path = self.path("checkpoints", "config.json")
        if not os.path.exists(path) or not self._begun():
            return None
        if not resume:
            raise ValueError(
                f"`--workdir` must be empty for a new run. Received: {self.workdir!r}, "
                "which holds one. Go on with --resume, or choose another folder."
            )
        try:
            stored = {**defaults, **files.read_json(path)}
        except json.JSONDecodeError as error:
            raise ValueError(
                f"`--workdir` must hold a whole run to resume. "
                f"Received: {path!r} ({error})."
            ) from error
        different = [
            f"--{key}={config.get(key)} (was {stored.get(key)})"
            for key in sorted({*config, *stored})
            if config.get(key) != stored.get(key) and key not in may_differ
        ]
        if different:
            raise ValueError(
                f"`--resume` must keep the flags of the run in {self.workdir!r}. "
                f"Received: {', '.join(different)}."
            )
        report = self.path("report.json")
        finished = os.path.exists(report) and os.path.exists(self.path("report.html"))
        return files.read_json(report) if finished else None

    def begin(self, config: dict) -> None:
        """Notes the flags of the run that starts here, if none has."""
        if not self._begun():
            files.write_json(self.path("checkpoints", "config.json"), config)

    def _begun(self) -> bool:
        """Whether any checkpoint has been written."""
        folder = self.path("checkpoints")
        return os.path.isdir(folder) and any(map(self._epochs, os.listdir(folder)))

    def save(self, stage: str, epoch: int, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint, whole, then drops the oldest of its stage."""
        folder = self.path("checkpoints", stage)
        os.makedirs(folder, exist_ok=True)
        with files.appears_whole(
            os.path.join(folder, f"epoch-{epoch:04d}")
        ) as temporary:
            os.makedirs(temporary)
            checkpoint.model.save(os.path.join(temporary, "model.keras"))
            files.write_json(
                os.path.join(temporary, "state.json"),
                {"history": checkpoint.history, "state": checkpoint.state},
            )
        for old in self._epochs(stage)[:-KEPT]:
            files.remove(os.path.join(folder, old))

    def latest(self, stage: str, scope: Callable) -> Checkpoint | None:
        """The newest checkpoint of a stage, or None.

        Args:
            stage: The stage's name.
            scope: Gives the context to build the model in.

        Raises:
            ValueError: The checkpoint is damaged.
        """
        path = self.latest_path(stage)
        if path is None:
            return None
        try:
            stored = files.read_json(os.path.join(path, "state.json"))
            if not zipfile.is_zipfile(os.path.join(path, "model.keras")):
                raise ValueError("model.keras is missing or not whole")
            with scope():
                model = keras.saving.load_model(os.path.join(path, "model.keras"))
        except Exception as error:  # Keras raises many types for a damaged file
            reason = " ".join(str(error).split())[:160]
            raise ValueError(
                f"`--resume` must find whole checkpoints. Received: {path!r}, which says: "
                f"{reason}. Remove that folder to go back one."
            ) from error
        return Checkpoint(model, stored["history"], stored["state"])

    def latest_path(self, stage: str) -> str | None:
        """Folder of the newest checkpoint of a stage, or None."""
        epochs = self._epochs(stage)
        return self.path("checkpoints", stage, epochs[-1]) if epochs else None

    def _epochs(self, stage: str) -> list[str]:
        folder = self.path("checkpoints", stage)
        if not os.path.isdir(folder):
            return []
        return sorted(name for name in os.listdir(folder) if name.startswith("epoch-"))

    def log(self, stage: str, epoch: int, values: dict, wanted: bool) -> None:
        """Writes an epoch's numbers for TensorBoard."""
        if not wanted:
            return
        if self._writer is None:
            from tensorboard.summary import Writer

            self._writer = Writer(self.path("logs"))
        for key, value in values.items():
            if isinstance(value, dict):
                for name, number in value.items():
                    self._writer.add_scalar(f"{stage}/{key}/{name}", number, epoch)
            else:
                self._writer.add_scalar(f"{stage}/{key}", float(value), epoch)
        self._writer.flush()
