"""Limits of groups and budgets of the finished file, wherever units are chosen."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import tfsparse
from tfsparse import budgets, files, train
from tfsparse.deploy import finished


def vectors():
    rng = np.random.default_rng(0)
    x = rng.random((96, 12)).astype("float32")
    return x, (x[:, 0] > x[:, 1]).astype(int)


def net(units=(16, 12)):
    inputs = keras.Input((12,))
    x = layers.Dense(units[0], activation="relu", name="first")(inputs)
    x = layers.Dense(units[1], activation="relu", name="second")(x)
    model = keras.Model(inputs, layers.Dense(2, name="out")(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, jit_compile=False)
    return model


def sizes(model) -> dict[str, int]:
    return {g.name: g.size for g in tfsparse.find_groups(model) if not g.frozen}


def shrunk(limits, method=None, **arguments):
    method = method or tfsparse.ShrinkNets(0.5)
    given = {"epochs": 8, "shrink_epochs": 7, "batch_size": 16} | arguments
    return tfsparse.fit_shrinking(net(), method, *vectors(), limits=limits, **given)


def test_groups_keep_multiples_and_no_less_than_the_minimum():
    free = sizes(shrunk(None).model)
    assert max(free.values()) < 10, "limits must have something to hold"
    held = sizes(shrunk(budgets.Limits(round_to=5, minimum=8)).model)
    assert held == {"first": 10, "second": 10}


@pytest.mark.parametrize(
    "method",
    [None, tfsparse.GSparsity(0.02, eps=0.1), tfsparse.GSparsity(1e-8, eps=0.1)],
    ids=["switches", "strong", "weak"],
)
def test_a_ratio_is_met_whatever_the_penalty_killed(method):
    found = shrunk(budgets.Limits(ratios={"first": 0.25, "sec*": 0.5}), method)
    assert sizes(found.model) == {"first": 4, "second": 6}


def test_units_that_die_while_it_trains_stay_if_limits_ask_for_them(monkeypatch):
    from tfsparse.engine import shrinking

    monkeypatch.setattr(shrinking, "RETRACE_MACS", 1.0)
    found = shrunk(budgets.Limits(minimum=5))
    assert all(n >= 5 for entry in found.history for n in entry["live"].values())
    assert all(n >= 5 for n in sizes(found.model).values())


def test_a_pattern_that_fits_no_group_is_refused_before_training():
    with pytest.raises(ValueError, match="`ratios` must name some of"):
        shrunk(budgets.Limits(ratios={"third": 0.5}))
    with pytest.raises(ValueError, match="`ratios` must name some of"):
        tfsparse.prune(net(), None, ratios={"third": 0.5})


# prune --------------------------------------------------------------------------------


def test_prune_by_ratios_alone():
    small, report = tfsparse.prune(net(), None, ratios={"first": 0.25})
    assert sizes(small) == {"first": 4, "second": 12}
    assert {g.name: g.kept for g in report.groups}["first"] == 4
    small, _ = tfsparse.prune(
        net(), {"units": 0.5}, ratios={"first": 0.5}, steps=3, round_to=2
    )
    assert sizes(small)["first"] == 8 and sum(sizes(small).values()) <= 14


def test_limits_may_come_as_one_record():
    one, _ = tfsparse.prune(net(), {"params": 0.5}, round_to=4, minimum=4)
    two, _ = tfsparse.prune(
        net(), {"params": 0.5}, limits=budgets.Limits(round_to=4, minimum=4)
    )
    assert sizes(one) == sizes(two)
    assert all(n % 4 == 0 for n in sizes(one).values())


def test_prune_to_the_bytes_of_the_finished_file(tmp_path):
    model = net((96, 64))
    whole = finished.sizes(model, budgets.FINISHED)
    targets = {measure: whole[measure] * 0.75 for measure in budgets.FINISHED}
    small, _ = tfsparse.prune(model, targets)
    x, _ = vectors()
    made = tfsparse.export(small, str(tmp_path), x, ("tflite_int8",))
    (_, mcu) = tfsparse.verify(small, made, x[:8])
    shipped = {"file_bytes": made[0].file_bytes, "arena_bytes": mcu.arena_bytes}
    assert all(shipped[measure] <= targets[measure] for measure in targets)
    assert any(shipped[measure] > 0.85 * targets[measure] for measure in targets)
    sizes = finished.sizes(small, budgets.FINISHED)  # whatever calibrates
    assert sizes["arena_bytes"] == shipped["arena_bytes"]
    assert 0 <= sizes["file_bytes"] - shipped["file_bytes"] <= 160


def test_every_measure_may_be_a_target_of_prune():
    model = net()
    for name in budgets.COSTS:
        if name in ("index_bytes", "nonzero"):  # nothing to drop, and as params
            continue
        small, _ = tfsparse.prune(model, {name: 0.9})
        assert getattr(tfsparse.measure(small), name) <= 0.9 * getattr(
            tfsparse.measure(model), name
        )


# Training to the bytes of a file --------------------------------------------------------


def test_a_penalty_ends_once_the_file_is_small_enough():
    whole = finished.sizes(net(), ["file_bytes"], untrained=True)["file_bytes"]
    fresh = finished.sizes(net(), ["file_bytes"])["file_bytes"]
    assert fresh < whole, "the converter leaves biases of zero out"
    found = shrunk(None, target={"file_bytes": whole - 150})
    on = [entry["strength_on"] for entry in found.history]
    assert on[0] and not on[-1] and on.count(True) < 7
    assert finished.sizes(found.model, ["file_bytes"])["file_bytes"] <= whole - 150


def test_a_run_takes_limits_and_budgets_of_files(tmp_path):
    folder = str(tmp_path / "run")
    given = ["--data=digits", "--model=mlp", "--hidden=24,16", "--method=gsparsity",
             "--strength=0.02", "--epochs=3", "--shrink_epochs=2", "--batch_size=64",
             "--fine_tune_epochs=1", "--tensorboard=false", "--preflight=false", "--ratios=fc1=0.5",
             "--round_to=4", "--target=file_bytes=0.99", f"--workdir={folder}"]  # fmt: skip
    assert train.main(["train", *given]) == 0
    report = files.read_json(f"{folder}/report.json")
    kept = {g["name"]: g["kept"] for g in report["groups"]}
    assert kept["fc1"] == 12 and kept["fc2"] % 4 == 0
    assert report["config"]["ratios"] == "fc1=0.5"


@pytest.mark.parametrize("epochs", [8, 12])
def test_a_share_is_of_the_untouched_network_whatever_left_before(epochs):
    """GSparsity removes as the penalty ends: the share must not be taken twice."""
    method = tfsparse.GSparsity(0.07, ignore="second")
    limits = budgets.Limits(ratios={"first": 0.5})
    found = shrunk(limits, method, epochs=epochs, shrink_epochs=7)
    assert found.removals, "nothing left before the end"
    assert sizes(found.model)["first"] == 8


def test_limits_hold_in_trials_and_in_runs_without_a_method(tmp_path):
    found = shrunk(
        budgets.Limits(minimum=5),
        tfsparse.GSparsity(0.06),
        target={"params": 0.8},
        trials=6,
        epochs=10,
        shrink_epochs=8,
    )
    assert min(sizes(found.model).values()) >= 5
    folder = str(tmp_path / "run")
    plain = ["--data=digits", "--model=mlp", "--hidden=24,16", "--method=none",
             "--epochs=1", "--fine_tune_epochs=0", "--formats=keras", "--tensorboard=false",
         "--preflight=false",
             f"--workdir={folder}"]  # fmt: skip
    assert train.main(["train", *plain, "--ratios=nonsense*=0.5"]) == 2
    assert train.main(["train", *plain, "--ratios=fc1=0.5", "--round_to=8"]) == 0
    report = files.read_json(f"{folder}/report.json")
    kept = {g["name"]: g["kept"] for g in report["groups"]}
    assert kept == {"fc1": 16, "fc2": 16, "logits": 10}
    assert kept["fc1"] < 24


def test_the_weakest_go_by_what_switches_leave_of_them():
    model = net()
    method = tfsparse.ShrinkNets(initial="ones")
    sparse = method.prepare(model, tfsparse.find_groups(model))
    switch = sparse.get_layer("first_switch").switch
    switch.assign(np.linspace(1.0, 0.1, 16) ** 4)  # kernels would say otherwise
    from tfsparse.engine import limiting

    groups = tfsparse.find_groups(sparse, method.kinds)
    scores = limiting.norms(sparse, groups)("first")
    assert scores[:4].min() > scores[-4:].max()


def test_limits_stand_alone_or_not_at_all():
    with pytest.raises(ValueError, match="`limits` must stand alone"):
        tfsparse.prune(
            net(), {"params": 0.5}, limits=budgets.Limits(minimum=2), round_to=4
        )
