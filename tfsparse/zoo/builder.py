"""Builds a model by name, from a `.keras` file or from a user's function."""

from __future__ import annotations

import functools
import inspect
import os
import zipfile

import keras

# Checkpoints hold house layers: Keras knows those that are imported.
import tfsparse.layers  # noqa: F401
from tfsparse import options
from tfsparse.zoo import cells, ds_cnn, lenet, resnet, vgg

MODELS = {
    "lenet_300_100": lenet.lenet_300_100,
    "lenet5": lenet.lenet5,
    "mlp": lenet.mlp,
    "vgg16": vgg.vgg16,
    "resnet8": resnet.resnet8,
    "resnet18": resnet.resnet18,
    "resnet50": resnet.resnet50,
    "ds_cnn": ds_cnn.ds_cnn,
    "cells": cells.cells,
    "darts_v2": cells.darts_v2,
}
"""Builders by the name that `--model` takes; each turns an input into logits."""


def _scaled(units: int, factor: float) -> int:
    return max(1, round(units * factor))


def build(
    name: str,
    input_shape: tuple[int, ...],
    classes: int,
    width: float = 1.0,
    hidden: tuple[int, ...] | None = None,
):
    """Builds a model of the zoo, or a user's own.

    Args:
        name: A name of `MODELS`, a path that ends in `.keras`, or
            `package.module:function`. The function is called with `input_shape` and
            `classes` and returns a Keras model that puts out logits.
        input_shape: One sample's shape, such as `(28, 28, 1)`, values in [0, 1].
        classes: Number of logits.
        width: Multiplies the units of every hidden layer.
        hidden: Hidden layers of `mlp`, before the width multiplier.

    Returns:
        An uncompiled Keras model.

    Raises:
        ValueError: The name is unknown, or the model does not fit the data.

    Example:
        >>> build("lenet5", (28, 28, 1), 10).count_params()
        431080
    """
    if not width > 0:
        raise ValueError(f"`width` must be positive. Received: width={width}.")
    if name.endswith(".keras"):
        model = load(name)
    elif ":" in name:
        model = _from_function(name, input_shape, classes)
    elif name not in MODELS:
        raise ValueError(
            f"`model` must be one of {sorted(MODELS)}, a .keras file or "
            f"package.module:function. Received: model={name!r}."
        )
    if hidden is not None and name != "mlp":
        raise ValueError(f"`hidden` is for the model 'mlp'. Received: model={name!r}.")
    if name in MODELS:
        return _from_zoo(name, input_shape, classes, width, hidden)
    if width != 1.0:
        raise ValueError(
            f"`width` must be 1 for a model of your own. Received: width={width}."
        )
    return _checked(model, name, input_shape, classes)


def _from_zoo(name, input_shape, classes, width, hidden):
    builder = MODELS[name]
    if hidden is not None:
        builder = functools.partial(builder, hidden=hidden)
    if name not in ("mlp", "lenet_300_100") and len(input_shape) != 3:
        raise ValueError(
            f"`model` {name!r} must be given images (height, width, channels). "
            f"Received: samples of shape {tuple(input_shape)}."
        )
    inputs = keras.Input(input_shape, name="image")
    try:
        outputs = builder(inputs, classes, functools.partial(_scaled, factor=width))
    except ValueError as error:
        raise ValueError(
            f"`model` {name!r} must fit its input. Received: samples of shape "
            f"{tuple(input_shape)}, too small for its layers."
        ) from error
    return keras.Model(inputs, outputs, name=name)


def load(path: str):
    """Loads a `.keras` file in safe mode: no code from the file is run.

    Raises:
        ValueError: The file is missing, damaged, or holds Lambda layers, or custom
            ones that are not of this house.
    """
    if not os.path.isfile(path):
        raise ValueError(
            f"`model` must be a .keras file that exists. Received: {path!r}."
        )
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"`model` must be a whole .keras file. Received: {path!r}, empty or damaged."
        )
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises many types for what a file can hold
        reason = " ".join(str(error).split())[:160]
        raise ValueError(
            f"`model` must hold stock Keras layers and be undamaged (safe mode is on: no "
            f"Lambda, no custom classes). Received: {path!r}, which says: {reason}"
        ) from error


def _from_function(name, input_shape, classes):
    function = options.imported("model", name, "function")
    try:
        inspect.signature(function).bind(input_shape, classes)
    except TypeError as error:
        raise ValueError(
            f"`model` must name a function of (input_shape, classes). Received: {name!r} "
            f"({error})."
        ) from error
    return function(input_shape, classes)


def _checked(model, name, input_shape, classes):
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"`model` must be a keras.Model. Received: {name!r} gives {type(model).__name__}."
        )
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ValueError(
            f"`model` must have one input and one output here. Received: {name!r} with "
            f"{len(model.inputs)} and {len(model.outputs)}."
        )
    expected, received = model.inputs[0].shape[1:], tuple(input_shape)
    fits = len(expected) == len(received) and all(
        a is None or a == b for a, b in zip(expected, received, strict=True)
    )
    if not fits:
        raise ValueError(
            f"`model` must take samples of the data's shape {received}. "
            f"Received: {name!r}, made for {tuple(expected)}."
        )
    if model.outputs[0].shape[-1] != classes or len(model.outputs[0].shape) != 2:
        raise ValueError(
            f"`model` must put out {classes} logits, one a class. "
            f"Received: {name!r} with output shape {model.outputs[0].shape}."
        )
    for layer in model.layers:
        if isinstance(layer, keras.layers.Lambda):
            raise ValueError(
                f"`model` must not hold Lambda layers, they cannot be saved safely. "
                f"Received: {name!r} with {layer.name!r}."
            )
    return model
