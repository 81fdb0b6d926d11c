"""Where the trials of a search live: a study of Optuna's, asked and told by any number of workers.

No worker is the chief, and any may die: while it works on a trial it beats, and a trial that
no longer beats is put back for another, which finds the checkpoints in the trial's folder.
"""

from __future__ import annotations

import contextlib
import datetime
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import TrialState

from tfsparse.search import sampler as sampling
from tfsparse.search.space import Configuration, Space, options_of

NAME = "sparse"

CONFIGURATION = "tfsparse:configuration"
FOLDER = "tfsparse:folder"
OUTCOME = "tfsparse:outcome"
WHY = "tfsparse:why"
BEGUN = "tfsparse:begun"
RETURNS = "tfsparse:returns"
SEARCH = "tfsparse:search"
"""Attributes of trials and, the last one, of the study."""

BEAT, GRACE = 20, 90
"""Seconds between two beats, and without one until a trial counts as left alone."""

MOST_RETURNS = 3
"""A configuration that was left alone more often ends its workers: it is put back no more."""

WAIT = 0.5
"""Seconds between two looks at trials that others work on."""


def opened(
    storage: str,
    objectives: Sequence[str],
    search: Mapping[str, Any],
    sampler: optuna.samplers.BaseSampler,
    beat: int = BEAT,
    grace: int = GRACE,
) -> optuna.Study:
    """The study of a search, made where there is none.

    Args:
        storage: Such as `sqlite:///runs/search/study.db` or `postgresql+psycopg://...`.
        objectives: Names, all to be minimised.
        search: What the study is of, as JSON (space, data, epochs): another one is refused.
        sampler: What chooses.
        beat, grace: See `BEAT` and `GRACE`.

    Raises:
        ValueError: The storage cannot be reached, or holds another search.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = _opened(storage, objectives, sampler, beat, grace)
    except Exception as error:
        known = type(error).__module__.startswith(("sqlalchemy", "optuna", "psycopg"))
        if not known and not isinstance(error, ImportError):
            raise
        raise ValueError(
            f"`storage` must be a database that can be reached. Received: {storage!r} "
            f"({str(error).splitlines()[0]})."
        ) from error
    wanted = {**search, "objectives": list(objectives)}
    held = study.user_attrs.get(SEARCH)
    if held is None:
        study.set_user_attr(SEARCH, wanted)
        with _quietly():
            study.set_metric_names(list(objectives))  # what dashboards call them
    elif held != wanted:
        close(study)
        other = sorted(
            key
            for key in held.keys() | wanted.keys()
            if held.get(key) != wanted.get(key)
        )
        raise ValueError(
            f"`storage` must hold this search. Received: one with other {', '.join(other)}; "
            "choose another --workdir or --storage."
        )
    return study


def _opened(storage: str, objectives, sampler, beat: int, grace: int) -> optuna.Study:
    with _quietly():
        held = optuna.storages.RDBStorage(
            storage,
            heartbeat_interval=beat,
            grace_period=grace,
            heartbeat_stale_trial_callback=put_back,
        )
    return optuna.create_study(
        storage=held,
        study_name=NAME,
        directions=["minimize"] * len(objectives),
        sampler=sampler,
        load_if_exists=True,
    )


def close(study: optuna.Study) -> None:
    """Ends this process's connections to the database; the next question opens another."""
    held: Any = getattr(study._storage, "_backend", study._storage)
    held.scoped_session.remove()
    held.engine.dispose()


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what Optuna says of heartbeats: that they are young, and meant for its loop."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", ".*supposed to be used with Study.optimize")
        yield


def put_back(study: optuna.Study, trial) -> None:
    """A trial that its worker left alone waits again, its configuration as it was."""
    attributes = dict(trial.user_attrs)
    values, returns = attributes.get(CONFIGURATION), attributes.get(RETURNS, 0)
    attributes.pop(BEGUN, None)
    if values is not None and returns < MOST_RETURNS:
        kept = {FOLDER: trial.number, **attributes, RETURNS: returns + 1}
        study.enqueue_trial(values, user_attrs=kept)


def _put_back_what_never_beat(study: optuna.Study, trials, grace: float) -> None:
    """Ends trials whose worker died between asking and its first beat: no beat is missed."""
    for trial in trials:
        if trial.state != TrialState.RUNNING or BEGUN in trial.user_attrs:
            continue
        begun = trial.datetime_start
        if begun and (datetime.datetime.now() - begun).total_seconds() > grace:
            with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
                study.tell(trial.number, state=TrialState.FAIL)
                put_back(study, trial)


@contextlib.contextmanager
def beating(study: optuna.Study, trial: optuna.Trial) -> Iterator[None]:
    """Beats for a trial while the block runs."""
    held: Any = study._storage
    interval = held.get_heartbeat_interval()
    over = threading.Event()

    def beat() -> None:
        while not over.wait(interval):
            with contextlib.suppress(Exception):  # the next beat may come through
                held.record_heartbeat(trial._trial_id)

    thread = threading.Thread(target=beat, daemon=True)
    held.record_heartbeat(trial._trial_id)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def asked(study: optuna.Study, space: Space) -> tuple[optuna.Trial, Configuration]:
    """The next trial, and its configuration: that of one put back, or a new one."""
    with _quietly():
        trial = study.ask()
    study._storage.record_heartbeat(trial._trial_id)  # type: ignore[attr-defined]
    values = dict(trial.user_attrs.get(CONFIGURATION) or trial.relative_params)
    trial.set_user_attr(CONFIGURATION, values)
    trial.set_user_attr(BEGUN, True)
    for name in space.active(values):
        suggested(trial, name, space.ranges[name])
    return trial, values


def suggested(trial: optuna.Trial, name: str, distribution):
    """What a trial has for a parameter, told to its study."""
    choices = options_of(distribution)
    if choices is not None:
        return trial.suggest_categorical(name, choices)
    kind = trial.suggest_int
    if isinstance(distribution, optuna.distributions.FloatDistribution):
        kind = trial.suggest_float
    given: dict[str, Any] = {"log": distribution.log, "step": distribution.step}
    return kind(name, distribution.low, distribution.high, **given)


def folder_of(trial) -> int:
    """The number of a trial's folder: of one that was put back, its first."""
    return trial.user_attrs.get(FOLDER, trial.number)


def parent_of(study: optuna.Study, trial) -> int | None:
    """The number of the folder of a trial's parent."""
    trials = {own.number: own for own in study.get_trials(deepcopy=False)}
    # As stored: what the sampler told of it, a trial just asked for does not know.
    number = trials[trial.number].user_attrs.get(sampling.PARENT)
    return None if number is None else folder_of(trials[number])


def told(study: optuna.Study, trial: optuna.Trial, values, outcome: Mapping) -> None:
    """Ends a trial with its objectives; another worker may have done so meanwhile."""
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        trial.set_user_attr(OUTCOME, dict(outcome))
        study.tell(trial, list(values))


def stopped(study: optuna.Study, trial: optuna.Trial, values, outcome: Mapping) -> None:
    """Ends a trial that others leave behind, with the objectives that it had by then."""
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        trial.set_user_attr(OUTCOME, dict(outcome))
        trial.set_user_attr(sampling.STOPPED, list(values))
        study.tell(trial, state=TrialState.PRUNED)


def given_up(study: optuna.Study, trial: optuna.Trial, why: str) -> None:
    """Ends a trial that led nowhere; it is not put back."""
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        trial.set_user_attr(WHY, why)
        study.tell(trial, state=TrialState.FAIL)


def left(study: optuna.Study, trial: optuna.Trial) -> None:
    """Puts a trial back whose worker cannot go on, through no fault of the configuration."""
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        kept = study.get_trials(deepcopy=False)[trial.number]
        study.tell(trial, state=TrialState.FAIL)
        put_back(study, kept)


def finished(study: optuna.Study) -> list:
    """Trials that are not tried again: completed, stopped, or given up."""
    ended = TrialState.COMPLETE, TrialState.PRUNED
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state in ended
        or (trial.state == TrialState.FAIL and WHY in trial.user_attrs)
    ]


def turn(study: optuna.Study, wanted: int, grace: float = GRACE) -> bool:
    """Waits until there is something to do: False once so many trials are finished."""
    while True:
        with _quietly():
            optuna.storages.fail_stale_trials(study)
        trials = study.get_trials(deepcopy=False)
        _put_back_what_never_beat(study, trials, grace)
        done = len(finished(study))
        if done >= wanted:
            return False
        waiting = sum(trial.state == TrialState.WAITING for trial in trials)
        running = sum(trial.state == TrialState.RUNNING for trial in trials)
        if waiting or done + running < wanted:
            return True
        time.sleep(WAIT)
