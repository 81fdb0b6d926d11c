"""Algorithms 1 and 2 by hand, what dangles, curvature of factors, and a whole search."""

from __future__ import annotations

import types

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

import tfsparse
from tfsparse import curvature, numerics, records, zoo
from tfsparse.engine import finishing
from tfsparse.methods import bayesnas
from tfsparse.methods.gsparsity import optimizer_of


def cells(count: int = 1, width: int = 4):
    """Cells of three nodes: two operations on every edge."""
    image = keras.Input((width,))
    x = image
    for number in range(1, count + 1):

        def dense(y, name, number=number):
            return layers.Dense(width, name=f"cell{number}_{name}")(y)

        def same(y, name, number=number):
            return layers.Identity(name=f"cell{number}_{name}")(y)

        one = layers.Add(name=f"cell{number}_one")([dense(x, "a"), same(x, "b")])
        x = layers.Add(name=f"cell{number}_two")(
            [dense(x, "c"), same(x, "d"), dense(one, "e"), same(one, "f")]
        )
        x = layers.ReLU(name=f"cell{number}_out")(x)
    return keras.Model(image, layers.Dense(3, name="logits")(x))


def prepared(model, method):
    groups = tfsparse.find_groups(model, method.kinds)
    copy = method.prepare(model, groups)
    copy.compile(
        method.optimizer(copy, groups),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    copy.optimizer.build(copy.trainable_variables)
    return copy


def by_operation(model):
    return {layer.operation: layer for layer in bayesnas.parameters(model)}


def number(variable) -> float:
    return float(ops.convert_to_numpy(variable)[0])


def test_prepared_models_compute_the_same_and_know_what_leads_where():
    model = cells(2)
    copy = prepared(model, tfsparse.BayesNAS())
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    np.testing.assert_allclose(copy(x), model(x), rtol=1e-5, atol=1e-6)
    found = by_operation(copy)
    edges = {"cell1_two_edge0", "cell1_two_edge1", "cell2_two_edge0", "cell2_two_edge1"}
    assert set(found) == edges | {f"cell{n}_{o}" for n in (1, 2) for o in "abcdef"}
    assert found["cell1_e"].source == "cell1_one:branches" == found["cell1_a"].target
    assert (
        found["cell1_e"].edge == found["cell1_two_edge1"].name != found["cell1_c"].edge
    )
    # The one edge into the first sum has no second factor: its operations all read x.
    assert found["cell1_a"].edge == "" and not found["cell1_a"].shown
    assert found["cell1_e"].shown and found["cell2_a"].source.startswith("cell1_out")


# Algorithms 1 and 2 ------------------------------------------------------------------------


def by_hand(w, bend, gamma, strength, predecessors=True):
    """One loop of Algorithm 2, transcribed operation by operation; lists hold cells."""
    omega, s, new = {}, {}, {}
    for name in w:
        alphas = []
        for h, g in zip(bend[name], [gamma[name]] * len(w[name]), strict=True):
            c = 1 / (1 / g + h / strength)  # eq. A.3.2
            alphas.append((g - c) / g**2)  # eq. A.3.9, its inner root left out
        omega[name] = np.sqrt(sum(alphas))
        s[name] = np.sqrt(sum(v**2 for v in w[name])) / omega[name]  # eq. A.3.8
    for name in w:
        inverse = 1 / s[name]
        if name in "cd":
            inverse += 1 / s["edge0"]
        if name in "ef":
            inverse += 1 / s["edge1"]
            if predecessors:
                inverse += 1 / (s["a"] + s["b"])  # both operations into node one
        new[name] = 1 / inverse  # eq. 8
    return omega, new


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("predecessors", [True, False])
def test_three_nodes_by_hand(count, predecessors):
    """Twice over, so that gamma of the last loop counts; one cell is Algorithm 1."""
    strength = 0.02
    method = tfsparse.BayesNAS(
        strength, shared="cell" if count > 1 else "", loop_epochs=1,
        predecessors=predecessors,
    )  # fmt: skip
    model = prepared(cells(count), method)
    rng = np.random.default_rng(count)
    found = by_operation(model)
    names = {name: name.split("_")[-1] for name in found}
    gamma = dict.fromkeys(names.values(), 1.0)
    for _ in range(2):
        w, bend, diagonal = {}, {}, {}
        for name, layer in found.items():
            value, curve = rng.uniform(0.5, 2), rng.uniform(0.01, 0.2)
            layer.factor.assign([value])
            w.setdefault(names[name], []).append(value)
            bend.setdefault(names[name], []).append(curve)
            diagonal[layer.factor.path] = np.array([curve])
        tools = records.Tools(lambda *_, d=diagonal: types.SimpleNamespace(diagonal=d))
        told = method.end_epoch(model, 0, tools)
        omega, gamma = by_hand(w, bend, gamma, strength, predecessors)
        for label, name in enumerate(told["names"]):
            own = name.split("_")[-1]
            assert told["omega"][label] == pytest.approx(omega[own], rel=1e-4)
            assert told["gamma"][label] == pytest.approx(gamma[own], rel=1e-4)
        for name, layer in found.items():
            assert number(layer.variance) == pytest.approx(gamma[names[name]], rel=1e-4)
        assert told["operations"] == told["groups"] == 6
        held = ops.convert_to_numpy(optimizer_of(model).factors[0])
        np.testing.assert_allclose(held, told["omega"], rtol=1e-6)


def test_what_leads_nowhere_goes_with_what_led_there():
    """Node one loses both its operations: what reads it goes, though its factors are large."""
    method = tfsparse.BayesNAS(0.1, loop_epochs=1)
    for predecessors in (True, False):
        method = method.replaced(predecessors=predecessors)
        model = prepared(cells(), method)
        found = by_operation(model)
        diagonal = {x.factor.path: np.array([0.3]) for x in found.values()}
        for name in ("cell1_a", "cell1_b"):
            found[name].factor.assign([1e-3])
        tools = records.Tools(lambda *_, d=diagonal: types.SimpleNamespace(diagonal=d))
        told = method.end_epoch(model, 0, tools)
        kept = {n for n, k in zip(told["names"], told["kept"], strict=True) if k}
        expected = {"cell1_c", "cell1_d", "cell1_two_edge0", "cell1_two_edge1"}
        assert kept == expected | (set() if predecessors else {"cell1_e", "cell1_f"})
        dangling = told["dangling"]
        assert dangling["evidence"] == (0 if predecessors else 2)
        assert dangling["magnitude"] == (0 if predecessors else 2)
        # What is kept lives on, and what went is zero for good.
        assert {n for n, x in found.items() if number(x.factor)} == kept
        model.fit(np.ones((8, 4)), np.zeros(8), verbose=0)
        assert {n for n, x in found.items() if number(x.factor)} == kept


def test_an_operation_that_no_sample_reaches_goes():
    method = tfsparse.BayesNAS(0.1, loop_epochs=1)
    model = prepared(cells(), method)
    found = by_operation(model)
    diagonal = {x.factor.path: np.array([0.3]) for x in found.values()}
    diagonal[found["cell1_d"].factor.path] = np.array([0.0])
    tools = records.Tools(lambda *_: types.SimpleNamespace(diagonal=diagonal))
    told = method.end_epoch(model, 0, tools)
    gone = [n for n, k in zip(told["names"], told["kept"], strict=True) if not k]
    assert gone == ["cell1_d"]


def test_what_reads_only_what_no_sample_reaches_goes_too():
    method = tfsparse.BayesNAS(0.1, loop_epochs=1)
    model = prepared(cells(), method)
    found = by_operation(model)
    diagonal = {x.factor.path: np.array([0.3]) for x in found.values()}
    for name in ("cell1_a", "cell1_b"):
        diagonal[found[name].factor.path] = np.array([0.0])
    tools = records.Tools(lambda *_: types.SimpleNamespace(diagonal=diagonal))
    told = method.end_epoch(model, 0, tools)
    gone = {n for n, k in zip(told["names"], told["kept"], strict=True) if not k}
    assert {"cell1_a", "cell1_b", "cell1_e", "cell1_f"} <= gone
    assert max(told["gamma"]) < 100 and told["dangling"]["evidence"] == 0


@pytest.mark.parametrize("ignore", ["", "*_add*"])
def test_nothing_dangles_where_nothing_is_pruned(ignore):
    """In trees of paths a sum is read by another sum, not by an operation."""
    image = keras.Input((8, 8, 1))
    net = keras.Model(image, zoo.pyramid.network(image, 4, 1, 4, 4))
    method = tfsparse.BayesNAS(1e-3, loop_epochs=1, ignore=ignore)
    model = prepared(net, method)
    diagonal = {x.factor.path: np.array([0.3]) for x in bayesnas.parameters(model)}
    tools = records.Tools(lambda *_: types.SimpleNamespace(diagonal=diagonal))
    told = method.end_epoch(model, 0, tools)
    assert told["operations"] == told["groups"] and not any(told["dangling"].values())


def test_weights_decay_and_factors_do_not():
    model = prepared(cells(), tfsparse.BayesNAS(strength=0.0, decay=0.1))
    spare = tfsparse.optimizers.spare_decay
    spare(model.optimizer, model.trainable_variables)
    found = by_operation(model)["cell1_a"]
    kernel = model.get_layer("cell1_a").kernel
    before = np.asarray(kernel).copy()
    zeros = [ops.zeros_like(v) for v in model.trainable_variables]
    model.optimizer.apply(zeros, model.trainable_variables)
    assert number(found.factor) == 1.0
    np.testing.assert_allclose(kernel, before * (1 - 0.1 * 0.5), rtol=1e-5)


# Dependence --------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_what_is_connected_lies_on_a_path(data):
    """Against all paths, one by one."""
    nodes = data.draw(st.integers(1, 5))
    edges = data.draw(
        st.lists(
            st.integers(0, nodes - 1).flatmap(
                lambda to: st.tuples(st.integers(-1, to - 1), st.just(to))
            ),
            min_size=1,
            max_size=9,
        )
    )
    kept = np.array(
        data.draw(st.lists(st.booleans(), min_size=len(edges), max_size=len(edges)))
    )
    shown = np.array(data.draw(st.lists(st.booleans(), min_size=nodes, max_size=nodes)))
    on_a_path = set()

    def walk(path, node):
        if shown[node]:
            on_a_path.update(path)
        for n, (source, to) in enumerate(edges):
            if kept[n] and source == node:
                walk([*path, n], to)

    for n, (source, to) in enumerate(edges):
        if kept[n] and source < 0:
            walk([n], to)
    found = numerics.connected(*zip(*edges, strict=True), kept, shown)
    assert set(np.flatnonzero(found)) == on_a_path


@pytest.mark.parametrize("seed", range(8))
def test_a_derived_network_is_connected_and_exact(seed):
    """Whatever factors are zero: what is left leads from the input to the output."""
    method = tfsparse.BayesNAS(loop_epochs=1)
    model = prepared(cells(2), method)
    rng = np.random.default_rng(seed)
    single = [x for x in bayesnas.parameters(model) if "edge" not in x.operation]
    for layer in single:
        layer.factor.assign([float(rng.random() < 0.4) * rng.uniform(0.5, 2)])
    x = rng.normal(size=(6, 4)).astype("float32")
    expected = ops.convert_to_numpy(model(x))
    if (expected == expected[:1]).all():
        with pytest.raises(
            records.TrainingError, match="no longer depends on its input"
        ):
            finishing.finish(model, method)
        return
    small, _ = finishing.finish(model, method)
    np.testing.assert_allclose(small(x), expected, rtol=1e-4, atol=1e-5)
    left = {layer.name for layer in small.layers}
    sums = {name: n for n, name in enumerate(dict.fromkeys(x.target for x in single))}
    alive = numerics.connected(
        [sums.get(x.source, -1) for x in single],
        [sums[x.target] for x in single],
        [number(x.factor) != 0 for x in single],
        [next(x.shown for x in single if x.target == name) for name in sums],
    )
    expected = {x.operation for x, own in zip(single, alive, strict=True) if own}
    # In a cell that is dead as a whole nothing is left of it; else all that is connected is.
    assert {n for n in left if n[-2:] in ("_a", "_c", "_e")} <= expected
    if alive.any() and all(
        any(own for x, own in zip(single, alive, strict=True) if x.target == name)
        for name in sums
        if name.endswith("two:branches")
    ):
        assert {n for n in expected if n[-1] in "ace"} <= left


# Curvature ---------------------------------------------------------------------------------


def numbers():
    """Operations of one number each, every factor on a single way to the output."""
    x = keras.Input((1,))
    a, b = layers.Dense(1, name="a")(x), layers.Identity(name="b")(x)
    one = layers.Add(name="one")([a, b])
    c, d = layers.Dense(1, name="c")(one), layers.Dense(1, name="d")(x)
    return keras.Model(x, layers.Add(name="two")([c, d]))


def test_curvature_of_factors_is_that_of_automatic_differentiation():
    """C.3.1 with each operation's own Jacobian; the loss is the mean of squares."""
    keras.utils.set_random_seed(1)
    model = prepared(numbers(), tfsparse.BayesNAS())
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    x = rng.normal(size=(16, 1)).astype("float32")
    y = rng.normal(size=(16, 1)).astype("float32")
    paths = [p.factor.path for p in bayesnas.parameters(model)]
    exact = {}
    for layer in bayesnas.parameters(model):
        # The output is linear in one factor: three values of the loss give its curvature.
        losses, first = [], number(layer.factor)
        for step in (-1.0, 0.0, 1.0):
            layer.factor.assign([first + step])
            losses.append(float(np.mean(np.square(np.asarray(model(x)) - y))))
        layer.factor.assign([first])
        exact[layer.factor.path] = losses[0] - 2 * losses[1] + losses[2]
    loss = keras.losses.MeanSquaredError()
    single = [(x[n : n + 1], y[n : n + 1]) for n in range(len(x))]  # no cross terms
    for form, data in {"recursive": [(x, y)], "gauss_newton": single}.items():
        found = curvature.diagonal(model, data, form, probes=1, loss=loss).diagonal
        for path in paths:
            assert found[path][0] == pytest.approx(exact[path], rel=1e-3)
    fast = curvature.diagonal(model, [(x, y)], "averaged", loss=loss).diagonal
    last = by_operation(model)["d"].factor.path
    one = np.asarray(keras.Model(model.input, by_operation(model)["d"].input)(x))
    assert fast[last][0] == pytest.approx(2 * np.mean(np.abs(one)) ** 2, rel=1e-3)
    # The mean of |x|, squared, is less than the mean of x^2: C.3.2 is the smaller one.
    assert all(fast[path][0] < exact[path] for path in paths)


# A search ----------------------------------------------------------------------------------


def problem():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(512, 4)).astype("float32")
    return x, (np.abs(x[:, 0]) + x[:, 1] > 1).astype("int32")


def compiled(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"], jit_compile=False
    )
    return model


def test_a_search_leaves_fewer_operations_where_the_penalty_is_stronger():
    x, y = problem()
    left = []
    for strength in (1e-4, 0.05):
        keras.utils.set_random_seed(0)
        found = tfsparse.fit_shrinking(
            compiled(cells(2)), tfsparse.BayesNAS(strength, shared="cell", loop_epochs=2), x, y,
            epochs=5, batch_size=32, shrink_epochs=8, verbose=0,
        )  # fmt: skip
        assert found.model.predict(x, verbose=0).shape == (512, 3)
        left.append(found.model.count_params())
        assert not any(isinstance(v, layers.Layer) and "tfsparse" in type(v).__module__
                       for v in found.model.layers)  # fmt: skip
    assert left[0] > left[1]


def test_what_cannot_be_searched_is_refused():
    plain = compiled(
        keras.Sequential([keras.Input((4,)), layers.Dense(3, name="logits")])
    )
    x, y = problem()
    with pytest.raises(
        ValueError, match="must hold an Add of operations to choose among"
    ):
        tfsparse.fit_shrinking(plain, tfsparse.BayesNAS(), x, y, epochs=8, verbose=0)
    with pytest.raises(ValueError, match="`loop_epochs` must fit"):
        tfsparse.BayesNAS(loop_epochs=9).check_epochs(4)
    with pytest.raises(ValueError, match="`shared` must be prefixes"):
        tfsparse.fit_shrinking(
            compiled(cells()),
            tfsparse.BayesNAS(shared="odd"),
            x,
            y,
            epochs=8,
            verbose=0,
        )
    ignored = tfsparse.BayesNAS(ignore="cell1_*")
    with pytest.raises(ValueError, match="without one \\(`ignore`='cell1_\\*'\\)"):
        tfsparse.fit_shrinking(compiled(cells()), ignored, x, y, epochs=8, verbose=0)
