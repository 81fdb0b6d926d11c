"""Removes the dead units of a network, exactly."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tfsparse import options
from tfsparse.cli import command

USAGE = """Strips the dead units of a .keras model and writes the smaller one.

  tfsparse strip model.keras small.keras --tolerance=1e-6"""


@options.record
class StripSettings(options.Options):
    """What counts as dead."""

    part = "What is dead"

    tolerance: float = options.field(
        0.0, "Largest norm of a unit's weights that counts as zero.", low=0
    )


def main(arguments: Sequence[str]) -> int:
    """The subcommand."""
    return command.run(arguments, USAGE, ("model", "small"), (StripSettings,), work)


def work(path: str, small_path: str, settings: StripSettings) -> dict:
    """Strips the model at `path` and writes the smaller one."""
    import tfsparse
    from tfsparse import files, zoo

    model = zoo.load(path)
    small = tfsparse.strip(model, tolerance=settings.tolerance)
    with files.appears_whole(small_path) as temporary:
        small.save(temporary)
    before, after = tfsparse.measure(model), tfsparse.measure(small)
    for group in tfsparse.find_groups(small):
        frozen = f", {group.frozen}" if group.frozen else ""
        command.say(f"{group.name}: {group.size} units{frozen}")
    command.say(
        f"parameters {before.params:,} -> {after.params:,}, "
        f"MACs {before.macs:,} -> {after.macs:,}"
    )
    return {
        "model": small_path,
        "before": dataclasses.asdict(before),
        "after": dataclasses.asdict(after),
        "groups": {group.name: group.size for group in tfsparse.find_groups(small)},
    }
