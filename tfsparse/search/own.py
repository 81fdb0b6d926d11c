"""A user's own hyper-model as the space of a search."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import keras
import keras_tuner

from tfsparse.graph import rebuild
from tfsparse.search import space as spaces

Build = Callable[[Mapping[str, Any], tuple[int, ...], int], keras.Model]
"""`(configuration, shape, outputs) -> model`."""


def named(name: str):
    """What stands under `package.module:name`: a hyper-model, its class, or a function of hp.

    Raises:
        ValueError: There is no such thing.

    Example:
        >>> named("mine:Net")   # class Net(keras_tuner.HyperModel) in mine.py
    """
    module, _, own = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), own)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"`model` must be table_7, or package.module:name of a keras_tuner.HyperModel. "
            f"Received: model={name!r} ({error})."
        ) from error
    if inspect.isclass(found):
        try:
            found = found()
        except TypeError as error:
            raise ValueError(
                "`model` must name a class that needs no arguments, or an instance. Received: "
                f"{name!r} ({error})."
            ) from error
    if not isinstance(found, keras_tuner.HyperModel) and not callable(found):
        raise ValueError(
            f"`model` must name a keras_tuner.HyperModel or a function of hp. Received: "
            f"{name!r}, a {type(found).__name__}."
        )
    return found


def searched(hypermodel) -> tuple[spaces.Space, Build]:
    """The space of a hyper-model, with how a trial prunes; and what builds from it.

    Args:
        hypermodel: A `keras_tuner.HyperModel`, or a function of `hp`.

    Returns:
        The space, and `(configuration, shape, outputs) -> model`. The model must take
        samples of that shape and put out as many numbers; how it is compiled does not
        matter.

    Raises:
        ValueError: A parameter has the name of one of the schedule's.

    Example:
        >>> space, build = searched(Net())
        >>> build(space.sample(rng), (28, 28, 1), 10).output_shape
        (None, 10)
    """
    inner = getattr(hypermodel, "build", hypermodel)

    def scheduled(hp):
        spaces.schedule(hp)
        return inner(hp)

    whole = _Of(scheduled)

    def build(configuration, shape, outputs):
        hp = keras_tuner.HyperParameters()
        hp.values = dict(configuration)
        model = whole.build(hp)
        if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
            raise ValueError(
                "`model` must build a Keras model with an Input. Received: "
                f"{type(model).__name__}, of the configuration {dict(configuration)}."
            )
        found = tuple(model.input_shape[1:]), tuple(model.output_shape[1:])
        if found != (tuple(shape), (outputs,)):
            raise ValueError(
                f"`model` must build networks of {tuple(shape)} inputs and {outputs} outputs. "
                f"Received: one of {found[0]} and {found[1]}."
            )
        return _named(model)

    ours = keras_tuner.HyperParameters()
    spaces.schedule(ours)
    theirs = spaces.Space.of(_Of(inner)).ranges
    if clash := sorted({parameter.name for parameter in ours.space} & theirs.keys()):
        raise ValueError(
            f"`model` must not call its parameters {', '.join(clash)}: so does what says how "
            "a trial prunes. Received: a hyper-model that does."
        )
    return spaces.Space.of(whole), build


def _named(model: keras.Model) -> keras.Model:
    """The model, layers without a name of their own called by their order.

    Keras counts all layers that a process made: the same network built twice would have other
    names, and a child would find nothing of its parent's.
    """
    counts: dict[str, int] = {}

    def make(operation, name: str):
        kind = type(operation).__name__.lower()
        if re.fullmatch(rf"{re.escape(kind)}\d*", name.replace("_", "")):
            counts[kind] = counts.get(kind, 0) + 1
            name = f"{kind}_number_{counts[kind]}"
        return rebuild.clone(operation, name)

    return rebuild.rebuild(model, make)[0]


class _Of(keras_tuner.HyperModel):
    """A hyper-model of a function."""

    def __init__(self, function):
        super().__init__()
        self._function = function

    def build(self, hp):
        return self._function(hp)
