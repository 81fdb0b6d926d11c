"""LeGR's maps and their evolution."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tfsparse.ranking import affine, evolution


def made(seed=0, sizes=(8, 6, 6)):
    """Three layers, the last two of one group, as around a residual."""
    rng = np.random.default_rng(seed)
    names = ("a/kernel", "b/kernel", "c/kernel")
    norms = {n: rng.random(s) * 3 for n, s in zip(names, sizes, strict=True)}
    groups = {
        "a": (("a/kernel", np.arange(8)),),
        "b": (("b/kernel", np.arange(6)), ("c/kernel", np.arange(6)[::-1])),
    }
    return affine.Layers(names, norms, groups, {"a": 8, "b": 6})


def test_scores_are_affine_and_tied_layers_are_summed():
    layers = made()
    maps = np.array([[2.0, 0.5], [3.0, -1.0], [0.5, 2.0]])
    found = layers.scores(maps)
    np.testing.assert_allclose(found["a"], 2 * layers.norms["a/kernel"] + 0.5)
    expected = (
        3 * layers.norms["b/kernel"] - 1 + 0.5 * layers.norms["c/kernel"][::-1] + 2
    )
    np.testing.assert_allclose(found["b"], expected)
    whole = layers.scores(affine.plain(layers))
    np.testing.assert_allclose(whole["a"], layers.norms["a/kernel"])


def test_a_ranking_is_that_of_its_model():
    layers = made()
    maps = np.random.default_rng(1).normal(size=(3, 2))
    text = affine.to_json(layers, maps, target={"macs": 0.5})
    assert np.array_equal(affine.from_json(layers, text), maps)
    assert json.loads(text)["target"] == {"macs": 0.5}
    with pytest.raises(
        ValueError, match="`ranking` must be one of this model.*another's"
    ):
        affine.from_json(made(sizes=(8, 5, 6)), text)
    with pytest.raises(ValueError, match="`ranking` must be a file that a search"):
        affine.from_json(layers, "{}")


def test_the_first_population_is_drawn_and_ends_in_magnitude():
    layers, settings = made(), evolution.Settings(evaluations=40, population=20)
    state = evolution.State()
    drawn = [evolution.candidate(state, layers, settings, 0, n) for n in range(20)]
    assert np.array_equal(drawn[-1], affine.plain(layers))
    alphas = np.log([own[:, 0] for own in drawn[:-1]])
    assert abs(alphas.mean()) < 0.5 and 0.6 < alphas.std() < 1.4
    kappas = np.array([own[:, 1] for own in drawn[:-1]]) / layers.spreads()
    assert 0.6 < kappas.std() < 1.4
    assert len({own.tobytes() for own in drawn}) == 20


def test_children_change_few_layers_of_the_best_of_a_sample():
    layers, settings = made(), evolution.Settings(200, 20, 50, 0.1)
    losses = iter(np.random.default_rng(0).permutation(20).astype(float))
    state = evolution.State()
    for _ in range(20):
        maps = evolution.candidate(state, layers, settings, 0)
        state.told(maps, next(losses), 20)
    child = evolution.candidate(state, layers, settings, 0)
    best = state.maps[
        int(np.argmin(state.losses))
    ]  # a sample of 50 of 20 nearly surely
    assert (child != best).any(axis=1).sum() == 1
    oldest = state.maps[0]
    state.told(child, 5.0, 20)
    assert len(state.maps) == 20 and not any(own is oldest for own in state.maps)


def test_evolution_finds_what_random_drawing_does_not():
    """A loss with one good place: near maps that are drawn once."""
    layers = made()
    goal = np.array([[3.0, 0.2], [0.3, -0.4], [1.5, 0.9]])

    def loss(maps):
        return float(np.square(maps - goal).sum())

    def best(settings, seed):
        return evolution.search(layers, loss, settings, seed).best[1]

    ours = [best(evolution.Settings(300, 30, 10), seed) for seed in range(5)]
    random = [best(evolution.Settings(300, 300), seed) for seed in range(5)]
    assert np.mean(ours) < 0.5 * np.mean(random)


def test_a_search_that_was_stopped_goes_on_bit_for_bit():
    layers, settings = made(), evolution.Settings(60, 20, 8)

    def loss(maps):
        return float(np.abs(maps).sum())

    whole = evolution.search(layers, loss, settings, 3)
    held = []
    stopped = evolution.State()
    for _ in range(33):
        maps = evolution.candidate(stopped, layers, settings, 3)
        stopped.told(maps, loss(maps), 20)
    held = json.loads(json.dumps(stopped.to_json()))
    again = evolution.search(layers, loss, settings, 3, evolution.State.from_json(held))
    assert (
        np.array_equal(again.best[0], whole.best[0])
        and again.progress == whole.progress
    )


def test_candidates_that_are_nan_are_counted_and_left_behind():
    layers, settings = made(), evolution.Settings(30, 10, 4)
    calls = []

    def loss(maps):
        calls.append(1)
        return float("nan") if len(calls) % 3 == 0 else float(np.abs(maps).sum())

    held = []
    state = evolution.search(
        layers, loss, settings, 0, keep=lambda s: held.append(json.dumps(s.to_json()))
    )
    assert "Infinity" not in held[4] and "NaN" not in held[4]
    back = evolution.State.from_json(json.loads(held[4]))
    assert back.losses.count(float("inf")) == 1
    assert state.failed == 10 and state.done == 30 and np.isfinite(state.best[1])
    with pytest.raises(ValueError, match="finite loss. Received: none of 30"):
        evolution.search(layers, lambda maps: float("inf"), settings, 0)


def test_kappa_that_falls_with_cost_follows_the_bound():
    layers = made()
    costs = np.array([10.0, 20.0, 40.0])
    means = np.array([layers.norms[n].mean() for n in layers.names])
    maps = np.stack([np.ones(3), -0.01 * costs * means], axis=1)
    assert affine.follows(layers, maps, costs) == pytest.approx(1)
    assert affine.follows(layers, maps * [1, -1], costs) == pytest.approx(-1)
    assert affine.follows(layers, affine.plain(layers), costs) == 0
