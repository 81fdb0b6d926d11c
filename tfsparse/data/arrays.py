"""Arrays on disk: `.npz` of any of the usual names, `.npy` files side by side."""

from __future__ import annotations

import os
import re
import zipfile

import numpy as np

from tfsparse.data.found import Found, Part

INPUTS = ("x", "data", "images", "image", "inputs", "features", "samples", "windows")
TARGETS = ("y", "labels", "label", "targets", "target", "classes", "class")
PARTS = {
    "train": "train", "training": "train", "tr": "train",
    "val": "validation", "valid": "validation", "validation": "validation",
    "dev": "validation",
    "test": "test", "testing": "test", "te": "test",
    "": "all",
}  # fmt: skip
"""How people call a split -> what it is."""

WANTED = "x_train and y_train, x_test and y_test, or x and y"


def samples(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads the arrays `x` and `y` of an `.npz`, as a model takes them.

    Returns:
        `x (samples, ...)` and `y (samples, ...)`.

    Raises:
        ValueError: The file is missing or damaged, or does not hold the two.
    """
    arrays = _stored(path)
    if missing := [key for key in ("x", "y") if key not in arrays]:
        raise ValueError(
            f"`data` .npz must hold x, y. Received: {path!r} without {', '.join(missing)}."
        )
    x, y = arrays["x"], arrays["y"]
    if not x.shape or not y.shape or len(x) != len(y) or not len(x):
        raise ValueError(
            f"`data` must hold one y for each x. Received: {path!r} with x of shape "
            f"{x.shape} and y of shape {y.shape}."
        )
    return x, y


def role_of(name: str) -> tuple[str, str] | None:
    """What an array's name says: `x` or `y`, and of which split; None for neither.

    Example:
        >>> role_of("X_train"), role_of("val_labels"), role_of("x"), role_of("notes")
        (('x', 'train'), ('y', 'validation'), ('x', 'all'), None)
    """
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word]
    if len(words) == 1:  # xtrain, trainx
        joined = {
            word: [role, part]
            for role in (*INPUTS, *TARGETS)
            for part in PARTS
            for word in (role + part, part + role)
        }
        words = joined.get(words[0], words)
    roles = ["x" if w in INPUTS else "y" for w in words if w in (*INPUTS, *TARGETS)]
    parts = [PARTS[w] for w in words if w in PARTS and w]
    if (
        len(roles) != 1
        or len(parts) > 1
        or len(roles) + len(parts) < len([word for word in words if word])
    ):
        return None
    return roles[0], parts[0] if parts else "all"


def from_npz(path: str) -> Found:
    """The splits of an `.npz` file."""
    return _found(path, _stored(path))


def from_npy(path: str) -> Found:
    """The splits of the `.npy` files in a folder, or beside one of them."""
    folder = path if os.path.isdir(path) else os.path.dirname(path) or "."
    arrays = {}
    for name in sorted(os.listdir(folder)):
        if name.lower().endswith(".npy") and role_of(name[:-4]):
            arrays[name[:-4]] = _read_npy(os.path.join(folder, name))
    return _found(path, arrays)


def holds_npy(folder: str) -> bool:
    """Whether a folder holds `.npy` files with names such as x_train."""
    names = os.listdir(folder)
    return any(n.lower().endswith(".npy") and role_of(n[:-4]) for n in names)


def _read_npy(path: str) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"`data` must be whole .npy files of plain arrays. Received: {path!r} "
            f"({error})."
        ) from error


def _stored(path: str) -> dict[str, np.ndarray]:
    """Arrays of an `.npz`, by name."""
    if not os.path.isfile(path):
        raise ValueError(
            f"`data` must be an .npz file that exists. Received: {path!r}."
        )
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}
    except (OSError, ValueError, EOFError, KeyError, AttributeError, TypeError,
            zipfile.BadZipFile) as error:  # fmt: skip
        raise ValueError(
            f"`data` must be a whole .npz file of plain arrays. Received: {path!r} ({error})."
        ) from error


def _found(path: str, arrays: dict[str, np.ndarray]) -> Found:
    """Arrays sorted by what their names say."""
    by_role: dict[tuple[str, str], str] = {}
    notes = []
    for name in arrays:
        role = role_of(name)
        if role is None:
            notes.append(f"{name} was skipped: its name tells of no samples or labels")
        elif role in by_role:
            raise ValueError(
                f"`data` must hold one array for each purpose. Received: {path!r} with "
                f"{by_role[role]} and {name}."
            )
        else:
            by_role[role] = name
    first = "train" if ("x", "train") in by_role else "all"
    if ("x", first) not in by_role:
        raise ValueError(
            f"`data` must hold arrays {WANTED}. Received: {path!r} with "
            f"{', '.join(arrays) or 'none'}."
        )
    if first == "train" and ("x", "all") in by_role:
        raise ValueError(
            f"`data` must hold arrays {WANTED}. Received: {path!r} with "
            f"{by_role['x', 'all']} beside {by_role['x', 'train']}."
        )

    def part(split: str) -> Part | None:
        if ("x", split) not in by_role:
            if ("y", split) in by_role:
                raise ValueError(
                    f"`data` must hold samples for {by_role['y', split]}. Received: "
                    f"{path!r} without."
                )
            return None
        labels = by_role.get(("y", split))
        if labels is None and ("y", first) in by_role:
            raise ValueError(
                f"`data` must hold labels of every split. Received: {path!r} without "
                f"y_{split}."
            )
        return Part(
            arrays[by_role["x", split]], None if labels is None else arrays[labels]
        )

    train = part(first)
    if train is None:
        raise ValueError(f"`data` must hold arrays {WANTED}. Received: {path!r}.")
    return Found(train, part("validation"), part("test"), notes=tuple(notes))
