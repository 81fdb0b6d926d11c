"""Small changes of a configuration: the sampler's way from what is known to what is next."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tfsparse.search import space as spaces
from tfsparse.search.space import Configuration, Space

MOST = 3
"""Morphs of one child at most; how many is uniform from 1 on."""

TRIES = 1000
"""So often a morph is drawn at most; of a space of one configuration none applies."""

NEW_FRACTION = 0.05
"""Of the weights, what a branch that comes to be begins with."""

Morph = Callable[[Space, Configuration, np.random.Generator], Configuration | None]
"""`(space, configuration, rng) -> changed values`; None where it does not apply."""


def _shifted(name: str, step) -> Morph:
    """A number moved by plus or minus a step, to the side that is left where one ends."""

    def morph(space: Space, values: Configuration, rng) -> Configuration | None:
        if name not in values:
            return None
        own = space.ranges[name]
        sides = [
            moved
            for sign in (-1, 1)
            if (moved := spaces.clipped(own, values[name] + sign * step))
            != values[name]
        ]
        if not sides:
            return None
        return {name: sides[int(rng.integers(len(sides)))]}

    return morph


def _switched(name: str, also: Mapping[bool, Configuration] | None = None) -> Morph:
    """True for False, and the other way round."""

    def morph(space: Space, values: Configuration, rng) -> Configuration | None:
        if name not in values:
            return None
        return {name: not values[name], **(also or {}).get(not values[name], {})}

    return morph


def _redraw(space: Space, values: Configuration, name: str, rng):
    """Another value of an active parameter, uniform over the others."""
    own = space.ranges[name]
    others = spaces.options_of(own)
    if others is None and (steps := spaces.grid(own)) is not None:
        others = [spaces.clipped(own, step) for step in steps]
    if others is None:
        return {name: spaces.drawn(own, rng)}
    others = [other for other in others if other != values[name]]
    return {name: others[int(rng.integers(len(others)))]} if others else None


def _redrawn(prefix: str) -> Morph:
    """Another value of one active parameter whose name begins so, any of them alike."""

    def morph(space: Space, values: Configuration, rng) -> Configuration | None:
        names = sorted(name for name in values if name.startswith(prefix))
        if not names:
            return None
        return _redraw(space, values, names[int(rng.integers(len(names)))], rng)

    return morph


def _blocks(space: Space, values: Configuration, rng) -> Configuration | None:
    found = _shifted("num-conv-blocks", 1)(space, values, rng)
    if found and found["num-conv-blocks"] > values["num-conv-blocks"]:
        found[f"num-conv-layers-block-{found['num-conv-blocks']}"] = 1
    return found


def _layers(space: Space, values: Configuration, rng) -> Configuration | None:
    if "num-conv-blocks" not in values:
        return None
    block = 1 + int(rng.integers(values["num-conv-blocks"]))
    return _shifted(f"num-conv-layers-block-{block}", 1)(space, values, rng)


def _threshold(space: Space, values: Configuration, rng) -> Configuration | None:
    names = sorted(name for name in values if name.startswith("pruning-thresholds-"))
    if not names:
        return None
    return _shifted(names[int(rng.integers(len(names)))], 0.5)(space, values, rng)


def _fractions(space: Space, values: Configuration, rng) -> Configuration | None:
    found: Configuration = {}
    for branch in spaces.FRACTIONS:
        moved = _shifted(f"weight-fraction-{branch}", 0.05)(space, values, rng)
        found |= moved or {}
    return found or None


MORPHS: dict[str, Morph] = {
    "num-fc-layers": _shifted("num-fc-layers", 1),
    "num-conv-blocks": _blocks,
    "layer-type": _redrawn("layer-type-"),
    "num-conv-filters": _redrawn("num-filters-"),
    "kernel-size": _redrawn("kernel-size-"),
    "downsampling-rate": _redrawn("downsample-block-"),
    "batch-norm": _switched("batch-norm"),
    "residual-connections": _switched("residual-connections"),
    "left-branch": _switched(
        "left-branch", {True: {"weight-fraction-left-branch": NEW_FRACTION}}
    ),
    "right-branch": _switched(
        "right-branch", {True: {"weight-fraction-right-branch": NEW_FRACTION}}
    ),
    "total-fc-layer-weights": _shifted("total-fc-layer-weights", 5),
    "merge-type": _redrawn("merge-type"),
    "threshold": _threshold,
    "weight-fraction": _fractions,
    "alpha": _shifted("alpha", 0.1),
    "num-conv-layers": _layers,
}
"""Name -> change, as table 8 has them."""


def of_one_parameter(space: Space) -> dict[str, Morph]:
    """Morphs of a space of a user's own: each redraws one of its parameters."""

    def of(name: str) -> Morph:
        def morph(space: Space, values: Configuration, rng) -> Configuration | None:
            return _redraw(space, values, name, rng) if name in values else None

        return morph

    return {name: of(name) for name in space.ranges}


def apply(
    name: str,
    space: Space,
    values: Mapping[str, object],
    rng: np.random.Generator,
    morphs: Mapping[str, Morph] = MORPHS,
) -> Configuration | None:
    """One morph of a configuration.

    Args:
        name: Of the morph.
        space: What configurations are of.
        values: The configuration; it is not changed.
        rng: Draws which layer, which value, and what a new layer is like.
        morphs: Name -> change.

    Returns:
        A whole configuration, what came to be active drawn uniformly; None where the
        morph does not apply.

    Reference: SpArSe, table 8.
    """
    changed = morphs[name](space, dict(values), rng)
    if changed is None:
        return None
    return space.completed({**values, **changed}, rng)


def child(
    space: Space,
    values: Mapping[str, object],
    rng: np.random.Generator,
    morphs: Mapping[str, Morph] = MORPHS,
) -> tuple[Configuration, tuple[str, ...]]:
    """A configuration near another: one or more morphs of it, chosen uniformly.

    Args:
        space, values, rng, morphs: As for `apply`.

    Returns:
        The child, which differs where anything can, and the names of its morphs.

    Example:
        >>> near, how = child(space, space.sample(rng), rng)

    Reference: SpArSe, appendix C.
    """
    found: Configuration = dict(values)
    done: list[str] = []
    wanted = 1 + int(rng.integers(MOST))
    for _ in range(TRIES):
        if len(done) >= wanted and found != values:
            break
        names = list(morphs)
        name = names[int(rng.integers(len(names)))]
        changed = apply(name, space, found, rng, morphs)
        if changed is not None:
            found = changed
            done.append(name)
    return found, tuple(done)
