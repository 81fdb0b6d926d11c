"""Draws random models from all layers that the rules know, for a property test.

A model is a list of steps on images or sequences; each step is chosen among those
that fit the shape at hand, so every draw is a valid model.
"""

from __future__ import annotations

import keras
from hypothesis import strategies as st
from keras import layers, ops

ACTIVATIONS = ("relu", "tanh", "sigmoid", "linear", "gelu")


def _conv(draw, x, pick):
    groups = draw(st.sampled_from([g for g in (1, 2, 3) if x.shape[-1] % g == 0]))
    return layers.Conv2D(
        groups * draw(st.integers(1, 4)),
        draw(st.sampled_from([1, 2, 3])),
        padding="same",
        groups=groups,
        use_bias=draw(st.booleans()),
        activation=draw(st.sampled_from(ACTIVATIONS)),
    )(x)


def _depthwise(draw, x, pick):
    return layers.DepthwiseConv2D(
        2, padding="same", depth_multiplier=draw(st.integers(1, 2)), activation="relu"
    )(x)


def _separable(draw, x, pick):
    return layers.SeparableConv2D(draw(st.integers(2, 6)), 2, padding="same")(x)


def _transposed(draw, x, pick):
    return layers.Conv2DTranspose(draw(st.integers(2, 6)), 2, padding="same")(x)


def _norm(draw, x, pick):
    channels = x.shape[-1]
    groups = [g for g in (2, 3, channels) if channels % g == 0]
    choices = [
        layers.BatchNormalization(),
        layers.PReLU(shared_axes=list(range(1, len(x.shape) - 1))),
        layers.UnitNormalization(),
        layers.RMSNormalization(epsilon=0.1),
        layers.LayerNormalization(),
        *(layers.GroupNormalization(g) for g in groups),
    ]
    return draw(st.sampled_from(choices))(x)


def _act(draw, x, pick):
    choices = [
        layers.ReLU(),
        layers.ELU(),
        layers.Activation("sigmoid"),
        layers.Dropout(0.3),
    ]
    return draw(st.sampled_from(choices))(x)


def _residual(draw, x, pick):
    y = pick(x)
    if y is None:
        return x
    merge = draw(
        st.sampled_from([layers.Add, layers.Multiply, layers.Maximum, layers.Average])
    )
    return merge()([x, y])


def _concat(draw, x, pick):
    y = pick(None)
    return layers.Concatenate()([x, y])


def _slice(draw, x, pick):
    channels = x.shape[-1]
    if channels < 3:
        return x
    start = draw(st.integers(0, channels - 2))
    stop = draw(st.integers(start + 1, channels))
    return x[..., start:stop]


def _split(draw, x, pick):
    if x.shape[-1] % 2:
        return ops.flip(x, axis=-1)
    left, right = ops.split(x, 2, axis=-1)
    return ops.concatenate([right, left * 2.0], axis=-1)


def _excite(draw, x, pick):
    pool = (
        layers.GlobalAveragePooling2D
        if len(x.shape) == 4
        else layers.GlobalMaxPooling1D
    )
    gate = layers.Dense(draw(st.integers(1, 4)), activation="relu")(
        pool(keepdims=True)(x)
    )
    return layers.Multiply()([x, layers.Dense(x.shape[-1], activation="sigmoid")(gate)])


def _dense(draw, x, pick):
    return layers.Dense(
        draw(st.integers(2, 7)), activation=draw(st.sampled_from(ACTIVATIONS))
    )(x)


def _shuffle(draw, x, pick):
    *rest, channels = x.shape[1:]
    if channels % 2:
        return x
    rank = len(rest)
    y = layers.Reshape((*rest, 2, channels // 2))(x)
    y = layers.Permute((*range(1, rank + 1), rank + 2, rank + 1))(y)
    return layers.Reshape((*rest, channels))(y)


def _recurrent(draw, x, pick):
    cell = draw(st.sampled_from([layers.LSTM, layers.GRU, layers.SimpleRNN]))
    layer = cell(draw(st.integers(2, 5)), return_sequences=True)
    if draw(st.booleans()):
        mode = draw(st.sampled_from(["concat", "sum", "mul"]))
        layer = layers.Bidirectional(layer, merge_mode=mode)
    return layer(x)


def _attention(draw, x, pick):
    heads, width = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    return layers.MultiHeadAttention(heads, width, value_dim=draw(st.integers(1, 3)))(
        x, x
    )


def _conv1d(draw, x, pick):
    return layers.Conv1D(draw(st.integers(2, 6)), 2, padding="same", activation="relu")(
        x
    )


def _nested(draw, x, pick):
    inner = keras.Sequential(
        [
            keras.Input(x.shape[1:]),
            layers.Dense(draw(st.integers(2, 5)), activation="relu"),
            layers.Dense(x.shape[-1]),
        ]
    )
    return inner(inner(x)) if draw(st.booleans()) else inner(x)


IMAGE = [
    _conv, _conv, _depthwise, _separable, _transposed, _norm, _act, _residual, _concat,
    _slice, _split, _excite, _dense, _shuffle, _nested,
]  # fmt: skip
SEQUENCE = [
    _dense, _conv1d, _recurrent, _attention, _norm, _act, _residual, _concat, _slice,
    _split, _excite, _shuffle, _nested,
]  # fmt: skip


def draw_model(draw):
    """A random built model of 2 to 8 steps with one dense head.

    Args:
        draw: hypothesis's `data.draw`.
    """
    image = draw(st.booleans())
    start = keras.Input((4, 3, 2) if image else (4, 3))
    first = layers.Dense(draw(st.integers(3, 6)), activation="relu")(start)
    seen = [first]

    def pick(like):
        fitting = [t for t in seen if like is None or t.shape == like.shape]
        return draw(st.sampled_from(fitting)) if fitting else None

    x = first
    for _ in range(draw(st.integers(2, 8))):
        step = draw(st.sampled_from(IMAGE if image else SEQUENCE))
        x = step(draw, x, pick)
        seen.append(x)
    if draw(st.booleans()):
        x = layers.Flatten()(x)
    else:
        x = (
            layers.GlobalAveragePooling2D if image else layers.GlobalAveragePooling1D
        )()(x)
    return keras.Model(start, layers.Dense(3, name="out")(x))
