"""What a finished run is worth: every stage measured on the test split, then the report."""

from __future__ import annotations

import dataclasses
import functools
import os
import platform
import time
from importlib import metadata

import keras
import numpy as np

from tfsparse import deploy, flags, report
from tfsparse.deploy import interpreters
from tfsparse.graph import cost, find_groups, measure

PARITY_SAMPLES = 1000
PART_SAMPLES = 1000
"""Samples in memory at a time; less than 1 GB at 224 x 224 x 3."""


def as_floats(x) -> np.ndarray:
    """Pixels as models take them: float32, uint8 divided by 255; read from disk if there."""
    x = np.asarray(x)
    if x.dtype != np.uint8:
        return x
    pixels = x.astype(np.float32)
    pixels /= 255.0  # in place: data may be large
    return pixels


def tell(job, dense, trained, sparse, stripped, decision, tuned, artifacts) -> dict:
    """Measures all stages on the test split and writes the report.

    Args:
        job: The run: `config`, `dataset`, `store`, `progress`.
        dense: The untouched model.
        trained: Checkpoint of the trained dense model under "dense", if it was wanted.
        sparse, tuned: Checkpoints of these stages.
        stripped: The stripped model.
        decision: `reasons` (group name -> why dead units stayed), and the method's trace.
        artifacts: What was exported.

    Returns:
        What is in `report.json`.
    """
    x, y = job.dataset.x_test, job.dataset.y_test
    job.progress.say(f"Evaluating on {len(y):,} test samples")
    stages = []
    if "dense" in trained:
        stages.append(
            _model_stage("dense", trained["dense"].model, x, y, trained["dense"])
        )
    stages.append(_model_stage("sparse", sparse.model, x, y, sparse))
    stages.append(_model_stage("stripped", stripped, x, y))
    stages.append(_model_stage("finetuned", tuned.model, x, y, tuned))
    by_format = {artifact.format: artifact for artifact in artifacts}
    if "keras" in by_format:
        stages[-1]["file"] = os.path.basename(by_format["keras"].path)
        stages[-1]["file_bytes"] = by_format["keras"].file_bytes
    parity = deploy.verify(tuned.model, artifacts, as_floats(x[:PARITY_SAMPLES]))
    arena = {row.artifact: row.arena_bytes for row in parity}
    final = stages[-1]
    for name in ("tflite_float", "tflite_int8"):
        if name in by_format:
            started = time.perf_counter()
            answer = functools.partial(_answer, by_format[name])
            outputs = _by_parts(x, answer)
            stages.append(
                _file_stage(name, final, by_format[name], outputs, y, started)
            )
    if arena.get("mcu"):
        started = time.perf_counter()
        path = by_format["tflite_int8"].path
        outputs = _by_parts(x, lambda part: interpreters.run_micro(path, part)[0])
        row = _file_stage("mcu", final, by_format["tflite_int8"], outputs, y, started)
        stages.append({**row, "arena_bytes": arena["mcu"]})
    document = {
        "config": flags.as_json(job.config),
        "environment": environment(),
        "seed": job.config.seed,
        "method": {
            "name": job.config.method,
            "history": sparse.history,
            "fine_tune_history": tuned.history,
            "dense_history": trained["dense"].history if "dense" in trained else [],
            "trace": decision.get("trace", {}),
            **sparse.state,
            **tuned.state,
        },
        "dense_cost": dataclasses.asdict(measure(dense)),
        "stages": stages,
        "groups": group_rows(dense, stripped, decision["reasons"], job.config),
        "layers": {
            "dense": cost.layer_costs(dense),
            "final": cost.layer_costs(tuned.model),
        },
        "encodings": deploy.stored_bytes(tuned.model),
        "parity": [dataclasses.asdict(row) for row in parity],
    }
    report.write(document, job.config.workdir)
    job.progress.table(document["stages"])
    job.progress.say(f"The report is {job.store.path('report.html')}")
    return document


def accuracy(model, x, y) -> float:
    """Share of the samples, as they lie in a `Dataset`, that a model gets right."""
    return float(right(model, x, y).mean())


def right(model, x, y) -> np.ndarray:
    """Which of the samples, as they lie in a `Dataset`, a model gets right: `(n,)` bool."""
    outputs = _by_parts(x, lambda part: interpreters.predict(model, part))
    return outputs.argmax(-1) == y


def worse(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether `after` gets fewer of the same samples right than chance explains.

    Of the samples that only one of the two gets right, `won` and `lost` differ by more than
    two standard deviations of a fair coin: lost - won > 2 sqrt(lost + won).

    Args:
        before: Which samples the first model gets right, `(n,)` bool.
        after: The same of the second.

    Example:
        >>> before = np.array([True] * 99 + [False])
        >>> worse(before, np.array([False] + [True] * 98 + [False]))  # one: chance
        False
        >>> worse(before, np.array([False] * 9 + [True] * 90 + [False]))
        True

    Source:
        McNemar, "Note on the sampling error of the difference between correlated
        proportions or percentages", Psychometrika 12 (1947).
    """
    lost = np.count_nonzero(before & ~after)
    won = np.count_nonzero(after & ~before)
    return bool(lost - won > 2 * np.sqrt(lost + won))


def _answer(artifact, x) -> np.ndarray:
    return interpreters.run(artifact, x)[0]


def _by_parts(x, answer) -> np.ndarray:
    """Outputs for all samples, of which only a part is in memory as floats at a time."""
    parts = (x[i : i + PART_SAMPLES] for i in range(0, len(x), PART_SAMPLES))
    return np.concatenate([answer(as_floats(part)) for part in parts])


def _model_stage(name, model, x, y, trained=None) -> dict:
    started = time.perf_counter()
    found = accuracy(model, x, y)
    seconds = sum(entry["seconds"] for entry in trained.history) if trained else 0.0
    counted = measure(model)
    return {
        "name": name,
        "accuracy": found,
        "samples": len(y),
        "params": counted.params,
        "nonzero": counted.nonzero,
        "macs": counted.macs,
        "weight_bytes": counted.weight_bytes,
        "index_bytes": counted.index_bytes,
        "file": None,
        "file_bytes": None,
        "arena_bytes": None,
        "seconds": seconds or time.perf_counter() - started,
    }


def _file_stage(name, final, artifact, outputs, y, started) -> dict:
    return {
        **final,
        "name": name,
        "accuracy": float((outputs.argmax(-1) == y).mean()),
        "samples": len(y),
        "file": os.path.basename(artifact.path),
        "file_bytes": artifact.file_bytes,
        "arena_bytes": None,
        "seconds": time.perf_counter() - started,
    }


def group_rows(dense, stripped, reasons, config) -> list[dict]:
    """Every group of the original model with its fate."""
    kinds = ("unit",)
    if config.method != "none" and "feature" in flags.method_of(config).kinds:
        kinds += ("feature",)
    left, by_place = {}, {}
    for group in find_groups(stripped, kinds):
        left[group.name] = group.size
        by_place |= dict.fromkeys(_places(group), group.size)
    rows = []
    for group in find_groups(dense, kinds):
        # Where the layer that it is named after went, another one names it.
        others = [by_place[place] for place in _places(group) if place in by_place]
        kept = left.get(group.name, others[0] if others else 0)
        reason = group.frozen or reasons.get(group.name)
        if reason is None and not kept:
            reason = "its whole branch went"
        if reason is None and kept == group.size:
            reason = "every unit stayed useful"
            if config.method == "none":
                reason = "no method asked for"
        rows.append(
            {
                "name": group.name,
                "kind": group.kind,
                "size": group.size,
                "kept": kept,
                "reason": reason,
            }
        )
    return rows


def _places(group) -> list[tuple]:
    """Where a group stands, whatever it is called."""
    return [(group.kind, member.path, member.role) for member in group.members]


def environment() -> dict:
    """Versions and machine, so far as they explain a number."""
    packages = (
        "tfsparse",
        "tensorflow",
        "keras",
        "numpy",
        "ai-edge-litert",
        "tflite-micro",
    )
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "python": platform.python_version(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "gpus": len(keras.distribution.list_devices("gpu")),
        **versions,
    }
