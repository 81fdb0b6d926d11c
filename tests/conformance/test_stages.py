"""Every stage, the package's and one from outside: settings, results, rows, sections."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tfsparse import budgets, files, methods, options, records, train
from tfsparse.engine import runner, settings, stage

SHARED = {"epochs", "seed"}
"""Settings of the same name and meaning in parts that never, or always, stand together."""


@pytest.fixture(scope="module")
def weighed(tmp_path_factory):
    """A run of a method from outside with a stage from outside."""
    folder = tmp_path_factory.mktemp("weighed")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 6)).astype("float32")
    y = (x[:, 0] > 0).astype(int)
    np.savez(folder / "d.npz", x_train=x, y_train=y, x_test=x[:30], y_test=y[:30])
    given = [f"--data={folder}/d.npz", "--model=mlp", "--hidden=8,6", "--epochs=1",
             "--method=conformance.outsiders:SmallestWeighed", "--batch_size=16",
             "--fine_tune_epochs=1", "--shrink_epochs=1", "--tensorboard=false",
         "--preflight=false",
             f"--workdir={folder}/run", "--formats=keras,tflite_int8"]  # fmt: skip
    assert train.main(["train", *given]) == 0
    return folder / "run"


def test_a_stage_from_outside_renders_like_any_other(weighed):
    report = files.read_json(str(weighed / "report.json"))
    names = [row["name"] for row in report["stages"]]
    assert names == ["sparse", "stripped", "weighed", "finetuned", "tflite_int8", "mcu"]
    page = Path(weighed, "report.html").read_text("utf-8")
    for text in ("What the scales say", "largest weight", "on the scales"):
        assert text in page
    assert report["method"]["largest"] > 0
    assert "What the scales say" in [s["title"] for s in report["sections"]]


def all_stages() -> list[type[stage.Stage]]:
    stage.find("sparse")
    return list(stage.STAGES.values())


@pytest.mark.parametrize("cls", all_stages(), ids=lambda cls: cls.name)
def test_a_stage_declares_what_it_takes(cls):
    assert cls.__doc__ and cls.name
    assert issubclass(cls.settings_class, options.Options)
    assert cls.settings_class()  # defaults are within their ranges
    known = {"model", *stage.STAGES}
    assert set(cls.inputs) <= known
    for one in options.fields_of(cls.settings_class):
        assert one.metadata["rule"].help.endswith(".")


@pytest.mark.parametrize("name", [*sorted(methods.METHODS), None])
def test_no_flag_has_two_meanings(name):
    method = methods.find(name) if name else None
    parts = [*settings.ALWAYS, *(s.settings_class for s in stage.listed(method))]
    parts += [method] if method else []
    flags = [one.name for part in parts for one in options.fields_of(part)]
    assert {flag for flag in flags if flags.count(flag) > 1} <= SHARED


class Count(stage.Stage):
    """Adds one to what it is given."""

    name = "count"

    def run(self, context, before, **inputs):
        context.append(self.settings)
        return records.Result(before.model + 1, facts={"inputs": sorted(inputs)})


class Beside(Count):
    """Adds one, but nobody goes on from it."""

    name = "beside"
    aside = True


class Reads(Count):
    """Reads what stood beside."""

    name = "reads"
    inputs = ("beside", "model")


def test_the_runner_hands_on_results_and_starts_where_it_is_told():
    stages = [Count(1, None), Beside(2, None), Reads(3, None)]
    calls: list = []
    found = runner.go(stages, calls, {"model": records.Result(0)})
    assert calls == [1, 2, 3]
    assert [found[name].model for name in ("count", "beside", "reads")] == [1, 2, 2]
    assert found["reads"].facts["inputs"] == ["beside", "model"]
    again = runner.go(
        stages, calls, found, start="reads"
    )  # a family: the end once more
    assert calls == [1, 2, 3, 3] and again["reads"].model == 2
    with pytest.raises(ValueError, match="`start` must be among"):
        runner.go(stages, calls, found, start="nowhere")
    with pytest.raises(
        ValueError, match="`results` must hold those of the stages before"
    ):
        runner.go(stages, calls, {"model": records.Result(0)}, start="reads")


def test_an_unknown_stage_is_refused():
    with pytest.raises(ValueError, match="`stages` of a method must be names among"):
        stage.find("quantum")


def test_settings_of_a_part_that_a_run_has_no_use_for_are_refused():
    wrong = stage.find("plain").settings_class(epochs=3)
    with pytest.raises(ValueError, match="`parts` must be among"):
        settings.Settings.of(methods.GSparsity(), wrong)


def test_defaults_are_the_same_from_everywhere():
    for name, cls in methods.METHODS.items():
        if not cls.__module__.startswith("tfsparse."):
            continue
        by_flags, _ = settings.parse([f"--method={name}"])
        assert by_flags.method == cls()
        assert by_flags == settings.Settings.of(cls())
        assert by_flags.changed().keys() <= {"method"}


def test_limits_are_part_of_every_run():
    chosen, _ = settings.parse(["--round_to=4", "--ratios=fc*=0.5"])
    limits = chosen.parts[budgets.Limits]
    assert limits == budgets.Limits(round_to=4, ratios={"fc*": 0.5})
    assert json.loads(json.dumps(chosen.to_json()))["ratios"] == "fc*=0.5"
