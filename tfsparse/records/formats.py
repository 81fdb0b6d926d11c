"""Files that a network ships as: their names, and what goes together."""

from __future__ import annotations

from collections.abc import Iterable

FORMATS = ("keras", "saved_model", "tflite_float", "tflite_int8")
"""What a model is exported to where nothing else is said, see `deploy.export`."""

QUANTISED = ("int8", "int16x8", "float16", "dynamic")
"""Numbers of a TFLite file that is smaller than a float one: weights and activations as int8;
weights as int8 and activations as int16; weights as float16; weights as int8, the rest float."""

ON_MICRO = ("int8", "int16x8")
"""Of these, what TensorFlow Lite Micro runs."""

WHOLE = tuple(f"tflite_{kind}" for kind in ON_MICRO)
"""The formats of these."""

EVERY_FORMAT = (*FORMATS, *(f"tflite_{kind}" for kind in QUANTISED[1:]))
"""All that a model can be exported to."""

PACKINGS = ("none", "zeros", "clusters", "auto")
"""How weights may be packed in flash, see `deploy.compress`."""


def formats_of(wanted: Iterable[str], kind: str) -> tuple[str, ...]:
    """What is exported where the small file holds numbers of a kind: it stands for tflite_int8.

    Args:
        wanted: Some of `EVERY_FORMAT`.
        kind: One of `QUANTISED`, or `none` for no small file.

    Raises:
        ValueError: Nothing is left.

    Example:
        >>> formats_of(("keras", "tflite_int8"), "float16")
        ('keras', 'tflite_float16')
    """
    small = {"tflite_int8": f"tflite_{kind}" if kind != "none" else ""}
    found = tuple(dict.fromkeys(filter(None, (small.get(one, one) for one in wanted))))
    if not found:
        raise ValueError(
            "`formats` must leave something to export beside tflite_int8, which "
            "quantise=none leaves out. Received: formats=tflite_int8, quantise=none."
        )
    return found


def check_packing(way: str, formats: Iterable[str]) -> None:
    """Checks that weights can be packed, before there is a file.

    Raises:
        ValueError: The way is unknown, or there will be no file to pack.
    """
    if way not in PACKINGS:
        raise ValueError(f"`compress` must be one of {PACKINGS}. Received: {way!r}.")
    if way != "none" and not set(WHOLE) & set(formats):
        raise ValueError(
            f"`compress` must come with {' or '.join(WHOLE)} among the formats: it packs "
            f"what TensorFlow Lite Micro runs. Received: {tuple(formats)}."
        )
