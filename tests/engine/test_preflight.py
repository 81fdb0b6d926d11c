"""What cannot ship is said before the first epoch, with the remedy."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
from keras import layers

from tfsparse import meters, train, zoo
from tfsparse.children import process
from tfsparse.engine import context
from tfsparse.graph import memory

X = np.random.default_rng(0).normal(size=(120, 10, 6)).astype("float32")


def run(tmp_path, model, *more, x=X):
    np.savez(tmp_path / "set.npz", x=x, y=np.arange(120) % 3)
    model.save(tmp_path / "own.keras")
    return train.main(
        ["train", f"--data={tmp_path}/set.npz", f"--model={tmp_path}/own.keras", "--epochs=2",
         "--shrink_epochs=1", "--fine_tune_epochs=0", "--tensorboard=false",
         f"--workdir={tmp_path}/run", *more]
    )  # fmt: skip


def rolled():
    return keras.Sequential(
        [
            keras.Input((10, 6)),
            layers.Masking(),  # with a mask a loop is not unrolled
            layers.GRU(8, name="memory"),
            layers.Dense(12),
            layers.Dense(3),
        ]
    )


def tiled():
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, padding="same")(inputs)
    x = layers.Conv2D(2, 3, padding="same")(layers.UpSampling2D(2)(x))
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))


PICTURES = np.random.default_rng(0).uniform(size=(120, 8, 8, 1)).astype("float32")


@pytest.mark.parametrize(
    ("model", "x", "sentence"),
    [(rolled, X, "memory cannot be unrolled"), (tiled, PICTURES, "TILE")],
)
def test_said_before_any_training(tmp_path, monkeypatch, capsys, model, x, sentence):
    if model is rolled:  # what a converter's crash looks like from here, on any version

        def crash(request, seconds):
            raise process.ChildError("it crashed (SIGSEGV)", "")

        monkeypatch.setattr(process.CONVERTER, "ask", crash)
    begun = []
    monkeypatch.setattr(
        context.RunContext, "fit_epoch", lambda *a, **k: begun.append(1)
    )
    assert run(tmp_path, model(), x=x) == 2
    said = capsys.readouterr().err
    assert not begun and not (tmp_path / "run").exists()
    assert re.search(sentence, said) and "--preflight=false trains all the same" in said
    assert said.count("\n") == 1


def test_it_may_be_left_out(tmp_path):
    assert run(tmp_path, rolled(), "--preflight=false", "--formats=keras") == 0


def test_formats_that_no_chip_needs_are_not_tried(tmp_path):
    assert run(tmp_path, rolled(), "--formats=keras") == 0


def test_it_leaves_no_trace_in_the_result(tmp_path, capsys):
    losses = []
    for name, flag in (("a", "true"), ("b", "false")):
        (tmp_path / name).mkdir()
        code = train.main(
            ["train", "--data=digits", "--epochs=2", "--shrink_epochs=1", "--batch_size=128",
             "--fine_tune_epochs=0", f"--preflight={flag}", "--formats=keras,tflite_int8",
             "--tensorboard=false", f"--workdir={tmp_path}/{name}/run"]
        )  # fmt: skip
        assert code == 0
        said = capsys.readouterr().out
        assert ("Preflight: 4,730 parameters, 40 units in 2 groups" in said) == (
            name == "a"
        )
        assert name == "b" or re.search(
            "an int8 file of [0-9,]+ B that runs in [0-9,]+ B", said
        )
        from tfsparse import files

        report = files.read_json(tmp_path / name / "run" / "report.json")
        losses.append([entry["loss"] for entry in report["method"]["history"]])
    assert losses[0] == losses[1]


def test_memory_of_a_training_step_is_stated_first(tmp_path, monkeypatch, capsys):
    """Within a factor of two of what a step takes; too much is refused before anything."""
    net = zoo.build("resnet8", (32, 32, 3), 10)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile("adam", loss, jit_compile=False)
    net.train_on_batch(np.zeros((8, 32, 32, 3), "float32"), np.zeros(8))
    x = np.zeros((512, 32, 32, 3), "float32")
    meters.release_memory()
    with meters.metered() as before:
        pass
    with meters.metered() as spent:
        net.train_on_batch(x, np.zeros(512))
    if "peak_memory_bytes" in spent:
        grown = spent["peak_memory_bytes"] - before["peak_memory_bytes"]
        assert 0.5 < memory.of_training(net, 512) / grown < 2
    monkeypatch.setattr(meters, "machine_bytes", lambda: 1_000_000)
    code = train.main(
        ["train", "--data=digits", "--model=resnet8", "--epochs=2",
         "--shrink_epochs=1", "--batch_size=64", f"--workdir={tmp_path / 'run'}"]
    )  # fmt: skip
    assert code == 2
    said = capsys.readouterr().err
    assert "error: A training step must fit into memory. Received: about 0.0 GB" in said
    assert not (tmp_path / "run" / "report.json").exists()
