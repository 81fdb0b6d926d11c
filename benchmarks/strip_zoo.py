"""Strips half of the units of every builder of keras.applications, and compares.

    python benchmarks/strip_zoo.py                 # all, a process each; resumable
    python benchmarks/strip_zoo.py MobileNetV2     # one row, in this process

For each builder: groups are found, a random half of the units of every group that can
be pruned is dropped, and the stripped model is compared with the masked one on random
inputs with random BatchNorm statistics; it is saved, loaded and converted to TFLite.
Writes benchmarks/results/strip_zoo.json.
"""

from __future__ import annotations

import inspect
import pathlib
import subprocess
import sys
import tempfile
import time

RESULTS = pathlib.Path(__file__).parent / "results" / "strip_zoo.json"
LIMIT = 1e-5


def builders() -> list[str]:
    """Names of all builders of keras.applications."""
    import keras

    return [
        name
        for name in dir(keras.applications)
        if inspect.isfunction(getattr(keras.applications, name))
    ]


def randomise(model, rng) -> None:
    """Biases, scales and statistics that would betray a wrong index."""
    from tfsparse.deploy import probe, variables
    from tfsparse.graph import trace
    from tfsparse.graph.rebuild import refresh

    for variable in model.variables:
        if len(variable.shape) == 1 and "kernel" not in variable.name:
            low, high = (-0.2, 0.2) if variable.name in ("beta", "bias") else (0.5, 1.5)
            variable.assign(rng.uniform(low, high, variable.shape))
    graph = trace.read(model)
    inputs = probe.random_inputs(graph, rng)
    values, settle = probe.random_statistics(graph, variables.values_of(graph), rng)

    def change(call, given, outputs):
        if outputs is None:
            settle(call, given)
            return given
        return outputs

    probe.replay(graph, values, inputs, graph.outputs, change)
    for path, variable in graph.variables.items():
        variable.assign(values[path])
    for layer in graph.operations:
        refresh(layer)


def row(name: str) -> dict:
    """Everything that the table says about one builder."""
    import keras
    import numpy as np

    import tfsparse
    from tfsparse.deploy import probe

    rng = np.random.default_rng(0)
    build = getattr(keras.applications, name)
    model = build(weights=None, classifier_activation=None)
    if None in model.inputs[0].shape[1:]:  # MobileNetV3 leaves the size open
        model = build((224, 224, 3), weights=None, classifier_activation=None)
    randomise(model, rng)
    started = time.perf_counter()
    groups = tfsparse.find_groups(model)
    find_seconds = time.perf_counter() - started
    free = [group for group in groups if not group.frozen]
    keep = {}
    for group in free:
        keep[group.name] = np.ones(group.size, bool)
        keep[group.name][rng.permutation(group.size)[: group.size // 2]] = False
    started = time.perf_counter()
    small = tfsparse.strip(model, keep)
    strip_seconds = time.perf_counter() - started
    inputs = probe.random_inputs(model, rng)
    (expected,) = probe.run(tfsparse.mask(model, keep), inputs)
    (received,) = probe.run(small, inputs)
    (whole,) = probe.run(model, inputs)
    scale = float(np.abs(expected).max())
    larger = max(scale, float(np.abs(whole).max()))
    paths = {member.path for group in free for member in group.members}
    sizes = {v.path: int(np.prod(v.shape)) for v in model.variables}
    reasons: dict[str, int] = {}
    for group in groups:
        if group.frozen:
            reasons[group.frozen] = reasons.get(group.frozen, 0) + 1
    with tempfile.TemporaryDirectory() as folder:
        artifacts = tfsparse.export(
            small, folder, None, formats=("keras", "tflite_float")
        )
        loaded = keras.saving.load_model(artifacts[0].path)
        (again,) = probe.run(loaded, inputs)
        bytes_of = {artifact.format: artifact.file_bytes for artifact in artifacts}
    return {
        "model": name,
        "groups": len(groups),
        "prunable": len(free),
        "prunable_params": sum(sizes[p] for p in paths if p in sizes)
        / sum(sizes.values()),
        "params": model.count_params(),
        "params_after": small.count_params(),
        "macs": tfsparse.measure(model).macs,
        "macs_after": tfsparse.measure(small).macs,
        "difference": float(np.abs(expected - received).max()) / scale,
        "mask_matters": float(np.abs(expected - whole).max()) / larger,
        "reload_difference": float(np.abs(again - received).max()) / scale,
        "file_bytes": bytes_of,
        "find_seconds": find_seconds,
        "strip_seconds": strip_seconds,
        "frozen": reasons,
    }


def main(arguments: list[str]) -> int:
    """Runs the rows that are missing, each in a process of its own."""
    from tfsparse import files

    if arguments:
        import json

        for name in arguments:
            print(json.dumps(row(name)))
        return 0
    import json

    done = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    have = {entry["model"] for entry in done if "error" not in entry}
    done = [entry for entry in done if "error" not in entry]
    names = builders()
    for name in names:
        if name in have:
            continue
        run = subprocess.run(
            [sys.executable, __file__, name], capture_output=True, text=True
        )
        last = run.stdout.strip().splitlines()[-1:] or [""]
        try:
            entry = json.loads(last[0])
        except ValueError:
            error = (run.stderr.strip().splitlines() or ["no output"])[-1]
            entry = {"model": name, "error": error}
        done.append(entry)
        done.sort(key=lambda e: names.index(e["model"]))
        files.write_json(RESULTS, {"rows": done, "builders": len(names)})
        print(name, entry.get("difference", entry.get("error")), flush=True)
    exact = [e for e in done if e.get("difference", 1) <= LIMIT < e["mask_matters"]]
    print(f"{len(exact)} of {len(names)} exact")
    return 0 if len(exact) == len(names) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
