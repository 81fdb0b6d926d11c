"""Costs counted by polynomials against costs that are measured; cuts under budgets."""

from __future__ import annotations

import numpy as np
import pytest
from conformance import models

import tfsparse
from tfsparse import ranking, zoo
from tfsparse.deploy.amounts import amounts
from tfsparse.graph import groups

NAMES = ["params", "macs", "weight_bytes", "units"]


def counted_of(analysis, names):
    return ranking.Counted.of_groups(
        analysis.groups, lambda masks, wanted: amounts(analysis, masks, wanted), names
    )


def masks_of(kept, sizes, rng):
    """Masks of so many units, any of them."""
    found = {}
    for name, count in kept.items():
        found[name] = np.zeros(sizes[name], bool)
        found[name][rng.permutation(sizes[name])[:count]] = True
    return found


@pytest.mark.parametrize("name", list(models.TABLE))
def test_counted_is_measured(name):
    """Whichever units stay, of as many; where the polynomial is not exact, it is not used."""
    model = models.TABLE[name].build()
    analysis = groups.analyse(model)
    counted = counted_of(analysis, NAMES)
    rng = np.random.default_rng(0)
    for _ in range(3):
        kept = {g: int(rng.integers(1, n + 1)) for g, n in counted.sizes.items()}
        keep = masks_of(kept, counted.sizes, rng)
        expected = amounts(analysis, keep, NAMES)
        found = counted(kept)
        even = not any("needs as many" in s for s in surplus(analysis, keep))
        for measure in NAMES if even else []:
            assert found[measure] == pytest.approx(expected[measure], rel=1e-9), measure


def surplus(analysis, keep):
    from tfsparse.deploy import removal

    return removal.plan(analysis.graph, keep, analysis).surplus.values()


@pytest.mark.parametrize("name", ["lenet5", "resnet8", "mcu_cnn", "resnet20"])
def test_networks_of_the_zoo_are_exact(name):
    shape = (28, 28, 1) if name != "resnet20" else (32, 32, 3)
    analysis = groups.analyse(zoo.build(name, shape, 10))
    counted = counted_of(analysis, ["params", "macs", "weight_bytes"])
    assert all(counted.exact.values())


def test_a_peak_is_measured_not_guessed():
    analysis = groups.analyse(zoo.build("lenet5", (28, 28, 1), 10))
    counted = counted_of(analysis, ["macs", "peak_activation_bytes"])
    assert counted.exact == {"macs": True, "peak_activation_bytes": False}
    kept = {g: max(1, n // 4) for g, n in counted.sizes.items()}
    keep = {g: np.arange(n) < kept[g] for g, n in counted.sizes.items()}
    expected = amounts(analysis, keep, ["peak_activation_bytes"])
    assert counted(kept)["peak_activation_bytes"] == expected["peak_activation_bytes"]


# Cuts --------------------------------------------------------------------------------------


def test_a_cut_drops_the_least_and_no_more_than_it_must():
    analysis = groups.analyse(zoo.build("lenet5", (28, 28, 1), 10))
    counted = counted_of(analysis, ["macs"])
    whole = tfsparse.measure(analysis.graph).macs
    least = {g: max(1, round(0.1 * n)) for g, n in counted.sizes.items()}
    cut = ranking.Cut(counted.sizes, least, counted, {"macs": 0.3 * whole})
    rng = np.random.default_rng(0)
    for _ in range(5):
        scores = {g: rng.normal(size=n) for g, n in counted.sizes.items()}
        keep = cut(scores)
        kept = {g: int(own.sum()) for g, own in keep.items()}
        assert counted(kept)["macs"] <= 0.3 * whole
        gone = np.concatenate([scores[g][~keep[g]] for g in keep])
        stays = {g: scores[g][keep[g]] for g in keep}
        for g, own in stays.items():
            assert kept[g] >= least[g]
            if kept[g] > least[g]:  # nothing that stays scores less than what went
                assert own.min() >= gone.max()
        last = max(keep, key=lambda g: max(scores[g][~keep[g]], default=-np.inf))
        kept[last] += 1
        assert counted(kept)["macs"] > 0.3 * whole


def test_budgets_out_of_reach_say_the_least():
    analysis = groups.analyse(zoo.build("lenet5", (28, 28, 1), 10))
    counted = counted_of(analysis, ["macs"])
    least = {g: n // 2 for g, n in counted.sizes.items()}
    with pytest.raises(ValueError, match="`target` must be within reach.*remain"):
        ranking.Cut(counted.sizes, least, counted, {"macs": 1000.0})
