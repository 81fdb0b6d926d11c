"""No decision sees the test split: its door opens once every model of a run is fixed."""

from __future__ import annotations

import numpy as np
import pytest

from tfsparse import data, files, options, records, train
from tfsparse.engine import context, runner, sealed, shrinking
from tfsparse.methods import GSparsity

FLAGS = ("--model=mlp", "--hidden=8,6", "--epochs=2", "--shrink_epochs=1", "--batch_size=16",
         "--fine_tune_epochs=1", "--tensorboard=false", "--preflight=false",
         "--formats=keras,tflite_int8", "--strength=0.001")  # fmt: skip


@options.record
class Peeking(GSparsity):
    """Looks at the test split as an epoch ends, by way of the run's context."""

    name = "peeking"

    def end_epoch(self, model, epoch, tools):
        (held,) = Peeking.contexts
        return {"samples": len(held.dataset.x_test)}


Peeking.contexts = []


def arrays(folder, y_test=None):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(96, 6)).astype("float32")
    y = (x[:, 0] > 0).astype(int)
    np.savez(folder / "d.npz", x_train=x, y_train=y, x_test=x[:30], y_test=y[:30])
    return f"--data={folder}/d.npz"


def test_who_looks_before_the_end_gets_an_error(tmp_path, monkeypatch):
    made = context.RunContext.__init__

    def noted(self, *given):
        made(self, *given)
        Peeking.contexts = [self]

    monkeypatch.setattr(context.RunContext, "__init__", noted)
    method = f"--method={__name__}:Peeking"
    with pytest.raises(RuntimeError, match="must stay closed until every model"):
        train.main(
            ["train", arrays(tmp_path), method, *FLAGS, f"--workdir={tmp_path}/run"]
        )
    assert not (tmp_path / "run" / "report.json").exists()


@pytest.mark.parametrize(
    "look",
    [len, np.asarray, list, lambda x: x[0], lambda x: x.shape, lambda x: x == 1],
    ids=["len", "asarray", "iter", "item", "attribute", "equal"],
)
def test_nothing_can_be_read_of_it(look):
    with pytest.raises(RuntimeError, match="Choose on validation"):
        look(sealed.Sealed())


def test_the_door_opens_for_all_and_the_labels_go_with_the_samples():
    dataset = data.load("digits")
    door = sealed.Door(dataset)
    assert door.dataset.x_train is dataset.x_train and door.files() is None
    with pytest.raises(RuntimeError, match="must stay closed"):
        _ = door.test
    door.open()
    assert door.test.x is dataset.x_test and door.test.y is dataset.y_test


def test_the_door_opens_once_no_stage_is_left(tmp_path, monkeypatch):
    order = []
    real_go, real_open = runner.go, sealed.Door.open
    monkeypatch.setattr(
        runner, "go", lambda *given: (real_go(*given), order.append("stages"))[0]
    )
    monkeypatch.setattr(
        sealed.Door, "open", lambda self: (order.append("open"), real_open(self))[1]
    )
    given = [
        arrays(tmp_path),
        "--method=gsparsity",
        *FLAGS,
        f"--workdir={tmp_path}/run",
    ]
    assert train.main(["train", *given]) == 0
    assert order == ["stages", "open"]
    report = files.read_json(str(tmp_path / "run" / "report.json"))
    assert {row["samples"] for row in report["stages"]} == {30}


def test_what_setting_to_zero_costs_is_told_on_validation(tmp_path, monkeypatch):
    """A validation split on which every answer is wrong shows in the rows."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 6)).astype("float32")
    y = (x[:, 0] > 0).astype(int)
    np.savez(tmp_path / "d.npz", x_train=x[:200], y_train=y[:200], x_val=x[200:250],
             y_val=1 - y[200:250], x_test=x[250:], y_test=y[250:])  # fmt: skip
    given = [f"--data={tmp_path}/d.npz", "--method=gsparsity", *FLAGS, "--epochs=12",
             f"--workdir={tmp_path}/run"]  # fmt: skip
    assert train.main(["train", *given]) == 0
    report = files.read_json(str(tmp_path / "run" / "report.json"))
    scores = [row["score"] for row in report["method"]["settling"]]
    assert scores and scores[0] < 0.5 < report["stages"][-1]["accuracy"]
    assert isinstance(shrinking.State.from_json(report["method"]), shrinking.State)
    assert not issubclass(records.TrainingError, RuntimeError)  # a fault is no refusal


@pytest.mark.parametrize("labelled", [False, True])
def test_a_reconstruction_settles_by_its_error(tmp_path, labelled):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(200, 2)) @ rng.normal(size=(2, 8))).astype("float32")
    held = {"x_train": x[:150], "x_test": np.concatenate([x[150:], 3 + x[:50]])}
    if labelled:
        held["y_test"] = np.repeat([0, 1], 50)
    np.savez(tmp_path / "d.npz", **held)
    given = [f"--data={tmp_path}/d.npz", "--task=reconstruction", "--method=gsparsity",
             *FLAGS, f"--workdir={tmp_path}/run"]  # fmt: skip
    assert train.main(["train", *given]) == 0
    report = files.read_json(str(tmp_path / "run" / "report.json"))
    assert len(report["method"]["settling"]) == 4
    page = (tmp_path / "run" / "report.html").read_text()
    assert "validation reconstruction error" in page
    assert report["stages"][-1]["score"]["higher_is_better"] is labelled
