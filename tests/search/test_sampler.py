"""The Arc kernel against its definition, the sampler against Optuna's own suite and random."""

from __future__ import annotations

import warnings

import numpy as np
import optuna
import pytest
from optuna.testing import pytest_samplers
from scipy import optimize

from tfsparse.search import Space, dominance, sampler, surrogate, table_7
from tfsparse.search.sampler import EvolutionSampler, MorphSampler, RandomSampler

optuna.logging.set_verbosity(optuna.logging.ERROR)


class TestOptunasSuite(
    pytest_samplers.BasicSamplerTestCase,
    pytest_samplers.RelativeSamplerTestCase,
    pytest_samplers.MultiObjectiveSamplerTestCase,
):
    """What Optuna asks of every sampler."""

    @pytest.fixture(params=[MorphSampler, EvolutionSampler, RandomSampler])
    def sampler(self, request):
        return lambda: request.param(
            startup=2 if request.param is not RandomSampler else 9**9
        )


# The kernel ----------------------------------------------------------------------------


def points(count=7, dimensions=4, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.random((count, dimensions))
    x[rng.random(x.shape) < 0.3] = -1
    return x


def test_the_kernel_is_matern_over_the_arc_embedding():
    x, y = points(), points(5, seed=1)
    kernel = surrogate.Arc(0.4, 1.3)

    def embedded(v):
        if v < 0:
            return np.zeros(2)
        return np.array([np.sin(np.pi * 0.4 * v), np.cos(np.pi * 0.4 * v)])

    expected = np.zeros((7, 5))
    for i, a in enumerate(x):
        for j, b in enumerate(y):
            square = sum(
                ((embedded(p) - embedded(q)) ** 2).sum()
                for p, q in zip(a, b, strict=True)
            )
            r = np.sqrt(5 * square) / 1.3
            expected[i, j] = (1 + r + r**2 / 3) * np.exp(-r)
    np.testing.assert_allclose(kernel(x, y), expected, rtol=1e-10)
    np.testing.assert_allclose(np.diag(kernel(x)), kernel.diag(x))
    assert np.linalg.eigvalsh(kernel(x)).min() > -1e-9


def test_what_both_lack_does_not_tell_them_apart():
    kernel = surrogate.Arc()
    one, two, lacks = np.array([[0.2], [0.9], [-1.0]])
    assert kernel([lacks], [lacks]) == 1
    assert kernel([one], [lacks]) == pytest.approx(kernel([two], [lacks]))
    assert kernel([one], [two]) > kernel([one], [lacks]) - 0.2


def test_the_kernels_gradient():
    x = points(6)

    def value(theta):
        return surrogate.Arc().clone_with_theta(theta)(x)

    theta = surrogate.Arc(0.35, 0.8).theta
    _, gradient = surrogate.Arc(0.35, 0.8)(x, eval_gradient=True)
    for number in range(2):
        step = np.eye(2)[number] * 1e-6
        expected = (value(theta + step) - value(theta - step)) / 2e-6
        np.testing.assert_allclose(gradient[..., number], expected, atol=1e-7)


def test_processes_find_what_data_show():
    rng = np.random.default_rng(0)
    x = rng.random((60, 3))
    x[::3, 2] = -1
    bytes_ = 200 * np.exp(4 * x[:, 0])
    error = 0.1 * np.where(x[:, 2] < 0, 2.0, x[:, 2]) + 0.01 * rng.normal(size=60)
    own = surrogate.Surrogate(x[:40], np.stack([error, bytes_], axis=1)[:40])
    mean = own.mean(x[40:])
    assert np.corrcoef(mean[:, 0], error[40:])[0, 1] > 0.9
    assert np.abs(np.log(mean[:, 1] / bytes_[40:])).max() < 0.3
    again = surrogate.Surrogate(
        x[:40], np.stack([error, bytes_], 1)[:40], own.parameters
    )
    np.testing.assert_allclose(again.mean(x[40:]), mean, rtol=1e-6)
    draws = np.stack([own.draw(x[40:], np.random.default_rng(s)) for s in range(200)])
    assert (draws[..., 1] > 0).all()
    np.testing.assert_allclose(draws[..., 0].mean(0), mean[:, 0], atol=0.02)


def test_weights_reach_the_whole_front():
    """Every point of a front that is not even convex is the best of some scalarisation."""
    rng = np.random.default_rng(0)
    a = np.linspace(0.02, 1, 30)
    front = np.stack([a, 1.02 - a**2], axis=1)
    found = {
        int(dominance.tchebyshev(front, dominance.weights(rng, np.ones(2))).argmin())
        for _ in range(3000)
    }
    assert len(found) > 25


# The sampler ---------------------------------------------------------------------------

SPACE = Space(table_7((28, 28, 1)))


def objectives(values) -> tuple[float, float]:
    """Made up: error falls with filters and with weights, bytes rise with both."""
    filters = sum(v for k, v in values.items() if k.startswith("num-filters-"))
    weights = values.get("total-fc-layer-weights", 0)
    error = 0.3 / (1 + 0.02 * filters) + 0.05 * values["downsample-input"]
    return error, 25.0 * filters + 30.0 * weights + 500.0 * values["left-branch"]


def searched(own, trials, directions=("minimize", "minimize")):
    study = optuna.create_study(sampler=own, directions=directions)
    for _ in range(trials):
        trial = study.ask()
        values = {}
        for name in SPACE.ranges:
            if name in SPACE.active(values):
                distribution = SPACE.ranges[name]
                values[name] = trial._suggest(name, distribution)
        SPACE.check(values)
        study.tell(trial, objectives(values))
    return study


def test_it_searches_the_space_and_names_parents():
    study = searched(MorphSampler(SPACE, startup=6), 14)
    children = 0
    for trial in study.trials:
        SPACE.check(trial.params)
        parent = trial.user_attrs.get(sampler.PARENT)
        assert parent is None or trial.number >= 6
        if parent is not None:
            assert parent < trial.number and trial.user_attrs[sampler.MORPHS]
            before = study.trials[parent].params
            kept = [k for k in before if trial.params.get(k) == before[k]]
            assert len(kept) > 0.5 * len(before)
            children += 1
    assert children >= 3


def test_the_same_trials_give_the_same_next_one():
    """Stateless: another sampler, in another process, goes on as the first would."""
    study = searched(MorphSampler(SPACE, startup=5), 9)
    found = []
    for _ in range(2):
        copy = optuna.create_study(sampler=MorphSampler(SPACE, startup=5),
                                   directions=["minimize", "minimize"])  # fmt: skip
        copy.add_trials(study.trials)
        trial = copy.ask()
        found.append(trial.relative_params)
    assert found[0] == found[1]


def test_kernels_are_kept_in_the_study_and_fitted_again_after_a_while(monkeypatch):
    fits = []
    real = surrogate._fitted

    def fitted(x, y, seed):
        fits.append(len(x))
        return real(x, y, seed)

    monkeypatch.setattr(surrogate, "_fitted", fitted)
    monkeypatch.setattr(sampler, "REFIT", 4)
    searched(MorphSampler(SPACE, startup=4), 13)
    assert fits == [4, 4, 8, 8, 12, 12]


def test_bounds_are_searched_below():
    """With a bound on bytes what is tried is smaller."""

    def middle(own):
        study = searched(own, 30)
        return np.median([t.values[1] for t in study.trials[10:]])

    free = middle(MorphSampler(SPACE, startup=10))
    assert middle(MorphSampler(SPACE, startup=10, bounds=(None, 4000.0))) < free


def test_what_is_not_admitted_is_not_tried():
    def admits(values):
        return not values["left-branch"]

    study = searched(MorphSampler(SPACE, startup=4, admits=admits), 10)
    assert not any(trial.params["left-branch"] for trial in study.trials)
    with pytest.raises(ValueError, match="`bounds` must leave configurations"):
        searched(MorphSampler(SPACE, admits=lambda values: False), 1)


@pytest.mark.parametrize("kind", [MorphSampler, EvolutionSampler, RandomSampler])
def test_what_was_tried_is_not_tried_again_while_there_is_more(kind):
    """A space of six configurations: each once, then some once more."""
    own = Space({
        "a": optuna.distributions.IntDistribution(1, 3),
        "b": optuna.distributions.CategoricalDistribution([False, True]),
    })  # fmt: skip
    study = optuna.create_study(
        directions=["minimize"] * 2, sampler=kind(own, startup=2)
    )
    for _ in range(8):
        trial = study.ask()
        for name, distribution in own.ranges.items():
            trial._suggest(name, distribution)
        study.tell(trial, [trial.params["a"], 1.0 + trial.params["b"]])
    told = [tuple(sorted(t.params.items())) for t in study.trials]
    few = 5 if kind is EvolutionSampler else 6  # a parent's children may all be known
    assert len(set(told)) >= few and len(told) == 8


def test_the_parent_is_one_of_the_youngest():
    """Aging evolution: who is old has no more children, however good it was."""
    study = searched(EvolutionSampler(SPACE, startup=sampler.POPULATION), 60)
    parents = {}
    for trial in study.trials[sampler.POPULATION :]:
        parent = trial.user_attrs[sampler.PARENT]
        assert trial.number - sampler.POPULATION <= parent < trial.number
        parents[parent] = parents.get(parent, 0) + 1
    best = np.array([study.trials[number].values for number in parents])
    rest = [t.values for t in study.trials[:40] if t.number not in parents]
    assert np.median(best, axis=0)[0] < np.median(np.array(rest), axis=0)[0]


def test_candidates_that_are_not_admitted_give_way_to_the_next_best():
    """The network of a bound is built for few of the candidates, the best of them first."""
    asked = []

    def admits(values):
        asked.append(values)
        return len(asked) % 3 == 0

    study = searched(MorphSampler(SPACE, startup=4, admits=admits), 8)
    assert len(asked) == 3 * len(study.trials)


def test_a_greater_objective_may_be_better():
    def share(directions, sign):
        own = MorphSampler(SPACE, startup=8)
        study = optuna.create_study(sampler=own, directions=directions)
        for _ in range(30):
            trial = study.ask()
            values = {}
            for name in SPACE.ranges:
                if name in SPACE.active(values):
                    values[name] = trial._suggest(name, SPACE.ranges[name])
            study.tell(trial, sign * values.get("total-fc-layer-weights", 0))
        return [t.params for t in study.trials]

    assert share(["minimize"], 1) == share(["maximize"], -1)


def hypervolume(study) -> float:
    """By logarithms: errors from 0.02 to 0.4, bytes from 100 to 40,000."""
    low, high = np.log([[0.02, 100.0], [0.4, 40_000.0]])
    found = (np.log([t.values for t in study.trials]) - low) / (high - low)
    return dominance.hypervolume(found, np.ones(2))


@pytest.mark.slow
def test_it_finds_more_than_random_sampling():
    ours, random = [], []
    for seed in range(3):
        ours.append(hypervolume(searched(MorphSampler(SPACE, 10, seed=seed), 60)))
        plain = MorphSampler(SPACE, startup=60, seed=seed)
        random.append(hypervolume(searched(plain, 60)))
    assert np.mean(ours) > np.mean(random) + np.std(random)


@pytest.mark.slow
def test_a_thousand_trials_take_less_than_a_second_to_look_at():
    """CPU seconds of asking once, the kernel being known; what it keeps is used."""
    import time

    study = searched(MorphSampler(SPACE, startup=10_000), 1000)
    study.sampler = MorphSampler(SPACE, startup=10)
    study.ask()  # fits the kernel
    started = time.process_time()
    study.ask()
    assert time.process_time() - started < 4


def test_the_kernel_fits_as_scipy_would():
    """The likelihood at what is found is no worse than at a grid of parameters."""
    rng = np.random.default_rng(0)
    x = points(25, 5, 3)
    y = np.where(x < 0, 0.5, x) @ rng.normal(size=5)
    theta = surrogate._fitted(x, y, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = surrogate._process(None).fit(x, y)

    def cost(t):
        return -model.log_marginal_likelihood(np.clip(t, *model.kernel_.bounds.T))

    other = optimize.minimize(cost, model.kernel_.theta, method="Nelder-Mead")
    assert cost(theta) <= other.fun + 0.1 * abs(other.fun)
