"""LeGR's stage: what judges cut networks, the search, its ranking used again, bad input."""

from __future__ import annotations

import json
import pathlib

import keras
import numpy as np
import pytest
from conformance import models

import tfsparse
from tfsparse import data, files, methods, train
from tfsparse.deploy import variables
from tfsparse.engine import judging
from tfsparse.engine.stages import rank
from tfsparse.ranking import affine


def net():
    image = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(6, 3, padding="same", name="a", use_bias=False)(image)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(name="n")(x))
    y = keras.layers.Conv2D(6, 3, padding="same", name="b")(x)
    x = keras.layers.ReLU()(keras.layers.Add()([x, y]))
    x = keras.layers.Dense(8, activation="relu", name="c")(keras.layers.Flatten()(x))
    return keras.Model(image, keras.layers.Dense(10, name="out")(x))


def judged(steps, samples=96):
    digits = data.load("digits")
    model = models.randomise(net(), seed=2)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    x = digits.x_train.astype("float32") / 255
    own = (x[: 16 * steps], digits.y_train[: 16 * steps]) if steps else None
    judge = judging.Judge(
        model, loss, digits.x_validation[:samples], digits.y_validation[:samples],
        steps, 0.05, own, 16,
    )  # fmt: skip
    return model, judge, loss, digits


def masks(count):
    rng = np.random.default_rng(0)
    free = [g for g in tfsparse.find_groups(net()) if not g.frozen]
    for _ in range(count):
        yield {
            g.name: (rng.random(g.size) < 0.6) | (np.arange(g.size) == 0) for g in free
        }


@pytest.mark.parametrize("steps", [0, 20])
def test_a_mask_has_one_loss_whatever_came_before(steps):
    """Bit for bit: weights, BatchNorm and the optimizer begin anew."""
    _, judge, *_ = judged(steps)
    first, *others = masks(21)
    before = judge(first)
    told = [judge(keep) for keep in others]
    assert judge(first) == before
    assert len({*told, before}) > 15


def test_the_loss_is_that_of_the_network_built_anew():
    model, judge, loss, digits = judged(0)
    x, y = digits.x_validation[:96] / np.float32(255), digits.y_validation[:96]
    for keep in masks(3):
        small = tfsparse.strip(model, keep)
        expected = float(np.mean(loss(y, small.predict(x, verbose=0))))
        assert judge(keep) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("samples", [1, 7, 97, 144])
def test_any_number_of_samples_is_judged(samples):
    _, judge, *_ = judged(0, samples)
    assert judge.samples == samples and np.isfinite(judge(next(masks(1))))


# The stage ---------------------------------------------------------------------------------

FLAGS = ["--data=digits", "--model=mcu_cnn", "--method=legr", "--dense_epochs=1",
         "--evaluations=14", "--population=6", "--sample=3", "--fine_tune_epochs=1",
         "--formats=keras,tflite_int8", "--tensorboard=false", "--preflight=false"]  # fmt: skip


def run(folder, *more):
    return train.main(["train", *FLAGS, f"--workdir={folder}", *more])


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranked") / "run"
    assert run(folder, "--target=macs=0.5") == 0
    return folder


def test_a_run_ends_within_its_target(ranked):
    report = files.read_json(ranked / "report.json")
    stages = {row["name"]: row for row in report["stages"]}
    assert stages["mcu"]["macs"] <= 0.5 * report["dense_cost"]["macs"]
    assert report["target"][0]["share"] > 0.85  # four filters at a time is coarse
    assert report["method"]["rank"]["failed"] == 0
    titles = {section["title"] for section in report["sections"]}
    assert {"The ranking", "Progress of the search"} <= titles
    best = next(s for s in report["sections"] if s.get("name") == "rank_progress")
    losses = best["lines"][0]["ys"]
    assert len(losses) == 14 and losses == sorted(losses, reverse=True)
    held = json.loads((ranked / "ranking.json").read_text())
    assert set(held["layers"]) and held["target"] == "macs=0.5"


def test_a_ranking_is_cut_again_at_another_budget(ranked, tmp_path):
    again = tmp_path / "again"
    given = f"--ranking={ranked / 'ranking.json'}"
    assert run(again, "--target=params=0.4", given) == 0
    report = files.read_json(again / "report.json")
    assert report["stages"][-1]["params"] <= 0.4 * report["dense_cost"]["params"]
    assert report["method"]["rank"]["seconds"] == 0


def test_prune_cuts_the_ranking_as_the_run_does(ranked, tmp_path, capsys):
    """In seconds, at any budget: the very same filters stay."""
    from tfsparse.cli import main

    small = tmp_path / "small.keras"
    given = f"--ranking={ranked / 'ranking.json'}"
    half = "--target=macs=0.5"
    own = ["prune", str(ranked / "trained.keras"), str(small)]
    assert main.main([*own, half, given]) == 0
    model = keras.saving.load_model(small)
    report = files.read_json(ranked / "report.json")
    left = {g["name"]: g["kept"] for g in report["groups"] if g["kind"] == "unit"}
    found = {g.name: g.size for g in tfsparse.find_groups(model)}
    assert left == {name: found.get(name, 0) for name in left}
    pruned = next(row for row in report["stages"] if row["name"] == "stripped")
    assert tfsparse.measure(model).macs == pruned["macs"]
    whole = tfsparse.measure(keras.saving.load_model(ranked / "trained.keras"))
    _, told = tfsparse.prune(
        keras.saving.load_model(ranked / "trained.keras"), {"macs": 0.7},
        ranking=ranked / "ranking.json", ignore="conv1*",
    )  # fmt: skip
    assert 0.6 * whole.macs < told.after.macs <= 0.7 * whole.macs
    assert told.criterion == "ranking"
    (first, *_) = (g for g in told.groups if g.name.startswith("conv1"))
    assert first.kept == first.size and first.reason == "named in `ignore`"
    for more, sentence in {
        (
            half,
            given,
            "--scope=global",
        ): "nothing else that chooses units. Received: scope as well",
        (half, given, "--round_to=4"): "Received: ratios, minimum or round_to as well",
        ("--target=macs=0.001", given): "`target` must be within reach",
        (half, "--ranking=nowhere.json"): "`ranking` must be a file that can be read",
        (
            half,
            f"--ranking={ranked / 'report.json'}",
        ): "file that a search of LeGR wrote",
    }.items():
        assert main.main([*own, *more]) == 2
        assert sentence in capsys.readouterr().err
    net().save(tmp_path / "other.keras")
    own[1] = str(tmp_path / "other.keras")
    assert main.main([*own, half, given]) == 2
    assert "`ranking` must be one of this model" in capsys.readouterr().err


def test_workers_find_the_same_each_time_and_after_a_stop(tmp_path, monkeypatch):
    """Two processes: losses are told in the order of the candidates, whoever ends first."""
    from tfsparse.ranking import evolution

    target = "--target=macs=0.5", "--workers=2"
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run(whole, *target) == 0
    real = evolution.State.told

    def told(state, maps, loss, population):
        if state.done == 9:
            raise KeyboardInterrupt
        real(state, maps, loss, population)

    monkeypatch.setattr(evolution.State, "told", told)
    assert run(cut, *target) != 0
    monkeypatch.setattr(evolution.State, "told", real)
    assert run(cut, *target, "--resume") == 0
    assert (cut / "ranking.json").read_text() == (whole / "ranking.json").read_text()
    report = files.read_json(whole / "report.json")
    assert report["method"]["rank"]["evaluations_per_second"] > 0


@pytest.mark.slow
def test_losses_of_a_process_are_those_of_the_run(ranked, tmp_path):
    """With one candidate known at a time the search is that of one process."""
    report = files.read_json(ranked / "report.json")
    two = tmp_path / "two"
    assert run(two, "--target=macs=0.5", "--workers=2", "--population=14") == 0
    one = tmp_path / "one"
    assert run(one, "--target=macs=0.5", "--population=14") == 0
    assert (one / "ranking.json").read_text() == (two / "ranking.json").read_text()
    assert report["method"]["rank"]["failed"] == 0


def test_workers_do_not_know_a_method_of_your_own():
    from tfsparse.engine import stage

    class Mine(methods.find("legr")):
        name = "mine"

    with pytest.raises(
        ValueError, match="`workers` must be 1 with a method of your own"
    ):
        stage.check_workers(Mine(), 2)
    stage.check_workers(Mine(), 1)


@pytest.mark.parametrize("more", ["--rank_search=ddpg", "--rank_search=magnitude"])
def test_workers_without_candidates_are_an_error(more, tmp_path, capsys):
    assert run(tmp_path / "run", "--workers=2", more) == 2
    assert (
        "`workers` must be 1 where no candidates are judged" in capsys.readouterr().err
    )


def test_a_stopped_search_goes_on_to_the_same_ranking(ranked, tmp_path, monkeypatch):
    from tfsparse.ranking import evolution

    real, calls = evolution.State.told, []

    def told(self, *arguments):
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(evolution.State, "told", told)
    folder = tmp_path / "run"
    assert run(folder, "--target=macs=0.5") == 2
    assert run(folder, "--target=macs=0.5", "--resume") == 0
    one, two = (json.loads((f / "ranking.json").read_text()) for f in (ranked, folder))
    assert one["layers"] == two["layers"]
    assert len(calls) == 9 + 6  # eight were kept


SLOW = [pytest.param(way, marks=pytest.mark.slow) for way in ("amc", "ddpg")]


@pytest.mark.parametrize("way", ["uniform", "magnitude", "random", *SLOW])
def test_the_rivals_run_in_the_same_harness(way, tmp_path):
    assert run(tmp_path / "run", "--target=macs=0.5", f"--rank_search={way}") == 0
    report = files.read_json(tmp_path / "run" / "report.json")
    assert report["stages"][-1]["macs"] <= 0.5 * report["dense_cost"]["macs"]
    progress = [s for s in report["sections"] if s.get("name") == "rank_progress"]
    assert bool(progress) == (way in ("random", "amc", "ddpg"))
    learned = way in ("random", "ddpg")
    assert (tmp_path / "run" / "ranking.json").exists() == learned


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--target=macs=0.001",), "`target` must be within reach.*remain"),
        (("--target=",), "`target` must say what may remain"),
        (("--dense_epochs=0",), "`dense_epochs` must be positive, or `trained` true"),
        (("--budgets=macs=0.4,macs=0.4",), "`budgets` must be different ones"),
        (("--evaluations=0",), "`evaluations` must be 1 or more"),
        (("--ranking=/nowhere.json",), "`ranking` must be a file that exists"),
        (("--model=mlp", "--ranking={ranked}"), "`ranking` must be one of this model"),
    ],
)
def test_refused_before_training(ranked, more, message, tmp_path, capsys):
    import re

    own = [one.format(ranked=ranked / "ranking.json") for one in more]
    names = {one.partition("=")[0] for one in own}
    given = [one for one in FLAGS if one.partition("=")[0] not in names]
    code = train.main(["train", *given, f"--workdir={tmp_path / 'r'}", *own])
    said = capsys.readouterr().err
    assert code == 2 and re.search(message, said), said
    assert said.count("\n") == 1


def test_losses_that_are_nan_are_counted(tmp_path, monkeypatch):
    real = judging.Judge.__call__

    def some(self, keep):
        found = real(self, keep)
        return float("nan") if self.count % 4 == 1 else found

    monkeypatch.setattr(judging.Judge, "__call__", some)
    assert run(tmp_path / "run", "--target=macs=0.5") == 0
    report = files.read_json(tmp_path / "run" / "report.json")
    assert report["method"]["rank"]["failed"] == 4


def test_fit_shrinking_says_where_to_go():
    model = net()
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    with pytest.raises(ValueError, match="penalty to train under.*--method=legr"):
        tfsparse.fit_shrinking(model, methods.find("legr")(), np.zeros((4, 8, 8, 1)),
                               np.zeros(4), epochs=1)  # fmt: skip


def test_a_kernel_may_write_the_units_of_two_groups():
    """Heads of attention, and what each of them holds: one kernel, two rankings."""
    sequence = keras.Input((5, 8))
    x = keras.layers.Dense(6, name="before")(sequence)
    x = keras.layers.MultiHeadAttention(2, 3, name="heads")(x, x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(sequence, keras.layers.Dense(2)(x))
    groups = tfsparse.find_groups(model)
    found = affine.Layers.of_groups(groups, variables.values_of(model))
    scores = found.scores(np.tile([1.0, 0.0], (len(found), 1)))
    sizes = {g.name: g.size for g in groups if not g.frozen}
    assert {name: len(own) for name, own in scores.items()} == sizes
    kernel = np.asarray(model.get_layer("heads")._value_dense.kernel, "float64")
    np.testing.assert_allclose(scores["heads"], np.square(kernel).sum((0, 2)))
    held = np.square(kernel).sum(0).ravel()
    np.testing.assert_allclose(scores["heads:value"], held)


def test_pictures_that_are_to_be_rebuilt_are_seen_alike(tmp_path):
    """Targets are what the network sees: pixels divided by 255."""
    import types

    from tfsparse import methods as known

    digits = data.load("digits", task="reconstruction")
    image = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    model = keras.Model(image, keras.layers.Conv2D(1, 1)(x))
    context = types.SimpleNamespace(
        dataset=digits, task=digits.task, samples=64,
        training=types.SimpleNamespace(batch_of=lambda samples: 16),
    )  # fmt: skip
    judge = rank.judge_of(context, model, known.find("legr")(rank_samples=50))
    x = digits.x_validation[:50] / np.float32(255)
    expected = float(np.mean(digits.task.loss()(x, model.predict(x, verbose=0))))
    assert judge({}) == pytest.approx(expected, rel=1e-4)


def test_layers_are_those_that_write_units():
    model = net()
    found = affine.Layers.of_groups(
        tfsparse.find_groups(model), variables.values_of(model)
    )
    assert found.names == ("a/kernel", "b/kernel", "c/kernel")
    tied = {path for path, _ in found.groups[next(iter(found.groups))]}
    assert tied == {"a/kernel", "b/kernel"}
    kernel = np.asarray(model.get_layer("c").kernel, "float64")
    np.testing.assert_allclose(found.norms["c/kernel"], np.square(kernel).sum(0))


def test_a_family_is_searched_once(tmp_path, monkeypatch):
    """Each network is within its own budget, in its own folder, with its own report."""
    calls, real = [], judging.Judge.__call__

    def counted(self, keep):
        calls.append(1)
        return real(self, keep)

    monkeypatch.setattr(judging.Judge, "__call__", counted)
    folder = tmp_path / "run"
    assert run(folder, "--target=macs=0.3", "--budgets=macs=0.7,params=0.5") == 0
    assert len(calls) == 14
    main = files.read_json(folder / "report.json")
    whole = main["dense_cost"]
    for target, measure, share in (
        ("macs=0.7", "macs", 0.7),
        ("params=0.5", "params", 0.5),
    ):
        report = files.read_json(folder / target / "report.json")
        left = report["stages"][-1][measure]
        assert 0.8 * share * whole[measure] < left <= share * whole[measure]
        assert report["config"]["target"] == target
        assert (folder / target / "model_int8.tflite").exists()
    table = next(s for s in main["sections"] if s["title"] == "The family")
    assert [row[0] for row in table["rows"]] == ["this one", "macs=0.7", "params=0.5"]
    assert {"family_macs", "family_bytes"} <= {s.get("name") for s in main["sections"]}


def test_a_budget_of_a_family_that_is_out_of_reach_is_said_first(tmp_path, capsys):
    code = run(tmp_path / "run", "--target=macs=0.5", "--budgets=macs=0.0001")
    assert code == 2 and "`target` must be within reach" in capsys.readouterr().err


# Flagfiles ---------------------------------------------------------------------------------

SHAPES = {
    "lenet5_legr": (28, 28, 1), "resnet8_legr": (28, 28, 1), "resnet20_legr": (28, 28, 1),
    "resnet56_legr": (32, 32, 3), "resnet56_cifar100_legr": (32, 32, 3),
    "resnet50_legr": (224, 224, 3), "mobilenet_v2_legr": (224, 224, 3),
}  # fmt: skip
FLAGFILES = sorted(pathlib.Path(__file__).parents[2].glob("configs/*_legr.flags"))


def test_every_flagfile_has_its_data_here():
    assert {path.stem for path in FLAGFILES} == SHAPES.keys()


@pytest.mark.parametrize(
    "path",
    [
        path
        if path.stem == "lenet5_legr"
        else pytest.param(path, marks=pytest.mark.slow)
        for path in FLAGFILES
    ],
    ids=lambda path: path.stem,
)
def test_a_flagfile_takes_two_steps(path, tmp_path):
    """On made pictures of its shape, two classes: a family, all else as it says."""
    from tfsparse import zoo

    shape = SHAPES[path.stem]
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (8, *shape)).astype("uint8")
    y = np.array([0, 1] * 4)
    made = {"x_train": x[:4], "y_train": y[:4], "x_val": x[4:6], "y_val": y[4:6]}
    np.savez(tmp_path / "made.npz", **made, x_test=x[6:], y_test=y[6:])
    lines = {
        key: value
        for key, _, value in (
            line.removeprefix("--").partition("=")
            for line in path.read_text().splitlines()
            if line.startswith("--")
        )
    }
    if lines["model"].endswith(".keras"):
        name = pathlib.Path(lines["model"]).parent.name
        lines["model"] = str(tmp_path / "trained.keras")
        zoo.build(name, shape, 2).save(lines["model"])
    else:
        lines["dense_epochs"] = "1"
    for key in ("strategy", "validation", "image_size"):  # made data have their own
        lines.pop(key, None)
    if lines.get("augment", "").startswith("resized_crop"):
        lines["augment"] = "flip"
    lines |= {"data": str(tmp_path / "made.npz"), "batch_size": "2", "passes": "1",
              "fine_tune_epochs": "1", "evaluations": "2", "population": "2",
              "rank_steps": str(min(2, int(lines.get("rank_steps", 0)))),
              "formats": "keras", "tensorboard": "false", "preflight": "false",
              "workdir": str(tmp_path / "run")}  # fmt: skip
    given = [f"--{key}={value}" for key, value in lines.items()]
    assert train.main(["train", *given]) == 0
    main = files.read_json(tmp_path / "run" / "report.json")
    for target in [None, *lines["budgets"].split(",")]:
        report = files.read_json(tmp_path / "run" / (target or "") / "report.json")
        share = float(
            (target or main["config"].get("target", "macs=0.5")).split("=")[1]
        )
        assert report["stages"][-1]["macs"] <= share * main["dense_cost"]["macs"]
