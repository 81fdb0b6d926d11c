"""Prunes a trained .keras model to a target and writes the smaller one.

python tools/prune.py model.keras small.keras --target macs=0.5 --criterion l2

With --data and --epochs the model is fine-tuned after each of --steps removals.
"""

from __future__ import annotations

import argparse
import sys

import keras

import tfsparse
from tfsparse import data, files, gradients, records, zoo


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
    parser.add_argument("--scope", default="layer")
    parser.add_argument("--round_to", type=int, default=1)
    parser.add_argument("--minimum", type=int, default=1)
    parser.add_argument("--ignore", action="append", default=[], metavar="PATTERN")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--data", help=".npz with arrays x and y, to judge units and to fine-tune"
    )
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=0, help="after each step")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--loss", help="a Keras loss; by default cross-entropy")
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
        samples = data.samples(given.data) if given.data else None
        if given.epochs < 0 or given.batch_size < 1 or not given.learning_rate > 0:
            raise ValueError(
                "`--epochs` must be at least 0, `--batch_size` 1 and `--learning_rate` "
                f"above 0. Received: {given.epochs}, {given.batch_size}, "
                f"{given.learning_rate}."
            )
        if given.epochs and samples is None:
            raise ValueError("`--data` must be given with --epochs. Received: none.")
        loss = (
            keras.losses.get(given.loss)
            if given.loss
            else gradients.cross_entropy(model)
        )

        def fine_tune(small) -> None:
            small.compile(keras.optimizers.Adam(given.learning_rate), loss)
            small.fit(*samples, given.batch_size, given.epochs, verbose=0)

        small, report = tfsparse.prune(
            model,
            targets(given.target),
            samples,
            fine_tune if given.epochs else None,
            criterion=given.criterion,
            scope=given.scope,
            steps=given.steps,
            round_to=given.round_to,
            minimum=given.minimum,
            ignore=given.ignore,
            loss=loss,
            seed=given.seed,
        )
        with files.appears_whole(given.small) as temporary:
            small.save(temporary)
    except (ValueError, OSError, records.StripError) as error:
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
