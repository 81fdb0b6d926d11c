"""Made data to try things on, where no package ships real ones: persons, machines, words.

python tools/made_data.py persons data/persons
python tools/made_data.py machines data/machines
python tools/made_data.py words data/words

persons: 96 x 96 colour pictures, half of them with a drawn figure of head, trunk and limbs among
shapes of other kinds; machines: one-second sounds of a fan, in test some of them with a worn
bearing; words: one-second sounds of twelve classes, each a melody of formants, at random pitch,
speed and noise. They are drawn by the seed, alike every time. A score on them says that the way
from data to chip works, not how good a network would be on real pictures and sounds: wherever
one stands it is called made data.
"""

from __future__ import annotations

import os
import sys
import wave

import numpy as np

from tfsparse import files
from tfsparse.train import exit_code

RATE = 16000
SEED = 20261129


def main(arguments: list[str]) -> int:
    """The program. Returns the exit code."""

    def job() -> None:
        if len(arguments) != 2 or arguments[0] not in MAKERS:
            raise ValueError(
                f"made_data must be given one of {', '.join(MAKERS)} and a folder. "
                f"Received: {' '.join(arguments) or 'nothing'}."
            )
        make(*arguments)

    return exit_code(job)


def make(kind: str, folder: str, share: float = 1.0) -> None:
    """Writes a data set.

    Args:
        kind: A key of `MAKERS`.
        folder: Where to; must not exist.
        share: How much of it, up to 1.

    Raises:
        ValueError: The folder exists.
    """
    if os.path.exists(folder):
        raise ValueError(f"The folder must not exist yet. Received: {folder!r}.")
    with files.appears_whole(folder) as temporary:
        MAKERS[kind](temporary, np.random.default_rng(SEED), share)


# Persons ---------------------------------------------------------------------------------


def persons(folder: str, rng: np.random.Generator, share: float) -> None:
    """`train|test/person|none`, 800 and 200 pictures a class."""
    for split, count in (("train", 800), ("test", 200)):
        for name in ("person", "none"):
            os.makedirs(os.path.join(folder, split, name))
            for number in range(max(4, round(share * count))):
                path = os.path.join(folder, split, name, f"{number:04}.png")
                _scene(rng, name == "person").save(path)


def _scene(rng, person: bool):
    """A picture of some shapes, and perhaps of somebody among them."""
    from PIL import Image, ImageDraw, ImageFilter

    side = 96
    image = Image.new("RGB", (side, side), _colour(rng))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(4, 10)):
        x, y = rng.integers(-20, side, 2)
        w, h = rng.integers(8, 60, 2)
        kind = (draw.rectangle, draw.ellipse)[rng.integers(2)]
        kind((x, y, x + w, y + h), fill=_colour(rng))
    if person:
        _figure(draw, rng, side)
    image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.0))))
    noise = rng.normal(0, 6, (side, side, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def _figure(draw, rng, side: int) -> None:
    """Head, trunk, arms and legs, somewhere, in some pose."""
    tall = rng.uniform(0.4, 0.85) * side
    x, foot = rng.uniform(0.25, 0.75) * side, rng.uniform(0.88, 1.0) * side
    head, hip = foot - tall, foot - 0.45 * tall
    skin, cloth, trousers = _colour(rng), _colour(rng), _colour(rng)
    broad = max(2, round(0.09 * tall))
    for sign in (-1, 1):
        knee = x + sign * rng.uniform(0.02, 0.14) * tall
        draw.line((x, hip, knee, foot), fill=trousers, width=broad)
        hand = (
            x + sign * rng.uniform(0.12, 0.35) * tall,
            hip - rng.uniform(-0.1, 0.4) * tall,
        )
        draw.line(
            (x, head + 0.25 * tall, *hand), fill=cloth, width=max(2, broad * 2 // 3)
        )
    draw.rounded_rectangle(
        (x - 0.11 * tall, head + 0.2 * tall, x + 0.11 * tall, hip), 3, fill=cloth
    )
    draw.ellipse(
        (x - 0.08 * tall, head, x + 0.08 * tall, head + 0.18 * tall), fill=skin
    )


def _colour(rng) -> tuple[int, int, int]:
    return tuple(int(v) for v in rng.integers(20, 236, 3))


# Sounds ----------------------------------------------------------------------------------


def machines(folder: str, rng: np.random.Generator, share: float) -> None:
    """`train/normal`, 300 sounds; `test/normal` and `test/worn`, 100 of each."""
    parts = (("train", "normal", 300), ("test", "normal", 100), ("test", "worn", 100))
    for split, name, count in parts:
        own = os.path.join(folder, split, name)
        os.makedirs(own)
        for number in range(max(4, round(share * count))):
            _write(os.path.join(own, f"{number:04}.wav"), _fan(rng, name == "worn"))


def _fan(rng, worn: bool) -> np.ndarray:
    """A second of blades, motor and wind; a worn bearing clicks as it turns."""
    time = np.arange(RATE) / RATE
    turns = rng.uniform(22, 26)
    sound = 0.3 * _filtered(rng.normal(size=RATE), 0.02)
    for harmonic, level in ((5, 0.15), (10, 0.08), (15, 0.04)):
        phase = rng.uniform(0, 2 * np.pi)
        sound += level * np.sin(2 * np.pi * harmonic * turns * time + phase)
    if worn:
        clicks = np.zeros(RATE)
        places = np.arange(rng.uniform(0, 0.05), 1, 1 / (3.1 * turns)) * RATE
        clicks[places.astype(int)] = rng.uniform(0.5, 1.0, len(places))
        ring = np.exp(-np.arange(400) / 60) * np.sin(
            2 * np.pi * 2800 / RATE * np.arange(400)
        )
        sound += 0.12 * np.convolve(clicks, ring)[:RATE]
    return sound * rng.uniform(0.6, 1.0)


WORDS = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes",
         "silence", "unknown")  # fmt: skip


def words(folder: str, rng: np.random.Generator, share: float) -> None:
    """`train|test/WORD`, 120 and 30 sounds of each of twelve."""
    tunes = {
        word: np.random.default_rng((SEED, n)).uniform(250, 3200, (2, 5))
        for n, word in enumerate(WORDS)
    }
    for split, count in (("train", 120), ("test", 30)):
        for word in WORDS:
            own = os.path.join(folder, split, word)
            os.makedirs(own)
            for number in range(max(4, round(share * count))):
                path = os.path.join(own, f"{number:04}.wav")
                _write(path, _spoken(rng, word, tunes[word]))


def _spoken(rng, word: str, tune: np.ndarray) -> np.ndarray:
    """A second with a melody of two formants in it, or of nothing, or of anything."""
    noise = rng.uniform(0.005, 0.05) * rng.normal(size=RATE)
    if word == "silence":
        return noise
    if word == "unknown":
        tune = rng.uniform(250, 3200, (2, 5))
    length = int(rng.uniform(0.45, 0.8) * RATE)
    start = rng.integers(0, RATE - length)
    along = np.linspace(0, 4, length)
    envelope = np.hanning(length)
    sound = noise
    pitch = rng.uniform(0.9, 1.1)
    for formant, level in zip(tune, (0.5, 0.3), strict=True):
        hertz = pitch * np.interp(along, np.arange(5), formant)
        sound[start : start + length] += (
            level * envelope * np.sin(2 * np.pi * np.cumsum(hertz) / RATE)
        )
    return sound


def _filtered(noise: np.ndarray, share: float) -> np.ndarray:
    """Noise with little above a share of the spectrum."""
    spectrum = np.fft.rfft(noise)
    spectrum /= 1 + (np.arange(len(spectrum)) / (share * len(spectrum))) ** 2
    found = np.fft.irfft(spectrum, len(noise))
    return found / np.abs(found).max()


def _write(path: str, sound: np.ndarray) -> None:
    with wave.open(path, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.clip(sound, -1, 1) * 32000).astype("<i2").tobytes())


MAKERS = {"persons": persons, "machines": machines, "words": words}
"""Name -> what writes it."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
