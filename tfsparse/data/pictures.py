"""Class folders of pictures, of every format that Pillow opens."""

from __future__ import annotations

import dataclasses
import functools
import os
import warnings
from concurrent import futures

import numpy as np

from tfsparse.data import folders
from tfsparse.data.found import PICTURES, Found, Part
from tfsparse.data.images import GRAY, Images, decodes_itself

WORKERS = os.cpu_count() or 2

UPRIGHT = 1
"""Orientation (EXIF tag 274) of a picture whose rows lie as they are stored."""


@functools.cache
def endings() -> tuple[str, ...]:
    """Endings of the picture formats that Pillow opens."""
    from PIL import Image

    known = Image.registered_extensions()
    no_pictures = {"PDF", "EPS", "MPEG", "WMF", "HDF5", "GRIB", "BUFR", "FITS"}
    return tuple(
        ending
        for ending, kind in known.items()
        if kind in Image.OPEN and kind not in no_pictures
    )


@dataclasses.dataclass(frozen=True)
class Header:
    """What a picture's first bytes tell: its mode, its size and how it is turned."""

    mode: str
    size: tuple[int, int]
    orientation: int
    format: str

    @property
    def upright_size(self) -> tuple[int, int]:
        """Height and width of the picture as people see it."""
        width, height = self.size
        return (width, height) if self.orientation in (5, 6, 7, 8) else (height, width)


def from_folder(path: str, size: int) -> Found:
    """Pictures in class folders.

    Args:
        path: The folder, see `folders.layout`.
        size: Side in pixels that pictures are cut to, which then stay on disk; 0 reads
            them as they are into memory, all scaled to the first one's size.

    Returns:
        uint8 pixels; uint16 where every picture has 16 bits a pixel.
    """
    layout = folders.layout(path, endings())
    if not layout.classes:
        raise ValueError(
            f"`data` folder must hold a folder of images for each of two or more classes. "
            f"Received: {path!r} with files side by side."
        )
    parts = [layout.train, layout.validation, layout.test]
    files = [file for part in parts if part for file, _ in part]
    with futures.ThreadPoolExecutor(WORKERS) as pool:
        headers = dict(zip(files, pool.map(header, files), strict=True))
    gray = all(h.mode in GRAY for h in headers.values())
    shape = headers[files[0]].upright_size
    others = sum(h.upright_size != shape for h in headers.values())
    turned = sum(h.orientation != UPRIGHT for h in headers.values())
    notes = list(layout.notes)
    if turned:
        notes.append(f"{turned} pictures were turned upright as their EXIF data say")
    deep = all(h.mode.startswith("I") for h in headers.values())
    if others and not size:
        notes.append(
            f"{others} of {len(files)} pictures were scaled to {shape[0]} x {shape[1]}, the "
            "size of the first; --image_size cuts squares"
        )

    def part(listed) -> Part | None:
        if listed is None:
            return None
        paths = np.array([file for file, _ in listed], dtype=object)
        labels = np.array([label for _, label in listed])
        if size:
            plain = np.array([decodes_itself(headers[p]) for p in paths])
            return Part(Images(paths, size, 1 if gray else 3, plain), labels)
        read = functools.partial(pixels, shape=shape, gray=gray, deep=deep)
        with futures.ThreadPoolExecutor(WORKERS) as pool:
            return Part(np.stack(list(pool.map(read, paths))), labels)

    train, validation, test = (part(listed) for listed in parts)
    if train is None:
        raise ValueError(f"`data` must hold samples. Received: {path!r}.")
    task = "reconstruction" if layout.normal else "auto"
    return Found(
        train, validation, test, PICTURES, layout.classes, notes=tuple(notes), task=task
    )


def header(path: str) -> Header:
    """What a picture's header tells; nothing is decoded.

    Raises:
        ValueError: Pillow cannot open it, or takes it for an attack.
    """

    def read(image) -> Header:
        orientation = image.getexif().get(274, UPRIGHT)
        return Header(image.mode, image.size, orientation, image.format or "")

    return opened(path, read)


def pixels(path: str, shape, gray: bool, deep: bool) -> np.ndarray:
    """A picture, upright and scaled. `(height, width, 1 or 3)` uint8, or uint16 if deep."""

    def read(image) -> np.ndarray:
        from PIL import Image, ImageOps

        image = ImageOps.exif_transpose(image)
        if deep:
            values = np.clip(np.asarray(image), 0, 65535).astype(np.uint16)
            if values.shape != tuple(shape):
                scaled = Image.fromarray(values.astype(np.float32)).resize(shape[::-1])
                values = np.round(np.asarray(scaled)).astype(np.uint16)
            return values[..., None]
        return _shallow(image, shape[::-1], gray)

    return opened(path, read)


def _shallow(image, size, gray: bool) -> np.ndarray:
    """An image as 8-bit pixels; one of 16 bits keeps its upper half."""
    from PIL import Image

    if image.mode.startswith("I"):
        values = np.clip(np.asarray(image), 0, 65535) / 257
        image = Image.fromarray(np.round(values).astype(np.uint8))
    elif image.mode == "F":
        values = np.asarray(image)
        image = Image.fromarray(np.clip(np.round(values), 0, 255).astype(np.uint8))
    elif image.mode == "P":
        image = image.convert("RGB")  # colours, not their numbers
    image = image.convert("L" if gray else "RGB")
    if size is not None and image.size != tuple(size):
        image = image.resize(size)
    array = np.asarray(image, dtype=np.uint8)
    return array[..., None] if array.ndim == 2 else array


def upright(path: str, gray: bool) -> np.ndarray:
    """A picture upright, of its own size. `(height, width, 1 or 3)` uint8."""

    def read(image) -> np.ndarray:
        from PIL import ImageOps

        return _shallow(ImageOps.exif_transpose(image), None, gray)

    return opened(path, read)


def opened(path: str, use):
    """What `use` makes of an opened picture.

    Raises:
        ValueError: It does not open, or holds more pixels than anything real.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return use(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(
            f"`data` must hold images of a sensible size. Received: {path!r}, which Pillow "
            f"takes for a decompression bomb."
        ) from error
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ValueError(
            f"`data` must hold images that open. Received: {path!r} ({reason})."
        ) from error
