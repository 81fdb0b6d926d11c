"""Bytes of the finished int8 file and of its arena, of a model that is not finished."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterable, Iterator

import numpy as np

from tfsparse import budgets, records
from tfsparse.deploy import compress, front, interpreters, probe, shipping, slim
from tfsparse.deploy.export import convert
from tfsparse.graph.rebuild import graft

SAMPLES = 8
"""Random inputs that set the int8 ranges here; the sizes do not depend on them."""


_SHIPS: contextvars.ContextVar[tuple[str, str]] = contextvars.ContextVar(
    "ships", default=("int8", "none")
)


@contextlib.contextmanager
def ships(kind: str, way: str) -> Iterator[None]:
    """Says what file is meant meanwhile: its numbers, and how its weights are packed.

    Args:
        kind: One of `records.QUANTISED`; another one than int8 or int16x8 means int8.
        way: One of `records.PACKINGS`.
    """
    token = _SHIPS.set((kind if kind in records.ON_MICRO else "int8", way))
    try:
        yield
    finally:
        _SHIPS.reset(token)


def _made(model, arrays: list[np.ndarray], packs: bool = True) -> bytes:
    """The file that ships.

    Args:
        model: The network.
        arrays: What sets its ranges.
        packs: Whether weights may be packed; where memory alone counts, they stay plain.
    """
    kind, way = _SHIPS.get()
    way = way if packs else "none"
    named = convert(model, arrays, kind)
    plain = slim.slim(named)
    return (
        plain
        if way == "none"
        else min(plain, compress.compress(named, way)[0], key=len)
    )


def sizes(model, wanted: Iterable[str], *, untrained: bool = False) -> dict[str, float]:
    """`file_bytes` and `arena_bytes` that a model of stock layers has as an int8 file.

    The file is made with random inputs in place of calibration data: ranges are numbers
    in it like any others, so it is as large as the file that will ship, or a few bytes larger.

    Args:
        model: A built model of stock layers whose sizes are known.
        wanted: Names, of which `file_bytes` and `arena_bytes` count; none of them makes
            no file.
        untrained: Whether biases that are zero count as if they were trained: the converter
            leaves zeros out, and the file of a fresh network would look too small.

    Returns:
        Name -> bytes.

    Raises:
        ValueError: Int8 TFLite cannot express a layer, or the arena is wanted and the
            microcontroller interpreter is not installed.

    Example:
        >>> sizes(small, ["file_bytes"])
        {'file_bytes': 13632}
    """
    wanted = [name for name in budgets.FINISHED if name in wanted]
    if not wanted:
        return {}
    rng = np.random.default_rng(0)
    if untrained:
        model = graft(model)
        for variable in model.trainable_variables:
            if not np.any(variable):
                variable.assign(rng.normal(size=variable.shape))
    model = shipping.shipped(model)
    inputs = probe.random_inputs(model, rng, SAMPLES)
    content = _made(model, inputs, "file_bytes" in wanted)
    found: dict[str, float] = {"file_bytes": slim.most(content)}
    if "arena_bytes" in wanted:
        try:
            found["arena_bytes"] = _arena(model, content, inputs)
        except ImportError as error:
            raise ValueError(
                "`target` may name arena_bytes where the microcontroller interpreter "
                "is installed. Received: none; `pip install tfsparse[mcu]` brings it."
            ) from error
    return {name: found[name] for name in wanted}


def flight(model, samples: np.ndarray) -> dict[str, float]:
    """Bytes of a model as an int8 file, and of its arena where its interpreter is installed.

    Args:
        model: A built model of stock layers.
        samples: `(samples, ...)` that set the int8 ranges.

    Raises:
        ValueError: Int8 TFLite, or TensorFlow Lite Micro, cannot express a layer.
    """
    model = shipping.shipped(model)
    shipping.check_sized(model)
    arrays = shipping.arrays_of(model, samples)
    content = _made(model, arrays)
    found: dict[str, float] = {"file_bytes": len(content)}
    try:
        found["arena_bytes"] = _arena(model, content, arrays)
    except ImportError:
        pass  # the report of the run says how to get it
    return found


def _arena(model, content: bytes, samples: list[np.ndarray]) -> int:
    """Bytes that a file takes on the microcontroller's interpreter."""
    _, around = front.cut(model)
    one = [around.inputs(part[:1]) for part in samples]
    return interpreters.micro_answers(content, one)[1]
