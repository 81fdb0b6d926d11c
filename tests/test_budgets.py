"""What targets mean, what limits a choice, and the search for a strength."""

from __future__ import annotations

import math

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
    assert 1 - budgets.TOLERANCE <= chosen.cost <= 1
    below = math.ceil(abs(math.log(wanted / start, budgets.FACTOR)))
    assert len(made) <= below + 10  # then half a bracket a trial
    assert [t.strength for t in made] == [
        t.strength for t in budgets.bisect(cost, start, 40)
    ]


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
    assert 0.95 <= made[budgets.best(made)].cost <= 1


def test_a_cost_that_is_not_monotone_still_ends():
    costs = iter([2.0, 0.5, 1.4, 0.8, 1.2, 0.9, 1.1, 0.7, 3.0])
    made = budgets.bisect(lambda n, mu, p: (next(costs), True), 1.0, 9)
    assert len(made) == 9
    assert made[budgets.best(made)].cost == 0.9


def test_a_target_out_of_reach_names_the_nearest():
    made = budgets.bisect(lambda n, mu, p: (1.5 + 1 / mu, True), 1.0, 3)
    with pytest.raises(records.TrainingError, match=r"3 trial.*1.56 times the target"):
        budgets.best(made)

    def dies(number, strength, parent):
        raise records.TrainingError("The network must stay alive.")

    with pytest.raises(records.TrainingError, match="none .The network must stay"):
        budgets.best(budgets.bisect(dies, 1.0, 2))


@pytest.mark.parametrize(("start", "trials"), [(0.0, 3), (-1.0, 3), (1.0, 0)])
def test_wrong_arguments_are_refused(start, trials):
    with pytest.raises(ValueError, match="must have a positive strength"):
        budgets.bisect(lambda n, mu, p: (1.0, True), start, trials)
