"""Halves ResNet-50 with tfsparse and with Torch-Pruning, in turn, and compares the times.

    python benchmarks/strip_against_torch_pruning.py --torch=PYTHON [--rounds=3]

`PYTHON` is the interpreter of an environment with torch 2.13.0 (CPU) and torch-pruning.
Both get the same ResNet-50 (224 x 224 x 3, 1,000 classes, biases in the convolutions) and
leave half of the units of every layer but the last. The clock runs from the model to
the stripped model: dependencies found, units chosen and removed. tfsparse also proves the
result, on a batch through both models; its parts are timed apart. Each round starts a
fresh process for either side, which warms up once and then measures three times.
Writes benchmarks/results/strip_against_torch_pruning.json.
"""

from __future__ import annotations

import json
import pathlib
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__)
RESULTS = HERE.parent / "results" / "strip_against_torch_pruning.json"
REPEATS = 4
THREADS = 2


def ours() -> list[dict]:
    """Seconds of tfsparse, warm-up first."""
    import keras
    import numpy as np

    import tfsparse
    from tfsparse.deploy import probe, removal, shrink, variables

    rows = []
    for _ in range(REPEATS):
        model = keras.applications.ResNet50(weights=None, classifier_activation=None)
        clock = [time.perf_counter()]
        groups = tfsparse.find_groups(model)
        clock.append(time.perf_counter())
        keep = {g.name: np.arange(g.size) % 2 == 0 for g in groups if not g.frozen}
        small = tfsparse.strip(model, keep)
        clock.append(time.perf_counter())
        planned = removal.plan(model, keep)  # the parts of strip, once more
        clock.append(time.perf_counter())
        _, operations = shrink.build(planned)
        clock.append(time.perf_counter())
        values = variables.values_of(planned.graph)
        variables.load(operations, planned.graph, values, planned)
        clock.append(time.perf_counter())
        inputs = probe.random_inputs(model, np.random.default_rng(0))
        clock.append(time.perf_counter())
        probe.run(model, inputs)
        probe.run(small, inputs)
        clock.append(time.perf_counter())
        find, strip, plan, build, load, _, forward = np.diff(clock).tolist()
        rows.append(
            {
                "seconds": find + strip,
                "find_groups": find,
                "strip": strip,
                "of_strip_plan": plan,
                "of_strip_build_by_keras": build,
                "of_strip_load": load,
                "of_strip_proof": strip - plan - build - load,
                "of_proof_two_forward_passes": forward,
                "params": int(sum(np.prod(v.shape) for v in small.trainable_variables)),
            }
        )
    return rows


def theirs() -> list[dict]:
    """Seconds of Torch-Pruning, warm-up first."""
    import torch
    import torch_pruning
    from torch import nn

    class Block(nn.Module):
        """Keras's bottleneck: the stride on the first convolution."""

        def __init__(self, inputs: int, width: int, stride: int):
            super().__init__()
            self.skip = None
            if stride != 1 or inputs != 4 * width:
                self.skip = nn.Sequential(
                    nn.Conv2d(inputs, 4 * width, 1, stride), nn.BatchNorm2d(4 * width)
                )
            self.path = nn.Sequential(
                nn.Conv2d(inputs, width, 1, stride),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=1),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, 4 * width, 1),
                nn.BatchNorm2d(4 * width),
            )

        def forward(self, x):
            return torch.relu(self.path(x) + (x if self.skip is None else self.skip(x)))

    class ResNet50(nn.Module):
        """The layers of keras.applications.ResNet50."""

        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(
                nn.Conv2d(3, 64, 7, 2, 3), nn.BatchNorm2d(64), nn.ReLU()
            )
            self.pool = nn.MaxPool2d(3, 2, 1)
            blocks, inputs = [], 64
            for width, count, stride in (
                (64, 3, 1),
                (128, 4, 2),
                (256, 6, 2),
                (512, 3, 2),
            ):
                for number in range(count):
                    blocks.append(Block(inputs, width, 1 if number else stride))
                    inputs = 4 * width
            self.blocks = nn.Sequential(*blocks)
            self.head = nn.Linear(2048, 1000)

        def forward(self, x):
            return self.head(self.blocks(self.pool(self.stem(x))).mean((2, 3)))

    torch.set_num_threads(THREADS)
    rows = []
    for _ in range(REPEATS):
        model, example = ResNet50().eval(), torch.rand(1, 3, 224, 224)
        started = time.perf_counter()
        pruner = torch_pruning.pruner.MagnitudePruner(
            model,
            example,
            importance=torch_pruning.importance.MagnitudeImportance(p=1),
            pruning_ratio=0.5,
            ignored_layers=[model.head],
        )
        found = time.perf_counter()
        pruner.step()
        ended = time.perf_counter()
        rows.append(
            {
                "seconds": ended - started,
                "dependencies": found - started,
                "choose_and_remove": ended - found,
                "params": sum(p.numel() for p in model.parameters()),
            }
        )
    return rows


def summarise(rounds: list[dict]) -> dict:
    """Medians over all rounds, the warm-ups left out, and their ratio."""
    summary = {}
    for side in ("tfsparse", "torch_pruning"):
        rows = [row for one in rounds for row in one[side][1:]]
        summary[side] = {
            key: statistics.median(r[key] for r in rows) for key in rows[0]
        }
    mine, other = summary["tfsparse"], summary["torch_pruning"]
    if mine["params"] != other["params"]:
        raise SystemExit(f"The models differ. Received: {mine}, {other}.")
    proof = mine["of_strip_proof"]
    summary["ratio"] = mine["seconds"] / other["seconds"]
    summary["ratio_without_proof"] = (mine["seconds"] - proof) / other["seconds"]
    return summary


def main(arguments: list[str]) -> int:
    """Runs both sides in turn."""
    from tfsparse import files

    options = dict(a.lstrip("-").split("=", 1) for a in arguments)
    rounds = []
    for _ in range(int(options.get("rounds", 3))):
        one = {}
        for side, python in (
            ("torch_pruning", options["torch"]),
            ("tfsparse", sys.executable),
        ):
            run = subprocess.run(
                [python, str(HERE), f"side={side}"], capture_output=True, text=True
            )
            if run.returncode:
                raise SystemExit(run.stderr)
            one[side] = json.loads(run.stdout.strip().splitlines()[-1])
        rounds.append(one)
        summary = summarise(rounds)
        files.write_json(RESULTS, {"summary": summary, "rounds": rounds})
        print(json.dumps(summary, indent=1), flush=True)
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["side=tfsparse"]:
        print(json.dumps(ours()))
    elif sys.argv[1:2] == ["side=torch_pruning"]:
        print(json.dumps(theirs()))
    else:
        sys.exit(main(sys.argv[1:]))
