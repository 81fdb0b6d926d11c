"""Partitions by hand, and GSparsity from training to a stripped model."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from conformance import models
from keras import layers

import tfsparse
from tfsparse import deploy, optimizers, records, train
from tfsparse.engine import finishing, shrinking
from tfsparse.engine.stages import sparse
from tfsparse.methods import GSparsity, partitions
from tfsparse.report import plots


def small_net():
    image = keras.Input((6, 5, 2))
    x = layers.Conv2D(3, (2, 4), use_bias=False, name="a")(image)
    x = layers.ReLU()(layers.BatchNormalization(name="n")(x))
    x = layers.Dense(4, name="b")(layers.Flatten()(x))
    return keras.Model(image, layers.Dense(2, name="out")(x))


@pytest.mark.parametrize(
    ("shape", "conv", "dense"),
    [
        ("weight", (2, 4, 2, 3), (30, 4)),
        ("kernel", (1, 1, 2, 3), (30, 4)),
        ("filter", (1, 1, 1, 3), (1, 4)),
        ("channel", (1, 1, 2, 1), (30, 1)),
        ("shape", (2, 4, 2, 1), (30, 1)),
        ("row", (2, 1, 2, 1), (30, 1)),
        ("column", (1, 4, 2, 1), (30, 1)),
        ("stack_shape", (2, 4, 1, 1), (1, 1)),
        ("stack_row", (2, 1, 1, 1), (1, 1)),
        ("stack_column", (1, 4, 1, 1), (1, 1)),
    ],
)
def test_shapes_of_kernels(shape, conv, dense):
    found = partitions.by_shape(small_net(), shape, ignore=["out/*"])
    assert {path: own.shape for path, own in found.labels.items()} == {
        "a/kernel": conv,
        "b/kernel": dense,
    }
    labels = np.concatenate([own.ravel() for own in found.labels.values()])
    np.testing.assert_array_equal(labels, np.arange(np.prod(conv) + np.prod(dense)))
    assert found.groups == len(labels)
    assert len(found.names) == (0 if shape == "weight" else len(labels))


def test_coupled_units_by_hand():
    model = small_net()
    found = partitions.units(model, tfsparse.find_groups(model))
    assert found.names == ("a[0]", "a[1]", "a[2]", "b[0]", "b[1]", "b[2]", "b[3]")
    np.testing.assert_array_equal(found.labels["a/kernel"], [[[[0, 1, 2]]]])
    np.testing.assert_array_equal(found.labels["n/gamma"], [0, 1, 2])
    np.testing.assert_array_equal(found.labels["n/beta"], [0, 1, 2])
    np.testing.assert_array_equal(found.labels["b/kernel"], [[3, 4, 5, 6]])
    np.testing.assert_array_equal(found.labels["b/bias"], [3, 4, 5, 6])
    assert set(found.labels) == {"a/kernel", "n/gamma", "n/beta", "b/kernel", "b/bias"}
    rest = partitions.units(model, tfsparse.find_groups(model), ignore=["a*"])
    assert rest.names == ("b[0]", "b[1]", "b[2]", "b[3]")
    np.testing.assert_array_equal(rest.labels["b/bias"], [0, 1, 2, 3])


def test_norms_and_sizes_of_groups_that_span_variables():
    model = models.randomise(small_net(), seed=1)
    found = partitions.units(model, tfsparse.find_groups(model))
    values = {v.path: np.asarray(v) for v in model.trainable_variables}
    parts = [values["a/kernel"][..., 1], values["n/gamma"][1], values["n/beta"][1]]
    norm = np.sqrt(sum(np.square(part).sum() for part in parts))
    assert found.norms(values)[1] == pytest.approx(norm, rel=1e-6)
    shapes = {path: value.shape for path, value in values.items()}
    np.testing.assert_array_equal(found.sizes(shapes), [18] * 3 + [31] * 4)
    tiny = {path: value * 1e-30 for path, value in values.items()}
    assert found.norms(tiny)[1] == pytest.approx(norm * 1e-30, rel=1e-5)
    assert not found.norms({path: 0 * v for path, v in values.items()}).any()


def test_units_that_share_weights_get_one_penalty(caplog):
    keras.utils.set_random_seed(0)
    entry = keras.Input((5, 8))
    x = keras.layers.MultiHeadAttention(2, 4, name="heads")(entry, entry)
    x = keras.layers.GlobalAveragePooling1D()(x)
    net = keras.Model(entry, keras.layers.Dense(2)(x))
    net.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    groups = tfsparse.find_groups(net)
    apart = partitions.overlapped(net, groups)
    sizes = {group.name: group.size for group in groups if not group.frozen}
    assert apart and all(sizes[name] > 2 for name in apart)  # the two heads stay
    x = np.random.default_rng(0).normal(size=(32, 5, 8)).astype("float32")
    small = tfsparse.fit_shrinking(
        net,
        tfsparse.GSparsity(),
        x,
        np.arange(32) % 2,
        epochs=2,
        target={"params": 0.7},
    ).model
    assert apart[0] in caplog.text and small.count_params() <= 0.7 * net.count_params()


@pytest.mark.parametrize("name", sorted(models.TABLE))
def test_a_zero_unit_sends_nothing_on(name):
    """On every conformance model: what a coupled group holds is all that writes it."""
    model = models.randomise(tfsparse.graph.rebuild.flat(models.TABLE[name].build()))
    groups = [g for g in tfsparse.find_groups(model) if not g.frozen and not g.gates]
    if not groups:
        pytest.skip("nothing to prune")
    try:
        found = partitions.units(model, groups)
    except ValueError as error:
        assert "must not overlap" in str(error)
        return
    gone = np.arange(found.groups) % 2 == 1
    for variable in model.trainable_variables:
        labels = found.labels.get(variable.path)
        if labels is not None:
            dead = (labels >= 0) & gone[labels]
            variable.assign(np.where(dead, 0, np.asarray(variable)))
    dead_units = tfsparse.dead_units(model)
    start = 0
    for group in groups:
        expected = ~gone[start : start + group.size]
        expected[0] |= not expected.any()
        np.testing.assert_array_equal(dead_units[group.name], expected)
        start += group.size


def test_json_keeps_a_partition():
    model = small_net()
    found = partitions.units(model, tfsparse.find_groups(model), carriers=False)
    again = records.Partition.from_json(found.to_json())
    assert again.names == found.names and again.groups == found.groups
    for held in ("labels", "followers"):
        one, two = getattr(found, held), getattr(again, held)
        assert list(one) == list(two)
        assert all(np.array_equal(one[k], two[k]) for k in one)


def two_branches():
    """An Add of a convolution with its norm (60 weights), a bare pooling, and a bias-free one."""
    image = keras.Input((6, 6, 4))
    y = layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv")(image)
    y = layers.BatchNormalization(name="norm")(y)
    z = layers.Conv2D(4, 1, use_bias=False, name="narrow")(image)
    pool = layers.MaxPooling2D(3, 1, "same")(image)
    x = layers.Flatten()(layers.Add(name="sum")([y, z, pool]))
    return keras.Model(image, layers.Dense(2)(x))


@pytest.mark.parametrize("scaling", ["auto", "none", "sqrt"])
def test_operations_weigh_by_their_size(scaling):
    """By default a factor of 1 weighs less than a convolution; on average all weigh 1."""
    model = two_branches()
    method = GSparsity(0.1, partition="operation", scaling=scaling)
    groups = tfsparse.find_groups(model, method.kinds)
    optimizer = method.optimizer(method.prepare(model, groups), groups)
    assert optimizer.scaling == ("sqrt" if scaling == "sqrt" else "none")
    own = optimizer.partition.multipliers
    if scaling == "auto":
        sizes = np.array([144 + 8, 16, 1])
        np.testing.assert_allclose(own, np.sqrt(sizes / sizes.mean()))
        assert (own**2).mean() == pytest.approx(1)
    else:
        assert own is None


def test_units_weigh_alike_by_default():
    model = small_net()
    optimizer = GSparsity(0.1).optimizer(model, tfsparse.find_groups(model))
    assert optimizer.scaling == "none" and optimizer.partition.multipliers is None


def test_some_groups_may_weigh_more():
    model = small_net()
    found = tfsparse.find_groups(model)
    method = GSparsity(0.1, scaling="sqrt", multipliers="a=2,b*=0.5")
    partition = method.optimizer(model, found).partition
    bases = [name.split("[")[0] for name in partition.names]
    assert set(bases) == {"a", "b"}
    wanted = [{"a": 2.0, "b": 0.5}[base] for base in bases]
    assert partition.multipliers.tolist() == wanted
    shapes = GSparsity(0.1, partition="filter", multipliers="a/*=3")
    partition = shapes.optimizer(model, found).partition
    factors = dict(zip(partition.names, partition.multipliers, strict=True))
    assert factors["a/kernel[0]"] == 3 and factors["b/kernel[0]"] == 1
    with pytest.raises(ValueError, match="`multipliers` must map patterns.*'q': 2.0"):
        GSparsity(multipliers="q=2").optimizer(model, found)
    with pytest.raises(ValueError, match="`multipliers` must be a list.*'a'"):
        GSparsity(multipliers="a")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda m: partitions.by_shape(m, "ring"), "`shape` must be among"),
        (
            lambda m: partitions.by_shape(m, "filter", ["*"]),
            "`model` must have weights to penalise",
        ),
    ],
)
def test_partitions_that_cannot_be_are_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(small_net())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"strength": -1.0}, "`strength` must be 0 or more"),
        ({"eps": 2.0}, r"`eps` must be in \(0, 1\]"),
        ({"partition": "ring"}, "`partition` must be one of"),
        ({"threshold": -1.0}, "`threshold` must be 0 or more"),
    ],
)
def test_a_method_with_wrong_arguments_is_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        GSparsity(**arguments)


def image_net():
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="a")(image)
    x = layers.ReLU()(layers.BatchNormalization(name="n")(x))
    x = layers.Conv2D(12, 3, activation="relu", name="b")(x)
    x = layers.Dense(16, activation="relu", name="c")(layers.Flatten()(x))
    model = keras.Model(image, layers.Dense(10, name="out")(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        keras.optimizers.Adam(1e-3),
        loss,
        metrics=["accuracy"],
        jit_compile=False,
        steps_per_execution=14,  # of 28 an epoch
    )
    return model


def shrunk(digits, method, **arguments):
    (x, y), _ = digits
    given = {"epochs": 9, "shrink_epochs": 7, "batch_size": 50, "shuffle": False}
    return tfsparse.fit_shrinking(image_net(), method, x, y, **(given | arguments))


@pytest.mark.slow
def test_removal_changes_no_curve(digits, monkeypatch):
    monkeypatch.setattr(shrinking, "RETRACE_MACS", 0)
    method = GSparsity(0.03)
    whole, less = shrunk(digits, method, remove=False), shrunk(digits, method)
    assert less.removals and less.removals[0].epoch < 7
    first = less.removals[0].epoch  # later, rounding grows: a step of 0.5 is large
    for one, two in zip(whole.history[: first + 1], less.history, strict=False):
        assert one["live"] == two["live"]
        assert one["loss"] == pytest.approx(two["loss"], abs=0.02)
    sizes = {g.name: g.size for g in tfsparse.find_groups(less.model)}
    assert 0 < sum(sizes.values()) < 8 + 12 + 16 + 10
    assert isinstance(less.model.optimizer, keras.optimizers.Adam)


def test_without_removal_the_dead_leave_before_the_penalty_ends(digits):
    found = shrunk(digits, GSparsity(0.03), remove=False)
    live = [entry["live"] for entry in found.history]
    assert live[-1] == live[6]  # they did not grow back


@pytest.mark.parametrize("partition", ["filter", "weight", "kernel"])
def test_shapes_of_kernels_die_too(digits, partition):
    method = GSparsity(0.03 if partition == "filter" else 3e-3, partition=partition)
    found = shrunk(digits, method)
    cost = tfsparse.measure(found.model)
    assert cost.nonzero < 0.9 * tfsparse.measure(image_net()).params


def test_setting_the_dead_to_zero_costs_nothing(digits):
    (x, y), (x_test, y_test) = digits
    seen = []

    def score(model):
        values = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
        seen.append(sum(int((v == 0).sum()) for v in values))
        return float((model.predict(x_test, verbose=0).argmax(-1) == y_test).mean())

    method = GSparsity(0.03)
    groups = tfsparse.find_groups(image_net())
    running = method.prepare(image_net(), groups)
    optimizers.recompile(running, image_net(), method.optimizer(running, groups))
    running.fit(x, y, batch_size=50, epochs=8, verbose=0)
    before = [keras.ops.convert_to_numpy(v) for v in running.optimizer.variables]
    rows = shrinking.discretisation(running, method, score)
    assert [row["threshold"] for row in rows] == [None, 1e-6, 1e-3, 0.5]
    assert rows[0]["score"] == rows[1]["score"] == rows[2]["score"] > 0.9
    assert rows[2]["dead"] >= 8 and rows[3]["dead"] > rows[2]["dead"]
    assert rows[3]["score"] < rows[0]["score"]
    assert seen[3] > seen[2] > seen[0]  # each threshold starts from the same weights
    for value, variable in zip(before, running.optimizer.variables, strict=True):
        assert np.array_equal(value, keras.ops.convert_to_numpy(variable))


@pytest.mark.slow
def test_a_target_is_met_by_bisection(digits):
    found = shrunk(digits, GSparsity(0.005), target={"params": 0.4}, trials=8)
    whole = tfsparse.measure(image_net()).params
    assert 0.37 * whole < tfsparse.measure(found.model).params <= 0.4 * whole
    assert len(found.history) == 9


def test_a_target_out_of_reach_says_the_nearest(digits):
    with pytest.raises(ValueError, match="after 1 trial.* times the target"):
        shrunk(digits, GSparsity(1e-4), target={"params": 0.1}, trials=1)
    with pytest.raises(ValueError, match="`trials` must come with a target"):
        shrunk(digits, GSparsity(1e-4), trials=3)


def test_the_main_job_bisects_and_resumes(tmp_path, capsys):
    folder = tmp_path / "run"
    arguments = ["train", "--data=digits", "--model=mlp", "--hidden=24,16",
                 "--method=gsparsity", "--strength=0.01", "--target=params=0.2",
                 "--epochs=7", "--shrink_epochs=6", "--fine_tune_epochs=0",
                 "--batch_size=50", "--formats=keras", "--tensorboard=false", "--preflight=false",
                 f"--workdir={folder}"]  # fmt: skip
    assert train.main([*arguments, "--trials=1"]) == 2
    assert "times the target with strength" in capsys.readouterr().err
    assert train.main([*arguments, "--trials=4", "--resume"]) == 2  # another run
    for path in folder.glob("checkpoints/config.json"):
        path.unlink()
    first = folder / "checkpoints" / "trial-1"
    made = first.stat().st_mtime_ns
    assert train.main([*arguments, "--trials=4", "--resume"]) == 0
    assert first.stat().st_mtime_ns == made  # not trained again
    report = json.loads((folder / "report.json").read_text())
    rows = report["method"]["trials"]
    assert 2 <= len(rows) <= 4
    chosen = [r for r in rows if r["strength"] == report["method"]["strength"]]
    assert 0.5 < chosen[0]["cost"] < 2
    left = report["stages"][-1]["params"] / report["dense_cost"]["params"]
    assert 0.93 * 0.2 <= left <= 0.2
    (target,) = report["target"]
    assert target["share"] == pytest.approx(left / 0.2)
    assert (folder / "plots" / "trials.png").exists()
    assert len(report["method"]["settling"]) == 4


@pytest.mark.slow
def test_trials_run_beside_each_other(tmp_path, capsys, monkeypatch):
    """As many checkpoints as trials, and the same trials once more from them."""
    folder = tmp_path / "run"
    arguments = ["train", "--data=digits", "--model=mlp", "--hidden=24,16",
                 "--method=gsparsity", "--strength=0.002", "--target=params=0.2",
                 "--epochs=5", "--shrink_epochs=4", "--fine_tune_epochs=0", "--trials=4",
                 "--workers=2", "--batch_size=50", "--formats=keras", "--tensorboard=false",
                 "--preflight=false", f"--workdir={folder}"]  # fmt: skip
    assert train.main(arguments) == 0
    assert "Trials run 2 at a time" in capsys.readouterr().out
    report = json.loads((folder / "report.json").read_text())
    rows = report["method"]["trials"]
    assert len(rows) in (2, 4)
    assert [r["strength"] for r in rows[:2]] == [0.002, 0.008]
    found = {p.name for p in (folder / "checkpoints").iterdir() if "trial" in p.name}
    assert found == {f"trial-{n + 1}" for n in range(len(rows))}
    for name in ("report.json", "report.html"):
        (folder / name).unlink()
    assert train.main([*arguments, "--resume"]) == 0
    again = json.loads((folder / "report.json").read_text())
    assert again["method"]["trials"] == rows


def test_a_trial_beside_that_fails_says_why(tmp_path):
    from tfsparse.engine import beside

    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "config.json").write_text('{"data": "nowhere"}')
    with beside.Processes(str(tmp_path), 1, "sparse") as others:
        (found,) = others.run([lambda: _error_of(others.ask)])
    assert isinstance(found, ValueError) and "nowhere" in str(found)


def _error_of(function, *arguments):
    try:
        return function(*arguments)
    except ValueError as error:
        return error


def test_the_main_job_runs_it(tmp_path, capsys):
    folder = tmp_path / "run"
    code = train.main(
        ["train", "--data=digits", "--model=mlp", "--hidden=24,16", "--method=gsparsity",
         "--strength=0.03", "--epochs=10", "--shrink_epochs=8", "--fine_tune_epochs=1",
         "--batch_size=50", "--formats=keras,tflite_int8", "--tensorboard=false",
         "--preflight=false",
         "--target=params=900", f"--workdir={folder}"]
    )  # fmt: skip
    assert code == 0
    assert "The target params=900 is " in capsys.readouterr().out
    report = json.loads((folder / "report.json").read_text())
    kept = {g["name"]: (g["kept"], g["size"]) for g in report["groups"]}
    assert 0 < kept["fc1"][0] < 24 and 0 < kept["fc2"][0] < 16
    stages = {s["name"]: s for s in report["stages"]}
    assert stages["mcu"]["accuracy"] > 0.7
    units = kept["fc1"][0], kept["fc2"][0]
    assert (
        stages["mcu"]["params"]
        # Kernels, BatchNorm's four vectors, and the biases of the logits.
        == 68 * units[0] + (units[0] + 4) * units[1] + (units[1] + 1) * 10
    )
    assert (folder / "report.html").exists()


@pytest.mark.parametrize("depth", ["flat", "nested"])
def test_branches_of_adds_are_groups(depth):
    image = keras.Input((8, 8, 3))
    stem = layers.Conv2D(4, 3, padding="same", name="stem")(image)
    y = layers.Conv2D(4, 3, padding="same", use_bias=False, name="a")(stem)
    y = layers.BatchNormalization(name="n")(y)
    if depth == "nested":
        inner = layers.Conv2D(4, 1, name="c")(y)
        y = layers.Add(name="inner")([inner, y])
    pool = layers.MaxPooling2D(3, 1, "same")(stem)
    x = layers.Add(name="sum")([stem, y, pool])
    model = keras.Model(image, layers.Dense(2)(layers.Flatten()(x)))
    method = GSparsity(partition="operation")
    groups = tfsparse.find_groups(model, method.kinds)
    running = method.prepare(model, groups)
    scales = {layer.name for layer in running.layers if layer.name.endswith("_scale")}
    own = {
        path: int(labels.max())
        for path, labels in partitions.operations(running, groups).labels.items()
    }
    names = partitions.operations(running, groups).names
    found = {path: names[label] for path, label in own.items()}
    wanted = {
        "sum_0_scale/factor": "sum:branches[0]", "sum_2_scale/factor": "sum:branches[2]",
        "a/kernel": "sum:branches[1]", "n/gamma": "sum:branches[1]",
        "n/beta": "sum:branches[1]",
    }  # fmt: skip
    assert scales == {"sum_0_scale", "sum_2_scale"} | (
        {"inner_1_scale"} if depth == "nested" else set()
    )
    if depth == "nested":
        wanted["inner_1_scale/factor"] = "inner:branches[1]"
        wanted |= {f"c/{name}": "inner:branches[0]" for name in ("kernel", "bias")}
    assert found == wanted
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype("float32")
    assert np.allclose(model(x), running(x), atol=1e-5)


def test_dead_operations_and_their_wires_leave(digits):
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3, padding="same", name="stem")(image)
    y = layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(x)
    y = layers.ReLU()(layers.BatchNormalization(name="norm")(y))
    z = layers.Conv2D(8, 5, padding="same", name="wide", activation="relu")(x)
    pool = layers.MaxPooling2D(3, 1, "same", name="pool")(x)
    x = layers.Add(name="sum")([x, y, z, pool])
    x = layers.Flatten()(x)
    model = keras.Model(image, layers.Dense(10, name="out")(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"], jit_compile=False
    )
    (x, y), (x_test, y_test) = digits
    method = GSparsity(0.03, partition="operation", ignore="stem*")
    found = tfsparse.fit_shrinking(
        model, method, x, y, epochs=17, shrink_epochs=15, batch_size=50, shuffle=False
    )
    live = found.history[14]["live"]["sum:branches"]
    left = {layer.name for layer in found.model.layers}
    assert 1 <= live < 4
    assert ("conv" in left) + ("wide" in left) + ("pool" in left) in (live - 1, live)
    assert ("norm" in left) == ("conv" in left) and ("sum" in left) == (live > 1)
    assert not any("Scale" in type(layer).__name__ for layer in found.model.layers)
    for variable in found.model.trainable_variables:
        assert np.abs(variable).max() > 0
    answers = found.model.predict(x_test, verbose=0).argmax(-1)
    assert (answers == y_test).mean() > 0.85


def test_layers_that_do_not_train_keep_their_units(digits):
    model = image_net()
    model.get_layer("b").trainable = False
    method = GSparsity(0.3)
    groups = tfsparse.find_groups(model)
    running = method.prepare(model, groups)
    optimizers.recompile(running, model, method.optimizer(running, groups))
    running.fit(*digits[0], epochs=1, verbose=0)
    keep = method.keep(running, tfsparse.find_groups(running))
    assert keep["b"].all() and not keep["a"].all()


def test_a_layer_that_died_whole_keeps_a_unit_and_says_so(digits):
    (x, y), _ = digits
    image = keras.Input((8, 8, 1))
    flat = layers.Flatten()(image)
    parts = [layers.Dense(8, activation="relu", name=name)(flat) for name in "pq"]
    joined = layers.Concatenate()(parts)
    model = keras.Model(image, layers.Dense(10, name="out")(joined))
    method = GSparsity(1e-4, multipliers="p=1000")
    groups = tfsparse.find_groups(model)
    running = method.prepare(model, groups)
    running.compile(
        method.optimizer(running, groups),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    running.fit(x, y, batch_size=50, epochs=4, verbose=0)
    small, reasons = finishing.finish(running, method)
    assert reasons["p"] == "all of it died, and a layer keeps one unit"
    assert small.get_layer("p").units == 1 and small.get_layer("q").units == 8
    assert not np.any(small.get_layer("p").kernel)


def test_single_weights_have_no_names():
    model = small_net()
    method = GSparsity(partition="weight")
    optimizer = method.optimizer(model, ())
    assert (
        optimizer.partition.names == () and optimizer.partition.groups == 48 + 120 + 8
    )
    optimizer.build(model.trainable_variables)
    model.optimizer = optimizer
    with pytest.raises(ValueError, match="must be for groups with names"):
        GSparsity(partition="weight", multipliers="a*=2").optimizer(model, ())


def test_a_sequential_model_shrinks(digits):
    (x, y), _ = digits
    parts = [keras.Input((8, 8, 1)), layers.Flatten(),
             layers.Dense(24, activation="relu", name="h"), layers.Dense(10)]  # fmt: skip
    model = keras.Sequential(parts)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=False)
    found = tfsparse.fit_shrinking(
        model, GSparsity(0.05), x, y, epochs=6, shrink_epochs=5, batch_size=50
    )
    assert 0 < found.model.get_layer("h").units < 24


def stepped(model, method, **values):
    """A prepared, built model with some variables set; and its masks."""
    groups = tfsparse.find_groups(model, method.kinds)
    running = method.prepare(model, groups)
    running.compile(method.optimizer(running, groups), "mse")
    running.optimizer.build(running.trainable_variables)
    for variable in running.variables:
        if variable.path in values:
            variable.assign(values[variable.path])
    keep = method.keep(running, tfsparse.find_groups(running, method.kinds))
    return running, {name: alive.tolist() for name, alive in keep.items()}


def test_what_a_frozen_layer_writes_lives():
    image = keras.Input((4, 4, 2))
    frozen = layers.Conv2D(4, 1, name="f", trainable=False)(image)
    kernel = np.zeros((1, 1, 2, 4), "float32")
    kernel[..., 0] = 1
    x = layers.Add()([frozen, layers.Conv2D(4, 1, name="a")(image)])
    model = keras.Model(image, layers.Dense(2)(layers.Flatten()(layers.ReLU()(x))))
    running, keep = stepped(model, GSparsity(), **{"a/kernel": kernel})
    assert keep["f"] == [True] * 4


def test_branches_without_trainable_weights_get_a_factor():
    image = keras.Input((6,))
    x = layers.Dense(6, name="x")(image)
    fixed = layers.Dense(6, name="fixed", trainable=False)(x)
    drop = layers.Dropout(0.1, name="drop")(x)
    total = layers.Add(name="s")([layers.Dense(6, name="a")(x), drop, fixed])
    model = keras.Model(image, layers.Dense(2, name="out")(total))
    zero = {"s_1_scale/factor": np.zeros(1, "float32")}
    running, keep = stepped(model, GSparsity(partition="operation"), **zero)
    assert {n.name for n in running.layers if n.name.endswith("_scale")} == {
        "s_1_scale", "s_2_scale",
    }  # fmt: skip
    assert keep["s:branches"] == [True, False, True]


def test_a_dead_branch_that_holds_an_add_goes():
    image = keras.Input((6,))
    x = layers.Dense(6, name="x")(image)
    inner = [layers.Dense(6, name=name)(x) for name in ("c1", "c2")]
    a = layers.Dense(6, name="a")(layers.Add(name="inner")(inner))
    total = layers.Add(name="outer")([a, layers.Dense(6, name="z")(x)])
    model = keras.Model(image, layers.Dense(2, name="out")(total))
    zero = {"a/kernel": np.zeros((6, 6)), "a/bias": np.zeros(6)}
    _, keep = stepped(model, GSparsity(partition="operation"), **zero)
    assert keep["outer:branches"] == [False, True]
    assert keep["inner:branches"] == [True, True]


def test_a_factor_on_what_the_user_sees_is_not_fused():
    image = keras.Input((6,))
    a = layers.Dense(6, name="a")(image)
    total = layers.Add(name="s")([a, layers.Dense(6, name="b")(image)])
    model = keras.Model(image, [a, total])
    half = {"s_0_scale/factor": np.full(1, 0.5, "float32")}
    running, _ = stepped(model, GSparsity(partition="operation"), **half)
    x = np.random.default_rng(0).normal(size=(3, 6)).astype("float32")
    for one, two in zip(running(x), deploy.lower(running)(x), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_groups_that_left_whole_are_drawn():
    history = [{"live": {"stem": 4, "s:branches": 2}}, {"live": {"stem": 3, "new": 1}}]
    section = sparse.live_units(records.Result(None, history), {"stem": 5}, ())
    lines = {line.name: line.ys for line in section.lines}
    assert lines == {"stem": (5, 4, 3), "s:branches": (0, 2, None)}
    assert plots.draw(section.to_json()) is not None


def test_shrinknets_bisects_too_and_callbacks_see_the_rest(digits):
    class Seen(keras.callbacks.Callback):
        epochs = ()

        def on_epoch_end(self, epoch, logs=None):
            self.epochs = (*self.epochs, epoch)

    seen = Seen()
    method = tfsparse.ShrinkNets(0.1)
    found = shrunk(
        digits, method, target={"params": 0.85}, trials=7, epochs=7, shrink_epochs=5,
        callbacks=[seen],
    )  # fmt: skip
    whole = tfsparse.measure(image_net()).params
    assert tfsparse.measure(found.model).params <= 0.85 * whole
    assert seen.epochs == (5, 6)


def test_a_measure_that_is_zero_anyway_is_met(digits):
    found = shrunk(digits, GSparsity(0.03), target={"index_bytes": 0.5}, epochs=2)
    assert found.history[0]["strength_on"] and not found.history[1]["strength_on"]


def test_units_on_two_axes_of_a_kernel_have_their_labels():
    """Heads of attention: a unit's positions on two axes, wherever the outer one stands."""
    sequence = keras.Input((5, 8))
    x = layers.Dense(6, name="before")(sequence)
    x = layers.MultiHeadAttention(2, 3, name="heads")(x, x)
    model = keras.Model(sequence, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))
    groups = tfsparse.find_groups(model)
    found = partitions.units(model, groups, ignore=("heads", "*:value"))
    shapes = {v.path: tuple(v.shape) for v in model.trainable_variables}
    seen = 0
    for group in groups:
        for member in () if group.frozen else group.members:
            own = isinstance(member.axis, tuple) and member.role != records.CONSUMER
            if not own or member.path not in found.labels:
                continue
            seen += 1
            outer, inner = member.axis
            labels = np.broadcast_to(found.labels[member.path], shapes[member.path])
            rows = np.moveaxis(labels, (outer, inner), (0, 1)).reshape(-1, labels.size // (
                shapes[member.path][outer] * shapes[member.path][inner]))  # fmt: skip
            for position, unit in zip(member.indices, member.units, strict=True):
                names = {found.names[n] for n in rows[position]}
                assert names == {f"{group.name}[{unit}]"}
    assert seen
