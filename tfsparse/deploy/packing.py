"""Ships a compressed file beside a plain one: proven to answer alike, its prices told."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import time

import numpy as np

from tfsparse import files, records
from tfsparse.deploy import compress, front, interpreters
from tfsparse.deploy.layer_names import layer_of

PART = 256
"""Samples that are run between two looks: the first that differs ends the proof."""


def check_limit(arena_limit: float | None) -> None:
    """Checks what bounds working memory.

    Raises:
        ValueError: It is no number of bytes.
    """
    number = isinstance(arena_limit, int | float) and arena_limit > 0
    if arena_limit is not None and not number:
        raise ValueError(
            f"`arena_limit` must be a number of bytes. Received: {arena_limit!r}."
        )


def check_installed() -> None:
    """Checks that what alone unpacks weights is there to prove it.

    Raises:
        ValueError: It is not.
    """
    if importlib.util.find_spec("tflite_micro") is None:
        raise ValueError(
            "`compress` must be none where the microcontroller interpreter is not "
            "installed, which alone unpacks weights. Received: none; "
            "`pip install tfsparse[mcu]` brings it."
        )


def packed(
    plain: records.Artifact,
    name: str,
    named: bytes,
    way: str,
    inputs: list[np.ndarray],
    known: dict[str, str],
    arena_limit: float | None = None,
) -> list[records.Artifact]:
    """Writes the compressed file of a plain one, if it is smaller and answers alike.

    Args:
        plain: The file that it stands beside.
        name: Its format.
        named: The plain file as the converter made it: its names tell layers.
        way: One of `records.PACKINGS`.
        inputs: What it is proven on: one array an input, as the model takes them.
        known: See `layer_names.known`.
        arena_limit: Bytes of working memory that it may need.

    Returns:
        Its artefact. Its facts are `kernels`, one entry each, `seconds`, and the arena of
        both, `plain_arena_bytes` and `arena_bytes`. Empty where it gains nothing.

    Raises:
        ValueError: TensorFlow Lite Micro is not installed, does not run the plain file, or
            answers differently: no compressed file is written then.
    """
    started = time.perf_counter()
    around = front.read(plain.path)
    given = [around.inputs(part) for part in inputs]
    one = [part[:1] for part in given]
    with open(plain.path, "rb") as file:
        content = file.read()
    check_installed()
    told = os.path.basename(plain.path)
    _, before = interpreters.micro_answers(content, one, told)

    def fits(other: bytes) -> bool:
        return (
            arena_limit is None
            or interpreters.micro_answers(other, one)[1] <= arena_limit
        )

    small, kernels = compress.compress(named, way, fits)
    path = path_of(plain.path)
    if len(small) >= len(content):
        return []
    arena = _prove(content, small, given)
    if os.path.isfile(beside := front.path_of(plain.path)):
        files.write_json(front.path_of(path), files.read_json(beside))
    with files.appears_whole(path) as temporary, open(temporary, "wb") as file:
        file.write(small)
    facts = {
        "kernels": [
            {"layer": layer_of(row.name, known, True), **dataclasses.asdict(row)}
            for row in kernels
        ],
        "seconds": time.perf_counter() - started,
        "plain_arena_bytes": before,
        "arena_bytes": arena,
        "proven_on": len(given[0]),
    }
    return [records.Artifact(name, path, len(small), facts)]


def path_of(path: str) -> str:
    """Where the compressed file of a plain one is."""
    return f"{os.path.splitext(path)[0]}_compressed.tflite"


def plain_of(path: str) -> str:
    """Where the plain file of a compressed one is."""
    return path.removesuffix("_compressed.tflite") + ".tflite"


def forget(path: str) -> None:
    """Removes the compressed file that stands beside a plain one."""
    files.remove(path_of(path))
    files.remove(front.path_of(path_of(path)))


def unpacks(kernels) -> bool:
    """Whether a compressed file needs the operator that unpacks, by its kernels' entries."""
    return any(row["encoding"] != "none" for row in kernels)


def _prove(plain: bytes, small: bytes, inputs: list[np.ndarray]) -> int:
    """Shows that two files answer alike; the arena of the second.

    Raises:
        ValueError: They do not.
    """
    arena = 0
    for start in range(0, len(inputs[0]), PART):
        part = [array[start : start + PART] for array in inputs]
        expected, _ = interpreters.micro_answers(plain, part)
        found, arena = interpreters.micro_answers(small, part)
        if not all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True)):
            raise ValueError(
                "`compress` must change no answer on TensorFlow Lite Micro. Received: a "
                f"compressed file that answers differently within samples {start} to "
                f"{start + len(part[0])}; it is not shipped. --compress=none ships the "
                "plain one."
            )
    return arena
