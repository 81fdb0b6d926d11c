"""Seconds from the command to the first epoch on MNIST, preflight included, beside a revision.

    python benchmarks/first_epoch.py --before=165cfdf --rounds=7

Both revisions start configs/mnist.flags in turn, in a process of their own, which ends as the
first epoch would begin. Writes benchmarks/results/first_epoch.json: medians over the rounds,
and the median of the differences of the pairs. Wanted: at most 3 s more than before there was
a preflight.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from tfsparse import files

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "first_epoch.json"

CODE = """
import importlib.util, os, sys, time

def first(*arguments, **more):
    print(time.time() - float(os.environ["STARTED"]), flush=True)
    os._exit(0)

class Hook:  # nothing may be loaded earlier than the main job loads it
    def find_spec(self, name, path=None, target=None):
        if name != "tfsparse.engine.context":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        def loaded(module):
            load(module)
            module.RunContext.fit_epoch = first
        spec.loader.exec_module = loaded
        return spec

sys.meta_path.insert(0, Hook())
from tfsparse import train
train.main(["train", *sys.argv[1:]])
"""


def seconds(root: str, *flags: str) -> float:
    """From the start of the process until its first epoch begins."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "PYTHONPATH": root,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "STARTED": repr(time.time()),
        }
        done = subprocess.run(
            [sys.executable, "-c", CODE, "--flagfile=configs/mnist.flags",
             f"--workdir={folder}/run", *flags],
            cwd=root, env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
    return float(done.stdout.strip().splitlines()[-1])


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", default="165cfdf")
    parser.add_argument("--rounds", type=int, default=7)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        old = os.path.join(folder, "before")
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", "-q", old, chosen.before], check=True)
        try:
            for root in (old, str(ROOT)):  # files in memory, bytecode written
                seconds(root)
            pairs = []
            for _ in range(chosen.rounds):
                row = {
                    "before": seconds(old),
                    "now": seconds(str(ROOT)),
                    "without_preflight": seconds(str(ROOT), "--preflight=false"),
                }
                pairs.append({name: round(value, 2) for name, value in row.items()})
                print(pairs[-1])
        finally:
            subprocess.run([*git, "remove", "--force", old], check=True)
    medians = {name: statistics.median(p[name] for p in pairs) for name in pairs[0]}
    added = statistics.median(p["now"] - p["before"] for p in pairs)
    result = {
        "before": chosen.before,
        "rounds": pairs,
        "median_seconds": medians,
        "median_added_seconds": round(added, 2),
    }
    files.write_json(RESULTS, result)
    print(result["median_seconds"], result["median_added_seconds"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
