"""Fronts, lineage, hypervolumes, and who is hopeless."""

from __future__ import annotations

import numpy as np
import optuna
import pytest

from tfsparse.search import MorphSampler, Space, dominance, front, sampler, table_7

SPACE = Space(table_7((12,)))


def made(points):
    own = optuna.create_study(directions=["minimize"] * len(points[0]))
    for point in points:
        own.add_trial(optuna.create_trial(values=list(map(float, point))))
    return own


def test_the_front_holds_what_nothing_beats():
    points = [(1, 9), (2, 5), (2, 7), (3, 5), (4, 1), (4, 1), (float("inf"), 0)]
    assert [t.number for t in front.front(made(points))] == [0, 1, 4]


def test_lineage_leads_back_to_a_random_one():
    own = optuna.create_study(
        directions=["minimize"] * 2, sampler=MorphSampler(SPACE, startup=4)
    )
    for _ in range(9):
        trial = own.ask()
        for name in SPACE.active(trial.relative_params):
            trial._suggest(name, SPACE.ranges[name])
        weights = trial.params["total-fc-layer-weights"]
        own.tell(trial, [1 / weights, weights * trial.params["alpha"]])
    for trial in own.trials:
        way = front.lineage(own, trial)
        assert way[-1]["trial"] == trial.number and not way[0]["morphs"]
        assert sampler.PARENT not in own.trials[way[0]["trial"]].user_attrs
        numbers = [row["trial"] for row in way]
        assert numbers == sorted(numbers)


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_hypervolume_against_counting(objectives):
    rng = np.random.default_rng(0)
    points = rng.random((8, objectives))
    reference = np.full(objectives, 0.9)
    grid = rng.random((40_000, objectives)) * 0.9
    covered = (points[None] <= grid[:, None]).all(2).any(1).mean() * 0.9**objectives
    assert dominance.hypervolume(points, reference) == pytest.approx(covered, abs=0.01)
    assert dominance.hypervolume(points + 1, reference) == 0


def test_growth_is_the_hypervolume_of_each_beginning():
    rng = np.random.default_rng(1)
    points = rng.random((12, 2))
    reference = np.array([1.0, 2.0])
    told = dominance.growth([None, *points], reference)
    assert told[0] == 0 and told == sorted(told)
    for count in range(1, 13):
        alone = dominance.hypervolume(points[:count] / reference, np.ones(2))
        assert told[count] == pytest.approx(alone)


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([(0.2, 600.0)] * 3, True),
        ([(0.2, 600.0)] * 2, False),
        ([(0.2, 600.0)] * 2 + [(0.2, 800.0)], False),
        ([(0.29, 100.0)] * 5, False),
        ([], False),
    ],
)
def test_only_who_is_far_behind_in_everything_is_hopeless(others, expected):
    assert dominance.hopeless((0.3, 900.0), others) == expected
