"""What targets mean, what limits a choice, and the search for a strength."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfsparse import budgets, records


@given(
    start=st.floats(1e-4, 1e4),
    wanted=st.floats(1e-2, 1e2),
    slope=st.floats(0.3, 3),
)
def test_it_meets_any_target_of_a_falling_cost(start, wanted, slope):
    def cost(number, strength, parent):
        return (wanted / strength) ** slope, False

    made = budgets.bisect(cost, start, 40)
    chosen = made[budgets.best(made)]
    assert 1 - budgets.TOLERANCE[0] <= chosen.cost <= 1 + budgets.TOLERANCE[1]
    below = math.ceil(abs(math.log(wanted / start, budgets.FACTOR)))
    assert len(made) <= below + 10  # then half a bracket a trial
    assert [t.strength for t in made] == [
        t.strength for t in budgets.bisect(cost, start, 40)
    ]


@given(
    start=st.floats(1e-3, 1e3),
    wanted=st.floats(1e-1, 1e1),
    together=st.integers(2, 5),
)
def test_trials_that_run_together_meet_it_in_fewer_rounds(start, wanted, together):
    rounds = []

    def run(jobs):
        rounds.append(len(jobs))
        return [job() for job in reversed(jobs)][::-1]  # in whatever order they end

    def cost(number, strength, parent):
        if strength > 50 * wanted:
            raise records.TrainingError("dead")
        return wanted / strength, False

    made = budgets.bisect(cost, start, 40, together, run)
    chosen = made[budgets.best(made)]
    assert 1 - budgets.TOLERANCE[0] <= chosen.cost <= 1 + budgets.TOLERANCE[1]
    assert sum(rounds) == len(made) and max(rounds) <= together
    assert len(rounds) <= len(budgets.bisect(cost, start, 40))
    assert len({t.strength for t in made}) == len(made)


def test_trials_together_split_a_bracket_into_equal_parts():
    asked = []

    def cost(number, strength, parent):
        asked.append(strength)
        return 8.8 / strength**2, False

    budgets.bisect(cost, 1.0, 6, 3)
    assert asked == pytest.approx([1, 4, 16, 2**0.5, 2, 2**1.5])


def test_a_warm_trial_goes_on_from_the_strongest_that_was_too_weak():
    asked = []

    def trial(number, strength, parent):
        asked.append((number, strength, parent))
        return 10 / strength**2, strength != 2.0

    made = budgets.bisect(trial, 1.0, 9)
    assert [a[0] for a in asked] == list(range(len(made)))
    assert asked[0][2] is None
    for number, strength, parent in asked[1:]:
        weaker = [
            t
            for t in made[:number]
            if t.cost > 1 and t.strength < strength and t.strength != 2.0
        ]
        assert made[parent] == max(weaker, key=lambda t: t.strength)
    assert 2.0 in [t.strength for t in made]  # tried, and not gone on from


def test_what_dies_was_too_strong():
    def trial(number, strength, parent):
        if strength > 3:
            raise records.TrainingError("The network must stay alive.")
        return 2.4 / strength, True

    made = budgets.bisect(trial, 1.0, 12)
    assert made[1].strength == 4.0 and made[1].cost == 0 and "alive" in made[1].error
    assert 0.95 <= made[budgets.best(made)].cost <= 1.1


def test_a_cost_that_is_not_monotone_still_ends():
    costs = iter([2.0, 0.5, 1.4, 0.8, 1.2, 0.9, 1.15, 0.7, 3.0])
    made = budgets.bisect(lambda n, mu, p: (next(costs), True), 1.0, 9)
    assert len(made) == 9
    assert made[budgets.best(made)].cost == 1.15  # ranking takes the rest


def test_a_trial_below_its_bound_is_the_last_choice():
    def best(*costs):
        made = [budgets.Trial(1.0, cost, error="dead") for cost in costs]
        return made[budgets.best(made)].cost

    assert best(3.0, 0.2, 1.3, 0.6) == 1.3
    assert best(0.96, 1.01) == 0.96
    assert best(4.5, 0.6, 0.0, 0.2) == 0.6
    assert best(3.9, 0.9) == 0.9 and best(3.9, 0.5) == 3.9
    with pytest.raises(records.TrainingError, match="nearest is 4.5 times"):
        best(4.5, 0.0)
    made = budgets.bisect(lambda n, mu, p: (1.08, True), 1.0, 4)
    assert len(made) == 1  # near enough


def test_a_target_out_of_reach_names_the_nearest():
    made = budgets.bisect(lambda n, mu, p: (4.5 + 1 / mu, True), 1.0, 3)
    with pytest.raises(records.TrainingError, match=r"3 trial.*4.56 times the target"):
        budgets.best(made)

    def dies(number, strength, parent):
        raise records.TrainingError("The network must stay alive.")

    with pytest.raises(records.TrainingError, match="none .The network must stay"):
        budgets.best(budgets.bisect(dies, 1.0, 2))


@pytest.mark.parametrize(("start", "trials"), [(0.0, 3), (-1.0, 3), (1.0, 0)])
def test_wrong_arguments_are_refused(start, trials):
    with pytest.raises(ValueError, match="must have a positive strength"):
        budgets.bisect(lambda n, mu, p: (1.0, True), start, trials)


# Targets -----------------------------------------------------------------------------


def test_a_target_is_read_and_made_absolute():
    target = budgets.parse("params=0.5,macs=900,file_bytes=0.25,units=7")
    whole = {"params": 100, "macs": 5000, "file_bytes": 8000, "units": 30}
    bounds = budgets.absolute(target, whole)
    assert bounds == {"params": 50, "macs": 900, "file_bytes": 2000, "units": 7}
    left = {"params": 50, "macs": 900, "file_bytes": 1000, "units": 7}
    assert budgets.share(left, bounds) == 1 and budgets.met(left, bounds)
    assert not budgets.met({**left, "macs": 901}, bounds)
    assert not budgets.met(left, {}) and budgets.parse("") is None


@pytest.mark.parametrize(
    "wrong",
    [{}, {"size": 1}, {"params": 0}, {"params": -1}, {"params": "many"}, 3,
     {"params": math.inf}, {"params": math.nan}, {"params": True}],
)  # fmt: skip
def test_a_target_that_says_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match="`target` must map"):
        budgets.check(wrong)


def test_every_field_of_cost_and_both_of_the_file_are_measures():
    names = {field.name for field in dataclasses.fields(records.Cost)}
    assert names | {"units", "operations", "file_bytes", "arena_bytes"} == set(
        budgets.MEASURES
    )


# Limits ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "size", "wanted", "count"),
    [
        ({}, 10, 3, 3),
        ({"minimum": 4}, 10, 3, 4),
        ({"minimum": 40}, 10, 3, 10),
        ({"round_to": 4}, 10, 5, 8),
        ({"round_to": 4}, 10, 9, 10),
        ({"round_to": 16}, 10, 1, 10),
        ({"ratios": {"conv*": 0.5}}, 10, 9, 5),
        ({"ratios": {"conv*": 0.5}}, 10, 2, 5),
        ({"ratios": {"conv*": 0.01}}, 10, 9, 1),
        ({"ratios": {"fc": 0.5}}, 10, 9, 9),
        ({"ratios": {"conv*": 0.5}, "round_to": 4}, 10, 9, 8),
    ],
)
def test_how_many_units_a_group_keeps(limits, size, wanted, count):
    assert budgets.Limits(**limits).count("conv1", size, wanted) == count


def test_the_weakest_go_and_the_strongest_dead_stay():
    scores = {"a": np.array([5.0, 1.0, 4.0, 2.0, 3.0])}.__getitem__
    alive = np.array([True, True, False, False, True])
    more = budgets.Limits(minimum=4).applied({"a": alive}, scores, {"a": 5})["a"]
    assert more.tolist() == [True, True, True, False, True]
    fewer = budgets.Limits(ratios={"a": 0.4})
    assert fewer.applied({"a": alive}, scores, {"a": 5})["a"].tolist() == [
        True, False, False, False, True,
    ]  # fmt: skip
    kept = fewer.applied({"a": alive}, scores, {"a": 5}, trim=False)["a"]
    assert kept.tolist() == alive.tolist()
    branches = {"add:branches": np.array([True, False])}
    assert budgets.Limits(minimum=2).applied(branches, scores, {}) == branches


def test_patterns_of_ratios_must_fit_a_group():
    limits = budgets.Limits(ratios={"conv*": 0.5})
    limits.check_names(["conv1", "fc"])
    with pytest.raises(ValueError, match="`ratios` must name some of"):
        limits.check_names(["fc"])


@given(st.integers(0, 200), st.integers(1, 200))
def test_the_least_that_fits(least, steps):
    found = budgets.least(lambda n: n >= least, steps)
    assert found == (least if least <= steps else None)
