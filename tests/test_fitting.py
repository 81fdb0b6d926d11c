"""`fit_shrinking` is `fit`: the same samples in the same order, whatever data are given."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

import tfsparse

pytestmark = [  # of plain fit
    pytest.mark.filterwarnings("ignore:Your input ran out of data"),
    pytest.mark.filterwarnings("ignore:`shuffle=True` was passed"),
]

SAMPLES, SIZE, EPOCHS = 60, 6, 4
STEPS = {"without steps": {}, "with steps": {"steps_per_epoch": 4}}


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(SAMPLES, 5)).astype("float32")


@pytest.fixture
def y():
    return np.arange(SAMPLES, dtype="float32")  # a sample's number is its target


class Spy:
    """A loss that writes down the targets that it is given."""

    def __init__(self):
        self.seen = []

    def __call__(self, y_true, y_pred):
        def note(numbers):
            self.seen.append(np.ravel(numbers).astype(int).tolist())
            return np.float32(0)

        done = tf.numpy_function(note, [y_true], tf.float32)
        done.set_shape(())
        return tf.reduce_mean(tf.square(y_pred), axis=-1) + done


def network(loss, seed=0):
    keras.utils.set_random_seed(seed)
    net = keras.Sequential(
        [keras.Input((5,)), L.Dense(8, activation="relu"), L.Dense(1)]
    )
    net.compile(keras.optimizers.Adam(1e-3), loss)
    return net


class Sequence(keras.utils.PyDataset):
    """Batches, perhaps in an order that changes from pass to pass."""

    def __init__(self, x, y, reorders=False):
        super().__init__()
        self.x, self.y, self.reorders = x, y, reorders
        self.rng, self.told = np.random.default_rng(0), []
        self.order = np.arange(len(x))

    def __len__(self):
        return len(self.x) // SIZE

    def __getitem__(self, index):
        chosen = self.order[index * SIZE : (index + 1) * SIZE]
        return self.x[chosen], self.y[chosen]

    def on_epoch_end(self):
        self.told.append("end")
        if self.reorders:
            self.order = self.rng.permutation(len(self.x))


class Endless(Sequence):
    """Without a length."""

    @property
    def num_batches(self):
        return None

    def __getitem__(self, index):
        return super().__getitem__(index % (len(self.x) // SIZE))


def generator(x, y):
    start = 0
    while True:
        chosen = np.arange(start, start + SIZE) % len(x)
        start += SIZE
        yield x[chosen], y[chosen]


def dataset(x, y):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(SIZE)


def once(x, y):
    """A dataset of a generator that is used up after a pass."""
    held = iter(list(dataset(x, y)))
    signature = dataset(x, y).element_spec
    return tf.data.Dataset.from_generator(lambda: held, output_signature=signature)


class Loader:
    """What can be iterated again and again, and tells no length."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __iter__(self):
        for start in range(0, len(self.x), SIZE):
            yield self.x[start : start + SIZE], self.y[start : start + SIZE]


SOURCES = {
    "arrays": lambda x, y: ((x, y), {"batch_size": SIZE, "shuffle": False}),
    "dataset": lambda x, y: ((dataset(x, y),), {}),
    "dataset without a length": lambda x, y: (
        (dataset(x, y).filter(lambda a, b: tf.reduce_all(b == b)),),
        {},
    ),
    "sequence": lambda x, y: ((Sequence(x, y),), {"shuffle": False}),
    "shuffled sequence": lambda x, y: ((Sequence(x, y),), {}),
}
ENDLESS = {
    "endless dataset": lambda x, y: ((dataset(x, y).repeat(),), {}),
    "generator": lambda x, y: ((generator(x, y),), {}),
    "endless sequence": lambda x, y: ((Endless(x, y),), {"shuffle": False}),
}
REORDERED = {  # with steps Keras reads ahead of the end of an epoch
    "reordered sequence": lambda x, y: ((Sequence(x, y, True),), {"shuffle": False})
}
MADE = SOURCES | ENDLESS | REORDERED
CASES = [
    *((name, "without steps") for name in REORDERED),
    *((name, steps) for name in SOURCES for steps in STEPS),
    *((name, "with steps") for name in ENDLESS),
]


@pytest.mark.parametrize(("source", "steps"), CASES)
def test_it_sees_the_samples_that_fit_sees(x, y, source, steps):
    seen = []
    for run in ("fit", "shrinking"):
        spy = Spy()
        net = network(spy)
        data, more = MADE[source](x, y)
        if run == "fit":
            net.fit(*data, epochs=EPOCHS, verbose=0, **more, **STEPS[steps])
        else:
            method = tfsparse.ShrinkNets(0.0, form="norms", decay=0.0)
            tfsparse.fit_shrinking(
                net, method, *data, epochs=EPOCHS, **more, **STEPS[steps]
            )
        seen.append(spy.seen)
    assert seen[0] == seen[1]
    assert len(seen[0]) > EPOCHS * 3  # it was no empty comparison


@pytest.mark.parametrize(("source", "steps"), CASES)
def test_it_learns_what_fit_learns(x, source, steps):
    # Switches are off and the strength is 0: what could differ is how data are fed.
    y = (x @ [1.0, -1.0, 0.5, 0.0, 2.0]).astype("float32")
    data, more = MADE[source](x, y)
    plain = network("mse").fit(*data, epochs=3, verbose=0, **more, **STEPS[steps])
    data, more = MADE[source](x, y)
    result = tfsparse.fit_shrinking(
        network("mse"), tfsparse.ShrinkNets(0.0, form="norms", decay=0.0), *data,
        epochs=3, **more, **STEPS[steps],
    )  # fmt: skip
    found = [entry["loss"] for entry in result.history]
    np.testing.assert_allclose(found, plain.history["loss"], rtol=1e-4)


def test_a_shuffled_dataset_is_shuffled_anew_in_each_pass(x, y):
    spy = Spy()
    net = network(spy)
    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(SAMPLES).batch(SIZE)
    tfsparse.fit_shrinking(net, tfsparse.ShrinkNets(1e-6), data, epochs=3)
    seen = sum(spy.seen, [])
    passes = [seen[k : k + SAMPLES] for k in range(0, 3 * SAMPLES, SAMPLES)]
    assert all(sorted(order) == list(range(SAMPLES)) for order in passes)
    assert passes[0] != passes[1] != passes[2]


def test_shuffled_arrays_with_steps_go_on(x, y):
    spy = Spy()
    tfsparse.fit_shrinking(
        network(spy), tfsparse.ShrinkNets(1e-6), x, y,
        epochs=5, batch_size=SIZE, steps_per_epoch=2, sample_weight=np.ones(SAMPLES),
    )  # fmt: skip
    seen = sum(spy.seen, [])
    assert sorted(seen) == list(range(SAMPLES)) != seen


def test_a_part_held_out_is_never_seen(x, y):
    spy = Spy()
    result = tfsparse.fit_shrinking(
        network(spy), tfsparse.ShrinkNets(1e-6), x, y,
        epochs=3, batch_size=SIZE, steps_per_epoch=4, validation_split=0.5,
    )  # fmt: skip
    trained = [number for batch in spy.seen if len(batch) == SIZE for number in batch]
    assert "val_loss" in result.history[-1]
    assert set(range(30)) <= set(trained)
    held_out = [b for b in spy.seen if set(b) & set(range(30, 60))]
    assert all(set(batch) <= set(range(30, 60)) for batch in held_out)


def test_inputs_and_weights_in_structures(x, y):
    spy = Spy()
    a, b = keras.Input((5,), name="a"), keras.Input((5,), name="b")
    both = L.Concatenate()([L.Dense(6)(a), L.Dense(6)(b)])
    net = keras.Model({"a": a, "b": b}, L.Dense(1)(L.Dense(4, activation="relu")(both)))
    net.compile("adam", spy)
    for steps in STEPS.values():
        tfsparse.fit_shrinking(
            net, tfsparse.ShrinkNets(1e-6), {"a": x, "b": -x}, y,
            epochs=2, sample_weight=np.linspace(0, 1, SAMPLES), **steps,
        )  # fmt: skip
    assert {n for batch in spy.seen for n in batch} == set(range(SAMPLES))


@pytest.mark.parametrize("steps", [{}, {"steps_per_epoch": 4}])
@pytest.mark.parametrize("source", ["arrays", "dataset"])
def test_classes_weigh_as_in_fit(x, source, steps):
    y = (x[:, 0] > 0).astype("int32")
    losses = []
    for run in ("fit", "shrinking"):
        keras.utils.set_random_seed(0)
        net = keras.Sequential([keras.Input((5,)), L.Dense(8), L.Dense(2)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        net.compile("adam", loss)
        data, more = MADE[source](x, y)
        more = {**more, **steps, "class_weight": {0: 1.0, 1: 9.0}, "epochs": 2}
        if run == "fit":
            losses.append(net.fit(*data, verbose=0, **more).history["loss"])
        else:
            method = tfsparse.ShrinkNets(0.0, form="norms", decay=0.0)
            found = tfsparse.fit_shrinking(net, method, *data, **more)
            losses.append([entry["loss"] for entry in found.history])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_validation_of_a_stream_goes_on(x, y):
    spy = Spy()
    tfsparse.fit_shrinking(
        network(spy), tfsparse.ShrinkNets(1e-6), x[:6], y[:6], epochs=3,
        validation_data=generator(x[6:], y[6:]), validation_steps=2, batch_size=6,
    )  # fmt: skip
    seen = [batch for batch in spy.seen if min(batch) >= 6]
    assert sum(seen, []) == list(range(6, 42))


def test_it_begins_with_a_later_epoch(x, y):
    class Numbers(keras.callbacks.Callback):
        seen = []

        def on_epoch_begin(self, epoch, logs=None):
            self.seen.append(epoch)

    result = tfsparse.fit_shrinking(
        network("mse"), tfsparse.ShrinkNets(1e-6), x, y,
        epochs=5, initial_epoch=2, callbacks=[Numbers()],
    )  # fmt: skip
    assert Numbers.seen == [2, 3, 4] and len(result.history) == 3


def test_a_sequence_is_told_of_epochs_as_by_fit(x, y):
    told = []
    for run in ("fit", "shrinking"):
        data, net = Sequence(x, y), network("mse")
        if run == "fit":
            net.fit(data, epochs=3, verbose=0)
        else:
            tfsparse.fit_shrinking(net, tfsparse.ShrinkNets(1e-6), data, epochs=3)
        told.append(data.told)
    assert told[0] == told[1] == ["end"] * 4


@pytest.mark.parametrize(("steps", "trained"), [(4, 3), (5, 2), (10, 1)])
def test_a_generator_that_runs_dry_ends_training(x, y, caplog, steps, trained):
    batches = iter(list(dataset(x, y)))  # ten of them
    result = tfsparse.fit_shrinking(
        network("mse"), tfsparse.ShrinkNets(1e-6), batches,
        epochs=9, steps_per_epoch=steps,
    )  # fmt: skip
    assert len(result.history) == trained
    assert f"ran out in epoch {trained}" in caplog.text


def test_validation_that_runs_dry_is_said(x, y, caplog):
    result = tfsparse.fit_shrinking(
        network("mse"), tfsparse.ShrinkNets(1e-6), x, y, epochs=4,
        validation_data=iter(list(dataset(x, y))), validation_steps=5,
    )  # fmt: skip
    assert ["val_loss" in entry for entry in result.history] == [
        True,
        True,
        False,
        False,
    ]
    assert "validation data ran out: epoch 3" in caplog.text


def test_validation_of_unknown_length_begins_anew(x, y):
    endless = dataset(x, y).filter(lambda a, b: tf.reduce_all(b == b))
    result = tfsparse.fit_shrinking(
        network("mse"), tfsparse.ShrinkNets(1e-6), x, y, epochs=4,
        validation_data=endless, validation_steps=10,
    )  # fmt: skip
    assert all("val_loss" in entry for entry in result.history)


def test_callbacks_compare_epochs_of_one_network(x):
    y = (x @ [1.0, -1.0, 0.5, 0.0, 2.0]).astype("float32")
    net = network("mse")
    net.fit(x, y, epochs=60, verbose=0)  # far better than what is left of it
    stop = keras.callbacks.EarlyStopping("loss", patience=3, restore_best_weights=True)
    result = tfsparse.fit_shrinking(
        net, tfsparse.GSparsity(1e-4, eps=0.01), x, y, epochs=12, shrink_epochs=1,
        target={"params": 0.3}, callbacks=[stop],
    )  # fmt: skip
    losses = [entry["loss"] for entry in result.history]
    assert len(losses) > 5 and losses[1] > losses[0]  # the removal cost something
    assert stop.best == pytest.approx(min(losses[1:]))


def test_callbacks_see_one_training(x, y, tmp_path):
    path = str(tmp_path / "best.keras")
    keras.utils.set_random_seed(0)
    net = network("mse")
    result = tfsparse.fit_shrinking(
        net, tfsparse.ShrinkNets(5e-2), x, y, epochs=12, remove=True,
        callbacks=[
            keras.callbacks.ModelCheckpoint(path, monitor="loss"),
            keras.callbacks.EarlyStopping("loss", patience=30),
            keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=0, min_delta=9),
            keras.callbacks.TensorBoard(str(tmp_path / "board")),
        ],
    )  # fmt: skip
    loaded = keras.saving.load_model(path)  # safe mode, and no class of the house
    assert all(type(layer).__module__.startswith("keras") for layer in loaded.layers)
    assert loaded.compiled and type(loaded.optimizer).__name__ == "Adam"
    assert np.isfinite(loaded.evaluate(x, y, verbose=0))
    assert len(list((tmp_path / "board" / "train").iterdir())) <= 1 + len(
        result.removals
    )
    rate = result.history[-1].get("learning_rate")
    assert rate is None or rate < 1e-3


@pytest.mark.parametrize(
    ("data", "more", "said"),
    [
        (lambda x, y: (generator(x, y),), {}, "once only"),
        (lambda x, y: (dataset(x, y).repeat(),), {}, "never ends"),
        (lambda x, y: (Endless(x, y),), {}, "without a length"),
        (lambda x, y: (x[:0], y[:0]), {}, "Received: none"),
        (lambda x, y: (dataset(x, y).take(0),), {}, "Received: none"),
        (lambda x, y: (iter([]),), {"steps_per_epoch": 2}, "Received: none"),
        (lambda x, y: (dataset(x, y), y), {}, "`y` must be None"),
        (lambda x, y: (x, y), {"steps_per_epoch": 0}, "`steps_per_epoch`"),
        (lambda x, y: (7,), {}, "Received: int"),
        (lambda x, y: (x, y), {"initial_epoch": 4}, "above initial_epoch"),
        (lambda x, y: (x, y), {"initial_epoch": "2"}, "`initial_epoch`"),
        (lambda x, y: (x, y), {"callbacks": [print]}, "Keras callbacks"),
        (lambda x, y: (x, y), {"validation_dta": (x, y)}, "validation_dta"),
        (lambda x, y: (x.tolist(), y), {}, "np.asarray"),
        (lambda x, y: ("train.csv",), {}, "Received: str"),
        (lambda x, y: (np.float32(3), y), {}, "Received: float32"),
        (
            lambda x, y: (x, y),
            {"validation_split": 0.999, "steps_per_epoch": 1},
            "Received: none",
        ),
        (lambda x, y: (once(x, y),), {}, "read again in each epoch"),
        (
            lambda x, y: (x, y),
            {"validation_data": iter([])},
            "`validation_steps`",
        ),
        (
            lambda x, y: (x, y),
            {"callbacks": [keras.callbacks.BackupAndRestore("/nowhere")]},
            "BackupAndRestore",
        ),
    ],
)
def test_what_it_cannot_take_is_said_before_training(x, y, data, more, said):
    spy = Spy()
    with pytest.raises(ValueError, match=said):
        tfsparse.fit_shrinking(
            network(spy), tfsparse.ShrinkNets(1e-6), *data(x, y), epochs=4, **more
        )
    assert not spy.seen


class OwnStep(keras.Model):
    """A user's own way to train."""

    def train_step(self, data):
        return super().train_step(data)


def test_a_model_that_trains_its_own_way_is_refused(x, y):
    entry = keras.Input((5,))
    net = OwnStep(entry, L.Dense(1)(L.Dense(8)(entry)))
    net.compile("adam", "mse")
    with pytest.raises(ValueError, match="OwnStep with its own train_step"):
        tfsparse.fit_shrinking(net, tfsparse.ShrinkNets(1e-6), x, y, epochs=2)


def test_an_optimizer_that_cannot_be_cut_is_refused_before_training(x, y):
    spy = Spy()
    net = network(spy)
    net.compile("adafactor", spy)
    with pytest.raises(ValueError, match="Adafactor.*Train with Adam"):
        tfsparse.fit_shrinking(net, tfsparse.ShrinkNets(1e-6), x, y, epochs=2)
    assert not spy.seen


def test_lists_of_targets_and_weights_are_arrays(x, y):
    for steps in STEPS.values():
        spy = Spy()
        tfsparse.fit_shrinking(
            network(spy), tfsparse.ShrinkNets(1e-6), x, y.tolist(),
            epochs=3, sample_weight=[1.0] * SAMPLES, batch_size=SIZE, **steps,
        )  # fmt: skip
        assert {n for batch in spy.seen for n in batch} == set(range(SAMPLES))


def test_one_target_may_stand_in_a_dict(x):
    entry = keras.Input((5,), name="a")
    hidden = L.Dense(8, activation="relu")(entry)
    net = keras.Model({"a": entry}, {"o": L.Dense(2, name="o")(hidden)})
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile("adam", {"o": loss})
    small = tfsparse.fit_shrinking(
        net, tfsparse.BayesNASCompression(loop_epochs=1), {"a": x},
        {"o": np.arange(SAMPLES) % 2}, epochs=2, target={"params": 0.6},
    ).model  # fmt: skip
    assert set(small({"a": x})) == {"o"}
