"""Files appear whole or not at all."""

import os
from pathlib import Path

import pytest

from tfsparse import files


def test_file_and_folder_replace_what_was_there(tmp_path):
    path = str(tmp_path / "a.txt")
    files.write_text(path, "one")
    files.write_text(path, "two")
    assert Path(path).read_text() == "two"
    folder = str(tmp_path / "d")
    for content in ("x", "y"):
        with files.appears_whole(folder) as temporary:
            os.makedirs(temporary)
            files.write_text(os.path.join(temporary, content), content)
    assert os.listdir(folder) == ["y"]
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "d"]


def test_an_error_leaves_the_old_file(tmp_path):
    path = str(tmp_path / "a.txt")
    files.write_text(path, "old")
    with pytest.raises(RuntimeError), files.appears_whole(path) as temporary:
        with open(temporary, "w") as file:
            file.write("new")
        raise RuntimeError
    assert Path(path).read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_sweep_removes_what_a_kill_left(tmp_path):
    (tmp_path / "sub" / ".partial-1-model.keras").mkdir(parents=True)
    (tmp_path / ".partial-2-report.json").write_text("{")
    (tmp_path / "kept").write_text("k")
    files.sweep(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["kept", "sub"]
    assert os.listdir(tmp_path / "sub") == []


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError):
        files.write_json(str(tmp_path / "a.json"), {"loss": float("nan")})
    assert os.listdir(tmp_path) == []
