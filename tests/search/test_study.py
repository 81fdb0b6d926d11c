"""Trials in a database: asked, told, left alone and put back; fronts, lineage, volumes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from tfsparse import files
from tfsparse.search import MorphSampler, Space, sampler, study, table_7
from tfsparse.search import __main__ as program

SPACE = Space(table_7((12,)))
NAMES = ("error", "weight_bytes")


def opened(folder, startup=4, search=None, **arguments):
    return study.opened(
        f"sqlite:///{folder}/study.db",
        NAMES,
        search or {"data": "made"},
        MorphSampler(SPACE, startup=startup),
        **arguments,
    )


def values_of(configuration) -> list[float]:
    weights = float(configuration["total-fc-layer-weights"])
    return [1 / weights, weights * configuration["alpha"]]


def work(own, wanted):
    while study.turn(own, wanted):
        trial, values = study.asked(own, SPACE)
        with study.beating(own, trial):
            told = values_of(values)
        study.told(own, trial, told, {"cost": {}})


def test_trials_are_kept_whole_and_a_second_start_goes_on(tmp_path):
    own = opened(tmp_path)
    work(own, 7)
    again = opened(tmp_path)
    assert not study.turn(again, 7)
    work(again, 9)
    assert len(again.trials) == 9
    for trial in again.trials:
        values = trial.user_attrs[study.CONFIGURATION]
        SPACE.check(values)
        assert trial.params == values and trial.state == TrialState.COMPLETE
        assert trial.values == values_of(values)
        assert (sampler.PARENT in trial.user_attrs) == (trial.number >= 4)


def test_a_trial_left_alone_is_put_back_as_it_was(tmp_path):
    own = opened(tmp_path, beat=1, grace=2)
    work(own, 5)
    trial, values = study.asked(own, SPACE)  # of a worker that dies now
    assert study.parent_of(own, trial) is not None
    time.sleep(3)
    work(own, 6)
    lost, done = own.trials[5:]
    assert lost.state == TrialState.FAIL and done.state == TrialState.COMPLETE
    assert done.params == values == lost.params
    assert study.folder_of(done) == study.folder_of(lost) == trial.number == 5
    for key in (sampler.PARENT, sampler.MORPHS):
        assert done.user_attrs[key] == lost.user_attrs[key]
    assert len(study.finished(own)) == 6


def test_a_trial_that_led_nowhere_is_not_put_back(tmp_path):
    own = opened(tmp_path, beat=1, grace=2)
    trial, _ = study.asked(own, SPACE)
    study.given_up(own, trial, "Everything died.")
    assert study.turn(own, 2) and not study.turn(own, 1)
    assert own.trials[0].user_attrs[study.WHY] == "Everything died."


def test_a_worker_that_dies_before_its_first_beat_blocks_nobody(tmp_path):
    own = opened(tmp_path, beat=1, grace=2)
    work(own, 3)
    with study._quietly():
        own.ask()  # and no more: it holds no configuration, and never beats
    time.sleep(1.5)
    assert study.turn(own, 4, grace=1)
    work(own, 4)
    assert [t.state.name for t in own.trials].count("FAIL") == 1


def test_a_configuration_that_ends_its_workers_is_put_back_only_so_often(tmp_path):
    own = opened(tmp_path, beat=1, grace=1)
    numbers = []
    for _ in range(study.MOST_RETURNS + 1):
        assert study.turn(own, 1)
        trial, _ = study.asked(own, SPACE)
        numbers.append(study.folder_of(trial))
        time.sleep(2.5)  # the worker is dead
    assert numbers == [0] * len(numbers)
    assert study.turn(own, 1)
    trial, _ = study.asked(own, SPACE)
    assert study.folder_of(trial) == trial.number == len(numbers)


WORKER = """
import sys, time
sys.path.insert(0, {tests!r})
import test_study as own
found = own.opened({folder!r}, beat=1, grace=3)
while own.study.turn(found, {wanted}):
    trial, values = own.study.asked(found, own.SPACE)
    with own.study.beating(found, trial):
        time.sleep(0.3)
        told = own.values_of(values)
    own.study.told(found, trial, told, {{"cost": {{}}}})
"""


@pytest.mark.slow
def test_workers_are_killed_and_nothing_is_lost(tmp_path):
    """Two at a time, ten killed: every configuration completed once."""
    opened(tmp_path, beat=1, grace=3)
    code = textwrap.dedent(WORKER).format(
        tests=os.path.dirname(__file__), folder=str(tmp_path), wanted=16
    )

    def started():
        return subprocess.Popen([sys.executable, "-c", code])

    running, rng = [started(), started()], np.random.default_rng(0)
    for _ in range(10):
        time.sleep(2 + 3 * rng.random())
        victim = running.pop(int(rng.integers(2)))
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        running.append(started())
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    own = opened(tmp_path)
    done = [t for t in own.trials if t.state == TrialState.COMPLETE]
    assert len(done) >= 16
    told = [json.dumps(t.user_attrs[study.CONFIGURATION], sort_keys=True) for t in done]
    assert len(set(told)) == len(told)
    lost = [t for t in own.trials if t.state == TrialState.FAIL]
    for trial in lost:  # what was begun was finished by another
        if study.CONFIGURATION in trial.user_attrs:
            again = json.dumps(trial.user_attrs[study.CONFIGURATION], sort_keys=True)
            assert again in told


def test_a_study_of_something_else_is_refused(tmp_path):
    opened(tmp_path)
    with pytest.raises(ValueError, match="`storage` must hold this search.*other data"):
        opened(tmp_path, search={"data": "else"})


@pytest.mark.parametrize(
    "storage",
    ["sqlite:////nowhere/at/all/study.db", "postgresql+psycopg://nobody@127.0.0.1:1/x"],
)
def test_a_storage_that_cannot_be_reached_is_one_line(storage):
    with pytest.raises(ValueError, match="`storage` must be a database") as told:
        study.opened(storage, NAMES, {}, MorphSampler(SPACE))
    assert "\n" not in str(told.value)


# Fronts --------------------------------------------------------------------------------


def made(points):
    own = optuna.create_study(directions=["minimize"] * len(points[0]))
    for point in points:
        own.add_trial(optuna.create_trial(values=list(map(float, point))))
    return own


def test_the_front_holds_what_nothing_beats():
    points = [(1, 9), (2, 5), (2, 7), (3, 5), (4, 1), (4, 1), (float("inf"), 0)]
    assert [t.number for t in study.front(made(points))] == [0, 1, 4]


def test_lineage_leads_back_to_a_random_one(tmp_path):
    own = opened(tmp_path)
    work(own, 9)
    for trial in own.trials:
        way = study.lineage(own, trial)
        assert way[-1]["trial"] == trial.number and not way[0]["morphs"]
        assert way[0]["trial"] < 4
        numbers = [row["trial"] for row in way]
        assert numbers == sorted(numbers)


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_hypervolume_against_counting(objectives):
    rng = np.random.default_rng(0)
    points = rng.random((8, objectives))
    reference = np.full(objectives, 0.9)
    grid = rng.random((40_000, objectives)) * 0.9
    covered = (points[None] <= grid[:, None]).all(2).any(1).mean() * 0.9**objectives
    assert study.hypervolume(points, reference) == pytest.approx(covered, abs=0.01)
    assert study.hypervolume(points + 1, reference) == 0


# The program ---------------------------------------------------------------------------


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
