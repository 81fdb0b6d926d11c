"""Folders as people lay them out: splits above classes, classes above files."""

from __future__ import annotations

import dataclasses
import os

SPLITS = {
    "train": "train", "training": "train",
    "val": "validation", "valid": "validation", "validation": "validation",
    "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
"""Names of folders, in lower case, that hold a split."""

Files = list[tuple[str, int | None]]
"""Paths and the classes of files; None where folders tell of none."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """The files of a folder.

    Attributes:
        train, validation, test: Files of each split; None where there is no such folder.
        classes: Names of the class folders; empty where files lie side by side.
        notes: Sentences: what was skipped.
        normal: Whether train holds one class, what is normal, and test others, too.
    """

    train: Files
    validation: Files | None
    test: Files | None
    classes: tuple[str, ...]
    notes: tuple[str, ...]
    normal: bool = False


def layout(path: str, endings: tuple[str, ...]) -> Layout:
    """How the files of some kind lie in a folder.

    A folder of class folders; or folders such as `train`, `Valid` and `testing` above them;
    or, without any class folder, files side by side. Where train has a single class folder,
    that is what is normal, and whatever else test has is not.

    Args:
        path: The folder.
        endings: Of the files that count, in lower case.

    Raises:
        ValueError: Classes differ between splits, or one is empty.
    """
    skipped: list[str] = []
    splits: dict[str, str] = {}
    for name in _folders(path, skipped):
        split = SPLITS.get(name.lower())
        if split and split in splits:
            raise ValueError(
                f"`data` folder must hold one folder for each split. Received: {path!r} "
                f"with {splits[split]!r} and {name!r}."
            )
        if split:
            splits[split] = name
    if "train" not in splits or len(splits) < 2:
        classes, files = _classes(path, endings, skipped)
        return Layout(files, None, None, classes, tuple(skipped))
    train = os.path.join(path, splits["train"])
    single = _folders(train, [])
    normal = len(single) == 1 and "test" in splits
    known: tuple[str, ...] | None = None
    if normal:
        tested = _folders(os.path.join(path, splits["test"]), [])
        known = (single[0], *(name for name in tested if name != single[0]))
    classes, files = _classes(train, endings, skipped, known)
    classes = known or classes
    others: dict[str, Files | None] = {"validation": None, "test": None}
    for split in others:
        if split in splits:
            folder = os.path.join(path, splits[split])
            if not _folders(folder, []) and classes:
                skipped.append(
                    f"{splits[split]} was skipped: it holds no class folders"
                )
                continue
            _, others[split] = _classes(folder, endings, skipped, classes)
    if others["test"] is None and others["validation"] is not None:
        # As ImageNet has it: what everybody reports is the score on its validation split.
        others = {"validation": None, "test": others["validation"]}
    return Layout(
        files, others["validation"], others["test"], classes, tuple(skipped), normal
    )


def _folders(path: str, skipped: list[str]) -> list[str]:
    """Names of the folders in a folder that are not hidden."""
    found = []
    for name in sorted(os.listdir(path)):
        if not os.path.isdir(os.path.join(path, name)):
            continue
        if name.startswith((".", "__")):
            skipped.append(f"{name} was skipped: it is hidden")
        else:
            found.append(name)
    return found


def _classes(
    path: str,
    endings: tuple[str, ...],
    skipped: list[str],
    known: tuple[str, ...] | None = None,
) -> tuple[tuple[str, ...], Files]:
    """Names of class folders, and the files in them."""
    names = _folders(path, skipped)
    if not names:
        return (), [(file, None) for file in listed(path, endings, skipped)]
    if known is None and len(names) < 2:
        raise ValueError(
            "`data` folder must hold a folder for each of two or more classes. "
            f"Received: {path!r} with {len(names)}."
        )
    if strange := sorted(set(names) - set(names if known is None else known)):
        raise ValueError(
            f"`data` test classes must occur in train. Received: {path!r} with "
            f"{strange[0]!r}."
        )
    files: Files = []
    for name in names:
        own = listed(os.path.join(path, name), endings, skipped)
        if not own:
            raise ValueError(
                f"`data` folder must hold files of every class. Received: {path!r} without "
                f"any of {name!r}."
            )
        files += [(file, (known or tuple(names)).index(name)) for file in own]
    return tuple(names), files


def listed(path: str, endings: tuple[str, ...], skipped: list[str]) -> list[str]:
    """Paths of a folder's files of some endings, in order; others are told of."""
    found: list[str] = []
    other: list[str] = []
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda one: one.name):
            if entry.is_dir() or entry.name.startswith("."):
                continue
            right = entry.name.lower().endswith(endings)
            (found if right else other).append(entry.path)
    if other and found:
        some = f" and {len(other) - 1} more" if len(other) > 1 else ""
        skipped.append(
            f"{os.path.join(os.path.basename(path), os.path.basename(other[0]))}{some} "
            f"skipped: no file of {', '.join(endings[:6])}"
        )
    for name in found:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"`data` files must have names in UTF-8. Received: {name!r}."
            ) from error
    return found


def kinds_of(path: str, groups: dict[str, tuple[str, ...]]) -> str | None:
    """Which kind of file a folder holds most of, down to three levels.

    Args:
        path: The folder.
        groups: Kind -> its endings.

    Returns:
        A key of `groups`; None where there is no such file.
    """
    counts = dict.fromkeys(groups, 0)
    for folder, names, found in os.walk(path):
        if os.path.relpath(folder, path).count(os.sep) >= 2:
            names.clear()
        names[:] = [n for n in names if not n.startswith((".", "__"))]
        for name in found:
            for kind, endings in groups.items():
                counts[kind] += not name.startswith(".") and name.lower().endswith(
                    endings
                )
    best = max(counts, key=lambda kind: counts[kind])
    return best if counts[best] else None
