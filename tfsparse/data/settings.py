"""What a user can set about data: which, how they are split, how they are augmented."""

from __future__ import annotations

from tfsparse import options

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
        "A TFDS name, 'digits', an .npz file, or a folder of class folders of images.",
    )
    data_dir: str | None = options.field(
        None,
        "Folder of TFDS; by default TFDS_DATA_DIR or TFDS's own.",
        location=True,
    )
    validation: float = options.field(
        0.1,
        "Fraction of the training split that is held out for decisions.",
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
