"""The numbers that ship: every kind through the main job, training for them, and refusals."""

import os
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from tfsparse import files, train
from tfsparse.engine import aware

SMALL = [
    "--data=digits", "--model=mlp", "--hidden=24,16", "--epochs=6", "--fine_tune_epochs=1",
    "--batch_size=64", "--tensorboard=false", "--preflight=false", "--method=none",
    "--formats=keras,tflite_int8",
]  # fmt: skip


def main(workdir, *arguments):
    return train.main(["train", *SMALL, f"--workdir={workdir}", *arguments])


def report_of(workdir):
    return files.read_json(os.path.join(workdir, "report.json"))


def stages_of(workdir):
    return {row["name"]: row for row in report_of(workdir)["stages"]}


@pytest.fixture(scope="module")
def int8(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("int8") / "run")
    assert main(folder) == 0
    return folder


def test_calibration_and_noise_are_in_the_report(int8):
    report = report_of(int8)
    assert report["calibration"] == {"samples": 512, "seed": 0}
    layers = {row["layer"] for row in report["noise"] if row["what"] == "weights"}
    assert layers == {"fc1", "fc2", "logits"}
    titles = {section["title"] for section in report["sections"]}
    assert {"What int8 does to each tensor", "Right answers, class by class"} <= titles
    table = next(
        s for s in report["sections"] if s["title"].startswith("Right answers")
    )
    assert len(table["rows"]) == 10
    names = [column["name"] for column in table["columns"]]
    assert names == ["class", "samples", "float network", "tflite_int8", "mcu"]
    rights = sum(row[1] * row[3] for row in table["rows"]) / 359
    assert rights == pytest.approx(stages_of(int8)["tflite_int8"]["accuracy"])


def test_parity_is_over_the_whole_test_split(int8):
    report = report_of(int8)
    rows = {row["artifact"]: row for row in report["parity"]}
    assert {row["samples"] for row in rows.values()} == {359}
    assert rows["tflite_int8"]["output_steps"] < 20
    change = report["changes"]["tflite_int8"]
    stages = stages_of(int8)
    gained = stages["tflite_int8"]["accuracy"] - stages["finetuned"]["accuracy"]
    assert change["gain"] == pytest.approx(100 * gained)
    assert change["unit"] == "points"


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("int16x8", ["tflite_int16x8", "mcu"]),
        ("float16", ["tflite_float16"]),
        ("dynamic", ["tflite_dynamic"]),
        ("none", []),
    ],
)
def test_every_kind_of_numbers(kind, rows, tmp_path, capsys):
    folder = str(tmp_path / "run")
    assert main(folder, f"--quantise={kind}", "--epochs=2") == 0
    said = capsys.readouterr()
    stages = stages_of(folder)
    assert [name for name in stages if name.startswith(("tflite", "mcu"))] == rows
    assert ("no memory is told of" in said.out + said.err) == (kind not in ("int16x8",))
    if rows:
        assert stages[rows[0]]["accuracy"] >= stages["finetuned"]["accuracy"] - 0.02
        assert os.path.exists(f"{folder}/{stages[rows[0]]['file']}")


def test_a_compressed_file_ships_beside_the_plain_one(tmp_path):
    pytest.importorskip("tflite_micro")
    folder = str(tmp_path / "run")
    assert main(folder, "--compress=auto", "--clusters=4", "--qat_epochs=2") == 0
    stages, report = stages_of(folder), report_of(folder)
    small, plain = stages["tflite_compressed"], stages["tflite_int8"]
    assert small["file_bytes"] < plain["file_bytes"]
    assert small["accuracy"] == stages["mcu"]["accuracy"]
    assert small["arena_bytes"] > stages["mcu"]["arena_bytes"]
    row = next(r for r in report["parity"] if r["artifact"] == "tflite_compressed")
    assert row["max_abs_difference"] == 0
    assert "bit-equal to the plain file there on every sample" in row["note"]
    table = next(
        s for s in report["sections"] if s["title"] == "Weights packed in flash"
    )
    assert "AddDecode()" in table["note"]
    model = keras.saving.load_model(f"{folder}/model.keras")
    for name in ("fc1", "fc2"):
        (kernel,) = aware.kernels_of(model.get_layer(name))
        assert aware.most(kernel.rows()) <= 4
    assert set(report["method"]["quantise"]["clusters"]) == {"fc1/kernel", "fc2/kernel"}


def test_a_target_of_bytes_means_the_compressed_file(tmp_path):
    from tfsparse.deploy import finished

    rng = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((60,)), keras.layers.Dense(60)])
    model.layers[0].kernel.assign(
        rng.normal(size=(60, 60)) * (rng.random((60, 60)) > 0.9)
    )
    plain = finished.sizes(model, ["file_bytes"])["file_bytes"]
    with finished.ships("int8", "zeros"):
        small = finished.sizes(model, ["file_bytes"])["file_bytes"]
    assert small < plain - 2000
    assert finished.sizes(model, ["file_bytes"])["file_bytes"] == plain


def test_a_file_that_is_wrong_ends_with_exit_code_1(tmp_path, capsys, monkeypatch):
    from tfsparse.engine import context

    def blind(self, count):
        return 0.02 * np.ones((1, 8, 8, 1), "float32")

    monkeypatch.setattr(context.RunContext, "calibration_samples", blind)
    folder = str(tmp_path / "run")
    assert main(folder) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: `tflite_int8` must")
    assert os.path.exists(f"{folder}/report.html")
    monkeypatch.undo()
    assert main(folder, "--resume") == 1  # it is finished, and still wrong


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--clusters=1"], "`clusters` must be none, auto or a number from 2 to 128"),
        (["--clusters=129"], "Received: '129'"),
        (["--qat_epochs=3"], "must come with quantise=qat or clusters"),
        (["--compress=auto", "--quantise=float16"], "`compress` must come with"),
        (["--compress=auto", "--quantise=none"], "`compress` must come with"),
        (["--compress=auto", "--formats=keras"], "`compress` must come with"),
        (
            ["--method=shrinknets", "--quantise=dynamic", "--target=arena_bytes=9000"],
            "`target` may name arena_bytes of a file for microcontrollers",
        ),
        (["--quantise=int4"], "`quantise` must be"),
    ],
)
def test_what_is_refused_before_training(arguments, words, tmp_path, capsys):
    folder = str(tmp_path / "run")
    assert main(folder, *arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert words in lines[-1]
    assert not os.path.exists(folder)


def test_a_command_line_is_read_before_anything_heavy_is_loaded():
    """A wrong flag is answered at once, and the converter's process can be a copy."""
    source = (
        "import sys; from tfsparse.engine import settings; "
        "settings.parse(['--workdir=unused', '--compress=auto', '--quantise=int16x8']); "
        "print(sorted({'keras', 'tensorflow'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr[-500:]


def test_qat_says_what_it_lacks(tmp_path, capsys, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(str(tmp_path / "run"), "--quantise=qat") == 2
    assert "pip install tfsparse[qat]" in capsys.readouterr().err


def test_an_operator_that_the_interpreter_lacks_is_said_before_training(
    tmp_path, capsys, monkeypatch
):
    pytest.importorskip("tflite_micro")
    monkeypatch.syspath_prepend(str(tmp_path))
    source = tmp_path / "gathering.py"
    source.write_text(
        "import keras, numpy as np\n"
        "def build(shape, outputs):\n"
        "    x = image = keras.Input(shape)\n"
        "    x = keras.layers.Flatten()(x)\n"
        "    x = keras.ops.take(x, np.arange(0, 60, 2, dtype='int32'), axis=-1)\n"
        "    return keras.Model(image, keras.layers.Dense(outputs)(x))\n"
    )
    folder = str(tmp_path / "run")
    own = [one for one in SMALL if not one.startswith(("--model", "--hidden"))]
    asked = ["--quantise=int16x8", "--preflight=true", "--model=gathering:build"]
    assert train.main(["train", *own, *asked, f"--workdir={folder}"]) == 2
    assert "INT16" in capsys.readouterr().err
    assert not os.path.exists(f"{folder}/report.json")


def test_clusters_lie_in_output_channels_whatever_the_layer():
    rng = np.random.default_rng(0)
    layers = [
        keras.layers.Conv2D(5, 3), keras.layers.DepthwiseConv2D(3, depth_multiplier=2),
        keras.layers.Conv2DTranspose(7, 3), keras.layers.Dense(6),
    ]  # fmt: skip
    x = keras.Input((8, 8, 4))
    for layer in layers:
        layer(x)
    for layer, channels in zip(layers, (5, 8, 7, 6), strict=True):
        (kernel,) = aware.kernels_of(layer)
        kernel.variable.assign(rng.normal(size=kernel.variable.shape))
        assert kernel.rows().shape[1] == channels
        assert not aware.few(kernel.rows())
        aware.move(kernel, kernel.clusters(3))
        assert aware.most(kernel.rows()) == 3
        before = kernel.values
        aware.move(kernel, kernel.clusters())  # they are where they are
        assert np.allclose(kernel.values, before, atol=1e-6)


needs_tfmot = pytest.mark.skipif(
    not __import__("importlib.util").util.find_spec("tensorflow_model_optimization"),
    reason="needs tensorflow-model-optimization",
)

BRIDGE = """
import keras, numpy as np, tensorflow as tf
from tfsparse import zoo
from tfsparse.engine import bridge

rng = np.random.default_rng(0)

def odd(shape):
    x = image = keras.Input(shape)
    x = keras.layers.Conv1D(6, 3, padding="causal", name="causal")(x)
    x = keras.layers.BatchNormalization(name="alone")(x)
    x = keras.layers.Conv1D(8, 3, strides=2, activation="gelu", name="gelu")(x)
    x = keras.layers.DepthwiseConv1D(3, strides=2, name="deep")(x)
    x = keras.layers.MaxPooling1D(2)(x)
    y = keras.layers.LSTM(5, return_sequences=True, name="lstm")(x)
    x = keras.layers.Concatenate()([x, y])
    x = keras.layers.Flatten()(x)
    x = keras.ops.take(x, np.arange(0, 20, 2), axis=-1)
    shared = keras.layers.Dense(10, name="shared")
    x = shared(keras.ops.relu(shared(x)))
    return keras.Model(image, keras.layers.Dense(3, name="out")(x))

def case(name, model, carried=()):
    for v in model.weights:
        if "moving_variance" in v.path:
            v.assign(rng.random(v.shape) + 0.5)
        elif "moving_mean" in v.path or "gamma" in v.path or "beta" in v.path:
            v.assign(rng.normal(size=v.shape) * 0.3 + 0.5)
    rebuilt = bridge.Rebuilt(model)
    assert rebuilt.difference(rng) < 1e-5, name
    assert sorted(layer.name for layer in rebuilt.carried) == sorted(carried), name
    aware = rebuilt.aware()
    before = [keras.ops.convert_to_numpy(v) for v in model.weights]
    rebuilt.bring_back(aware)
    after = [keras.ops.convert_to_numpy(v) for v in model.weights]
    assert all(np.array_equal(a, b) for a, b in zip(before, after)), name
    x = rng.normal(size=(4, *model.input_shape[1:])).astype("float32")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(aware(x, training=True) ** 2)
    slopes = tape.gradient(loss, aware.trainable_variables)
    assert all(slope is not None for slope in slopes), name
    # Simulated int8 differs from floats, and not by much.
    far = np.abs(model(x, training=False) - aware(x, training=False)).max()
    assert far > 0, name

case("lenet5", zoo.build("lenet5", (20, 20, 1), 4, width=0.3))
case("resnet8", zoo.build("resnet8", (16, 16, 1), 4, width=0.3))
case("ds_cnn", zoo.build("ds_cnn", (49, 10, 1), 4, width=0.2))
case("auto 2-D", zoo.build("auto", (16, 16, 1), 4))
case("auto 1-D", zoo.build("auto", (64, 3), 4))
case("mlp", zoo.build("mlp", (9,), 4))
case("odd", odd((64, 3)), ["causal", "lstm", "shared"])
two = keras.Input((5,)), keras.Input((7,))
joined = keras.layers.Concatenate()(list(two))
many = keras.Model(list(two), [keras.layers.Dense(3, name="a")(joined), joined])
assert bridge.Rebuilt(many).difference(rng) < 1e-6
nothing = keras.Sequential([keras.Input((4, 3)), keras.layers.LSTM(3)])
try:
    bridge.Rebuilt(nothing).aware()
except ValueError as error:
    assert "must find layers that it knows" in str(error)
else:
    raise AssertionError("nothing to quantise")
print("all well")
"""


@needs_tfmot
def test_networks_are_rebuilt_for_the_library_and_brought_back():
    """In a process of its own: the library changes what tf.keras is."""
    done = subprocess.run(
        [sys.executable, "-c", BRIDGE], capture_output=True, text=True, timeout=600
    )
    assert done.stdout.strip().endswith("all well"), done.stderr[-2000:]


QAT = ["--quantise=qat", "--qat_epochs=3", "--clusters=8", "--method=sparse_vd",
       "--epochs=8", "--shrink_epochs=5"]  # fmt: skip


@needs_tfmot
@pytest.mark.slow
def test_training_for_int8_keeps_zeros_and_clusters_and_goes_on_after_a_kill(tmp_path):
    whole, killed = str(tmp_path / "whole"), str(tmp_path / "killed")
    assert main(whole, *QAT) == 0
    report = report_of(whole)
    told = report["method"]["quantise"]
    assert told["rebuilt_difference"] < 1e-5
    assert len(report["method"]["quantise_history"]) == 6
    assert "quantised" in stages_of(whole)
    model = keras.saving.load_model(f"{whole}/model.keras")
    before = keras.saving.load_model(f"{whole}/checkpoints/before.keras")
    for old, new in zip(before.layers, model.layers, strict=True):
        for was, now in zip(old.get_weights(), new.get_weights(), strict=True):
            if was.ndim > 1:
                assert np.all(now[was == 0] == 0)
                if aware.few(was) and was.size >= aware.LEAST_WEIGHTS:
                    assert aware.most(now) <= max(8, aware.most(was))
    command = [
        sys.executable,
        "-m",
        "tfsparse.train",
        *SMALL,
        *QAT,
        f"--workdir={killed}",
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    kept = f"{killed}/checkpoints/aware-epochs/epoch-0001"
    deadline = time.time() + 300
    while (
        not os.path.exists(kept) and process.poll() is None and time.time() < deadline
    ):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert main(killed, *QAT, "--resume") == 0
    one, other = (
        keras.saving.load_model(f"{folder}/model.keras").get_weights()
        for folder in (whole, killed)
    )
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
