"""The model that ships: what only training needs is gone, and every size is known."""

from __future__ import annotations

import numbers

import keras
import numpy as np

from tfsparse.graph import precision, trace
from tfsparse.graph.rebuild import carry, clone, flat, rebuild

TRIED = 6
"""Samples that a layer is tried on, to see whether it acts outside training."""


def shipped(model, length: int | None = None):
    """A model as it ships: in float32, without layers that act in training alone.

    Dropout, noise and augmentation let everything through as it is once training is over;
    which layers do is seen by trying them, so a user's own ones are found, too.

    Args:
        model: A built model of stock layers; it is not changed.
        length: The size of open axes of inputs, such as the steps of a series; None where
            there are none, or where they may stay open.

    Returns:
        The model itself where it ships as it is; else a copy.

    Raises:
        ValueError: `length` is below 1.

    Example:
        >>> [layer.name for layer in shipped(net).layers]    # no dropout, no augmentation
        ['input_layer', 'conv', 'logits']
    """
    if length is not None:
        model = sized(model, length)
    model = precision.in_float32(model)
    graph = trace.read(model)
    acting = {id(call.operation) for call in graph.calls if not _idle(call)}
    if all(id(operation) in acting for operation in graph.operations):
        return model

    def make(operation, name):
        return clone(operation, name) if id(operation) in acting else None

    def call(item, operation, args, kwargs):
        if operation is None:
            return keras.tree.flatten((args, kwargs))[0]
        return operation(*args, **kwargs)

    copy, operations = rebuild(graph, make, call)
    carry(graph, operations)
    return copy


def _idle(call: trace.Call) -> bool:
    """Whether a call gives what it gets, outside training."""
    layer = call.operation
    if not isinstance(layer, keras.layers.Layer) or not trace.takes_training(layer):
        return False
    # What the call itself says of training does not count: a model's own word overrides it.
    if len(call.inputs) != 1 or len(call.outputs) != 1:
        return False
    kept = [v for v in layer.variables if "seed_generator_state" not in v.path]
    source, target = call.inputs[0], call.outputs[0]
    if kept or source.shape != target.shape:
        return False
    rng = np.random.default_rng(0)
    x = rng.normal(scale=100.0, size=(TRIED, *(n or TRIED for n in source.shape[1:])))
    x = keras.ops.cast(x, source.dtype)
    try:
        found = layer(x, training=False)
    except Exception:  # whatever a layer's own code raises: it stays
        return False
    same = keras.ops.cast(found, source.dtype) == x
    return bool(keras.ops.all(same))


def sized(model, length: int):
    """A model whose inputs have known sizes: open axes get a length.

    Args:
        model: A built model; it is not changed.
        length: Of open axes, such as steps of a series; the batch stays open.

    Returns:
        The model itself where no axis is open; else a copy.
    """
    if not isinstance(length, numbers.Integral) or length < 1:
        raise ValueError(
            f"`length` must be a whole number from 1 on. Received: {length!r}."
        )
    if not open_inputs(model):
        return model
    graph = trace.read(model)
    inputs = [
        keras.Input(
            shape=tuple(n or length for n in tensor.shape[1:]),
            dtype=tensor.dtype,
            name=tensor.origin,
        )
        for tensor in graph.inputs
    ]
    outputs = model(trace.packed(graph.model, inputs))
    whole = keras.Model(trace.packed(graph.model, inputs), outputs, name=model.name)
    return flat(whole)


def open_inputs(model) -> list[str]:
    """Names of the inputs that have an axis of unknown size."""
    inputs = trace.read(model).inputs
    return [t.origin for t in inputs if any(n is None for n in t.shape[1:])]


def check_sized(model) -> None:
    """Checks that a file of fixed sizes can be made.

    Raises:
        ValueError: An input has an axis of unknown size.
    """
    if names := open_inputs(model):
        raise ValueError(
            "`model` must have inputs of known sizes to become a TFLite file. Received: "
            f"{', '.join(names)} with open axes; --length=N (in Python length=N) gives "
            "them one."
        )
    graph = trace.read(model)
    unread = [
        tensor.origin
        for tensor in graph.inputs
        if not graph.readers.get(tensor) and tensor not in graph.outputs
    ]
    if unread:
        raise ValueError(
            "`model` must read each of its inputs to become a TFLite file. Received: "
            f"{', '.join(unread)}, which nothing reads."
        )


def arrays_of(model, x) -> list[np.ndarray]:
    """Samples as arrays for the inputs of a model, in their order and dtypes.

    Args:
        model: The model.
        x: An array, a list or dict of arrays, as `fit` takes them; a `tf.data.Dataset`, a
            PyDataset or a generator of batches (targets are left out); or the generator
            function of a TFLite converter, which yields lists of one sample an input.

    Raises:
        ValueError: There is none for an input, or one of another shape.
    """
    graph = trace.read(model)
    if not _holds_arrays(x):
        x = _collected(graph, x)
    elif all(map(np.isscalar, keras.tree.flatten(x))):
        x = np.asarray(x)  # lists of numbers
    arrays = trace.in_order(graph.model, x)
    found = []
    for array, tensor in zip(arrays, graph.inputs, strict=True):
        if tensor.dtype == "string":
            raise ValueError(
                "`model` must take numbers. Received: input "
                f"{tensor.origin!r} of strings; look them up before the model."
            )
        kind = "float32" if tensor.dtype in precision.HALF else tensor.dtype
        array = _numbers(array, kind, tensor.origin)
        if array.ndim != len(tensor.shape) and array.ndim == len(tensor.shape) - 1:
            array = array[..., None] if tensor.shape[-1] == 1 else array
        wanted = tensor.shape[1:]
        if array.ndim - 1 != len(wanted) or any(
            n not in (None, m) for n, m in zip(wanted, array.shape[1:], strict=True)
        ):
            raise ValueError(
                f"samples must fit input {tensor.origin!r}, (samples, "
                f"{', '.join(str(n or '?') for n in wanted)}). Received: shape "
                f"{array.shape}."
            )
        found.append(array)
    if len({len(array) for array in found}) > 1:
        raise ValueError(
            "samples must be as many for each input. Received: "
            f"{[len(array) for array in found]}."
        )
    return found


def _numbers(given, kind: str, name: str) -> np.ndarray:
    """Samples in the dtype of an input.

    Raises:
        ValueError: They are no numbers, or have decimals where whole ones are wanted.
    """
    array = np.asarray(given)
    if array.dtype.kind not in "biufV" or array.dtype.names:  # V: bfloat16
        raise ValueError(
            f"samples must be numbers for input {name!r}. Received: {array.dtype}."
        )
    made = array.astype(kind)
    whole = made.dtype.kind in "iu" and array.dtype.kind == "f"
    if whole and not np.array_equal(made, array):
        raise ValueError(
            f"samples must be whole numbers for input {name!r}, which takes {kind}. "
            "Received: some with decimals."
        )
    return made


MOST = 4096
"""So many samples are read from a stream at most."""


def _holds_arrays(x) -> bool:
    parts = keras.tree.flatten(x)
    return all(hasattr(part, "shape") or np.isscalar(part) for part in parts)


def _collected(graph: trace.Graph, x) -> list[np.ndarray]:
    """What a stream of batches, or a TFLite converter's generator function, yields."""
    told = callable(x) and not hasattr(x, "__iter__") and not hasattr(x, "__getitem__")
    stream = x() if told else x
    if isinstance(stream, keras.utils.PyDataset):
        stream = map(stream.__getitem__, range(stream.num_batches or 0))
    if not hasattr(stream, "__iter__"):
        raise ValueError(
            "samples must be arrays, a dataset or a generator of batches, or a function "
            f"that returns one. Received: {type(x).__name__}."
        )
    batches: list[list[np.ndarray]] = []
    held = 0
    for item in stream:
        # A converter's generator yields one list of inputs, `fit`'s a tuple with targets.
        inputs = item[0] if isinstance(item, tuple) and not told else item
        arrays = trace.in_order(graph.model, inputs)
        batches.append([np.asarray(array) for array in arrays])
        held += len(batches[-1][0])
        if held >= MOST:
            break
    if not batches:
        raise ValueError("samples must be there. Received: none.")
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]
