"""Class folders of WAV files as windows of log-mel energies. soundfile reads them.

Front end, for each frame of `frame` samples, one every `hop` samples:

    s = |rfft(hann(frame) * x, size)|^2 / sum(hann(frame)^2);  m = mel s;  log(m + floor)

with mel the triangular filters below (HTK's scale, 2595 log10(1 + f / 700)), each of peak 1,
from 20 Hz to half the rate. Its settings are written beside the model.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from tfsparse.data import folders
from tfsparse.data.found import SERIES, Found, Part

ENDINGS = (".wav", ".wave")

LOWEST_HERTZ = 20.0

FLOOR = 1e-6
"""Added before the logarithm: silence is -13.8."""

DEFAULT_WINDOW = 1000
"""Milliseconds of a window where nothing is said."""


def front_end(
    rate: int, bands: int, window_ms: int, frame_ms: int = 32, hop_ms: int = 20
) -> dict[str, Any]:
    """The settings of a front end, enough to write it again in firmware.

    Args:
        rate: Samples a second.
        bands: Mel bands.
        window_ms: Length of a window.
        frame_ms, hop_ms: Length of a frame, and from one to the next.
    """
    frame, hop = frame_ms * rate // 1000, max(1, hop_ms * rate // 1000)
    size = 1 << (frame - 1).bit_length()
    length = round(window_ms * rate / 1000)
    return {
        "kind": "log_mel",
        "sample_rate": rate,
        "window_samples": length,
        "frame_samples": frame,
        "hop_samples": hop,
        "frames": 1 + (length - frame) // hop,
        "fft_size": size,
        "taper": "hann, periodic",
        "power": "|rfft|^2 / sum of squares of the taper",
        "mel_bands": bands,
        "mel_scale": "2595 log10(1 + f / 700)",
        "mel_lowest_hertz": LOWEST_HERTZ,
        "mel_highest_hertz": rate / 2,
        "log": "natural, of the band's energy + floor",
        "floor": FLOOR,
        "samples": "mono, mean of the channels, full scale is 1",
    }


def mel_filters(settings) -> np.ndarray:
    """Triangles of peak 1 over the bins of the spectrum. `(bins, bands)`."""
    bins = np.arange(settings["fft_size"] // 2 + 1)
    hertz = bins * settings["sample_rate"] / settings["fft_size"]
    ends = 2595 * np.log10(
        1
        + np.array([settings["mel_lowest_hertz"], settings["mel_highest_hertz"]]) / 700
    )
    mels = np.linspace(ends[0], ends[1], settings["mel_bands"] + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    up = (hertz[:, None] - low) / (middle - low)
    down = (high - hertz[:, None]) / (high - middle)
    return np.clip(np.minimum(up, down), 0, 1).astype(np.float32)


def log_mel(signals: np.ndarray, settings) -> np.ndarray:
    """Log-mel energies of windows of sound.

    Args:
        signals: `(windows, window_samples)`, full scale is 1.
        settings: What `front_end` returned.

    Returns:
        `(windows, frames, bands)` float32.
    """
    frame, hop = settings["frame_samples"], settings["hop_samples"]
    taper = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(frame) / frame)
    starts = hop * np.arange(settings["frames"])
    filters = mel_filters(settings)
    out = np.empty((len(signals), len(starts), settings["mel_bands"]), np.float32)
    for number, signal in enumerate(signals):
        frames = signal[starts[:, None] + np.arange(frame)] * taper
        spectrum = np.abs(np.fft.rfft(frames, settings["fft_size"])) ** 2
        energies = (spectrum / np.square(taper).sum()) @ filters
        out[number] = np.log(energies + settings["floor"])
    return out


def from_folder(path: str, chosen) -> Found:
    """WAV files in class folders, or side by side, as log-mel windows.

    Args:
        path: The folder, see `folders.layout`.
        chosen: The settings of `Data`: sample_rate, mel_bands, window, stride.
    """
    layout = folders.layout(path, ENDINGS)
    window = chosen.window or DEFAULT_WINDOW
    settings = _checked_front_end(chosen, window)
    stride = (chosen.stride or window) * chosen.sample_rate // 1000
    notes, short, resampled = list(layout.notes), 0, 0

    def part(files) -> Part | None:
        nonlocal short, resampled
        if files is None:
            return None
        xs, ys, groups = [], [], []
        for file, label in files:
            signal, rate = read(file)
            if rate != settings["sample_rate"]:
                signal = _resampled(signal, rate, settings["sample_rate"])
                resampled += 1
            if len(signal) < settings["window_samples"]:
                short += 1
                missing = settings["window_samples"] - len(signal)
                signal = np.pad(signal, (0, missing))
            every = np.lib.stride_tricks.sliding_window_view(
                signal, settings["window_samples"]
            )
            cut = every[:: max(1, stride)]
            xs.append(log_mel(cut, settings))
            ys += [label] * len(cut)
            groups += [os.path.relpath(file, path)] * len(cut)
        labels = None if ys and ys[0] is None else np.array(ys)
        return Part(np.concatenate(xs), labels, np.array(groups))

    train, validation, test = (
        part(files) for files in (layout.train, layout.validation, layout.test)
    )
    if train is None:
        raise ValueError(f"`data` must hold samples. Received: {path!r}.")
    if short:
        notes.append(f"{short} recordings shorter than {window} ms end in silence")
    if resampled:
        notes.append(
            f"{resampled} recordings were resampled to {chosen.sample_rate} Hz"
        )
    columns = tuple(f"mel {i + 1}" for i in range(chosen.mel_bands))
    return Found(
        train,
        validation,
        test,
        SERIES,
        layout.classes,
        columns,
        notes=tuple(notes),
        front_end=settings,
        task="reconstruction" if layout.normal else "auto",
    )


def _checked_front_end(chosen, window: int) -> dict[str, Any]:
    """The front end that settings ask for; a ValueError where it would tell nothing."""
    settings = front_end(
        chosen.sample_rate, chosen.mel_bands, window, chosen.frame_ms, chosen.hop_ms
    )
    if settings["frames"] < 1:
        raise ValueError(
            f"`window` must hold a frame of {chosen.frame_ms} ms of sound. Received: "
            f"window={window}."
        )
    if not (mel_filters(settings).sum(0) > 0).all():
        raise ValueError(
            "`mel_bands` must be few enough that each holds a bin of the spectrum. "
            f"Received: mel_bands={chosen.mel_bands} at sample_rate={chosen.sample_rate}."
        )
    return settings


def read(path: str) -> tuple[np.ndarray, int]:
    """A WAV file as one channel, full scale 1, and its rate.

    Raises:
        ValueError: soundfile is not installed, or the file is damaged, cut short or empty.
    """
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise ValueError(
            "`data` in WAV files must have soundfile to read them: pip install "
            f"'tfsparse[data]'. Received: {path!r}."
        ) from error
    try:
        promised = soundfile.info(path).frames
        signal, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (RuntimeError, OSError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ValueError(
            f"`data` must hold WAV files that open. Received: {path!r} ({reason})."
        ) from error
    if not len(signal) or len(signal) < promised or _cut_short(path):
        raise ValueError(
            f"`data` must hold whole WAV files. Received: {path!r}, cut short or empty."
        )
    if not np.isfinite(signal).all():
        raise ValueError(
            f"`data` sounds must be finite. Received: {path!r} with nan or infinity."
        )
    return signal.mean(1), rate


def _cut_short(path: str) -> bool:
    """Whether a WAV's header promises more bytes than there are."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(8)
    promised = int.from_bytes(start[4:8], "little")
    unknown = promised in (0, 0xFFFFFFFF)  # a stream whose end nobody knew
    return start[:4] == b"RIFF" and not unknown and promised + 8 > size + 1


def _resampled(signal: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    from scipy.signal import resample_poly

    common = int(np.gcd(rate, wanted))
    return resample_poly(signal, wanted // common, rate // common).astype(np.float32)
