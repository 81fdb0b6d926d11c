"""Prunes a trained ResNet-8 to half its MACs by every criterion, and compares with chance.

    python benchmarks/criteria.py [--seeds=3] [--scope=layer]

For each seed a ResNet-8 is trained on MNIST; then every criterion prunes that model to
half its MACs, and every small model gets the same short training: one epoch of `TUNING`
images, BatchNorm's statistics then taken again. Accuracy is that of the whole test split,
before and after that training. `random` draws `DRAWS` times, and its mean counts. Writes
benchmarks/results/criteria.json, a row at a time; rows done before are kept.
"""

from __future__ import annotations

import pathlib
import statistics
import sys
import tempfile

RESULTS = pathlib.Path(__file__).parent / "results" / "criteria.json"
CRITERIA = ("random", "l1", "l2", "bn_scale", "taylor", "fpgm", "activation")
EPOCHS = 6
BATCH = 128
DRAWS = 5
SAMPLES = 2000
"""Training images that `taylor`, `activation` and BatchNorm look at."""
TUNING = 10000
"""Other training images, for the short training."""


def _compiled(model, learning_rate: float):
    import keras

    model.compile(
        keras.optimizers.Adam(learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,  # on CPUs XLA doubles the time of convolutions
    )
    return model


def _pixels(images):
    return images.astype("float32") / 255.0


def _accuracy(model, data) -> float:
    compiled = _compiled(model, 1e-3)
    return compiled.evaluate(
        _pixels(data.x_test), data.y_test, batch_size=500, verbose=0
    )[1]


def trained(seed: int, data):
    """The seed's ResNet-8, trained once and kept in the temporary folder."""
    import keras

    from tfsparse import zoo

    path = (
        pathlib.Path(tempfile.gettempdir()) / f"tfsparse_criteria_{EPOCHS}_{seed}.keras"
    )
    if not path.exists():
        keras.utils.set_random_seed(seed)
        model = zoo.build("resnet8", data.shape, data.classes)
        schedule = keras.optimizers.schedules.CosineDecay(
            2e-3, EPOCHS * (len(data.x_train) // BATCH)
        )
        _compiled(model, schedule).fit(
            _pixels(data.x_train), data.y_train, BATCH, EPOCHS, verbose=0
        )
        model.save(path)
    return keras.saving.load_model(path)


def row(model, criterion: str, seed: int, draw: int, scope: str, data) -> dict:
    """One pruning of one model."""
    import keras

    import tfsparse
    from tfsparse.deploy.recalibrate import recalibrate

    keras.utils.set_random_seed(seed)
    samples = (_pixels(data.x_train[:SAMPLES]), data.y_train[:SAMPLES])
    small, report = tfsparse.prune(
        model, {"macs": 0.5}, samples, criterion=criterion, scope=scope, seed=draw
    )
    at_once = _accuracy(small, data)
    keras.utils.set_random_seed(seed)
    part = slice(SAMPLES, SAMPLES + TUNING)
    images, labels = _pixels(data.x_train[part]), data.y_train[part]
    _compiled(small, 1e-3).fit(images, labels, BATCH, 1, verbose=0)
    recalibrate(small, samples[0])
    return {
        "seed": seed,
        "criterion": criterion,
        "draw": draw,
        "scope": scope,
        "macs": report.after.macs / report.before.macs,
        "params": report.after.params,
        "accuracy": at_once,
        "tuned": _accuracy(small, data),
    }


def summarise(rows: list[dict]) -> dict:
    """Scope -> criterion -> mean and standard deviation over the seeds."""
    summary: dict = {}
    for scope in sorted({r["scope"] for r in rows}):
        for criterion in CRITERIA:
            mine = [
                r for r in rows if (r["scope"], r["criterion"]) == (scope, criterion)
            ]
            means = {
                key: [
                    statistics.mean(r[key] for r in mine if r["seed"] == seed)
                    for seed in sorted({r["seed"] for r in mine})
                ]
                for key in ("accuracy", "tuned")
            }
            if mine:
                summary.setdefault(scope, {})[criterion] = {
                    key: {
                        "mean": statistics.mean(values),
                        "std": statistics.stdev(values) if len(values) > 1 else 0.0,
                        "seeds": values,
                    }
                    for key, values in means.items()
                }
    return summary


def main(arguments: list[str]) -> int:
    """Fills in the rows that are missing."""
    from tfsparse import data as datasets
    from tfsparse import files

    options = dict(a.lstrip("-").split("=", 1) for a in arguments)
    scope = options.get("scope", "layer")
    held = files.read_json(RESULTS) if RESULTS.exists() else {"rows": [], "models": []}
    rows, models = held["rows"], held["models"]
    have = {(r["seed"], r["criterion"], r["draw"], r["scope"]) for r in rows}
    data = datasets.load("mnist")
    for seed in range(int(options.get("seeds", 3))):
        model = trained(seed, data)
        if seed not in [m["seed"] for m in models]:
            models.append({"seed": seed, "accuracy": _accuracy(model, data)})
        for criterion in CRITERIA:
            for draw in range(DRAWS if criterion == "random" else 1):
                if (seed, criterion, draw, scope) in have:
                    continue
                rows.append(row(model, criterion, seed, draw, scope, data))
                document = {
                    "models": models, "summary": summarise(rows), "rows": rows
                }  # fmt: skip
                files.write_json(RESULTS, document)
                print(rows[-1], flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
