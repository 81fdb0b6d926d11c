"""Strips the dead units of a .keras model and writes the smaller one.

python tools/strip.py model.keras small.keras [tolerance]
"""

from __future__ import annotations

import sys

import tfsparse
from tfsparse import files, records, zoo


def main() -> int:
    """The program."""
    if len(sys.argv) not in (3, 4):
        sys.stderr.write(f"usage: {sys.argv[0]} MODEL.keras SMALL.keras [TOLERANCE]\n")
        return 2
    try:
        model = zoo.load(sys.argv[1])
        tolerance = float(sys.argv[3]) if len(sys.argv) == 4 else 0.0
        small = tfsparse.strip(model, tolerance=tolerance)
        with files.appears_whole(sys.argv[2]) as temporary:
            small.save(temporary)
    except (ValueError, OSError, records.StripError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    before, after = tfsparse.measure(model), tfsparse.measure(small)
    for group in tfsparse.find_groups(small):
        print(
            f"{group.name}: {group.size} units{f', {group.frozen}' if group.frozen else ''}"
        )
    print(
        f"parameters {before.params:,} -> {after.params:,}, MACs {before.macs:,} -> {after.macs:,}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
