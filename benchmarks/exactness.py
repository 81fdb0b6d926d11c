"""Strip and lower change nothing: measured on every conformance model and the zoo.

For each model, weights and BatchNorm statistics randomised: strip against mask with half
of the units dropped; lower against the model with switches (both forms, a third of them
off); strip of the lowered model against the same. Relative to the largest output.

    python benchmarks/exactness.py

Writes benchmarks/results/exactness.json.
"""

from __future__ import annotations

import os
import sys

import keras
import numpy as np

import tfsparse
from tfsparse import deploy, files, zoo
from tfsparse.deploy import probe
from tfsparse.engine.telling import environment
from tfsparse.layers import Filter

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from tests.conformance import models  # noqa: E402

RESULTS = os.path.join(os.path.dirname(__file__), "results", "exactness.json")


def relative(model, other, inputs) -> float:
    """Largest difference of two models' outputs over the largest magnitude."""
    pairs = zip(probe.run(model, inputs), probe.run(other, inputs), strict=True)
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs)


def with_switches(model, form: str):
    """The model with random switches, a third of them off; None if it takes none."""
    method = tfsparse.ShrinkNets(form=form)
    try:
        sparse = method.prepare(model, tfsparse.find_groups(model))
    except ValueError:
        return None
    rng = np.random.default_rng(0)
    for layer in sparse.layers:
        if isinstance(layer, Filter):
            off = rng.permutation(layer.units) < layer.units // 3
            layer.switch.assign(np.where(off, -0.7, rng.uniform(0.4, 1.4, layer.units)))
            if form == "signed":
                layer.alive.assign((~off).astype("float32"))
                layer.last.assign(layer.switch)
    return sparse


def measure(name: str, model) -> dict:
    """All differences of one model."""
    model = models.randomise(model, seed=1)
    inputs = probe.random_inputs(model, np.random.default_rng(0), samples=8)
    free = [g for g in tfsparse.find_groups(model) if not g.frozen and g.size > 1]
    keep = {g.name: np.arange(g.size) % 2 == 0 for g in free}
    masked, small = tfsparse.mask(model, keep), tfsparse.strip(model, keep)
    row = {
        "model": name,
        "params": tfsparse.measure(model).params,
        "params_stripped": tfsparse.measure(small).params,
        "strip": relative(masked, small, inputs),
        "mask_matters": relative(model, masked, inputs),
    }
    for form in ("relu", "signed"):
        sparse = with_switches(model, form)
        if sparse is not None:
            lowered = deploy.lower(sparse)
            row[f"lower_{form}"] = relative(sparse, lowered, inputs)
            row[f"lower_strip_{form}"] = relative(
                sparse, tfsparse.strip(lowered), inputs
            )
    return row


def main() -> None:
    """The program."""
    cases = {name: case.build for name, case in models.TABLE.items()}
    for name in zoo.MODELS:
        cases[f"zoo: {name}"] = lambda name=name: zoo.build(name, (32, 32, 3), 10, 0.5)
    rows = []
    for name, build in cases.items():
        keras.utils.clear_session()
        keras.utils.set_random_seed(0)
        rows.append(measure(name, build()))
        print(rows[-1], flush=True)
    keys = (
        "strip",
        "lower_relu",
        "lower_signed",
        "lower_strip_relu",
        "lower_strip_signed",
    )
    document = {
        "command": "python benchmarks/exactness.py",
        "worst": max(row[key] for row in rows for key in keys if key in row),
        "environment": environment(),
        "rows": rows,
    }
    files.write_json(RESULTS, document)
    print("worst", document["worst"])


if __name__ == "__main__":
    main()
