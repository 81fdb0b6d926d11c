"""A child process that answers requests, one JSON line each; it may die, the parent lives."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

SAID = 2000
"""So many bytes of a child's last words are kept."""


def share_of_cores(processes: int) -> dict[str, str]:
    """What a process's environment says to TensorFlow, so that it takes its share alone."""
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    return {"TF_NUM_INTRAOP_THREADS": threads, "TF_NUM_INTEROP_THREADS": threads}


class ChildError(RuntimeError):
    """A child died, or did not answer in time.

    Attributes:
        why: What ended it, in words.
        said: The end of what it wrote to standard error meanwhile.
    """

    def __init__(self, why: str, said: str):
        super().__init__(why)
        self.why, self.said = why, said


class Child:
    """A process that runs a module which serves; started when it is first needed.

    Args:
        module: Such as `tfsparse.children.converting`.
        environment: What it sees besides this process's own.

    Example:
        >>> child = Child("tfsparse.children.converting")
        >>> child.ask({"saved_model": "folder", "calibration": None, "out": "a.tflite"}, 60)
        {'bytes': 13632}
    """

    def __init__(self, module: str, environment: Mapping[str, str] | None = None):
        self._module, self._own = module, dict(environment or {})
        self._process: Any = None
        self._errors: Any = None
        self._lock = threading.RLock()

    def start(self) -> None:
        """Starts the process, if it does not run; returns at once."""
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                return
            self.close()
            self._errors = tempfile.TemporaryFile()
            root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
            paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **self._own},
                start_new_session=True,  # Ctrl-C is for the parent, which says goodbye
            )
            atexit.register(self.close)

    def fork(self, main: Callable[[], None]) -> None:
        """Starts the process as a copy of this one, which has just loaded what it needs.

        Only right after an import, before that library does anything: what it holds then
        (threads, locks, devices) would not outlive a copy.

        Args:
            main: What the copy does, until its standard input ends.
        """
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                return
            self.close()
            self._errors = tempfile.TemporaryFile()
            (there, stdin), (stdout, here) = os.pipe(), os.pipe()
            pid = os.fork()
            if pid == 0:
                with contextlib.suppress(BaseException):
                    os.setsid()  # Ctrl-C is for the parent, which says goodbye
                    ends = (there, here, self._errors.fileno())
                    for number, end in enumerate(ends):
                        os.dup2(end, number)
                    os.closerange(3, 1024)  # the parent's: pipes must see their ends
                    sys.stdin = os.fdopen(0)
                    main()
                os._exit(0)
            os.close(there)
            os.close(here)
            self._process = _Forked(
                pid, os.fdopen(stdin, "wb"), os.fdopen(stdout, "rb")
            )
            atexit.register(self.close)

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """What the child answers.

        Args:
            request: JSON.
            seconds: How long it may take.

        Raises:
            ChildError: It died or took too long; the next request starts another one.
        """
        with self._lock:
            self.start()
            place = self._errors.seek(0, os.SEEK_END)
            try:
                self._process.stdin.write(json.dumps(request).encode() + b"\n")
                self._process.stdin.flush()
                line = self._line(time.monotonic() + seconds)
            except BrokenPipeError:
                line = b""
            except BaseException:
                self.close()  # an answer that nobody waited for must not be the next one
                raise
            if line:
                return json.loads(line)
            why = f"it took more than {seconds:g} seconds"
            with contextlib.suppress(subprocess.TimeoutExpired):
                why = _ending(self._process.wait(5 if line == b"" else 0.1))
            self._errors.seek(max(place, self._errors.seek(0, os.SEEK_END) - SAID))
            said = self._errors.read().decode(errors="replace")
            self.close()
            raise ChildError(why, said)

    def _line(self, until: float) -> bytes | None:
        """A line of the child's; empty where it ended, None where time ran out."""
        found = b""
        pipe = self._process.stdout.fileno()
        while not found.endswith(b"\n"):
            left = until - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                return None
            part = os.read(pipe, 1 << 16)
            if not part:
                return b""
            found += part
        return found

    def kill(self) -> None:
        """Ends the process at once, whoever waits for its answer."""
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """Ends the process, if it runs."""
        with self._lock:
            process, self._process = self._process, None
            if process is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()
                process.kill()
                process.wait()
                process.stdout.close()
                self._errors.close()
                atexit.unregister(self.close)


class _Forked:
    """A copy of this process, with what `subprocess.Popen` has of one."""

    def __init__(self, pid: int, stdin: Any, stdout: Any):
        self.pid, self.stdin, self.stdout = pid, stdin, stdout
        self._code: int | None = None

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        if self._code is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if found else None
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it ends; raises TimeoutExpired."""
        until = time.monotonic() + (1e9 if timeout is None else timeout)
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(
                    "a copy of this process", timeout or 0.0
                )
            time.sleep(0.01)
        return code

    def kill(self) -> None:
        """Ends it."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


CONVERTER = Child("tfsparse.children.converting")
"""Turns SavedModels into TFLite files. It loads TensorFlow: start it early."""

INTERPRETERS = Child("tfsparse.children.interpreting")
"""Runs TFLite files; ready in half a second."""


def _ending(code: int) -> str:
    """What an exit code says."""
    if code >= 0:
        return f"it ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"it crashed ({signal.Signals(-code).name})"
    return f"it crashed (signal {-code})"


def write_arrays(path: str, arrays: list[np.ndarray]) -> None:
    """Writes arrays to one .npz file, for another process to read."""
    np.savez(path, *arrays, allow_pickle=False)


def read_arrays(path: str) -> list[np.ndarray]:
    """What `write_arrays` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        return [stored[f"arr_{number}"] for number in range(len(stored.files))]


def serve(answer) -> None:
    """A child's life: reads requests, writes what `answer` makes of each.

    Args:
        answer: `request -> reply`, JSON both; what it raises becomes `{"error": ...}`.
    """
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line))
        except Exception as error:
            reply = {"error": str(error), "kind": type(error).__name__}
        replies.write(json.dumps(reply) + "\n")
