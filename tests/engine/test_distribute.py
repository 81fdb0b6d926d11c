"""Two replicas shrink like one: on two logical CPUs, in a process of their own."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

SCRIPT = """
import json, sys
import tensorflow as tf
replicas, folder, more = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
from tfsparse import train
from tfsparse.engine import context, shrinking
shrinking.RETRACE_MACS = 0  # remove at every chance
if replicas > 1:
    context.strategy_of = lambda name: tf.distribute.MirroredStrategy(
        [f"CPU:{i}" for i in range(replicas)])
code = train.main(["train", "--data=digits", "--model=mlp", "--hidden=24,16",
    "--strength=0.02", "--gamma=0.9", "--epochs=5", "--shrink_epochs=4",
    "--fine_tune_epochs=1", *more, "--batch_size=60", "--learning_rate=0.01",
    "--strategy=mirrored" if replicas > 1 else "--strategy=none",
    "--formats=tflite_int8", "--tensorboard=false", f"--workdir={folder}"])
assert code == 0, code
print(json.dumps(train.files.read_json(folder + "/report.json")))
"""


def run(tmp_path, replicas, more):
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT)]
    result = subprocess.run(
        [*command, str(replicas), str(tmp_path / f"run{replicas}"), *more],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.strip().splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [["--form=signed"], ["--form=relu"], ["--dense_epochs=2", "--distill=0.7"]],
    ids=["signed", "relu", "distill"],
)
def test_two_replicas_follow_the_run_of_one(tmp_path, more):
    one, two = run(tmp_path, 1, more), run(tmp_path, 2, more)
    a, b = one["method"]["history"], two["method"]["history"]
    for stage in ("history", "fine_tune_history"):
        losses = [[e["loss"] for e in r["method"][stage]] for r in (one, two)]
        np.testing.assert_allclose(*losses, rtol=2e-3)
    assert [e["live"] for e in a] == [e["live"] for e in b]
    assert [r["removed"] for r in one["method"]["removals"]] == [
        r["removed"] for r in two["method"]["removals"]
    ]
    assert one["method"]["removals"]
    assert one["stages"][-1]["params"] == two["stages"][-1]["params"]
