"""`python -m tfsparse.search`, its page, a space of one's own, and the tuner."""

from __future__ import annotations

import pathlib

import keras
import keras_tuner
import numpy as np
import optuna
import pytest

from tfsparse import data, files, flags
from tfsparse.engine.training import Training
from tfsparse.search import Tuner, job, own, sampler, study
from tfsparse.search import __main__ as program
from tfsparse.search.admission import Admission
from tfsparse.search.settings import SearchSettings


def run(folder, *more, epochs=2):
    return program.main(
        ["--data=digits", "--objectives=error,weight_bytes", "--trials=3", "--startup=2",
         f"--epochs={epochs}", f"--workdir={folder}", *more]
    )  # fmt: skip


@pytest.mark.slow
def test_a_search_ends_in_a_front_of_files(tmp_path, capsys):
    folder = tmp_path / "search"
    assert run(folder) == 0
    told = files.read_json(folder / "pareto.json")
    assert told["trials"] == 3 and told["points"]
    for point in told["points"]:
        assert (folder / point["folder"] / "model_int8.tflite").exists()
        assert point["parity"][-1]["argmax_agreement"] > 0.9
        assert point["lineage"][-1]["trial"] == point["trial"]
        assert point["cost"]["weight_bytes"] == point["weight_bytes"]
    said = capsys.readouterr().out
    assert said.count("Trial ") == 3
    assert run(folder) == 0  # all done: nothing is tried again
    assert "Trial " not in capsys.readouterr().out
    assert run(folder, epochs=3) == 2
    assert "other epochs" in capsys.readouterr().err
    assert run(folder, "--bounds=weight_bytes=1") == 2
    assert "the least that was found" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "--objectives=error,speed",
            "`objectives` must join different names among error",
        ),
        ("--objectives=", "`objectives` must join different names"),
        ("--bounds=macs=5", "`bounds` must be on objectives"),
        ("--trials=0", "`trials` must be 1 or more"),
        ("--method=legr", "`method` must be one of"),
    ],
)
def test_refused_flags(line, message, tmp_path, capsys):
    given = ["--data=digits", f"--workdir={tmp_path / 'search'}", line]
    assert program.main(given) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "search").exists()


def test_help_is_a_page(capsys):
    assert program.main(["--help"]) == 0
    assert "Searches architecture" in capsys.readouterr().out


# Its page --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A search of five trials of a small space of one's own, polished and handed over."""
    folder = tmp_path_factory.mktemp("searched")
    name = f"{__name__}:small"
    code = program.main(
        ["--data=digits", f"--model={name}", "--objectives=error,weight_bytes", "--trials=5",
         "--startup=3", "--epochs=2", "--polish=1", f"--workdir={folder}"]
    )  # fmt: skip
    assert code == 0
    return folder, files.read_json(folder / "pareto.json")


def small(hp):
    """A hyper-model of somebody's: one hidden layer, two where that is wanted."""
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(inputs)
    x = keras.layers.Dense(hp.Int("units", 4, 12), activation="relu", name="first")(x)
    deep = hp.Boolean("deep")
    with hp.conditional_scope("deep", [True]):
        more = hp.Int("more", 2, 6)
    if deep:
        x = keras.layers.Dense(more, activation="relu", name="second")(x)
    return keras.Model(inputs, keras.layers.Dense(10, name="logits")(x))


def test_a_space_of_ones_own_is_searched(searched):
    folder, told = searched
    assert told["trials"] == 5 and not told["failed"]
    best = optuna.load_study(
        study_name=study.NAME, storage=f"sqlite:///{folder}/study.db"
    )
    for trial in best.trials:
        assert {"units", "deep", "alpha", "zero-regularization-epochs"} <= set(
            trial.params
        )
        assert ("more" in trial.params) == trial.params["deep"]
    morphed = [t.user_attrs[sampler.MORPHS] for t in best.trials[3:]]
    assert all(set(names) <= set(best.trials[0].params) | {"more", "annealing-epochs"}
               for names in morphed)  # fmt: skip


def test_the_hand_over_is_whole(searched):
    """Files, a report and test figures of every point; they are those of the file."""
    folder, told = searched
    digits = data.load("digits")
    for point in told["points"]:
        own_report = files.read_json(folder / point["folder"] / "report.json")
        assert own_report["stages"][0]["name"] == "finetuned"
        assert point["test"]["score"] == own_report["stages"][-1]["accuracy"]
        model = keras.saving.load_model(folder / point["folder"] / "model.keras")
        x = digits.x_validation / np.float32(255)
        wrong = model.predict(x, verbose=0).argmax(-1) != digits.y_validation.ravel()
        assert point["error"] == pytest.approx(wrong.mean())
        assert not (folder / point["folder"] / "checkpoints").exists()
    kinds = [section["kind"] for section in told["sections"]]
    assert kinds.count("scatter") == 3 and "network" in kinds and "curves" in kinds
    tables = {s["title"]: s for s in told["sections"] if s["kind"] == "table"}
    taken = tables["What children took over"]["rows"]
    assert taken and all(0 < least <= mean <= 1 for _, _, mean, least in taken)
    page = (folder / "report.html").read_text()
    assert "How the front grew" in page and "The front" in page
    assert (folder / "plots" / "front_weight_bytes.png").exists()


def test_what_cannot_ship_is_told_and_left_out(searched, monkeypatch):
    """A converter that fails on the first point: the others are handed over."""
    folder, told = searched
    from tfsparse.engine import searched as engine

    real, calls = engine.verify, []

    def verify(model, artifacts, x):
        calls.append(model)
        if len(calls) == 1:
            raise ValueError(
                "`model_int8.tflite` must run on LiteRT. Received: it crashed."
            )
        return real(model, artifacts, x)

    monkeypatch.setattr(engine, "verify", verify)
    chosen = SearchSettings(
        workdir=str(folder), model=f"{__name__}:small", objectives="error,weight_bytes",
        trials=5, startup=3, epochs=2,
    )  # fmt: skip
    again = job.begun(chosen, data.Data(data="digits"), job.Training()).hand_over()
    assert len(again["failed"]) == 1 and "it crashed" in again["failed"][0]["why"]
    numbers = {point["trial"] for point in again["points"]}
    assert again["failed"][0]["trial"] not in numbers and numbers


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere:net", "`model` must be table_7, or package.module:name"),
        ("nothing", "`model` must be table_7, or package.module:name"),
        (f"{__name__}:data", "must name a keras_tuner.HyperModel or a function"),
        (f"{__name__}:wrong", "must build networks of (8, 8, 1) inputs and 10 outputs"),
        (f"{__name__}:taken", "must not call its parameters alpha"),
    ],
)
def test_hypermodels_that_cannot_be_searched(name, message, tmp_path, capsys):
    code = run(tmp_path / "s", f"--model={name}")
    said = capsys.readouterr()
    assert code == 2
    assert message in said.err + said.out


def wrong(hp):
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(hp.Int("n", 2, 3))(inputs))


def taken(hp):
    hp.Float("alpha", 0, 1)
    return small(hp)


# Bounds and ends before their time ---------------------------------------------------------


def test_a_bound_that_nothing_meets_is_said_before_training(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(sampler, "TRIES", 20)
    code = program.main(
        ["--data=digits", "--objectives=error,working_memory_2", "--trials=3",
         "--bounds=working_memory_2=5", f"--workdir={tmp_path / 's'}"]
    )  # fmt: skip
    said = capsys.readouterr()
    assert code == 2 and "be within them, whatever is pruned. The least" in said.err
    assert "Trial" not in said.out


def test_bounds_are_looked_at_before_training():
    from tfsparse import search

    chosen = SearchSettings(
        objectives="error,working_memory_2", bounds="working_memory_2=1000"
    )
    admits = Admission(chosen, search.build, search.smallest, (28, 28, 1), 10)
    space = search.Space(search.table_7((28, 28, 1)))
    rng = np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(12)]
    told = [admits(values) for values in drawn]
    assert any(told) and not all(told)
    for values, fine in zip(drawn, told, strict=True):
        if not values["downsample-input"]:
            assert not fine  # 784 pixels, and what the first layer makes of them


def test_what_is_too_large_to_train_is_not_tried():
    import tfsparse
    from tfsparse import search

    chosen = SearchSettings(largest="macs=1e6,params=1e5")
    admits = Admission(chosen, search.build, search.smallest, (28, 28, 1), 10)
    space = search.Space(search.table_7((28, 28, 1)))
    own = sampler.RandomSampler(space, admits=admits)
    study_ = optuna.create_study(sampler=own, directions=["minimize"] * 3)
    for _ in range(3):
        cost = tfsparse.measure(
            search.build(study_.ask().relative_params, (28, 28, 1), 10)
        )
        assert cost.macs <= 1e6 and cost.params <= 1e5
    with pytest.raises(ValueError, match="`largest` must be of"):
        SearchSettings(largest="speed=3")


# keras-tuner ---------------------------------------------------------------------------------


def test_a_tuner_asks_the_study(tmp_path):
    digits = data.load("digits")
    tuner = Tuner(small, objectives=("error", "weight_bytes"), max_trials=3, epochs=1,
                  startup=2, directory=str(tmp_path), project_name="own")  # fmt: skip
    assert isinstance(tuner, keras_tuner.Tuner)
    tuner.search(digits.x_train, digits.y_train)
    tuner.results_summary()
    best = tuner.get_best_models(1)[0]
    assert best.output_shape == (None, 10)
    hp = tuner.get_best_hyperparameters(1)[0]
    assert {"units", "deep", "alpha"} <= hp.values.keys()
    front = tuner.front()
    assert front and tuner.load_model_of(front[0]).count_params() > 0
    assert len(study.finished(tuner._begun().study)) == 3
    with pytest.raises(ValueError, match="`search` must be given x, y"):
        tuner.search(digits.x_train, digits.y_train, epochs=3)


def test_the_program_and_the_tuner_know_the_same_hypermodel():
    space, build = own.searched(small)
    values = space.sample(np.random.default_rng(0))
    model = build(values, (8, 8, 1), 10)
    assert model.get_layer("first").units == values["units"]
    assert ("more" in values) == values["deep"]


def test_other_arrays_are_another_search(tmp_path):
    digits = data.load("digits")
    given = {"objectives": ("error", "weight_bytes"), "max_trials": 1, "epochs": 1,
             "startup": 2, "directory": str(tmp_path), "project_name": "own"}  # fmt: skip
    with pytest.raises(ValueError, match="one class for each sample"):
        Tuner(small, **given).search(digits.x_train)
    Tuner(small, **given).search(digits.x_train, digits.y_train)
    with pytest.raises(ValueError, match="`storage` must hold this search.*other"):
        Tuner(small, **given).search(digits.x_train[::-1], digits.y_train[::-1])
    with pytest.raises(ValueError, match="`workers` must be left to the program"):
        Tuner(small, workers=4, **given)


def test_a_full_disk_ends_a_tuners_search(tmp_path, monkeypatch):
    """keras-tuner would go on with the next trial, and the next."""
    from tfsparse.engine import candidate

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(candidate.Candidates, "__call__", full)
    digits = data.load("digits")
    tuner = Tuner(small, objectives=("error", "weight_bytes"), max_trials=3, epochs=1,
                  startup=2, directory=str(tmp_path), project_name="own")  # fmt: skip
    with pytest.raises(OSError, match="No space left"):
        tuner.search(digits.x_train, digits.y_train)
    states = [t.state.name for t in tuner._begun().study.trials]
    assert states == ["FAIL", "WAITING"]


def nameless(hp):
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(inputs)
    x = keras.layers.Dense(hp.Int("units", 4, 12), activation="relu")(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x))


def test_layers_without_names_inherit_too():
    from tfsparse import search

    space, build = own.searched(nameless)
    values = space.sample(np.random.default_rng(0))
    first = build(values, (8, 8, 1), 10)
    keras.layers.Dense(3)  # the counter goes on
    again = build(values, (8, 8, 1), 10)
    assert [x.name for x in first.layers[1:]] == [x.name for x in again.layers[1:]]
    assert search.inherit(again, first).share == 1


def ends_in_softmax(hp):
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Dense(hp.Int("units", 4, 6), activation="relu")(
        keras.layers.Flatten()(inputs)
    )
    return keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x))


def test_probabilities_are_known_for_what_they_are(tmp_path):
    chosen = SearchSettings(workdir=str(tmp_path), model=f"{__name__}:ends_in_softmax")
    found = job.begun(chosen, data.Data(data="digits"), Training())
    assert found.dataset.task.probabilities
    assert found.evaluate.dataset.task.probabilities


@pytest.mark.parametrize("kind", ["random", "evolution"])
def test_every_sampler_goes_on_past_its_start(kind, tmp_path):
    code = program.main(
        ["--data=digits", f"--model={__name__}:nameless", "--objectives=error,weight_bytes",
         "--trials=4", "--startup=2", "--epochs=1", f"--sampler={kind}",
         f"--workdir={tmp_path / 's'}"]
    )  # fmt: skip
    assert code == 0
    told = files.read_json(tmp_path / "s" / "pareto.json")
    assert told["trials"] == 4


@pytest.mark.parametrize("kind", ["morphs", "evolution"])
def test_every_parameter_of_ones_own_is_morphed(kind):
    """Not those of the schedule alone, which table 8 knows by name."""
    space, _ = own.searched(small)
    found = sampler.SAMPLERS[kind](space, startup=4)
    held = optuna.create_study(sampler=found, directions=["minimize"] * 2)
    for _ in range(40):
        trial = held.ask()
        for name in space.active(trial.relative_params):
            study.suggested(trial, name, space.ranges[name])
        held.tell(trial, [1 / trial.params["units"], float(trial.params["units"])])
    told = {name for t in held.trials for name in t.user_attrs.get(sampler.MORPHS, ())}
    assert {"units", "deep", "more", "alpha"} <= told


def test_data_and_settings_that_do_not_go_together(tmp_path, capsys):
    line = ["--data=wine", "--augment=shift=2", f"--workdir={tmp_path / 's'}"]
    assert program.main(line) == 2
    assert (
        "`augment` must be empty for data that are no images" in capsys.readouterr().err
    )


def test_a_row_of_numbers_is_searched(tmp_path, capsys):
    """Columns of any range, and no configuration that could not be pruned."""
    code = program.main(
        ["--data=wine", "--objectives=error,weight_bytes", "--trials=3", "--startup=3",
         "--epochs=2", f"--workdir={tmp_path / 's'}"]
    )  # fmt: skip
    assert code == 0
    assert "given up" not in capsys.readouterr().out


def test_a_storage_that_fails_midway_is_one_line(tmp_path, monkeypatch, capsys):
    import sqlalchemy.exc

    def gone(*_, **__):
        raise sqlalchemy.exc.OperationalError("select", {}, Exception("server is gone"))

    monkeypatch.setattr(study, "turn", gone)
    code = program.main(
        ["--data=digits", f"--model={__name__}:nameless", "--trials=2",
         f"--workdir={tmp_path / 's'}"]
    )  # fmt: skip
    said = capsys.readouterr().err
    assert code == 2 and "`storage` must stay within reach" in said
    assert said.count("\n") == 1


# Flagfiles ------------------------------------------------------------------------------------

SHAPES = {
    "digits": ((8, 8, 1), 10), "mnist": ((28, 28, 1), 10), "mnist_2kb": ((28, 28, 1), 10),
    "fashion_mnist": ((28, 28, 1), 10), "cifar10_binary": ((32, 32, 3), 2),
    "chars4k": ((20, 20, 1), 2), "curet": ((610,), 61),
}  # fmt: skip
FLAGFILES = sorted(pathlib.Path(__file__).parents[2].glob("configs/search/*.flags"))


def test_every_flagfile_has_its_data_here():
    assert {path.stem for path in FLAGFILES} == SHAPES.keys()


QUICK = ("digits", "mnist_2kb", "curet")
"""Flagfiles that are tried each time, a picture, a bound and a row among them."""


@pytest.mark.parametrize(
    "path",
    [
        path if path.stem in QUICK else pytest.param(path, marks=pytest.mark.slow)
        for path in FLAGFILES
    ],
    ids=lambda path: path.stem,
)
def test_a_flagfile_tries_a_configuration(path, tmp_path):
    """On made data of its shape: one trial of two steps, with all else that it says."""
    shape, classes = SHAPES[path.stem]
    rng = np.random.default_rng(0)
    count = 6 * classes
    y = np.repeat(np.arange(classes), 6).astype("int64")
    x = rng.random((count, *shape)).astype("float32")
    if len(shape) == 3:
        x = (255 * x).astype("uint8")
    np.savez(tmp_path / "made.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    line = flags.expanded([f"--flagfile={path}"])
    found, _ = flags.read(line, program.PARTS, once=True)
    chosen = found[SearchSettings] | {
        "workdir": str(tmp_path / "s"), "trials": 1, "epochs": 1, "bounds": "",
    }  # fmt: skip
    source = found[data.Data] | {"data": str(tmp_path / "made.npz"), "validation": 0.2}
    training = found[Training] | {"batch_size": (count + 1) // 2, "passes": 1}
    search = job.begun(
        SearchSettings(**chosen), data.Data(**source), Training(**training)
    )
    search.work()
    (trial,) = study.finished(search.study)
    assert trial.values and len(trial.values) == 3, trial.user_attrs
    assert trial.values[0] <= 1
