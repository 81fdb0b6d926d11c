"""Pruning to a target: criteria against NumPy, targets met, bad input answered."""

from __future__ import annotations

import json
import pathlib
import runpy
import subprocess
import sys

import keras
import numpy as np
import pytest
from conformance import models
from keras import layers

import tfsparse
from tfsparse import data as datasets
from tfsparse.deploy import criteria
from tfsparse.deploy.recalibrate import recalibrate
from tfsparse.graph import groups

ROOT = pathlib.Path(__file__).parents[1]


def net():
    image = keras.Input((6, 5, 2))
    x = layers.Conv2D(4, 2, use_bias=False, name="a")(image)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.Conv2D(5, 2, name="b")(layers.ReLU()(x))
    x = layers.Flatten()(layers.ReLU()(x))
    x = layers.Dense(7, activation="relu", name="c")(x)
    return models.randomise(keras.Model(image, layers.Dense(3, name="out")(x)), seed=2)


def data(samples=20):
    rng = np.random.default_rng(5)
    return rng.uniform(size=(samples, 6, 5, 2)).astype("float32"), rng.integers(
        0, 3, samples
    )


def scores(model, name, **arguments):
    job = criteria.Job(groups.analyse(model), **arguments)
    return {
        g.name: criteria.CRITERIA[name](g, job)
        for g in job.analysis.groups
        if not g.frozen
    }


def value(model, layer, name="kernel"):
    return np.asarray(getattr(model.get_layer(layer), name)).astype("float64")


def test_magnitudes_are_numpys():
    model = net()
    w = value(model, "b").reshape(-1, 5)
    np.testing.assert_allclose(scores(model, "l1")["b"], np.abs(w).sum(0))
    np.testing.assert_allclose(scores(model, "l2")["b"], np.sqrt((w**2).sum(0)))
    gamma = np.abs(value(model, "bn", "gamma"))
    found = scores(model, "bn_scale")
    np.testing.assert_allclose(found["a"], gamma)
    assert found["b"] is None and found["c"] is None


def test_the_geometric_median_is_numpys():
    model = net()
    w = value(model, "c")
    gaps = np.linalg.norm(w[:, :, None] - w[:, None, :], axis=0).sum(1)
    np.testing.assert_allclose(scores(model, "fpgm")["c"], gaps, rtol=1e-6)


@pytest.mark.parametrize(("name", "reader"), [("a", "b"), ("b", "c"), ("c", "out")])
def test_taylor_is_the_squared_slope_of_a_scaled_unit(name, reader):
    """By finite differences of a factor on what reads a unit, batch by batch."""
    model, (x, y) = net(), data(samples=38)  # nine batches of 4 and one of 2
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    found = scores(model, "taylor", data=(x, y), loss=loss)[name]
    kernel, layer, step = value(model, reader), model.get_layer(reader), 1e-2
    axis, units = kernel.ndim - 2, len(found)
    expected = np.zeros(units)
    for unit in range(units):
        owned = np.arange(kernel.shape[axis]) % units == unit  # Flatten: channels last
        for part in [slice(k, k + 4) for k in range(0, 38, 4)]:
            losses = []
            for factor in (1 + step, 1 - step):
                scale = np.where(owned, factor, 1.0)[:, None]
                layer.kernel.assign(kernel * scale)
                losses.append(float(loss(y[part], model(x[part]))))
            slope = (losses[0] - losses[1]) / (2 * step)
            expected[unit] += len(y[part]) / len(y) * slope**2
    np.testing.assert_allclose(found, expected, atol=3e-2 * expected.max())


def test_activation_is_what_arrives_at_the_consumers():
    model, (x, y) = net(), data()
    reader = keras.Model(model.inputs[0], model.get_layer("c").output)
    norms = np.linalg.norm(value(model, "out"), axis=1)
    expected = np.abs(np.asarray(reader(x))).mean(0) * norms
    found = scores(model, "activation", data=(x, y))["c"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_random_repeats_itself():
    model = net()
    first, again = scores(model, "random"), scores(model, "random")
    other = scores(model, "random", seed=1)
    assert all(np.array_equal(first[k], again[k]) for k in first)
    assert not any(np.array_equal(first[k], other[k]) for k in first)


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("measure", ["macs", "params", "weight_bytes"])
@pytest.mark.parametrize("criterion", ["l1", "fpgm", "random"])
def test_the_target_is_met_and_the_best_units_stay(criterion, measure, scope):
    model = net()
    before = tfsparse.measure(model)
    small, report = tfsparse.prune(
        model, {measure: 0.6}, criterion=criterion, scope=scope
    )
    assert report.before == before and report.after == tfsparse.measure(small)
    share = getattr(report.after, measure) / getattr(before, measure)
    assert 0.3 < share <= 0.6
    own = scores(model, criterion)
    for entry in report.groups:
        if entry.reason is None:
            worst = np.sort(own[entry.name])[::-1][: entry.kept]
            weights = small.get_layer(entry.name).get_weights()[0]
            assert weights.shape[-1] == entry.kept == len(worst) <= entry.size
        else:
            assert entry.kept == entry.size
    x, _ = data()
    assert any(entry.kept < entry.size for entry in report.groups)
    keep = {
        e.name: np.isin(np.arange(e.size), np.argsort(-own[e.name])[: e.kept])
        for e in report.groups
        if e.reason is None
    }
    expected = tfsparse.mask(model, keep)(x)
    np.testing.assert_allclose(small(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", ["taken", "left", "frozen"])
def test_statistics_are_taken_again(how):
    model, (x, y) = net(), data(samples=160)  # a batch of 128 and one of 32
    model.get_layer("bn").trainable = how != "frozen"
    small, report = tfsparse.prune(
        model, {"macs": 0.6}, (x, y), recalibrated=how != "left"
    )
    kept = np.argsort(-scores(model, "l2")["a"], kind="stable")[: report.groups[0].kept]
    a, bn = small.get_layer("a"), small.get_layer("bn")
    np.testing.assert_array_equal(a.kernel, value(model, "a")[..., np.sort(kept)])
    out = np.asarray(a(x), "float64")
    mean, variance = out.mean((0, 1, 2)), out.var((0, 1, 2))
    if how != "taken":
        mean = value(model, "bn", "moving_mean")[np.sort(kept)]
        variance = value(model, "bn", "moving_variance")[np.sort(kept)]
    np.testing.assert_allclose(bn.moving_mean, mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(bn.moving_variance, variance, rtol=1e-4)
    assert bn.momentum == model.get_layer("bn").momentum


def test_statistics_follow_the_batches_before_them():
    """Two BatchNorms in a row: the second meets what the first normalises by batch."""
    pixels = keras.Input((3,))
    x = layers.BatchNormalization(name="first", epsilon=0.0)(
        layers.Dropout(0.5)(pixels)
    )
    model = keras.Model(pixels, layers.BatchNormalization(name="second")(x))
    x = np.random.default_rng(0).normal(3.0, 2.0, (64, 3)).astype("float32")
    recalibrate(model, x)
    first, second = model.layers[-2:]
    np.testing.assert_allclose(first.moving_mean, x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(first.moving_variance, x.var(0), rtol=1e-5)
    np.testing.assert_allclose(second.moving_mean, np.zeros(3), atol=1e-6)
    np.testing.assert_allclose(second.moving_variance, np.ones(3), rtol=1e-5)


def test_rounding_minimum_ignore_and_steps():
    model, trained = net(), []
    small, report = tfsparse.prune(
        model, {"macs": 0.7}, None, trained.append,
        criterion="l2", round_to=2, minimum=2, ignore=["c*"], steps=3,
    )  # fmt: skip
    kept = {e.name: (e.kept, e.reason) for e in report.groups}
    assert kept["c"] == (7, "named in `ignore`")
    assert kept["a"][0] in (2, 4) and kept["b"][0] in (2, 4)
    assert len(trained) == 3 and trained[-1] is small
    sizes = [tfsparse.measure(m).params for m in trained]
    assert sizes == sorted(sizes, reverse=True)


def test_sensitivity_prunes_what_prune_would():
    model, (x, _) = net(), data()
    whole = np.asarray(model(x))

    def change(small):
        return float(np.abs(np.asarray(small(x)) - whole).max())

    rows = tfsparse.sensitivity(model, change, fractions=(0.75, 0.5))
    assert (rows[0]["group"], rows[0]["value"]) == (None, 0.0)
    assert {r["group"] for r in rows[1:]} == {"a", "b", "c"}
    own = scores(model, "l2")["b"]
    (row,) = [r for r in rows if r["group"] == "b" and r["fraction"] == 0.5]
    assert row["kept"] == 2
    keep = {"b": np.isin(np.arange(5), np.argsort(-own)[:2])}
    assert row["value"] == pytest.approx(change(tfsparse.strip(model, keep)))


def test_sensitivity_takes_statistics_again_and_forgets_them():
    """In one model, group after group, as in a network made anew for each."""
    image = keras.Input((8, 8, 2))
    x = keras.layers.Conv2D(6, 3, name="a")(image)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(name="n")(x))
    x = keras.layers.Conv2D(5, 3, name="b")(x)
    x = keras.layers.BatchNormalization(name="m")(x)
    x = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))
    model = models.randomise(keras.Model(image, x), seed=1)
    x = np.random.default_rng(0).normal(size=(64, 8, 8, 2)).astype("float32")

    def total(small):
        return float(np.asarray(small(x), "float64").sum())

    given = x, np.zeros(64)
    rows = tfsparse.sensitivity(model, total, (0.7, 0.3), data=given)
    assert len(rows) == 5
    for row in rows[1:]:
        own = scores(model, "l2")[row["group"]]
        keep = np.isin(np.arange(len(own)), np.argsort(-own)[: row["kept"]])
        small = tfsparse.strip(model, {row["group"]: keep})
        recalibrate(small, x)
        assert row["value"] == pytest.approx(total(small), rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"target": {"speed": 0.5}}, "`target` must map a measure among"),
        ({"target": {}}, "`target` must map measures among"),
        ({"target": {"macs": 0.0}}, "to a positive number"),
        ({"target": {"macs": 1e-6}}, "`target` must be within reach"),
        ({"criterion": "beauty"}, "`criterion` must be among .* Received: 'beauty'"),
        ({"scope": "world"}, "`scope` must be among"),
        ({"steps": 0}, "`steps` must be a positive int. Received: 0"),
        ({"round_to": 2.5}, "`round_to` must be a whole number 1 or more"),
        ({"criterion": "taylor"}, r"`data` must be \(x, y\) arrays for"),
        ({"data": (data()[0], data()[1][:3])}, "equally many of each. Received"),
        ({"criterion": "taylor", "data": data()}, "`loss` must be given"),
    ],
)
def test_wrong_arguments_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        tfsparse.prune(net(), **{"target": {"macs": 0.5}, **arguments})


def test_weights_that_are_nan_are_refused():
    model = net()
    model.get_layer("b").kernel.assign(np.full((2, 2, 4, 5), np.nan))
    with pytest.raises(ValueError, match="Scores must be finite. Received: nan"):
        tfsparse.prune(model, {"macs": 0.5})
    with pytest.raises(ValueError, match="finite weights. Received: nan or inf in b/"):
        tfsparse.strip(model, {"a": np.arange(4) < 2})


@pytest.mark.slow
def test_the_tool(tmp_path):
    net().save(tmp_path / "model.keras")
    command = [sys.executable, ROOT / "tools" / "prune.py", tmp_path / "model.keras"]
    target = [tmp_path / "small.keras", "--target", "macs=0.5"]
    done = subprocess.run([*command, *target], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "units" in done.stdout and "MACs" in done.stdout
    small = keras.saving.load_model(tmp_path / "small.keras")
    assert tfsparse.measure(small).macs <= tfsparse.measure(net()).macs / 2
    wrong = [tmp_path / "none.keras", "--target", "macs=half"]
    done = subprocess.run([*command, *wrong], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.endswith("Received: 'macs=half'.\n")
    wrong = [tmp_path / "none.keras", "--target", "macs=0.5", "--epochs=-1"]
    done = subprocess.run([*command, *wrong], capture_output=True, text=True)
    assert done.returncode == 2
    assert "`epochs` must be 0 or more. Received: epochs=-1." in done.stderr
    assert not (tmp_path / "none.keras").exists()


@pytest.fixture
def run_tool(monkeypatch, capsys):
    """`(name, *arguments) -> exit code, stdout, stderr` of a tool, in this process.

    A process of its own would spend six seconds on importing TensorFlow.
    """

    def run(name, *arguments):
        path = str(ROOT / "tools" / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [path, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(path, run_name="__main__")
        return ended.value.code, *capsys.readouterr()

    return run


def test_the_tool_fine_tunes_step_by_step(tmp_path, run_tool):
    net().save(tmp_path / "model.keras")
    x, y = data()
    np.savez(tmp_path / "data.npz", x=x, y=y)
    code, _, errors = run_tool(
        "prune", tmp_path / "model.keras", tmp_path / "small.keras",
        "--target=units=0.6", "--criterion=taylor", f"--data={tmp_path}/data.npz",
        "--steps=2", "--epochs=1",
    )  # fmt: skip
    assert code == 0, errors
    small = keras.saving.load_model(tmp_path / "small.keras")
    kept = small.get_layer("a").kernel
    free = [g.size for g in tfsparse.find_groups(small) if not g.frozen]
    assert sum(free) <= 0.6 * 16
    held = np.asarray(net().get_layer("a").kernel)
    columns = {tuple(column) for column in held.reshape(-1, held.shape[-1]).T.tolist()}
    trained = np.asarray(kept).reshape(-1, kept.shape[-1]).T.tolist()
    assert not columns & {tuple(column) for column in trained}


def test_the_sensitivity_tool_draws(tmp_path, run_tool):
    net().save(tmp_path / "model.keras")
    x, y = data()
    np.savez(tmp_path / "data.npz", x=x, y=y)
    given = [tmp_path / "model.keras", tmp_path / "plot.png"]
    command = [sys.executable, ROOT / "tools" / "sensitivity.py", *given]
    done = subprocess.run(
        [*command, f"--data={tmp_path}/data.npz"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "plot.json").read_text())
    labels = np.asarray(net()(x)).argmax(-1)
    assert rows[0]["value"] == pytest.approx((labels == y).mean())
    assert {r["group"] for r in rows[1:]} == {"a", "b", "c"}
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    np.savez(tmp_path / "wrong.npz", x=x)
    code, _, errors = run_tool("sensitivity", *given, f"--data={tmp_path}/wrong.npz")
    assert code == 2
    assert errors.splitlines()[-1].startswith("error: `data` .npz must hold x, y")


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"x": np.zeros((2, 3)), "y": np.zeros(3)}, "one y for each x"),
        ({"x": np.zeros(()), "y": np.zeros(())}, "one y for each x"),
        ({"x": np.zeros((2, 3))}, "must hold x, y.*without y"),
        ({"x": np.array([{}]), "y": np.zeros(1)}, "whole .npz file of plain arrays"),
    ],
)
def test_samples_that_do_not_fit_are_refused(arrays, sentence, tmp_path):
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(ValueError, match=sentence):
        datasets.samples(str(tmp_path / "data.npz"))
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(ValueError, match="whole .npz file of plain arrays"):
        datasets.samples(str(tmp_path / "one.npy"))
