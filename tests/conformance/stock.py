"""Tiny models of the stock layers that hold units in other ways than convolutions do.

Shapes are odd on purpose, as in `models`.
"""

from __future__ import annotations

import keras
from keras import layers, ops

from tfsparse.graph.rules.norms import LAYER_SCALE

STEPS, WIDTH = 5, 6


def _sequence(width: int = WIDTH, name: str = "sequence"):
    return keras.Input((STEPS, width), name=name)


def _end(inputs, x):
    if len(x.shape) == 3:
        x = layers.GlobalAveragePooling1D()(x)
    if len(x.shape) == 4:
        x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3, name="out")(x))


def einsum_dense():
    x = sequence = _sequence()
    x = layers.EinsumDense("abc,cde->abde", (None, 3, 4), bias_axes="de", name="split")(
        x
    )
    x = layers.Activation("tanh")(x)
    x = layers.EinsumDense("abde,def->abf", (None, 7), bias_axes="f", name="join")(x)
    x = layers.EinsumDense("...x,xy->...y", 5, activation="relu", name="dots")(x)
    return _end(sequence, x)


def transposed():
    image = keras.Input((5, 4, 2))
    x = layers.Conv2D(5, 2, activation="relu", name="a")(image)
    x = layers.Conv2DTranspose(4, 3, 2, activation="relu", name="b")(x)
    x = layers.Conv2DTranspose(6, 2, name="c", use_bias=False)(x)
    return _end(image, layers.ReLU()(x))


def transposed_1d_and_3d():
    sequence, volume = _sequence(), keras.Input((3, 4, 2, 2), name="volume")
    x = layers.Conv1DTranspose(5, 2, activation="relu", name="a")(sequence)
    x = layers.Conv1D(4, 2, activation="relu", name="b")(x)
    y = layers.Conv3DTranspose(3, 2, activation="relu", name="c")(volume)
    y = layers.Conv3D(4, 2, activation="relu", name="d")(y)
    both = [layers.GlobalAveragePooling1D()(x), layers.GlobalMaxPooling3D()(y)]
    return _end([sequence, volume], layers.Concatenate()(both))


def grouped_chain():
    image = keras.Input((7, 6, 2))
    x = layers.Conv2D(6, 2, activation="relu", name="a")(image)
    x = layers.Conv2D(9, 2, groups=3, name="b")(x)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.Conv2D(6, 2, groups=3, activation="relu", name="c")(x)
    x = layers.Conv2D(6, 2, groups=6, activation="relu", name="each")(x)
    return _end(image, x)


def grouped_residual():
    """ResNeXt: the groups' rows meet a skip."""
    image = keras.Input((7, 6, 2))
    x = layers.Conv2D(8, 2, activation="relu", name="a")(image)
    y = layers.Conv2D(12, 1, activation="relu", name="wide")(x)
    y = layers.Conv2D(12, 3, padding="same", groups=4, name="grouped")(y)
    y = layers.Conv2D(8, 1, name="back")(layers.ReLU()(y))
    return _end(image, layers.Add()([x, y]))


def embedding_and_recurrent():
    words = keras.Input((STEPS,), name="words", dtype="int32")
    x = layers.Embedding(9, 6, name="embed")(words)
    x = layers.LSTM(5, return_sequences=True, name="lstm")(x)
    x = layers.GRU(4, return_sequences=True, name="gru")(x)
    x = layers.SimpleRNN(6, name="simple")(x)
    return _end(words, x)


def masked_words():
    words = keras.Input((STEPS,), name="words", dtype="int32")
    x = layers.Embedding(9, 6, mask_zero=True, name="embed")(words)
    return _end(words, layers.LSTM(5, name="lstm")(x))


def gru_without_reset_after():
    x = sequence = _sequence()
    x = layers.GRU(4, reset_after=False, return_sequences=True, name="a")(x)
    x = layers.GRU(5, use_bias=False, name="b")(x)
    return _end(sequence, x)


def bidirectional():
    x = sequence = _sequence()
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True), name="both")(x)
    x = layers.Bidirectional(layers.GRU(3), merge_mode="sum", name="sum")(x)
    return _end(sequence, x)


def states_passed_on():
    x = sequence = _sequence()
    x, h, c = layers.LSTM(4, return_sequences=True, return_state=True, name="a")(x)
    x = layers.LSTM(4, name="b")(x, initial_state=[h, c])
    return _end(sequence, x)


def conv_lstm():
    video = keras.Input((3, 5, 4, 2))
    x = layers.ConvLSTM2D(4, 2, padding="same", return_sequences=True, name="a")(video)
    x = layers.ConvLSTM2D(3, 2, name="b")(x)
    return _end(video, x)


def attention_block():
    x = sequence = _sequence()
    x = layers.Dense(8, name="embed")(x)
    y = layers.MultiHeadAttention(4, 3, value_dim=2, name="mha")(x, x)
    x = layers.Add()([x, y])
    y = layers.Dense(10, activation="gelu", name="up")(x)
    x = layers.Add()([x, layers.Dense(8, name="down")(y)])
    return _end(sequence, x)


def cross_attention():
    left, right = _sequence(name="left"), _sequence(7, "right")
    x = layers.Dense(5, activation="relu", name="l")(left)
    y = layers.Dense(6, activation="relu", name="r")(right)
    z = layers.Dense(4, activation="relu", name="k")(right)
    mha = layers.MultiHeadAttention(3, 4, use_bias=False, output_shape=7, name="mha")
    x = mha(key=z, value=y, query=x)
    return _end([left, right], x)


def grouped_query_attention():
    x = sequence = _sequence()
    x = layers.Dense(8, name="embed")(x)
    y = layers.GroupQueryAttention(3, 4, 2, name="gqa")(x, x)
    return _end(sequence, layers.Add()([x, y]))


def attention_without_weights():
    x = sequence = _sequence()
    q = layers.Dense(6, name="q")(x)
    k = layers.Dense(6, name="k")(x)
    v = layers.Dense(5, name="v")(x)
    x = layers.Attention(name="dot")([q, v, k])
    y = layers.AdditiveAttention(name="sum")([q, v, k])
    return _end(sequence, layers.Concatenate()([x, y]))


def attention_by_ops():
    x = sequence = _sequence()
    q = layers.Dense(12, name="q")(x)
    k = layers.Dense(12, name="k")(x)
    v = layers.Dense(12, name="v")(x)
    q, k, v = (
        ops.transpose(ops.reshape(t, (-1, STEPS, 4, 3)), (0, 2, 1, 3))
        for t in (q, k, v)
    )
    scores = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) * 0.5)
    x = ops.transpose(ops.matmul(scores, v), (0, 2, 1, 3))
    x = ops.reshape(x, (-1, STEPS, 12))
    return _end(sequence, layers.Dense(4, activation="relu", name="o")(x))


def norms():
    image = keras.Input((5, 4, 2))
    x = layers.Conv2D(6, 2, name="a")(image)
    x = layers.GroupNormalization(3, name="groups")(x)
    x = layers.Conv2D(5, 2, name="b")(layers.ReLU()(x))
    x = layers.GroupNormalization(-1, name="instances")(x)
    x = layers.Conv2D(4, 1, activation="sigmoid", name="c")(x)
    x = layers.UnitNormalization(name="unit")(x)
    x = layers.Conv2D(7, 1, activation="sigmoid", name="d")(x)
    x = layers.RMSNormalization(epsilon=0.1, name="rms")(x)
    return _end(image, x)


def layer_scale():
    image = keras.Input((6, 5, 2))
    x = layers.Conv2D(5, 2, padding="same", name="a")(image)
    y = layers.Conv2D(7, 1, activation="gelu", name="wide")(x)
    y = layers.Conv2D(5, 1, name="narrow")(y)
    y = LAYER_SCALE(0.5, 5, name="scale")(y)
    return _end(image, layers.Add()([x, y]))


def spectral():
    image = keras.Input((6, 5, 2))
    x = layers.SpectralNormalization(layers.Conv2D(5, 2, activation="relu"), name="a")(
        image
    )
    x = layers.Flatten()(x)
    x = layers.SpectralNormalization(layers.Dense(6, activation="relu"), name="b")(x)
    return _end(image, x)


def time_distributed():
    video = keras.Input((3, 6, 5, 2))
    x = layers.TimeDistributed(layers.Conv2D(4, 2, activation="relu"), name="a")(video)
    x = layers.TimeDistributed(layers.BatchNormalization(), name="bn")(x)
    x = layers.TimeDistributed(layers.GlobalAveragePooling2D())(x)
    x = layers.TimeDistributed(layers.Dense(5, activation="relu"), name="b")(x)
    return _end(video, layers.LSTM(4, name="lstm")(x))


def permuted_and_cropped():
    image = keras.Input((7, 6, 2))
    x = layers.Conv2D(5, 2, activation="relu", name="a")(image)
    x = layers.Cropping2D(((1, 0), (0, 1)))(x)
    x = layers.UpSampling2D(2)(x)
    x = layers.Permute((3, 1, 2))(x)
    x = layers.Reshape((5, -1))(x)
    x = layers.Permute((2, 1))(x)
    return _end(image, layers.Dense(4, activation="relu", name="b")(x))


def slices_and_splits():
    x = sequence = _sequence()
    x = layers.Dense(9, activation="relu", name="a")(x)
    left, middle, right = ops.split(x, 3, axis=-1)
    x = ops.concatenate([right, left * middle], axis=-1)
    x = layers.Dense(8, activation="relu", name="b")(x)
    y = x[:, 1:4, 2:7]
    z = ops.flip(x[..., ::2], axis=-1)[:, :3]
    x = ops.concatenate([y, z], axis=-1)
    return _end(sequence, layers.Dense(5, activation="relu", name="c")(x))


def moves():
    x = sequence = _sequence()
    x = layers.Dense(4, activation="relu", name="a")(x)
    y = ops.roll(ops.repeat(x, 2, axis=-1), 3, axis=-1)
    y = layers.Dense(4, activation="relu", name="b")(ops.tile(y, (1, 1, 2)))
    z = ops.stack([x, y], axis=1)
    z = ops.sum(ops.moveaxis(z, 1, 2), axis=2)
    z = ops.pad(z, ((0, 0), (1, 0), (2, 1)))
    z = ops.squeeze(ops.expand_dims(z, 1), 1)
    return _end(sequence, layers.Dense(5, activation="relu", name="c")(z))


def channel_shuffle():
    image = keras.Input((5, 4, 2))
    x = layers.Conv2D(6, 1, activation="relu", name="a")(image)
    x = layers.Reshape((5, 4, 2, 3))(x)
    x = layers.Permute((1, 2, 4, 3))(x)
    x = layers.Reshape((5, 4, 6))(x)
    x = layers.Conv2D(5, 2, activation="relu", name="b")(x)
    return _end(image, x)


def products():
    left, right = _sequence(name="left"), _sequence(name="right")
    a = layers.Dense(5, name="a")(left)
    b = layers.Dense(5, name="b")(right)
    x = layers.Dot(axes=-1, name="dot")([a, b])  # (steps, steps)
    c = layers.Dense(4, activation="relu", name="c")(right)
    y = ops.matmul(ops.softmax(x), c)
    d = layers.Dense(4, activation="relu", name="d")(left)
    z = ops.einsum("btc,btd->bcd", y, layers.Dense(3, name="e")(d))
    return _end([left, right], layers.Dense(5, activation="relu", name="f")(z))


def twice_the_same_model():
    inner_in = keras.Input((6, 5, 2))
    y = layers.Conv2D(4, 2, activation="relu", name="conv")(inner_in)
    y = layers.BatchNormalization(name="bn")(y)
    inner = keras.Model(inner_in, layers.Flatten()(y), name="inner")
    one, two = keras.Input((6, 5, 2), name="one"), keras.Input((6, 5, 2), name="two")
    x = layers.Concatenate()([inner(one), inner(two, training=False)])
    return _end([one, two], layers.Dense(5, activation="relu", name="dense")(x))


def models_of_one_name():
    """Two inner models whose layers have the same names, and so the same paths."""
    image = keras.Input((6, 5, 2), name="image")
    outs = []
    for name, units in (("first", 4), ("second", 3)):
        inner = keras.Sequential(
            [
                keras.Input((6, 5, 2)),
                layers.Conv2D(units, 2, activation="relu", name="conv"),
                layers.GlobalAveragePooling2D(),
            ],
            name=name,
        )
        outs.append(inner(image))
    x = layers.Concatenate()(outs)
    return _end(image, layers.Dense(5, activation="relu", name="dense")(x))


def nested_of_open_size():
    base_in = keras.Input((None, None, 2))
    base = keras.Model(
        base_in, layers.Conv2D(5, 2, activation="relu", name="conv")(base_in)
    )
    image = keras.Input((6, 5, 2))
    inside = keras.Sequential([base, layers.GlobalMaxPooling2D()], name="head")
    return _end(image, inside(image))


FREE = {
    "einsum_dense": {"split:d": 3, "split:e": 4, "join": 7, "dots": 5},
    "transposed": {"a": 5, "b": 4, "c": 6},
    "transposed_1d_and_3d": {"a": 5, "b": 4, "c": 3, "d": 4},
    "grouped_chain": {"a": 6, "b": 9, "c": 6, "each": 6},
    "grouped_residual": {"a": 8, "wide": 12, "grouped": 12},
    "embedding_and_recurrent": {"embed": 6, "lstm": 5, "gru": 4, "simple": 6},
    "masked_words": {"embed": 6, "lstm": 5},
    "gru_without_reset_after": {"a": 4, "b": 5},
    "bidirectional": {"both:forward": 4, "both:backward": 4, "sum:forward": 3},
    "states_passed_on": {"a": 4},
    "conv_lstm": {"a": 4, "b": 3},
    "attention_block": {"embed": 8, "mha": 4, "mha:key": 12, "mha:value": 8, "up": 10},
    "cross_attention": {
        "l": 5, "r": 6, "k": 4, "mha": 3, "mha:key": 12, "mha:value": 12,
        "mha:output": 7,
    },
    "grouped_query_attention": {"embed": 8, "gqa": 2, "gqa:key": 6, "gqa:value": 6},
    "attention_without_weights": {"q": 6, "v": 5},
    "attention_by_ops": {"k": 4, "o": 4},
    "norms": {"a": 3, "b": 5, "c": 4, "d": 7},
    "layer_scale": {"a": 5, "wide": 7},
    "spectral": {"a": 5, "b": 6},
    "time_distributed": {"a": 4, "b": 5, "lstm": 4},
    "permuted_and_cropped": {"a": 5, "b": 4},
    "slices_and_splits": {"a": 6, "b": 6, "b:part1": 2, "c": 5},
    "moves": {"a": 4, "c": 5},
    "channel_shuffle": {"a": 3, "b": 5},
    "products": {"a": 5, "d": 4, "e": 3, "f": 5},
    "twice_the_same_model": {"conv": 4, "dense": 5},
    "models_of_one_name": {"conv": 4, "second_conv": 3, "dense": 5},
    "nested_of_open_size": {"conv": 5},
}  # fmt: skip
"""Prunable groups of each model, found by hand."""

TABLE = {name: globals()[name] for name in FREE}
