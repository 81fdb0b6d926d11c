"""Every layer of keras.layers, operation of keras.ops, and nets: what works, what is said.

    python benchmarks/every_layer.py            # rows that are missing
    python benchmarks/every_layer.py --table    # the table of what is there
    python benchmarks/every_layer.py --name Conv2D

Ten whole networks, as people build them, and for each layer and operation a small one: a
layer in front that writes six units (or the layer itself at the input, where it takes
pictures or whole numbers), the layer, and two Dense behind. Each is read, half of its units
are stripped, what is left goes to int8 and to TensorFlow Lite Micro, and two epochs are
trained under each method. A cell says *works*, or what a user reads before training begins;
anything else, a traceback, a process that ended, an error after training began, is a fault
and says so. Writes benchmarks/results/every_layer.json, each row as it is done; a run that
was stopped goes on.
"""

from __future__ import annotations

import inspect
import os
import pathlib
import re
import sys
import tempfile
import threading
import warnings

import jobs

from tfsparse.children import process

RESULTS = pathlib.Path(__file__).parent / "results" / "every_layer.json"

METHODS = {
    "shrinknets": {},
    "gsparsity": {},
    "sparse_vd": {"pretrain_epochs": 1, "warm_up_epochs": 1},
    "bayesian_compression": {"pretrain_epochs": 1, "warm_up_epochs": 1},
    "bayesnas_compression": {"loop_epochs": 1},
}
"""Method -> what two epochs need."""

WORKS = "works"
FAULT = "FAULT"
COLUMNS = ("read", "units", "stripped", "int8", "microcontroller", *METHODS)
KEYS = ("kind", "name")
SAMPLES = 24
CHILD = "TFSPARSE_EVERY_LAYER_CHILD"
SECONDS = 600.0
WEAK = 1e-6
"""So little that nothing dies in two epochs of noise."""

ALIASES = {
    "AvgPool": "AveragePooling",
    "Convolution": "Conv",
    "GlobalAvgPool": "GlobalAveragePooling",
    "GlobalMaxPool": "GlobalMaxPooling",
    "MaxPool": "MaxPooling",
    "SeparableConvolution": "SeparableConv",
}
"""Other names of the same class are no rows of their own."""


def names_of(kind: str) -> list[str]:
    """Public names, each class or function once."""
    import keras

    if kind == "model":
        return list(MODELS)
    room = keras.layers if kind == "layer" else keras.ops
    found: dict[int, str] = {}
    for name in sorted(dir(room), key=lambda n: (any(map(n.startswith, ALIASES)), n)):
        one = getattr(room, name)
        layer = inspect.isclass(one) and issubclass(one, keras.layers.Layer)
        if not name.startswith("_") and (layer if kind == "layer" else callable(one)):
            found.setdefault(id(one), name)
    return sorted(found.values())


def wanted() -> list[dict]:
    """Every row."""
    return [
        {"kind": kind, "name": name}
        for kind in ("model", "layer", "op")
        for name in names_of(kind)
    ]


# --- recipes ----------------------------------------------------------------------------

NO_NETWORK = {
    "Layer": "the base class of layers",
    "Wrapper": "the base class of wrappers",
    "InputLayer": "an input",
    "FlaxLayer": "needs JAX",
    "JaxLayer": "needs JAX",
    "TFSMLayer": "holds a SavedModel, whose graph cannot be read",
    "TorchModuleWrapper": "needs PyTorch",
    "Pipeline": "holds preprocessing, used in front of a model",
    "StringLookup": "takes strings, which no microcontroller file does",
    "TextVectorization": "takes strings, which no microcontroller file does",
    "HashedCrossing": "takes several strings or whole numbers and gives no differentiable "
    "output; used in front of a model",
    "MaxNumBoundingBoxes": "takes boxes beside pictures, in front of a model",
    "GRUCell": "one step of an RNN",
    "LSTMCell": "one step of an RNN",
    "SimpleRNNCell": "one step of an RNN",
    "StackedRNNCells": "one step of an RNN",
    "MixUp": "takes labels beside pictures, in front of a model",
    "CutMix": "takes labels beside pictures, in front of a model",
}


def layer_recipes() -> dict:
    """Layer name -> (kind of data, where it stands, maker of the output)."""
    from keras import layers as L
    from keras import ops as O

    def two(cls, **arguments):
        return lambda h: cls(**arguments)([h, L.Conv1D(6, 1, name="other")(h)])

    found: dict = {
        "Activation": ("series", "middle", lambda x: L.Activation("relu")(x)),
        "Bidirectional": ("series", "middle", lambda h: L.Bidirectional(L.LSTM(5))(h)),
        "CategoryEncoding": ("tokens", "front", lambda x: L.CategoryEncoding(10, "multi_hot")(x)),
        "CenterCrop": ("image", "middle", lambda x: L.CenterCrop(8, 8)(x)),
        "Dense": ("vector", "middle", lambda x: L.Dense(7, activation="relu")(x)),
        "Discretization": ("vector", "front", lambda x: L.Discretization([0.0, 1.0])(x)),
        "EinsumDense": ("series", "middle", lambda x: L.EinsumDense("abc,cd->abd", (None, 7))(x)),
        "Embedding": ("tokens", "front", lambda x: L.Embedding(10, 6)(x)),
        "GroupNormalization": ("image", "middle", lambda x: L.GroupNormalization(3)(x)),
        "GroupQueryAttention": (
            "series", "middle", lambda h: L.GroupQueryAttention(4, 4, 2)(h, h)),
        "Hashing": ("tokens", "front", lambda x: L.Hashing(10)(x)),
        "IntegerLookup": (
            "tokens", "front", lambda x: L.IntegerLookup(vocabulary=list(range(10)))(x)),
        "Lambda": ("series", "middle", lambda x: L.Lambda(lambda x: x * 2.0)(x)),
        "Masking": ("series", "front", lambda x: L.LSTM(6)(L.Masking()(x))),
        "MelSpectrogram": ("sound", "front", lambda x: L.Rescaling(0.02)(
            L.MelSpectrogram(num_mel_bins=16, fft_length=64, sequence_stride=32,
                             sampling_rate=4000)(x))),
        "STFTSpectrogram": ("sound", "front", lambda x: L.STFTSpectrogram(
            frame_length=32, frame_step=16, fft_length=32)(O.expand_dims(x, -1))),
        "MultiHeadAttention": ("series", "middle", lambda h: L.MultiHeadAttention(2, 4)(h, h)),
        "Normalization": ("vector", "front", lambda x: L.Normalization(
            mean=[1.0] * 10, variance=[2.0] * 10)(x)),
        "Permute": ("series", "middle", lambda x: L.Permute((2, 1))(x)),
        "RNN": ("series", "middle", lambda h: L.RNN([L.LSTMCell(4), L.GRUCell(5)])(h)),
        "RepeatVector": ("vector", "middle", lambda x: L.RepeatVector(3)(x)),
        "Reshape": ("series", "middle", lambda x: L.Reshape((4, 24))(x)),
        "ReversibleEmbedding": ("tokens", "front", lambda x: L.ReversibleEmbedding(10, 6)(x)),
        "RandomCrop": ("image", "front", lambda x: L.RandomCrop(8, 8)(x)),
        "Resizing": ("image", "middle", lambda x: L.Resizing(6, 6)(x)),
        "Rescaling": ("series", "middle", lambda x: L.Rescaling(0.5)(x)),
        "SpectralNormalization": (
            "image", "middle", lambda h: L.SpectralNormalization(L.Conv2D(5, 3))(h)),
        "TimeDistributed": ("image", "middle", lambda h: L.TimeDistributed(L.Conv1D(5, 3))(h)),
        "UnitNormalization": ("series", "middle", lambda x: L.UnitNormalization()(x)),
        "Attention": ("series", "middle", lambda h: L.Attention()([h, h])),
        "AdditiveAttention": ("series", "middle", lambda h: L.AdditiveAttention()([h, h])),
        "Dot": ("series", "middle", two(L.Dot, axes=2)),
        "Concatenate": ("series", "middle", two(L.Concatenate)),
    }  # fmt: skip
    for name in ("Add", "Average", "Maximum", "Minimum", "Multiply", "Subtract"):
        found[name] = ("series", "middle", two(getattr(L, name)))
    ranks = {"1D": "series", "2D": "image", "3D": "volume"}
    defaults = {
        "filters": 5, "kernel_size": 3, "output_size": 2, "pool_size": 2, "rate": 0.2,
        "stddev": 0.1, "units": 5, "factor": 0.2, "height_factor": 0.1, "width_factor": 0.1,
    }  # fmt: skip
    for name in names_of("layer"):
        if name in found or name in NO_NETWORK:
            continue
        cls = getattr(L, name)
        parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
        needed = [p.name for p in parameters if p.default is p.empty and p.kind < 2]
        arguments = {need: defaults[need] for need in needed}
        kind = ranks.get(name[-2:], "series")
        place = "middle"
        if name.startswith(
            ("Random", "Aug", "Auto", "Contrast", "Equal", "Rand", "Solar")
        ):
            kind, place = "image", "front"
        if any(p.name == "value_range" for p in parameters):
            arguments["value_range"] = (0, 1)
        if name.startswith("ConvLSTM"):
            kind = {"1": "image", "2": "volume"}.get(name[-2], "films")
        if name.startswith("Random") and "factor" in needed and not arguments:
            arguments["factor"] = 0.2
        found[name] = (kind, place, lambda x, c=cls, a=arguments: c(**a)(x))
    return found


def op_recipes() -> dict:
    """Operation name -> function of a series of six units; the rest are called as they are."""
    import numpy as np
    from keras import ops as O

    def image(function):
        return ("image", "middle", function)

    found = {
        "argpartition": lambda h: O.argpartition(h, 2),
        "average": lambda h: O.average(h, axis=1),
        "adaptive_average_pool": image(lambda h: O.adaptive_average_pool(h, 2)),
        "adaptive_max_pool": image(lambda h: O.adaptive_max_pool(h, 2)),
        "append": lambda h: O.append(h, h, axis=-1),
        "array_split": lambda h: O.array_split(h, 2, axis=1)[0],
        "average_pool": image(lambda h: O.average_pool(h, 2)),
        "max_pool": image(lambda h: O.max_pool(h, 2)),
        "batch_normalization": lambda h: O.batch_normalization(
            h, np.zeros(6, "float32"), np.ones(6, "float32"), -1),
        "broadcast_to": lambda h: O.broadcast_to(O.mean(h, 1, keepdims=True)[:, :, :1], (1, 16, 6)),
        "cast": lambda h: O.cast(h, "float32"),
        "saturate_cast": lambda h: O.saturate_cast(h, "float32"),
        "clip": lambda h: O.clip(h, -1.0, 1.0),
        "concatenate": lambda h: O.concatenate([h, h], axis=-1),
        "conv": image(lambda h: O.conv(h, np.ones((3, 3, 6, 4), "float32") / 9)),
        "conv_transpose": image(
            lambda h: O.conv_transpose(h, np.ones((3, 3, 4, 6), "float32") / 9)),
        "depthwise_conv": image(
            lambda h: O.depthwise_conv(h, np.ones((3, 3, 6, 1), "float32") / 9)),
        "separable_conv": image(lambda h: O.separable_conv(
            h, np.ones((3, 3, 6, 1), "float32"), np.ones((1, 1, 6, 4), "float32"))),
        "cross": lambda h: O.cross(h[:, :, :3], h[:, :, 3:]),
        "cumprod": lambda h: O.cumprod(h, axis=1),
        "cumsum": lambda h: O.cumsum(h, axis=1),
        "depth_to_space": image(lambda h: O.depth_to_space(h[..., :4], 2)),
        "space_to_depth": image(lambda h: O.space_to_depth(h, 2)),
        "diff": lambda h: O.diff(h, axis=1),
        "digitize": lambda h: O.digitize(h, np.array([0.0, 1.0])),
        "dot_product_attention": lambda h: O.dot_product_attention(
            *[O.expand_dims(h, 2)] * 3),
        "einsum": lambda h: O.einsum("abc,cd->abd", h, np.ones((6, 4), "float32")),
        "expand_dims": lambda h: O.expand_dims(h, -1),
        "extract_sequences": lambda h: O.extract_sequences(h, 3, 1),
        "flip": lambda h: O.flip(h, axis=1),
        "fold": None,
        "full_like": lambda h: O.full_like(h, 2.0) * h,
        "get_item": lambda h: h[:, 2:, 1:5],
        "glu": lambda h: O.glu(h),
        "hstack": lambda h: O.hstack([h, h]),
        "dstack": lambda h: O.dstack([h, h]),
        "vstack": lambda h: O.vstack([h, h]),
        "isin": lambda h: O.isin(h, np.array([0.0])),
        "kaiser": None,
        "map": None,
        "matmul": lambda h: O.matmul(h, np.ones((6, 4), "float32")),
        "moments": lambda h: O.moments(h, axes=1)[0],
        "moveaxis": lambda h: O.moveaxis(h, 1, 2),
        "multi_hot": lambda h: O.multi_hot(O.cast(O.argmax(h, -1), "int32"), num_classes=6),
        "one_hot": lambda h: O.one_hot(O.argmax(h, -1), 6),
        "pad": lambda h: O.pad(h, [[0, 0], [1, 1], [0, 0]]),
        "percentile": lambda h: O.percentile(h, 50.0, axis=1),
        "quantile": lambda h: O.quantile(h, 0.5, axis=1),
        "nanpercentile": lambda h: O.nanpercentile(h, 50.0, axis=1),
        "nanquantile": lambda h: O.nanquantile(h, 0.5, axis=1),
        "repeat": lambda h: O.repeat(h, 2, axis=1),
        "reshape": lambda h: O.reshape(h, (-1, 8, 12)),
        "rearrange": lambda h: O.rearrange(h, "a b c -> a c b"),
        "roll": lambda h: O.roll(h, 1, axis=1),
        "rot90": lambda h: O.rot90(h, axes=(1, 2)),
        "select": lambda h: O.select([h > 0], [h]),
        "slice": lambda h: O.slice(h, (0, 0, 0), (1, 4, 6)),
        "slice_update": lambda h: O.slice_update(h, (0, 0, 0), h * 0.5),
        "scatter_update": None,
        "split": lambda h: O.split(h, 2, axis=-1)[0],
        "squeeze": lambda h: O.squeeze(O.expand_dims(h, -1), -1),
        "stack": lambda h: O.stack([h, h], axis=-1),
        "swapaxes": lambda h: O.swapaxes(h, 1, 2),
        "take": lambda h: O.take(h, [0, 2, 4], axis=-1),
        "take_along_axis": lambda h: O.take_along_axis(h, O.argsort(h, axis=1), axis=1),
        "tensordot": lambda h: O.tensordot(h, np.ones((6, 4), "float32"), axes=1),
        "dot": lambda h: O.dot(h, np.ones((6, 4), "float32")),
        "inner": lambda h: O.inner(h, np.ones((4, 6), "float32")),
        "threshold": lambda h: O.threshold(h, 0.0, 0.0),
        "tile": lambda h: O.tile(h, (1, 2, 1)),
        "top_k": lambda h: O.top_k(h, 3)[0],
        "trapezoid": lambda h: O.trapezoid(h, axis=1),
        "transpose": lambda h: O.transpose(h, (0, 2, 1)),
        "unfold": image(lambda h: O.unfold(O.transpose(h, (0, 3, 1, 2)), 3)),
        "unstack": lambda h: O.unstack(h, axis=1)[0],
        "vectorized_map": None,
        "view": None,
        "where": lambda h: O.where(h > 0, h, 0.1 * h),
        "cdist": lambda h: O.cdist(h, h + 1.0),
        "psnr": None,
        "polar": lambda h: O.abs(O.polar(O.relu(h), h)),
        "stft": ("sound", "front", lambda x: O.stft(x, 32, 16, 32)[0]),
        "istft": None,
        "segment_max": None,
        "segment_min": None,
        "segment_prod": None,
        "segment_sum": None,
        "hsplit": lambda h: O.hsplit(h, 2)[0],
        "vsplit": None,
        "dsplit": lambda h: O.dsplit(h, 2)[0],
        "norm": lambda h: O.norm(h, axis=-1),
        "normalize": lambda h: O.normalize(h, axis=-1),
        "stop_gradient": lambda h: O.stop_gradient(h),
        "searchsorted": None,
        "in_top_k": None,
        "solve_triangular": None,
        "lstsq": None,
        "solve": None,
        "array": None,
        "bincount": None,
        "logical_not": lambda h: O.logical_not(h > 0),
        "meshgrid": None,
    }  # fmt: skip
    for name in ("gcd", "lcm", "bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_left_shift",
                 "bitwise_right_shift", "left_shift", "right_shift"):  # fmt: skip
        found[name] = lambda h, n=name: getattr(O, n)(
            O.cast(h, "int32"), O.cast(O.ones_like(h), "int32")
        )
    for name in ("bitwise_invert", "bitwise_not"):
        found[name] = lambda h, n=name: getattr(O, n)(O.cast(h, "int32"))
    for name in ("logical_and", "logical_or", "logical_xor"):
        found[name] = lambda h, n=name: getattr(O, n)(h > 0, h > 1)
    for name in ("all", "any"):
        found[name] = lambda h, n=name: getattr(O, n)(h > 0, axis=1)
    for name in ("fft", "fft2", "ifft2", "irfft"):
        found[name] = lambda h, n=name: getattr(O, n)((h, O.zeros_like(h)))
    return found


def op_recipe(name: str):
    """(kind, place, function), or None where the operation makes no part of a network."""
    from keras import ops as O

    recipes = op_recipes()
    if name in recipes:
        made = recipes[name]
        if made is None or isinstance(made, tuple):
            return made
        return "series", "middle", made
    function = getattr(O, name)
    parameters = list(inspect.signature(function).parameters.values())
    needed = [p.name for p in parameters if p.default is p.empty and p.kind < 3]
    axis = {"axis": 1} if any(p.name == "axis" for p in parameters) else {}
    if needed == ["x"]:
        if name in ("arccos", "arcsin", "arctanh", "erfinv"):
            return "series", "middle", lambda h: function(0.9 * O.tanh(h))
        if name == "arccosh":
            return "series", "middle", lambda h: function(1.5 + O.relu(h))
        if name in ("prod", "nanprod"):  # of sixteen positions it runs away
            return "series", "middle", lambda h: function(O.tanh(h), axis=1)
        positive = name in (
            "log",
            "log2",
            "log10",
            "log1p",
            "sqrt",
            "rsqrt",
            "reciprocal",
        )
        if positive:
            return "series", "middle", lambda h: function(O.exp(h))
        if name in ("softmax", "log_softmax", "sparsemax", "logsumexp"):
            return "series", "middle", lambda h: function(h, axis=-1)
        return "series", "middle", lambda h: function(h, **axis)
    if name == "power":
        return "series", "middle", lambda h: function(1.0 + O.relu(h), 2.0 + h)
    if needed in (["x1", "x2"], ["x", "y"]):
        return "series", "middle", lambda h: function(h, 1.5 + O.relu(h))
    return None


SHAPES = {
    "vector": (10,),
    "series": (16, 5),
    "image": (12, 12, 3),
    "volume": (6, 6, 6, 2),
    "films": (3, 5, 5, 5, 2),
    "sound": (256,),
    "tokens": (8,),
}


def _compiled(model, *losses):
    import keras

    found = {
        "classes": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "pair": keras.losses.BinaryCrossentropy(from_logits=True),
        "numbers": "mse",
    }
    chosen = [found[loss] for loss in losses]
    model.compile(
        keras.optimizers.Adam(1e-3),
        chosen if len(chosen) > 1 else chosen[0],
        run_eagerly=True,
    )
    return model


def _noise(*shape):
    import numpy as np

    return np.random.default_rng(0).uniform(size=(SAMPLES, *shape)).astype("float32")


def _classes():
    import numpy as np

    return (np.arange(SAMPLES) % 3).astype("int32")


def _application(name: str, **arguments):
    import keras

    model = getattr(keras.applications, name)(
        input_shape=(96, 96, 3), weights=None, classes=3, classifier_activation=None,
        **arguments,
    )  # fmt: skip
    return _compiled(model, "classes"), _noise(96, 96, 3), _classes()


def _recurrent(name: str):
    import keras
    from keras import layers as L

    layer = getattr(L, name)
    model = keras.Sequential(
        [keras.Input((16, 5)), layer(12, return_sequences=True), layer(8), L.Dense(8),
         L.ReLU(), L.Dense(3)]
    )  # fmt: skip
    return _compiled(model, "classes"), _noise(16, 5), _classes()


def _tcn():
    import keras
    from keras import layers as L

    x = entry = keras.Input((32, 4))
    x = L.Conv1D(8, 1)(x)
    for rate in (1, 2, 4):
        h = L.Conv1D(8, 3, padding="causal", dilation_rate=rate, activation="relu")(x)
        h = L.SpatialDropout1D(0.1)(h)
        x = L.Add()([x, L.Conv1D(8, 3, padding="causal", dilation_rate=rate)(h)])
    model = keras.Model(entry, L.Dense(3)(x[:, -1]))
    return _compiled(model, "classes"), _noise(32, 4), _classes()


def _unet():
    import keras
    import numpy as np
    from keras import layers as L

    def block(x, filters):
        for _ in range(2):
            x = L.Conv2D(filters, 3, padding="same", use_bias=False)(x)
            x = L.ReLU()(L.BatchNormalization()(x))
        return x

    entry = keras.Input((16, 16, 1))
    first = block(entry, 6)
    second = block(L.MaxPooling2D()(first), 8)
    x = block(L.MaxPooling2D()(second), 12)
    for skip, filters in ((second, 8), (first, 6)):
        x = L.Conv2DTranspose(filters, 2, strides=2)(x)
        x = block(L.Concatenate()([x, skip]), filters)
    model = keras.Model(entry, L.Conv2D(3, 1)(x))
    y = np.random.default_rng(0).integers(0, 3, (SAMPLES, 16, 16))
    return _compiled(model, "classes"), _noise(16, 16, 1), y


def _siamese():
    import keras
    import numpy as np
    from keras import layers as L

    encoder = keras.Sequential(
        [keras.Input((12, 12, 1)), L.Conv2D(6, 3, activation="relu"), L.Flatten(),
         L.Dense(8)], name="encoder"
    )  # fmt: skip
    a, b = keras.Input((12, 12, 1), name="a"), keras.Input((12, 12, 1), name="b")
    apart = L.Subtract()([encoder(a), encoder(b)])
    model = keras.Model([a, b], L.Dense(1)(keras.ops.abs(apart)))
    y = (np.arange(SAMPLES) % 2).astype("float32")
    return _compiled(model, "pair"), [_noise(12, 12, 1), _noise(12, 12, 1)[::-1]], y


def _detector():
    import keras
    from keras import layers as L

    x = entry = keras.Input((16, 16, 3))
    for filters in (6, 8):
        x = L.Conv2D(filters, 3, strides=2, activation="relu")(x)
    x = L.Flatten()(x)
    kind = L.Dense(3, name="kind")(L.Dense(8, activation="relu")(x))
    box = L.Dense(4, name="box")(L.Dense(8, activation="relu")(x))
    model = keras.Model(entry, [kind, box])
    targets = [_classes(), _noise(4)]
    return _compiled(model, "classes", "numbers"), _noise(16, 16, 3), targets


def _words():
    import keras
    import numpy as np
    from keras import layers as L

    x = entry = keras.Input((12,), dtype="int32")
    x = L.Embedding(20, 8)(x)
    x = L.GlobalAveragePooling1D()(L.Conv1D(8, 3, activation="relu")(x))
    model = keras.Model(entry, L.Dense(3)(L.Dense(8, activation="relu")(x)))
    numbers = np.random.default_rng(0).integers(0, 20, (SAMPLES, 12)).astype("int32")
    return _compiled(model, "classes"), numbers, _classes()


MODELS = {
    "MobileNetV1 0.25, 96 x 96": lambda: _application("MobileNet", alpha=0.25),
    "MobileNetV2 0.35, 96 x 96": lambda: _application("MobileNetV2", alpha=0.35),
    "EfficientNetB0, 96 x 96": lambda: _application("EfficientNetB0"),
    "LSTM, two layers": lambda: _recurrent("LSTM"),
    "GRU, two layers": lambda: _recurrent("GRU"),
    "TCN": _tcn,
    "U-Net": _unet,
    "siamese pair": _siamese,
    "detector with two heads": _detector,
    "Embedding and Conv1D": _words,
}
"""Whole networks, as people build them."""


class NoNetwork(Exception):
    """It is no part of a network that treats sample by sample."""


def network(kind: str, name: str):
    """A network, or one that holds the layer or operation, compiled; inputs and targets."""
    import keras
    from keras import layers as L
    from keras import ops as O

    keras.utils.set_random_seed(0)
    if kind == "model":
        return MODELS[name]()
    if kind == "layer":
        if name in NO_NETWORK:
            raise NoNetwork(NO_NETWORK[name])
        data, place, make = layer_recipes()[name]
    else:
        recipe = op_recipe(name)
        if recipe is None:
            raise NoNetwork("it takes no tensor of a network alone, or makes none")
        data, place, make = recipe
    writers = {
        "vector": lambda x: L.Dense(6, activation="relu", name="writer")(x),
        "series": lambda x: L.Conv1D(6, 3, padding="same", name="writer")(x),
        "image": lambda x: L.Conv2D(6, 3, padding="same", name="writer")(x),
        "volume": lambda x: L.Conv3D(6, 3, padding="same", name="writer")(x),
        "films": lambda x: L.TimeDistributed(L.Conv3D(6, 3, padding="same"), name="writer")(x),
    }  # fmt: skip
    x = entry = keras.Input(
        SHAPES[data], dtype="int32" if data == "tokens" else "float32"
    )
    try:
        x = make(x if place == "front" else writers[data](x))
    except (TypeError, ValueError, AttributeError, NotImplementedError) as error:
        raise NoNetwork(f"Keras: {plain(error)[:90]}") from error
    x = keras.tree.flatten(x)[0]
    if not isinstance(x, keras.KerasTensor) or not x.shape or x.shape[0] is not None:
        raise NoNetwork("it puts out nothing sample by sample")
    if any(n is None for n in x.shape[1:]):
        raise NoNetwork("the size of its output is not known")
    if x.dtype == "string" or "complex" in x.dtype:
        raise NoNetwork(f"its output is {x.dtype}")
    if x.dtype != "float32":
        x = O.cast(x, "float32")
    if place == "front" and len(x.shape) == 4:
        x = L.Conv2D(6, 3, name="reader")(x)
    if len(x.shape) > 2:
        x = L.Flatten()(x)
    if len(x.shape) == 1:
        x = O.expand_dims(x, -1)
    x = L.Dense(6, activation="relu", name="behind")(x)
    model = keras.Model(entry, L.Dense(3, name="logits")(x))
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run_eagerly=True,  # two steps: tracing would cost more
    )
    return model, *samples(data)


def samples(data: str):
    """Inputs and labels of three classes."""
    import numpy as np

    rng = np.random.default_rng(0)
    shape = (SAMPLES, *SHAPES[data])
    x = rng.integers(0, 10, shape) if data == "tokens" else rng.uniform(size=shape)
    y = np.arange(SAMPLES) % 3
    return x.astype("int32" if data == "tokens" else "float32"), y.astype("int32")


# --- one row ----------------------------------------------------------------------------


def plain(error: Exception) -> str:
    """The words of an error on one line, without colours."""
    return re.sub("\x1b\\[[0-9]*m", "", " ".join(str(error).split()))


def said(error: Exception, begun: bool = False) -> str:
    """What a cell tells of an error."""
    from tfsparse import records

    words = plain(error)
    known = isinstance(error, ValueError | records.StripError | records.TrainingError)
    if begun:
        return f"{FAULT}: after training began: {words[:160]}"
    return words[:400] if known else f"{FAULT}: {type(error).__name__}: {words[:160]}"


def row_of(row: dict) -> dict:
    """All cells of one layer, operation or network."""
    import keras
    import numpy as np

    import tfsparse
    from tfsparse import gradients

    warnings.simplefilter("ignore")
    try:
        model, x, y = network(row["kind"], row["name"])
    except NoNetwork as error:
        return {**row, "no_network": str(error)}
    found: dict = {}
    few = keras.tree.map_structure(lambda part: part[:2], x)
    try:
        model(few, training=False)
        model(few, training=True)
        gradients.compiled(lambda part: model(part, training=False))(few)
        _differentiated(model, few)
    except Exception as error:
        words = plain(error)[:120]
        return {**row, "no_network": f"Keras cannot run it on TensorFlow: {words}"}
    try:
        groups = tfsparse.find_groups(model)
        found["read"] = WORKS
    except Exception as error:
        return {**row, "read": said(error)}
    first = groups[0] if groups else None
    found["units"] = "no units" if first is None else first.frozen or "pruned"
    keep = {
        g.name: np.arange(g.size) < max(1, g.size // 2) for g in groups if not g.frozen
    }
    small = model
    try:
        small = tfsparse.strip(model, keep)
        found["stripped"] = WORKS
    except Exception as error:
        found["stripped"] = said(error)
    found |= shipped(small, x)
    for name, arguments in METHODS.items():
        found[name] = trained(row, name, arguments)
    return {**row, **found}


def _differentiated(model, few) -> None:
    """Goes back through the network once, as every training does."""
    from keras import ops

    from tfsparse import gradients

    gradients.output_products(model, few, lambda outputs: ops.ones_like(outputs))


def shipped(small, x) -> dict:
    """The int8 file, and what runs it."""
    import keras

    import tfsparse

    with tempfile.TemporaryDirectory() as folder:
        try:
            made = tfsparse.export(small, folder, x, ("tflite_int8",))
            few = keras.tree.map_structure(lambda part: part[:4], x)
            rows = {row.artifact: row for row in tfsparse.verify(small, made, few)}
        except Exception as error:
            return {"int8": said(error), "microcontroller": "no int8 file"}
    note = rows["mcu"].note or ""
    return {"int8": WORKS, "microcontroller": note if "not run" in note else WORKS}


def trained(row: dict, name: str, arguments: dict) -> str:
    """Two epochs under a method."""
    import keras
    import numpy as np

    import tfsparse
    from tfsparse import methods

    class Begun(keras.callbacks.Callback):
        steps = 0

        def on_train_batch_end(self, batch, logs=None):
            Begun.steps += 1

    model, x, y = network(row["kind"], row["name"])
    wanted = [tuple(output.shape[1:]) for output in model.outputs]
    try:
        method = methods.METHODS[name](strength=WEAK, **arguments)
        small = tfsparse.fit_shrinking(
            model, method, x, y, epochs=2, shrink_epochs=2, batch_size=12, shuffle=False,
            callbacks=[Begun()],
        ).model  # fmt: skip
        outputs = [np.asarray(output) for output in keras.tree.flatten(small(x))]
    except Exception as error:
        return said(error, Begun.steps > 0)
    shapes = [output.shape[1:] for output in outputs]
    finite = all(np.isfinite(output).all() for output in outputs)
    return WORKS if shapes == wanted and finite else f"{FAULT}: puts out {shapes}"


# --- the program ------------------------------------------------------------------------

_LOCAL = threading.local()


def run(row: dict, count: int) -> dict:
    """A row, made in a process of its own that many rows share."""
    if not hasattr(_LOCAL, "child"):
        _LOCAL.child = process.Child("every_layer", {CHILD: "1"})
    try:
        reply = _LOCAL.child.ask(row, SECONDS)
    except process.ChildError as error:
        why = f"{FAULT}: the process ended: {error.why}"
        return {**row, "read": why, "error": why}
    if "kind" in reply and reply.get("kind") != row["kind"]:
        reply = {**row, "read": f"{FAULT}: {reply.get('error')}"}
    faults = [name for name in COLUMNS if FAULT in reply.get(name, "")]
    return {**reply, "error": f"{FAULT} of {', '.join(faults)}"} if faults else reply


def table(rows: list[dict]) -> list[str]:
    """What works, and what is said instead."""
    by_key = {(row["kind"], row["name"]): row for row in rows}
    lines: list[str] = []
    titles = {"model": "network", "layer": "keras.layers", "op": "keras.ops"}
    for kind, title in titles.items():
        own = [by_key[kind, name] for name in names_of(kind) if (kind, name) in by_key]
        whole = [row for row in own if "no_network" not in row]
        lines += [
            "", f"| {title} | units in front | strip | int8 | TFLM | "
            + " | ".join(METHODS) + " |",
            "|" + "---|" * (5 + len(METHODS)),
        ]  # fmt: skip
        notes: dict[str, int] = {}
        for row in whole:
            cells = [_cell(row.get(name, ""), notes) for name in COLUMNS[1:]]
            lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
        lines += ["", *(f"{number}. {text}" for text, number in notes.items())]
        rest = [row for row in own if "no_network" in row]
        if rest:
            lines += ["", f"No part of a network in {title}:", ""]
            lines += [f"- {row['name']}: {row['no_network']}" for row in rest]
    return lines


def _cell(text: str, notes: dict[str, int]) -> str:
    """A word, or the number of a sentence below."""
    if text in (WORKS, "pruned", "no units"):
        return text
    return f"({notes.setdefault(text, len(notes) + 1)})"


def main() -> int:
    """The program."""
    if "--name" in sys.argv:
        name = sys.argv[-1]
        kind = "layer" if name[0].isupper() else "op"
        for key, value in row_of({"kind": kind, "name": name}).items():
            print(f"{key}: {value}")
        return 0
    here = str(pathlib.Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [here, os.environ.get("PYTHONPATH", "")])
    )
    return jobs.program(__doc__, RESULTS, wanted, KEYS, run, table)


if __name__ == "__main__":
    if CHILD in os.environ:
        process.serve(row_of)
    else:
        sys.exit(main())
