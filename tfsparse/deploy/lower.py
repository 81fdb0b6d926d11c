"""Lowers a trained sparse model to stock layers that compute the same."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np

from tfsparse.deploy import variables
from tfsparse.graph import trace
from tfsparse.graph.rebuild import config_of, rebuild

_FUSES = (
    keras.layers.Dense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)
_READS = (
    keras.layers.Dense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
)


@dataclasses.dataclass
class _Scaling:
    """Where one call of a house layer goes: into a writer, into readers, or stock."""

    scale: np.ndarray
    activation: str | None
    writer: object = None
    readers: tuple = ()
    front: object = None
    """The layer whose only reader is the BatchNorm that is the writer."""
    done: bool = False
    """Another call of the same shared writer takes the factor."""


def lower(model):
    """Replaces house layers by stock ones: same function, same layer names.

    Each house layer says by its `lowered` rule which per-channel factor and which
    activation it stands for, or by `stock_class` and `stock_values` which layer with
    which weights. The factor goes into the kernel and bias (or the
    BatchNorm) in front, else into the kernels behind, else into a Rescaling layer;
    the activation goes back into the layer in front that it was split off.

    Args:
        model: A trained model; it is not changed.

    Returns:
        A model without house layers, switches or their penalties.

    Raises:
        ValueError: `model` cannot be read as a graph.

    Example:
        >>> stock = lower(sparse_model)      # same outputs, no Filter left
    """
    graph = trace.read(model)
    scalings = _place(graph)
    activations = {
        id(s.writer): s.activation
        for s in scalings.values()
        if s.writer is not None and s.activation and isinstance(s.writer, _FUSES)
    }
    scaled_norms = {
        id(s.writer)
        for s in scalings.values()
        if isinstance(s.writer, keras.layers.BatchNormalization)
    }

    def make(operation, name):
        if hasattr(operation, "lowered"):
            return None
        cls = getattr(operation, "stock_class", type(operation))
        config = _without_house_regularizers(config_of(operation, name))
        if cls is not type(operation):
            own = operation.own_arguments
            config = {key: value for key, value in config.items() if key not in own}
        if id(operation) in activations:
            config["activation"] = activations[id(operation)]
        if id(operation) in scaled_norms:
            config["scale"] = True
        return cls.from_config(config)

    def call(item, operation, args, kwargs):
        scaling = scalings.get(item.outputs[0])
        if scaling is None:
            return operation(*args, **kwargs)
        outputs = args[0]
        if scaling.writer is None and not scaling.readers:
            name = f"{item.name}_{item.index}_scale"
            alike = (scaling.scale == scaling.scale[0]).all()
            factor = float(scaling.scale[0]) if alike else scaling.scale.tolist()
            outputs = keras.layers.Rescaling(factor, name=name)(outputs)
        fused = scaling.writer is not None and isinstance(scaling.writer, _FUSES)
        if scaling.activation and not fused:
            name = f"{item.name}_{item.index}_activation"
            outputs = keras.layers.Activation(scaling.activation, name=name)(outputs)
        return outputs

    stock, operations = rebuild(graph, make, call)
    stays = {key: new for key, new in operations.items() if new is not None}
    variables.load(stays, graph, _values(graph), None)
    for scaling in scalings.values():
        if scaling.front is not None:  # off behind BatchNorm: then dead in front, too
            _scale_writer(
                stays[id(scaling.front)], (scaling.scale != 0).astype("float32")
            )
        if scaling.writer is not None and not scaling.done:
            _scale_writer(stays[id(scaling.writer)], scaling.scale)
        for reader in scaling.readers:
            _scale_reader(stays[id(reader)], scaling.scale)
    return stock


def _values(graph) -> dict[str, np.ndarray]:
    """Path -> value of every variable as stock layers have it."""
    values = variables.values_of(graph)
    for operation in graph.operations:
        if hasattr(operation, "stock_values"):
            own = {v.path: graph.paths[id(v)] for v in operation.variables}
            values |= {own[p]: x for p, x in operation.stock_values().items()}
    return values


def _place(graph) -> dict[trace.Tensor, _Scaling]:
    """Decides, for every call of a house layer, where its factor goes."""
    found, readers, writers = graph.calls, graph.readers, graph.writers
    calls_of: dict[int, list] = {}
    for call in found:
        calls_of.setdefault(id(call.operation), []).append(call)

    def only_reader(tensor):
        reading = readers.get(tensor, [])
        seen = tensor in graph.outputs  # by the user, as it is
        return reading[0] if len(reading) == 1 and not seen else None

    def alike(call, operation):
        """Whether every call of a shared layer is followed by this same switch."""
        following = [only_reader(c.outputs[0]) for c in calls_of[id(operation)]]
        return all(
            f is not None and f.operation is call.operation and f.kwargs == call.kwargs
            for f in following
        )

    scalings: dict[trace.Tensor, _Scaling] = {}
    taken: set[int] = set()
    for call in found:
        if not hasattr(call.operation, "lowered"):
            continue
        scale, activation = call.operation.lowered(call.kwargs)
        scaling = _Scaling(scale, activation)
        scalings[call.outputs[0]] = scaling
        source = call.inputs[0]
        before = scalings.get(source)  # a chain: several switches on one output
        if before is not None:
            alone = only_reader(source) is not None
            if alone and before.writer is not None and not before.activation:
                scaling.writer, scaling.front = before.writer, before.front
        elif source in writers:
            operation = writers[source].operation
            if _linear(operation) and alike(call, operation):
                scaling.writer = operation
                scaling.done = id(operation) in taken
                taken.add(id(operation))
                scaling.front = _front(writers[source], writers, only_reader, calls_of)
        if scaling.writer is None and not activation:
            reading = [c.operation for c in readers.get(call.outputs[0], [])]
            shown = call.outputs[0] in graph.outputs
            if (
                reading
                and not shown
                and all(_can_read(op) and len(calls_of[id(op)]) == 1 for op in reading)
            ):
                scaling.readers = tuple(reading)
    return scalings


def _front(call, writers, only_reader, calls_of):
    """The layer in front of a BatchNorm that nothing else reads; None otherwise."""
    if not isinstance(call.operation, keras.layers.BatchNormalization):
        return None
    source = call.inputs[0]
    if source not in writers or only_reader(source) is None:
        return None
    layer = writers[source].operation
    once = len(calls_of[id(layer)]) == len(calls_of[id(call.operation)]) == 1
    return layer if once and isinstance(layer, _FUSES) else None


def _linear(operation) -> bool:
    if isinstance(operation, keras.layers.BatchNormalization):
        return operation.axis in (-1, len(operation.input.shape) - 1)
    if not isinstance(operation, _FUSES):
        return False
    return operation.activation is keras.activations.linear


def _can_read(operation) -> bool:
    return isinstance(operation, _READS) and getattr(operation, "groups", 1) == 1


def _scale_writer(layer, scale: np.ndarray) -> None:
    if isinstance(layer, keras.layers.BatchNormalization):
        layer.gamma.assign(layer.gamma * scale)
        if layer.beta is not None:
            layer.beta.assign(layer.beta * scale)
        return
    if isinstance(layer, keras.layers.DepthwiseConv1D | keras.layers.DepthwiseConv2D):
        shape = layer.kernel.shape[-2:]
        layer.kernel.assign(layer.kernel * scale.reshape(shape))
    else:
        separable = hasattr(layer, "pointwise_kernel")
        kernel = layer.pointwise_kernel if separable else layer.kernel
        kernel.assign(kernel * scale)
    if layer.bias is not None:
        layer.bias.assign(layer.bias * scale)


def _scale_reader(layer, scale: np.ndarray) -> None:
    layer.kernel.assign(layer.kernel * scale[:, None])


def _without_house_regularizers(config: dict) -> dict:
    """Takes off what a method added to the loss: it is no part of the function."""
    for key, value in config.items():
        if key.endswith("regularizer") and isinstance(value, dict):
            if str(value.get("registered_name", "")).startswith("tfsparse>"):
                config[key] = None
    return config
