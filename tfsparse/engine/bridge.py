"""A network as tensorflow-model-optimization takes it, and its weights back again.

That library knows models of tf_keras alone, and importing it changes what `tf.keras` is in
its whole process: this module is imported by a child process only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

from tfsparse.children import process
from tfsparse.deploy import probe
from tfsparse.graph import trace

ALIKE = (
    "Add", "AveragePooling2D", "BatchNormalization", "Concatenate", "Conv2D", "Dense",
    "DepthwiseConv2D", "Flatten", "GlobalAveragePooling2D", "GlobalMaxPooling2D",
    "MaxPooling2D", "ReLU", "Reshape", "ZeroPadding2D",
)  # fmt: skip
"""Layers that are the same in tf_keras."""

FLAT = {
    "AveragePooling1D": "AveragePooling2D",
    "Conv1D": "Conv2D",
    "DepthwiseConv1D": "DepthwiseConv2D",
    "MaxPooling1D": "MaxPooling2D",
    "ZeroPadding1D": "ZeroPadding2D",
}
"""Layers of series, which the library does not know, as layers of pictures of one row."""

ACTIVATIONS = ("linear", "relu", "softmax", "sigmoid", "tanh")
"""Activations that it knows inside a layer."""

KERNELS = ("Conv2D", "Dense", "DepthwiseConv2D")

ROUNDING = 1e-4
"""Largest difference of outputs, relative to the largest, that is rounding."""


class Carried(tf_keras.layers.Layer):
    """A layer or operation of Keras 3 inside a model of tf_keras.

    Args:
        key: Of the function in `CALLS`, which Python alone holds.
    """

    CALLS: ClassVar[dict[int, Callable]] = {}

    def __init__(self, key: int, **kwargs):
        super().__init__(**kwargs)
        self.key = key

    def call(self, inputs, training=None):
        """What the function makes of the inputs."""
        return self.CALLS[self.key](tf.nest.flatten(inputs), training)

    def get_config(self):
        return {**super().get_config(), "key": self.key}


class Rebuilt:
    """A Keras 3 network in tf_keras.

    Args:
        model: A built network of any layers.

    Attributes:
        kept: Variables of layers of Keras 3 inside it, seeds among them.
        model: Of tf_keras; it computes the same.
        pairs: Layer of Keras 3, and the name of what stands for it.
        carried: Layers with weights that train as they are, without quantisation.
    """

    def __init__(self, model):
        self.graph = trace.read(model)
        self.pairs: list[tuple[Any, str]] = []
        self.carried: list[Any] = []
        self.kept: list[Any] = []
        self._wide: dict[Any, Any] = {}
        self._values: dict[Any, Any] = {}
        self._annotated: set[str] = set()
        names = [call.operation.name for call in self.graph.calls]
        self._once = {name for name in names if names.count(name) == 1}
        inputs = []
        for tensor in self.graph.inputs:
            new = tf_keras.Input(shape=tensor.shape[1:], dtype=tensor.dtype)
            self._values[tensor] = new
            inputs.append(new)
        for call in self.graph.calls:
            self._add(call)
        outputs = [self._plain(tensor) for tensor in self.graph.outputs]
        self.model = tf_keras.Model(inputs, outputs, name=model.name)
        for layer, name in self.pairs:
            own = [keras.ops.convert_to_numpy(v) for v in _weights(layer)]
            self.model.get_layer(name).set_weights(_reshaped(own, self.model, name))

    def _add(self, call: trace.Call) -> None:
        """Adds what stands for a call."""
        layer, kind = call.operation, type(call.operation).__name__
        stock = type(layer).__module__.startswith("keras.")
        series = kind in FLAT
        alike = kind in ALIKE or series or (kind == "Activation" and _known(layer))
        free = layer.trainable if getattr(layer, "weights", []) else True
        once = stock and alike and layer.name in self._once
        if not (once and free) or _special(layer):
            self._carry(call)
            return
        config, after = _config(layer, kind)
        wide = series or (
            any(t in self._wide for t in call.inputs) and kind in POINTWISE
        )
        if series:
            config = _flat(config, kind)
        made = getattr(tf_keras.layers, FLAT.get(kind, kind)).from_config(config)
        sources = [self._as_wide(t) if wide else self._plain(t) for t in call.inputs]
        value = made(sources[0] if len(sources) == 1 else sources)
        if made.weights:
            self.pairs.append((layer, made.name))
        if _supported(made) or self._follows(call, made):
            self._annotated.add(made.name)
        if after is not None:
            value = self._called(lambda x, _, f=after: f(x[0]), [value])
        (self._wide if wide else self._values)[call.outputs[0]] = value

    def _follows(self, call: trace.Call, made) -> bool:
        """Whether a BatchNormalization stands right behind a convolution."""
        if not isinstance(made, tf_keras.layers.BatchNormalization):
            return False
        writer = self.graph.writers.get(call.inputs[0])
        if writer is None or len(self.graph.readers[call.inputs[0]]) > 1:
            return False
        kind = type(writer.operation).__name__
        return FLAT.get(kind, kind) in KERNELS and writer.operation not in self.carried

    def _carry(self, call: trace.Call) -> None:
        """Adds a call of the layer of Keras 3 itself."""
        layer = call.operation
        if getattr(layer, "trainable_variables", []) and layer not in self.carried:
            self.carried.append(layer)
        self.kept += [
            v
            for v in getattr(layer, "variables", [])
            if not any(v is k for k in self.kept)
        ]
        told = trace.takes_training(layer)

        def run(inputs, training):
            args, kwargs = call.fill(inputs)
            if told:
                kwargs = {**kwargs, "training": bool(training)}
            return layer(*args, **kwargs)

        found = self._called(run, [self._plain(t) for t in call.inputs])
        for tensor, value in zip(call.outputs, tf.nest.flatten(found), strict=True):
            self._values[tensor] = value

    def _called(self, function, inputs):
        key = len(Carried.CALLS)
        Carried.CALLS[key] = function
        return Carried(key, name=f"carried_{key}")(
            inputs[0] if len(inputs) == 1 else inputs
        )

    def _as_wide(self, tensor):
        """A series as a picture of one row."""
        if tensor not in self._wide:
            value = self._values[tensor]
            self._wide[tensor] = self._called(
                lambda x, _: tf.expand_dims(x[0], 1), [value]
            )
        return self._wide[tensor]

    def _plain(self, tensor):
        if tensor not in self._values:
            self._values[tensor] = self._called(
                lambda x, _: tf.squeeze(x[0], 1), [self._wide[tensor]]
            )
        return self._values[tensor]

    def aware(self):
        """The network as it will be after quantisation, to be trained.

        Raises:
            ValueError: The library refuses it, or nothing of it is quantised.
        """
        if not any(self._quantised(name) for name in self._annotated):
            raise ValueError(
                "`quantise=qat` must find layers that it knows: "
                f"{', '.join(KERNELS)}, each called once. Received: none of them; "
                "--quantise=int8 quantises any network, after training."
            )

        def annotated(layer):
            if layer.name not in self._annotated:
                return layer.__class__.from_config(layer.get_config())
            copy = layer.__class__.from_config(layer.get_config())
            return tfmot.quantization.keras.quantize_annotate_layer(copy)

        try:
            with tf_keras.utils.custom_object_scope({"Carried": Carried}):
                copy = tf_keras.models.clone_model(self.model, clone_function=annotated)
                copy.set_weights(self.model.get_weights())
                return tfmot.quantization.keras.quantize_apply(copy)
        except Exception as error:  # whatever the library raises
            said = " ".join(str(error).split())[:200]
            raise ValueError(
                "`quantise=qat` must be a network that tensorflow-model-optimization takes. "
                f"Received: {self.model.name!r}, of which it says: {said} --quantise=int8 "
                "quantises any network, after training."
            ) from error

    def _quantised(self, name: str) -> bool:
        return type(self.model.get_layer(name)).__name__ in KERNELS

    def difference(self, rng: np.random.Generator) -> float:
        """The largest difference to the network itself, over 1 + the largest output."""
        x = probe.random_inputs(self.graph, rng, 4)
        ours = keras.tree.flatten(
            self.graph.model(trace.packed(self.graph.model, x), training=False)
        )
        theirs = tf.nest.flatten(self.model(x if len(x) > 1 else x[0], training=False))
        return max(
            float(np.abs(np.asarray(a) - np.asarray(b)).max() / (1 + np.abs(a).max()))
            for a, b in zip(ours, theirs, strict=True)
        )

    def check(self, rng: np.random.Generator) -> float:
        """The difference to the network itself.

        Raises:
            ValueError: It is more than rounding.
        """
        found = self.difference(rng)
        if not found <= ROUNDING:
            raise ValueError(
                "`quantise=qat` must train the network that it was given. Received: one that "
                f"differs by {found:.2g} in tf_keras. --quantise=int8 needs no copy."
            )
        return found

    def kernels(self, trained) -> list[tuple[Any, Any]]:
        """Kernels of Keras 3, and the variables of a trained network that stand for them."""
        return [
            (old, new)
            for layer, name in self.pairs
            for old, new in zip(
                _weights(layer), self.weights_of(trained, name), strict=True
            )
            if "kernel" in old.name
        ]

    def weights_of(self, trained, name: str):
        """The variables that stand for a layer's, in the network to be trained."""
        for layer in trained.layers:
            inner = getattr(layer, "layer", layer)
            if inner.name == name:
                wanted = {v.name for v in self.model.get_layer(name).weights}
                found = [v for v in layer.weights if v.name in wanted]
                order = [v.name for v in self.model.get_layer(name).weights]
                return sorted(found, key=lambda v: order.index(v.name))
        raise KeyError(name)

    def bring_back(self, trained) -> None:
        """Puts trained weights into the network of Keras 3."""
        for layer, name in self.pairs:
            pairs = zip(_weights(layer), self.weights_of(trained, name), strict=True)
            for old, new in pairs:
                old.assign(np.reshape(new.numpy(), old.shape))


POINTWISE = ("Activation", "Add", "BatchNormalization", "Concatenate", "ReLU")
"""Layers that take a series as well as a picture of one row."""


def _supported(layer) -> bool:
    registry = tfmot.quantization.keras.default_8bit.Default8BitQuantizeRegistry()
    return registry.supports(layer)


def _weights(layer):
    return [v for v in layer.weights if "seed_generator" not in v.path]


def _known(layer) -> bool:
    return keras.activations.serialize(layer.activation) in ACTIVATIONS


def _special(layer) -> bool:
    """Whether a layer has something that the one of tf_keras has not."""
    if getattr(layer, "lora_rank", None) or getattr(layer, "quantization_mode", None):
        return True
    axis = getattr(layer, "axis", -1)
    if type(layer).__name__ == "Concatenate":
        return axis not in (-1, len(layer.output.shape) - 1)
    if type(layer).__name__ == "BatchNormalization":
        return axis not in (-1, len(layer.output.shape) - 1)
    causal = getattr(layer, "padding", None) == "causal"
    return causal or getattr(layer, "data_format", None) == "channels_first"


WANTED = (
    "name", "filters", "kernel_size", "strides", "padding", "dilation_rate", "groups",
    "use_bias", "units", "depth_multiplier", "pool_size", "target_shape", "epsilon",
    "momentum", "center", "scale", "max_value", "negative_slope", "threshold", "keepdims",
)  # fmt: skip
"""What a config says in both."""


def _config(layer, kind: str) -> tuple[dict, Any]:
    """The config in tf_keras, and an activation that stands behind instead; None for none."""
    own = layer.get_config()
    config = {key: own[key] for key in WANTED if key in own}
    activation = getattr(layer, "activation", None)
    if activation is None:
        return config, None
    name = keras.activations.serialize(activation)
    if name in ACTIVATIONS:
        return {**config, "activation": name}, None
    return config, activation


def _flat(config: dict, kind: str) -> dict:
    """The config of a layer of series, for a picture of one row."""
    one = {"padding": 0} if kind == "ZeroPadding1D" else {}
    found = dict(config)
    for key in ("kernel_size", "strides", "dilation_rate", "pool_size"):
        if key in found:
            value = found[key]
            size = value[0] if isinstance(value, list | tuple) else value
            # Depthwise convolutions want equal strides; of one row either is the same.
            found[key] = (size if key in ("strides", "dilation_rate") else 1, size)
    if one:
        value = config["padding"]
        pair = (value, value) if isinstance(value, int) else tuple(value)
        found["padding"] = ((0, 0), pair)
    return found


def _reshaped(values: list[np.ndarray], model, name: str) -> list[np.ndarray]:
    """Weights in the shapes of their stand-ins."""
    shapes = [tuple(v.shape) for v in model.get_layer(name).weights]
    return [v.reshape(s) for v, s in zip(values, shapes, strict=True)]


def look(request: dict) -> dict:
    """Whether a network can be trained for int8.

    Args:
        request: `model`, where it is.

    Returns:
        `carried`, layers that train without quantisation; or `error`.
    """
    model = keras.saving.load_model(request["model"], compile=False, safe_mode=True)
    try:
        rebuilt = Rebuilt(model)
        rebuilt.check(np.random.default_rng(0))
        rebuilt.aware()
    except ValueError as error:
        return {"error": str(error)}
    return {"carried": [layer.name for layer in rebuilt.carried]}


if __name__ == "__main__":
    process.serve(look)
