"""Weights packed in flash: TensorFlow Lite Micro unpacks what was there, or nothing ships."""

import pathlib

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tfsparse
from tfsparse.deploy import compress, interpreters, packing, slim
from tfsparse.deploy.export import convert

MODELS = pathlib.Path(__file__).parents[2] / "models"
SAMPLES = [np.random.default_rng(1).normal(size=(16, 14, 14, 1)).astype("float32")]


def network(rng, zeros: float = 0.0, levels: int = 0):
    """Every kernel that int8 has: convolutions of many and of one channel, depthwise, dense."""
    model = keras.Sequential(
        [
            keras.Input((14, 14, 1)),
            keras.layers.Conv2D(12, 3, activation="relu", name="many"),
            keras.layers.DepthwiseConv2D(5, name="depthwise"),
            keras.layers.Conv2D(1, 3, name="one"),
            keras.layers.Flatten(),
            keras.layers.Dense(40, name="wide"),
            keras.layers.Dense(3, name="out"),
        ]
    )
    for variable in model.trainable_variables:
        values = rng.normal(size=variable.shape)
        if levels:
            values = np.round(values / np.abs(values).max() * levels) / levels
        variable.assign(values * (rng.random(variable.shape) >= zeros))
    return model


def unpacked_alike(content: bytes, small: bytes, samples=SAMPLES) -> bool:
    expected, _ = interpreters.micro_answers(content, samples)
    found, _ = interpreters.micro_answers(small, samples)
    return all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("way", ["zeros", "clusters", "auto"])
@pytest.mark.parametrize(("zeros", "levels"), [(0.95, 0), (0.0, 3), (0.7, 2), (1.0, 0)])
def test_the_interpreter_unpacks_what_was_packed(way, zeros, levels):
    pytest.importorskip("tflite_micro")
    content = convert(network(np.random.default_rng(0), zeros, levels), SAMPLES)
    small, rows = compress.compress(content, way)
    assert unpacked_alike(content, small)
    assert len(rows) == 5
    if way == "auto":
        assert len(small) < len(slim.slim(content, micro=True)) - 100
        assert any(row.encoding != "none" for row in rows)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    zeros=st.sampled_from([0.0, 0.3, 0.9, 0.99]),
    levels=st.integers(0, 20),
    shape=st.sampled_from([(3, 40), (17, 9), (1, 200), (40, 1)]),
)
def test_every_encoding_of_a_dense_kernel(seed, zeros, levels, shape):
    pytest.importorskip("tflite_micro")
    rng = np.random.default_rng(seed)
    model = keras.Sequential(
        [keras.Input((shape[1],)), keras.layers.Dense(shape[0], name="d")]
    )
    values = rng.normal(size=(shape[1], shape[0]))
    if levels:
        values = np.round(values * levels) / levels
    model.get_layer("d").kernel.assign(values * (rng.random(values.shape) >= zeros))
    samples = [rng.normal(size=(4, shape[1])).astype("float32")]
    content = convert(model, samples)
    kernels = compress.kernels(slim.read(content))
    for number, tensor, values in kernels:
        own = [
            compress.zeros(values),
            compress.clusters(values, compress.axis_of(tensor)),
        ]
        for encoding in filter(None, own):
            small = compress._built(content, {number: encoding})
            assert unpacked_alike(content, small, samples), encoding.name


def test_released_files_shrink_by_their_zeros():
    for name, most in {
        "lenet5_sparse_vd": 12_400,
        "lenet_300_100_sparse_vd": 20_200,
    }.items():
        content = (MODELS / name / "model_int8.tflite").read_bytes()
        small, rows = compress.compress(content, "zeros")
        assert len(small) <= most
        assert sum(row.after for row in rows) < 0.4 * sum(row.before for row in rows)


def test_each_layer_takes_what_is_smallest():
    rng = np.random.default_rng(0)
    model = network(rng, 0.9)
    model.get_layer("many").kernel.assign(rng.normal(size=(3, 3, 1, 12)))
    content = convert(model, SAMPLES)
    _, rows = compress.compress(content, "auto")
    for row in rows:
        assert row.after <= row.before
    found = {row.shape: row.encoding for row in rows}
    assert found[(12, 3, 3, 1)] == "none"
    assert found[(40, 36)] == "zeros"


def test_weights_that_are_used_twice_are_unpacked_for_each():
    pytest.importorskip("tflite_micro")
    dense = keras.layers.Dense(60, use_bias=False)
    entry = keras.Input((60,))
    model = keras.Model(
        entry, keras.layers.Dense(2)(dense(keras.ops.relu(dense(entry))))
    )
    rng = np.random.default_rng(0)
    dense.kernel.assign(rng.normal(size=(60, 60)) * (rng.random((60, 60)) > 0.95))
    samples = [rng.normal(size=(8, 60)).astype("float32")]
    content = convert(model, samples)
    small, rows = compress.compress(content, "zeros")
    assert len(small) < len(slim.slim(content, micro=True))
    assert unpacked_alike(content, small, samples)
    codes = [o.opcodeIndex for o in slim.read(small).subgraphs[0].operators]
    custom = [
        number
        for number, code in enumerate(slim.read(small).operatorCodes)
        if code.customCode == compress.OPERATOR.encode()
    ]
    assert codes.count(custom[0]) >= 2


def test_where_memory_is_short_layers_stay_plain():
    content = convert(network(np.random.default_rng(0), 0.95), SAMPLES)
    whole, rows = compress.compress(content, "zeros")
    largest = max(rows, key=lambda row: row.before)
    assert largest.encoding == "zeros"
    small, fewer = compress.compress(
        content, "zeros", lambda other: len(other) > len(whole)
    )
    assert len(small) > len(whole)
    assert {r.shape for r in fewer if r.encoding == "none"} >= {largest.shape}
    plain, none = compress.compress(content, "zeros", lambda other: False)
    assert plain == slim.slim(content, micro=True)
    assert all(row.encoding == "none" for row in none)


def test_what_compress_refuses(tmp_path):
    content = convert(network(np.random.default_rng(0), 0.95), SAMPLES)
    small, _ = compress.compress(content, "zeros")
    with pytest.raises(
        ValueError, match="plain file. Received: one that is compressed"
    ):
        compress.compress(small, "zeros")
    with pytest.raises(ValueError, match="must be given a .tflite file"):
        compress.compress(b"no file at all", "zeros")
    with pytest.raises(ValueError, match="`compress` must be one of"):
        compress.compress(content, "all")
    assert compress.clusters(np.arange(-100, 100, dtype=np.int8)) is None
    with pytest.raises(ValueError, match="must come with tflite_int8"):
        tfsparse.export(
            network(np.random.default_rng(0)), str(tmp_path), SAMPLES[0],
            ("tflite_float",), compress="auto",
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_answers_differently_does_not_ship(tmp_path, monkeypatch):
    pytest.importorskip("tflite_micro")
    right = compress.zeros

    def wrong(values):
        changed = values.copy()
        changed.reshape(-1)[np.flatnonzero(changed)[:40]] = 99
        return right(changed)

    monkeypatch.setattr(compress, "zeros", wrong)
    model = network(np.random.default_rng(0), 0.9)
    with pytest.raises(ValueError, match="must change no answer"):
        tfsparse.export(
            model, str(tmp_path), SAMPLES[0], ("tflite_int8",), compress="zeros"
        )
    assert [p.name for p in tmp_path.iterdir()] == ["model_int8.tflite"]


def test_the_artefact_tells_both_prices(tmp_path):
    pytest.importorskip("tflite_micro")
    model = network(np.random.default_rng(0), 0.95)
    plain, small = tfsparse.export(
        model, str(tmp_path), SAMPLES[0], ("tflite_int8",), compress="auto"
    )
    assert small.format == "tflite_compressed"
    assert small.path.endswith("model_int8_compressed.tflite")
    assert small.file_bytes < plain.file_bytes
    assert small.facts["arena_bytes"] > small.facts["plain_arena_bytes"]
    assert {row["layer"] for row in small.facts["kernels"]} == {
        "many", "depthwise", "one", "wide", "out",
    }  # fmt: skip
    rows = {r.artifact: r for r in tfsparse.verify(model, (plain, small), SAMPLES[0])}
    assert rows["tflite_compressed"].max_abs_difference == 0
    assert "on every sample" in rows["tflite_compressed"].note
    assert rows["tflite_compressed"].arena_bytes > rows["mcu"].arena_bytes


def test_an_arena_limit_is_kept(tmp_path):
    pytest.importorskip("tflite_micro")
    model = network(np.random.default_rng(0), 0.95)
    free = tfsparse.export(
        model, str(tmp_path), SAMPLES[0], ("tflite_int8",), compress="auto"
    )[1]
    limit = free.facts["arena_bytes"] - 100
    tight = tfsparse.export(
        model, str(tmp_path), SAMPLES[0], ("tflite_int8",), compress="auto",
        arena_limit=limit,
    )[1]  # fmt: skip
    assert tight.facts["arena_bytes"] <= limit
    assert tight.file_bytes > free.file_bytes


def test_packing_says_when_the_interpreter_is_missing(monkeypatch):
    monkeypatch.setattr(packing.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install tfsparse\[mcu\]"):
        packing.check_installed()
