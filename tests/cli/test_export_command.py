"""`tfsparse export`: a trained model of a user's own, from the command line."""

import os

import keras
import numpy as np
import pytest

from tfsparse.cli import export


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 20)).astype("float32")
    y = (x @ rng.normal(size=(20, 3))).argmax(1)
    model = keras.Sequential(
        [keras.Input((20,)), keras.layers.Dense(80, "relu"), keras.layers.Dense(3)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    model.fit(x, y, epochs=5, verbose=0)
    kernel = keras.ops.convert_to_numpy(model.layers[0].kernel)
    model.layers[0].kernel.assign(
        kernel * (np.abs(kernel) > np.quantile(np.abs(kernel), 0.6))
    )
    model.save(folder / "model.keras")
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    return folder


def run(given, out, *arguments, samples="x.npy"):
    own = [str(given / "model.keras"), str(out), str(given / samples)]
    return export.main([*own, *arguments])


def test_everything_in_one_command(given, tmp_path, capsys):
    pytest.importorskip("tflite_micro")
    labels = f"--labels={given / 'y.npy'}"
    assert run(given, tmp_path, labels, "--compress=auto") == 0
    said = capsys.readouterr().out
    assert sorted(os.listdir(tmp_path)) == [
        "model.keras", "model_float.tflite", "model_int8.tflite",
        "model_int8_compressed.tflite", "saved_model",
    ]  # fmt: skip
    assert "as converted" in said
    assert "AddDecode()" in said
    assert "accuracy" in said
    assert "same answer on" in said
    assert said.count("signal to noise") == 3


def test_finer_numbers_and_none(given, tmp_path, capsys):
    assert run(given, tmp_path, "--quantise=int16x8", "--formats=tflite_int8") == 0
    assert os.listdir(tmp_path) == ["model_int16x8.tflite"]
    assert (
        run(given, tmp_path / "b", "--quantise=none", "--formats=keras,tflite_int8")
        == 0
    )
    assert os.listdir(tmp_path / "b") == ["model.keras"]


def test_a_wrong_file_ends_with_exit_code_1(given, tmp_path, capsys):
    assert run(given, tmp_path, "--calibration_samples=1", "--formats=tflite_int8") == 1
    assert (
        "error: `tflite_int8` must answer as the network does"
        in capsys.readouterr().err
    )
    tight = ["--tolerance=100", "--calibration_samples=1", "--formats=tflite_int8"]
    assert run(given, tmp_path, *tight) == 0


def test_the_model_itself_is_never_replaced(given, capsys):
    before = (given / "model.keras").read_bytes()
    assert run(given, given) == 2
    assert "`folder` must be another one" in capsys.readouterr().err
    assert (given / "model.keras").read_bytes() == before


def test_one_line_of_json_for_scripts(given, tmp_path, capsys):
    import json

    assert run(given, tmp_path, "--formats=tflite_int8", "--json") == 0
    said = capsys.readouterr()
    (line,) = said.out.strip().splitlines()
    told = json.loads(line)
    assert list(told) == ["files", "parity", "changes"]
    assert told["files"][str(tmp_path / "model_int8.tflite")] > 1000
    assert "bytes" in said.err


def test_a_model_that_holds_code_is_refused(given, tmp_path, capsys):
    model = keras.Sequential([keras.Input((20,)), keras.layers.Lambda(lambda x: x * 2)])
    model.save(tmp_path / "code.keras")
    own = [str(tmp_path / "code.keras"), str(tmp_path / "out"), str(given / "x.npy")]
    assert export.main(own) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("make", "arguments", "words"),
    [
        (lambda x: x[:, :7], [], "samples must fit input"),
        (lambda x: x[:0], [], "`samples` must hold some"),
        (lambda x: x * np.nan, [], "`samples` must be finite"),
        (None, [], "`samples` must be a .npy or .npz file"),
        (lambda x: x, ["--labels=missing.npy"], "`labels` must be a .npy"),
        (lambda x: x, ["--labels=floats"], "`labels` must hold a whole number"),
        (
            lambda x: x,
            ["--compress=auto", "--quantise=none"],
            "`compress` must come with",
        ),
        (lambda x: x, ["--quantise=int2"], "`quantise` must be"),
    ],
)
def test_one_line_for_what_cannot_be(given, tmp_path, capsys, make, arguments, words):
    name = "odd.npy"
    if make is None:
        (given / name).write_text("no array")
    else:
        np.save(given / name, make(np.load(given / "x.npy")))
    np.save(given / "floats.npy", np.zeros((300, 2)))
    arguments = [a.replace("floats", str(given / "floats.npy")) for a in arguments]
    assert run(given, tmp_path / "out", *arguments, samples=name) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert words in lines[0]
    assert not os.path.exists(tmp_path / "out")
