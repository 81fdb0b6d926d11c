"""The registry of rules.

A rule is `rule(walk, call, axes) -> axes of the outputs`. `axes` holds, for each
input tensor, a list with one entry per axis: None or an integer label per index.
Beside it may stand `sizes(call, left) -> dict`: the entries of the layer's config
that change when units leave, where they do not follow from the input.
"""

from __future__ import annotations

import keras

ACROSS = {"softmax", "log_softmax", "sparsemax", "glu"}
"""Activations that mix the channels."""

_RULES: dict[type, object] = {}
_SIZES: dict[type, object] = {}
_FACTORS: dict[type, object] = {}


def register_rule(*classes: type, sizes=None, factors=None):
    """Decorator: registers the rule that says how a layer class passes units.

    Args:
        classes: The layer or op classes that the rule is for, subclasses not.
        sizes: `(call, left) -> dict`, the config entries that change with the units;
            `left.shape(variable)` is the shape that a variable will have. Needed
            where the layer is told its size; not where it infers it from its input.
        factors: `(call, left) -> {id(variable): factor}`, for weights that have to
            make up for a constant of the layer that changes with its size.

    Returns:
        A decorator that returns the rule unchanged.

    Raises:
        TypeError: `classes` are not classes, or what is registered cannot be called.

    Example:
        >>> @register_rule(MyScale)                     # y = x * self.factor
        ... def my_scale(walk, call, axes):
        ...     walk.carry(call.operation.factor, 0, axes[0][-1])
        ...     return axes
    """

    wrong = [cls for cls in classes if not isinstance(cls, type)]
    if wrong or not classes:
        raise TypeError(f"`classes` must be layer or op classes. Received: {wrong}.")
    for name, given in (("sizes", sizes), ("factors", factors)):
        if given is not None and not callable(given):
            raise TypeError(f"`{name}` must be callable. Received: {given!r}.")

    def register(function):
        if not callable(function):
            raise TypeError(f"A rule must be callable. Received: {function!r}.")
        for cls in classes:
            _RULES[cls] = function
            if sizes is not None:
                _SIZES[cls] = sizes
            if factors is not None:
                _FACTORS[cls] = factors
        return function

    return register


def _known_as(operation) -> type:
    """The class whose rule an operation follows: of a twin, its stock class."""
    return getattr(operation, "stock_class", type(operation))


def rule_of(operation):
    """The rule for an operation: registered, its own, or the one that freezes."""
    known = _known_as(operation)
    if known in _RULES:
        return _RULES[known]
    if hasattr(operation, "unit_rule"):
        return operation.unit_rule
    return unknown


def sizes_of(operation):
    """What says the new sizes of an operation; None where they follow from inputs."""
    return _SIZES.get(_known_as(operation))


def factors_of(operation):
    """What says the factors on an operation's weights; None where there are none."""
    return _FACTORS.get(_known_as(operation))


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
    """True unless a BatchNorm alone reads this call's plain affine output."""
    activation = getattr(call.operation, "activation", None)
    if activation is not None and activation is not keras.activations.linear:
        return True
    reader = walk.only_reader(call)
    return reader is None or not isinstance(
        reader.operation, keras.layers.BatchNormalization
    )


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
