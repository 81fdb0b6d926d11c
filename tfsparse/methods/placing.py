"""Copies of a model with factors on its units, each in front of the non-linearity."""

from __future__ import annotations

import logging

_LOG = logging.getLogger("tfsparse")


def place(model, placed, configure=None, swap=None, before=None):
    """A copy of `model` with factors on units, each in front of the non-linearity.

    Args:
        model: A built Functional or Sequential model; it is not changed.
        placed: `(layer name, call index)` -> list of `(PerUnit layer, Site)`; an index of
            None stands for every call.
        configure, swap, before: As of `graph.rebuild.graft`.

    Returns:
        A new model; an activation behind a factor is split off the layer in front.
    """
    import keras

    known = {layer.name: layer for layer in model.layers}
    split = {
        name: keras.activations.serialize(known[name].activation)
        for name, _ in placed
        if name in known and _has_activation(known[name])
    }

    def configured(layer, config):
        if layer.name in split:
            config["activation"] = "linear"
        return configure(layer, config) if configure else config

    def after(name, index, outputs):
        factors = placed.get((name, index), placed.get((name, None), []))
        for number, (factor, site) in enumerate(factors):
            kwargs = {}
            if site.units is not None:
                kwargs["units"] = site.units
            if number == len(factors) - 1 and name in split:
                kwargs["activation"] = split[name]
            outputs = factor(outputs, **kwargs)
        if not factors and name in split:  # a shared layer's other call
            outputs = keras.layers.Activation(split[name])(outputs)
        return outputs

    from tfsparse.graph import rebuild

    return rebuild.graft(model, configured, after, before, swap)


def at_sites(model, groups, make) -> dict[tuple[str, int], list]:
    """What `place` needs for one factor a group, at every place that ends its units.

    Args:
        model: The model that the groups were found in.
        groups: From `find_groups`; frozen ones, and those of one unit, get none.
        make: `(group, its number) -> PerUnit layer`.

    Raises:
        ValueError: No group can have a factor, or channels come first.
    """
    placed: dict[tuple[str, int], list] = {}
    first = {
        layer.name
        for layer in model.layers
        if getattr(layer, "data_format", None) == "channels_first"
    }
    without = []
    for number, group in enumerate(groups):
        if group.frozen or group.size < 2 or not group.sites:
            without += [] if group.frozen or group.size < 2 else [group.name]
            continue
        if names := sorted(first & {site.layer for site in group.sites}):
            raise ValueError(
                "`model` must hold its channels last: factors multiply the last axis. "
                f"Received: data_format='channels_first' of {names}."
            )
        factor = make(group, number)
        for site in group.sites:
            placed.setdefault((site.layer, site.call), []).append((factor, site))
    if not placed:
        reasons = "; ".join(f"{g.name}: {_why_none(g)}" for g in groups)
        reasons = reasons or "it has none"
        raise ValueError(
            "`model` must have a group of units that can be removed. Received: "
            f"{model.name!r} without one ({reasons})."
        )
    if without:
        _LOG.warning(
            "No penalty on %s: there is no place in front of a layer for factors. A target "
            "may still take their units, by rank.",
            ", ".join(without),
        )
    return placed


def _why_none(group) -> str:
    """Why a group can have no factor."""
    if group.frozen:
        return group.frozen
    return "one unit" if group.size < 2 else "no place in front of a layer for factors"


def layer_name(group, suffix: str) -> str:
    """A layer's name for what stands on the units of a group."""
    return group.name.replace(":", "_").replace("/", "_") + suffix


def _has_activation(layer) -> bool:
    import keras

    activation = getattr(layer, "activation", None)
    return activation not in (None, keras.activations.linear) and not isinstance(
        layer, keras.layers.Activation
    )
