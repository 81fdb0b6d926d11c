"""Data as they lie on disk: arrays, tables, recordings, pictures, sounds."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from tfsparse import data
from tfsparse.data import arrays, pictures, sounds, splits, windows

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 5)).astype("float32")
Y = np.arange(60) % 3


# Arrays ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("X_train", "Y_train", "X_test", "Y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("Xtrain", "ytrain", "Xtest", "ytest"),
        ("training_data", "training_labels", "testing_data", "testing_labels"),
        ("features_train", "target_train", "features_test", "target_test"),
    ],
)
def test_arrays_of_the_usual_names(tmp_path, names):
    parts = (X[:40], Y[:40], X[40:], Y[40:])
    np.savez(tmp_path / "a.npz", **dict(zip(names, parts, strict=True)))
    found = data.load(str(tmp_path / "a.npz"))
    assert len(found.x_train) + len(found.x_validation) == 40
    np.testing.assert_array_equal(found.x_test, X[40:])
    assert found.y_test.tolist() == Y[40:].tolist()


def test_a_validation_split_that_people_bring_is_used(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=X[:40], y_train=Y[:40], x_val=X[40:50],
             y_val=Y[40:50], x_test=X[50:], y_test=Y[50:])  # fmt: skip
    found = data.load(str(tmp_path / "a.npz"))
    np.testing.assert_array_equal(found.x_train, X[:40])
    np.testing.assert_array_equal(found.x_validation, X[40:50])


def test_x_and_y_alone_are_split(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, y=Y, notes=np.zeros(3))
    found = data.load(str(tmp_path / "a.npz"))
    assert [len(found.x_train), len(found.x_validation), len(found.x_test)] == [
        45,
        6,
        9,
    ]
    assert all(np.ptp(np.bincount(y)) == 0 for y in (found.y_train, found.y_test))
    assert "Notes was skipped" in " ".join(found.summary())


def test_npy_files_side_by_side(tmp_path):
    for name, array in {
        "X_train": X,
        "y_train": Y,
        "X_test": X[:9],
        "y_test": Y[:9],
    }.items():
        np.save(tmp_path / f"{name}.npy", array)
    for source in (tmp_path, tmp_path / "X_train.npy"):
        assert len(data.load(str(source)).x_test) == 9


def test_names_that_say_nothing():
    assert arrays.role_of("x_train_scaled") is None and arrays.role_of("meta") is None


def test_series_stay_as_they_are_and_pixels_get_a_channel(tmp_path):
    series = RNG.normal(size=(30, 20, 3)).astype("float32")
    np.savez(tmp_path / "s.npz", x=series, y=np.arange(30) % 2)
    found = data.load(str(tmp_path / "s.npz"))
    assert found.shape == (20, 3) and found.kind == "series"
    np.savez(tmp_path / "p.npz", x=np.uint8(series), y=np.arange(30) % 2)
    found = data.load(str(tmp_path / "p.npz"))
    assert found.shape == (20, 3, 1) and found.kind == "pictures"


def test_sixteen_bits_are_scaled_by_what_they_are(tmp_path):
    deep = np.full(
        (30, 4, 4), 13107, np.uint16
    )  # a fifth of white, and nothing brighter
    np.savez(tmp_path / "d.npz", x=deep, y=np.arange(30) % 2)
    found = data.load(str(tmp_path / "d.npz"))
    np.testing.assert_allclose(found.x_train, 0.2, atol=1e-5)
    assert "65,535" in " ".join(found.summary())


# Tables ---------------------------------------------------------------------------------


def write(path, head, lines):
    path.write_text("\n".join([head, *lines]) + "\n")
    return str(path)


def soil(path, between=",", decimal=".", head=True):
    lines = [
        between.join(
            (f"{i / 4}".replace(".", decimal), str(i % 5), "wet" if i % 2 else "dry")
        )
        for i in range(60)
    ]
    top = between.join(("moisture", "light", "class"))
    path.write_text("\n".join(([top] if head else []) + lines) + "\n")
    return str(path)


@pytest.mark.parametrize(
    ("name", "between", "decimal"),
    [
        ("a.csv", ",", "."),
        ("a.tsv", "\t", "."),
        ("a.csv", ";", ","),
        ("a.csv", ";", "."),
    ],
)
def test_tables_as_the_world_writes_them(tmp_path, name, between, decimal):
    found = data.load(soil(tmp_path / name, between, decimal))
    assert found.columns == ("moisture", "light")
    assert found.class_names == ("dry", "wet")
    every = np.concatenate([found.x_train, found.x_validation, found.x_test])
    np.testing.assert_allclose(np.sort(every[:, 0]), np.arange(60) / 4)


def test_a_table_without_a_head(tmp_path):
    found = data.load(soil(tmp_path / "a.csv", head=False))
    assert len(found.x_train) + len(found.x_validation) + len(found.x_test) == 60


def test_label_columns_are_named_or_last(tmp_path):
    path = write(
        tmp_path / "a.csv", "speed,a,b", [f"{i}.5,{i % 7},{i % 3}" for i in range(60)]
    )
    assert data.load(path).columns == ("speed", "a")
    found = data.load(path, label="speed")
    assert found.columns == ("a", "b") and found.task.unit == "speed"
    both = data.load(path, label="speed,a", task="regression")
    assert both.task.names == ("speed", "a") and both.task.shape == (2,)
    assert data.load(path, label="b", columns="sp*").columns == ("speed",)


def test_a_column_that_numbers_the_rows_is_left_out(tmp_path):
    lines = [f"{i},{i * 20},{i % 7}.5,{'ab'[i % 2]}" for i in range(40)]
    found = data.load(write(tmp_path / "a.csv", ",timestamp,x,class", lines))
    assert found.columns == ("x",)
    assert "'timestamp'" in " ".join(found.summary())
    found = data.load(str(tmp_path / "a.csv"), columns="timestamp,x")
    assert found.columns == ("timestamp", "x")


def test_rows_of_one_group_stay_together(tmp_path):
    lines = [f"{i}.5,{i // 5},{'xy'[i % 2]}" for i in range(100)]
    path = write(tmp_path / "a.csv", "value,who,class", lines)
    found = data.load(path, group="who")
    assert found.columns == ("value",)
    sets = [set((x[:, 0] // 5).astype(int)) for x in
            (found.x_train, found.x_validation, found.x_test)]  # fmt: skip
    assert not sets[0] & sets[1] and not sets[0] & sets[2] and not sets[1] & sets[2]
    assert all(sets)
    loose = data.load(path, columns="value")
    sets = [set((x[:, 0] // 5).astype(int)) for x in (loose.x_train, loose.x_test)]
    assert sets[0] & sets[1]  # the test above could fail


# Recordings -----------------------------------------------------------------------------


def recordings(
    root, parts=("",), lengths=(30,) * 6, classes=("up", "down"), head="x,y"
):
    number = 0
    for part in parts:
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for i, length in enumerate(lengths):
                number += 1
                lines = [f"{number}.25,{step}" for step in range(length)]
                write(root / part / name / f"{i}.csv", head, lines)
    return str(root)


def test_recordings_are_samples_or_are_cut(tmp_path):
    folder = recordings(tmp_path / "set")
    whole = data.load(folder)
    assert whole.shape == (30, 2) and whole.kind == "series"
    assert len(whole.x_train) + len(whole.x_validation) + len(whole.x_test) == 12
    found = data.load(folder, window=10, stride=5)
    every = np.concatenate([found.x_train, found.x_validation, found.x_test])
    assert every.shape == (12 * 5, 10, 2)
    assert all(
        len(np.unique(one[:, 0])) == 1 for one in every
    )  # never across recordings
    steps = np.diff(every[:, :, 1], axis=1)
    assert (steps == 1).all()
    names = [set(x[:, 0, 0]) for x in (found.x_train, found.x_validation, found.x_test)]
    assert (
        not names[0] & names[1] and not names[0] & names[2] and not names[1] & names[2]
    )


@pytest.mark.parametrize(
    "parts",
    [("train", "test"), ("Train", "Valid", "Test"), ("training", "val", "testing")],
)
def test_recordings_in_splits(tmp_path, parts):
    found = data.load(recordings(tmp_path / "set", parts))
    assert len(found.x_test) == 12
    assert len(found.x_validation) == (12 if len(parts) == 3 else 2)


def test_labels_inside_recordings(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(6):
        lines = [f"{step}.5,{'rest' if step < 25 else 'walk'}" for step in range(50)]
        write(folder / f"{number}.csv", "x,class", lines)
    found = data.load(str(folder), window=10)
    every = np.concatenate([found.x_train, found.x_validation, found.x_test])
    labels = np.concatenate([found.y_train, found.y_validation, found.y_test])
    assert len(every) == 6 * 4  # the window over the change is left out
    assert ((every[:, 0, 0] > 24) == (labels == 1)).all()
    assert "6 windows over a change" in " ".join(found.summary())


def test_windows_of_numbers_have_their_mean():
    part, notes = windows.cut(
        "s", [windows.Recording("a", X[:9], np.arange(9.0))], 3, 3
    )
    assert part.y.tolist() == [1, 4, 7] and part.x.shape == (3, 3, 5) and not notes


# Splits ---------------------------------------------------------------------------------


def test_no_class_leaves_train():
    labels = np.repeat([0, 1, 2], (50, 30, 2))
    leaves = splits.held_out("s", 0.9, 82, labels, None, "test")
    assert set(labels[leaves]) == set(labels[~leaves]) == {0, 1, 2}
    with pytest.raises(ValueError, match="2 or more samples of class 2"):
        splits.held_out("s", 0.2, 81, labels[:-1], None, "test")


def test_groups_of_several_classes():
    groups = np.repeat(np.arange(20), 10)
    labels = RNG.integers(0, 3, 200)
    leaves = splits.held_out("s", 0.25, 200, labels, groups, "test")
    assert not set(groups[leaves]) & set(groups[~leaves])
    assert 0.15 < leaves.mean() < 0.35
    assert set(labels[leaves]) == set(labels[~leaves]) == {0, 1, 2}


# Pictures -------------------------------------------------------------------------------


def one(path, image, **options):
    for name in ("a", "b"):
        (path / name).mkdir(parents=True, exist_ok=True)
        for i in range(4):
            image.save(path / name / f"{i}.{options.get('ending', 'png')}",
                       **{k: v for k, v in options.items() if k != "ending"})  # fmt: skip
    return str(path)


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "gif", "webp", "tiff", "ppm"])
@pytest.mark.parametrize("size", [0, 8])
def test_every_format_that_pillow_opens(tmp_path, ending, size):
    image = Image.new("RGB", (16, 16), (200, 100, 40))
    found = data.load(one(tmp_path, image, ending=ending), image_size=size)
    pixels = np.asarray(found.x_train)[0].reshape(-1, 3).mean(0)
    np.testing.assert_allclose(pixels, (200, 100, 40), atol=6)


@pytest.mark.parametrize("size", [0, 8])
def test_pictures_are_turned_upright(tmp_path, size):
    image = Image.new("L", (16, 16), 0)
    image.paste(255, (0, 0, 16, 4))  # light on top, as stored
    exif = image.getexif()
    exif[274] = 3  # upside down
    found = data.load(one(tmp_path, image, ending="jpg", exif=exif), image_size=size)
    rows = np.asarray(found.x_train)[0, :, :, 0].mean(1)
    assert rows[0] < 30 and rows[-1] > 220
    assert "8 pictures were turned upright" in " ".join(found.summary())


@pytest.mark.parametrize("size", [0, 8])
def test_palettes_hold_colours(tmp_path, size):
    image = Image.new("RGB", (16, 16), (250, 10, 10)).convert("P", palette=1)
    found = data.load(one(tmp_path, image), image_size=size)
    assert found.shape[-1] == 3
    np.testing.assert_allclose(
        np.asarray(found.x_train)[0, 4, 4], (250, 10, 10), atol=8
    )


def test_thermal_pictures(tmp_path):
    image = Image.fromarray(np.full((8, 8), 45875, "uint16"))
    found = data.load(one(tmp_path, image))
    np.testing.assert_allclose(found.x_train, 0.7, atol=1e-4)
    kept = data.load(str(tmp_path), image_size=8)  # on disk: 8 of the 16 bits
    np.testing.assert_allclose(np.asarray(kept.x_train) / 255, 0.7, atol=2e-3)


def test_what_is_hidden_or_no_picture_is_skipped_and_told(tmp_path):
    folder = one(tmp_path, Image.new("L", (8, 8)))
    os.mkdir(tmp_path / ".ipynb_checkpoints")
    os.mkdir(tmp_path / "__MACOSX")
    (tmp_path / "a" / "notes.doc").write_text("x")
    found = data.load(folder)
    assert found.class_names == ("a", "b")
    told = " ".join(found.summary())
    assert ".ipynb_checkpoints" in told and "__MACOSX" in told and "notes.doc" in told


def test_pictures_of_other_sizes_are_told(tmp_path):
    folder = one(tmp_path, Image.new("L", (8, 6)))
    Image.new("L", (20, 30)).save(tmp_path / "b" / "9.png")
    found = data.load(folder)
    assert found.shape == (6, 8, 1)
    assert "1 of 9 pictures were scaled to 6 x 8" in " ".join(found.summary())


@pytest.mark.parametrize(
    ("parts", "validation", "test"),
    [
        (("train", "validation", "test"), 8, 8),
        (("Train", "Test"), 2, 8),
        (("training", "testing"), 2, 8),
        (("train", "valid"), 2, 8),
        (("train", "val", "Test"), 8, 8),
    ],
)
def test_folders_named_as_elsewhere(tmp_path, parts, validation, test):
    for part in parts:
        one(tmp_path / part, Image.new("L", (8, 8)))
    found = data.load(str(tmp_path))
    assert len(found.x_validation) == validation and len(found.x_test) == test


# Sounds ---------------------------------------------------------------------------------


def tones(root, kind="PCM_16", rate=16000, channels=1, seconds=1.2):
    import soundfile

    time = np.arange(int(seconds * rate)) / rate
    for name, pitch in (("high", 3000), ("low", 400)):
        (root / name).mkdir(parents=True)
        for i in range(6):
            tone = 0.5 * np.sin(2 * np.pi * (pitch + i) * time)
            signal = np.stack([tone] * channels, axis=1)
            soundfile.write(root / name / f"{i}.wav", signal, rate, subtype=kind)
    return str(root)


@pytest.mark.parametrize("kind", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT"])
@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (44100, 2), (8000, 1)])
def test_sounds_of_any_kind(tmp_path, kind, rate, channels):
    found = data.load(tones(tmp_path, kind, rate, channels))
    assert found.shape == (49, 40) and found.class_names == ("high", "low")
    bands = found.x_train.mean(1).argmax(1)  # the loudest band tells the pitch
    own = [set(bands[found.y_train == label]) for label in (0, 1)]
    assert min(own[0]) > max(own[1]) + 5


def test_log_mel_against_another_formula():
    settings = sounds.front_end(16000, 10, 100)
    signal = RNG.normal(size=settings["window_samples"])
    found = sounds.log_mel(signal[None], settings)[0]
    assert found.shape == (settings["frames"], 10) == (4, 10)
    frame, size = settings["frame_samples"], settings["fft_size"]
    taper = np.hanning(frame + 1)[:-1]
    one = signal[320 : 320 + frame] * taper  # the second frame
    n = np.arange(frame)
    power = [
        abs((one * np.exp(-2j * np.pi * k * n / size)).sum()) ** 2 / (taper**2).sum()
        for k in range(size // 2 + 1)
    ]
    mel = lambda f: 2595 * np.log10(1 + f / 700)  # noqa: E731
    edges = np.linspace(mel(20), mel(8000), 12)
    hertz = [700 * (10 ** (m / 2595) - 1) for m in edges]
    for band in range(10):
        low, top, high = hertz[band : band + 3]
        energy = 0.0
        for k, p in enumerate(power):
            f = k * 16000 / size
            energy += p * max(
                0, min((f - low) / (top - low), (high - f) / (high - top))
            )
        assert found[1, band] == pytest.approx(np.log(energy + 1e-6), rel=1e-4)


def test_windows_of_sounds_never_cross_recordings(tmp_path):
    found = data.load(tones(tmp_path, seconds=1.0), window=250)
    assert len(found.x_train) + len(found.x_validation) + len(found.x_test) == 12 * 4
    assert found.front_end["window_samples"] == 4000
    short = data.load(str(tmp_path), window=1500)
    assert "12 recordings shorter than 1500 ms end in silence" in " ".join(
        short.summary()
    )


def test_headers_tell_what_a_picture_is(tmp_path):
    Image.new("RGB", (9, 5)).save(tmp_path / "a.png")
    header = pictures.header(str(tmp_path / "a.png"))
    assert header.upright_size == (5, 9) and header.format == "PNG"


# Scaling --------------------------------------------------------------------------------


def test_statistics_are_those_of_train_alone(tmp_path):
    x = np.concatenate([np.full((40, 2), 5.0), np.full((20, 2), 1e6)]).astype("float32")
    x[:40] += RNG.normal(size=(40, 2)) * [1, 100]
    np.savez(
        tmp_path / "a.npz", x_train=x[:40], y_train=Y[:40], x_test=x[40:], y_test=Y[40:]
    )
    found = data.load(str(tmp_path / "a.npz"))
    mean, deviation = found.statistics()
    np.testing.assert_allclose(mean, found.x_train.mean(0), rtol=1e-5)
    np.testing.assert_allclose(deviation, found.x_train.std(0), rtol=1e-5)
    assert not found.scaled
    steady = x.copy()
    steady[:, 0] = 7.0
    np.savez(tmp_path / "b.npz", x=steady, y=Y)
    assert data.load(str(tmp_path / "b.npz")).statistics()[1][0] == 1.0
