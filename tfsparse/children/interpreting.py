"""The child that runs TFLite files: on LiteRT, and on TensorFlow Lite Micro.

It loads NumPy and the interpreters alone, not TensorFlow: it starts in half a second.
"""

from __future__ import annotations

import os
import re
import tempfile

import numpy as np

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
        `operators` and `floats` (names of float tensors) of LiteRT; `arena_bytes` of TensorFlow
        Lite Micro; `missing` where its package is not installed.
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
        "int8": source["dtype"] == np.int8,
        "input": list(map(float, source["quantization"])),
        "output": list(map(float, target["quantization"])),
    }
    return dequantise(np.stack(outputs), target), facts


def _on_micro(path: str, x: np.ndarray):
    try:
        from tflite_micro.python.tflite_micro import runtime
    except ImportError:
        return None, {"missing": "tflite-micro"}

    for number, room in enumerate(ARENAS, 1):
        try:
            with captured() as said:
                interpreter = runtime.Interpreter.from_file(
                    path,
                    arena_size=room,
                    intrepreter_config=runtime.InterpreterConfig.kAllocationRecording,
                )
            break
        except RuntimeError as error:
            if number == len(ARENAS) or "arena" not in said.text.lower():
                words = " ".join(said.text.split())[:300]
                return None, {"refused": words or str(error)}
    source = _micro_detail(interpreter.get_input_details(0))
    target = _micro_detail(interpreter.get_output_details(0))
    outputs = []
    for sample in quantise(x, source):
        interpreter.set_input(sample[None], 0)
        interpreter.invoke()
        outputs.append(interpreter.get_output(0)[0])
    with captured() as said:
        interpreter.print_allocations()
    found = re.search(r"Arena allocation total (\d+)", said.text)
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


class captured:
    """What C++ writes to file descriptor 2 meanwhile, as `text`; it is passed on, too."""

    text = ""

    def __enter__(self):
        self._file = tempfile.TemporaryFile()
        self._saved = os.dup(2)
        os.dup2(self._file.fileno(), 2)
        return self

    def __exit__(self, *error):
        os.dup2(self._saved, 2)
        os.close(self._saved)
        self._file.seek(0)
        content = self._file.read()
        self._file.close()
        self.text = content.decode(errors="replace")
        os.write(2, content)


if __name__ == "__main__":
    main()
