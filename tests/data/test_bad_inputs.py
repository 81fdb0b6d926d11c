"""Everything that people bring and that cannot be used: one line each, before any training."""

from __future__ import annotations

import io
import os
import wave
import zipfile

import numpy as np
import pytest
from PIL import Image

from tfsparse import train

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 6)).astype("float32")
Y = np.arange(40) % 4


def npz(path, **changes):
    """An .npz of 40 rows and 4 classes, with changes; None leaves an array out."""
    arrays = {"x_train": X, "y_train": Y, "x_test": X[:12], "y_test": Y[:12], **changes}
    np.savez(path / "set.npz", **{k: v for k, v in arrays.items() if v is not None})
    return path / "set.npz"


def csv(path, text, name="table.csv"):
    (path / name).write_text(text)
    return path / name


def rows(count=12, cells="{i}.5,{j},{c}", head="a,b,class\n"):
    return head + "".join(
        cells.format(i=i, j=i % 5, c="xy"[i % 2]) + "\n" for i in range(count)
    )


def recordings(path, lengths=(20, 20, 20, 20), classes=("up", "down"), head="x,y\n"):
    for name in classes:
        (path / "set" / name).mkdir(parents=True)
        for number, length in enumerate(lengths):
            text = head + "".join(f"{i}.25,{i % 3}\n" for i in range(length))
            (path / "set" / name / f"{number}.csv").write_text(text)
    return path / "set"


def pictures(path, classes=("cat", "dog"), count=6, size=(8, 8)):
    for name in classes:
        (path / "set" / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", size, (i, 9, 9)).save(path / "set" / name / f"{i}.png")
    return path / "set"


def sounds(path, count=4, seconds=0.5, rate=8000):
    for name in ("yes", "no"):
        (path / "set" / name).mkdir(parents=True)
        for i in range(count):
            with wave.open(str(path / "set" / name / f"{i}.wav"), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(rate)
                noise = RNG.integers(-3000, 3000, int(seconds * rate), dtype=np.int16)
                file.writeframes(noise.tobytes())
    return path / "set"


def spoilt(path, name, content):
    """The path, once one of its files holds something else."""
    (path / name).write_bytes(content)
    return path


def cut(path, name, size):
    content = (path / name).read_bytes()[:size]
    return spoilt(path, name, content)


def pickled(path):
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}] * 40, dtype=object), allow_pickle=True)
    with zipfile.ZipFile(npz(path), "a") as file:
        file.writestr("x_validation.npy", buffer.getvalue())
    return path / "set.npz"


def bomb(path):
    """A PNG whose header promises 40,000 x 40,000 pixels."""
    folder = pictures(path)
    content = bytearray((folder / "cat" / "0.png").read_bytes())
    content[16:24] = (40_000).to_bytes(4, "big") * 2
    import zlib

    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    return spoilt(folder, "cat/0.png", bytes(content))


NAN = np.where(np.arange(240).reshape(40, 6) == 7, np.nan, X)

BAD = {
    # arrays
    "no such file": (lambda p: p / "none.npz", "exists"),
    "no such table": (lambda p: p / "none.csv", "exists"),
    "no such name": (lambda p: "no_such_data", "none of these"),
    "empty npz": (lambda p: spoilt(p, "a.npz", b"") / "a.npz", "whole .npz"),
    "text as npz": (lambda p: spoilt(p, "a.npz", b"hello") / "a.npz", "whole .npz"),
    "pickled objects": (pickled, "plain arrays"),
    "no samples by name": (lambda p: npz(p, x_train=None, foo=X), "x_train and y_train"),
    "labels of test missing": (lambda p: npz(p, y_test=None), "without y_test"),
    "fewer labels than samples": (lambda p: npz(p, y_train=Y[:39]), "one label a sample"),
    "nan": (lambda p: npz(p, x_train=NAN), "finite"),
    "words as samples": (lambda p: npz(p, x_train=X.astype(str)), "numbers"),
    "no samples": (lambda p: npz(p, x_train=X[:0], y_train=Y[:0]), "empty"),
    "a single number": (lambda p: npz(p, x_train=X[:, 0], x_test=X[:12, 0]), "shape"),
    "another shape in test": (lambda p: npz(p, x_test=X[:12, :5]), "one shape"),
    "labels in cubes": (lambda p: npz(p, y_train=np.zeros((40, 2, 2))), "labels must be"),
    "nan labels": (lambda p: npz(p, y_train=NAN[:, 1], y_test=NAN[:12, 1]), "finite"),
    "one class": (lambda p: npz(p, y_train=Y * 0, y_test=Y[:12] * 0), "two or more classes"),
    "strange labels in test": (lambda p: npz(p, y_test=Y[:12] + 4), "occur in train"),
    "strange words in test": (
        lambda p: npz(p, y_train=Y.astype(str), y_test=np.array(["z"] * 12)),
        "occur in train",
    ),
    "words in train, numbers in test": (lambda p: npz(p, y_train=Y.astype(str)), "one kind"),
    "a class of one sample": (
        lambda p: npz(p, y_train=np.r_[np.zeros(39, int), 1], y_test=np.zeros(12, int)),
        "2 or more samples of class",
    ),
    "labels that never change": (
        lambda p: npz(p, y_train=np.full(40, 1.5), y_test=np.full(12, 1.5)),
        "must differ",
    ),
    "two arrays for one purpose": (lambda p: npz(p, X_train=X), "one array for each"),
    # tables
    "an empty table": (lambda p: csv(p, ""), "can be read"),
    "a head alone": (lambda p: csv(p, "a,b,class\n"), "without rows"),
    "a missing column": ((lambda p: csv(p, rows()), "--label=speed"), "name columns"),
    "a missing group": ((lambda p: csv(p, rows()), "--group=who"), "name columns"),
    "a pattern of no column": ((lambda p: csv(p, rows()), "--columns=q*"), "must name some"),
    "words among numbers": (
        lambda p: csv(p, rows() + "4.5,wet,x\n"),
        "numbers.*'wet' in column 'b', row 13",
    ),
    "an empty cell": (lambda p: csv(p, rows() + "4.5,,x\n"), "column 'b', the first in row 13"),
    "an empty label": (lambda p: csv(p, rows() + "4.5,3,\n"), "every row.*row 13"),
    "numbers among words": (lambda p: csv(p, rows() + "4.5,3,7\n"), "all be words"),
    "columns of one name": (lambda p: csv(p, rows(head="a,a,class\n")), "'a' twice"),
    "labels alone": (lambda p: csv(p, "class\nx\ny\nx\ny\n"), "beside the labels"),
    "rows of other lengths": (lambda p: csv(p, rows() + "1,2,3,4,5\n"), "can be read"),
    "binary as a table": (lambda p: spoilt(p, "a.csv", b"\x00\x01\xff" * 9) / "a.csv", "text"),
    "groups in one class each": (
        (
            lambda p: csv(p, rows(cells="{i}.5,{c},{c}", head="a,who,class\n")),
            "--group=who",
        ),
        "2 or more recording or groups",
    ),
    # recordings
    "lengths that differ": (lambda p: recordings(p, (20, 21, 20, 20)), "`window` must be set"),
    "windows too long": ((recordings, "--window=50"), "longer than every recording"),
    "one recording a class": (
        (lambda p: recordings(p, (90,)), "--window=10"),
        "2 or more recording",
    ),
    "columns that differ": (
        lambda p: spoilt(recordings(p), "up/0.csv", b"x,z\n" + b"1.0,2\n" * 20),
        "same columns",
    ),
    "a stride without a window": ((recordings, "--stride=5"), "come with a window"),
    "a window for arrays": ((npz, "--window=5"), "`window`"),
    # pictures
    "one class folder": (lambda p: pictures(p, ("cat",)), "two or more classes"),
    "an empty class": (
        lambda p: [pictures(p), os.mkdir(p / "set" / "emu")][0],
        "every class.*'emu'",
    ),
    "an empty folder": (lambda p: p, "without any"),
    "a picture of no bytes": (lambda p: spoilt(pictures(p), "cat/0.png", b""), "images that open"),
    "a picture cut short": (lambda p: cut(pictures(p), "cat/0.png", 40), "images that open"),
    "no picture at all": (lambda p: spoilt(pictures(p), "dog/1.png", b"hello"), "that open"),
    "a decompression bomb": (bomb, "decompression bomb"),
    "a bomb that stays on disk": ((bomb, "--image_size=8"), "decompression bomb"),
    "classes in test alone": (
        lambda p: [
            pictures(p, ("train/a", "train/b", "test/a", "test/c")),
        ][0],
        "occur in train.*'c'",
    ),
    # sounds
    "a sound cut short": (lambda p: cut(sounds(p), "yes/0.wav", 400), "whole WAV|that open"),
    "a sound of no bytes": (lambda p: spoilt(sounds(p), "yes/0.wav", b""), "that open"),
    "words as a sound": (lambda p: spoilt(sounds(p), "no/0.wav", b"RIFFhello"), "that open"),
    "too many bands": ((sounds, "--mel_bands=500"), "mel_bands"),
    "too short a window": ((sounds, "--window=10"), "`window` must hold"),
    # tasks
    "a task that does not fit": ((npz, "--task=multilabel"), "0 or 1"),
    "words as numbers": (
        (lambda p: npz(p, y_train=np.array(["a", "b"] * 20), y_test=None, x_test=None),
         "--task=regression"),
        "numbers for regression",
    ),
    "four classes as yes or no": ((npz, "--task=binary"), "two classes"),
    "no such loss": ((npz, "--loss=no_such_loss"), "`loss`"),
    "pixels to be normalised": (
        (lambda p: npz(p, x_train=np.uint8(X), x_test=np.uint8(X[:12])), "--normalize=true"),
        "normalize",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_one_line_and_nothing_written(name, tmp_path, capfd):
    made, sentence = BAD[name]
    made, *flags = made if isinstance(made, tuple) else (made,)
    (tmp_path / "in").mkdir()
    source = made(tmp_path / "in")
    folder = tmp_path / "run"
    arguments = ["train", f"--data={source}", f"--workdir={folder}", *flags]
    assert train.main(arguments) == 2
    said = capfd.readouterr().err
    lines = [line for line in said.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("error: "), said
    import re

    assert re.search(sentence, lines[0]), said
    assert "Received" in lines[0]
    assert not folder.exists()


def test_there_are_fifty():
    assert len(BAD) >= 50
