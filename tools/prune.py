"""Prunes a trained .keras model to a target and writes the smaller one.

python tools/prune.py model.keras small.keras --target macs=0.5 --criterion l2
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

import tfsparse
from tfsparse import files, records, zoo


def arguments(argv: list[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("small")
    parser.add_argument(
        "--target",
        action="append",
        required=True,
        metavar="MEASURE=REMAINS",
        help="macs, params, weight_bytes or units; a fraction up to 1, or a number",
    )
    parser.add_argument("--criterion", default="l2")
    parser.add_argument("--scope", default="global")
    parser.add_argument("--round_to", type=int, default=1)
    parser.add_argument("--minimum", type=int, default=1)
    parser.add_argument("--ignore", action="append", default=[], metavar="PATTERN")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", help=".npz with arrays x and y (taylor, activation)")
    return parser.parse_args(argv)


def targets(texts: list[str]) -> dict[str, float]:
    """`macs=0.5` -> {"macs": 0.5}."""
    found = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise ValueError(
                f"`--target` must be MEASURE=NUMBER. Received: {text!r}."
            ) from None
    return found


def main() -> int:
    """The program."""
    given = arguments(sys.argv[1:])
    try:
        model = zoo.load(given.model)
        data = None
        if given.data:
            with np.load(given.data, allow_pickle=False) as held:
                data = (held["x"], held["y"])
        small, report = tfsparse.prune(
            model,
            targets(given.target),
            data,
            criterion=given.criterion,
            scope=given.scope,
            round_to=given.round_to,
            minimum=given.minimum,
            ignore=given.ignore,
            seed=given.seed,
        )
        with files.appears_whole(given.small) as temporary:
            small.save(temporary)
    except (ValueError, KeyError, OSError, records.StripError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    for group in report.groups:
        reason = f", {group.reason}" if group.reason else ""
        print(f"{group.name}: {group.kept} of {group.size} units{reason}")
    before, after = report.before, report.after
    print(
        f"parameters {before.params:,} -> {after.params:,}, "
        f"MACs {before.macs:,} -> {after.macs:,}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
