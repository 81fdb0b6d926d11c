"""The main job: train, shrink, strip, fine-tune, export, verify, report.

python -m tfsparse.train --flagfile=configs/mnist.flags
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tfsparse import files, flags, records
from tfsparse.children import converting, process

if TYPE_CHECKING:
    from tfsparse.engine.settings import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """The program. Returns the exit code: 0, or 2 after one line of explanation; 1 where all
    was done, but a file does worse than --tolerance allows.

    Args:
        arguments: The program's name, then its flags; `sys.argv` by default.
    """
    from tfsparse.engine import settings

    given = list(sys.argv if arguments is None else arguments)[1:]

    def job() -> None:
        if flags.asks_for_help(flags.expanded(given)):
            sys.stdout.write(settings.help_of(given))
            return
        chosen, resume = settings.parse(given)
        wanted = flags.is_set("json", flags.expanded(given))
        with files.told_as_json(wanted) as tell:
            where = chosen.to_json()["workdir"]
            try:
                tell(_result(run(chosen, resume=resume), where))
            except records.ParityError as error:
                tell(_result(error.result, where))
                raise

    return exit_code(job, "Free space or choose another --workdir, then go", "Go")


def _result(report: dict, workdir: str) -> dict:
    """What a script wants to know of a run: where all is, and what ships."""
    last = report["stages"][-1]
    told = ("name", "score", "params", "macs", "file", "file_bytes", "arena_bytes")
    return {"workdir": workdir, **{key: last[key] for key in told}}


def run(settings: Settings, *, resume: bool = False) -> dict:
    """Does a whole run and returns what is in its `report.json`.

    Args:
        settings: What to do, see `tfsparse.engine.settings.Settings.of`.
        resume: Go on with the run in its folder; it must be of the same settings.

    Raises:
        ValueError: Something that the user gave cannot be used.
        TrainingError: Training led nowhere.
        ParityError: A file does worse than --tolerance allows; all is written.
        OSError: A file could not be read or written.
    """
    fresh = "tensorflow" not in sys.modules and hasattr(os, "fork")
    with files.quiet():  # TensorFlow's native start-up chatter would hide our one line
        import tensorflow as tf

        if any("tflite" in name for name in settings.to_json().get("formats", ())):
            if fresh:
                process.CONVERTER.fork(converting.main)  # it loads nothing twice
            else:
                process.CONVERTER.start()  # early: it has to load TensorFlow
        from tfsparse.engine import runner

        tf.config.list_logical_devices()
        tf.get_logger().setLevel("ERROR")  # a removal retraces; that is no news
    return runner.run(settings, resume=resume)


def exit_code(
    job: Callable[[], object], after_full: str = "", after_stop: str = ""
) -> int:
    """Does a job; a mistake of the user's becomes one line, and the exit code 2; a file that
    does worse than it should becomes exit code 1.

    Args:
        job: What is done.
        after_full, after_stop: Of a job that can be resumed: what to do once a file could
            not be written, or after an interruption, then `on with --resume.`
    """

    def advice(first: str) -> str:
        return f" {first} on with --resume." if first else ""

    try:
        job()
    except records.ParityError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 1
    except (ValueError, records.StripError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    except OSError as error:
        sys.stderr.write(
            f"error: a file could not be read or written: {error.strerror or error}"
            f"{f' ({error.filename})' if error.filename else ''}.{advice(after_full)}\n"
        )
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"error: interrupted.{advice(after_stop)}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
