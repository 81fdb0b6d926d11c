"""Trials of a search that run beside each other, each in a process of its own.

The processes know the run's folder: they read its settings there, and keep the checkpoints of
their trials there, where the run and its next start find them.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from concurrent import futures
from typing import Any

from tfsparse import checkpoints, files, progress, records
from tfsparse.children import process

PATIENCE = 1e9
"""Seconds that a trial may take."""


class Processes:
    """So many processes that try strengths; a context manager.

    Args:
        workdir: The run's folder, in which its settings are.
        count: How many, each with its share of the cores.

    Example:
        >>> with Processes("runs/mnist", 2) as beside:
        ...     budgets.bisect(beside.trial, 0.01, 6, 2, beside.run)
    """

    def __init__(self, workdir: str, count: int):
        self._workdir = os.path.abspath(workdir)
        own = {**process.share_of_cores(count), "TF_CPP_MIN_LOG_LEVEL": "3"}
        self._children = [process.Child(__name__, own) for _ in range(count)]
        self._free: queue.SimpleQueue = queue.SimpleQueue()
        for child in self._children:
            self._free.put(child)
        self._pool = futures.ThreadPoolExecutor(count)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *error) -> None:
        if error[0] is not None:  # nobody waits for what still runs
            for child in self._children:
                child.kill()
        self._pool.shutdown(cancel_futures=True)
        for child in self._children:
            child.close()

    def run(self, jobs) -> list[Any]:
        """Runs functions beside each other; what they return, in their order."""
        started = [self._pool.submit(job) for job in jobs]
        return [one.result() for one in started]

    def trial(self, number: int, strength: float, parent: int | None):
        """A trial in a process that is free: `(cost, steady)`.

        Raises:
            TrainingError: It is too strong.
            ValueError: What the trial raised, or its process died.
        """
        child = self._free.get()
        try:
            reply = child.ask(
                {"workdir": self._workdir, "number": number, "strength": strength,
                 "parent": parent},
                PATIENCE,
            )  # fmt: skip
        except process.ChildError as error:
            last = (error.said.strip().splitlines() or ["It said nothing"])[-1]
            raise ValueError(
                f"The process of trial {number + 1} must live. Received: {error.why} ({last}). "
                "Fewer --workers need less memory; go on with --resume."
            ) from error
        finally:
            self._free.put(child)
        if "error" in reply:
            kind = (
                records.TrainingError
                if reply["kind"] == "TrainingError"
                else ValueError
            )
            raise kind(reply["error"])
        return reply["cost"], reply["steady"]


def answer(request: dict, held: dict) -> dict:
    """What a process makes of a request.

    Args:
        request: The run's `workdir`, and a trial's `number`, `strength` and `parent`.
        held: What is kept from request to request.
    """
    import keras

    from tfsparse.engine import runner, settings

    if not held:
        store = checkpoints.Store(request["workdir"])
        stored = files.read_json(store.path("checkpoints", "config.json"))
        chosen = settings.Settings.from_json(stored)
        held["context"], held["model"] = runner.context_of(
            chosen, store, progress.Silent()
        )
        (held["stage"],) = (s for s in chosen.stages if s.name == "sparse")
    keras.utils.set_random_seed(held["context"].seed)
    cost, steady = held["stage"].trial_beside(
        held["context"],
        records.Result(held["model"]),
        request["number"],
        request["strength"],
        request["parent"],
    )
    return {"cost": float(cost), "steady": bool(steady)}


def main() -> None:
    """A process's life."""
    held: dict[str, Any] = {}
    threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        process.serve(lambda request: answer(request, held))


def _follow(parent: int) -> None:
    """Ends this process once the run that it works for has ended, however that did."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


if __name__ == "__main__":
    main()
