"""What a user can set about data: which, how they are split, how they are augmented."""

from __future__ import annotations

from tfsparse import options
from tfsparse.records import TASKS

AUGMENTATIONS = ("shift", "rotate", "flip", "crop", "cutout", "resized_crop")


def parse_augmentation(text: str) -> dict[str, float]:
    """Reads `shift=2,rotate=10,flip,crop=2,cutout=6`.

    shift and crop in pixels (both fill with 0; crop is the habit's other name), rotate in degrees,
    cutout the side of the blanked square, flip left-right with probability 1/2, resized_crop
    the least share of the area of a random part that is scaled to the whole.

    Raises:
        ValueError: An unknown name or a value that is not a positive number; a share above 1.
    """
    wanted = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, value = part.partition("=")
        try:
            amount = float(value or 1)
        except ValueError:
            amount = 0.0
        if name not in AUGMENTATIONS or not amount > 0:
            raise ValueError(
                f"`augment` must be a list of {'=N, '.join(AUGMENTATIONS)}=N, N positive. "
                f"Received: {part!r}."
            )
        if name == "resized_crop" and amount > 1:
            raise ValueError(
                f"`augment` resized_crop must be a share of the area, up to 1. "
                f"Received: {part!r}."
            )
        wanted[name] = amount
    return wanted


@options.record
class Data(options.Options):
    """Which data a run reads, and how."""

    part = "Data"

    data: str = options.field(
        "mnist",
        "A TFDS name; 'digits', 'wine', 'breast_cancer' or 'diabetes'; an .npz file; .npy "
        "files in a folder; a CSV or TSV table; a folder of pictures, WAV files or CSV "
        "recordings, one folder a class.",
    )
    data_dir: str | None = options.field(
        None,
        "Folder of TFDS; by default TFDS_DATA_DIR or TFDS's own.",
        location=True,
    )
    task: str = options.field(
        "auto",
        "What is predicted. auto finds it in the labels: words, and whole numbers of up to "
        "100 values, are classes, floats are numbers, rows of 0 and 1 several labels, and "
        "without labels the input itself is predicted.",
        choices=("auto", *TASKS),
    )
    loss: str = options.field(
        "",
        "Loss that training minimises, a name of keras.losses or package.module:function; "
        "by default the cross-entropy of classes and labels, the squared error of numbers.",
    )
    label: str = options.field(
        "",
        "Column of a table that holds the labels, several separated by commas; by default "
        "the last.",
    )
    group: str = options.field(
        "",
        "Column of a table whose rows of one value (a person, a machine, a recording) stay "
        "in one split.",
    )
    columns: str = options.patterns(
        "", "Columns of a table that the network takes; by default all but the labels."
    )
    window: int = options.field(
        0,
        "Steps of a recording in one sample, of sounds milliseconds; 0 takes recordings "
        "whole, and 1000 ms of sounds.",
        low=0,
    )
    stride: int = options.field(
        0,
        "Steps, of sounds milliseconds, from one window to the next; 0 for windows side by "
        "side.",
        low=0,
    )
    sample_rate: int = options.field(
        16000, "Samples a second that sounds are brought to.", low=1000, high=192000
    )
    mel_bands: int = options.field(40, "Mel bands of sounds.", low=1, high=512)
    frame_ms: int = options.field(
        32, "Milliseconds of sound that one spectrum is taken of.", low=4, high=1000
    )
    hop_ms: int = options.field(
        20, "Milliseconds from one spectrum to the next.", low=1, high=1000
    )
    normalize: str = options.field(
        "auto",
        "Whether the network begins with a Normalization of its columns, adapted on the "
        "training split; auto gives it to networks of the zoo whose columns are unscaled.",
        choices=("auto", "true", "false"),
    )
    validation: float = options.field(
        0.1,
        "Fraction of the training split that is held out for decisions, where the data "
        "bring no validation split.",
        above=0,
        below=1,
    )
    image_size: int = options.field(
        0,
        "Side in pixels that images are cut to; those of a folder then stay on disk. 0 "
        "takes images as they are, into memory.",
        low=0,
    )
    augment: str = options.field(
        "",
        "List such as shift=2,rotate=10,flip,crop=2,cutout=6,resized_crop=0.08 of what is "
        "done to training images at random.",
        check=parse_augmentation,
    )
