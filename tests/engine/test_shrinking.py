"""fit_shrinking: ends smaller, removes without a trace, keeps what a user handed in."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from conformance import models
from keras import layers

import tfsparse
from tfsparse import records
from tfsparse.data import streams
from tfsparse.deploy import lower
from tfsparse.engine import finishing, shrinking


@pytest.fixture
def eager_removal(monkeypatch):
    """Every removal pays: dead units leave at the end of the epoch they died in."""
    monkeypatch.setattr(shrinking, "RETRACE_MACS", 1.0)


def digits_net(form="relu"):
    image = keras.Input((8, 8, 1), name="image")
    x = layers.Conv2D(8, 3, use_bias=False, name="conv")(image)
    x = layers.ReLU()(layers.BatchNormalization(name="bn")(x))
    x = layers.MaxPooling2D(2)(x)
    x = layers.Dense(24, activation="relu", name="dense")(layers.Flatten()(x))
    model = keras.Model(image, layers.Dense(10, name="out")(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    return model


@pytest.fixture(scope="module")
def both_ways(digits):
    """The same run with and without removal during training, and every removal."""
    (x, y), test = digits
    results, moments = {}, []

    def collect(model, keep, collect=shrinking.collect):
        small, done, reasons = collect(model, keep)
        moments.append(Moment(model, small, done))
        return small, done, reasons

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shrinking, "RETRACE_MACS", 1.0)
        patch.setattr(shrinking, "collect", collect)
        for remove in (True, False):
            keras.utils.set_random_seed(3)
            model = digits_net()
            before = models.weights_of(model)
            results[remove] = tfsparse.fit_shrinking(
                model,
                tfsparse.ShrinkNets(0.03, seed=1, decay=0.0),  # dead weights decay, too
                x[:1000],
                y[:1000],
                epochs=6,
                shrink_epochs=5,
                remove=remove,
                batch_size=50,
                shuffle=False,
            )
            after = models.weights_of(model)
            assert all(np.array_equal(after[path], before[path]) for path in before)
    return results, test, [moment for moment in moments if moment.cuts]


SAME = 1e-5
"""Relative to the largest value: float rounding within one step, which is about 1e-2."""


class Moment:
    """A running model right before and right after a removal.

    Args:
        model, small: Both models; each goes on from where it is now in `step`.
        keep: What the removal carried out, by group.
    """

    def __init__(self, model, small, keep):
        self.pair = [(m, [v.numpy() for v in state_of(m)]) for m in (model, small)]
        self.kept = {name: np.flatnonzero(alive) for name, alive in keep.items()}
        self.cuts = any(not alive.all() for alive in keep.values())
        self.channels = len(keep["conv"])

    def step(self, x, y) -> list[dict[str, np.ndarray]]:
        """One training step of both: outputs, loss, and all variables after it."""
        answers = []
        for model, values in self.pair:
            for variable, value in zip(state_of(model), values, strict=True):
                variable.assign(value)
            outputs = model(x, training=False).numpy()
            model.run_eagerly = True
            model.make_train_function(force=True)
            loss = np.asarray(model.train_on_batch(x, y, return_dict=True)["loss"])
            after = {v.path: v.numpy() for v in state_of(model)}
            answers.append({"outputs": outputs, "loss": loss, **after})
        return answers

    def cut(self, path: str, value: np.ndarray) -> np.ndarray:
        """What stays of a weight or slot; axes by hand, 3 x 3 positions in Flatten."""
        rows = (np.arange(9)[:, None] * self.channels + self.kept["conv"]).ravel()
        axes = {"conv": "conv", "bn": "conv", "dense": "dense"}
        name = path.split("/")[-1] if path.startswith("adam") else path
        if "conv_kernel" in name or name == "conv/kernel":
            return value[..., self.kept["conv"]]
        if "dense_kernel" in name or name == "dense/kernel":
            return value[np.ix_(rows, self.kept["dense"])]
        if "out_kernel" in name or name == "out/kernel":
            return value[self.kept["dense"]]
        group = next((g for layer, g in axes.items() if name.startswith(layer)), None)
        return value if group is None or not value.ndim else value[self.kept[group]]


def state_of(model) -> list:
    """Everything that a training step changes: weights, statistics and slots."""
    return [*model.variables, *model.optimizer.variables]


def test_it_ends_smaller_and_still_reads_digits(both_ways):
    results, (x, y), _ = both_ways
    for result in results.values():
        assert models.params_of(result.model) < 0.6 * models.params_of(digits_net())
        assert (
            result.model.evaluate(x, y, verbose=0, return_dict=True)["accuracy"] > 0.85
        )
        kept = result.history[-1]["live"]
        assert result.model.get_layer("dense").units == kept["dense"] < 24
        assert result.model.get_layer("conv").filters == kept["conv"]


def test_removal_leaves_no_trace_in_the_curves(both_ways):
    """Loosely: rounding differs with the widths, and grows from step to step.

    So live units are compared up to the first removal, and every removal for itself in
    the next test.
    """
    results, (x, _), _ = both_ways
    with_removal, without = results[True], results[False]
    assert with_removal.removals and not without.removals
    first = with_removal.removals[0].epoch
    rows = zip(with_removal.history, without.history, strict=True)
    for epoch, (a, b) in enumerate(rows, 1):
        if epoch <= first:
            assert a["live"] == b["live"] and a["params"] == b["params"]
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=0.02)


def test_the_step_after_a_removal_is_that_of_the_model_before(both_ways, digits):
    (x, y), _ = digits
    results, _, moments = both_ways
    assert len(moments) == len(results[True].removals) > 1
    for moment in moments:
        big, small = moment.step(x[:50], y[:50])
        assert big.keys() == small.keys()
        for name, value in big.items():
            expected = moment.cut(name, value)
            scale = np.abs(expected).max()
            np.testing.assert_allclose(small[name], expected, rtol=0, atol=SAME * scale)


def test_the_history_tells_what_is_live_and_what_left(both_ways):
    results, *_ = both_ways
    result, sizes = results[True], {"conv": 8, "dense": 24}
    assert [row["strength_on"] for row in result.history] == [True] * 5 + [False]
    assert all(isinstance(r, records.Removal) for r in result.removals)
    for removal in result.removals:
        for name, count in removal.removed.items():
            sizes[name] -= count
        row = result.history[removal.epoch - 1]
        assert sizes == row["live"]
        assert (removal.params, removal.macs) == (row["params"], row["macs"])
    assert result.history[-1]["params"] == models.params_of(result.model)


def test_the_result_is_stock_and_compiled_like_the_argument(both_ways):
    small = both_ways[0][True].model
    assert not any(type(x).__module__.startswith("tfsparse") for x in small.operations)
    assert small.optimizer.get_config()["learning_rate"] == pytest.approx(0.01)
    assert int(small.optimizer.iterations) == 0
    assert [layer.name for layer in small.layers if layer.weights] == [
        "conv",
        "bn",
        "dense",
        "out",
    ]


# Small runs -------------------------------------------------------------------------


def vectors(samples=64, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.random((samples, 7)).astype("float32")
    return x, rng.integers(0, 3, samples)


def small_net(build=models.named_vector, **compile_arguments):
    model = models.randomise(build())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = compile_arguments.pop("optimizer", keras.optimizers.Adam(0.01))
    model.compile(optimizer, loss, run_eagerly=True, **compile_arguments)
    return model


class Executioner(tfsparse.ShrinkNets):
    """Kills the last living unit of every group at the end of each of some epochs."""

    name = "executioner-of-the-tests"
    epochs = 3

    def keep(self, model, groups, tools=None):
        self.epochs -= 1
        if self.epochs < 0:
            return super().keep(model, groups, tools)
        for layer in model.layers:
            if isinstance(layer, tfsparse.layers.Filter) and layer.units > 2:
                values = layer.switch.numpy()
                values[np.flatnonzero(values > 0)[-1]] = -1.0
                layer.switch.assign(values)
        return super().keep(model, groups, tools)


class Witness(keras.callbacks.Callback):
    """A user's callback: counts what it sees."""

    def __init__(self, stop_after=None):
        super().__init__()
        self.seen, self.sizes, self.stop_after = [], [], stop_after

    def on_train_begin(self, logs=None):
        self.seen.append("train begins")

    def on_epoch_begin(self, epoch, logs=None):
        self.seen.append(epoch)

    def on_train_batch_end(self, batch, logs=None):
        self.sizes.append(self.model.count_params())

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.stop_after:
            self.model.stop_training = True

    def on_train_end(self, logs=None):
        self.seen.append("train ends")


def test_callbacks_see_one_run(eager_removal):
    x, y = vectors()
    witness = Witness()
    history = keras.callbacks.History()
    result = tfsparse.fit_shrinking(
        small_net(), Executioner(1e-3), x, y, epochs=3, callbacks=[witness, history]
    )
    assert witness.seen == ["train begins", 0, 1, 2, "train ends"]
    assert len(witness.sizes) == 6 and witness.sizes[0] > witness.sizes[-1]
    assert history.epoch == [0, 1, 2] and len(result.history) == 3
    assert len(result.removals) == 2  # after the last epoch nothing is left to save


def test_a_callback_may_stop_training():
    x, y = vectors()
    witness = Witness(stop_after=1)
    method = tfsparse.ShrinkNets(1e-3)
    result = tfsparse.fit_shrinking(
        small_net(), method, x, y, epochs=5, callbacks=[witness]
    )
    assert witness.seen == ["train begins", 0, 1, "train ends"]
    assert len(result.history) == 2


def test_a_callback_may_stop_training_in_an_epoch_of_removal(eager_removal):
    x, y = vectors()
    witness = Witness(stop_after=1)
    method = Executioner(1e-3)
    result = tfsparse.fit_shrinking(
        small_net(), method, x, y, epochs=5, callbacks=[witness]
    )
    assert witness.seen == ["train begins", 0, 1, "train ends"]
    assert len(result.history) == 2


def test_early_stopping_may_restore_the_best_weights(eager_removal):
    x, y = vectors()
    stop = keras.callbacks.EarlyStopping(
        "loss", mode="max", patience=1, restore_best_weights=True
    )
    result = tfsparse.fit_shrinking(
        small_net(), Executioner(1e-3), x, y, epochs=4, callbacks=[stop]
    )
    assert result.model.get_layer("hidden").units < 6


def test_metric_objects_begin_every_epoch_anew(eager_removal):
    x, y = vectors()
    histories = []
    for remove in (True, False):
        entropy = keras.metrics.SparseCategoricalCrossentropy(
            "entropy", from_logits=True
        )
        result = tfsparse.fit_shrinking(
            small_net(metrics=[entropy], optimizer=keras.optimizers.Adam(0.2)),
            Executioner(0.0, decay=0.0),
            *(x, y),
            epochs=3,
            shuffle=False,
            remove=remove,
        )
        histories.append([(row["entropy"], row["loss"]) for row in result.history])
    for entropy, loss in [*histories[1], *histories[0]]:
        assert entropy == pytest.approx(loss, rel=1e-5)


def test_a_learning_rate_callback_survives_removals(eager_removal):
    x, y = vectors()
    rates = []

    class Rate(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            rates.append(float(self.model.optimizer.learning_rate))
            self.model.optimizer.learning_rate = rates[-1] / 2

    tfsparse.fit_shrinking(
        small_net(), Executioner(1e-3), x, y, epochs=3, callbacks=[Rate()]
    )
    np.testing.assert_allclose(rates, [0.01, 0.005, 0.0025], rtol=1e-5)


class Sudden(tfsparse.ShrinkNets):
    """Far too strong from some epoch on."""

    name = "sudden"
    first = 2

    def begin_epoch(self, model, epoch, samples):
        self.set_strength(model, 500.0 if epoch >= self.first else 1e-3)


def test_an_epoch_that_kills_everything_is_taken_back(caplog):
    x, y = vectors()
    given = {"epochs": 5, "shrink_epochs": 4, "batch_size": 4}
    net = small_net(optimizer=keras.optimizers.SGD(0.05))
    found = tfsparse.fit_shrinking(net, Sudden(), x, y, **given)
    assert "Everything died in epoch 3" in caplog.text and "--strength" in caplog.text
    on = [entry["strength_on"] for entry in found.history]
    assert on == [True, True, True, False, False]
    assert tfsparse.measure(found.model).params > 20
    Sudden.first = 0
    with pytest.raises(records.TrainingError, match="after epoch 1.*Lower --strength"):
        tfsparse.fit_shrinking(net, Sudden(), x, y, **given)


def test_everything_dead_is_an_error_that_says_what_to_do():
    x, y = vectors()
    net = small_net(optimizer=keras.optimizers.SGD(0.2))
    sentence = (
        "The network must stay alive.*no longer depends on its input.*Lower --stre"
    )
    with pytest.raises(records.TrainingError, match=sentence):
        tfsparse.fit_shrinking(net, tfsparse.ShrinkNets(50.0), x, y, epochs=3)


def test_a_loss_that_is_not_finite_is_an_error():
    x, y = vectors()
    x[3, 2] = np.nan
    with pytest.raises(
        records.TrainingError, match="must stay finite. Received: loss=nan"
    ):
        tfsparse.fit_shrinking(small_net(), tfsparse.ShrinkNets(), x, y, epochs=2)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"epochs": 0},
            "`epochs` must be a whole number from 1 on. Received: epochs=0",
        ),
        ({"epochs": 2.5}, "`epochs` must be a whole number.* Received: epochs=2.5"),
        (
            {"epochs": 2, "shrink_epochs": -1},
            "`shrink_epochs` must be a whole number from 0 on",
        ),
        ({"epochs": 1, "target": {}}, "`target` must map measures .* Received: {}"),
        ({"epochs": 1, "target": 0.5}, "`target` must map measures .* Received: 0.5"),
        ({"epochs": 1, "target": {"params": "0.5"}}, "`target` must map a measure"),
        (
            {"epochs": 1, "target": {"size": 0.5}},
            r"`target` must map a measure among .* Received: size=0.5",
        ),
        ({"epochs": 1, "target": {"params": 0}}, "positive number. Received: params=0"),
    ],
)
def test_wrong_arguments_are_refused(arguments, sentence):
    x, y = vectors()
    with pytest.raises(ValueError, match=sentence):
        tfsparse.fit_shrinking(small_net(), tfsparse.ShrinkNets(), x, y, **arguments)


def test_a_method_is_an_object_and_data_holds_samples():
    x, y = vectors()
    for wrong in (tfsparse.ShrinkNets, "shrinknets"):
        with pytest.raises(ValueError, match="`method` must be an object"):
            tfsparse.fit_shrinking(small_net(), wrong, x, y, epochs=1)
    with pytest.raises(ValueError, match="`x` must hold samples"):
        tfsparse.fit_shrinking(
            small_net(), tfsparse.ShrinkNets(), x[:0], y[:0], epochs=1
        )


def test_an_uncompiled_model_is_refused():
    with pytest.raises(ValueError, match="`model` must be compiled. Received"):
        tfsparse.fit_shrinking(
            models.named_vector(), tfsparse.ShrinkNets(), *vectors(), epochs=1
        )


@pytest.mark.parametrize(("target", "epochs_on"), [(0.75, 2), (70, 2), (0.2, 3)])
def test_a_target_ends_the_penalty_as_soon_as_it_is_met(
    target, epochs_on, eager_removal
):
    """91 weights with 6 hidden units, 15 fewer with each that dies."""
    net = small_net()
    x, y = vectors()
    result = tfsparse.fit_shrinking(
        net,
        Executioner(1e-3),
        x,
        y,
        epochs=4,
        shrink_epochs=3,
        target={"params": target},
    )
    counted = [row["params"] for row in result.history]
    assert counted[0] == models.params_of(net) - (7 + 1 + 4 + 3)
    assert [row["strength_on"] for row in result.history] == [
        epoch < epochs_on for epoch in range(4)
    ]


def test_a_removal_must_pay_for_its_retrace():
    x, y = vectors()
    result = tfsparse.fit_shrinking(
        small_net(), Executioner(1e-3), x, y, epochs=3, shrink_epochs=3
    )
    assert not result.removals
    assert result.history[-1]["live"] == {"hidden": 3}
    assert result.model.get_layer("hidden").units == 3


# What finish() must not lose --------------------------------------------------------


def prepared(model, method):
    return method.prepare(model, tfsparse.find_groups(model, method.kinds))


def test_finish_keeps_the_constant_behind_a_batch_norm():
    vector = keras.Input((7,), name="vector")
    x = layers.BatchNormalization()(layers.Dense(6, name="hidden")(vector))
    x = layers.Activation("sigmoid")(x)
    model = models.randomise(keras.Model(vector, layers.Dense(3, name="out")(x)))
    method = tfsparse.ShrinkNets()
    sparse = prepared(model, method)
    sparse.get_layer("hidden_switch").switch.assign([1.0, -1.0, 1.0, -1.0, 1.0, 1.0])
    small, _ = finishing.finish(sparse, method)
    assert small.get_layer("hidden").units == 4
    inputs = models.inputs_for(model)
    expected = models.outputs(sparse, inputs)
    assert models.difference(expected, models.outputs(lower(sparse), inputs)) <= 1e-5
    assert models.difference(expected, models.outputs(small, inputs)) <= 1e-5


@pytest.mark.parametrize(
    "name", ["conv_bn_chain", "sigmoid_units", "residual_projection", "fan_out"]
)
def test_finish_equals_the_sparse_model(name):
    model = models.randomise(models.TABLE[name].build())
    method = tfsparse.ShrinkNets()
    sparse = prepared(model, method)
    for layer in sparse.layers:
        if isinstance(layer, tfsparse.layers.Filter):
            values = np.where(np.arange(layer.units) % 2 == 1, -0.5, 0.8)
            layer.switch.assign(values)
    small, _ = finishing.finish(sparse, method)
    inputs = models.inputs_for(model)
    expected = models.outputs(sparse, inputs)
    assert models.difference(expected, models.outputs(small, inputs)) <= 1e-5
    assert models.params_of(small) < 0.8 * models.params_of(model)


def test_a_shared_layer_can_be_finished():
    model = models.randomise(models.shared_dense())
    method = tfsparse.ShrinkNets()
    sparse = prepared(model, method)
    sparse.get_layer("shared_switch").switch.assign([1.0, -1.0, 1.0, -1.0, 1.0, 1.0])
    small, _ = finishing.finish(sparse, method)
    inputs = models.inputs_for(model)
    expected = models.outputs(sparse, inputs)
    assert models.difference(expected, models.outputs(small, inputs)) <= 1e-5


def test_a_sequential_shrinks_while_it_trains(eager_removal):
    vector = [keras.Input((7,)), layers.Dense(6, activation="relu", name="hidden")]
    net = small_net(lambda: keras.Sequential([*vector, layers.Dense(3, name="out")]))
    x, y = vectors()
    result = tfsparse.fit_shrinking(net, Executioner(1e-3), x, y, epochs=3)
    assert result.history[0]["live"] == {"hidden": 5}
    assert len(result.removals) == 2


def test_a_feature_that_dies_in_the_last_step_of_an_epoch(eager_removal):
    model = small_net()
    method = tfsparse.ShrinkNets(
        form="signed", gamma=0.0, initial="ones", features=True
    )
    sparse = prepared(model, method)
    shrinking.optimizers.recompile(sparse, model, keras.optimizers.Adam(0.01))
    sparse.get_layer("hidden_features_switch").switch.assign([1.0] * 6 + [-1.0])
    keep = method.keep(sparse, tfsparse.find_groups(sparse, method.kinds))
    assert keep["hidden:features"].tolist() == [True] * 6 + [False]
    small, _, _ = shrinking.collect(sparse, keep)
    assert small.get_layer("hidden").kernel.shape == (6, 6)


def test_features_are_collected(eager_removal):
    model = small_net()
    method = tfsparse.ShrinkNets(form="relu", initial="ones", features=True)
    sparse = prepared(model, method)
    shrinking.optimizers.recompile(sparse, model, keras.optimizers.Adam(0.01))
    switch = sparse.get_layer("hidden_features_switch").switch
    switch.assign([1.0, -1.0, 1.0, 1.0, -1.0, 1.0, 1.0])
    keep = method.keep(sparse, tfsparse.find_groups(sparse, method.kinds))
    small, done, _ = shrinking.collect(sparse, keep)
    inputs = models.inputs_for(model)
    expected = models.outputs(sparse, inputs)
    assert models.difference(expected, models.outputs(small, inputs)) <= 1e-5
    assert small.get_layer("hidden").kernel.shape == (5, 6)
    assert np.flatnonzero(~done["hidden:features"]).tolist() == [1, 4]


# Kinds of data ----------------------------------------------------------------------


def test_a_dataset_trains_like_its_arrays():
    import tensorflow as tf

    x, y = vectors()
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(32)
    losses = []
    for given in ((x, y), (data,)):
        keras.utils.set_random_seed(1)
        result = tfsparse.fit_shrinking(
            small_net(), tfsparse.ShrinkNets(1e-3), *given, epochs=2, shuffle=False
        )
        losses.append([row["loss"] for row in result.history])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


class Batches(keras.utils.PyDataset):
    """Two batches of 32."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        x, y = vectors()
        return x[index * 32 : (index + 1) * 32], y[index * 32 : (index + 1) * 32]


@pytest.mark.parametrize(
    ("x", "arguments", "samples"),
    [
        (np.zeros((40, 3)), {}, 40),
        ([np.zeros((40, 3)), np.zeros((40, 2))], {}, 40),
        ({"a": np.zeros((40, 3))}, {"validation_split": 0.25}, 30),
    ],
)
def test_samples_are_counted(x, arguments, samples):
    assert streams.open_feed(x, None, arguments)[0].samples == samples


@pytest.mark.parametrize("kind", ["repeated", "pydataset"])
def test_samples_of_a_stream_are_counted(kind):
    import tensorflow as tf

    x, y = vectors()
    repeated = tf.data.Dataset.from_tensor_slices((x, y)).batch(32).repeat()
    given = {"repeated": repeated, "pydataset": Batches()}[kind]
    feed, _ = streams.open_feed(given, None, {"steps_per_epoch": 2})
    assert feed.samples == 64


def test_a_nested_model_shrinks_like_a_flat_one(digits):
    (x, y), _ = digits
    backbone = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(6, 3, activation="relu", name="conv"),
            layers.GlobalAveragePooling2D(),
        ],
        name="backbone",
    )
    image = keras.Input((8, 8, 1))
    model = keras.Model(image, layers.Dense(10, name="out")(backbone(image)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    result = tfsparse.fit_shrinking(
        model, tfsparse.ShrinkNets(0.05, seed=1), x[:500], y[:500], epochs=4
    )
    assert "conv" in {layer.name for layer in result.model.layers}
    assert result.model.count_params() <= model.count_params()
    assert result.history[-1]["live"]["conv"] <= 6
