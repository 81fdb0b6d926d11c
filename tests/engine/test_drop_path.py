"""Whole operations left out while a network trains, a head beside it, and training from scratch."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfsparse import files, nas, train
from tfsparse.engine import auxiliary, context
from tfsparse.engine.stages import finetune
from tfsparse.graph import branches
from tfsparse.layers import DropPath


def test_samples_are_left_out_and_the_mean_stays():
    layer = DropPath(0.25, seed=1)
    x = ops.ones((4000, 3))
    y = np.asarray(layer(x, training=True))
    assert set(np.unique(y.round(4))) == {0.0, np.float32(1.3333)}
    assert (y == y[:, :1]).all(), "a sample is left out as a whole"
    assert y.mean() == pytest.approx(1.0, abs=0.03)
    np.testing.assert_array_equal(layer(x, training=False), x)
    half = DropPath(0.5, share=lambda: 0.5, seed=1)
    assert (np.asarray(half(x, training=True)) == 0).mean() == pytest.approx(
        0.25, abs=0.03
    )
    with pytest.raises(ValueError, match="`rate` must be in \\[0, 1\\)"):
        DropPath(1.0)


def net():
    image = keras.Input((6,))
    x = layers.Dense(8, name="first")(image)
    y = layers.BatchNormalization(name="norm")(layers.Dense(8, name="branch")(x))
    x = layers.Add(name="add")([layers.Identity(name="same")(x), y])
    return keras.Model(image, layers.Dense(2, name="logits")(x))


def test_weights_are_shared_identities_stay_and_the_rate_grows():
    model = net()
    model.compile("sgd", "mse", jit_compile=False)
    fitted = finetune._dropping(model, 0.9, steps=10)
    dropped = [x for x in fitted.layers if isinstance(x, DropPath)]
    assert len(dropped) == 1
    assert {id(v) for v in fitted.trainable_variables} == {
        id(v) for v in model.trainable_variables
    }
    x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    np.testing.assert_allclose(fitted(x), model(x), rtol=1e-6)
    # At first nothing is left out; at the end nine of ten branches are.
    plain = np.asarray(model(x, training=True))
    start = np.asarray(fitted(x, training=True))
    np.testing.assert_allclose(start, plain, rtol=1e-4, atol=1e-5)
    model.optimizer.iterations.assign(10)
    assert np.abs(np.asarray(fitted(x, training=True)) - plain).max() > 0.1
    model.optimizer.iterations.assign(0)
    fitted.fit(x, np.zeros((64, 2)), batch_size=8, verbose=0)
    assert int(model.optimizer.iterations) == 8
    again = keras.models.clone_model(model)  # the model itself knows nothing of it
    assert not any(isinstance(x, DropPath) for x in again.layers)


@pytest.mark.parametrize("retrain", ["inherit", "scratch"])
def test_a_run_retrains(tmp_path, retrain):
    """From scratch the first loss is that of a network that knows nothing."""
    path = tmp_path / "net.keras"
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(6, 3, activation="relu", padding="same", name="conv")(image)
    x = layers.Add(name="add")([x, layers.Conv2D(6, 1, name="branch")(x)])
    x = layers.Dense(10, name="logits")(layers.Flatten()(x))
    keras.Model(image, x).save(path)
    folder = tmp_path / "run"
    code = train.main(
        ["train", "--data=digits", f"--model={path}", "--method=none", "--epochs=3",
         "--fine_tune_epochs=2", f"--retrain={retrain}", "--drop_path=0.2",
         "--formats=keras", "--tensorboard=false", "--preflight=false",
         f"--workdir={folder}"]
    )  # fmt: skip
    assert code == 0
    report = files.read_json(folder / "report.json")
    history = report["method"]["fine_tune_history"]
    before = report["method"]["history"][-1]["loss"]
    assert len(history) == 2
    assert history[0]["loss"] > before if retrain == "scratch" else True
    names = {x.name for x in keras.saving.load_model(folder / "model.keras").layers}
    assert not any("drop" in name for name in names)


# An auxiliary head --------------------------------------------------------------------------

GENOTYPE = {
    "normal": [[["conv_3x3", 0], ["skip_connect", 1]]],
    "reduction": [[["max_pool_3x3", 0], ["conv_1x1", 1]]],
}


def test_a_head_adds_its_loss_in_training_alone():
    net = nas.built(GENOTYPE, (16, 16, 1), 4, count=4, filters=4)
    two = auxiliary.headed(net)
    x = np.random.default_rng(0).normal(size=(32, 16, 16, 1)).astype("float32")
    y = np.arange(32) % 4
    np.testing.assert_allclose(two(x)[0], net(x), rtol=1e-5, atol=1e-6)
    assert two(x)[1].shape == (32, 4)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    two.compile(
        keras.optimizers.SGD(0.0), loss, metrics=["accuracy"], jit_compile=False
    )
    headed = auxiliary.Headed(two, 0.4)
    told = headed.evaluate(x, y, batch_size=32, verbose=0, return_dict=True)
    assert told["loss"] == pytest.approx(float(loss(y, net(x))), rel=1e-5)
    whole, head = two(x, training=True)
    trained = headed.fit(x, y, batch_size=32, verbose=0, shuffle=False).history
    expected = float(loss(y, whole)) + 0.4 * float(loss(y, head))
    assert trained["loss"][0] == pytest.approx(expected, rel=1e-4)
    assert set(trained) == {"loss", "accuracy"}
    single = auxiliary.without(two, net)
    assert [v.path for v in single.variables] == [v.path for v in net.variables]
    np.testing.assert_allclose(single(x), two(x)[0], rtol=1e-6)


def test_a_head_needs_its_place():
    few = nas.built(GENOTYPE, (16, 16, 1), 4, count=3, filters=4)
    with pytest.raises(
        ValueError, match="`auxiliary` must be 0 but for networks of cells"
    ):
        auxiliary.check(few)
    with pytest.raises(
        ValueError, match="`auxiliary` must be 0 but for networks of cells"
    ):
        auxiliary.check(net())


@pytest.mark.slow
def test_a_run_of_a_genotype_with_head_and_dropped_paths_resumes(tmp_path):
    """Killed after its first epoch of fine-tuning, it ends as if it had not been."""
    path = tmp_path / "genotype.json"
    files.write_json(str(path), GENOTYPE)
    losses = []
    for name, killed in (("whole", False), ("broken", True)):
        given = ["train", "--data=digits", f"--genotype={path}", "--cells=4", "--filters=4",
                 "--method=none", "--epochs=1", "--fine_tune_epochs=2", "--auxiliary=0.4",
                 "--drop_path=0.2", "--formats=keras", "--tensorboard=false",
                 "--preflight=false", f"--workdir={tmp_path / name}"]  # fmt: skip
        if killed:
            fit, calls = context.RunContext.fit_epoch, []

            def interrupted(self, model, stage, *more, fit=fit, calls=calls):
                calls.append(stage)
                if calls.count("finetuned") == 2:
                    raise KeyboardInterrupt
                return fit(self, model, stage, *more)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(context.RunContext, "fit_epoch", interrupted)
                assert train.main(given) == 2
        assert train.main([*given, "--resume"]) == 0
        report = files.read_json(tmp_path / name / "report.json")
        losses.append([e["loss"] for e in report["method"]["fine_tune_history"]])
        names = [
            x.name
            for x in keras.saving.load_model(tmp_path / name / "model.keras").layers
        ]
        assert not any("auxiliary" in own for own in names)
    assert losses[0] == losses[1] and len(losses[0]) == 2


# What must stay -----------------------------------------------------------------------------


def test_what_is_added_as_it_is_stays_and_sums_of_sums_drop_once():
    image = keras.Input((6,))
    x = layers.Dense(4, activation="relu", name="first")(image)
    a, b = layers.Dense(4, name="a")(x), layers.Rescaling(2.0)(layers.Identity()(x))
    edge = layers.Rescaling(0.5, name="edge")(layers.Add(name="inner")([a, b]))
    y = layers.Add(name="outer")([x, edge, layers.Dense(4, name="c")(x)])
    model = keras.Model(image, layers.Dense(2)(y))
    assert branches.operations(model) == {("inner", 0, 0), ("outer", 0, 2)}


def test_from_scratch_constants_and_frozen_layers_stay_and_factors_go():
    image = keras.Input((3,))
    norm = layers.Normalization(name="normal")
    norm.adapt(np.random.default_rng(0).normal(5, 3, (64, 3)))
    x = layers.Dense(4, name="frozen")(norm(image))
    x = layers.Rescaling(1.7, name="cell_0_scale_0_scale")(
        layers.Dense(4, name="own")(x)
    )
    model = keras.Model(image, layers.BatchNormalization(name="bn")(x))
    model.get_layer("frozen").trainable = False
    model.get_layer("bn").moving_mean.assign(np.ones(4))
    fresh = finetune._fresh(model, 1)
    kept, drawn = (
        {v.path: np.asarray(v) for v in one.variables} for one in (model, fresh)
    )
    same = {path for path in kept if np.array_equal(kept[path], drawn[path])}
    assert {"normal/mean", "normal/variance", "frozen/kernel"} <= same
    assert not {"own/kernel", "bn/moving_mean"} & same
    assert fresh.get_layer("cell_0_scale_0_scale").scale == 1.0
    x = np.full((2, 3), 5.0, "float32")
    inner = [
        keras.Model(m.input, m.get_layer("normal").output)(x) for m in (model, fresh)
    ]
    np.testing.assert_allclose(*inner, rtol=1e-6)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ["--retrain=scratch", "--fine_tune_epochs=0"],
            "`fine_tune_epochs` must be positive",
        ),
        (["--drop_path=0.2"], "`drop_path` must be 0 for a network without operations"),
        (["--retrain=scratch", "--hold_zeros=true"], "`hold_zeros` must be false"),
        (["--auxiliary=0.4"], "`auxiliary` must be 0 but for networks of cells"),
        (["--cells=3"], "`cells` must be left out without a genotype"),
        (["--target=operations=3"], "`target` must hold operations only where"),
    ],
)
def test_what_would_do_nothing_is_said_first(tmp_path, capsys, flags, sentence):
    given = ["train", "--data=digits", "--model=mlp", f"--workdir={tmp_path / 'run'}"]
    assert train.main([*given, *flags]) == 2
    said = capsys.readouterr().err
    assert sentence in said and len(said.splitlines()) == 1
