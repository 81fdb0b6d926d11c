"""Uniform shares, and the agent that chooses layer by layer."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tfsparse.ranking import Cut, ddpg, ratios

SIZES = {"a": 20, "b": 40}


def cost(kept):
    return {"macs": 10.0 * kept["a"] + kept["a"] * kept["b"]}


def test_shares_fill_the_budget_in_proportion():
    cut = Cut(SIZES, {"a": 2, "b": 4}, cost, {"macs": 400.0})
    rng = np.random.default_rng(0)
    scores = {g: rng.normal(size=n) for g, n in SIZES.items()}
    keep = ratios.by_shares(cut, {"a": 1.0, "b": 1.0}, scores)
    kept = {g: int(own.sum()) for g, own in keep.items()}
    assert (
        cost(kept)["macs"]
        <= 400
        < cost({"a": kept["a"] + 1, "b": kept["b"] + 2})["macs"]
    )
    assert abs(kept["a"] / 20 - kept["b"] / 40) < 0.05
    for group, own in keep.items():
        assert scores[group][own].min() > scores[group][~own].max()
    other = ratios.by_shares(cut, {"a": 1.0, "b": 0.2}, scores)
    assert other["a"].sum() > kept["a"] and other["b"].sum() < kept["b"]


def test_nothing_goes_where_the_budget_is_wide():
    cut = Cut(SIZES, {}, cost, {"macs": 5000.0})
    scores = {g: np.arange(n) for g, n in SIZES.items()}
    keep = ratios.by_shares(cut, {"a": 0.5, "b": 1.0}, scores)
    assert all(own.all() for own in keep.values())


QUICK = ddpg.Settings(episodes=40, explores=12, actor_rate=2e-3, batch=32, decay=0.85,
                      follow=0.05)  # fmt: skip
FEATURES = np.eye(3)


def loss(actions):
    """Least where the first layer has much, the others little."""
    return float(np.square(actions[:, 0] - [0.9, 0.1, 0.2]).sum())


@pytest.mark.slow
def test_an_agent_learns_what_random_actions_do_not_find():
    late, early = [], []
    for seed in range(2):
        _, losses = ddpg.search(FEATURES, 1, loss, QUICK, seed)
        early.append(np.mean(losses[:12]))
        late.append(np.mean(losses[-8:]))
    assert np.mean(late) < 0.6 * np.mean(early)


def test_a_stopped_search_goes_on_as_it_would_have():
    few = dataclasses.replace(QUICK, episodes=18)
    best, losses = ddpg.search(FEATURES, 1, loss, few, 1)
    calls = []

    def counted(actions):
        calls.append(1)
        return loss(actions)

    again, told = ddpg.search(FEATURES, 1, counted, few, 1, losses[:15])
    assert told == losses and np.array_equal(again, best) and len(calls) == 3


def test_actions_in_the_middle_change_nothing():
    maps = ddpg.maps_of(np.full((2, 2), 0.5), np.array([1.0, 3.0]))
    np.testing.assert_allclose(maps, [[1, 0], [1, 0]])
    with pytest.raises(ValueError, match="finite loss"):
        ddpg.search(FEATURES, 1, lambda a: float("nan"), ddpg.Settings(episodes=3), 0)
