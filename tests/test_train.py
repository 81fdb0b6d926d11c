"""The main job on small real data: results, resuming, and every bad input."""

import json
import os
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from tfsparse import files, records, train
from tfsparse.engine import context, finishing, scoring, settings
from tfsparse.graph import measure

PLAIN = [
    "--data=digits", "--model=mlp", "--hidden=24,16", "--epochs=6",
    "--fine_tune_epochs=2", "--batch_size=64", "--tensorboard=false", "--preflight=false",
]  # fmt: skip
SMALL = [*PLAIN, "--learning_rate=0.01", "--strength=0.02", "--shrink_epochs=4"]


def plain(workdir, *arguments):
    """A run without a method."""
    given = ["--method=none", *PLAIN, f"--workdir={workdir}", *arguments]
    return train.main(["train", *given])


def main(workdir, *arguments):
    return train.main(["train", *SMALL, f"--workdir={workdir}", *arguments])


def report_of(workdir):
    return files.read_json(os.path.join(workdir, "report.json"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("finished") / "run")
    assert main(folder, "--tensorboard=true", "--dense_epochs=1") == 0
    return folder


def test_everything_promised_is_there(finished):
    names = set(os.listdir(finished))
    wanted = "report.json report.html model.keras saved_model model_float.tflite plots"
    int8 = {"model_int8.tflite", "model_int8.json"}
    assert names == {*wanted.split(), *int8, "checkpoints", "logs"}
    plots = {
        "accuracy_bytes", "live_units", "training", "step_time", "layers", "noise",
    }  # fmt: skip
    assert {n.removesuffix(".png") for n in os.listdir(f"{finished}/plots")} == plots


def test_report_holds_what_is_specified(finished):
    report = report_of(finished)
    stages = {row["name"]: row for row in report["stages"]}
    assert list(stages) == [
        "dense", "sparse", "stripped", "finetuned", "tflite_float", "tflite_int8", "mcu",
    ]  # fmt: skip
    fields = {
        "name", "what", "accuracy", "score", "samples", "params", "nonzero", "macs", "weight_bytes",
        "index_bytes", "file", "file_bytes", "arena_bytes", "seconds",
    }  # fmt: skip
    assert all(set(row) == fields for row in report["stages"])
    assert all(row["samples"] == 359 for row in report["stages"])
    assert stages["sparse"]["accuracy"] == stages["stripped"]["accuracy"]
    assert stages["mcu"]["params"] < stages["dense"]["params"]
    assert stages["mcu"]["accuracy"] > 0.8
    assert stages["mcu"]["arena_bytes"] > 500
    fates = {row["name"]: row for row in report["groups"]}
    assert fates["fc1"]["kept"] < fates["fc1"]["size"] == 24
    assert "output" in fates["logits"]["reason"]
    assert all(r["kept"] < r["size"] or r["reason"] for r in report["groups"])
    assert {row["artifact"] for row in report["parity"]} >= {"keras", "mcu"}


def test_shipped_files_are_what_the_report_says(finished):
    report = report_of(finished)
    model = keras.saving.load_model(f"{finished}/model.keras", safe_mode=True)
    final = next(row for row in report["stages"] if row["name"] == "finetuned")
    assert measure(model).params == model.count_params() == final["params"]
    assert all(type(layer).__module__.startswith("keras.") for layer in model.layers)
    for row in report["stages"]:
        if row["file"]:
            assert os.path.getsize(f"{finished}/{row['file']}") == row["file_bytes"]


def test_page_needs_nothing_from_outside(finished):
    page = Path(f"{finished}/report.html").read_text()
    assert page.count("data:image/png;base64,") == 6
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page
    for text in ("Every group and its fate", "its units are the model", "fc1", "mcu"):
        assert text in page


@pytest.mark.slow
def test_the_sparse_stage_may_start_from_dense_training(tmp_path):
    still = ["--method=sparse_vd", "--pretrain_epochs=0", "--warm_up_epochs=0",
             "--learning_rate=1e-9", "--epochs=1", "--shrink_epochs=1",
             "--fine_tune_epochs=0", "--dense_epochs=8", "--formats=keras",
             "--settle_learning_rate=0.01"]  # fmt: skip
    for start in ("true", "false"):
        folder = str(tmp_path / start)
        assert main(folder, *still, f"--from_dense={start}") == 0
        found = {s["name"]: s["accuracy"] for s in report_of(folder)["stages"]}
        assert found["dense"] > 0.7
        assert (found["sparse"] == found["dense"]) == (start == "true")


def test_same_seed_same_result(finished, tmp_path):
    again = str(tmp_path / "again")
    assert main(again, "--dense_epochs=1") == 0
    first, second = report_of(finished), report_of(again)
    for a, b in zip(first["stages"], second["stages"], strict=True):
        assert (a["accuracy"], a["params"]) == (b["accuracy"], b["params"])
    for name in ("model_int8.tflite", "model_float.tflite"):
        assert (
            Path(f"{again}/{name}").read_bytes()
            == Path(f"{finished}/{name}").read_bytes()
        )


@pytest.mark.slow
def test_other_seed_other_result(finished, tmp_path):
    other = str(tmp_path / "other")
    assert main(other, "--seed=1", "--formats=tflite_float") == 0
    a, b = (Path(f"{d}/model_float.tflite").read_bytes() for d in (finished, other))
    assert a != b


def test_stopped_and_resumed_ends_the_same(finished, tmp_path, monkeypatch):
    folder, count = str(tmp_path / "run"), 0
    fit = context.RunContext.fit_epoch

    def interrupt(*arguments):
        nonlocal count
        count += 1
        if count in (3, 6, 9):
            raise KeyboardInterrupt
        return fit(*arguments)

    monkeypatch.setattr(context.RunContext, "fit_epoch", interrupt)
    codes = [main(folder, "--dense_epochs=1", "--resume") for _ in range(4)]
    assert codes == [2, 2, 2, 0]
    a, b = (Path(f"{d}/model_int8.tflite").read_bytes() for d in (finished, folder))
    assert a == b
    history = [report_of(d)["method"]["history"] for d in (finished, folder)]
    losses = [[entry["loss"] for entry in h] for h in history]
    assert losses[0] == losses[1]


def test_a_finished_run_is_not_done_again(finished, capsys):
    before = os.path.getmtime(f"{finished}/model.keras")
    assert main(finished, "--dense_epochs=1", "--resume") == 0
    assert os.path.getmtime(f"{finished}/model.keras") == before
    assert "Finished before" in capsys.readouterr().out


IMAGES = ["--image_size=8", "--validation=0.2",
          "--augment=resized_crop=0.3,flip", "--batch_size=8"]  # fmt: skip


def test_images_on_disk_go_all_the_way(image_folder, tmp_path):
    folder = str(tmp_path / "run")
    options = [*IMAGES, f"--data={image_folder}", "--method=gsparsity"]
    assert main(folder, *options, "--strength=0.001") == 0
    stages = {row["name"]: row for row in report_of(folder)["stages"]}
    assert stages["tflite_int8"]["samples"] == 24
    assert stages["finetuned"]["accuracy"] > 0.9


@pytest.mark.parametrize("how", ["cut", "gone"])
def test_a_damaged_image_ends_the_run_with_its_name(
    how, image_folder, tmp_path, capsys
):
    folder = str(tmp_path / "run")
    path = f"{image_folder}/train/red/7.JPEG"
    os.truncate(path, os.path.getsize(path) * 3 // 4)  # its header is whole
    if how == "gone":  # listed, but not there
        os.remove(path)
        os.symlink(f"{image_folder}/nowhere", path)
    assert main(folder, *IMAGES, f"--data={image_folder}", "--preflight=true") == 2
    said = capsys.readouterr().err
    assert "'" + path + "'" in said and said.count("\n") == 1
    assert ("--resume" in said) == (how == "cut")  # the other is seen before training


def test_a_run_of_an_older_version_goes_on(finished, tmp_path, capsys):
    folder = str(tmp_path / "run")
    shutil.copytree(finished, folder)
    path = f"{folder}/checkpoints/config.json"
    config = files.read_json(path)
    del config["image_size"]
    files.write_json(path, config)
    assert main(folder, "--dense_epochs=1", "--resume") == 0
    assert main(folder, "--dense_epochs=1", "--resume", "--image_size=8") == 2
    assert "--image_size=8 (was 0)" in capsys.readouterr().err


def test_no_method_and_sgd(tmp_path):
    folder = str(tmp_path / "run")
    assert plain(folder, "--optimizer=sgd", "--epochs=1") == 0
    report = report_of(folder)
    assert all(row["reason"] for row in report["groups"])
    assert report["stages"][0]["params"] == report["stages"][-1]["params"]


SPARSE_VD = [
    "--method=sparse_vd", "--strength=0.6", "--threshold=3", "--pretrain_epochs=3",
    "--warm_up_epochs=4", "--epochs=14", "--shrink_epochs=10", "--learning_rate=0.01",
]  # fmt: skip


def test_single_weights_go_all_the_way_and_stay_zero(tmp_path):
    folder = str(tmp_path / "run")
    assert main(folder, *SPARSE_VD, "--ignore=logits") == 0
    report = report_of(folder)
    stages = {row["name"]: row for row in report["stages"]}
    assert stages["stripped"]["nonzero"] < 0.6 * stages["stripped"]["params"]
    # Fine-tuning moves weights, but none away from zero; biases may start there.
    assert stages["finetuned"]["nonzero"] <= stages["stripped"]["nonzero"] + 50
    assert stages["mcu"]["accuracy"] > 0.85
    stored = report["encodings"]
    assert stored["bitmap"] < stored["dense"] == stages["mcu"]["macs"]
    assert report["method"]["history"][-1]["nonzero"] < stages["sparse"]["params"]
    # The divergence stays on after the last unit may leave.
    assert report["method"]["settled"] == 10
    assert all(row["strength_on"] for row in report["method"]["history"])
    page = Path(folder, "report.html").read_text("utf-8")
    assert "If zeros were not stored" in page and "Signal and noise" in page
    assert report["method"]["trace"]["plain"] == ["logits"]
    assert "Kept as they are, without Gaussian weights: logits." in page


@pytest.mark.parametrize("held", ["true", "false"])
def test_zeros_of_a_model_that_is_trained_on_stay(tmp_path, held):
    model = keras.Sequential([
        keras.Input((8, 8, 1)), keras.layers.Flatten(),
        keras.layers.Dense(12, activation="relu"), keras.layers.Dense(10),
    ])  # fmt: skip
    kernel = model.layers[1].kernel
    there = np.arange(64 * 12).reshape(64, 12) % 5 > 0
    kernel.assign(kernel * there)
    model.save(tmp_path / "m.keras")
    arguments = [
        f"--model={tmp_path}/m.keras", "--hidden=", "--epochs=2",
        "--fine_tune_epochs=0", "--formats=keras", f"--hold_zeros={held}",
    ]  # fmt: skip
    assert plain(str(tmp_path / "run"), *arguments) == 0
    found = keras.saving.load_model(tmp_path / "run" / "model.keras")
    first = next(x for x in found.layers if isinstance(x, keras.layers.Dense))
    received = np.asarray(first.kernel)
    assert (received[~there] == 0).all() == (held == "true")


@pytest.mark.parametrize("held", ["true", "false"])
def test_zeros_inside_kernels_that_the_evidence_leaves_may_be_used_again(
    tmp_path, held
):
    model = keras.Sequential([
        keras.Input((8, 8, 1)), keras.layers.Conv2D(8, 3, activation="relu"),
        keras.layers.Flatten(), keras.layers.Dense(10),
    ])  # fmt: skip
    model.save(tmp_path / "m.keras")
    arguments = [
        f"--model={tmp_path}/m.keras", "--hidden=", "--method=bayesnas_compression",
        "--strength=0.02", "--conv_shapes=shape", "--ignore=*dense*", "--loop_epochs=2",
        "--epochs=6", "--shrink_epochs=4", "--fine_tune_epochs=2", "--formats=keras",
        f"--hold_zeros={held}",
    ]  # fmt: skip
    assert main(str(tmp_path / "run"), *arguments) == 0
    stages = {s["name"]: s["nonzero"] for s in report_of(tmp_path / "run")["stages"]}
    params = report_of(tmp_path / "run")["stages"][-1]["params"]
    assert stages["stripped"] < params, "nothing died inside the kernel"
    assert (stages["finetuned"] == stages["stripped"]) == (held == "true")
    assert stages["finetuned"] >= stages["stripped"]


COMPRESSION = [
    "--method=bayesian_compression", "--strength=1", "--pretrain_epochs=2",
    "--warm_up_epochs=4", "--epochs=45", "--shrink_epochs=40", "--learning_rate=0.02",
    "--hidden=24", "--formats=keras,tflite_int8",
]  # fmt: skip
EVIDENCE = [
    "--method=bayesnas_compression", "--strength=0.012", "--loop_epochs=4", "--epochs=14",
    "--shrink_epochs=12", "--fine_tune_epochs=4",
    "--formats=keras,tflite_int8",
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (COMPRESSION, ("Bits that the weights would need", "Signal and noise")),
        pytest.param(EVIDENCE, ("What the evidence pruned",), marks=pytest.mark.slow),
    ],
    ids=["bayesian_compression", "bayesnas_compression"],
)
def test_units_and_inputs_go_all_the_way(tmp_path, arguments, words):
    folder = str(tmp_path / "run")
    assert main(folder, *arguments) == 0
    report = report_of(folder)
    stages = {row["name"]: row for row in report["stages"]}
    assert stages["mcu"]["params"] < 0.8 * report["dense_cost"]["params"]
    assert stages["mcu"]["accuracy"] > 0.8
    assert stages["mcu"]["index_bytes"] > 0
    fates = {row["name"]: row for row in report["groups"]}
    assert fates["fc1:features"]["kept"] < 64
    page = Path(folder, "report.html").read_text("utf-8")
    assert all(word in page for word in words)
    for loop in report["method"]["loops"]:
        assert 0 < loop["pruned"] <= loop["groups"] and loop["negative_curvature"] >= 0


@pytest.mark.parametrize(
    ("arguments", "calls_before"),
    [
        pytest.param(SPARSE_VD, 4, marks=pytest.mark.slow),
        pytest.param(COMPRESSION, 7, marks=pytest.mark.slow),  # while it is fine-tuned
        pytest.param(EVIDENCE, 4, marks=pytest.mark.slow),
    ],
    ids=["sparse_vd", "bayesian_compression", "bayesnas_compression"],
)
def test_interrupted_bayesian_runs_end_the_same(
    tmp_path, monkeypatch, arguments, calls_before
):
    short = ["--epochs=6", "--shrink_epochs=5", "--fine_tune_epochs=2"]
    own = ["--pretrain_epochs=1", "--warm_up_epochs=2"]
    short += ["--loop_epochs=2"] if arguments is EVIDENCE else own
    whole, again = str(tmp_path / "whole"), str(tmp_path / "again")
    assert main(whole, *arguments, *short) == 0
    fit, calls = context.RunContext.fit_epoch, []

    def interrupt(*given):
        calls.append(1)
        if len(calls) == calls_before + 1:
            raise KeyboardInterrupt
        return fit(*given)

    monkeypatch.setattr(context.RunContext, "fit_epoch", interrupt)
    assert main(again, *arguments, *short) == 2
    assert main(again, *arguments, *short, "--resume") == 0
    first, second = report_of(whole), report_of(again)
    free = {"seconds": 0, "file_bytes": 0}  # names of ops count up within a process
    for old, new in zip(first["stages"], second["stages"], strict=True):
        assert {**old, **free} == {**new, **free}
    losses = [[e["loss"] for e in r["method"]["history"]] for r in (first, second)]
    assert losses[0] == losses[1]
    assert first["method"]["loops"] == second["method"]["loops"]


AT_ONCE = ["--pretrain_epochs=0", "--warm_up_epochs=0"]
"""The divergence has its whole weight from the first step on."""


def test_a_posterior_that_collapsed_is_an_error_that_names_a_checkpoint(
    tmp_path, capsys
):
    more = ["--strength=300", "--epochs=20", "--shrink_epochs=19", *AT_ONCE]
    assert main(str(tmp_path / "run"), "--method=bayesian_compression", *more) == 2
    said = capsys.readouterr().err
    assert "Lower --strength" in said and "Last good checkpoint" in said
    assert "epoch-" in said


def test_a_divergence_that_killed_everything_stays_off(tmp_path):
    more = ["--strength=300", "--epochs=20", "--shrink_epochs=19", *AT_ONCE]
    assert main(str(tmp_path / "run"), "--method=sparse_vd", *more) == 0
    report = report_of(tmp_path / "run")
    back = report["method"]["taken_back"]
    on = [entry["strength_on"] for entry in report["method"]["history"]]
    assert 1 < back < 20 and on == [True] * back + [False] * (20 - back)
    assert report["stages"][-1]["accuracy"] > 0.2


def test_an_epoch_that_kills_everything_is_taken_back(tmp_path):
    more = ["--strength=0.1", "--epochs=12", "--shrink_epochs=10"]
    assert main(str(tmp_path / "run"), "--method=bayesnas_compression", *more) == 0
    report = report_of(tmp_path / "run")
    back = report["method"]["taken_back"]
    on = [entry["strength_on"] for entry in report["method"]["history"]]
    assert 1 < back < 10 and on == [True] * back + [False] * (12 - back)
    assert report["stages"][-1]["accuracy"] > 0.9


def test_a_collapse_found_at_the_strip_names_the_checkpoint(
    tmp_path, capsys, monkeypatch
):
    def dead(model, method, *more):
        raise records.TrainingError("The network must stay alive.")

    monkeypatch.setattr(finishing, "finish", dead)
    more = ["--method=bayesian_compression", "--epochs=2", "--shrink_epochs=1",
            "--pretrain_epochs=0", "--warm_up_epochs=0"]  # fmt: skip
    assert main(str(tmp_path / "run"), *more) == 2
    said = capsys.readouterr().err
    assert "stay alive. Last good checkpoint" in said and "epoch-0002" in said


def test_what_a_method_cannot_use_is_said_before_the_dense_training(tmp_path, capsys):
    folder = tmp_path / "run"
    for method, wrong, *own in (
        ("bayesian_compression", "--layer_thresholds=nope=1", *AT_ONCE),
        ("bayesnas_compression", "--multipliers=nope=1", "--loop_epochs=1"),
    ):
        flags = [f"--method={method}", "--dense_epochs=1", *own]
        assert main(str(folder), *flags, wrong) == 2
        assert "nope" in capsys.readouterr().err and not folder.exists()


def test_rates_may_drop_and_weights_decay(tmp_path):
    folder = str(tmp_path / "run")
    flags = ("--optimizer=sgd", "--drop_every=1", "--epochs=3")
    more = ("--settle_learning_rate=0.1", "--weight_decay=0.01", "--formats=keras")
    assert plain(folder, *flags, *more) == 0
    for epoch, rate in ((2, 0.01), (3, 0.001)):
        path = f"{folder}/checkpoints/sparse/epoch-{epoch:04d}/model.keras"
        optimizer = keras.saving.load_model(path).optimizer
        assert float(optimizer.learning_rate) == pytest.approx(rate)
        assert optimizer.weight_decay == 0.01 and optimizer.momentum == 0.9


def test_fine_tuning_may_have_an_optimizer_of_its_own(tmp_path):
    for given, stage, tuned in (
        ([], "SGD", "SGD"),
        (["--fine_tune_optimizer=adam"], "SGD", "Adam"),
    ):
        folder = str(tmp_path / tuned)
        short = ["--optimizer=sgd", "--epochs=1", "--formats=keras"]
        assert plain(folder, *short, "--fine_tune_epochs=1", *given) == 0
        for name, wanted in (("sparse", stage), ("finetuned", tuned)):
            path = f"{folder}/checkpoints/{name}/epoch-0001/model.keras"
            optimizer = keras.saving.load_model(path).optimizer
            assert type(optimizer).__name__ == wanted


@pytest.mark.slow
def test_fine_tuning_may_follow_the_dense_model(tmp_path, monkeypatch):
    short = ["--dense_epochs=2", "--epochs=2", "--shrink_epochs=1", "--formats=keras"]
    folders = [str(tmp_path / name) for name in ("plain", "whole", "again")]
    assert main(folders[0], *short) == 0
    assert main(folders[1], *short, "--distill=0.7") == 0
    fit, stages = context.RunContext.fit_epoch, []

    def interrupt(self, model, name, *more):
        stages.append(name)
        if stages.count("finetuned") == 2:
            raise KeyboardInterrupt
        return fit(self, model, name, *more)

    monkeypatch.setattr(context.RunContext, "fit_epoch", interrupt)
    assert main(folders[2], *short, "--distill=0.7") == 2
    monkeypatch.setattr(context.RunContext, "fit_epoch", fit)
    assert main(folders[2], *short, "--distill=0.7", "--resume") == 0
    reports = [report_of(folder) for folder in folders]
    plain, whole, again = (
        [e["loss"] for e in r["method"]["fine_tune_history"]] for r in reports
    )
    assert whole == again and whole[0] != plain[0]
    sparse = [[e["loss"] for e in r["method"]["history"]] for r in reports]
    assert sparse[0] == sparse[1]


@pytest.mark.slow
def test_a_resumed_run_knows_what_weight_decay_leaves_alone(tmp_path, monkeypatch):
    short = ["--method=sparse_vd", "--pretrain_epochs=0", "--warm_up_epochs=1", "--epochs=2",
             "--fine_tune_epochs=0", "--weight_decay=0.3", "--formats=keras"]  # fmt: skip
    fit = context.RunContext.fit_epoch

    def interrupt(self, model, name, epoch, *more):
        if epoch == 1:
            raise KeyboardInterrupt
        return fit(self, model, name, epoch, *more)

    assert main(str(tmp_path / "whole"), *short) == 0
    monkeypatch.setattr(context.RunContext, "fit_epoch", interrupt)
    assert main(str(tmp_path / "again"), *short) == 2
    monkeypatch.setattr(context.RunContext, "fit_epoch", fit)
    assert main(str(tmp_path / "again"), *short, "--resume") == 0
    whole, again = (report_of(tmp_path / name) for name in ("whole", "again"))
    losses = [[e["loss"] for e in r["method"]["history"]] for r in (whole, again)]
    assert losses[0] == losses[1]


def test_a_run_in_which_nothing_dies_says_so(tmp_path, capsys):
    short = ["--method=bayesian_compression", "--pretrain_epochs=0", "--warm_up_epochs=1",
             "--epochs=1", "--fine_tune_epochs=0", "--formats=keras"]  # fmt: skip
    assert main(str(tmp_path / "run"), *short) == 0
    assert "Nothing has died. Raise --strength" in capsys.readouterr().out


@pytest.mark.slow
def test_only_fine_tuning_that_harms_beyond_chance_is_thrown_away(tmp_path):
    for rate, kept in ((0.003, True), (3.0, False)):
        folder = str(tmp_path / str(rate))
        given = ["--epochs=6", f"--fine_tune_learning_rate={rate}", "--formats=keras"]
        assert main(folder, *given) == 0
        report = report_of(folder)
        stages = {stage["name"]: stage["accuracy"] for stage in report["stages"]}
        assert report["method"]["fine_tune_kept"] == kept
        assert (stages["finetuned"] == stages["stripped"]) != kept
        path = f"{folder}/checkpoints/finetuned/epoch-0002/model.keras"
        tuned = keras.saving.load_model(path).get_weights()
        shipped = keras.saving.load_model(f"{folder}/model.keras").get_weights()
        same = [(a == b).all() for a, b in zip(tuned, shipped, strict=True)]
        assert all(same) == kept


def test_one_image_of_many_is_chance():
    before = np.arange(100) < 99
    lost = np.arange(100)
    assert not scoring.worse(before, before)
    assert not scoring.worse(before, before & (lost > 3))  # 4 > 2 sqrt(4) is not so
    assert scoring.worse(before, before & (lost > 4))
    assert not scoring.worse(before & (lost > 4), before)
    won = ~before | (lost > 4)  # one more is right, five are wrong
    assert not scoring.worse(before, won)


def test_npz_and_own_model_and_features(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 12)).astype("float32")
    y = (x[:, 0] + x[:, 1] > 0).astype(int)
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x[:50], y_test=y[:50])
    keras.Sequential(
        [keras.Input((12,)), keras.layers.Dense(16, activation="relu", name="hidden"),
         keras.layers.Dense(2, name="out")]
    ).save(tmp_path / "m.keras")  # fmt: skip
    folder = str(tmp_path / "run")
    code = main(
        folder, f"--data={tmp_path}/d.npz", f"--model={tmp_path}/m.keras", "--hidden=",
        "--features", "--strength=0.05", "--epochs=12", "--shrink_epochs=10",
    )  # fmt: skip
    assert code == 0
    report = report_of(folder)
    fates = {row["name"]: row for row in report["groups"]}
    assert fates["hidden:features"]["kept"] < 12
    assert report["stages"][-1]["accuracy"] > 0.8
    operators = next(r for r in report["parity"] if r["artifact"] == "mcu")["operators"]
    assert "GATHER" in operators


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--data=nothing"], "none of these"),
        (["--data=gone.npz"], "exists"),
        (["--model=nothing"], "`model` must be one of"),
        (["--model=gone.keras"], "exists"),
        (["--method=magic"], "method"),
        (["--form=cubic"], "form"),
        (["--epochs=0"], "1 or more"),
        (["--epochs=many"], "epochs"),
        (["--strength=-1"], "0 or more"),
        (["--from_dense"], "false without --dense_epochs"),
        (["--distill=0.5"], "0 without --dense_epochs"),
        (["--dense_epochs=1", "--distill=2"], "[0, 1]"),
        (["--distill_temperature=0"], "in [0.1, 100]"),
        (["--distill_temperature=1e10"], "in [0.1, 100]"),
        (["--seed=4294967296"], "in [0, 4294967296)"),
        (["--gamma=2"], "[0, 1]"),
        (["--power=3"], "one of [1, 2]"),
        (["--batch_size=100000"], "batch_size"),
        (["--target=size=3"], "measure among"),
        (["--target=params=x"], "params=8000"),
        (["--target=params=-3"], "positive"),
        (["--method=sparse_vd", "--pretrain_epochs=90"], "must fit into the epochs"),
        (
            ["--method=sparse_vd", "--pretrain_epochs=6", "--warm_up_epochs=0"],
            "leave epochs with the divergence",
        ),
        (["--augment=warp=2"], "augment"),
        (["--formats=onnx"], "formats"),
        (["--hidden=a,b"], "whole numbers"),
        (["--no_such_flag=1"], "no_such_flag"),
        (["--flagfile=gone.flags"], "gone.flags"),
        (["stray"], "stray"),
    ],
)
def test_bad_flags_say_one_line_and_write_nothing(
    tmp_path, capsys, arguments, sentence
):
    folder = str(tmp_path / "run")
    assert main(folder, *arguments) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1 and errors[0].startswith("error: ")
    assert sentence in errors[0]
    assert not os.path.exists(folder)


def test_workdir_in_the_way(tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert main(str(blocked)) == 2
    assert main(str(blocked / "below")) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 2


def test_full_disk_says_so_and_keeps_the_run(tmp_path, capsys, monkeypatch):
    folder = str(tmp_path / "run")
    write, count = files.write_json, 0

    def full(path, value):
        nonlocal count
        count += 1
        if count == 4:
            raise OSError(28, "No space left on device", path)
        write(path, value)

    monkeypatch.setattr(files, "write_json", full)
    assert main(folder) == 2
    assert "No space left on device" in capsys.readouterr().err
    leftovers = [
        n for _, ds, fs in os.walk(folder) for n in (*ds, *fs) if "partial" in n
    ]
    assert leftovers == []
    assert main(folder, "--resume") == 0


def test_new_run_in_a_used_folder_and_resume_with_other_flags(finished, capsys):
    assert main(finished) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(finished, "--resume", "--dense_epochs=1", "--strength=0.5") == 2
    error = capsys.readouterr().err
    assert "--strength=0.5 (was 0.02)" in error and len(error.splitlines()) == 1


def test_a_penalty_that_kills_everything_at_once_is_an_error(tmp_path, capsys):
    folder = str(tmp_path / "run")
    code = main(folder, "--method=gsparsity", "--strength=0.5", "--shrink_epochs=6")
    error = capsys.readouterr().err
    assert code == 2
    assert "Lower --strength" in error and len(error.splitlines()) == 1
    assert "Last good checkpoint: none yet" in error
    assert not os.path.exists(f"{folder}/report.json")


def test_damaged_checkpoint_is_named(tmp_path, capsys):
    folder = str(tmp_path / "run")
    assert main(folder, "--epochs=2", "--shrink_epochs=1") == 0
    os.remove(f"{folder}/report.json")
    latest = sorted(os.listdir(f"{folder}/checkpoints/finetuned"))[-1]
    path = f"{folder}/checkpoints/finetuned/{latest}/model.keras"
    with open(path, "wb") as file:
        file.write(b"broken")
    assert main(folder, "--epochs=2", "--shrink_epochs=1", "--resume") == 2
    said = capsys.readouterr().err
    assert latest in said and "not whole" in said


def test_second_process_is_kept_out(tmp_path, capsys):
    from tfsparse import checkpoints

    folder = str(tmp_path / "run")
    with checkpoints.Store(folder).locked():
        assert main(folder) == 2
    assert "another process" in capsys.readouterr().err


FLAGFILES = sorted(Path(__file__).parents[1].joinpath("configs").glob("*.flags"))


@pytest.mark.parametrize("path", FLAGFILES, ids=lambda path: path.stem)
def test_flagfiles_parse_and_hold_only_what_they_set(path):
    config, _ = settings.parse([f"--flagfile={path}"])
    lines = [x for x in path.read_text().splitlines() if x.startswith("--")]
    named = {line.lstrip("-").split("=")[0] for line in lines}
    told = {"data", "genotype" if "genotype" in named else "model", "method", "workdir"}
    assert named - told == set(config.changed()) - told
    assert told <= named and len(named) == len(lines)
    assert config.to_json()["workdir"] == f"runs/{path.stem}"
    assert (
        settings.Settings.from_json(json.loads(json.dumps(config.to_json()))) == config
    )


PUBLISHED = {
    # GSparsity, appendix B.
    "resnet50_gsparsity": {
        "shrink_epochs": 90, "batch_size": 256, "eps": 0.001, "rho": 0.9, "tau": "group",
        "scaling": "inverse_sqrt", "threshold": 1e-6, "drop_every": 30,
        "fine_tune_epochs": 90, "fine_tune_learning_rate": 0.1,
    },
    # The same, appendix D: one mu for all, of five; what it leaves open as in B.
    "darts_v2_gsparsity": {
        "strength": (0.0001, 0.0002, 0.0005, 0.002, 0.004), "scaling": "none",
        "partition": "operation", "threshold": 1e-6, "optimizer": "sgd",
    },
    # The same, appendices E and F; its code's defaults for NAS-Bench-201.
    "cifar10_gsparsity_darts": {
        "strength": 60, "epochs": 50, "eps": 0.001, "rho": 0.8, "tau": "constant",
        "scaling": "inverse_sqrt", "threshold": 1e-6, "partition": "operation",
    },
    "cifar100_gsparsity_darts": {"strength": 120, "epochs": 100, "eps": 0.001, "rho": 0.8},
    "cifar10_gsparsity_bench201": {"strength": 200, "epochs": 100, "batch_size": 64},
    "imagenet_gsparsity_darts": {"strength": 43, "epochs": 50, "tau": "group"},
    "darts_genotype": {
        "cells": 14, "filters": 36, "fine_tune_learning_rate": 0.025, "batch_size": 80,
        "fine_tune_epochs": 600, "drop_path": 0.3, "auxiliary": 0.4,
        "augment": "crop=4,flip,cutout=16",
    },
    # BayesNAS, sections 6.1 and 6.2; once an evidence as in its code.
    "cifar10_bayesnas_darts": {
        "strength": (0.01, 0.007, 0.005), "batch_size": 18, "eps": 1, "rho": 0.1,
        "epochs": 2, "loop_epochs": 2,
    },
    "cifar10_bayesnas_tree": {"strength": 0.01, "batch_size": 32, "eps": 1, "rho": 0.1},
    # LeGR's code, scripts for ResNet-56; its appendix C, table 2.
    "resnet56_legr": {
        "evaluations": 400, "population": 64, "sample": 16, "least": 0.1, "rank_steps": 0,
        "target": "macs=0.47", "budgets": "macs=0.7", "batch_size": 128,
        "fine_tune_epochs": 400, "fine_tune_learning_rate": 0.01,
    },
    "resnet56_cifar100_legr": {
        "rank_steps": 200, "rank_learning_rate": 0.01, "target": "macs=0.2",
        "fine_tune_epochs": 60, "fine_tune_learning_rate": 0.01,
    },
    "resnet50_legr": {"target": "macs=0.47", "budgets": "macs=0.58,macs=0.73"},
    "mobilenet_v2_legr": {"target": "macs=0.5", "budgets": "macs=0.6,macs=0.7"},
    # He et al. 2016, section 3.4.
    "resnet50": {
        "batch_size": 256, "settle_learning_rate": 0.1, "weight_decay": 0.0001 * 10,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_flagfiles_call_published_is(name):
    (path,) = (path for path in FLAGFILES if path.stem == name)
    stored = settings.parse([f"--flagfile={path}"])[0].to_json()
    for key, value in PUBLISHED[name].items():
        wanted = value if isinstance(value, tuple) else (value,)
        assert stored[key] in wanted, key
    told = [x for x in path.read_text().splitlines() if x.startswith("#")]
    assert "the paper's" not in " ".join(told), "say which paper, and where"


def test_the_report_is_what_its_schema_says(finished):
    import jsonschema

    schema = files.read_json(
        str(Path(__file__).parents[1] / "docs" / "report.schema.json")
    )
    validator = jsonschema.Draft202012Validator(schema)
    report = report_of(finished)
    assert not [error.message for error in validator.iter_errors(report)]
    kinds = {section["kind"] for section in report["sections"]}
    assert kinds >= {"points", "curves", "bars", "table", "network"}
    for key in ("stages", "sections", "config"):  # the schema can fail
        broken = {**report, key: [{"name": "odd"}]}
        assert list(validator.iter_errors(broken))


def test_a_report_can_be_drawn_again_from_its_json(finished, tmp_path):
    from tfsparse import report

    report.write(report_of(finished), str(tmp_path))
    again = Path(tmp_path, "report.html").read_text("utf-8")
    assert again == Path(finished, "report.html").read_text("utf-8")
