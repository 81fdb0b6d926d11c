"""The registry of rules: one record for each layer class.

A record's rule of units is `units(walk, call, axes) -> axes of the outputs`. `axes`
holds, for each input tensor, a list with one entry per axis: None or an integer label
per index. Beside it stands all else that reading, counting, lowering, folding and
cutting have to know of the class; see `LayerRule`. No engine names a layer class.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import keras

ACROSS = {"softmax", "log_softmax", "sparsemax", "glu"}
"""Activations that mix the channels."""

LINEAR = "linear"
"""The fold of a layer that is a linear map, then its `bias`, then its `activation`."""


@dataclasses.dataclass(frozen=True)
class LayerRule:
    """What the library knows of one layer or op class. None: nothing special.

    `left` tells what stays: `left.shape(variable)`, `left.size(tensor)`,
    `left.extent(tensor, axis)`, `left.kept(tensor, axis)`, `left.graph`.

    Attributes:
        units: `(walk, call, axes) -> axes`, how units pass through.
        sizes: `(call, left) -> dict`, the config entries that change when units leave,
            where they do not follow from the input.
        factors: `(call, left) -> {id(variable): factor}`, for weights that make up for
            a constant of the layer that changes with its size.
        macs: `(call, left) -> int`; by default the elements of the kernels times the
            places of the output.
        stored_bytes: `(call, left) -> int`, as int8 TFLite stores it; by default a byte
            for each weight of a kernel and four for each other.
        index_bytes: `(call, left) -> int`, of constant indices; by default 0.
        in_place: Whether the output can take the place of the input in memory.
        joins_front: Whether it is a per-channel affine map that deployment folds into
            the affine layer in front (BatchNorm): it continues that layer's chain.
        scale_output: `(layer, scale) -> [(variable, value)]`, the values under which
            the layer, before its activation, puts out `scale` `(channels,)` times as
            much; None where it cannot.
        scaled_config: Config entries that a layer needs whose output is scaled.
        scale_input: `(layer, scale) -> [(variable, value)]`, the values under which it
            reads its input's channels `scale` times as large; None where it cannot.
        folds: How a constant that a dead unit sends becomes a bias: `LINEAR`, measured
            on the layer without its activation; or `(call, number of the input) ->
            [(kernel, bias or None)]`, the sums of the rows of these kernels.
        recurrent: Whether it reads its own output at the next step.
        inner: `layer -> layer` inside a wrapper, which takes the fold in its place.
        multiplies: `layer -> variables` that hold a factor for each unit that it reads:
            where they are zero nothing of the input gets through.
        inner_biases: `layer -> biases` between two kernels of the layer, which nothing
            outside sees.
        side_by_side: Whether a call only puts its inputs side by side.
    """

    units: Callable
    sizes: Callable | None = None
    factors: Callable | None = None
    macs: Callable | None = None
    stored_bytes: Callable | None = None
    index_bytes: Callable | None = None
    in_place: bool | None = None
    joins_front: bool | None = None
    scale_output: Callable | None = None
    scaled_config: Mapping | None = None
    scale_input: Callable | None = None
    folds: str | Callable | None = None
    recurrent: bool | None = None
    inner: Callable | None = None
    multiplies: Callable | None = None
    inner_biases: Callable | None = None
    side_by_side: bool | None = None


_FIELDS = tuple(field.name for field in dataclasses.fields(LayerRule))
_FLAGS = ("in_place", "joins_front", "recurrent", "side_by_side")
_OWN = ("units", "sizes", "factors")
"""What a subclass does not inherit: it may be cut otherwise than its base class."""

_RULES: dict[type, LayerRule] = {}
_KNOWN: dict[type, LayerRule] = {}
"""Class -> its record with what it inherits, worked out when first asked for."""

_VERSION = [0]


def version() -> int:
    """A number that grows with every registration: what was found before may be old."""
    return _VERSION[0]


def register_rule(
    *classes: type,
    sizes=None,
    factors=None,
    macs=None,
    stored_bytes=None,
    index_bytes=None,
    in_place=None,
    joins_front=None,
    scale_output=None,
    scaled_config=None,
    scale_input=None,
    folds=None,
    recurrent=None,
    inner=None,
    multiplies=None,
    inner_biases=None,
    side_by_side=None,
):
    """Decorator: registers all that is to be known of a layer class.

    It decorates the rule of units. What is left out stays as it was registered before,
    else as the nearest base class has it; the rule of units, `sizes` and `factors` are
    never a base class's.

    Args:
        classes: The layer or op classes that the rule is for, subclasses not.
        sizes: `(call, left) -> dict`, the config entries that change with the units;
            `left.shape(variable)` is the shape that a variable will have. Needed
            where the layer is told its size; not where it infers it from its input.
        factors: `(call, left) -> {id(variable): factor}`, for weights that have to
            make up for a constant of the layer that changes with its size.
        macs: `(call, left) -> int`, multiply-accumulates of one sample; by default the
            elements of the kernels times the places of the output.
        stored_bytes: `(call, left) -> int`, as int8 TFLite stores the weights; by
            default a byte for each weight of a kernel, four for each other.
        index_bytes: `(call, left) -> int`, of constant indices.
        in_place: Whether the output can take the place of the input in memory.
        joins_front: Whether deployment folds the layer into the affine one in front.
        scale_output: `(layer, scale) -> [(variable, value)]`, what makes the layer,
            before its `activation`, put out `scale` `(channels,)` times as much; None
            where it cannot. So a switch behind it is fused into it.
        scaled_config: Config entries that a layer needs whose output is scaled.
        scale_input: The same for the channels that it reads.
        folds: `"linear"` for a linear map, then `bias` (perhaps `use_bias`), then
            `activation`: constants of dead units go into its bias; or `(call, number
            of the input) -> [(kernel, bias or None)]`.
        recurrent: Whether it reads its own output at the next step.
        inner: `layer -> layer` inside a wrapper.
        multiplies: `layer -> variables` that hold a factor for each unit that it reads.
        inner_biases: `layer -> biases` between two kernels of the layer.
        side_by_side: Whether a call only puts its inputs side by side.

    Returns:
        A decorator that returns the rule unchanged.

    Raises:
        TypeError: `classes` are not classes, or what is registered cannot be called,
            is no bool, or is no fold.

    Example:
        >>> class Gain(keras.layers.Layer):             # y = x * self.factor
        ...     def build(self, shape):
        ...         self.factor = self.add_weight(shape=(shape[-1],), name="factor")
        ...     def call(self, x):
        ...         return x * self.factor
        >>> @register_rule(
        ...     Gain,
        ...     macs=lambda call, left: left.size(call.outputs[0]),
        ...     stored_bytes=lambda call, left: left.shape(call.operation.factor)[0],
        ...     in_place=True,
        ...     scale_output=lambda layer, s: [(layer.factor, layer.factor * s)],
        ...     multiplies=lambda layer: [layer.factor],
        ... )
        ... def gain(walk, call, axes):
        ...     walk.carry(call.operation.factor, 0, axes[0][-1])
        ...     return axes
    """
    given = {name: value for name, value in locals().items() if name in _FIELDS}
    _check(classes, given)

    def register(function):
        if not callable(function):
            raise TypeError(f"A rule must be callable. Received: {function!r}.")
        new = {name: value for name, value in given.items() if value is not None}
        for cls in classes:
            known = _RULES.get(cls, LayerRule(function))
            _RULES[cls] = dataclasses.replace(known, units=function, **new)
        _KNOWN.clear()
        _VERSION[0] += 1
        return function

    return register


def _check(classes, given) -> None:
    wrong = [cls for cls in classes if not isinstance(cls, type)]
    if wrong or not classes:
        raise TypeError(f"`classes` must be layer or op classes. Received: {wrong}.")
    for name, value in given.items():
        if value is None:
            continue
        if name in _FLAGS:
            if not isinstance(value, bool):
                raise TypeError(f"`{name}` must be a bool. Received: {value!r}.")
        elif name == "scaled_config":
            if not isinstance(value, Mapping):
                raise TypeError(f"`{name}` must be a mapping. Received: {value!r}.")
        elif name == "folds":
            if value != LINEAR and not callable(value):
                raise TypeError(
                    f"`{name}` must be {LINEAR!r} or callable. Received: {value!r}."
                )
        elif not callable(value):
            raise TypeError(f"`{name}` must be callable. Received: {value!r}.")


def rule_of(operation) -> LayerRule:
    """The record of an operation: registered, with its own rule, or one that freezes.

    Of a twin that stands for a stock layer (`stock_class`) it is the stock layer's. Where
    weights are not plain variables (LoRA, quantised) only the costs are left of it.
    """
    cls = getattr(operation, "stock_class", type(operation))
    known = _KNOWN.get(cls)
    if known is None:
        known = _KNOWN[cls] = _inherited(cls)
    lora = getattr(operation, "lora_enabled", False)
    if lora or getattr(operation, "quantization_mode", None):
        return dataclasses.replace(known, **_UNPLAIN)
    if cls not in _RULES and hasattr(operation, "unit_rule"):
        return dataclasses.replace(known, units=operation.unit_rule)
    return known


def _inherited(cls: type) -> LayerRule:
    """A class's record, completed from those of its base classes."""
    records = [_RULES[base] for base in cls.__mro__ if base in _RULES]
    own = _RULES.get(cls, LayerRule(unknown))
    found = {name: getattr(own, name) for name in _OWN}
    for name in _FIELDS:
        if name not in _OWN:
            values = (getattr(record, name) for record in records)
            found[name] = next((v for v in values if v is not None), None)
    return LayerRule(**found)


def unknown(walk, call, axes):
    """The rule of what has no rule: everything that touches it stays."""
    name = type(call.operation).__name__
    reason = (
        f"reaches {call.name!r} of class {name}, for which no rule is "
        "registered (see tfsparse.register_rule)"
    )
    walk.freeze_all(axes, reason)
    return nothing(call)


def unplain(walk, call, axes):
    """The rule of a layer with LoRA or quantised weights: what touches it stays."""
    walk.freeze_all(
        axes, f"{call.name!r} has LoRA or quantised weights: merge them first"
    )
    return nothing(call)


_UNPLAIN = dict.fromkeys(
    ("sizes", "factors", "scale_output", "scale_input", "folds", "multiplies",
     "inner_biases")
) | {"units": unplain}  # fmt: skip


def nothing(call):
    """No labels on any output."""
    return [[None] * len(t.shape) for t in call.outputs]


def is_elementwise(activation) -> bool:
    """Whether a Keras activation treats every channel by itself, the same way."""
    name = getattr(activation, "__name__", None)
    known = getattr(keras.activations, name, None) if name else None
    return known is activation and name not in ACROSS


def activate(walk, call, labels, activation=None):
    """Applies an activation, by default the layer's own, to the labels of an axis."""
    if activation is None:
        activation = getattr(call.operation, "activation", None)
    if activation is not None and not is_elementwise(activation):
        name = getattr(activation, "__name__", type(activation).__name__)
        walk.freeze(labels, f"activation {name!r} of {call.name!r} mixes units")
    return labels


def ends_chain(walk, call) -> bool:
    """True unless what joins it (a BatchNorm) alone reads this call's affine output."""
    activation = getattr(call.operation, "activation", None)
    if activation is not None and activation is not keras.activations.linear:
        return True
    reader = walk.only_reader(call)
    return reader is None or not rule_of(reader.operation).joins_front


def write(walk, call, labels, last: bool = True):
    """Passes on what a layer wrote: a site for switches, then its activation."""
    if last and ends_chain(walk, call):
        walk.site(call, labels)
    return activate(walk, call, labels)


def channel_axis(layer, rank: int) -> int:
    """The axis of the channels, by the layer's data format."""
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    return 1 if first else rank - 1


def only_channels(walk, call, x, channel: int, rank: int | None = None):
    """Axes of an output that keeps the channels; labels elsewhere are frozen."""
    for axis, labels in enumerate(x):
        if axis != channel:
            walk.freeze(labels, f"a spatial axis of {call.name!r}")
    labels = [None] * (len(x) if rank is None else rank)
    labels[channel] = x[channel]
    return labels
