"""Diagonal Hessians against automatic differentiation, and against dense matrices."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from tfsparse import curvature, gradients, numerics
from tfsparse.curvature import losses, recursion
from tfsparse.data.losses import Relative
from tfsparse.graph import trace


def array(x):
    return ops.convert_to_numpy(x)


def hessian_of(model, x, y) -> dict[str, np.ndarray]:
    """Whole Hessian blocks of the mean loss by automatic differentiation."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    variables = model.trainable_variables
    with tf.GradientTape(persistent=True) as outer:
        with tf.GradientTape() as inner:
            value = loss(y, model(x))
        slopes = inner.gradient(value, [v.value for v in variables])
        flat = [tf.reshape(slope, [-1]) for slope in slopes]
    found = {}
    for variable, own in zip(variables, flat, strict=True):
        block = outer.jacobian(own, variable.value, experimental_use_pfor=False)
        size = int(np.prod(variable.shape))
        found[variable.path] = np.asarray(block).reshape(size, size)
    return found


def diagonal_of(model, x, y) -> dict[str, np.ndarray]:
    shapes = {v.path: v.shape for v in model.trainable_variables}
    blocks = hessian_of(model, x, y)
    return {p: np.diag(own).reshape(shapes[p]) for p, own in blocks.items()}


def dense_net(activation="tanh", seed=3):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((4,))
    x = layers.Dense(5, activation=activation, name="one")(inputs)
    x = layers.Dense(3, activation=activation, name="two")(x)
    return keras.Model(inputs, layers.Dense(3, name="out")(x))


def samples(shape, count=8, seed=0, classes=3):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, *shape)).astype("float32")
    return x, rng.integers(0, classes, count)


def test_the_full_recursion_is_the_hessian():
    """Eqs. C.1.2 and C.1.3 on three layers, every block to 1e-5."""
    model = dense_net()
    x, y = samples((4,))
    kernels = [
        ops.convert_to_tensor(model.get_layer(n).kernel) for n in ("one", "two", "out")
    ]
    inputs, slopes, bends = [ops.convert_to_tensor(x)], [], []
    for name in ("one", "two"):
        layer = model.get_layer(name)
        h = ops.matmul(inputs[-1], layer.kernel) + layer.bias
        slope, bend = gradients.slope_and_bend(keras.activations.tanh, h)
        slopes.append(slope)
        bends.append(bend)
        inputs.append(ops.tanh(h))
    logits = ops.matmul(inputs[-1], kernels[2]) + model.get_layer("out").bias
    gradient = ops.softmax(logits) - ops.one_hot(y, 3)
    hessian = numerics.cross_entropy_hessian(logits)
    expected = hessian_of(model, x, y)
    for place in (2, 1, 0):
        block = array(ops.mean(numerics.dense_hessian(inputs[place], hessian), axis=0))
        path = model.get_layer(("one", "two", "out")[place]).kernel.path
        size = int(np.sqrt(block.size))
        np.testing.assert_allclose(
            block.reshape(size, size),
            expected[path],
            atol=1e-5 * np.abs(expected[path]).max(),
        )
        if place:
            behind = ops.matmul(gradient, ops.transpose(kernels[place]))
            hessian = numerics.dense_recursion(
                hessian, kernels[place], slopes[place - 1], bends[place - 1], behind
            )
            gradient = slopes[place - 1] * behind


def test_a_root_of_the_hessian():
    logits = ops.convert_to_tensor(samples((5,))[0])
    root = array(numerics.cross_entropy_root(logits))
    whole = array(numerics.cross_entropy_hessian(logits))
    np.testing.assert_allclose(root @ root.transpose(0, 2, 1), whole, atol=1e-6)
    diagonal = array(numerics.cross_entropy_curvature(logits))
    np.testing.assert_allclose(diagonal, np.einsum("bii->bi", whole), atol=1e-6)


@pytest.mark.parametrize("form", ["recursive", "averaged"])
def test_the_last_layer_is_exact_for_one_sample(form):
    model = dense_net("relu")
    x, y = samples((4,), count=1)
    found = curvature.diagonal(model, [(x, y)], form).diagonal
    expected = diagonal_of(model, x, y)
    for path in ("out/kernel", "out/bias"):
        np.testing.assert_allclose(found[path], expected[path], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("form", ["recursive", "averaged"])
def test_the_recursion_by_hand(form):
    """Eqs. C.1.4 and C.1.5, and C.2.4 and C.2.5 with their averages, in NumPy."""
    model = dense_net("tanh")
    x, y = samples((4,))
    one, two, out = (
        [np.asarray(v, "float64") for v in model.get_layer(n).get_weights()]
        for n in ("one", "two", "out")
    )
    a = np.tanh(x @ one[0] + one[1])
    b = np.tanh(a @ two[0] + two[1])
    logits = b @ out[0] + out[1]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    g, h = (p - np.eye(3)[y]) / len(x), p * (1 - p) / len(x)

    def mean(values):  # what this form carries
        return values.mean(0, keepdims=True) if form == "averaged" else values

    def total(values):
        return values.sum(0, keepdims=True) if form == "averaged" else values

    h = total(h)
    expected = {"out/kernel": mean(b**2).T @ h, "out/bias": h.sum(0)}
    for name, value, before, weights in (("two", b, a, out), ("one", a, x, two)):
        behind = g @ weights[0].T
        slope, bend = 1 - value**2, -2 * value * (1 - value**2)
        h = mean(slope**2) * (h @ (weights[0] ** 2).T) + total(bend * behind)
        g = slope * behind
        expected[f"{name}/kernel"] = mean(before**2).T @ h
        expected[f"{name}/bias"] = h.sum(0)
    found = curvature.diagonal(model, [(x, y)], form)
    assert found.negative == sum(int((own < 0).sum()) for own in expected.values())
    for path, own in expected.items():
        np.testing.assert_allclose(
            found.diagonal[path], np.maximum(own, 0), rtol=1e-3, atol=1e-6
        )


@pytest.mark.parametrize("form", ["recursive", "averaged"])
def test_batch_norm_is_a_depthwise_convolution(form):
    inputs = keras.Input((5, 5, 2))
    x = layers.Conv2D(3, 3, use_bias=False, name="conv")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    model = keras.Model(inputs, layers.Dense(3, name="out")(layers.Flatten()(x)))
    norm = model.get_layer("norm")
    rng = np.random.default_rng(0)
    for variable in norm.variables:
        variable.assign(rng.uniform(0.4, 2.0, variable.shape))
    gamma, beta, center, variance = map(np.asarray, norm.variables)
    root = np.sqrt(variance + norm.epsilon)

    x = layers.Conv2D(3, 3, name="conv")(inputs)
    x = layers.ReLU()(layers.DepthwiseConv2D(1, name="norm")(x))
    twin = keras.Model(inputs, layers.Dense(3, name="out")(layers.Flatten()(x)))
    kernel = np.asarray(model.get_layer("conv").kernel)
    twin.get_layer("conv").set_weights([kernel / root, -center / root])
    twin.get_layer("norm").set_weights([gamma.reshape(1, 1, 3, 1), beta])
    twin.get_layer("out").set_weights(model.get_layer("out").get_weights())
    data = [samples((5, 5, 2))]
    one, two = (curvature.diagonal(m, data, form).diagonal for m in (model, twin))
    pairs = [
        (one["norm/gamma"], two["norm/kernel"].ravel()),
        (one["norm/beta"], two["norm/bias"]),
        (one["conv/kernel"], two["conv/kernel"] / root**2),
        (one["out/kernel"], two["out/kernel"]),
    ]
    for received, expected in pairs:
        assert expected.max() > 0
        np.testing.assert_allclose(received, expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("joins", [layers.Add, layers.Concatenate])
@pytest.mark.parametrize("form", ["recursive", "averaged"])
def test_branches_are_one_dense_layer(form, joins):
    inputs = keras.Input((4,))
    branches = [layers.Dense(3, "tanh", name=name)(inputs) for name in "ab"]
    out = layers.Dense(3, name="out")
    model = keras.Model(inputs, out(joins()(branches)))
    both = layers.Dense(6, "tanh", name="both")
    x, (weights, bias) = both(inputs), out.get_weights()
    held = [model.get_layer(name).get_weights() for name in "ab"]
    both.set_weights([np.concatenate(own, axis=-1) for own in zip(*held, strict=True)])
    last = layers.Dense(3, name="out")
    twin = keras.Model(inputs, last(x))
    # A sum is read by the same weights twice.
    last.set_weights(
        [np.tile(weights, (2, 1)) if joins is layers.Add else weights, bias]
    )
    data = [samples((4,))]
    one, two = (curvature.diagonal(m, data, form) for m in (model, twin))
    for column, name in enumerate("ab"):
        cut = two.diagonal["both/kernel"][:, 3 * column : 3 * column + 3]
        np.testing.assert_allclose(
            one.diagonal[f"{name}/kernel"], cut, rtol=1e-3, atol=1e-8
        )


def test_max_pooling_picks_as_at_its_input():
    inputs = keras.Input((6, 6, 1))
    hidden = layers.Conv2D(2, 3, activation="tanh", name="c")(inputs)
    pool, out = layers.MaxPooling2D(2), layers.Dense(3, name="out")
    model = keras.Model(inputs, out(layers.Flatten()(pool(hidden))))
    x, y = samples((6, 6, 1), count=1)
    at = tf.convert_to_tensor(keras.Model(inputs, hidden)(x))
    with tf.GradientTape() as tape:
        tape.watch(at)
        pooled = tf.reshape(pool(at), [-1])
    picks = np.asarray(tape.jacobian(pooled, at)).reshape(pooled.shape[0], -1).T
    linear, last = layers.Dense(len(picks[0]), use_bias=False), layers.Dense(3)
    twin = keras.Model(inputs, last(linear(layers.Flatten()(hidden))))
    linear.set_weights([picks])
    last.set_weights(out.get_weights())
    one, two = (
        curvature.diagonal(m, [(x, y)], "recursive").diagonal for m in (model, twin)
    )
    assert two["c/kernel"].max() > 0
    np.testing.assert_allclose(one["c/kernel"], two["c/kernel"], rtol=1e-4, atol=1e-9)


def linear_map(function, shape):
    """The matrix of a linear function of one sample."""
    size = int(np.prod(shape))
    rows = array(
        function(
            ops.convert_to_tensor(np.eye(size, dtype="float32").reshape(size, *shape))
        )
    )
    return rows.reshape(size, -1)


CONVOLUTIONS = {
    "conv": lambda: layers.Conv2D(3, (3, 2), strides=(1, 2), use_bias=False, name="c"),
    "same": lambda: layers.Conv2D(2, 3, padding="same", use_bias=False, name="c"),
    "dilated": lambda: layers.Conv2D(2, 2, dilation_rate=2, use_bias=False, name="c"),
    "depthwise": lambda: layers.DepthwiseConv2D(
        2, depth_multiplier=2, use_bias=False, name="c"
    ),
}
POOLS = {
    "average": lambda: layers.AveragePooling2D(2),
    "average_same": lambda: layers.AveragePooling2D(2, padding="same"),
    "average_overlapping": lambda: layers.AveragePooling2D(3, strides=1),
    "global": lambda: layers.GlobalAveragePooling2D(),
    "padding": lambda: layers.ZeroPadding2D(1),
}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("conv", CONVOLUTIONS)
def test_convolutions_are_dense_layers_of_tied_weights(conv, pool):
    """C.2: a convolution is the Dense of its matrix; tied weights add their curvatures."""
    shape = (6, 8, 2)
    inputs = keras.Input(shape)
    layer, pooled = CONVOLUTIONS[conv](), POOLS[pool]()
    hidden = layers.ReLU()(layer(inputs))
    flat = layers.Flatten()(pooled(hidden))
    model = keras.Model(inputs, layers.Dense(3, name="out")(flat))
    x, y = samples(shape)
    found = curvature.diagonal(model, [(x, y)], "recursive").diagonal

    matrix = linear_map(layer, shape)
    pooling = linear_map(pooled, hidden.shape[1:])
    rows = keras.Input((int(np.prod(shape)),))
    one = layers.Dense(matrix.shape[1], use_bias=False, activation="relu", name="one")
    two = layers.Dense(pooling.shape[1], use_bias=False, name="two")
    out = layers.Dense(3, name="out")
    twin = keras.Model(rows, out(two(one(rows))))
    one.set_weights([matrix])
    two.set_weights([pooling])
    out.set_weights(model.get_layer("out").get_weights())
    expected = curvature.diagonal(
        twin, [(x.reshape(len(x), -1), y)], "recursive"
    ).diagonal

    kernel = np.asarray(layer.kernel)
    tied = np.zeros(kernel.size)
    for number in range(kernel.size):  # where this weight stands in the matrix
        place = np.zeros(kernel.size, "float32")
        place[number] = 1
        layer.set_weights([place.reshape(kernel.shape)])
        tied[number] = (expected["one/kernel"] * (linear_map(layer, shape) != 0)).sum()
    np.testing.assert_allclose(
        found["c/kernel"].ravel(), tied, rtol=2e-3, atol=1e-4 * tied.max()
    )
    np.testing.assert_allclose(found["out/bias"], expected["out/bias"], rtol=1e-4)


def block_net():
    """Convolutions, BatchNorm, pooling, a residual sum and a concatenation."""
    inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(4, 3, padding="same", use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.MaxPooling2D(2)(x)
    y = layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    x = layers.Concatenate()([layers.Add()([x, y]), y])
    x = layers.Flatten()(layers.Dropout(0.5)(x))
    model = keras.Model(inputs, layers.Dense(3)(x))
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if "normalization" in variable.path:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def test_for_one_sample_both_forms_are_the_same():
    x, y = samples((8, 8, 2), count=1)
    model = block_net()
    one, two = (
        curvature.diagonal(model, [(x, y)], form) for form in ("recursive", "averaged")
    )
    for path, own in one.diagonal.items():
        np.testing.assert_allclose(two.diagonal[path], own, rtol=1e-4, atol=1e-9)
    assert set(one.diagonal) == {v.path for v in model.trainable_variables}


def test_errors_of_the_forms():
    """The general estimators converge; the recursion drops what is off the diagonal."""
    x, y = samples((4,), count=16)
    model = dense_net("relu")
    expected = diagonal_of(model, x, y)
    errors = {
        form: curvature.relative_error(
            curvature.diagonal(model, [(x, y)], form, probes=600).diagonal, expected
        )
        for form in curvature.FORMS
    }
    # A network of ReLUs is linear, by parts, in each weight: the diagonal is Gauss-Newton's.
    assert errors["gauss_newton"] < 0.06 and errors["hutchinson"] < 0.13
    assert errors["recursive"] < 0.22 and errors["averaged"] < 0.32


def test_half_precision_computes_in_single():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        half = dense_net("relu")
    finally:
        keras.config.set_dtype_policy("float32")
    full = dense_net("relu")
    full.set_weights(half.get_weights())
    data = [samples((4,))]
    expected = curvature.diagonal(full, data, "recursive").diagonal
    for path, own in curvature.diagonal(half, data, "recursive").diagonal.items():
        np.testing.assert_allclose(own, expected[path], rtol=1e-5)


def test_the_same_input_twice_counts_four_times():
    inputs = keras.Input((4,))
    h = layers.Dense(3, name="h")(inputs)
    twice = keras.Model(inputs, layers.Add()([h, h]))
    double = keras.Model(inputs, layers.Rescaling(2.0)(h))
    data = [samples((4,))]
    one, two = (
        curvature.diagonal(m, data, "recursive").diagonal for m in (twice, double)
    )
    np.testing.assert_allclose(one["h/kernel"], two["h/kernel"], rtol=1e-5)


def test_a_causal_convolution():
    inputs = keras.Input((7, 2))
    x = layers.Conv1D(3, 3, padding="causal", dilation_rate=2, name="c")(inputs)
    causal = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    padded = layers.ZeroPadding1D((4, 0))(inputs)
    x = layers.Conv1D(3, 3, dilation_rate=2, name="c")(padded)
    plain = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    plain.set_weights(causal.get_weights())
    data = [samples((7, 2))]
    one, two = (
        curvature.diagonal(m, data, "recursive").diagonal for m in (causal, plain)
    )
    np.testing.assert_allclose(one["c/kernel"], two["c/kernel"], rtol=1e-5)


def test_batches_are_averaged_by_their_sizes():
    model = dense_net("relu")
    x, y = samples((4,), count=7)
    whole = curvature.diagonal(model, [(x, y)], "recursive").diagonal
    parts = curvature.diagonal(model, curvature.batches(x, y, 3), "recursive").diagonal
    for path, own in whole.items():
        np.testing.assert_allclose(parts[path], own, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("form", ["recursive", "averaged", "gauss_newton"])
def test_a_softmax_at_the_end_changes_nothing(form):
    model = dense_net("relu")
    soft = keras.Model(model.inputs, layers.Softmax()(model.outputs[0]))
    inputs = keras.Input((4,))
    x = inputs
    for layer in model.layers[1:]:
        config = layer.get_config()
        if layer.name == "out":
            config["activation"] = "softmax"
        x = layers.Dense.from_config(config)(x)
    fused = keras.Model(inputs, x)
    fused.set_weights(model.get_weights())
    data = [samples((4,))]
    expected = curvature.diagonal(model, data, form).diagonal
    for other in (soft, fused):
        found = curvature.diagonal(other, data, form).diagonal
        for path, own in expected.items():
            np.testing.assert_allclose(found[path], own, rtol=1e-3, atol=1e-7)


def test_gauss_newton_through_a_sigmoid_at_the_end():
    model, y = sigmoids(), targets("labels")
    plain = dense_net()
    found = [
        curvature.diagonal(one, [(samples((4,))[0], y)], "gauss_newton", loss=loss)
        for one, loss in (
            (model, keras.losses.BinaryCrossentropy()),
            (plain, keras.losses.BinaryCrossentropy(from_logits=True)),
        )
    ]
    for path, own in found[1].diagonal.items():
        np.testing.assert_allclose(found[0].diagonal[path], own, rtol=1e-3, atol=1e-7)


def sigmoids(seed=3):
    model = dense_net(seed=seed)
    return keras.Model(model.inputs[0], layers.Activation("sigmoid")(model.outputs[0]))


LOSSES = {
    "mse": (dense_net, "mse", "numbers"),
    "mean_squared_error": (dense_net, keras.losses.MeanSquaredError(), "numbers"),
    "log_cosh": (dense_net, "log_cosh", "numbers"),
    "huber": (dense_net, keras.losses.Huber(0.5), "numbers"),
    "relative": (dense_net, Relative(None, (0.5, 2.0, 1.0)), "numbers"),
    "binary": (dense_net, keras.losses.BinaryCrossentropy(from_logits=True), "labels"),
    "sigmoid": (sigmoids, keras.losses.BinaryCrossentropy(), "labels"),
    "one_hot": (
        dense_net,
        keras.losses.CategoricalCrossentropy(from_logits=True),
        "one",
    ),
    "smoothed": (
        dense_net,
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1),
        "one",
    ),
    "own": (dense_net, lambda y, z: ops.mean((y - z) ** 4, axis=-1), "numbers"),
}


def targets(kind, count=8):
    rng = np.random.default_rng(5)
    if kind == "numbers":
        return rng.normal(size=(count, 3)).astype("float32")
    if kind == "labels":
        return rng.integers(0, 2, (count, 3)).astype("float32")
    return np.eye(3, dtype="float32")[rng.integers(0, 3, count)]


def exact(model, loss, x, y):
    """The diagonal Hessian of the mean loss by automatic differentiation alone."""
    loss = keras.losses.get(loss)
    variables = model.trainable_variables
    found = {}
    with tf.GradientTape(persistent=True) as outer:
        with tf.GradientTape() as inner:
            value = tf.reduce_mean(loss(ops.convert_to_tensor(y), model(x)))
        slopes = inner.gradient(value, [v.value for v in variables])
        flat = [tf.reshape(slope, [-1]) for slope in slopes]
    for variable, own in zip(variables, flat, strict=True):
        block = outer.jacobian(own, variable.value, experimental_use_pfor=False)
        size = int(np.prod(variable.shape))
        diagonal = np.diag(np.asarray(block).reshape(size, size))
        found[variable.path] = diagonal.reshape(variable.shape)
    return found


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_bends_as_differentiation_says(name):
    make, loss, kind = LOSSES[name]
    model, y = make(), targets(kind, 1)
    x = samples((4,), count=1)[0]
    expected = exact(model, loss, x, y)["out/kernel"]
    # Of one sample the last layer's recursion is exact, negative values apart.
    found = curvature.diagonal(model, [(x, y)], "recursive", loss=loss)
    np.testing.assert_allclose(
        np.where(expected > 0, found.diagonal["out/kernel"], expected),
        expected, rtol=2e-3, atol=1e-7,
    )  # fmt: skip
    assert found.negative or (expected >= 0).all()


@pytest.mark.parametrize("name", ["mse", "relative", "log_cosh", "binary", "one_hot"])
def test_gauss_newton_of_every_loss(name):
    make, loss, kind = LOSSES[name]
    model, y = make(), targets(kind)
    x = samples((4,))[0]
    expected = exact(model, loss, x, y)["out/kernel"]  # linear there: it is the Hessian
    keras.utils.set_random_seed(0)
    found = curvature.diagonal(model, [(x, y)], "gauss_newton", 600, loss)
    np.testing.assert_allclose(found.diagonal["out/kernel"], expected, rtol=0.3)


def test_derivatives_by_the_outputs_against_differences():
    loss = keras.losses.BinaryFocalCrossentropy()
    y, p, step = np.array([[1.0, 0, 1]]), np.array([[0.3, 0.6, 0.8]]), 1e-4

    def value(outputs):
        return float(np.asarray(loss.call(ops.array(y), ops.array(outputs))).mean())

    bent = losses.bent(loss, "sigmoid")
    assert bent.end is None  # no cross-entropy of a sigmoid: differentiated as it is
    slope, bend = (
        np.asarray(f(ops.array(y), ops.array(p)))[0] for f in (bent.slope, bent.bend)
    )
    for k in range(3):
        move = np.eye(3)[k] * step
        up, here, down = value(p + move), value(p), value(p - move)
        assert slope[k] == pytest.approx((up - down) / (2 * step), rel=1e-4)
        assert bend[k] == pytest.approx((up - 2 * here + down) / step**2, rel=1e-3)


def test_no_curvature_of_several_losses():
    with pytest.raises(ValueError, match="one loss"):
        curvature.check(dense_net(), "recursive", ["mse", "mae"])


def test_weights_that_no_sample_reaches_are_counted():
    model = dense_net("relu")
    x, y = samples((4,))
    x[:, 2] = 0
    found = curvature.diagonal(model, [(x, y)], "recursive")
    assert (found.diagonal["one/kernel"][2] == 0).all() and found.zero >= 5


def test_it_never_holds_all_feature_maps():
    inputs = keras.Input((4,))
    x = inputs
    for _ in range(36):
        x = layers.Dense(4, activation="relu")(x)
    model = keras.Model(inputs, layers.Dense(3)(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    sweep = recursion.Sweep(trace.read(model), False, losses.bent(loss, None))
    run = gradients.compiled(sweep.run)
    x, y = map(ops.convert_to_tensor, samples((4,)))
    graph = run.get_concrete_function([x], y).graph
    assert max(sweep.held) <= 2 * 6 + 1 and len(sweep.held) >= 6
    # In a graph, too, a stretch waits until the sweep is there.
    waiting = [op for op in graph.get_operations() if op.control_inputs]
    assert len(waiting) >= len(sweep.held)


def test_inputs_go_by_their_names_and_take_the_precision_of_the_model():
    b, a = keras.Input((4,), name="b"), keras.Input((4,), name="a")
    left = layers.Dense(3, activation="tanh", name="left")(b)
    right = layers.Dense(3, activation="tanh", name="right")(a)
    model = keras.Model([b, a], layers.Dense(3)(layers.Add()([left, right])))
    x_b, y = samples((4,))
    x_a, _ = samples((4,), seed=1)
    listed = curvature.diagonal(model, [([x_b, x_a], y)], "recursive").diagonal
    exact = {"a": x_a.astype("float64"), "b": x_b.astype("float64")}
    named = curvature.diagonal(model, [(exact, y)], "recursive").diagonal
    expected = diagonal_of(model, [x_b, x_a], y)
    for path, own in listed.items():
        np.testing.assert_allclose(named[path], own, rtol=1e-6)
    assert curvature.relative_error(listed, {p: expected[p] for p in listed}) < 1
    first, second = (
        curvature.diagonal(model, [(x, y)], "gauss_newton").diagonal
        for x in ([x_b, x_a], exact)
    )
    for path, own in first.items():
        np.testing.assert_allclose(second[path], own, rtol=1e-5)


@pytest.mark.parametrize("form", ["gauss_newton", "recursive"])
def test_a_class_for_each_place_is_a_mean_over_places(form):
    # Two places of one sample are two samples, of which each counts as much.
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 4)).astype("float32"), rng.integers(0, 3, 6)
    flat, places = keras.Input((4,)), keras.Input((2, 4))
    dense = layers.Dense(3, name="out")
    one = keras.Model(flat, dense(flat))
    other = keras.Model(places, dense(places))
    expected = curvature.diagonal(one, [(x, y)], form, probes=400).diagonal
    found = curvature.diagonal(
        other, [(x.reshape(3, 2, 4), y.reshape(3, 2))], form, probes=400
    ).diagonal
    rtol = 0.2 if form == "gauss_newton" else 1e-4  # the signs are others
    for path, own in expected.items():
        np.testing.assert_allclose(found[path], own, rtol=rtol)


def test_bad_input():
    model = dense_net()
    x, y = samples((4,))
    with pytest.raises(ValueError, match="`curvature` must be one of.*'magic'"):
        curvature.diagonal(model, [(x, y)], "magic")
    with pytest.raises(ValueError, match="must hold a batch"):
        curvature.diagonal(model, [])
    x[0, 0] = np.nan
    with pytest.raises(ValueError, match="finite curvature.*nan"):
        curvature.diagonal(model, [(x, y)])
    hot = np.eye(3, dtype="float32")[y]
    with pytest.raises(ValueError, match="labels that are whole numbers"):
        curvature.diagonal(model, [(samples((4,))[0], hot)])
    column = curvature.diagonal(model, [(samples((4,))[0], y[:, None])]).diagonal
    straight = curvature.diagonal(model, [(samples((4,))[0], y)]).diagonal
    np.testing.assert_array_equal(column["out/bias"], straight["out/bias"])
    inner = keras.Input((4,))
    soft = layers.Dense(3, name="end")(layers.Softmax()(layers.Dense(3)(inner)))
    with pytest.raises(ValueError, match="softmax inside the model"):
        curvature.diagonal(keras.Model(inner, soft), [samples((4,))], "recursive")
    low = layers.Dense(3, name="out", lora_rank=2)(layers.Dense(3)(inner))
    with pytest.raises(ValueError, match="gauss_newton or hutchinson.*'out'.*Dense"):
        curvature.check(keras.Model(inner, low), "recursive")
    inputs = keras.Input((5, 4))
    unknown = keras.Model(inputs, layers.Dense(3, name="out")(layers.GRU(4)(inputs)))
    data = [samples((5, 4))]
    with pytest.raises(ValueError, match="gauss_newton or hutchinson.*GRU"):
        curvature.diagonal(unknown, data, "recursive")
    found = curvature.diagonal(unknown, data, "gauss_newton", probes=2).diagonal
    assert all((own >= 0).all() for own in found.values())
