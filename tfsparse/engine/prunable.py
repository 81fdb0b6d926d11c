"""Which groups a method may work on: those whose weights are trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tfsparse import records
from tfsparse.graph import find_groups, trace

NOT_TRAINED = "its layers are not trainable, and stay as they are"


def prunable(model, kinds: Sequence[str]) -> tuple[records.UnitGroup, ...]:
    """Groups of a model that is trained; those of layers that are not trained are frozen.

    A unit is written by its producers, a feature read by its consumers: where no weight of
    these is trained (a base that somebody froze), the group stays whole.

    Args:
        model: A model, running or not.
        kinds: As of `find_groups`.
    """
    groups = find_groups(model, tuple(kinds))
    variables = trace.read(model).variables
    return tuple(
        group
        if group.frozen or _trained(group, variables)
        else dataclasses.replace(group, frozen=NOT_TRAINED)
        for group in groups
    )


def _trained(group, variables) -> bool:
    """Whether some weight that decides about the group is trained, or there is none."""
    role = records.CONSUMER if group.kind == "feature" else records.PRODUCER
    own = [m.path for m in group.members if m.role == role or group.kind == "branch"]
    return not own or any(variables[path].trainable for path in own)
