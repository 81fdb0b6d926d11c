"""The child that runs TFLite files: on LiteRT, and on TensorFlow Lite Micro.

It loads NumPy and the interpreters alone, not TensorFlow: it starts in half a second.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator

import numpy as np

from tfsparse import files
from tfsparse.children import process

ARENAS = (64 << 20, 512 << 20)
"""Bytes handed to TensorFlow Lite Micro, the second if the first are too few: it measures
what it uses, and some versions crash in an arena that is a little too small."""


def main() -> None:
    """Runs files as it is asked to."""
    process.serve(answer)


def answer(request: dict) -> dict:
    """Runs a file on samples.

    Args:
        request: `do` (litert or micro), `path`, and the files of samples `x` and outputs `y`.

    Returns:
        `operators`, `int8` and `floats` (names of float tensors) of LiteRT; `arena_bytes`
        of TensorFlow Lite Micro, `refused` where it lacks an operator, `missing` where its
        package is not installed.
    """
    x = np.load(request["x"], allow_pickle=False)
    run = {"litert": _on_litert, "micro": _on_micro}[request["do"]]
    y, facts = run(request["path"], x)
    if y is not None:
        np.save(request["y"], y, allow_pickle=False)
    return facts


def _on_litert(path: str, x: np.ndarray):
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_path=path,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    (source,), (target,) = (
        interpreter.get_input_details(),
        interpreter.get_output_details(),
    )
    floats = [
        detail["name"]
        for detail in interpreter.get_tensor_details()
        if detail["dtype"] in (np.float32, np.float16)
    ]
    operators = [op["op_name"] for op in interpreter._get_ops_details()]
    outputs = []
    for sample in quantise(x, source):
        interpreter.set_tensor(source["index"], sample[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(target["index"])[0])
    facts = {
        "operators": operators,
        "floats": floats,
        "int8": bool(source["dtype"] == np.int8),
    }
    return dequantise(np.stack(outputs), target), facts


def _on_micro(path: str, x: np.ndarray):
    try:
        from tflite_micro.python.tflite_micro import runtime
    except ImportError:
        return None, {"missing": "tflite-micro"}

    for number, room in enumerate(ARENAS, 1):
        try:
            with _captured() as said:
                interpreter = runtime.Interpreter.from_file(
                    path,
                    arena_size=room,
                    intrepreter_config=runtime.InterpreterConfig.kAllocationRecording,
                )
            break
        except RuntimeError as error:
            if number == len(ARENAS) or "arena" not in said[0].lower():
                words = " ".join(said[0].split())[:300]
                return None, {"refused": words or str(error)}
    source = _micro_detail(interpreter.get_input_details(0))
    target = _micro_detail(interpreter.get_output_details(0))
    outputs = []
    for sample in quantise(x, source):
        interpreter.set_input(sample[None], 0)
        interpreter.invoke()
        outputs.append(interpreter.get_output(0)[0])
    with _captured() as said:
        interpreter.print_allocations()
    found = re.search(r"Arena allocation total (\d+)", said[0])
    arena = int(found.group(1)) if found else 0
    return dequantise(np.stack(outputs), target), {"arena_bytes": arena}


def _micro_detail(detail) -> dict:
    """Brings TensorFlow Lite Micro's description into LiteRT's form."""
    parameters = detail["quantization_parameters"]
    scales, zeros = parameters["scales"], parameters["zero_points"]
    quantization = (float(scales[0]), int(zeros[0])) if len(scales) else (0.0, 0)
    return {"dtype": np.dtype(detail["dtype"]), "quantization": quantization}


def quantise(x: np.ndarray, detail) -> np.ndarray:
    """Floats as an interpreter's input tensor wants them."""
    if detail["dtype"] == np.float32:
        return x
    scale, zero = detail["quantization"]
    limits = np.iinfo(detail["dtype"])
    steps = np.round(x / np.float32(scale)) + zero
    return np.clip(steps, limits.min, limits.max).astype(detail["dtype"])


def dequantise(y: np.ndarray, detail) -> np.ndarray:
    """An interpreter's output tensor as floats."""
    if detail["dtype"] == np.float32:
        return y
    scale, zero = detail["quantization"]
    return (y.astype(np.float32) - zero) * np.float32(scale)


@contextlib.contextmanager
def _captured() -> Iterator[list[str]]:
    """What C++ writes to file descriptor 2 meanwhile: the list's one text, at its end."""
    said: list[str] = []
    with tempfile.TemporaryFile("w+") as file:
        try:
            with files.captured_stderr(file):
                yield said
        finally:
            file.seek(0)
            said.append(file.read())


if __name__ == "__main__":
    main()
