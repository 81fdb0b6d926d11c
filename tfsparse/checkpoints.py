"""Where a run keeps itself: whole checkpoints, found again after a kill."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import keras

from tfsparse import files, records

KEPT = 2
"""Checkpoints a stage keeps: one whole one is always there."""


class Nowhere:
    """The store of a run that keeps nothing: what a call of Python needs."""

    keeps = False

    def latest(self, stage: str, scope: Callable) -> records.Result | None:
        """Nothing."""
        return None

    def latest_path(self, stage: str) -> str | None:
        """Nothing."""
        return None

    def save(self, stage: str, epoch: int, result: records.Result) -> None:
        """Keeps nothing."""

    def log(self, stage: str, epoch: int, values: Mapping) -> None:
        """Writes nothing."""


class Store:
    """The folder of one run.

    Args:
        workdir: The folder; made when the first thing is written.
        tensorboard: Whether numbers of epochs are written for TensorBoard, too.
    """

    keeps = True

    def __init__(self, workdir: str, tensorboard: bool = False):
        self.workdir, self._tensorboard = workdir, tensorboard
        self._writer: Any = None

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
        self,
        config: dict,
        defaults: dict,
        may_differ: Collection[str],
        elsewhere: Collection[str],
        *,
        resume: bool,
    ) -> dict | None:
        """Checks that the folder is free, or holds the run to resume. Writes nothing.

        Args:
            config: The run's settings.
            defaults: What settings were that an older version did not know.
            may_differ: Settings that a resumed run may change.
            elsewhere: Settings that other runs have: older versions kept them all.
            resume: Whether to take up what is there.

        Returns:
            The report if the run is finished, else None.

        Raises:
            ValueError: The folder holds a run and `resume` is False, or a run of other
                settings, or a damaged one.
        """
        path = self.path("checkpoints", "config.json")
        if not os.path.exists(path) or not self.begun():
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
        strange = sorted(set(stored) - set(config) - set(elsewhere))
        different = [f"--{key}, which nobody knows any more" for key in strange]
        different += [
            f"--{key}={config[key]} (was {stored[key]})"
            for key in sorted(config.keys() & stored.keys())
            if config[key] != stored[key] and key not in may_differ
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
        if not self.begun():
            files.write_json(self.path("checkpoints", "config.json"), config)

    def begun(self) -> bool:
        """Whether any checkpoint has been written."""
        folder = self.path("checkpoints")
        return os.path.isdir(folder) and any(map(self._epochs, os.listdir(folder)))

    def save(self, stage: str, epoch: int, result: records.Result) -> None:
        """Writes a checkpoint, whole, then drops the oldest of its stage."""
        folder = self.path("checkpoints", stage)
        os.makedirs(folder, exist_ok=True)
        with files.appears_whole(
            os.path.join(folder, f"epoch-{epoch:04d}")
        ) as temporary:
            os.makedirs(temporary)
            result.model.save(os.path.join(temporary, "model.keras"))
            files.write_json(
                os.path.join(temporary, "state.json"),
                {"history": result.history, "state": result.facts},
            )
        for old in self._epochs(stage)[:-KEPT]:
            files.remove(os.path.join(folder, old))

    def latest(self, stage: str, scope: Callable) -> records.Result | None:
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
        return records.Result(model, stored["history"], stored["state"])

    def latest_path(self, stage: str) -> str | None:
        """Folder of the newest checkpoint of a stage, or None."""
        epochs = self._epochs(stage)
        return self.path("checkpoints", stage, epochs[-1]) if epochs else None

    def _epochs(self, stage: str) -> list[str]:
        folder = self.path("checkpoints", stage)
        if not os.path.isdir(folder):
            return []
        return sorted(name for name in os.listdir(folder) if name.startswith("epoch-"))

    def log(self, stage: str, epoch: int, values: Mapping) -> None:
        """Writes an epoch's numbers for TensorBoard, if they are wanted."""
        if not self._tensorboard:
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
