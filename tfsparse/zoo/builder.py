"""Builds a model by name, from a `.keras` file or from a user's function."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import os
import zipfile
from collections.abc import Callable, Sequence

import keras

# Checkpoints hold house layers: Keras knows those that are imported.
import tfsparse.layers  # noqa: F401
from tfsparse import options
from tfsparse.zoo import (
    cells,
    drawn,
    ds_cnn,
    lenet,
    mcu,
    mobilenet,
    pyramid,
    resnet,
    vgg,
)

MODELS: dict[str, Callable] = {
    "mcu_cnn": mcu.mcu_cnn,
    "mcu_tcn": mcu.mcu_tcn,
    "mlp": mcu.mlp,
    "autoencoder": mcu.autoencoder,
    "lenet_300_100": lenet.lenet_300_100,
    "lenet5": lenet.lenet5,
    "vgg16": vgg.vgg16,
    "resnet8": resnet.resnet8,
    "resnet18": resnet.resnet18,
    "resnet20": resnet.resnet20,
    "resnet56": resnet.resnet56,
    "resnet50": resnet.resnet50,
    "ds_cnn": ds_cnn.ds_cnn,
    "mobilenet_v1_025": mobilenet.mobilenet_v1_025,
    "mobilenet_v2": mobilenet.mobilenet_v2,
    "cells": cells.cells,
    "darts_v2": cells.darts_v2,
    "tree_pyramid": pyramid.tree_pyramid,
    "tree_pyramid_84": pyramid.tree_pyramid_84,
    **drawn.DRAWN,
    **{
        f"{name}_bn": functools.partial(builder, norm=True)
        for name, builder in drawn.DRAWN.items()
    },
}
"""Builders by the name that `--model` takes; each turns an input into outputs."""

AXES = {
    "tree_pyramid": None,
    "mlp": None,
    "autoencoder": None,
    "lenet_300_100": None,
    "mcu_tcn": 2,
}
"""Axes of the samples that a network takes, None for any; of all others 3, pictures."""


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Constants around a network, so that it sees and gives numbers near 1.

    Attributes:
        mean, deviation: Of each input column; none for no scaling.
        scale, offset: Outputs are multiplied by and shifted by these; none for neither.
    """

    mean: Sequence[float] = ()
    deviation: Sequence[float] = ()
    scale: Sequence[float] = ()
    offset: Sequence[float] = ()


def _scaled(units: int, factor: float) -> int:
    return max(1, round(units * factor))


def named(name: str, input_shape: tuple[int, ...], reconstructs: bool = False) -> str:
    """The name of the network that `auto` stands for; any other as it is.

    Args:
        name: What `--model` says.
        input_shape: One sample's shape.
        reconstructs: Whether the input itself is predicted.
    """
    if name != "auto":
        return name
    if reconstructs:
        return "autoencoder"
    return {1: "mlp", 2: "mcu_tcn"}.get(len(input_shape), "mcu_cnn")


def axes_of(name: str) -> int | None:
    """Axes of a sample that a network of the zoo takes; None for any."""
    return AXES.get(name, 3) if name in MODELS else None


def build(
    name: str,
    input_shape: tuple[int, ...],
    outputs: int | tuple[int, ...],
    width: float = 1.0,
    hidden: tuple[int, ...] | None = None,
    scaling: Scaling | None = None,
    builder: Callable | None = None,
):
    """Builds a model of the zoo, or a user's own.

    Args:
        name: A name of `MODELS`, a path that ends in `.keras`, or
            `package.module:function`. The function is called with `input_shape` and
            the number of outputs, and returns a Keras model.
        input_shape: One sample's shape, such as `(28, 28, 1)`.
        outputs: How many numbers the model puts out, or their shape.
        width: Multiplies the units of every hidden layer.
        hidden: Hidden layers of `mlp`, before the width multiplier.
        scaling: Of inputs and outputs of a network of the zoo; of a model of one's own its
            inputs alone.
        builder: In place of that of `MODELS`, for a network of another name.

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
    shape = (outputs,) if isinstance(outputs, int) else tuple(outputs)
    scaling = scaling or Scaling()
    if builder is not None:
        return _from_zoo(name, builder, input_shape, shape, width, hidden, scaling)
    name = named(name, input_shape)
    if is_file(name):
        model = load(name)
    elif ":" in name:
        model = _from_function(name, input_shape, math.prod(shape))
    elif name not in MODELS:
        raise ValueError(
            f"`model` must be one of {sorted(MODELS)}, a .keras or .h5 file, or "
            f"package.module:function. Received: model={name!r}."
        )
    if hidden is not None and name != "mlp":
        raise ValueError(f"`hidden` is for the model 'mlp'. Received: model={name!r}.")
    if name in MODELS:
        own = MODELS[name]
        return _from_zoo(name, own, input_shape, shape, width, hidden, scaling)
    if width != 1.0:
        raise ValueError(
            f"`width` must be 1 for a model of your own. Received: width={width}."
        )
    model = _checked(model, name, input_shape, shape)
    if not scaling.mean and None not in input_shape_of(model):
        return model
    # Of unknown sizes, those of the data: a microcontroller wants to know them.
    inputs = keras.Input(input_shape, dtype=model.inputs[0].dtype)
    x = _normalised(inputs, scaling) if scaling.mean else inputs
    return keras.Model(inputs, model(x), name=model.name)


def _from_zoo(name, builder, input_shape, outputs, width, hidden, scaling: Scaling):
    if hidden is not None:
        builder = functools.partial(builder, hidden=hidden)
    axes = axes_of(name)
    if axes not in (None, len(input_shape)):
        what = (
            "images (height, width, channels)"
            if axes == 3
            else "series (steps, channels)"
        )
        raise ValueError(
            f"`model` {name!r} must be given {what}. Received: samples of shape "
            f"{tuple(input_shape)}."
        )
    inputs = keras.Input(
        input_shape, name="image" if len(input_shape) == 3 else "input"
    )
    x = _normalised(inputs, scaling) if scaling.mean else inputs
    try:
        x = builder(x, math.prod(outputs), functools.partial(_scaled, factor=width))
    except ValueError as error:
        raise ValueError(
            f"`model` {name!r} must fit its input. Received: samples of shape "
            f"{tuple(input_shape)}, too small for its layers, or of another kind."
        ) from error
    if len(outputs) > 1:
        x = keras.layers.Reshape(outputs, name="shaped")(x)
    if scaling.scale:
        x = keras.layers.Rescaling(
            [float(one) for one in scaling.scale],
            [float(one) for one in scaling.offset],
            name="in_units",
        )(x)
    return keras.Model(inputs, x, name=name)


def _normalised(x, scaling: Scaling):
    """`(x - mean) / deviation` of each column, both constants of the layer."""
    return keras.layers.Normalization(
        axis=-1,
        mean=[float(one) for one in scaling.mean],
        variance=[float(one) ** 2 for one in scaling.deviation],
        name="normalization",
    )(x)


def input_shape_of(model) -> tuple:
    """Shape of a sample of a model's one input; () where it has several."""
    return tuple(model.inputs[0].shape[1:]) if len(model.inputs) == 1 else ()


SAVED = (".keras", ".h5", ".hdf5")
"""Endings of files that hold a model; the last two are what Keras 2 wrote."""


def is_file(name: str) -> bool:
    """Whether a model's name is that of a file."""
    return name.lower().endswith(SAVED)


def load(path: str):
    """Loads a `.keras` or `.h5` file in safe mode: no code from the file is run.

    Raises:
        ValueError: The file is missing, damaged, or holds Lambda layers, or custom
            ones that are not of this house.
    """
    if not os.path.isfile(path):
        raise ValueError(
            f"`model` must be a .keras or .h5 file that exists. Received: {path!r}."
        )
    if not is_file(path):
        raise ValueError(
            f"`model` must be a file whose name ends in {', '.join(SAVED)}. "
            f"Received: {path!r}."
        )
    zipped = path.lower().endswith(".keras")
    if not (zipfile.is_zipfile(path) if zipped else _is_hdf5(path)):
        raise ValueError(
            f"`model` must be a whole .keras or .h5 file. Received: {path!r}, empty or "
            "damaged."
        )
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises many types for what a file can hold
        reason = " ".join(str(error).split())[:160]
        raise ValueError(
            f"`model` must hold stock Keras layers and be undamaged (safe mode is on: no "
            f"Lambda, no custom classes). Received: {path!r}, which says: {reason}"
        ) from error


def _is_hdf5(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


def _from_function(name, input_shape, outputs):
    function = options.imported("model", name, "function")
    try:
        inspect.signature(function).bind(input_shape, outputs)
    except TypeError as error:
        raise ValueError(
            f"`model` must name a function of (input_shape, outputs). Received: {name!r} "
            f"({error})."
        ) from error
    return function(input_shape, outputs)


def _checked(model, name, input_shape, outputs):
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"`model` must be a keras.Model. Received: {name!r} gives {type(model).__name__}."
        )
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ValueError(
            f"`model` must have one input and one output here. Received: {name!r} with "
            f"{len(model.inputs)} and {len(model.outputs)}."
        )
    expected, received = input_shape_of(model), tuple(input_shape)
    fits = len(expected) == len(received) and all(
        a is None or a == b for a, b in zip(expected, received, strict=True)
    )
    if not fits:
        raise ValueError(
            f"`model` must take samples of the data's shape {received}. "
            f"Received: {name!r}, made for {tuple(expected)}."
        )
    for layer in model.layers:
        if isinstance(layer, keras.layers.Lambda):
            raise ValueError(
                f"`model` must not hold Lambda layers, they cannot be saved safely. "
                f"Received: {name!r} with {layer.name!r}."
            )
    return model
