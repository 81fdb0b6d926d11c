"""Where the trials of a search live: a study of Optuna's, asked and told by any number of workers.

No worker is the chief, and any may die: while it works on a trial it beats, and a trial that
no longer beats is put back for another, which finds the checkpoints in the trial's folder.
"""

from __future__ import annotations

import contextlib
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

CONFIGURATION = sampling.CONFIGURATION
FOLDER = "tfsparse:folder"
OUTCOME = "tfsparse:outcome"
WHY = "tfsparse:why"
BEGUN = "tfsparse:begun"
RETURNS = "tfsparse:returns"
RETURNED_AT = "tfsparse:returned_at"
PROGRESS = "tfsparse:progress"
SEARCH = "tfsparse:search"
"""Attributes of trials and, the last one, of the study."""

BEAT, GRACE = 20, 90
"""Seconds between two beats, and without one until a trial counts as left alone."""

MOST_RETURNS = 3
"""A configuration that was left alone more often, at one and the same epoch, ends its workers:
it is given up."""

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
    storage = address_of(storage)
    try:
        study = _opened(storage, objectives, sampler, beat, grace)
    except Exception as error:
        known = type(error).__module__.startswith(("sqlalchemy", "optuna", "psycopg"))
        if not known and not isinstance(error, ImportError):
            raise
        raise ValueError(
            f"`storage` must be a database that can be reached. Received: "
            f"{shown(storage)!r} ({str(error).splitlines()[0]})."
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


def address_of(storage: str) -> str:
    """An address with the driver that this package brings for PostgreSQL."""
    for short in ("postgresql://", "postgres://"):
        if storage.startswith(short):
            return f"postgresql+psycopg://{storage.removeprefix(short)}"
    return storage


def shown(storage: str) -> str:
    """An address without its password.

    Example:
        >>> shown("postgresql+psycopg://me:secret@host/name")
        'postgresql+psycopg://me:***@host/name'
    """
    from sqlalchemy import engine, exc

    try:
        return engine.make_url(storage).render_as_string(hide_password=True)
    except exc.ArgumentError:
        return storage


def faults() -> tuple[type[Exception], ...]:
    """What a database raises that cannot be used any more."""
    from sqlalchemy import exc

    return exc.SQLAlchemyError, optuna.exceptions.StorageInternalError


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
    """A trial that its worker left alone waits again, its configuration as it was.

    One that got no further since its last return ends its workers, it seems: after a few of
    these it is given up.
    """
    attributes = dict(trial.user_attrs)
    values = attributes.get(CONFIGURATION)
    attributes.pop(BEGUN, None)
    if values is None:
        return
    further = attributes.get(PROGRESS, 0) > attributes.get(RETURNED_AT, 0)
    returns = 1 if further else attributes.get(RETURNS, 0) + 1
    kept = {
        FOLDER: trial.number,
        **attributes,
        RETURNS: returns,
        RETURNED_AT: attributes.get(PROGRESS, 0),
    }
    if returns <= MOST_RETURNS:
        study.enqueue_trial(values, user_attrs=kept)
    else:
        why = f"Its worker died {returns} times without getting any further."
        study.add_trial(
            optuna.create_trial(state=TrialState.FAIL, user_attrs={**kept, WHY: why})
        )


def _ended(study: optuna.Study, trial, state: TrialState, values=None) -> bool:
    """Ends a trial; False where another worker has done so."""
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        return study._storage.set_trial_state_values(trial._trial_id, state, values)
    return False


class Watch:
    """Notices trials whose worker died where no beat tells: before its first, or between the
    end of a trial and its return. Times are this worker's own: clocks of others may differ.

    Args:
        grace: Seconds that such a state may last.
    """

    def __init__(self, grace: float):
        self._grace = grace
        self._since: dict[int, float] = {}

    def look(self, study: optuna.Study, trials) -> None:
        """Puts back what was left so for longer than the grace."""
        # Of a configuration's attempts the last one counts, if none ended or goes on.
        last = {folder_of(t): t.number for t in trials}
        going = {folder_of(t) for t in trials if t.state != TrialState.FAIL}
        going |= {folder_of(t) for t in trials if WHY in t.user_attrs}
        stuck = {
            t._trial_id: t
            for t in trials
            if (t.state == TrialState.RUNNING and BEGUN not in t.user_attrs)
            or (
                CONFIGURATION in t.user_attrs
                and folder_of(t) not in going
                and last[folder_of(t)] == t.number
            )
        }
        now = time.monotonic()
        self._since = {key: self._since.get(key, now) for key in stuck}
        for key, since in self._since.items():
            if now - since <= self._grace:
                continue
            trial = stuck[key]
            if trial.state == TrialState.RUNNING:
                if _ended(study, trial, TrialState.FAIL):
                    put_back(study, trial)
            else:
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
    """The next trial, and its configuration: that of one put back, or a new one.

    Raises:
        ValueError: The sampler found nothing that is admitted.
    """
    while True:
        with _quietly():
            trial = study.ask()
        try:
            with beating(study, trial):  # to sample may take longer than a grace
                found = _configured(study, trial, space)
        except optuna.exceptions.UpdateFinishedTrialError:
            continue  # another worker took it for left alone
        except ValueError:
            _ended(study, trial, TrialState.FAIL)
            raise
        if found is not None:
            return trial, found


def _configured(study, trial, space: Space) -> Configuration | None:
    """A trial's configuration, told to its study; None of one that another has in hand."""
    folder = trial.user_attrs.get(FOLDER)
    if folder is not None:
        states = TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED
        for other in study.get_trials(deepcopy=False, states=states):
            if folder_of(other) == folder and other.number != trial.number:
                _ended(study, trial, TrialState.FAIL)  # it was put back twice
                return None
    values = dict(trial.user_attrs.get(CONFIGURATION) or trial.relative_params)
    trial.set_user_attr(CONFIGURATION, values)
    trial.set_user_attr(BEGUN, True)
    for name in space.active(values):
        suggested(trial, name, space.ranges[name])
    return values


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


def progressed(study: optuna.Study, trial: optuna.Trial, epochs: int) -> None:
    """Says how far a trial has come, so that a return is known to have got further."""
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        trial.set_user_attr(PROGRESS, epochs)


def told(study: optuna.Study, trial: optuna.Trial, values, outcome: Mapping) -> None:
    """Ends a trial with its objectives; another worker may have done so meanwhile."""
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        trial.set_user_attr(OUTCOME, dict(outcome))
        _ended(study, trial, TrialState.COMPLETE, list(map(float, values)))


def stopped(study: optuna.Study, trial: optuna.Trial, values, outcome: Mapping) -> None:
    """Ends a trial that others leave behind, with the objectives that it had by then."""
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        trial.set_user_attr(OUTCOME, dict(outcome))
        trial.set_user_attr(sampling.STOPPED, list(map(float, values)))
        _ended(study, trial, TrialState.PRUNED)


def given_up(study: optuna.Study, trial: optuna.Trial, why: str) -> None:
    """Ends a trial that led nowhere; it is not put back."""
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        trial.set_user_attr(WHY, why)
        _ended(study, trial, TrialState.FAIL)


def left(study: optuna.Study, trial: optuna.Trial) -> None:
    """Puts a trial back whose worker cannot go on, through no fault of the configuration."""
    held = study.get_trials(deepcopy=False)[trial.number]
    if _ended(study, trial, TrialState.FAIL):
        put_back(study, held)


def finished(study: optuna.Study) -> list:
    """Trials that are not tried again: completed, stopped, or given up."""
    ended = TrialState.COMPLETE, TrialState.PRUNED
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state in ended
        or (trial.state == TrialState.FAIL and WHY in trial.user_attrs)
    ]


def turn(study: optuna.Study, wanted: int, watch: Watch | None = None) -> bool:
    """Waits until there is something to do: False once so many trials are finished.

    Whoever has nothing left to begin waits for the others, whose trials it may have to take
    over. Where several workers ask for the last ones at once, a few more may be tried.

    Args:
        study: The study.
        wanted: How many trials.
        watch: What this worker saw of the others so far.
    """
    watch = watch or Watch(GRACE)
    while True:
        with _quietly():
            optuna.storages.fail_stale_trials(study)
        trials = study.get_trials(deepcopy=False)
        watch.look(study, trials)
        trials = study.get_trials(deepcopy=False)
        states = [trial.state for trial in trials]
        running = states.count(TrialState.RUNNING)
        if TrialState.WAITING in states:
            return True
        if len(finished(study)) + running < wanted:
            return True
        if not running:
            return False
        time.sleep(WAIT)
