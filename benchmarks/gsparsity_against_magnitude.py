"""GSparsity against magnitude pruning at equal budgets, whole filters and single weights.

    python benchmarks/gsparsity_against_magnitude.py [--nets=lenet5,resnet8] [--seeds=3]
        [--strengths=0.012] [--equal_macs] [--tfmot=PYTHON] [--tfmot_seeds=3]

MNIST. For each seed a dense network is trained, and for each strength the flagfile of the
released model is run. The parameters that are left are the budget of `tfsparse.prune`
(criterion l2, the same share of every group) of the dense network, retrained alike; with
--equal_macs so are the MACs, in a row of their own, since filters of the same share leave
fewer of them; and, with --tfmot, the path of a Python that has tf_keras and
tensorflow-model-optimization, the number of non-zeros that its magnitude pruning leaves.
Told for each: test accuracy of the int8 file, its bytes (as it is, and gzipped) and the
time of one inference on LiteRT. Writes
benchmarks/results/gsparsity_against_magnitude_NET.json; rows done before are kept.
"""

from __future__ import annotations

import argparse
import gzip
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from tfsparse import files

RESULTS = pathlib.Path(__file__).parent / "results"
CONFIGS = RESULTS.parents[1] / "configs"
STRENGTHS = {"lenet5": (0.004, 0.012), "resnet8": (0.002,)}
COMMON = ("--tensorboard=false", "--formats=keras,tflite_int8")
PROGRAM = """
import sys
import numpy as np, tensorflow as tf, tf_keras as k, tensorflow_model_optimization as tfmot
arrays = np.load(sys.argv[1])
model = k.models.model_from_json(open(sys.argv[2]).read())
model.set_weights([arrays[f"w{i}"] for i in range(len(model.weights))])
x, y, share, epochs, rate = (arrays["x"], arrays["y"], float(sys.argv[4]),
                             int(sys.argv[5]), float(sys.argv[6]))
steps = -(-len(x) // 128)
schedule = tfmot.sparsity.keras.PolynomialDecay(
    0.0, 1 - share, 0, steps * epochs // 2, frequency=50)
model = tfmot.sparsity.keras.prune_low_magnitude(model, schedule)
model.compile(k.optimizers.Adam(k.optimizers.schedules.CosineDecay(rate, steps * epochs)),
              k.losses.SparseCategoricalCrossentropy(from_logits=True))
def moved(image, label):
    return tf.image.random_crop(tf.pad(image, [[2, 2], [2, 2], [0, 0]]), image.shape), label
data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), int(sys.argv[7]))
data = data.map(moved, tf.data.AUTOTUNE).batch(128).prefetch(2)
model.fit(data, epochs=epochs, verbose=0,
          callbacks=[tfmot.sparsity.keras.UpdatePruningStep()])
model = tfmot.sparsity.keras.strip_pruning(model)
np.savez(sys.argv[3], *model.get_weights())
"""


def run(*flags: str) -> dict:
    """The report of one run of the main job in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tfsparse.train", *COMMON, *flags]
        found = subprocess.run(
            [*command, f"--workdir={folder}/run"], capture_output=True, text=True
        )
        if found.returncode:
            raise RuntimeError(found.stderr.strip().splitlines()[-1])
        report = files.read_json(f"{folder}/run/report.json")
        report["files"] = {
            name: pathlib.Path(f"{folder}/run/{name}").read_bytes()
            for name in ("model.keras", "model_int8.tflite")
        }
        return report


def row(report: dict, **more) -> dict:
    """What is told of a run."""
    stages = {stage["name"]: stage for stage in report["stages"]}
    content = report["files"]["model_int8.tflite"]
    return {
        **more,
        "accuracy": stages["tflite_int8"]["accuracy"],
        "params": stages["tflite_int8"]["params"],
        "macs": stages["tflite_int8"]["macs"],
        "nonzero": stages["tflite_int8"]["nonzero"],
        "arena_bytes": stages.get("mcu", {}).get("arena_bytes"),
        **of_file(content),
        "kept": {g["name"]: g["kept"] for g in report["groups"]},
    }


def of_file(content: bytes) -> dict:
    """What an int8 file costs."""
    return {
        "file_bytes": len(content),
        "gzip_bytes": len(gzip.compress(content, 9)),
        "microseconds": 1e6 * latency(content),
    }


def latency(content: bytes) -> float:
    """The fastest inference of an int8 file on LiteRT, one thread, within two seconds."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    detail = interpreter.get_input_details()[0]
    interpreter.set_tensor(detail["index"], np.zeros(detail["shape"], detail["dtype"]))
    best, end = float("inf"), time.perf_counter() + 2
    while (started := time.perf_counter()) < end:
        interpreter.invoke()
        best = min(best, time.perf_counter() - started)
    return best


def of(net: str, flag: str) -> str:
    """What the flagfile of a net says."""
    lines = (CONFIGS / f"{net}_gsparsity.flags").read_text().splitlines()
    return next(
        v for k, _, v in (line.partition("=") for line in lines) if k == f"--{flag}"
    )


def dense(net: str, seed: int):
    """A trained network: its row and the path of its file, kept in the temporary folder."""
    folder = pathlib.Path(tempfile.gettempdir()) / "tfsparse_magnitude"
    folder.mkdir(exist_ok=True)
    path, told = folder / f"{net}_{seed}.keras", folder / f"{net}_{seed}.json"
    if not told.exists():
        report = plain(net, net, seed, of(net, "epochs"))
        path.write_bytes(report["files"]["model.keras"])
        files.write_json(str(told), row(report, net=net, seed=seed, kind="dense"))
    return files.read_json(str(told)), str(path)


def plain(net: str, model: str, seed: int, epochs: str) -> dict:
    """Trains a network without a penalty, at the rate at which GSparsity's are retrained."""
    return run(
        f"--flagfile={CONFIGS}/{net}_gsparsity.flags", f"--model={model}", "--method=none",
        f"--epochs={epochs}", f"--settle_learning_rate={of(net, 'fine_tune_learning_rate')}",
        "--fine_tune_epochs=0", "--dense_epochs=0", "--target=", f"--seed={seed}",
    )  # fmt: skip


def magnitude(net: str, seed: int, strength: float, budget: dict, kind: str) -> dict:
    """Filters of the least norm go, the same share of every group."""
    import keras
    import numpy as np

    import tfsparse
    from tfsparse import data

    model = keras.saving.load_model(dense(net, seed)[1])
    images = data.load("mnist")
    some = images.x_train[:2000] / np.float32(255), images.y_train[:2000]
    small, _ = tfsparse.prune(model, budget, some, criterion="l2")
    with tempfile.TemporaryDirectory() as folder:
        small.save(f"{folder}/small.keras")
        report = plain(net, f"{folder}/small.keras", seed, of(net, "fine_tune_epochs"))
    return row(report, net=net, seed=seed, kind=kind, pair=strength)


def gsparsity(net: str, seed: int, strength: float) -> dict:
    """The released flagfile with another seed and strength."""
    report = run(
        f"--flagfile={CONFIGS}/{net}_gsparsity.flags", f"--strength={strength}",
        "--dense_epochs=0", f"--seed={seed}",
    )  # fmt: skip
    return row(report, net=net, seed=seed, kind="gsparsity", pair=strength)


def single_weights(
    net: str, seed: int, strength: float, budget: int, python: str
) -> dict:
    """tensorflow-model-optimization: weights of the least size, gradually to zero."""
    import keras
    import numpy as np

    import tfsparse
    from tfsparse import data
    from tfsparse.deploy import interpreters

    model = keras.saving.load_model(dense(net, seed)[1])
    images = data.load("mnist")
    scale = np.float32(255)
    kernels = sum(v.shape.num_elements() if hasattr(v.shape, "num_elements")
                  else int(np.prod(v.shape)) for v in model.variables
                  if v.name == "kernel")  # fmt: skip
    whole = tfsparse.measure(model).params
    share = (budget - (whole - kernels)) / kernels  # biases and norms stay as they are
    with tempfile.TemporaryDirectory() as folder:
        held = {f"w{i}": w for i, w in enumerate(model.get_weights())}
        np.savez(f"{folder}/in.npz", x=images.x_train / scale, y=images.y_train, **held)
        pathlib.Path(f"{folder}/model.json").write_text(as_keras_2(model))
        pathlib.Path(f"{folder}/program.py").write_text(PROGRAM)
        subprocess.run(
            [python, f"{folder}/program.py", f"{folder}/in.npz", f"{folder}/model.json",
             f"{folder}/out.npz", str(share), of(net, "fine_tune_epochs"),
             of(net, "fine_tune_learning_rate"), str(seed)],
            check=True, capture_output=True,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        )  # fmt: skip
        with np.load(f"{folder}/out.npz") as stored:
            model.set_weights([stored[f"arr_{i}"] for i in range(len(stored.files))])
        some = images.x_train[:512] / scale
        (artifact,) = tfsparse.export(model, folder, some, ("tflite_int8",))
        outputs = interpreters.run(artifact, images.x_test / scale)
        content = pathlib.Path(artifact.path).read_bytes()
    cost = tfsparse.measure(model)
    return {
        "net": net, "seed": seed, "kind": "tfmot", "pair": strength,
        "accuracy": float((outputs.argmax(-1) == images.y_test).mean()),
        "params": cost.params, "macs": cost.macs, "nonzero": cost.nonzero,
        **of_file(content),
    }  # fmt: skip


def as_keras_2(model) -> str:
    """The same layers as tf_keras reads them."""
    import json

    found = []
    for layer in model.layers:
        config = layer.get_config()
        kept = {
            k: v
            for k, v in config.items()
            if k not in NEW_IN_KERAS_3 and not k.endswith("_initializer")
        }  # the weights are set afterwards
        kept["dtype"] = "float32"
        if type(layer).__name__ == "InputLayer":
            kept = {"batch_input_shape": [None, *model.input_shape[1:]],
                    "dtype": "float32", "name": layer.name}  # fmt: skip
        inbound = []
        for node in layer._inbound_nodes:
            parents = [t._keras_history for t in node.input_tensors]
            if parents:
                inbound.append([[p.operation.name, 0, 0, {}] for p in parents])
        found.append({"class_name": type(layer).__name__, "config": kept,
                      "name": layer.name, "inbound_nodes": inbound})  # fmt: skip
    ends = [
        [t._keras_history.operation.name, 0, 0]
        for t in (model.inputs[0], model.outputs[0])
    ]
    config = {"name": "net", "layers": found, "input_layers": [ends[0]],
              "output_layers": [ends[1]]}  # fmt: skip
    return json.dumps({"class_name": "Functional", "config": config})


NEW_IN_KERAS_3 = {
    "quantization_config", "synchronized", "build_config", "ragged", "optional",
    "keepdims", "renorm", "batch_shape", "sparse", "lora_rank", "lora_alpha",
}  # fmt: skip


def summary(rows: list[dict]) -> list[dict]:
    """Mean and spread over the seeds, and the error that pruning adds."""
    import numpy as np

    found = []
    whole = {(r["net"], r["seed"]): r["accuracy"] for r in rows if r["kind"] == "dense"}
    for net, pair, kind in sorted(
        {(r["net"], r["pair"], r["kind"]) for r in rows if "pair" in r}
    ):
        own = [
            r for r in rows if (r["net"], r.get("pair"), r["kind"]) == (net, pair, kind)
        ]
        added = [whole[net, r["seed"]] - r["accuracy"] for r in own]
        row = {"net": net, "strength": pair, "kind": kind, "seeds": len(own),
               "dense": float(np.mean([whole[net, r["seed"]] for r in own])),
               "added_error": float(np.mean(added)),
               "added_error_spread": float(np.std(added))}  # fmt: skip
        for key in TOLD:
            row[key] = float(np.mean([r[key] for r in own]))
        found.append(
            {**row, "accuracy_spread": float(np.std([r["accuracy"] for r in own]))}
        )
    return found


TOLD = (
    "accuracy", "params", "nonzero", "macs", "file_bytes", "gzip_bytes", "microseconds",
)  # fmt: skip


def main() -> int:
    """Makes the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nets", default="lenet5,resnet8")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--strengths", help="some of the usual ones, between commas")
    parser.add_argument("--equal_macs", action="store_true")
    parser.add_argument("--tfmot", help="a Python with tensorflow-model-optimization")
    parser.add_argument("--tfmot_seeds", type=int, default=3)
    chosen = parser.parse_args()
    for net in chosen.nets.split(","):
        compare(net, chosen)
    return 0


def compare(net: str, chosen) -> None:
    """Makes the rows of one network."""
    path = RESULTS / f"gsparsity_against_magnitude_{net}.json"
    rows = files.read_json(path)["rows"] if path.exists() else []
    strengths = STRENGTHS[net]
    if chosen.strengths:
        strengths = [float(part) for part in chosen.strengths.split(",")]

    def add(kind, seed, pair, make):
        for row in rows:
            if (row["kind"], row["seed"], row.get("pair")) == (kind, seed, pair):
                return row
        rows.append(make())
        files.write_json(str(path), {"summary": summary(rows), "rows": rows})
        print({k: v for k, v in rows[-1].items() if k != "kept"}, flush=True)
        return rows[-1]

    for seed in range(chosen.seeds):
        add("dense", seed, None, lambda: dense(net, seed)[0])  # noqa: B023
        for pair in strengths:
            key = net, seed, pair
            found = add("gsparsity", seed, pair, lambda: gsparsity(*key))  # noqa: B023
            budgets = {"l2": "params"}
            if chosen.equal_macs:
                budgets["l2, equal MACs"] = "macs"
            for kind, unit in budgets.items():
                options = *key, {unit: found[unit]}, kind
                add(kind, seed, pair, lambda: magnitude(*options))  # noqa: B023
            if chosen.tfmot and seed < chosen.tfmot_seeds:
                options = *key, found["params"], chosen.tfmot
                add("tfmot", seed, pair, lambda: single_weights(*options))  # noqa: B023


if __name__ == "__main__":
    sys.exit(main())
