"""Ten shapes by hand, the overlapping proximal step, and Algorithm 3 on real digits."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfsparse
from tfsparse import budgets, curvature, fitting, records
from tfsparse.engine import finishing
from tfsparse.engine.stages import strip
from tfsparse.methods import BayesNASCompression, evidence_shapes, partitions
from tfsparse.methods.gsparsity import optimizer_of
from tfsparse.optimizers import GONE, OverlappingProxSGD

_OTHERS = [form for form in records.CURVATURES if form != "recursive"]


def context_of(model, method, x=None, y=None, **arguments):
    """What a call of `fit_shrinking` would hand to its stages."""
    x = np.zeros((8, 4)) if x is None else x
    y = np.zeros(8) if y is None else y
    return fitting.FitContext(method, model, x, y, 2, budgets.Limits(), arguments)


def array(x):
    return ops.convert_to_numpy(x)


def net():
    image = keras.Input((6, 5, 2))
    x = layers.Conv2D(3, (2, 3), activation="relu", name="a")(image)
    x = layers.Dense(4, activation="relu", name="b")(layers.Flatten()(x))
    return keras.Model(image, layers.Dense(2, name="out")(x))


def written(model):
    return evidence_shapes.carriers(model, tfsparse.find_groups(model))


def levels_of(shape, dense="filter"):
    model = net()
    shapes = {"*": (shape,)}, {"*": (dense,)}
    return evidence_shapes.levels(model, *shapes, written(model), ["out/*"])


CONV = {  # figure S5 (a) to (j) for a kernel of 2 x 3, 2 inputs, 3 filters
    "shape": (1, 12, 3),
    "row": (1, 4, 9),
    "column": (1, 6, 6),
    "row_column": (6, 2, 12),
    "channel": (1, 2, 18),
    "stack_shape": (1, 6, 6),
    "stack_row": (1, 2, 18),
    "stack_column": (1, 3, 12),
    "stack_row_column": (6, 1, 24),
    "filter": (1, 3, 12),
}


@pytest.mark.parametrize("shape", evidence_shapes.SHAPES)
def test_shapes_of_a_convolution(shape):
    """Partitions, groups in each, weights in each group."""
    found = levels_of(shape)
    count, groups, size = CONV[shape]
    own = [p.labels["a/kernel"] for p in found if "a/kernel" in p.labels]
    assert len(own) == count
    for labels in own:
        whole = np.broadcast_to(labels, (2, 3, 2, 3))
        used, counts = np.unique(whole[whole >= 0], return_counts=True)
        assert len(used) == groups and set(counts) == {size}
    if shape == "row_column":  # the cross of row 1 and column 2, channel by channel
        cross = np.broadcast_to(own[1 * 3 + 2], (2, 3, 2, 3))
        expected = np.array([[0, 0, 1], [1, 1, 1]], bool)
        np.testing.assert_array_equal((cross >= 0)[:, :, 0, 0], expected)
        assert cross[1, 0, 0, 0] != cross[1, 0, 1, 0]


@pytest.mark.parametrize("shape", evidence_shapes.SHAPES)
def test_shapes_of_a_dense(shape):
    """A row is all of one input, a column all of one output."""
    found = levels_of("filter", shape)
    shapes = [p.labels["b/kernel"].shape for p in found if "b/kernel" in p.labels]
    rows, columns, whole = [(45, 1)], [(1, 4)], [(1, 1)]
    expected = {
        "shape": rows, "row": rows, "channel": rows, "stack_row": rows,
        "column": columns, "filter": columns, "stack_column": columns,
        "row_column": rows + columns, "stack_row_column": rows + columns,
    }  # fmt: skip
    # All of a Dense in one group would take its outputs along: refused with them.
    assert shapes == expected.get(shape, whole)


def test_combined_shapes_overlap_and_outputs_stay():
    model = net()
    found = evidence_shapes.levels(
        model,
        {"*": ("shape", "filter")},
        {"*": ("row", "column")},
        written(model),
    )
    assert [sorted(p.labels) for p in found] == [
        ["a/kernel", "b/kernel", "out/kernel"], ["a/kernel", "b/kernel"],
    ]  # fmt: skip
    assert [p.groups for p in found] == [12 + 45 + 4, 3 + 4]
    assert set(found[1].followers) == {"a/bias", "b/bias"}
    np.testing.assert_array_equal(found[1].followers["b/bias"], [3, 4, 5, 6])
    named = evidence_shapes.parse("shape+filter,a=channel", "conv_shapes")
    assert named == {"*": ("shape", "filter"), "a": ("channel",)}
    one, *_ = evidence_shapes.levels(model, named, {}, written(model))
    assert one.groups == 2


def test_a_dead_filter_takes_its_batch_norm_along_unless_others_write_its_units():
    image = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="a")(image)
    x = layers.ReLU()(layers.BatchNormalization(name="n")(x))
    y = layers.Conv2D(4, 3, padding="same", name="b")(x)
    z = layers.Conv2D(4, 1, name="c")(x)
    x = layers.Flatten()(layers.Add()([y, z]))
    model = keras.Model(image, layers.Dense(2, name="out")(x))
    found = written(model)
    assert sorted(found) == ["a/kernel", "b/kernel", "c/kernel"]
    assert [path for path, _ in found["a/kernel"]] == ["n/gamma", "n/beta"]
    assert found["b/kernel"] == found["c/kernel"] == []
    (level,) = evidence_shapes.levels(model, {"*": ("filter",)}, {}, found)
    np.testing.assert_array_equal(level.followers["n/beta"], [0, 1, 2, 3])
    assert set(level.followers) == {"n/gamma", "n/beta"}


@pytest.mark.parametrize("text", ["diagonal", "conv1=shape+", "a=b=filter+x"])
def test_unknown_shapes(text):
    with pytest.raises(ValueError, match="`dense_shapes` must join shapes among"):
        evidence_shapes.parse(text, "dense_shapes")


# The optimizer --------------------------------------------------------------------


def two_ways(model):
    return [partitions.by_shape(model, shape) for shape in ("row", "filter")]


def flat_net(inputs=5, outputs=4):
    x = keras.Input((inputs,))
    return keras.Model(x, layers.Dense(outputs, use_bias=False, name="d")(x))


def test_a_step_is_the_limit_of_dykstra():
    """prox of mu (rows + columns), in NumPy to the limit."""
    model = flat_net()
    optimizer = OverlappingProxSGD(
        two_ways(model), mu=0.6, learning_rate=0.5, rho=1.0, sweeps=60
    )
    optimizer.build(model.trainable_variables)
    factors = np.array([0.5, 1, 1, 1, 2.0])
    optimizer.reweigh(0, factors)
    rng = np.random.default_rng(0)
    w, g = rng.normal(size=(2, 5, 4))
    model.layers[-1].kernel.assign(w)
    optimizer.apply([ops.cast(g, "float32")], model.trainable_variables)

    def shrink(x, step, axis):
        norm = np.linalg.norm(x, axis=axis, keepdims=True)
        return np.maximum(0, 1 - step / norm) * x

    x, p, q = w - g, np.zeros_like(w), np.zeros_like(w)
    for _ in range(2000):
        y = shrink(x + p, 0.6 * factors[:, None], 1)
        p += x - y
        x = shrink(y + q, 0.6, 0)
        q += y - x
    expected = w + 0.5 * (x - w)
    np.testing.assert_allclose(array(model.layers[-1].kernel), expected, atol=1e-5)


def test_what_is_gone_stays_gone_and_nothing_is_traced_again():
    model = flat_net()
    model.compile(OverlappingProxSGD(two_ways(model), mu=1e-3, rho=0.5), "mse")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 5)).astype("float32"), rng.normal(size=(64, 4))
    traces = []
    optimizer = model.optimizer
    moved = optimizer._moved
    optimizer._moved = lambda *args: traces.append(1) or moved(*args)
    model.fit(x, y, verbose=0)
    traced = len(traces)
    optimizer.reweigh(0, np.array([1, GONE, 1, 1, 1]))
    optimizer.reweigh(1, np.array([1, 1, 1, GONE]))
    optimizer.prune()
    optimizer.mu.assign(0.0)
    model.fit(x, y, epochs=3, verbose=0)
    kernel = array(model.layers[-1].kernel)
    assert not kernel[1].any() and not kernel[:, 3].any()
    assert np.count_nonzero(kernel) == 4 * 3
    assert len(traces) == traced
    assert optimizer.gone().sum() == 2 and optimizer.dead().sum() == 2


def test_a_saved_optimizer_goes_on(tmp_path):
    model = flat_net()
    model.compile(OverlappingProxSGD(two_ways(model), mu=1e-3, sweeps=3), "mse")
    x, y = np.ones((8, 5), "float32"), np.ones((8, 4))
    model.fit(x, y, verbose=0)
    model.optimizer.reweigh(0, np.array([1, GONE, 3, 1, 1]))
    model.optimizer.prune()
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(again.optimizer.gone(), model.optimizer.gone())
    for one in (model, again):
        one.fit(x, y, epochs=2, verbose=0)
    np.testing.assert_array_equal(
        array(again.layers[-1].kernel), array(model.layers[-1].kernel)
    )


def test_refused_factors_and_partitions():
    model = flat_net()
    with pytest.raises(ValueError, match="`partitions` must hold a partition"):
        OverlappingProxSGD([])
    optimizer = OverlappingProxSGD(two_ways(model))
    optimizer.build(model.trainable_variables)
    for factors in (np.ones(4), -np.ones(5), np.full(5, np.nan)):
        with pytest.raises(ValueError, match="`factors` must be 5 numbers >= 0"):
            optimizer.reweigh(0, factors)


# The method -----------------------------------------------------------------------


def prepared(**arguments):
    model = net()
    method = BayesNASCompression(**arguments)
    groups = tfsparse.find_groups(model, method.kinds)
    copy = method.prepare(model, groups)
    copy.compile(method.optimizer(copy, groups), "mse")
    copy.optimizer.build(copy.trainable_variables)
    return method, copy


def test_an_update_by_hand():
    """gamma, alpha, omega and the entropy criterion, eqs. B.0.2 to B.0.5."""
    method, model = prepared(loop_epochs=2)
    rng = np.random.default_rng(0)
    bends = {v.path: rng.uniform(0, 2, v.shape) for v in model.trainable_variables}
    bends["b/kernel"][7] = 0.0  # an input that no sample reaches
    scaled = bends["b/kernel"] / 2e-3  # over lambda
    kernel = array(model.get_layer("b").kernel).copy()
    kernel[3] *= 1e-3  # a row of little use
    model.get_layer("b").kernel.assign(kernel)
    found = curvature.Curvature(bends, 5, 4)
    tools = records.Tools(lambda model, form: found)
    assert method.end_epoch(model, 0, tools) is None
    told = method.end_epoch(model, 1, tools)
    assert told["negative_curvature"] == 5 and told["zero_curvature"] == 4

    def update(kernel, held):
        """omega and whether they stay, of rows and of columns."""
        for axis, own in zip((1, 0), held, strict=True):
            gamma = np.linalg.norm(kernel, axis=axis) / own
            spread = np.expand_dims(gamma, axis)
            omega = np.sqrt((scaled / (1 + spread * scaled)).sum(axis))
            entropy = 0.5 * np.log(2 * np.pi * np.e * np.maximum(gamma, 1e-30))
            yield omega, (entropy > 0) & (scaled.sum(axis) > 0)

    def received():
        for number, axis in ((0, 1), (1, 0)):
            labels = optimizer_of(model).partitions[number].labels["b/kernel"]
            yield array(optimizer_of(model).factors[number])[labels.take(0, axis)]

    (rows, stays), (columns, left) = update(kernel, (1.0, 1.0))
    assert not stays[3] and not stays[7] and stays.sum() > 25 and left.all()
    # Rows and columns compete for the same weights: one mean for both.
    mean = np.concatenate([rows[stays], columns[left]]).mean()
    by_row, by_column = received()
    np.testing.assert_array_equal(by_row >= GONE, ~stays)
    np.testing.assert_allclose(by_row[stays], rows[stays] / mean, rtol=1e-4)
    np.testing.assert_allclose(by_column, columns / mean, rtol=1e-4)
    assert told["omega"]["b"] == pytest.approx(
        [f(np.concatenate([by_row[stays], by_column])) for f in (min, np.median, max)]
    )
    after = array(model.get_layer("b").kernel)
    assert not after[~stays].any() and after[stays].any(axis=1).all()
    # The next loop starts from these factors, and the pruned stay pruned.
    method.end_epoch(model, 3, tools)
    (rows, again), (columns, left) = update(after, (by_row, by_column))
    again &= stays
    mean = np.concatenate([rows[again], columns[left]]).mean()
    by_row, by_column = received()
    np.testing.assert_array_equal(by_row >= GONE, ~again)
    np.testing.assert_allclose(by_row[again], rows[again] / mean, rtol=1e-4)
    np.testing.assert_allclose(by_column[left], columns[left] / mean, rtol=1e-4)


@pytest.mark.parametrize("evidence", [True, False])
def test_a_units_importance_is_its_share_of_the_penalty(evidence):
    method, model = prepared(loop_epochs=1, evidence=evidence, conv_shapes="shape")
    rows = optimizer_of(model).partitions[0].labels["b/kernel"][:, 0]
    columns = optimizer_of(model).partitions[1].labels["b/kernel"][0]
    held = [array(own).copy() for own in optimizer_of(model).factors]
    held[0][rows[5]] = GONE
    held[1][columns] = [1, 2, 3, 4]
    for number, own in enumerate(held):
        optimizer_of(model).reweigh(number, own)
    optimizer_of(model).prune()
    w = array(model.get_layer("b").kernel)
    assert not w[5].any()
    by_row = np.linalg.norm(w, axis=1, keepdims=True)
    by_row[5] = 1.0
    by_column = np.linalg.norm(w, axis=0, keepdims=True)
    shares = w**2 * (1 / by_row + np.array([1, 2, 3, 4.0]) / by_column)
    found = method.importance(model, tfsparse.find_groups(model, method.kinds))
    out = array(
        model.get_layer("out").kernel
    )  # cut into rows: its columns are the logits
    reads = np.linalg.norm(out, axis=1)
    np.testing.assert_allclose(found["b"], np.sqrt(shares.sum(0) * reads), rtol=1e-5)
    # What writes a is cut into places of all its filters; b reads it at 4 x 3 places.
    a = array(model.get_layer("a").kernel)
    norms = np.sqrt((a**2).sum(-1, keepdims=True))
    writes = (a**2 / norms).sum((0, 1, 2))
    reads = shares.sum(1).reshape(-1, 3).sum(0)
    np.testing.assert_allclose(found["a"], np.sqrt(writes * reads), rtol=1e-5)


def test_units_without_a_penalty_have_no_rank():
    method, model = prepared(ignore="a,b")
    found = method.importance(model, tfsparse.find_groups(model, method.kinds))
    assert "a" not in found and "b" in found  # which the last layer reads


def omegas_of(scale=1.0, **arguments):
    """Factors of each partition after two loops over curvatures of one seed."""
    keras.utils.set_random_seed(1)
    method, model = prepared(loop_epochs=1, largest_factor=1e6, **arguments)
    rng = np.random.default_rng(0)
    bends = {
        v.path: scale * rng.uniform(0, 2, v.shape) for v in model.trainable_variables
    }
    for epoch in range(2):
        tools = records.Tools(lambda *_: curvature.Curvature(bends, 0, 0))
        told = method.end_epoch(model, epoch, tools)
    return [array(own) for own in optimizer_of(model).factors], told


@pytest.mark.parametrize("shape", ["row_column", "stack_row_column"])
def test_crosses_are_weighed_against_each_other(shape):
    """Each has a partition to itself; they compete for the same weights all the same."""
    _, told = omegas_of(conv_shapes=shape)
    least, _, largest = told["omega"]["a"]
    assert largest > 1.05 * least


def test_shapes_are_weighed_against_each_other():
    """A filter holds more weights than a place of all filters: it pays more."""
    factors, _ = omegas_of(conv_shapes="shape+filter", dense_shapes="row")
    places, filters = factors[0][:12], factors[1]
    living = [own[own < GONE].mean() for own in (places, filters)]
    assert living[1] > 1.3 * living[0]


def test_a_factor_on_the_curvature_hardly_changes_what_dies():
    """omega is relative, and of well-determined weights alpha does not feel H."""
    (one, _), (two, _) = omegas_of(), omegas_of(2.0)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a >= GONE, b >= GONE)
        np.testing.assert_allclose(a, b, rtol=0.05)


def test_without_the_evidence_it_is_a_group_lasso():
    method, model = prepared(loop_epochs=1, evidence=False)
    kernel = model.get_layer("b").kernel
    emptied = array(kernel).copy()
    emptied[3] = 0.0
    kernel.assign(emptied)

    def never(*_):
        raise AssertionError("no curvature was asked for")

    tools = records.Tools(never, never)
    method.check_tools(model, tools)
    assert method.end_epoch(model, 0, tools) is None
    rows, columns = (array(own) for own in optimizer_of(model).factors)
    assert np.count_nonzero(rows >= GONE) == 1  # the row that the penalty emptied
    assert set(rows[rows < GONE]) == {1.0} and set(columns) == {1.0}


def test_a_block_whose_kernels_died_leaves_whole():
    """The skip is left, and what the dead block's BatchNorm still sent."""
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 2))
    x = y = layers.Conv2D(4, 3, padding="same", name="stem")(image)
    for name in ("one", "two"):
        y = layers.Conv2D(4, 3, padding="same", use_bias=False, name=name)(y)
        y = layers.BatchNormalization(name=f"{name}_bn")(y)
    x = layers.GlobalAveragePooling2D()(layers.Add()([x, y]))
    model = keras.Model(image, layers.Dense(3, name="out")(x))
    method = BayesNASCompression(2e-3)
    groups = tfsparse.find_groups(model, method.kinds)
    sparse = method.prepare(model, groups)
    sparse.compile(method.optimizer(sparse, groups), "mse")
    sparse.optimizer.build(sparse.trainable_variables)
    sparse.get_layer("two_bn").beta.assign([1.0, -2.0, 0.5, 0.0])
    for name in ("one", "two"):
        kernel = sparse.get_layer(name).kernel
        kernel.assign(ops.zeros_like(kernel))
    data = np.random.default_rng(0).normal(size=(5, 6, 6, 2)).astype("float32")
    expected = array(sparse(data))
    small, reasons = finishing.finish(sparse, method)
    assert {layer.name for layer in small.layers}.isdisjoint({"one", "one_bn", "two"})
    assert not reasons
    context = context_of(model, None)
    rows = strip.group_rows(
        context, model, records.Result(small, facts={"reasons": {}})
    )
    assert {row.name: (row.kept, row.reason) for row in rows} == {
        "stem": (4, "no method asked for"),
        "one": (0, "its whole branch went"),
        "out": (3, "its units are the model's output"),
    }
    np.testing.assert_allclose(array(small(data)), expected, rtol=1e-4, atol=1e-5)


def test_a_layer_may_have_a_lambda_of_its_own():
    """As the same lambda times the factor has it for that layer alone."""
    rng = np.random.default_rng(0)
    _, model = prepared()
    bends = {v.path: rng.uniform(0, 2, v.shape) for v in model.trainable_variables}
    labels = optimizer_of(model).partitions[0].labels
    tools = records.Tools(lambda *_: curvature.Curvature(bends, 0, 0))
    factors = {}
    for name, arguments in {
        "own": {"multipliers": "a=1,b=3"}, "one": {}, "three": {"strength": 6e-3},
    }.items():  # fmt: skip
        keras.utils.set_random_seed(1)
        method, model = prepared(loop_epochs=1, **arguments)
        for epoch in range(2):
            method.end_epoch(model, epoch, tools)
        factors[name] = array(optimizer_of(model).factors[0])
    a, b = (np.unique(labels[f"{x}/kernel"]) for x in "ab")
    np.testing.assert_allclose(factors["own"][a], factors["one"][a], rtol=1e-5)
    alive = factors["own"][b] < GONE
    assert alive.any()
    np.testing.assert_array_equal(factors["three"][b] < GONE, alive)
    np.testing.assert_allclose(
        factors["own"][b][alive], 3 * factors["three"][b][alive], rtol=1e-5
    )


def test_factors_have_a_bound():
    method, model = prepared(loop_epochs=1, largest_factor=1.2)
    bends = {v.path: np.ones(v.shape) for v in model.trainable_variables}
    bends["b/kernel"][4] = 1e9
    method.end_epoch(
        model, 0, records.Tools(lambda *_: curvature.Curvature(bends, 0, 0))
    )
    factors = np.concatenate([array(f) for f in optimizer_of(model).factors])
    assert factors[factors < GONE].max() == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"curvature": "exact"}, "`curvature` must be one of.*exact"),
        ({"loop_epochs": 0}, "`loop_epochs` must be 1 or more"),
        ({"loop_epochs": 1.5}, "`loop_epochs` must be a whole number.*1.5"),
        (
            {"multipliers": "b=1e300"},
            r"`multipliers`, in 'b=1e300': must be in \(0, 1e\+30\)",
        ),
        ({"dense_shapes": "row+row"}, r"join different shapes.*'row\+row'"),
        ({"largest_factor": -1}, r"`largest_factor` must be in \[0, .*-1"),
        ({"threshold": float("nan")}, r"`threshold` must be in \[0, .*nan"),
        ({"multipliers": "b=0"}, "`multipliers`, in 'b=0': must be in"),
        ({"conv_shapes": "cube"}, "`conv_shapes` must join shapes"),
        ({"strength": -1}, "`strength` must be 0 or more"),
        ({"dense_shapes": "row,column"}, r"name \* once, .* by '\+'.*'row,column'"),
        ({"eps": 2}, r"`eps` must be in \(0, 1\]. Received: eps=2"),
    ],
)
def test_refused_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        BayesNASCompression(**arguments)


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("ignore", "b9"),
        ("multipliers", "b9=2"),
        ("conv_shapes", "b=filter"),  # a Dense
        ("dense_shapes", "b=row,a=row"),
    ],
)
def test_patterns_that_fit_nothing(argument, text):
    with pytest.raises(ValueError, match=f"`{argument}` must name some of"):
        prepared(**{argument: text})


def test_nothing_is_left_where_all_is_ignored():
    with pytest.raises(ValueError, match=r"`ignore` must leave a kernel.*ignore='\*'"):
        prepared(ignore="*")


def test_a_model_without_convolutions_has_no_names_for_their_shapes():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dense(2)])
    method = BayesNASCompression(conv_shapes="conv1=row")
    with pytest.raises(ValueError, match="`conv_shapes` must name nothing"):
        method.optimizer(model, tfsparse.find_groups(model))


def test_shapes_that_fall_together_count_once():
    once, twice = (prepared(dense_shapes=s)[1] for s in ("row", "row+channel"))
    held = [[p.groups for p in optimizer_of(m).partitions] for m in (once, twice)]
    assert held[0] == held[1]


@pytest.mark.parametrize("text", ["b", "b/kernel", " b/*"])
def test_layers_that_are_ignored(text):
    _, model = prepared(ignore=text)
    paths = {path for p in optimizer_of(model).partitions for path in p.labels}
    assert paths and "b/kernel" not in paths


def test_loops_must_fit():
    with pytest.raises(ValueError, match="`loop_epochs` must fit into.*2"):
        BayesNASCompression(loop_epochs=3).check_epochs(2)


@pytest.mark.parametrize("loss", ["mse", "log_cosh", keras.losses.Huber()])
def test_losses_of_numbers(loss):
    inputs = keras.Input((4,))
    hidden = layers.Dense(8, activation="relu", name="hidden")(inputs)
    model = keras.Model(inputs, layers.Dense(1, name="out")(hidden))
    model.compile("adam", loss)
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    result = tfsparse.fit_shrinking(
        model, BayesNASCompression(1e-4, loop_epochs=1), x, x[:, 0] - x[:, 1],
        epochs=4, shrink_epochs=2,
    )  # fmt: skip
    assert result.history[-1]["loss"] < result.history[0]["loss"]


@pytest.mark.parametrize(
    "loss",
    [
        "SparseCategoricalCrossentropy",
        "sparse_categorical_crossentropy",
        ["sparse_categorical_crossentropy"],
        keras.losses.sparse_categorical_crossentropy,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, name="mine"),
    ],
)
def test_a_loss_is_known_by_what_it_computes(loss):
    inputs = keras.Input((4,))
    hidden = layers.Dense(3, activation="relu", name="hidden")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="out")(hidden))
    model.compile("adam", loss)
    job = context_of(model, None)
    job.check_curvature(model, "recursive")


def test_the_curvature_sees_every_class_of_a_sorted_file():
    """Only the last class, beyond the first samples, uses the second input."""
    x = np.zeros((6000, 3), "float32")
    y = np.repeat([0, 1], 3000)
    x[:, 0], x[3000:, 1] = 1.0, 1.0
    inputs = keras.Input((3,))
    hidden = layers.Dense(4, activation="elu", name="hidden")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="out")(hidden))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    job = context_of(model, None, x, y, validation_split=0.25)
    found = job.curvature(model, "recursive").diagonal["hidden/kernel"]
    assert (found[1] > 0).all() and not found[2].any()


@pytest.mark.parametrize("orthogonal", [True, False])
def test_a_planted_support_is_found_and_the_evidence_falls(orthogonal):
    """Linear regression, where the evidence of the prior variances has a closed form."""
    rng = np.random.default_rng(2)
    samples, count, alive = 64, 12, 4
    x = rng.normal(size=(samples, count))
    if orthogonal:
        x = np.linalg.qr(x)[0] * samples**0.5
    planted = np.where(np.arange(count) < alive, 1.5 * rng.choice([-1, 1], count), 0.0)
    y = x @ planted + rng.normal(size=samples)
    inputs = keras.Input((count,))
    plain = keras.Model(inputs, layers.Dense(1, use_bias=False, name="out")(inputs))
    method = BayesNASCompression(
        1 / samples, dense_shapes="row", loop_epochs=1, rho=1.0
    )
    groups = tfsparse.find_groups(plain, method.kinds)
    model = method.prepare(plain, groups)
    loss = lambda y, found: 0.5 * ops.square(y - found)  # noqa: E731
    model.compile(method.optimizer(model, groups), loss)
    (kernel,) = model.trainable_variables
    bends = {kernel.path: np.mean(x**2, axis=0)[:, None]}
    tools = records.Tools(lambda *_: curvature.Curvature(bends, 0, 0))

    def evidence(gamma):  # -2 log, but for a constant
        covariance = np.eye(samples) + x * gamma @ x.T
        return y @ np.linalg.solve(covariance, y) + np.linalg.slogdet(covariance)[1]

    found, live = [], []
    steps = np.tile(x, (60, 1)), np.tile(y, 60)[:, None]
    for loop in range(7):
        model.fit(*steps, batch_size=samples, shuffle=False, verbose=0)
        (factors,) = optimizer_of(model).factors
        found.append(evidence(np.abs(array(kernel)[:, 0]) / array(factors)))
        method.end_epoch(model, loop, tools)
        live.append(int((array(kernel) != 0).sum()))
    # It falls at each iteration but the one that prunes the last: the entropy criterion
    # drops a variance of 0.0585 that the evidence would keep small.
    last = live.index(alive)
    assert (np.diff(found[: last + 1]) < 0).all() and last >= 3
    assert found[-1] < found[0] - 5 and max(found[last:]) - found[last] < 1
    assert (array(kernel)[:, 0] != 0).tolist() == [True] * alive + [False] * 8


def digit_net():
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(12, 3, activation="relu", name="conv")(image)
    x = layers.Flatten()(layers.MaxPooling2D(2)(x))
    x = layers.Dense(32, activation="relu", name="fc")(x)
    model = keras.Model(image, layers.Dense(10, name="out")(x))
    model.compile(
        "adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )  # fmt: skip
    return model


@pytest.mark.parametrize(
    "form",
    ["recursive", *(pytest.param(f, marks=pytest.mark.slow) for f in _OTHERS)],
)
def test_algorithm_3_from_training_to_a_small_model(form, digits):
    (x, y), (x_test, y_test) = digits
    method = BayesNASCompression(1.2e-2, loop_epochs=3, curvature=form)
    result = tfsparse.fit_shrinking(
        digit_net(), method, x, y, epochs=14, shrink_epochs=9, batch_size=50
    )
    left = tfsparse.measure(result.model)
    assert left.params < 0.5 * tfsparse.measure(digit_net()).params
    live = [sum(entry["live"].values()) for entry in result.history]
    assert live[-1] < 0.7 * live[0]
    assert live == sorted(live, reverse=True)  # what is pruned stays pruned
    _, accuracy = result.model.evaluate(x_test, y_test, verbose=0)
    assert accuracy > 0.85


def test_finishing_changes_nothing_but_the_dead(digits):
    (x, y), _ = digits
    model = digit_net()
    method = BayesNASCompression(8e-3, loop_epochs=3)
    groups = tfsparse.find_groups(model, method.kinds)
    sparse = method.prepare(model, groups)
    sparse.compile(
        method.optimizer(sparse, groups),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    sparse.fit(x, y, epochs=3, batch_size=50, verbose=0)
    data = curvature.batches(x, y)
    tools = records.Tools(lambda model, form: curvature.diagonal(model, data, form))
    told = method.end_epoch(sparse, 2, tools)
    assert 0 < told["pruned"] < told["groups"]
    small, _ = finishing.finish(sparse, method)
    np.testing.assert_allclose(
        array(small(x[:50])), array(sparse(x[:50])), rtol=1e-4, atol=1e-4
    )
    assert tfsparse.measure(small).params < tfsparse.measure(model).params


def test_kernels_with_turned_axes_get_no_groups_and_are_named(caplog):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="conv")(inputs)
    x = keras.layers.Conv2DTranspose(5, 3, name="up")(x)
    x = keras.layers.SeparableConv2D(6, 3, name="apart")(x)
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
    method = BayesNASCompression()
    groups = tfsparse.find_groups(model, method.kinds)
    held = {
        path
        for part in method.optimizer(method.prepare(model, groups), groups).partitions
        for path in part.labels
    }
    assert "conv/kernel" in held and not any(p.startswith("up/") for p in held)
    assert "up (Conv2DTranspose), apart (SeparableConv2D)" in caplog.text


def test_importance_counts_groups_with_a_penalty_alone(monkeypatch):
    """omega sum w^2 / ||w|| of each unit's groups; weights without a group add nothing."""
    import types

    from tfsparse import records
    from tfsparse.methods import bayesnas_compression as own

    kernel = np.array([[3.0, 1.0], [4.0, 2.0]], "float32")  # two units on axis 1
    partition = records.Partition({"a/kernel": np.array([[0, -1]], "int32")}, ("a[0]",))
    held = types.SimpleNamespace(
        values=lambda: {"a/kernel": kernel},
        factors=[np.array([2.0])],
        partitions=[partition],
    )
    monkeypatch.setattr(own, "optimizer_of", lambda model: held)
    member = records.Member("a/kernel", 1, records.PRODUCER, np.arange(2), np.arange(2))
    group = types.SimpleNamespace(name="a", size=2, frozen=None, members=[member])
    method = tfsparse.BayesNASCompression()
    found = method.importance(None, [group])["a"]
    np.testing.assert_allclose(found, [2 * 25 / 5, 0.0])


def test_the_report_tells_the_least_and_the_largest_factor():
    loop = {"epoch": 4, "groups": 7, "pruned": 2, "negative_curvature": 0,
            "zero_curvature": 1, "omega": {"a": [0.5, 1.0, 2.0], "b": [0.2, 0.9, 3.0]}}  # fmt: skip
    table = tfsparse.BayesNASCompression().sections({"loops": [loop]})[0]
    assert table.rows[0][-2:] == (0.2, 3.0)
