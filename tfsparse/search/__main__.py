"""`python -m tfsparse.search`: searches networks that fit a chip, and hands over the front.

python -m tfsparse.search --data=digits --trials=50
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from tfsparse import data, flags, options, train
from tfsparse.children import process
from tfsparse.engine.training import Training
from tfsparse.search import job
from tfsparse.search.settings import SearchSettings

USAGE = """Searches architecture, hyper-parameters and pruning together, under bounds.

  python -m tfsparse.search --data=digits --objectives=error,weight_bytes --trials=50

Every trial prunes. What no other trial is better than in everything is exported and
verified; the report is <workdir>/report.html. The same command on several machines, with one
--storage=postgresql+psycopg://... and one --workdir that all of them see, shares the work; a
killed search goes on with the same command."""

PARTS = (SearchSettings, data.Data, Training)


def main(arguments: Sequence[str] | None = None) -> int:
    """The program. Returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)

    def whole() -> None:
        line = flags.expanded(given)
        if flags.asks_for_help(line):
            sys.stdout.write(flags.page(USAGE, PARTS))
            return
        found, _ = flags.read(line, PARTS, once=True)
        run(
            SearchSettings(**found[SearchSettings]),
            data.Data(**found[data.Data]),
            Training(**found[Training]),
        )

    return train.exit_code(whole)


def run(chosen: SearchSettings, source: data.Data, training: Training) -> None:
    """Searches, with the workers that are wanted, then writes what was found.

    Args:
        chosen, source, training: What is searched.
    """
    from tfsparse.search import study

    signal.signal(signal.SIGTERM, _interrupted)  # workers end with it, too
    try:
        found = job.begun(chosen, source, training)
        if WORKER in os.environ or chosen.workers == 1:
            found.work()
        else:
            _beside(chosen, _line_of(chosen, source, training))
        if WORKER in os.environ:
            return
        told = found.hand_over()
    except study.faults() as error:
        raise ValueError(
            "`storage` must stay within reach. Received: "
            f"{study.shown(chosen.storage) or 'the study of --workdir'} "
            f"({str(error).splitlines()[0]}). The same command goes on."
        ) from error
    for row in told["failed"]:
        job.say(f"Trial {row['trial']} cannot ship: {row['why']}")
    page = os.path.join(chosen.workdir, "report.html")
    job.say(
        f"{len(told['points'])} points are in {chosen.workdir}. The report is {page}"
    )


RESTARTS = 10
"""Workers that a signal ended are replaced so often, for each worker."""

WORKER = "TFSPARSE_SEARCH_WORKER"
"""Says to a process that it works for another, which writes the results."""


def _interrupted(*_) -> None:
    raise KeyboardInterrupt


def _line_of(*parts: options.Options) -> list[str]:
    """The command line that says what records hold; a password is no part of it."""
    held = {key: value for part in parts for key, value in part.get_config().items()}
    held.pop("storage")
    return [
        f"--{key}={options.written(value)}"
        for key, value in held.items()
        if value is not None and value != ""
    ]


def _beside(chosen: SearchSettings, line: Sequence[str]) -> None:
    """Starts the workers, and another for each that a signal ended.

    Raises:
        ValueError: None could go on; what it said stands above.
    """
    environment = {**os.environ, WORKER: "1", **process.share_of_cores(chosen.workers)}
    if chosen.storage:
        environment[job.STORAGE] = chosen.storage
    command = [sys.executable, "-m", "tfsparse.search", *line]

    def started() -> subprocess.Popen:
        return subprocess.Popen(command, env=environment)

    running, codes = [started() for _ in range(chosen.workers)], []
    again = RESTARTS * chosen.workers
    try:
        while running:
            time.sleep(0.2)
            for ended in [one for one in running if one.poll() is not None]:
                running.remove(ended)
                codes.append(ended.returncode)
                if ended.returncode < 0 and again:
                    again -= 1
                    running.append(started())
    finally:
        for left in running:
            left.terminate()
    if all(codes):
        raise ValueError(
            f"`workers` must be able to work. Received: all ended early, with exit codes {codes}; "
            "what they said stands above."
        )


if __name__ == "__main__":
    sys.exit(main())
