"""Work of a stage that is done beside it, by processes of their own: trials, judgements.

The processes know the run's folder: they read its settings and its checkpoints there, and keep
theirs there, where the run and its next start find them.
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
"""Seconds that an answer may take."""


class Processes:
    """So many processes that do a stage's work; a context manager.

    Args:
        workdir: The run's folder, in which its settings are.
        count: How many, each with its share of the cores.
        stage: Name of the stage, whose `beside` they call.
        plain: Whether it does without the method, which they then need not know.

    Example:
        >>> with Processes("runs/mnist", 2, "sparse") as beside:
        ...     beside.ask(number=0, strength=0.01, parent=None)
        {'cost': 0.52, 'steady': True}
    """

    def __init__(self, workdir: str, count: int, stage: str, plain: bool = False):
        self._request = {
            "workdir": os.path.abspath(workdir),
            "stage": stage,
            "plain": plain,
        }
        own = {**process.share_of_cores(count), "TF_CPP_MIN_LOG_LEVEL": "3"}
        self._children = [process.Child(__name__, own) for _ in range(count)]
        self._free: queue.SimpleQueue = queue.SimpleQueue()
        for child in self._children:
            self._free.put(child)
        self.pool = futures.ThreadPoolExecutor(count)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *error) -> None:
        if error[0] is not None:  # nobody waits for what still runs
            for child in self._children:
                child.kill()
        self.pool.shutdown(cancel_futures=True)
        for child in self._children:
            child.close()

    def run(self, jobs) -> list[Any]:
        """Runs functions beside each other; what they return, in their order."""
        started = [self.pool.submit(job) for job in jobs]
        return [one.result() for one in started]

    def ask(self, **work) -> dict[str, Any]:
        """What the stage's `beside` returns in a process that is free.

        Args:
            **work: What it is to do, as JSON.

        Raises:
            TrainingError: Raised there.
            ValueError: Whatever else was raised there, or the process died.
        """
        child = self._free.get()
        try:
            reply = child.ask({**self._request, "work": work}, PATIENCE)
        except process.ChildError as error:
            last = (error.said.strip().splitlines() or ["It said nothing"])[-1]
            raise ValueError(
                f"The processes of the stage {self._request['stage']} must live. Received: "
                f"{error.why} ({last}). Fewer --workers need less memory; go on with --resume."
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
        return reply


def answer(request: dict, held: dict) -> dict:
    """What a process makes of a request.

    Args:
        request: The run's `workdir`, the `stage`, and the `work` it is to do.
        held: What is kept from request to request.
    """
    import keras

    from tfsparse.deploy import finished
    from tfsparse.engine import runner, settings

    if not held:
        store = checkpoints.Store(request["workdir"])
        stored = files.read_json(store.path("checkpoints", "config.json"))
        if request["plain"]:
            stored = settings.known_to({**stored, "method": "none"})
        chosen = settings.Settings.from_json(stored)
        held["context"], held["model"] = runner.context_of(
            chosen, store, progress.Silent()
        )
        (held["stage"],) = (s for s in chosen.stages if s.name == request["stage"])
        held["ships"] = runner.shipped(chosen)
    context = held["context"]
    keras.utils.set_random_seed(context.seed)
    before = records.Result(held["model"])
    with finished.ships(*held["ships"]):
        return held["stage"].beside(context, before, **request["work"])


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
