"""SpArSe's sampler for Optuna: Thompson samples of random morphs, randomly scalarised."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna

from tfsparse.search import morphs, surrogate
from tfsparse.search.space import Configuration, Space, drawn

CANDIDATES = 200
"""Morphs among which a joint sample of the Gaussian processes chooses."""

REFIT = 20
"""Kernel parameters are fitted again once there are so many more trials."""

KERNEL = "tfsparse:kernel"
PARENT = "tfsparse:parent"
MORPHS = "tfsparse:morphs"
"""Attributes of studies and trials."""

TRIES = 1000
"""So often another candidate is drawn in place of one that is not admitted."""


class MorphSampler(optuna.samplers.BaseSampler):
    """Samples morphs of what was tried, the more promising the likelier.

    Random configurations first. Then, for each trial: a Gaussian process an objective (`Arc`
    kernel), one joint sample of them over `CANDIDATES` random morphs of random completed
    trials, a random Tchebyshev scalarisation, and its best candidate. It keeps nothing: all
    comes from the stored trials, so any number of workers may use one of their own. The
    parent of a morph, and the names of its morphs, are attributes of its trial.

    Args:
        space: What is searched; None takes the parameters that a study's trials share, and
            their morphs change one of them.
        startup: How many random trials come first.
        bounds: Up to where each objective matters; None for those without a bound.
        admits: Whether a configuration may be tried; others are drawn again.
        seed: Of everything random; the same trial number draws the same.

    Raises:
        ValueError: Nothing that is admitted was found.

    Example:
        >>> sampler = MorphSampler(Space(table_7((28, 28, 1))), bounds=(None, 2000))
        >>> study = optuna.create_study(sampler=sampler, directions=["minimize"] * 2)

    Reference: SpArSe, section 2.4 and appendix C; Paria et al. 2019.
    """

    def __init__(
        self,
        space: Space | None = None,
        startup: int = 10,
        bounds: Sequence[float | None] = (),
        admits: Callable[[Configuration], bool] = lambda values: True,
        seed: int = 0,
    ):
        self._space, self._startup = space, startup
        self._bounds, self._admits, self._seed = tuple(bounds), admits, seed

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
        done = [(t, own) for t in completed(study) if (own := _within(space, t.params))]
        if len(done) < self._startup:
            return self._admitted(lambda: space.sample(rng))
        signs = np.array([-1 if d.name == "MAXIMIZE" else 1 for d in study.directions])
        y = signs * np.array([t.values for t, _ in done], float)
        drawn_, how, parents = self._candidates(space, [own for _, own in done], rng)
        own = surrogate.Surrogate(
            space.encoded([own for _, own in done]),
            y,
            self._kernel(study, len(done)),
            self._seed,
        )
        self._keep(study, len(done), own.parameters)
        expected = own.draw(space.encoded(drawn_), rng)
        low, high = y.min(axis=0), y.max(axis=0)
        width = np.where(high > low, high - low, 1.0)
        lambdas = surrogate.weights(rng, self._most(signs, low, width))
        scores = surrogate.tchebyshev((expected - low) / width, lambdas)
        best = int(scores.argmin())
        storage, number = study._storage, trial._trial_id
        storage.set_trial_user_attr(number, PARENT, done[parents[best]][0].number)
        storage.set_trial_user_attr(number, MORPHS, list(how[best]))
        return drawn_[best]

    def _candidates(self, space: Space, known: list[Configuration], rng):
        """Random morphs of random parents: configurations, names of morphs, parents."""
        named = morphs.MORPHS if self._space else morphs.of_one_parameter(space)
        found: list[tuple[Configuration, tuple[str, ...], int]] = []

        def child():
            place = int(rng.integers(len(known)))
            found.append((*morphs.child(space, known[place], rng, named), place))
            return found[-1][0]

        while len(found) < CANDIDATES:
            self._admitted(child, found.pop)
        return tuple(list(part) for part in zip(*found, strict=True))

    def sample_independent(self, study, trial, param_name, param_distribution):
        """A parameter outside of what is known: uniform."""
        name = int.from_bytes(param_name.encode()[:8], "little")
        return drawn(param_distribution, self._rng(trial, name))

    def _rng(self, trial, more: int = 0) -> np.random.Generator:
        return np.random.default_rng((self._seed, trial.number, more))

    def _admitted(self, draw: Callable[[], Configuration], undo=lambda: None):
        """A configuration that is admitted.

        Raises:
            ValueError: None was found.
        """
        for _ in range(TRIES):
            values = draw()
            if self._admits(values):
                return values
            undo()
        raise ValueError(
            f"`bounds` must leave configurations. Received: none of {TRIES} that were drawn "
            "is within them."
        )

    def _most(self, signs, low, width) -> np.ndarray:
        """Up to where each objective matters, in units of what was seen."""
        found = np.ones(len(low))
        for number, bound in enumerate(self._bounds):
            if bound is not None:
                own = (signs[number] * bound - low[number]) / width[number]
                found[number] = np.clip(own, 0.05, 1.0)
        return found

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


def completed(study) -> list:
    """The trials of a study whose objectives are known, all of them finite."""
    states = (optuna.trial.TrialState.COMPLETE,)
    trials = study.get_trials(deepcopy=False, states=states)
    return [t for t in trials if np.isfinite(t.values).all()]


def _within(space: Space, params: Mapping[str, Any]) -> Configuration | None:
    """A stored trial's parameters as a configuration; None where it is none of the space."""
    values = {name: params[name] for name in space.ranges if name in params}
    try:
        space.check(values)
    except ValueError:
        return None
    return values
