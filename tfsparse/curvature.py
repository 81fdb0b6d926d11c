"""Diagonal of the Hessian of a classifier's loss, for every weight.

Two recursive forms walk the graph backwards beside the gradient, one layer at a time; two
general ones need nothing but automatic differentiation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable

import keras
import numpy as np
from keras import ops

from tfsparse import gradients, numerics, records
from tfsparse.graph import trace

FORMS = records.CURVATURES
PROBES = 16


@dataclasses.dataclass(frozen=True)
class Curvature:
    """The diagonal, and what had to be mended.

    Attributes:
        diagonal: Path -> array of the variable's shape, of the mean loss; not negative.
        negative: How many values were negative and became tiny.
        zero: How many values of kernels are 0: weights that no sample reaches.
    """

    diagonal: dict[str, np.ndarray]
    negative: int
    zero: int


def diagonal(
    model, data: Iterable, form: str = "recursive", probes: int = PROBES
) -> Curvature:
    """Estimates the diagonal Hessian of the mean cross-entropy by every weight.

    recursive: eqs. C.1.4, C.1.5 and C.2.1 to C.2.3, every sample and place by itself:
    H_W = sum x^2 H_h, H_x = (W^2)^T H_h, H_h = sigma'^2 H_a + sigma'' g.
    averaged: as eqs. C.2.4 and C.2.5, but for each place by itself: means over the batch of
    x^2, sigma'^2, sigma'' g and H go back instead of samples.
    gauss_newton: mean of (J^T R v)^2, v random signs, R a root of diag(p) - p p^T.
    hutchinson: mean of v * (Hessian v), v random signs; may be negative.

    The recursion keeps the tensors between about sqrt(calls) stretches of the model and
    works the others out again, so that it never holds all feature maps.

    Args:
        model: A built classifier on logits, or with a softmax at its end.
        data: Pairs `(x, labels)`, see `batches`; labels are whole numbers.
        form: One of `FORMS`; the first two know the layers of `RULES`, the others any.
        probes: Random vectors a batch, of the last two forms.

    Returns:
        A Curvature over the variables of the layers that it knows, or all.

    Raises:
        ValueError: An unknown form, no batch, labels that are not whole numbers, a layer that
            the recursion does not know, or a curvature that is not finite.

    Example:
        >>> diagonal(net, [(x, y)], "averaged").diagonal["fc1/kernel"].shape
        (784, 300)

    Reference: BayesNAS, appendix C; Bekas et al. 2007 (Hutchinson's diagonal).
    """
    if form not in FORMS:
        raise ValueError(f"`form` must be one of {FORMS}. Received: form={form!r}.")
    graph = trace.read(_in_float32(model))
    step = _step(graph, form, probes)
    total: dict[str, np.ndarray] = {}
    samples = 0
    for x, y in data:
        y = _labels(y)
        count = len(y)
        found = step(keras.tree.map_structure(ops.convert_to_tensor, x), y)
        samples += count
        for path, own in found.items():
            own = ops.convert_to_numpy(own).astype("float64") * count
            total[path] = total.get(path, 0.0) + own
    if not samples:
        raise ValueError("`data` must hold a batch. Received: none.")
    negative = zero = 0
    for path, own in total.items():
        if not np.isfinite(own).all():
            raise ValueError(
                f"`model` must have a finite curvature. Received: nan or inf for {path}. "
                "Lower the learning rate, or look for nan in the data."
            )
        mean, below = numerics.clamped(ops.convert_to_tensor(own / samples))
        total[path] = ops.convert_to_numpy(mean)
        negative += int(below)
        zero += int((own == 0).sum()) if own.ndim > 1 else 0
    return Curvature(total, negative, zero)


def batches(x, y, size: int = 128):
    """Cuts samples (an array, or a structure of arrays) and labels into batches."""
    for start in range(0, len(y), size):
        part = slice(start, start + size)
        yield keras.tree.map_structure(lambda a, part=part: a[part], x), y[part]


def _labels(y):
    """Labels as a vector of whole numbers.

    Raises:
        ValueError: They are not.
    """
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or (y.dtype.kind == "f" and (y != np.floor(y)).any()):
        raise ValueError(
            "`data` must hold labels that are whole numbers, (samples,). Received: shape "
            f"{y.shape}, {y.dtype}."
        )
    return ops.convert_to_tensor(y.astype("int32"))


def _in_float32(model):
    """The model, or, where layers compute in half precision, a copy that does not."""
    layers = [x for x in trace.read(model).operations if isinstance(x, keras.Layer)]
    if all(layer.compute_dtype in ("float32", "float64") for layer in layers):
        return model

    def clone(layer):
        return type(layer).from_config({**layer.get_config(), "dtype": "float32"})

    copy = keras.models.clone_model(model, clone_function=clone)
    copy.set_weights(model.get_weights())
    return copy


def relative_error(received: dict, expected: dict) -> float:
    """Norm of the difference of two diagonals, over the norm of the second."""
    paths = list(expected)
    difference = sum(float(np.square(received[p] - expected[p]).sum()) for p in paths)
    whole = sum(float(np.square(expected[p]).sum()) for p in paths)
    return math.sqrt(difference / whole) if whole else math.inf


def _step(graph, form: str, probes: int) -> Callable:
    """`(x, y) -> {path: diagonal of the batch's mean loss}`, as a graph."""
    if form in ("recursive", "averaged"):
        sweep = _Sweep(graph, form == "averaged")
        return gradients.compiled(sweep.run)
    model, variables = graph.model, graph.model.trainable_variables
    paths = [graph.paths[id(v)] for v in variables]
    seed = keras.random.SeedGenerator(0)
    if _ends_in_softmax(graph):
        raise ValueError(
            f"`form` must be recursive or averaged for a model that ends in a softmax. "
            f"Received: form={form!r}."
        )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)

    def signs(shape):
        drawn = keras.random.uniform(shape, seed=seed)
        return ops.where(drawn < 0.5, -1.0, 1.0)

    def probe(x, y):
        if form == "hutchinson":
            vectors = [signs(tuple(v.shape)) for v in variables]
            products = gradients.hessian_products(model, loss, x, y, vectors)
            return [v * h for v, h in zip(vectors, products, strict=True)]

        def upstream(logits):
            root = numerics.cross_entropy_root(logits)
            count = ops.cast(ops.shape(logits)[0], logits.dtype)
            drawn = signs(ops.shape(logits))
            return ops.matmul(root, drawn[:, :, None])[:, :, 0] / ops.sqrt(count)

        return [ops.square(g) for g in gradients.output_products(model, x, upstream)]

    compiled = gradients.compiled(probe)

    def step(x, y):
        sums = None
        for _ in range(probes):
            found = compiled(x, y)
            sums = (
                found
                if sums is None
                else [a + b for a, b in zip(sums, found, strict=True)]
            )
        return {path: own / probes for path, own in zip(paths, sums, strict=True)}

    return step


def _ends_in_softmax(graph) -> bool:
    last = graph.writers.get(graph.outputs[0])
    if last is None:
        return False
    softmax = getattr(last.operation, "activation", None) is keras.activations.softmax
    return softmax or isinstance(last.operation, keras.layers.Softmax)


# The recursion --------------------------------------------------------------------


class _Sweep:
    """Gradient and curvature of a graph, from its output back to its weights."""

    def __init__(self, graph, averaged: bool):
        self._graph, self._averaged = graph, averaged
        if len(graph.outputs) != 1 or len(graph.outputs[0].shape) != 2:
            raise ValueError(
                "`model` must have one output, logits of (batch, classes). Received: "
                f"{[t.shape for t in graph.outputs]}."
            )
        for call in graph.calls:
            if _rule_of(call.operation) is None:
                raise ValueError(
                    "`form` must be gauss_newton or hutchinson for a model with layers "
                    f"that the recursion does not know. Received: {call.name!r} of class "
                    f"{type(call.operation).__name__}."
                )
        size = max(1, round(math.sqrt(len(graph.calls))))
        self._parts = [
            graph.calls[start : start + size]
            for start in range(0, len(graph.calls), size)
        ]
        self.held: list[int] = []
        """How many tensors were held at once, at each stretch; for tests."""

    def run(self, x, y):
        graph = self._graph
        tensors = dict(zip(graph.inputs, keras.tree.flatten(x), strict=True))
        starts = []
        for number, part in enumerate(self._parts):
            starts.append(tensors)
            inside = self._forward(part, tensors)
            needed = {
                t
                for later in self._parts[number + 1 :]
                for c in later
                for t in c.inputs
            } | set(graph.outputs)
            known = {**tensors, **inside}
            tensors = {t: known[t] for t in known if t in needed}
        logits = tensors[graph.outputs[0]]
        soft = _ends_in_softmax(graph)
        if soft:
            logits = ops.log(ops.maximum(logits, 1e-30))
        count = ops.cast(ops.shape(logits)[0], logits.dtype)
        classes = logits.shape[-1]
        slope = (ops.softmax(logits) - ops.one_hot(y, classes)) / count
        bend = numerics.cross_entropy_curvature(logits) / count
        if self._averaged:
            bend = ops.sum(bend, axis=0, keepdims=True)  # mean over the batch, of a sum
        back = {graph.outputs[0]: (slope, bend)}
        found: dict[str, object] = {}
        for part, start in zip(reversed(self._parts), reversed(starts), strict=True):
            # Not before the sweep is here: a graph would work everything out at once.
            there = [own for pair in back.values() for own in pair]
            start = dict(
                zip(start, gradients.after(list(start.values()), there), strict=True)
            )
            inside = {**start, **self._forward(part, start)}
            self.held.append(len(inside))
            for call in reversed(part):
                self._backward(call, inside, back, found, soft)
        return found

    def _forward(self, part, tensors) -> dict:
        """What the calls of a stretch put out."""
        inside = dict(tensors)
        made = {}
        for call in part:
            args, kwargs = call.fill([inside[t] for t in call.inputs])
            if trace.takes_training(call.operation):
                kwargs = {**kwargs, "training": False}
            outputs = keras.tree.flatten(call.operation(*args, **kwargs))
            for tensor, own in zip(call.outputs, outputs, strict=True):
                inside[tensor] = made[tensor] = own
        return made

    def _backward(self, call, tensors, back, found, soft) -> None:
        """Takes gradient and curvature from a call's output to its inputs."""
        if call.outputs[0] not in back:
            return
        slope, bend = back.pop(call.outputs[0])
        inputs = [tensors[t] for t in call.inputs]
        last = soft and call.outputs[0] is self._graph.outputs[0]
        visit = _Visit(call, inputs, slope, bend, self._averaged, last)
        sides = _rule_of(call.operation)(visit)
        for tensor, own in zip(call.inputs, sides, strict=True):
            if tensor in back:
                own = tuple(a + b for a, b in zip(back[tensor], own, strict=True))
            back[tensor] = own
        for variable, own in visit.found:
            path = self._graph.paths[id(variable)]
            found[path] = found[path] + own if path in found else own


@dataclasses.dataclass
class _Visit:
    """One call on the way back: what a rule needs, and where it puts what it finds."""

    call: object
    inputs: list
    slope: object
    bend: object
    averaged: bool
    last: bool
    found: list = dataclasses.field(default_factory=list)

    def mean(self, x):
        """A tensor as this form carries it: its mean over the batch, or itself."""
        return ops.mean(x, axis=0, keepdims=True) if self.averaged else x

    def through(self, function, slope, bend):
        """Back through a function that picks, places or adds."""
        (own,) = gradients.pullback(function, self.inputs[:1], slope)
        return own, self.picked(function, bend)

    def picked(self, function, bend):
        """Curvature back through a function whose derivatives are 0 and 1."""
        x = self.inputs[0]
        if self.averaged:
            whole = ops.shape(function(x))
            bend = ops.broadcast_to(bend, whole)
        (own,) = gradients.pullback(function, [x], bend)
        return self.mean(own)

    def before_activation(self, activation, h):
        """Gradient and curvature at h, from those behind `activation`."""
        slope, bend = self.slope, self.bend
        _check_elementwise(self, activation)
        if activation in (None, keras.activations.linear) or self.last:
            return slope, bend
        first, second = gradients.slope_and_bend(activation, h)
        if self.averaged:
            count = ops.cast(ops.shape(h)[0], h.dtype)
            own = (
                self.mean(ops.square(first)) * bend + self.mean(second * slope) * count
            )
        else:
            own = numerics.activation_curvature(bend, first, second, slope)
        return first * slope, own


def _check_elementwise(visit: _Visit, activation) -> None:
    """Raises a ValueError for a softmax that is not the model's last."""
    inner = getattr(activation, "activation", activation)
    soft = isinstance(activation, keras.layers.Softmax)
    if (soft or inner is keras.activations.softmax) and not visit.last:
        raise ValueError(
            "`form` must be gauss_newton or hutchinson for a softmax inside the model. "
            f"Received: {visit.call.name!r}."
        )


def _affine(visit: _Visit):
    """Dense and convolutions: y = product(x, W) + b, then their activation."""
    layer, (x,) = visit.call.operation, visit.inputs
    kernel = ops.convert_to_tensor(layer.kernel)
    product = _product(layer)
    h = product(x, kernel)
    if layer.bias is not None:
        h = h + _broad(layer, layer.bias)
    slope, bend = visit.before_activation(layer.activation, h)
    (back,) = gradients.pullback(lambda t: product(t, kernel), [x], slope)
    square, squared = visit.mean(ops.square(x)), ops.square(kernel)
    curve, own = gradients.pullback(
        lambda t, k: product(t, squared) + product(square, k),
        [ops.zeros_like(square), ops.zeros_like(kernel)],
        bend,
    )
    visit.found.append((layer.kernel, own))
    if layer.bias is not None:
        axis = _channel_axis(layer, len(bend.shape))
        others = [a for a in range(len(bend.shape)) if a != axis]
        visit.found.append((layer.bias, ops.sum(bend, axis=others)))
    return [(back, curve)]


def _product(layer):
    """The layer's linear map, `(inputs, kernel) -> outputs`."""
    if hasattr(layer, "product"):  # a Bayesian twin
        return layer.product
    if isinstance(layer, keras.layers.Dense):
        return ops.matmul
    options = {
        "strides": list(layer.strides),
        "padding": layer.padding,
        "dilation_rate": layer.dilation_rate,
        "data_format": layer.data_format,
    }
    if isinstance(layer, keras.layers.DepthwiseConv1D | keras.layers.DepthwiseConv2D):
        options["strides"] = tuple(layer.strides)
        return lambda x, kernel: ops.depthwise_conv(x, kernel, **options)
    if layer.padding == "causal":
        before = layer.dilation_rate[0] * (layer.kernel_size[0] - 1)
        options["padding"] = "valid"
        pads = [(0, 0), (before, 0), (0, 0)]
        return lambda x, kernel: ops.conv(ops.pad(x, pads), kernel, **options)
    return lambda x, kernel: ops.conv(x, kernel, **options)


def _channel_axis(layer, rank: int) -> int:
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    return 1 if first else rank - 1


def _broad(layer, vector):
    """A vector over channels, to be added to outputs."""
    vector = ops.convert_to_tensor(vector)
    rank = len(layer.kernel.shape)
    if _channel_axis(layer, rank) == rank - 1:
        return vector
    return ops.reshape(vector, (-1,) + (1,) * (rank - 2))


def _norm(visit: _Visit):
    """BatchNorm at inference: y = (x - mean) gamma / sqrt(variance + epsilon) + beta."""
    layer, (x,) = visit.call.operation, visit.inputs
    rank = len(x.shape)
    axis = layer.axis % rank
    shape = [1] * rank
    shape[axis] = -1
    others = [a for a in range(rank) if a != axis]
    root = ops.sqrt(layer.moving_variance + layer.epsilon)
    normal = (x - ops.reshape(layer.moving_mean, shape)) / ops.reshape(root, shape)
    factor = 1.0 / root if layer.gamma is None else layer.gamma / root
    factor = ops.reshape(factor, shape)
    if layer.gamma is not None:
        own = ops.sum(visit.mean(ops.square(normal)) * visit.bend, axis=others)
        visit.found.append((layer.gamma, own))
    if layer.beta is not None:
        visit.found.append((layer.beta, ops.sum(visit.bend, axis=others)))
    return [(visit.slope * factor, visit.bend * ops.square(factor))]


def _activation(visit: _Visit):
    layer, (x,) = visit.call.operation, visit.inputs
    _check_elementwise(visit, layer)
    return [visit.before_activation(layer, x)]


def _average(visit: _Visit):
    """Average pooling: a derivative of 1/n gives curvature 1/n^2."""
    layer, (x,) = visit.call.operation, visit.inputs
    (slope,) = gradients.pullback(layer, [x], visit.slope)
    sizes = _window_shares(layer, x[:1])
    return [(slope, visit.picked(layer, visit.bend * sizes))]


def _window_shares(layer, x):
    """1/n of each output of an average pooling, n the inputs that it averages."""
    outputs = layer(ops.ones_like(x))
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    spatial = (
        list(range(2, len(x.shape))) if first else list(range(1, len(x.shape) - 1))
    )
    if not hasattr(layer, "pool_size"):
        return 1.0 / float(np.prod([x.shape[a] for a in spatial]))
    counts = np.ones([1] * len(x.shape))
    pools = np.broadcast_to(layer.pool_size, len(spatial))
    steps = np.broadcast_to(layer.strides, len(spatial))
    for axis, pool, step in zip(spatial, pools, steps, strict=True):
        size, places = x.shape[axis], outputs.shape[axis]
        if layer.padding == "same":
            before = max((places - 1) * step + pool - size, 0) // 2
        else:
            before = 0
        starts = np.arange(places) * step - before
        own = np.minimum(starts + pool, size) - np.maximum(starts, 0)
        shape = [1] * len(x.shape)
        shape[axis] = places
        counts = counts * own.reshape(shape)
    return ops.cast(1.0 / counts, x.dtype)


def _sum(visit: _Visit):
    """Add: every input gets what the output has; twice the same input, four times as much."""
    if len({tuple(x.shape) for x in visit.inputs}) > 1:
        raise ValueError(
            "`form` must be gauss_newton or hutchinson for a sum that broadcasts. "
            f"Received: {visit.call.name!r}."
        )
    read = visit.call.inputs
    return [(visit.slope, visit.bend * float(read.count(t))) for t in read]


def _concatenate(visit: _Visit):
    axis = visit.call.operation.axis
    sizes = [x.shape[axis] for x in visit.inputs]
    cuts = np.cumsum(sizes)[:-1].tolist()
    parts = [ops.split(x, cuts, axis=axis) for x in (visit.slope, visit.bend)]
    return list(zip(*parts, strict=True))


def _structural(visit: _Visit):
    """What only picks and places: Flatten, reshapes, max pooling, padding, gathers."""
    call = visit.call

    def function(x):
        args, kwargs = call.fill([x])
        if trace.takes_training(call.operation):
            kwargs = {**kwargs, "training": False}
        return call.operation(*args, **kwargs)

    return [visit.through(function, visit.slope, visit.bend)]


def _rescaling(visit: _Visit):
    factor = ops.convert_to_tensor(visit.call.operation.scale, visit.slope.dtype)
    return [(visit.slope * factor, visit.bend * ops.square(factor))]


_LAYERS = keras.layers
RULES: dict[type, Callable] = {
    **dict.fromkeys(
        (
            _LAYERS.Dense,
            _LAYERS.Conv1D,
            _LAYERS.Conv2D,
            _LAYERS.DepthwiseConv1D,
            _LAYERS.DepthwiseConv2D,
        ),
        _affine,
    ),
    _LAYERS.BatchNormalization: _norm,
    **dict.fromkeys(
        (
            _LAYERS.Activation,
            _LAYERS.ReLU,
            _LAYERS.LeakyReLU,
            _LAYERS.ELU,
            _LAYERS.Softmax,
        ),
        _activation,
    ),
    **dict.fromkeys(
        (
            _LAYERS.AveragePooling1D,
            _LAYERS.AveragePooling2D,
            _LAYERS.GlobalAveragePooling1D,
            _LAYERS.GlobalAveragePooling2D,
        ),
        _average,
    ),
    _LAYERS.Add: _sum,
    trace.operation_class(ops.add, 2): _sum,
    _LAYERS.Concatenate: _concatenate,
    _LAYERS.Rescaling: _rescaling,
    **dict.fromkeys(
        (
            _LAYERS.Flatten,
            _LAYERS.Reshape,
            _LAYERS.Permute,
            _LAYERS.Dropout,
            _LAYERS.SpatialDropout2D,
            _LAYERS.MaxPooling1D,
            _LAYERS.MaxPooling2D,
            _LAYERS.GlobalMaxPooling1D,
            _LAYERS.GlobalMaxPooling2D,
            _LAYERS.ZeroPadding1D,
            _LAYERS.ZeroPadding2D,
            _LAYERS.Cropping2D,
            _LAYERS.Identity,
            trace.operation_class(lambda x: ops.take(x, [0], axis=-1)),
        ),
        _structural,
    ),
}
"""Layer class -> how gradient and curvature pass it backwards."""


def _rule_of(operation):
    return RULES.get(getattr(operation, "stock_class", type(operation)))
