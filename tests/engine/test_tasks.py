"""Every task goes the whole way, whichever method decides: from labels to the chip."""

from __future__ import annotations

import json
import os

import keras
import numpy as np
import pytest
from keras import layers

from tfsparse import checkpoints, train
from tfsparse.deploy import front

RNG = np.random.default_rng(0)
X = RNG.normal(size=(400, 6)).astype("float32")
Z = X @ RNG.normal(size=(6, 3)).astype("float32")

FLAGS = ("--epochs=6", "--shrink_epochs=3", "--fine_tune_epochs=2", "--hidden=24,16",
         "--model=mlp", "--batch_size=16", "--tensorboard=false", "--preflight=false")  # fmt: skip

METHODS = {
    "shrinknets": ("--strength=0.01",),
    "gsparsity": ("--strength=0.01",),
    "sparse_vd": ("--pretrain_epochs=1", "--warm_up_epochs=1"),
    "bayesian_compression": ("--pretrain_epochs=1", "--warm_up_epochs=1"),
    "bayesnas_compression": ("--loop_epochs=1", "--strength=0.0005"),
}


def labels(kind):
    """Labels that six columns tell, and the least score that shows it was learned."""
    if kind == "classification":
        return Z.argmax(1), 0.85
    if kind == "binary":
        return np.where(Z[:, 0] > 0, "on", "off"), 0.85
    if kind == "multilabel":
        return (Z > 0).astype(int), 0.85
    if kind == "regression":
        return 100 + 50 * Z[:, :1], 40
    return 100 + np.array([1, 10, 1000], "float32") * Z, None


def run(folder, kind, method, *more):
    y, _ = labels(kind)
    np.savez(
        folder / "set.npz",
        x_train=X[:300],
        y_train=y[:300],
        x_test=X[300:],
        y_test=y[300:],
    )
    task = "binary" if kind == "binary" else "auto"
    code = train.main(
        ["train", f"--data={folder}/set.npz", f"--workdir={folder}/run", f"--task={task}",
         f"--method={method}", *METHODS.get(method, ()), *FLAGS, *more]
    )  # fmt: skip
    assert code == 0
    return json.loads((folder / "run" / "report.json").read_text())


PAIRS = [
    ("binary", "shrinknets"),
    ("multilabel", "gsparsity"),
    ("regression", "bayesnas_compression"),
    ("numbers", "sparse_vd"),
]
ALL = [(k, m) for k in ("classification", "binary", "multilabel", "regression", "numbers")
       for m in METHODS]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "method"),
    [p if p in PAIRS else pytest.param(*p, marks=pytest.mark.slow) for p in ALL],
)
def test_every_task_with_every_method(tmp_path, kind, method, capsys):
    report = run(tmp_path, kind, method)
    last = report["stages"][-1]
    score = last["score"]
    assert last["name"] == "mcu" and last["samples"] == 100
    said = capsys.readouterr().out
    if kind in ("classification", "binary"):
        assert score["name"] == "accuracy" and score["unit"] == "%"
        assert last["accuracy"] == score["value"] > labels(kind)[1]
    else:
        assert last["accuracy"] is None
    if kind == "multilabel":
        assert score["name"] == "F1" and score["value"] > labels(kind)[1]
    if kind in ("regression", "numbers"):
        assert score["name"] == "mean absolute error" and not score["higher_is_better"]
        assert score["others"]["R2"] > 0.8
        assert kind == "numbers" or score["value"] < labels(kind)[1]
    assert (
        score["name"] in said
        and f"Task: {'regression' if kind == 'numbers' else kind}" in said
    )
    page = (tmp_path / "run" / "report.html").read_text()
    assert score["name"] in page and all(name in page for name in score["others"])
    agreements = [row["argmax_agreement"] for row in report["parity"]]
    assert all((a is not None) == (kind == "classification") for a in agreements)
    if kind == "numbers":  # one scale of int8 cannot hold them: firmware does
        around = front.read(str(tmp_path / "run" / "model_int8.tflite"))
        assert around.scale is not None and max(around.scale) > 100 * min(around.scale)


@pytest.mark.parametrize("told", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_reconstruction_finds_what_is_not_normal(tmp_path, told):
    normal = np.repeat(RNG.normal(size=(300, 4)), 4, axis=1) * [1] * 1
    normal = (normal * np.geomspace(1, 1000, 16) + 7).astype("float32")
    odd = RNG.permuted(normal[:100], axis=0)  # each column as it was, not together
    test = np.concatenate([normal[200:], odd])
    arrays = {"x_train": normal[:200], "x_test": test}
    if told:
        arrays["y_test"] = np.repeat([0, 1], 100)
    np.savez(tmp_path / "m.npz", **arrays)
    code = train.main(
        ["train", f"--data={tmp_path}/m.npz", f"--workdir={tmp_path}/run", "--epochs=20",
         "--shrink_epochs=4", "--batch_size=16", "--method=gsparsity",  "--strength=0.0005",
         "--tensorboard=false", "--preflight=false"]
    )  # fmt: skip
    assert code == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    score = report["stages"][-1]["score"]
    if told:
        assert score["name"] == "area under the ROC curve" and score["value"] > 0.9
    else:
        assert score["name"] == "reconstruction error" and not score["higher_is_better"]
    assert os.path.exists(tmp_path / "run" / "model_int8.json")


@pytest.mark.parametrize(
    "end",
    ["softmax"]
    + [
        pytest.param(one, marks=pytest.mark.slow)
        for one in ("sigmoid", "logits", "one logit")
    ],
)
def test_models_of_ones_own_end_as_they_like(tmp_path, end):
    x = inputs = keras.Input((6,))
    x = layers.Dense(16, activation="relu")(x)
    units = 1 if end in ("one logit", "sigmoid") else 2
    activation = end if end in ("softmax", "sigmoid") else None
    model = keras.Model(inputs, layers.Dense(units, activation=activation)(x))
    model.save(tmp_path / "own.keras")
    y = (Z[:, 0] > 0).astype(int)
    np.savez(tmp_path / "set.npz", x=X, y=y)
    code = train.main(
        ["train", f"--data={tmp_path}/set.npz", f"--workdir={tmp_path}/run", "--epochs=16",
         f"--model={tmp_path}/own.keras", "--shrink_epochs=2", "--fine_tune_epochs=1",
         "--batch_size=16", "--dense_epochs=3", "--distill=0.5", "--tensorboard=false",
         "--preflight=false",
         "--formats=keras,tflite_int8"]
    )  # fmt: skip
    assert code == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["stages"][-1]["accuracy"] > 0.8
    shipped = keras.saving.load_model(tmp_path / "run" / "model.keras")
    assert shipped.output_shape == (None, units)


def test_a_model_for_flat_pictures_takes_them_without_their_channel(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((8, 8)),
            layers.Flatten(),
            layers.Dense(16, "relu"),
            layers.Dense(10),
        ]
    )
    model.save(tmp_path / "own.keras")
    code = train.main(
        ["train", "--data=digits", f"--model={tmp_path}/own.keras", "--epochs=2",
         "--shrink_epochs=1", "--fine_tune_epochs=0", "--batch_size=64",
         "--formats=keras", "--tensorboard=false", "--preflight=false", f"--workdir={tmp_path}/run"]
    )  # fmt: skip
    assert code == 0


def fourth_power(y, z):
    return keras.ops.mean((y - z) ** 4, axis=-1)


class FourthPower(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return fourth_power(y_true, y_pred)


@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        ("regression", f"{__name__}:fourth_power"),
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in (
                ("regression", "mean_absolute_error"),
                ("regression", f"{__name__}:FourthPower"),
                ("classification", "categorical_focal_crossentropy"),
                ("multilabel", "binary_focal_crossentropy"),
            )
        ),
    ],
)
def test_a_loss_of_ones_own_is_kept_over_a_kill(tmp_path, kind, loss, monkeypatch):
    """Checkpoints hold the loss, which the flag names again, never they themselves."""
    more = (f"--loss={loss}", "--formats=keras")
    whole = run(tmp_path, kind, "shrinknets", *more)
    (tmp_path / "again").mkdir()
    y, _ = labels(kind)
    saved = checkpoints.Store.save

    def killed(self, stage, epoch, result):
        saved(self, stage, epoch, result)
        if (stage, epoch) == ("sparse", 4):
            raise KeyboardInterrupt

    arguments = ["train", f"--data={tmp_path}/set.npz", "--method=shrinknets", *FLAGS, *more,
                 *METHODS["shrinknets"], f"--workdir={tmp_path}/again/run"]  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Store, "save", killed)
        assert train.main(arguments) == 2
    assert train.main([*arguments, "--resume"]) == 0
    found = json.loads((tmp_path / "again" / "run" / "report.json").read_text())
    losses = [[e["loss"] for e in r["method"]["history"]] for r in (whole, found)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.slow
def test_target_and_trials_of_numbers(tmp_path):
    more = ("--target=params=0.6", "--trials=3")
    report = run(tmp_path, "regression", "gsparsity", *more)
    assert report["method"]["trials"]
    assert report["stages"][-1]["params"] <= 0.6 * report["dense_cost"]["params"]


def words_model(path, length=12):
    """An Embedding model of whole numbers, saved."""
    keras.utils.set_random_seed(0)
    x = entry = keras.Input((length,), dtype="int32")
    x = keras.layers.Embedding(20, 6)(x)
    x = keras.layers.GlobalAveragePooling1D()(
        keras.layers.Conv1D(8, 3, activation="relu")(x)
    )
    keras.Model(entry, keras.layers.Dense(2)(x)).save(path)


def words(path, kind):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 20, (200, 12)).astype(kind)
    y = (x[:, 0] > 9).astype(int)
    np.savez(path, x_train=x[:150], y_train=y[:150], x_test=x[150:], y_test=y[150:])


SHORT = ["--epochs=2", "--shrink_epochs=1", "--fine_tune_epochs=1", "--formats=tflite_int8",
         "--tensorboard=false"]  # fmt: skip


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_whole_numbers_go_from_the_data_to_the_chip(tmp_path, ending, capsys):
    pytest.importorskip("tflite_micro")
    words_model(tmp_path / f"m{ending}", None if ending == ".h5" else 12)
    words(tmp_path / "t.npz", "int64")
    status = train.main(
        ["train", f"--data={tmp_path}/t.npz", f"--model={tmp_path}/m{ending}",
         f"--workdir={tmp_path}/run", *SHORT]
    )  # fmt: skip
    said = capsys.readouterr()
    assert status in (0, None), said.err
    assert "near 1" not in said.out + said.err
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["stages"][-1]["name"] == "mcu"


def test_pixels_are_no_whole_numbers(tmp_path, capsys):
    words_model(tmp_path / "m.keras")
    words(tmp_path / "t.npz", "uint8")
    status = train.main(
        ["train", f"--data={tmp_path}/t.npz", f"--model={tmp_path}/m.keras",
         f"--workdir={tmp_path}/run", *SHORT]
    )  # fmt: skip
    assert status == 2 and "Store them as int32" in capsys.readouterr().err
