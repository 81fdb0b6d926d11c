"""Data by name or path: splits, sources, augmentation, and everything unusable."""

import os

import numpy as np
import pytest
from PIL import Image

from tfsparse import data
from tfsparse.data import batches, images, named


def _arrays(samples=40, classes=4, shape=(6, 5)):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (samples, *shape), dtype=np.uint8)
    y = np.arange(samples) % classes
    return {"x_train": x, "y_train": y, "x_test": x[:12] // 2, "y_test": y[:12]}


def _save(path, **changes):
    arrays = {**_arrays(), **changes}
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return str(path)


def test_splits_are_fixed_disjoint_and_stratified():
    first, second = (
        data.load("digits", validation=0.2),
        data.load("digits", validation=0.2),
    )
    assert (first.x_validation == second.x_validation).all()
    assert len(first.x_train) + len(first.x_validation) + len(first.x_test) == 1797
    counts = np.bincount(first.y_validation) / np.bincount(first.y_train)
    assert np.ptp(counts) < 0.03
    train = {x.tobytes() for x in first.x_train}
    assert sum(x.tobytes() in train for x in first.x_validation) == 0


def test_mnist_is_the_real_one():
    if not os.environ.get("TFDS_DATA_DIR"):
        pytest.skip("no prepared TFDS folder on this machine")
    dataset = data.load("mnist")
    assert dataset.shape == (28, 28, 1) and dataset.x_train.dtype == np.uint8
    assert len(dataset.x_train) + len(dataset.x_validation) == 60000
    assert len(dataset.x_test) == 10000
    assert np.bincount(dataset.y_test).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009
    ]  # fmt: skip


def test_npz_gets_a_channel_axis_and_classes(tmp_path):
    dataset = data.load(_save(tmp_path / "a.npz"))
    assert dataset.shape == (6, 5, 1)
    assert dataset.classes == 4
    assert dataset.x_test.shape == (12, 6, 5, 1)


@pytest.mark.parametrize("nested", [False, True])
def test_folder_of_class_folders(tmp_path, nested):
    rng = np.random.default_rng(0)
    parts = ("train", "test") if nested else ("",)
    for part in parts:
        for name in ("cat", "dog"):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for i in range(9):
                image = rng.integers(0, 256, (8, 7, 3), dtype=np.uint8)
                Image.fromarray(image).save(folder / f"{i}.png")
    dataset = data.load(str(tmp_path))
    assert dataset.class_names == ("cat", "dog")
    assert dataset.shape == (8, 7, 3)
    total = sum(map(len, (dataset.x_train, dataset.x_validation, dataset.x_test)))
    assert total == 18 * len(parts)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"y_test": None}, "without y_test"),
        ({"y_train": np.arange(39) % 4}, "40 train samples and 39 labels"),
        ({"x_train": np.full((40, 6, 5), np.nan)}, "finite.*nan"),
        ({"y_train": np.full(40, -1)}, "labels"),
        ({"y_test": np.full(12, 7)}, "label 7 in test only"),
        ({"y_train": np.zeros(40, int)}, "two or more classes"),
        ({"x_test": np.zeros((12, 6, 6), np.uint8)}, "one shape"),
        ({"x_train": np.zeros((0, 6, 5)), "y_train": np.zeros(0, int)}, "empty"),
        ({"x_train": np.array([{}] * 40, dtype=object)}, "plain arrays"),
    ],
)
def test_unusable_npz(tmp_path, changes, sentence):
    path = _save(tmp_path / "bad.npz", **changes)
    with pytest.raises(ValueError, match=sentence):
        data.load(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nonsense", b"hello"])
def test_damaged_npz(tmp_path, content):
    path = tmp_path / "broken.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="whole .npz file"):
        data.load(str(path))


def test_missing_sources(tmp_path):
    with pytest.raises(ValueError, match="exists"):
        data.load(str(tmp_path / "none.npz"))
    with pytest.raises(ValueError, match="none of these"):
        data.load("no_such_data")
    with pytest.raises(ValueError, match="two or more classes"):
        data.load(str(tmp_path))


def test_images_of_a_size_stay_on_disk(image_folder):
    dataset = data.load(image_folder, image_size=16, validation=0.25)
    assert isinstance(dataset.x_train, data.Images)
    assert dataset.shape == (16, 16, 3) and dataset.class_names == ("blue", "red")
    parts = dataset.x_train, dataset.x_validation, dataset.x_test
    assert [len(x) for x in parts] == [18, 6, 24]
    pixels = np.asarray(dataset.x_test)
    assert pixels.shape == dataset.x_test.shape and pixels.dtype == np.uint8
    assert ((pixels[..., 0].mean((1, 2)) > 100) == (dataset.y_test == 1)).all()
    batches = list(data.Batches(dataset.x_test, dataset.y_test, 10).epoch())
    read = np.concatenate([x.numpy() for x, _ in batches])
    np.testing.assert_allclose(read, pixels / np.float32(255), atol=1e-6)
    assert [len(x) for x, _ in batches] == [10, 10, 4]


def test_the_centre_is_cut_as_pil_would(tmp_path):
    rows, columns = np.mgrid[0:70, 0:84]
    image = np.stack([rows * 2, columns * 2, rows + columns], -1).astype(np.uint8)
    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(2):
                Image.fromarray(image).save(tmp_path / part / name / f"{i}.png")
    found = np.asarray(data.load(str(tmp_path), image_size=28).x_test)[0]
    box = (11, 4, 72, 65)  # 61 is 7/8 of 70
    wanted = Image.fromarray(image).resize((28, 28), Image.Resampling.BILINEAR, box)
    assert np.abs(found.astype(int) - np.asarray(wanted)).max() <= 1


def test_random_crops_follow_the_seed_and_keep_within_the_image(image_folder):
    dataset = data.load(image_folder, image_size=16)
    wanted = data.parse_augmentation("resized_crop=0.3,flip")
    batches = data.Batches(dataset.x_train, dataset.y_train, 8, wanted)
    first, again, other = (
        np.concatenate([x.numpy() for x, _ in batches.epoch(seed)])
        for seed in ((1, 0), (1, 0), (1, 1))
    )
    assert (first == again).all() and (first != other).any()
    assert first.max(-1).min() > 0.5  # nothing moved in from outside


@pytest.mark.parametrize("sides", [(60.0, 40.0), (100.0, 400.0)])
def test_boxes_have_the_area_and_aspect_asked_for(sides):
    key = np.array([3, 5], np.int64)
    boxes = images.random_boxes(4000, 0.25, key, *sides).numpy()
    top, left, bottom, right = boxes.T
    assert min(top.min(), left.min()) >= 0 and max(bottom.max(), right.max()) < 1 + 1e-6
    area = (bottom - top) * (right - left)
    assert 0.25 - 1e-5 < area.min() < 0.26 and 0.99 < area.max() < 1 + 1e-5
    assert abs(area.mean() - 0.625) < 0.02
    aspect = (right - left) * sides[1] / ((bottom - top) * sides[0])
    free = (bottom - top < 1 - 1e-5) & (right - left < 1 - 1e-5)
    assert 0.74 < aspect[free].min() and 1.30 < aspect[free].max() < 1.34
    assert sides[0] < sides[1] or aspect[free].min() < 0.77


def test_resized_crops_of_arrays_scale_the_part_up():
    x = np.broadcast_to(
        np.arange(32, dtype=np.uint8)[None, None, :, None], (16, 32, 32, 1)
    )
    y = np.zeros(16, int)
    wanted = data.parse_augmentation("resized_crop=0.25")
    ((found, _),) = data.Batches(np.ascontiguousarray(x), y, 16, wanted).epoch((0,))
    slopes = np.diff(found.numpy()[:, 5, :, 0] * 255, axis=1)
    assert found.shape == (16, 32, 32, 1)
    assert (slopes.std(1) < 1e-3).all() and slopes.mean(1).min() < 0.75


@pytest.mark.parametrize("text", ["resized_crop=1.5", "resized_crop=0", "resized=0.5"])
def test_unusable_crops(text):
    with pytest.raises(ValueError, match="augment"):
        data.parse_augmentation(text)


def _store_as_mnist(folder, x, y):
    """Prepares a data set that TFDS takes for its MNIST; both splits hold the same."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    samples = tf.data.Dataset.from_tensor_slices({"image": x, "label": y})
    features = {
        "image": tfds.features.Image(shape=x.shape[1:]),
        "label": tfds.features.ClassLabel(num_classes=10),
    }
    tfds.dataset_builders.store_as_tfds_dataset(
        name="mnist",
        version="3.0.1",
        features=tfds.features.FeaturesDict(features),
        split_datasets={"train": samples, "test": samples},
        data_dir=folder,
    )


def test_tfds_images_are_cut_to_a_size(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (40, 28, 28, 1), dtype=np.uint8)
    x[:, 10:20, 10:20] = 255
    _store_as_mnist(tmp_path, x, np.arange(40) % 10)
    dataset = data.load("mnist", data_dir=str(tmp_path), image_size=14)
    assert dataset.shape == (14, 14, 1) and dataset.x_train.dtype == np.uint8
    assert len(dataset.x_test) == 40 and dataset.x_test.max() > 200


def test_sizes_that_cannot_be(image_folder):
    with pytest.raises(ValueError, match="image_size.*0 or more"):
        data.load(image_folder, image_size=-1)
    with pytest.raises(ValueError, match="image_size.*must be 0"):
        data.load("digits", image_size=16)


def _two_classes(root, save, count=4):
    for part in ("train", "test"):
        for name in ("a", "b"):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                save(root / part / name, i)
    return str(root)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA"])
@pytest.mark.parametrize("ending", ["bmp", "gif", "png"])
def test_every_kind_of_file_is_read_from_disk(tmp_path, mode, ending):
    if ending == "bmp" and mode in ("LA", "1"):
        pytest.skip("PIL writes none, TensorFlow reads none")

    def save(folder, number):
        image = Image.new("L", (20, 20), 255 if number % 2 else 0)
        image.convert(mode).save(folder / f"{number}.{ending}")

    dataset = data.load(_two_classes(tmp_path, save), image_size=8)
    found = np.asarray(dataset.x_test)
    assert [len(np.unique(x)) for x in found] == [1] * 8
    assert found[:, 0, 0, 0].tolist() == [0, 255] * 4


def test_crops_of_a_single_pixel(tmp_path):
    def save(folder, number):
        Image.new("RGB", (1, 1), (9, 9, 9)).save(folder / f"{number}.png")

    dataset = data.load(_two_classes(tmp_path, save, 20), image_size=4)
    wanted = data.parse_augmentation("resized_crop=0.08")
    batches = data.Batches(dataset.x_train, dataset.y_train, 8, wanted).epoch((1,))
    assert all((x.numpy() * 255 == 9).all() for x, _ in batches)


def test_the_test_split_of_imagenet_has_no_classes(image_folder):
    flat = os.path.join(image_folder, "test")
    os.mkdir(flat)
    Image.new("RGB", (9, 9)).save(os.path.join(flat, "1.png"))
    assert len(data.load(image_folder, image_size=8).x_test) == 24


def test_classes_of_a_folder_must_be_whole(image_folder):
    os.mkdir(os.path.join(image_folder, "val", "green"))
    with pytest.raises(ValueError, match="must occur in train.*'green'"):
        data.load(image_folder, image_size=8)
    os.mkdir(os.path.join(image_folder, "train", "green"))
    with pytest.raises(ValueError, match="every class.*'green'"):
        data.load(image_folder, image_size=8)


def test_a_name_that_is_no_text(image_folder):
    folder = os.path.join(image_folder, "train", "red").encode()
    os.rename(folder + b"/0.JPEG", folder + b"/\xff.JPEG")
    with pytest.raises(ValueError, match="UTF-8"):
        data.load(image_folder, image_size=8)


def test_first_damaged_file_is_found(image_folder):
    dataset = data.load(image_folder, image_size=16)
    assert dataset.x_train.damaged() is None
    path = str(dataset.x_train.paths[3])
    with open(path, "r+b") as file:
        file.truncate(100)
    assert dataset.x_train.damaged() == path
    assert len(dataset.x_train[3]) == 1


def test_damaged_image_is_named(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"images that open.*x\.png"):
        data.load(str(tmp_path))


def test_batches_follow_the_seed_alone():
    x = np.arange(50, dtype=np.uint8).reshape(50, 1)
    y = np.arange(50)
    first = [b[1].numpy() for b in data.Batches(x, y, 16).epoch((1, 2))]
    again = [b[1].numpy() for b in data.Batches(x, y, 16).epoch((1, 2))]
    other = [b[1].numpy() for b in data.Batches(x, y, 16).epoch((1, 3))]
    assert np.concatenate(first).tolist() == np.concatenate(again).tolist()
    assert np.concatenate(first).tolist() != np.concatenate(other).tolist()
    assert sorted(np.concatenate(first)) == list(range(50))
    assert [len(b) for b in first] == [16, 16, 16, 2]
    plain = [b[0].numpy() for b in data.Batches(x, y, 16).epoch()]
    np.testing.assert_allclose(np.concatenate(plain), x / np.float32(255))


def test_shift_moves_by_whole_pixels_and_fills_with_zero():
    image = np.zeros((64, 9, 9, 1), np.float32)
    image[:, 4, 4] = 1.0
    import tensorflow as tf

    moved = batches.augment(
        tf.constant(image), {"shift": 2.0}, tf.constant([1, 2], tf.int64)
    )
    places = {tuple(np.argwhere(m[..., 0] > 0.99)[0]) for m in moved.numpy()}
    assert (moved.numpy().sum((1, 2, 3)) > 0.99).all()
    rows, columns = {p[0] for p in places}, {p[1] for p in places}
    assert rows == {2, 3, 4, 5, 6} and columns == {2, 3, 4, 5, 6}


def test_flip_rotate_and_cutout_change_what_they_should():
    import tensorflow as tf

    rng = np.random.default_rng(0)
    image = rng.random((200, 8, 8, 1)).astype(np.float32)
    key = tf.constant([3, 4], tf.int64)
    flipped = batches.augment(tf.constant(image), {"flip": 1.0}, key).numpy()
    mirrored = np.isclose(flipped, image[:, :, ::-1], atol=1e-5).all((1, 2, 3))
    same = np.isclose(flipped, image, atol=1e-5).all((1, 2, 3))
    assert (mirrored | same).all() and 60 < mirrored.sum() < 140
    cut = batches.augment(tf.constant(image + 1), {"cutout": 3.0}, key).numpy()
    holes = (cut == 0).sum((1, 2, 3))
    assert holes.max() == 9 and holes.min() >= 1
    turned = batches.augment(tf.constant(image), {"rotate": 15.0}, key).numpy()
    assert not np.isclose(turned, image).all((1, 2, 3)).any()


@pytest.mark.parametrize("text", ["warp=3", "shift=-1", "shift=a", "cutout=0"])
def test_unknown_augmentation(text):
    with pytest.raises(ValueError, match="augment"):
        data.parse_augmentation(text)


def test_idx_file_with_another_checksum_is_refused(tmp_path):
    path = tmp_path / "t10k-labels-idx1-ubyte"
    path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 5, 6]))
    with pytest.raises(OSError, match="SHA-256"):
        named._idx(str(path), "0" * 64)
    import hashlib

    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert named._idx(str(path), digest).tolist() == [5, 6]


def test_no_pass_waits_for_a_tuner():
    x = np.zeros((8, 4, 4, 1), "uint8")
    for seed in (None, (0,)):
        found = data.Batches(x, np.zeros(8), 4, {"shift": 1}).epoch(seed)
        assert found.options().autotune.enabled is False
