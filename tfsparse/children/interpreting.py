"""The child that runs TFLite files: on LiteRT, and on TensorFlow Lite Micro.

It loads NumPy and the interpreters alone, not TensorFlow: it starts in half a second.
"""

from __future__ import annotations

import contextlib
import functools
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
        request: `do` (litert, micro, look at what is in it, or compare its tensors with those
            of `floats`), `path`, and the files of samples `x` and outputs `y`, one array an
            input or output, in the model's order.

    Returns:
        Of LiteRT `operators`, `int8`, `floats` (names of float tensors) and `scales` (of
        outputs); of TensorFlow Lite Micro `arena_bytes`, `refused` where it lacks an
        operator, `missing` where its package is not installed; of a comparison `tensors`.
    """
    if request["do"] == "look":
        return _facts(_litert(request["path"]))
    x = process.read_arrays(request["x"])
    if request["do"] == "compare":
        return {"tensors": compare(request["floats"], request["path"], x)}
    run = {"litert": _on_litert, "micro": _on_micro}[request["do"]]
    y, facts = run(request["path"], x)
    if y is not None:
        process.write_arrays(request["y"], y)
    return facts


def compare(floats: str, whole: str, x: list[np.ndarray]) -> list[dict]:
    """Signal and error of every tensor of an int8 file, beside the float one of its name.

    Args:
        floats, whole: The two files of one network.
        x: Inputs, one array each.

    Returns:
        One entry a tensor: `name`, `shape`, whether it is `constant`, sums of squares of
        `signal` and `error`, `low` and `high` of what it can hold, how many values are
        `clipped` by that, the `largest`, and their `count`.
    """
    one, other = (_litert(path, keep=True) for path in (floats, whole))
    named = {detail["name"]: detail for detail in one.get_tensor_details()}
    pairs = [
        (named[detail["name"]], detail)
        for detail in other.get_tensor_details()
        if detail["name"] in named
        and detail["dtype"] in (np.int8, np.int16)
        and len(detail["quantization_parameters"]["scales"])  # kernels' own have none
    ]
    made = {int(n) for op in other._get_ops_details() for n in op["outputs"]}
    made |= {detail["index"] for detail in other.get_input_details()}
    found = [_entry(detail, detail["index"] not in made) for _, detail in pairs]
    for number in range(len(x[0])):
        for interpreter, quantises in ((one, False), (other, True)):
            for part, source in zip(x, _in_order(interpreter)[0], strict=True):
                sample = part[number : number + 1]
                given = quantise(sample, source) if quantises else sample
                interpreter.set_tensor(source["index"], given)
            interpreter.invoke()
        for entry, (source, target) in zip(found, pairs, strict=True):
            if not (number and entry["constant"]):
                a = one.get_tensor(source["index"]).astype(np.float64)
                b = _values(other.get_tensor(target["index"]), target)
                if a.shape == b.shape:
                    _add(entry, a, b, np.iinfo(target["dtype"]))
    return [entry for entry in found if entry["count"]]


def _entry(detail, constant: bool) -> dict:
    """What `compare` tells of a tensor, before it has seen a sample."""
    parameters = detail["quantization_parameters"]
    scales, zeros = parameters["scales"], parameters["zero_points"]
    limits = np.iinfo(detail["dtype"])
    low, high = ((end - zeros) * scales for end in (limits.min, limits.max))
    return {
        "name": detail["name"],
        "shape": [int(n) for n in detail["shape"]],
        "constant": constant,
        "low": float(np.min(low, initial=0.0)),
        "high": float(np.max(high, initial=0.0)),
        "signal": 0.0, "error": 0.0, "clipped": 0, "largest": 0.0, "count": 0,
    }  # fmt: skip


def _add(entry: dict, a: np.ndarray, b: np.ndarray, limits) -> None:
    """Adds a sample's tensor, as floats and as int8 has it."""
    entry["signal"] += float(np.square(a).sum())
    entry["error"] += float(np.square(a - b).sum())
    step = (entry["high"] - entry["low"]) / (int(limits.max) - int(limits.min))
    beyond = (a < entry["low"] - step) | (a > entry["high"] + step)
    entry["clipped"] += int(beyond.sum())
    entry["largest"] = max(entry["largest"], float(np.abs(a).max(initial=0)))
    entry["count"] += int(a.size)


def _values(stored: np.ndarray, detail) -> np.ndarray:
    """What the whole numbers of a tensor mean, one scale for all or one a channel."""
    parameters = detail["quantization_parameters"]
    scales = np.asarray(parameters["scales"], np.float64)
    zeros = np.asarray(parameters["zero_points"], np.float64)
    if len(scales) > 1:
        wide = [1] * stored.ndim
        wide[parameters["quantized_dimension"]] = len(scales)
        scales, zeros = scales.reshape(wide), zeros.reshape(wide)
    return (stored - zeros) * scales


def _litert(path: str, keep: bool = False):
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_path=path,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=keep,
    )
    interpreter.allocate_tensors()
    return interpreter


def _in_order(interpreter) -> tuple[list[dict], list[dict]]:
    """What LiteRT tells of inputs and outputs, in the model's order: that of their names."""
    found = (interpreter.get_input_details(), interpreter.get_output_details())
    if len(found[0]) == len(found[1]) == 1 or not interpreter.get_signature_list():
        return found
    runner = interpreter.get_signature_runner()
    named = (runner.get_input_details(), runner.get_output_details())
    inputs, outputs = (
        sorted(details, key=functools.partial(_place, named=of))
        for details, of in zip(found, named, strict=True)
    )
    return inputs, outputs


def _place(detail: dict, named: dict[str, dict]) -> int:
    """The number that a tensor has in its name, such as input_3."""
    for name, own in named.items():
        digits = name.rpartition("_")[2]
        if own["index"] == detail["index"] and digits.isdigit():
            return int(digits)
    return len(named)


def _on_litert(path: str, x: list[np.ndarray]):
    interpreter = _litert(path)
    sources, targets = _in_order(interpreter)
    given = [quantise(part, source) for part, source in zip(x, sources, strict=True)]
    outputs: list[list[np.ndarray]] = [[] for _ in targets]
    for number in range(len(x[0])):
        for part, source in zip(given, sources, strict=True):
            interpreter.set_tensor(source["index"], part[number : number + 1])
        interpreter.invoke()
        for found, target in zip(outputs, targets, strict=True):
            found.append(interpreter.get_tensor(target["index"])[0])
    pairs = zip(outputs, targets, strict=True)
    found = [dequantise(np.stack(parts), target) for parts, target in pairs]
    return found, _facts(interpreter)


def _facts(interpreter) -> dict:
    """Operators of a file, its float tensors, and whether it means to be int8."""
    ends = (*interpreter.get_input_details(), *interpreter.get_output_details())
    return {
        "operators": [op["op_name"] for op in interpreter._get_ops_details()],
        "floats": [
            detail["name"]
            for detail in interpreter.get_tensor_details()
            if detail["dtype"] in (np.float32, np.float16)
        ],
        "int8": all(detail["dtype"] != np.float32 for detail in ends),
        "scales": [
            float(detail["quantization"][0]) for detail in _in_order(interpreter)[1]
        ],
    }


def _on_micro(path: str, x: list[np.ndarray]):
    try:
        from tflite_micro.python.tflite_micro import runtime
    except ImportError:
        return None, {"missing": "tflite-micro"}

    for attempt, room in enumerate(ARENAS, 1):
        try:
            with _captured() as said:
                interpreter = runtime.Interpreter.from_file(
                    path,
                    arena_size=room,
                    intrepreter_config=runtime.InterpreterConfig.kAllocationRecording,
                )
            break
        except RuntimeError as error:
            if attempt == len(ARENAS) or "arena" not in said[0].lower():
                words = " ".join(said[0].split())[:300]
                return None, {"refused": words or str(error)}
    places, ends = _places(path)
    given = [
        quantise(part, _micro_detail(interpreter.get_input_details(place)))
        for part, place in zip(x, places, strict=True)
    ]
    outputs: list[list[np.ndarray]] = [[] for _ in ends]
    try:
        with _captured() as said:
            for number in range(len(x[0])):
                for part, place in zip(given, places, strict=True):
                    interpreter.set_input(part[number : number + 1], place)
                interpreter.invoke()
                for found, place in zip(outputs, ends, strict=True):
                    found.append(interpreter.get_output(place)[0])
    except RuntimeError as error:
        words = " ".join(said[0].split())[:300]
        return None, {"refused": f"{error} {words}".strip()}
    with _captured() as said:
        interpreter.print_allocations()
    total = re.search(r"Arena allocation total (\d+)", said[0])
    arena = int(total.group(1)) if total else 0
    done = [
        dequantise(
            np.stack(found), _micro_detail(interpreter.get_output_details(place))
        )
        for found, place in zip(outputs, ends, strict=True)
    ]
    return done, {"arena_bytes": arena}


def _places(path: str) -> tuple[list[int], list[int]]:
    """Where inputs and outputs stand in a file, in the model's order: that of their names.

    Read from the file itself, as LiteRT opens none that TensorFlow Lite Micro alone runs.
    """
    from ai_edge_litert import schema_py_generated as schema

    with open(path, "rb") as file:
        model = schema.ModelT.InitFromPackedBuf(bytearray(file.read()), 0)
    (graph, *_), signatures = model.subgraphs, model.signatureDefs
    found = []
    for what in ("inputs", "outputs"):
        tensors = [int(number) for number in getattr(graph, what)]
        named: dict[str, dict] = {}
        for entry in getattr(signatures[0], what) if signatures else ():
            named[entry.name.decode()] = {"index": int(entry.tensorIndex)}
        order = sorted(tensors, key=functools.partial(_number, named=named))
        found.append([tensors.index(t) for t in order])
    return found[0], found[1]


def _number(index: int, named: dict[str, dict]) -> int:
    return _place({"index": index}, named)


def _micro_detail(detail) -> dict:
    """Brings TensorFlow Lite Micro's description into LiteRT's form."""
    parameters = detail["quantization_parameters"]
    scales, zeros = parameters["scales"], parameters["zero_points"]
    quantization = (float(scales[0]), int(zeros[0])) if len(scales) else (0.0, 0)
    return {"dtype": np.dtype(detail["dtype"]), "quantization": quantization}


def quantise(x: np.ndarray, detail) -> np.ndarray:
    """Numbers as an interpreter's input tensor wants them."""
    if not detail["quantization"][0]:  # floats, and whole numbers that are looked up
        return x.astype(detail["dtype"])
    scale, zero = detail["quantization"]
    limits = np.iinfo(detail["dtype"])
    steps = np.round(x / np.float32(scale)) + zero
    return np.clip(steps, limits.min, limits.max).astype(detail["dtype"])


def dequantise(y: np.ndarray, detail) -> np.ndarray:
    """An interpreter's output tensor in the model's units."""
    if not detail["quantization"][0]:
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
