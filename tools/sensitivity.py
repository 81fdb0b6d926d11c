"""Shows what a trained .keras model loses when each of its groups alone is pruned.

python tools/sensitivity.py model.keras plot.png --data validation.npz

Accuracy is that of the data given, classes as whole numbers. Writes the plot, and its
rows beside it as .json.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

import tfsparse
from tfsparse import data, files, gradients, records, zoo
from tfsparse.deploy import interpreters
from tfsparse.report import plots


def arguments(argv: list[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("plot", help="a .png, .svg or .pdf")
    parser.add_argument("--data", required=True, help=".npz with arrays x and y")
    parser.add_argument("--criterion", default="l2")
    parser.add_argument(
        "--remains", type=float, nargs="+", default=[0.75, 0.5, 0.25], metavar="SHARE"
    )
    parser.add_argument("--ignore", action="append", default=[], metavar="PATTERN")
    return parser.parse_args(argv)


def main() -> int:
    """The program."""
    given = arguments(sys.argv[1:])
    try:
        model = zoo.load(given.model)
        x, y = data.samples(given.data)

        def accuracy(small) -> float:
            return float((interpreters.predict(small, x).argmax(-1) == y).mean())

        rows = tfsparse.sensitivity(
            model,
            accuracy,
            given.remains,
            criterion=given.criterion,
            data=(x, y),
            loss=gradients.cross_entropy(model),
            ignore=given.ignore,
        )
        figure = plots.sensitivity(rows, "accuracy")
        with files.appears_whole(given.plot) as temporary:
            figure.savefig(temporary, dpi=150)
        files.write_json(str(pathlib.Path(given.plot).with_suffix(".json")), rows)
    except (ValueError, OSError, records.StripError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    print(f"whole: {rows[0]['value']:.2%}")
    for row in rows[1:]:
        print(f"{row['group']}: {row['kept']} of {row['size']}: {row['value']:.2%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
