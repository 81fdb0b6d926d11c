"""Every method, the package's and one from outside, passes through one table of properties."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import keras
import numpy as np
import pytest

import tfsparse
from conformance import models
from tfsparse import files, methods, options, train
from tfsparse.engine import context, finishing, settings

OUTSIDE = "conformance.outsiders:Smallest"


@dataclasses.dataclass(frozen=True)
class Row:
    """How a method is tried: flags under which something dies within two epochs."""

    name: str
    flags: tuple[str, ...]
    arguments: dict


TABLE = [
    Row("shrinknets", ("--strength=0.3",), {"strength": 0.3}),
    Row("gsparsity", ("--strength=0.01",), {"strength": 0.01}),
    Row(
        "sparse_vd",
        ("--strength=20", "--pretrain_epochs=0", "--warm_up_epochs=0"),
        {"strength": 20.0, "pretrain_epochs": 0, "warm_up_epochs": 0},
    ),
    Row(
        "bayesian_compression",
        ("--strength=20", "--pretrain_epochs=0", "--warm_up_epochs=0"),
        {"strength": 20.0, "pretrain_epochs": 0, "warm_up_epochs": 0},
    ),
    Row(
        "bayesnas_compression",
        ("--strength=0.01", "--loop_epochs=1"),
        {"strength": 0.01, "loop_epochs": 1},
    ),
    Row(
        "bayesnas",
        ("--strength=0.01", "--loop_epochs=1"),
        {"strength": 0.01, "loop_epochs": 1},
    ),
    Row(OUTSIDE, ("--strength=0.5",), {"strength": 0.5}),
]
ALL = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)


def test_every_method_has_a_row():
    inside = {
        name
        for name, cls in methods.METHODS.items()
        if cls.__module__.startswith("tfsparse.")
    }
    shrinking = {name for name in inside if "sparse" in methods.METHODS[name].stages}
    assert shrinking == {row.name for row in TABLE} - {OUTSIDE}
    assert inside - shrinking == {"legr"}  # tests/engine/test_rank.py


def made(row: Row) -> methods.Method:
    return methods.find(row.name)(**row.arguments)


@functools.cache
def few():
    """96 of the real digits in four classes, and their labels."""
    from sklearn.datasets import load_digits

    found = load_digits(n_class=4)
    return (found.images[:96, ..., None] / 16).astype("float32"), found.target[:96]


def net():
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(6, 3, use_bias=False, name="conv")(inputs)
    x = keras.layers.BatchNormalization(name="bn")(x)
    side = keras.layers.Conv2D(6, 1, name="side")(keras.layers.ReLU()(x))
    x = keras.layers.ReLU()(keras.layers.Add(name="add")([x, side]))
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(9, activation="relu", name="fc")(x)
    model = keras.Model(inputs, keras.layers.Dense(4, name="out")(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, jit_compile=False)
    return model


@ALL
def test_it_prepares_a_copy_that_computes_or_can_be_lowered(row):
    model, method = net(), made(row)
    before = models.weights_of(model)
    sparse = method.prepare(model, tfsparse.find_groups(model, method.kinds))
    assert not {id(v) for v in sparse.variables} & {id(v) for v in model.variables}
    after = models.weights_of(model)
    assert all(np.array_equal(after[path], before[path]) for path in before)
    assert sparse.input_shape == model.input_shape
    assert sparse.output_shape == model.output_shape


@ALL
def test_it_shrinks_and_the_result_is_stock_and_computes_what_was_trained(row):
    x, y = few()
    method, held = made(row), {}
    with pytest.MonkeyPatch.context() as patch:
        whole = finishing.finish

        def finish(model, *more):
            small, reasons = whole(model, *more)
            held["sparse"], held["reasons"] = model, reasons
            return small, reasons

        patch.setattr(finishing, "finish", finish)
        found = tfsparse.fit_shrinking(
            net(), method, x, y, epochs=2, shrink_epochs=1, batch_size=16
        )
    assert len(found.history) == 2
    assert all(
        type(layer).__module__.startswith("keras.") for layer in found.model.layers
    )
    keep = method.keep(
        held["sparse"], tfsparse.find_groups(held["sparse"], method.kinds)
    )
    left = {g.name: g.size for g in tfsparse.find_groups(found.model)}
    for group in tfsparse.find_groups(net()):
        if group.name in keep and group.name in left:
            wanted = max(1, int(keep[group.name].sum()))
            assert wanted <= left[group.name] <= group.size
    if row.name != OUTSIDE:  # its units still work: strip drops them as mask does
        expected = held["sparse"].predict(x, verbose=0)
        received = found.model.predict(x, verbose=0)
        np.testing.assert_allclose(
            received, expected, atol=1e-4 * np.abs(expected).max()
        )


@functools.cache
def data_file(folder: str) -> str:
    x, y = few()
    path = f"{folder}/few.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x[:40], y_test=y[:40])
    return path


def run(folder, row, *more) -> int:
    model = ["--model=mlp", "--hidden=9,7"]
    if row.name == "bayesnas":  # which chooses among the inputs of an Add
        path = Path(folder, "net.keras")
        if not path.exists():  # weights are drawn once
            net().save(path)
        model = [f"--model={path}"]
    given = [
        f"--data={data_file(str(folder))}", *model,
        f"--method={row.name}", *row.flags, "--epochs=2", "--shrink_epochs=1",
        "--fine_tune_epochs=1", "--batch_size=16", "--formats=keras,tflite_int8",
        "--tensorboard=false", "--preflight=false", *more,
    ]  # fmt: skip
    return train.main(["train", *given])


@pytest.mark.parametrize(
    "row",
    [
        row
        if row.name in ("gsparsity", "bayesian_compression", OUTSIDE)
        else pytest.param(row, marks=pytest.mark.slow)
        for row in TABLE
    ],
    ids=lambda row: row.name,
)
def test_a_run_resumes_bit_for_bit_exports_and_reports(row, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    whole, broken = str(folder / "whole"), str(folder / "broken")
    assert run(folder, row, f"--workdir={whole}") == 0
    fit, calls = context.RunContext.fit_epoch, []

    def interrupted(self, model, name, *more):
        calls.append(name)
        if len(calls) in (2, 4):  # in the sparse stage, then in fine-tuning
            raise KeyboardInterrupt
        return fit(self, model, name, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context.RunContext, "fit_epoch", interrupted)
        for code in (2, 2, 0):
            assert run(folder, row, f"--workdir={broken}", "--resume") == code
    reports = [files.read_json(f"{place}/report.json") for place in (whole, broken)]
    losses = [[e["loss"] for e in r["method"]["history"]] for r in reports]
    assert losses[0] == losses[1] and len(losses[0]) == 2
    first, second = (
        [(s["name"], s["accuracy"], s["params"]) for s in r["stages"]] for r in reports
    )
    assert first == second and first[-1][0] == "mcu"
    one, two = (
        Path(place, "model_int8.tflite").read_bytes() for place in (whole, broken)
    )
    assert one == two
    parity = {p["artifact"]: p for p in reports[0]["parity"]}
    assert parity["keras"]["max_abs_difference"] < 1e-5
    assert reports[0]["config"]["method"] == row.name
    assert Path(whole, "report.html").stat().st_size > 10_000


@ALL
def test_its_settings_go_through_json_and_back(row):
    method = made(row)
    stored = json.loads(json.dumps(method.get_config()))
    assert type(method).from_config(stored) == method
    changed = method.with_strength(0.25)
    assert changed != method and changed.get_config()[method.sparser] == 0.25
    with pytest.raises(ValueError, match="must be given settings among"):
        type(method).from_config({**stored, "colour": "red"})


FIELDS = [
    (row, one) for row in TABLE for one in options.fields_of(methods.find(row.name))
]


@pytest.mark.parametrize(
    ("row", "one"), FIELDS, ids=[f"{row.name}-{one.name}" for row, one in FIELDS]
)
def test_it_refuses_what_no_setting_can_be(row, one):
    rule, kind = (
        one.metadata["rule"],
        options.types_of(methods.find(row.name))[one.name],
    )
    wrong: list = [object(), None]
    if kind in (int, float):
        wrong += ["many", float("nan"), True]
        wrong += [b - 1 for b in (rule.low,) if b is not None]
        wrong += [b for b in (rule.above, rule.below) if b is not None]
        wrong += [b + 1 for b in (rule.high,) if b is not None]
    if rule.choices:
        wrong.append("nothing of the kind")
    if rule.kind == options.PAIRS:
        wrong += ["conv", "conv=many", "conv=1,conv=2", "=3"]
    for value in wrong:
        with pytest.raises(ValueError, match=f"`{one.name}`.*Received: "):
            dataclasses.replace(made(row), **{one.name: value})
    assert rule.help.endswith(".") and rule.help[0].isupper() or rule.help[0] == "`"


@ALL
def test_flags_file_python_and_json_say_the_same(row, tmp_path):
    flagfile = tmp_path / "run.flags"
    flagfile.write_text("\n".join([f"--method={row.name}", *row.flags]) + "\n")
    by_file, _ = settings.parse([f"--flagfile={flagfile}"])
    by_hand, _ = settings.parse([f"--method={row.name}", *row.flags])
    in_python = settings.Settings.of(made(row))
    assert by_file == by_hand == in_python
    if ":" in row.name:
        with pytest.raises(ValueError, match="stored settings"):
            settings.Settings.from_json(in_python.to_json())
    else:
        assert settings.Settings.from_json(in_python.to_json()) == in_python
