"""How a search goes on: samplers for Optuna that keep nothing of their own.

All they know comes from the stored trials, so any number of workers may have one each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna

from tfsparse.search import dominance, morphs, surrogate
from tfsparse.search.space import Configuration, Space, drawn

CANDIDATES, FRESH = 200, 0.25
"""Among so many a joint sample of the Gaussian processes chooses; the share of them that are
no morphs but new random ones."""

REFIT = 20
"""Kernel parameters are fitted again once there are so many more trials."""

POPULATION, TOURNAMENT = 20, 5
"""Of aging evolution: how many trials live, and how many of them compete."""

CONFIGURATION = "tfsparse:configuration"
KERNEL = "tfsparse:kernel"
PARENT = "tfsparse:parent"
MORPHS = "tfsparse:morphs"
STOPPED = "tfsparse:stopped"
"""Attributes of studies and trials; the last one: objectives of a trial as it was stopped."""

BEYOND = 0.1
"""Share of an objective's range that is hoped for below the least that was seen."""

OUTSIDE = 1e6
"""What is expected beyond a bound comes after all that is not, the nearest first."""

TRIES = 400
"""So often another candidate is drawn in place of one that is not admitted."""

Known = list[tuple[Any, Configuration]]

Candidate = tuple[Configuration, Any, Sequence[str]]
"""A configuration, the trial that it is a child of (None of a random one), its morphs."""


class RandomSampler(optuna.samplers.BaseSampler):
    """Samples configurations uniformly; base of those that go on from what was tried.

    Args:
        space: What is searched; None takes the parameters that a study's trials share, and
            their morphs change one of them.
        startup: How many random trials come first.
        bounds: Up to where each objective matters; None for those without a bound.
        admits: Whether a configuration may be tried; others are drawn again.
        seed: Of everything random; the same trial number draws the same.

    Raises:
        ValueError: Nothing that is admitted was found.
    """

    def __init__(
        self,
        space: Space | None = None,
        startup: float = math.inf,
        bounds: Sequence[float | None] = (),
        admits: Callable[[Configuration], bool] = lambda values: True,
        seed: int = 0,
    ):
        self._space, self._startup = space, startup
        self._bounds, self._admits, self._seed = tuple(bounds), admits, seed
        self._tried: set[frozenset] = set()
        self._read: dict[tuple, Configuration | None] = {}  # ended trials do not change

    def infer_relative_search_space(self, study, trial):
        """All parameters of the space, or those that the study's trials share."""
        if self._space is not None:
            return dict(self._space.ranges)
        return optuna.search_space.IntersectionSearchSpace().calculate(study)

    def sample_relative(self, study, trial, search_space):
        """The next configuration: its active parameters."""
        if not search_space:
            return {}
        rng = self._rng(trial)
        space = self._space or Space(search_space)
        done = self._known(space, completed(study))
        self._tried = {_key(trial) for trial in study.get_trials(deepcopy=False)}
        if len(done) < self._startup:
            return self._random(space, rng)[0]
        values, parent, names = self._next(study, space, done, rng)
        if parent is not None:
            storage, number = study._storage, trial._trial_id
            storage.set_trial_user_attr(number, PARENT, parent.number)
            storage.set_trial_user_attr(number, MORPHS, list(names))
        return values

    def sample_independent(self, study, trial, param_name, param_distribution):
        """A parameter outside of what is known: uniform."""
        name = int.from_bytes(param_name.encode()[:8], "little")
        return drawn(param_distribution, self._rng(trial, name))

    def _next(self, study, space: Space, done: Known, rng) -> Candidate:
        """The next candidate after the first ones."""
        return self._random(space, rng)

    def _random(self, space: Space, rng) -> Candidate:
        return self._admitted((space.sample(rng), None, ()) for _ in range(TRIES))

    def _rng(self, trial, more: int = 0) -> np.random.Generator:
        return np.random.default_rng((self._seed, trial.number, more))

    def _known(self, space: Space, trials) -> Known:
        """Those of some ended trials that are of the space, with their configurations."""
        found = []
        for trial in trials:
            key = trial._trial_id, trial.datetime_complete
            if key not in self._read or self._space is None:
                self._read[key] = _within(space, trial.params)
            if (own := self._read[key]) is not None:
                found.append((trial, own))
        return found

    def _child(self, space: Space, parent: tuple[Any, Configuration], rng) -> Candidate:
        """A configuration near one that was tried."""
        # "alpha" is a parameter of every space: it does not tell table 7.
        of_table = "num-fc-layers" in space.ranges
        named = morphs.MORPHS if of_table else morphs.of_one_parameter(space)
        trial, values = parent
        found, names = morphs.child(space, values, rng, named)
        return found, trial, names

    def _admitted(self, drawn_: Iterable[Candidate]) -> Candidate:
        """The first candidate that is admitted and new; where all were tried, the first.

        Raises:
            ValueError: None is admitted.
        """
        found = self._first(drawn_)
        if found is not None:
            return found
        told = getattr(self._admits, "told", lambda: "")()
        raise ValueError(
            f"`bounds` must leave configurations. Received: none of {TRIES} that were drawn can "
            f"be within them, whatever is pruned.{told}"
        )

    def _first(self, drawn_: Iterable[Candidate]) -> Candidate | None:
        """The same; None where none is admitted."""
        known = None
        for candidate in drawn_:
            if self._admits(candidate[0]):
                if frozenset(candidate[0].items()) not in self._tried:
                    return candidate
                known = known or candidate
        return known

    def _scalarised(self, study, seen, expected, rng) -> np.ndarray:
        """Random Tchebyshev scalarisation of what is expected; smaller is better.

        Objectives that span orders of magnitude count by their logarithm: else most weights
        would ask for the same few of the largest networks.

        Args:
            study: For its directions.
            seen: Trials whose objectives say what is small and what is large.
            expected: `(candidates, objectives)`, made small.
            rng: Draws the weights.
        """
        signs = signs_of(study)
        y = signs * np.array([values_of(t) for t in seen], float)
        logs = surrogate.logarithmic(y)
        y, expected = surrogate.scaled(y, logs), surrogate.scaled(expected, logs)
        low, high = y.min(axis=0), y.max(axis=0)
        # Less than the least that was seen is worth something, too.
        low = low - BEYOND * (high - low)
        width = np.where(high > low, high - low, 1.0)
        limits = np.full(len(low), np.inf)
        for number, bound in enumerate(self._bounds):
            if bound is not None:
                own = np.full(len(low), signs[number] * bound)
                own = surrogate.scaled(own, logs)[number]
                limits[number] = (own - low[number]) / width[number]
        weights = dominance.weights(rng, np.clip(limits, 0.05, 1.0))
        expected = (expected - low) / width
        excess = np.maximum(expected - limits, 0.0).max(axis=1)
        return dominance.tchebyshev(expected, weights) + OUTSIDE * excess


class MorphSampler(RandomSampler):
    """Thompson samples of random morphs of what was tried, randomly scalarised.

    Random configurations first. Then, for each trial: a Gaussian process an objective (`Arc`
    kernel), one joint sample of them over `CANDIDATES` random morphs of trials of the front
    (and some random configurations), a random Tchebyshev scalarisation, and its best candidate.
    The parent of a morph, and the names of its morphs, are attributes of its trial. A trial that
    was stopped counts with what it had by then, and has no children.

    Args:
        space, startup, bounds, admits, seed: See `RandomSampler`.

    Raises:
        ValueError: Nothing that is admitted was found.

    Example:
        >>> sampler = MorphSampler(Space(table_7((28, 28, 1))), bounds=(None, 2000))
        >>> study = optuna.create_study(sampler=sampler, directions=["minimize"] * 2)

    Reference: SpArSe, section 2.4 and appendix C, which takes morphs alone, of all trials: on
    objectives that were made up, sixty such trials found less than random sampling did.
    Paria et al. 2019.
    """

    def __init__(self, space=None, startup=10, **arguments):
        super().__init__(space, startup, **arguments)

    def _next(self, study, space, done, rng):
        seen = done + self._known(space, stopped(study))
        y = signs_of(study) * np.array([values_of(t) for t, _ in seen], float)
        own = surrogate.Surrogate(
            space.encoded([own for _, own in seen]),
            y,
            self._kernel(study, len(seen)),
            self._seed,
        )
        self._keep(study, len(seen), own.parameters)
        best = self._best(study, done)
        tried = 0
        while tried < TRIES:
            found = [self._candidate(space, best, rng) for _ in range(CANDIDATES)]
            expected = own.draw(space.encoded([values for values, *_ in found]), rng)
            trials = [trial for trial, _ in seen]
            scores = self._scalarised(study, trials, expected, rng)
            # What a bound leaves out is known only once a network is built: best first.
            order = np.argsort(scores, kind="stable")
            chosen = self._first(found[place] for place in order)
            if chosen is not None:
                return chosen
            tried += CANDIDATES
        return self._admitted(())

    def _candidate(self, space: Space, best: Known, rng) -> Candidate:
        """A morph of one of the best, or a random configuration."""
        if rng.random() < FRESH:
            return space.sample(rng), None, ()
        return self._child(space, best[int(rng.integers(len(best)))], rng)

    def _best(self, study, done: Known) -> Known:
        """The front of what was tried, within the bounds where any of it is."""
        signs = signs_of(study)
        y = signs * np.array([t.values for t, _ in done], float)
        found = dominance.front_of(y)
        limits = [(k, b) for k, b in enumerate(self._bounds) if b is not None]
        within = [n for n in found if all(y[n, k] <= signs[k] * b for k, b in limits)]
        return [done[number] for number in within or found]

    def _kernel(self, study, count: int):
        """The kernel parameters that the study keeps; None where they are to be fitted."""
        held = study.user_attrs.get(KERNEL)
        if held and held["trials"] + REFIT > count >= held["trials"]:
            return held["parameters"]
        return None

    def _keep(self, study, count: int, parameters) -> None:
        held = study.user_attrs.get(KERNEL)
        if held is None or held["parameters"] != parameters:
            study.set_user_attr(KERNEL, {"trials": count, "parameters": parameters})


class EvolutionSampler(RandomSampler):
    """Aging evolution: the best of a few young trials, randomly scalarised, has a child.

    Of the `POPULATION` youngest completed trials `TOURNAMENT` are drawn; the best of them
    by one random scalarisation is the parent. It is here to compare with.

    Args:
        space, startup, bounds, admits, seed: See `RandomSampler`.

    Raises:
        ValueError: Nothing that is admitted was found.

    Reference: Real et al. 2019; uNAS (Liberis et al. 2021), section 4.
    """

    def __init__(self, space=None, startup=POPULATION, **arguments):
        super().__init__(space, startup, **arguments)

    def _next(self, study, space, done, rng):
        young = done[-POPULATION:]
        chosen = rng.choice(len(young), min(TOURNAMENT, len(young)), False)
        few = [young[int(number)] for number in chosen]
        y = signs_of(study) * np.array([t.values for t, _ in few], float)
        scores = self._scalarised(study, [trial for trial, _ in done], y, rng)
        parent = few[int(scores.argmin())]
        return self._admitted(self._child(space, parent, rng) for _ in range(TRIES))


SAMPLERS: Mapping[str, type[RandomSampler]] = {
    "morphs": MorphSampler,
    "evolution": EvolutionSampler,
    "random": RandomSampler,
}
"""Name -> sampler."""


def completed(study) -> list:
    """The trials of a study whose objectives are known, all of them finite."""
    states = (optuna.trial.TrialState.COMPLETE,)
    trials = study.get_trials(deepcopy=False, states=states)
    return [t for t in trials if np.isfinite(t.values).all()]


def stopped(study) -> list:
    """The trials that were stopped on their way, with what they had by then."""
    states = (optuna.trial.TrialState.PRUNED,)
    trials = study.get_trials(deepcopy=False, states=states)
    return [t for t in trials if STOPPED in t.user_attrs]


def values_of(trial) -> list[float]:
    """A trial's objectives; of a stopped one, those that it had by then."""
    return trial.values or trial.user_attrs[STOPPED]


def signs_of(study) -> np.ndarray:
    """1 for each objective that is minimised, -1 for others."""
    return np.array([-1 if d.name == "MAXIMIZE" else 1 for d in study.directions])


def _key(trial) -> frozenset:
    """What a trial tries, or tried: of one that has just begun, what it was told."""
    return frozenset((trial.user_attrs.get(CONFIGURATION) or trial.params).items())


def _within(space: Space, params: Mapping[str, Any]) -> Configuration | None:
    """A stored trial's parameters as a configuration; None where it is none of the space."""
    values = {name: params[name] for name in space.ranges if name in params}
    try:
        space.check(values)
    except ValueError:
        return None
    return values
