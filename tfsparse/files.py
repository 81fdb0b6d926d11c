"""Files that appear whole, and silence for libraries that chatter."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator

PARTIAL = ".partial-"
"""Prefix of what is still being written; a later run sweeps it away."""


@contextlib.contextmanager
def appears_whole(path: str) -> Iterator[str]:
    """Gives a path beside `path` to write to; renames it once all is written.

    Args:
        path: A file or a folder, replaced if it exists.

    Yields:
        The temporary path, of the same ending.
    """
    folder, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(folder, f"{PARTIAL}{os.getpid()}-{name}")
    remove(temporary)
    try:
        yield temporary
        _sync(temporary)
        if os.path.isdir(path):
            old = os.path.join(folder, f"{PARTIAL}{os.getpid()}-old-{name}")
            os.rename(path, old)
            os.rename(temporary, path)
            remove(old)
        else:
            os.replace(temporary, path)
    except BaseException:
        remove(temporary)
        raise


def write_text(path: str, text: str) -> None:
    """Writes a text file, whole or not at all."""
    with appears_whole(path) as temporary:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)


def write_json(path: str, value) -> None:
    """Writes JSON with stable formatting, whole or not at all."""
    text = json.dumps(value, indent=1, allow_nan=False, default=_of_numpy)
    write_text(path, text + "\n")


def _of_numpy(value):
    """NumPy's numbers and arrays as Python's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(
        f"What is kept must be JSON. Received: {type(value).__name__}, {value!r}."
    )


def read_json(path: str):
    """Reads a JSON file."""
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def sweep(directory: str) -> None:
    """Removes what a killed run left half-written, in this folder and below."""
    for leftover in glob.glob(
        os.path.join(glob.escape(directory), "**", PARTIAL + "*"), recursive=True
    ):
        remove(leftover)


def remove(path: str) -> None:
    """Removes a file or folder, if it is there."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.remove(path)


def size_of(path: str) -> int:
    """Bytes of a file, or of all files in a folder."""
    if os.path.isfile(path):
        return os.path.getsize(path)
    return sum(
        os.path.getsize(os.path.join(folder, name))
        for folder, _, names in os.walk(path)
        for name in names
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Sends what native libraries print to nowhere; Python errors still rise."""
    with open(os.devnull, "w") as nowhere, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with captured_stderr(nowhere), contextlib.redirect_stdout(nowhere):
            yield


@contextlib.contextmanager
def told_as_json(wanted: bool) -> Iterator[Callable[[dict], None]]:
    """Hands out what tells a result: a line of JSON, while sentences go to standard error.

    Args:
        wanted: Whether it does; otherwise nothing is told, and sentences stay where they are.
    """
    if not wanted:
        yield lambda result: None
        return
    out = sys.stdout

    def tell(result: dict) -> None:
        out.write(json.dumps(result, default=_of_numpy) + "\n")
        out.flush()

    with contextlib.redirect_stdout(sys.stderr):
        yield tell


@contextlib.contextmanager
def captured_stderr(file) -> Iterator[None]:
    """Sends file descriptor 2, which C++ writes to, into `file`."""
    saved = os.dup(2)
    try:
        os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _sync(path: str) -> None:
    """Makes sure that the content is on the disk before the name is."""
    paths = [path]
    if os.path.isdir(path):
        paths = [os.path.join(f, n) for f, _, names in os.walk(path) for n in names]
    for name in paths:
        with open(name, "rb") as file:
            os.fsync(file.fileno())
