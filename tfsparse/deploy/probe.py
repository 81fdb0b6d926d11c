"""Random inputs for a model, and its answers to them."""

from __future__ import annotations

import contextlib

import keras
import numpy as np
from keras import ops

from tfsparse.graph import trace
from tfsparse.graph.precision import HALF

UNKNOWN_SIZES = (32, 7, 64, 30, 128, 224, 12)
"""What is tried for open axes, in this order, until the model takes it."""

ROUNDING = 1e-6
"""Differences of constants, relative to the largest value, that are rounding."""


def random_inputs(model, rng, samples: int = 2, open_size: int = 0) -> list[np.ndarray]:
    """Random arrays that fit the model's inputs.

    The first half of the samples lies in [0, 1), as pixels do; the others are normal.
    What an Embedding looks up gets whole numbers below its `input_dim`, a quarter of
    them 0, the number that may be masked; what a Masking reads holds masked steps; what a
    Normalization reads lies where it expects it, or all of it would be far outside.

    Args:
        model: A model or its graph.
        rng: A NumPy generator.
        samples: Size of the batch, where the model leaves it open.
        open_size: Size of open axes; 0 for the first that the model takes.

    Raises:
        ValueError: An input holds strings, or the model takes none of the sizes.
    """
    graph = trace.read(model)
    if not open_size:
        open_size = open_sizes(graph)[0]
    arrays = []
    for tensor in graph.inputs:
        count = tensor.shape[0] or samples
        shape = (count, *(n or open_size for n in tensor.shape[1:]))
        readers = [c.operation for c in graph.readers.get(tensor, [])]
        below = [r.input_dim for r in readers if isinstance(r, keras.layers.Embedding)]
        kind = tensor.dtype if tensor.dtype != "bfloat16" else "float32"
        if kind == "string":
            raise ValueError(
                "`model` must take numbers, to be tried out on random ones. Received: "
                f"input {tensor.origin!r} of strings; look them up before the model."
            )
        if below or not kind.startswith("float"):
            values = np.floor(rng.uniform(0.0, min(below, default=2), shape))
            values[rng.uniform(size=shape) < 0.25] = 0
        else:
            values = rng.uniform(0.0, 1.0, shape)
            values[(count + 1) // 2 :] = rng.normal(
                size=values[(count + 1) // 2 :].shape
            )
        for reader in readers:
            if isinstance(reader, keras.layers.Masking):
                values[rng.uniform(size=shape[:-1]) < 0.25] = reader.mask_value
            if isinstance(reader, keras.layers.Normalization) and not reader.invert:
                mean, variance = map(
                    keras.ops.convert_to_numpy, (reader.mean, reader.variance)
                )
                values = values * np.sqrt(variance) + mean
        arrays.append(values.astype(kind))
    return arrays


def open_sizes(graph: trace.Graph, wanted: int = 1) -> list[int]:
    """The first sizes of open axes that a model takes; [1] where none is open.

    Raises:
        ValueError: It takes none of `UNKNOWN_SIZES`.
    """
    if all(n for tensor in graph.inputs for n in tensor.shape[1:]):
        return [1]
    found: list[int] = []
    for size in UNKNOWN_SIZES:
        inputs = random_inputs(graph, np.random.default_rng(0), open_size=size)
        try:
            run(graph.model, inputs)
        except Exception as error:  # any backend's class: the size does not fit
            reason = error
            continue
        found.append(size)
        if len(found) == wanted:
            break
    if not found:
        raise ValueError(
            f"`model` must take one of the sizes {UNKNOWN_SIZES} on its open axes. "
            f"Received: {' '.join(str(reason).split())[:160]}"
        )
    return found


def replay(
    graph: trace.Graph, values, inputs, wanted, change=None, dtype: str = "float32"
) -> list[np.ndarray]:
    """What tensors of a graph are with other weights; the model is not touched.

    Layers of lower precision compute in `dtype` here: half precision would hide a fault
    as large as 1e-3, and single precision what a chaotic model makes of its rounding.

    Args:
        graph: The graph, whose own layers are called.
        values: Path -> value that stands in for the variable's own; others keep theirs.
        inputs: An array for each input of the graph.
        wanted: The tensors to return.
        change: `(call, arguments as a list, None) -> list` before a call, and
            `(call, None, outputs) -> outputs` after it, where something is changed.
        dtype: `float32` or `float64`.

    Returns:
        An array for each wanted tensor.
    """
    lower = HALF if dtype == "float32" else (*HALF, "float32")
    known = graph.variables
    mapping = [(known[path], value) for path, value in values.items()]
    left = {tensor: len(readers) for tensor, readers in graph.readers.items()}
    for tensor in wanted:
        left[tensor] = left.get(tensor, 0) + 1  # stays to the end
    with (
        keras.StatelessScope(state_mapping=mapping),
        _computing(graph.operations, lower, dtype),
    ):
        tensors = {
            tensor: ops.convert_to_tensor(
                array, dtype if tensor.dtype in lower else tensor.dtype
            )
            for tensor, array in zip(graph.inputs, inputs, strict=True)
        }
        for call in graph.calls:
            given = [tensors[tensor] for tensor in call.inputs]
            if change is not None:
                given = change(call, given, None)
            args, kwargs = call.fill(given)
            if trace.takes_training(call.operation):  # as `predict` runs them all
                kwargs = {**kwargs, "training": False}
            outputs = call.operation(*args, **kwargs)
            if change is not None:
                outputs = change(call, None, outputs)
            tensors.update(zip(call.outputs, keras.tree.flatten(outputs), strict=True))
            for tensor in dict.fromkeys(call.inputs):
                left[tensor] -= 1
                if not left[tensor]:
                    del tensors[tensor]
        return [ops.convert_to_numpy(tensors[tensor]) for tensor in wanted]


class _Wide(keras.DTypePolicy):
    """Computes in one precision, whatever the variables are stored in."""

    def __init__(self, compute_dtype: str, variable_dtype: str):
        super().__init__(compute_dtype)
        self._stored = variable_dtype

    @property
    def variable_dtype(self):
        return self._stored


@contextlib.contextmanager
def _computing(operations, lower: tuple[str, ...], dtype: str):
    """Lets layers that compute in one of the lower precisions do so in `dtype`."""
    changed = []
    try:
        for layer in trace.sublayers(operations):
            policy = layer.dtype_policy
            own = not isinstance(policy, keras.dtype_policies.DTypePolicyMap)
            if own and policy.compute_dtype in lower:
                changed.append((layer, policy))
                layer.dtype_policy = _Wide(dtype, policy.variable_dtype)
        yield
    finally:
        for layer, policy in changed:
            layer.dtype_policy = policy


def values_at(graph: trace.Graph, tensors, weights) -> dict:
    """What tensors are on random input, with these weights (path -> value).

    Returns:
        Tensor -> a list of arrays: one of each of two sizes, where axes are open.
    """
    wanted = list(dict.fromkeys(tensors))
    if not wanted:
        return {}
    found: dict = {tensor: [] for tensor in wanted}
    for size in open_sizes(graph, 2):
        inputs = random_inputs(graph, np.random.default_rng(1), 8, size)
        for tensor, value in zip(
            wanted, replay(graph, weights, inputs, wanted), strict=True
        ):
            found[tensor].append(value)
    return found


def random_statistics(graph: trace.Graph, values, rng):
    """BatchNorm statistics that betray a wrong index and keep the model's outputs tame.

    On an untrained BatchNorm a wrong strip looks exact; on one with any statistics a
    deep model doubles its outputs layer by layer until rounding decides them. So mean
    and variance are drawn around those of the tensor that the layer meets first:
    `variance = U(0.5, 1.5) m`, `mean = U(-0.5, 0.5) sqrt(m)`, m the mean of its squares.

    Args:
        graph: The graph that will be replayed.
        values: Path -> value of every variable; it is not changed.
        rng: A NumPy generator.

    Returns:
        New values, and a `(call, given)` to run before each call of `replay`: it sets
        the statistics, for the replay and in the new values.
    """
    values = dict(values)
    waiting: dict[int, list] = {}
    for layer in graph.operations:
        if isinstance(layer, keras.layers.BatchNormalization):
            drawn = []
            for variable in layer.variables:
                positive = variable.name in ("gamma", "moving_variance")
                low, high = (0.5, 1.5) if positive else (-0.5, 0.5)
                fresh = rng.uniform(low, high, variable.shape).astype("float32")
                if variable.name.startswith("moving_"):
                    drawn.append((variable, fresh))
                else:
                    values[graph.paths[id(variable)]] = fresh
            waiting[id(layer)] = drawn

    def settle(call, given) -> None:
        drawn = waiting.pop(id(call.operation), ())
        if not drawn:
            return
        square = float(ops.mean(ops.square(ops.cast(given[0], "float32")))) or 1.0
        for variable, fresh in drawn:
            scale = square if variable.name == "moving_variance" else square**0.5
            variable.assign(fresh * scale)
            values[graph.paths[id(variable)]] = fresh * np.float32(scale)

    return values, settle


def run(model, inputs: list[np.ndarray], dtype: str = "float32") -> list[np.ndarray]:
    """Outputs of a model in inference mode, flat, as arrays; its states stay."""
    graph = trace.read(model)
    return replay(graph, {}, inputs, graph.outputs, dtype=dtype)


def largest_difference(expected, received) -> float:
    """Largest difference of lists of arrays, relative to each one's largest value."""
    worst = 0.0
    for a, b in zip(expected, received, strict=True):
        difference = float(np.abs(a - b).max()) / (float(np.abs(a).max()) or 1.0)
        worst = max(worst, difference if difference == difference else np.inf)
    return worst
