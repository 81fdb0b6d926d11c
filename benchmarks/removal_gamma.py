"""How eagerly should switches be killed? Loss and cost against gamma (draft's figure 2).

Measures what the inertia gamma of the sign-variance rule (signed switches) does to the
final loss and to the cost of training, on linear and logistic problems of
switches_vs_group_sparsity.py (the splits, losses and units of the penalties are its own).

* gamma = 1 - 10^-u for 15 values of u, evenly in [0, 5]: 0 kills at the first change of
  sign; a gamma whose 1 / (1 - gamma) exceeds the number of steps can hardly kill.
* The baseline is gamma = 1: nothing ever dies, and the loss is that of all inputs, small
  switches included. The draft calls it a lower bound; it is a reference only.
* Cost: inputs alive at the start of each epoch, summed over the epochs. It is a count, not
  a time, and is given as a share of the baseline's.
* 30 repeats, each with its own initial values and order of batches; one repeat uses the
  same for all gammas, so that `difference` (loss - loss of the baseline) is paired.

All repeats and gammas train side by side, as slices of stacked variables, with the
library's own rule (tfsparse.numerics.sign_variance, after each step) and one Keras Adam.
That this is what Filter does under fit is checked first, and the check is recorded: for
each problem, one setting is trained both ways from the same start on the same batches.

One run starts all switches at 1 instead of in (-1, 1). Few of them then have to change
sign on the way to where the data wants them: a lasting change of sign kills, too.

    OMP_NUM_THREADS=1 TF_CPP_MIN_LOG_LEVEL=3 python benchmarks/removal_gamma.py

Problems that are in the JSON file already are not measured again, unless --fresh is given.
All of them take about 2 minutes of one core.
"""

from __future__ import annotations

import argparse
import pathlib
import time

import keras
import matplotlib
import numpy as np
import switches_vs_group_sparsity as switches
import tensorflow as tf
from keras import ops

import tfsparse
from tfsparse import numerics

NAME = "removal_gamma"
STARTS = {"uniform": "in (-1, 1)", "ones": "at 1"}

SETTINGS = {
    "runs": [  # problem, lambda in units of `switches.largest_strength`, initial
        ["made_independent", 0.03, "uniform"],
        ["made_independent", 0.03, "ones"],
        ["made_correlated", 0.03, "uniform"],
        ["digits_classes", 0.03, "uniform"],
        ["digits_classes", 0.1, "uniform"],
    ],
    "exponents": np.linspace(0.0, 5.0, 15).round(6).tolist(),
    "repeats": 30,
    "epochs": 100,
    "batch": 64,
    "learning_rate": 0.01,
    "schedule": "cosine decay to 1e-3 of the rate",
    "decay": switches.SETTINGS["decay"],
    "check": {"gamma": 0.9, "epochs": 10, "tolerance": 1e-3},
}


def gammas() -> list[float]:
    """The gammas of the sweep, and the baseline's 1.0 at the end."""
    return [1.0 - 10.0**-u for u in SETTINGS["exponents"]] + [1.0]


def batches(samples: int, repeats: int, epoch: int):
    """The samples of each step of an epoch. `(steps, repeats, batch)` indices."""
    steps, batch = samples // SETTINGS["batch"], SETTINGS["batch"]
    orders = [
        np.random.default_rng((repeat, epoch)).permutation(samples)[: steps * batch]
        for repeat in range(repeats)
    ]
    return np.stack(orders).reshape(repeats, steps, batch).swapaxes(0, 1)


def make_adam(samples: int) -> keras.optimizers.Optimizer:
    """Adam, its rate falling along a cosine over the whole training."""
    steps = SETTINGS["epochs"] * (samples // SETTINGS["batch"])
    return keras.optimizers.Adam(
        keras.optimizers.schedules.CosineDecay(
            SETTINGS["learning_rate"], steps, alpha=1e-3
        )
    )


def make_model(problem: switches.Problem, relative, initial: str, gamma, seed: int):
    """The real thing: a Dense behind a Filter of signed switches on its inputs."""
    unit = switches.largest_strength(problem)
    method = tfsparse.ShrinkNets(
        strength=relative * unit,
        form="signed",
        gamma=gamma,
        decay=SETTINGS["decay"] * unit,
        initial=initial,
        features=True,
        seed=seed,
    )
    return switches.switched(problem, method, seed)


def starts(problem: switches.Problem, initial: str, repeats: int):
    """Initial switches `(repeats, inputs)`, kernels `(repeats, inputs, outputs)`."""
    found = []
    for seed in range(repeats):
        keras.backend.clear_session()
        _, switch, linear = make_model(problem, 1.0, initial, 1.0, seed)
        found.append((switch.switch.numpy(), linear.kernel.numpy()))
    return tuple(np.stack(values) for values in zip(*found, strict=True))


# Training side by side ------------------------------------------------------------


class Replicas:
    """One linear layer with switches for each repeat and gamma, trained together.

    Args:
        problem: The data.
        relative: lambda in units of `largest_strength`.
        gammas: `(gammas,)` inertias of the rule.
        switch: `(repeats, inputs)` initial switches.
        kernel: `(repeats, inputs, outputs)` initial kernels.
    """

    def __init__(self, problem, relative: float, gammas, switch, kernel):
        unit, count = switches.largest_strength(problem), len(gammas)
        self.problem = problem
        self.strength, self.decay = relative * unit, SETTINGS["decay"] * unit
        self.gammas = tf.constant(gammas, tf.float32)
        self.x = tf.constant(problem.train.x, tf.float32)
        self.y = tf.constant(problem.train.y, tf.float32)
        repeats, inputs, outputs = kernel.shape
        wide = np.repeat(switch[:, :, None], count, axis=2)
        self.switch = keras.Variable(wide)  # (repeats, inputs, gammas)
        self.mean = keras.Variable(np.sign(wide), trainable=False)
        self.variance = keras.Variable(np.zeros_like(wide), trainable=False)
        self.alive = keras.Variable(np.ones_like(wide), trainable=False)
        self.kernel = keras.Variable(np.repeat(kernel[:, :, None], count, axis=2))
        self.bias = keras.Variable(np.zeros((repeats, count, outputs), "float32"))
        self.trained = [self.switch, self.kernel, self.bias]
        self.optimizer = make_adam(len(problem.train.x))
        self.optimizer.build(self.trained)

    def weights(self):
        """The columns of A diag(beta). `(repeats, inputs, gammas, outputs)`."""
        return self.kernel * (self.switch * self.alive)[..., None]

    def loss(self, x, y):
        """Loss and penalty (draft, eq. 10), summed over replicas: they do not mix."""
        repeats, inputs, count, outputs = self.kernel.shape
        flat = ops.reshape(self.weights(), (repeats, inputs, count * outputs))
        answers = ops.reshape(x @ flat, (repeats, -1, count, outputs))
        answers, y = answers + self.bias[:, None], y[:, :, None]
        if self.problem.kind == "linear":
            losses = ops.mean(ops.square(answers - y), axis=(1, 3))
        else:
            logs = ops.log_softmax(answers, axis=-1)
            losses = -ops.mean(ops.sum(y * logs, axis=-1), axis=1)
        penalty = self.strength * ops.sum(ops.abs(self.switch * self.alive))
        return ops.sum(losses) + penalty + self.decay * ops.sum(ops.square(self.kernel))

    @tf.function
    def epoch(self, indices) -> None:
        """Trains the steps of an epoch, `(steps, repeats, batch)`; judges after each."""
        for step in indices:
            x, y = tf.gather(self.x, step), tf.gather(self.y, step)
            with tf.GradientTape() as tape:
                loss = self.loss(x, y)
            gradients = tape.gradient(loss, [v.value for v in self.trained])
            self.optimizer.apply(gradients, self.trained)
            mean, variance, alive = numerics.sign_variance(
                self.switch, self.mean, self.variance, self.alive, self.gammas
            )
            self.mean.assign(mean)
            self.variance.assign(variance)
            self.alive.assign(alive)

    def fit(self, epochs: int):
        """Trains; returns the live inputs at the start of each epoch.

        Returns:
            `(epochs, repeats, gammas)` counts.
        """
        live, samples, repeats = [], len(self.problem.train.x), self.kernel.shape[0]
        for epoch in range(epochs):
            live.append(self.alive.numpy().sum(axis=1))
            self.epoch(tf.constant(batches(samples, repeats, epoch)))
        return np.stack(live)


# Check ----------------------------------------------------------------------------


def check(problem: switches.Problem, relative: float, initial: str) -> dict:
    """Trains one setting with Filter under fit and side by side, and compares.

    Raises:
        RuntimeError: The two disagree on which inputs live, or on their weights.
    """
    gamma, epochs = SETTINGS["check"]["gamma"], SETTINGS["check"]["epochs"]
    model, switch, linear = make_model(problem, relative, initial, gamma, 0)
    start = switch.switch.numpy()[None], linear.kernel.numpy()[None]
    replicas = Replicas(problem, relative, [gamma, 1.0], *start)
    replicas.fit(epochs)
    fit_filter(problem, model, epochs)
    alive = switch.alive_units()
    scale = np.where(alive, switch.switch.numpy(), 0.0)
    mine = (replicas.switch * replicas.alive).numpy()[0, :, 0]
    found = {
        "gamma": gamma,
        "steps": epochs * (len(problem.train.x) // SETTINGS["batch"]),
        "dead_inputs": int((~alive).sum()),
        "inputs_judged_differently": int(
            (alive != (replicas.alive.numpy()[0, :, 0] > 0)).sum()
        ),
        "largest_switch_difference": float(np.abs(scale - mine).max()),
        "largest_kernel_difference": float(
            np.abs(linear.kernel.numpy() - replicas.kernel.numpy()[0, :, 0])[
                alive
            ].max()
        ),
    }
    worst = max(found["largest_switch_difference"], found["largest_kernel_difference"])
    if found["inputs_judged_differently"] or worst > SETTINGS["check"]["tolerance"]:
        raise RuntimeError(
            f"Replicas must train as Filter does under fit. Received: {found} on "
            f"{problem.name!r}."
        )
    return found


def fit_filter(problem: switches.Problem, model, epochs: int) -> None:
    """Ordinary compile and fit, on the batches that replica 0 gets."""
    samples = len(problem.train.x)
    order = np.concatenate(
        [batches(samples, 1, epoch)[:, 0].reshape(-1) for epoch in range(epochs)]
    )
    loss = "mse"
    if problem.kind == "logistic":
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(make_adam(samples), loss, jit_compile=False)
    model.fit(
        problem.train.x[order].astype("float32"),
        problem.train.y[order].astype("float32"),
        batch_size=SETTINGS["batch"],
        shuffle=False,
        verbose=0,
    )


# Rows -----------------------------------------------------------------------------


def run_key(name: str, relative: float, initial: str) -> str:
    return f"{name}/{relative:g}/{initial}"


def run(name: str, relative: float, initial: str) -> dict:
    """Trains all repeats and gammas of one problem, lambda and way to start."""
    started = time.process_time()
    problem = switches.load(name)
    checked = check(problem, relative, initial)
    start = starts(problem, initial, SETTINGS["repeats"])
    replicas = Replicas(problem, relative, gammas(), *start)
    live = replicas.fit(SETTINGS["epochs"])
    weights, bias = replicas.weights().numpy(), replicas.bias.numpy()
    losses = np.array(
        [
            [
                switches.normalised(problem, weights[repeat, :, i], bias[repeat, i])
                for i in range(len(gammas()))
            ]
            for repeat in range(SETTINGS["repeats"])
        ]
    )  # (repeats, gammas, 2)
    measures = {
        "train_loss": losses[..., 0],
        "test_loss": losses[..., 1],
        "train_difference": losses[..., 0] - losses[:, -1:, 0],
        "test_difference": losses[..., 1] - losses[:, -1:, 1],
        "cost": live.mean(axis=0) / live[0],
        "live_inputs": replicas.alive.numpy().sum(axis=1),
        "working_inputs": (np.abs(weights).max(axis=3) >= switches.THRESHOLD).sum(
            axis=1
        ),
    }
    return {
        "key": run_key(name, relative, initial),
        "problem": name,
        "relative_strength": relative,
        "initial": initial,
        "inputs": int(weights.shape[1]),
        "steps": SETTINGS["epochs"] * (len(problem.train.x) // SETTINGS["batch"]),
        "check": checked,
        "gammas": [
            described(gamma, {key: values[:, i] for key, values in measures.items()})
            for i, gamma in enumerate(gammas())
        ],
        "cpu_seconds": time.process_time() - started,
    }


def described(gamma: float, measures) -> dict:
    """One gamma: mean, deviation and the single repeats of each measure."""
    return {
        "gamma": gamma,
        **{
            key: {
                "mean": float(values.mean()),
                "deviation": float(values.std()),
                "repeats": np.asarray(values, "float64").round(6).tolist(),
            }
            for key, values in measures.items()
        },
    }


def draw(rows, path: pathlib.Path) -> None:
    """A row of panels for each run: training loss, test loss, cost against gamma."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        len(rows),
        3,
        figsize=(12.5, 2.7 * len(rows)),
        layout="constrained",
        squeeze=False,
    )
    titles = {
        "train_loss": "training loss",
        "test_loss": "test loss",
        "cost": "cost (share of the baseline's)",
    }
    for row, line in zip(rows, axes, strict=True):
        for (measure, title), axis in zip(titles.items(), line, strict=True):
            _draw_measure(axis, row["gammas"], measure)
            axis.set_ylabel(title)
            axis.grid(alpha=0.25)
            axis.set_ylim(limits(rows, row, measure))
        line[1].set_title(
            f"{row['problem']}, lambda {row['relative_strength']:g}, "
            f"switches start {STARTS[row['initial']]}",
            fontsize=10,
        )
    for axis in axes[-1]:
        axis.set_xlabel("u, gamma = 1 - 10^-u   (eager: left)")
    axes[0, 0].legend(fontsize=8)
    figure.suptitle(
        f"Removal by sign variance; mean and ±1 deviation of {SETTINGS['repeats']} repeats",
        fontsize=11,
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def limits(rows, like: dict, measure: str) -> tuple[float, float]:
    """One range for all runs with the problem and lambda of `like`, bands included."""
    if measure == "cost":
        return 0.0, 1.05
    found = [
        gamma[measure]
        for row in rows
        if row["key"].rpartition("/")[0] == like["key"].rpartition("/")[0]
        for gamma in row["gammas"]
    ]
    low = min(f["mean"] - f["deviation"] for f in found)
    high = max(f["mean"] + f["deviation"] for f in found)
    return low - 0.05 * (high - low), high + 0.05 * (high - low)


def _draw_measure(axis, found, measure: str) -> None:
    mean = np.array([gamma[measure]["mean"] for gamma in found])
    deviation = np.array([gamma[measure]["deviation"] for gamma in found])
    u = np.array(SETTINGS["exponents"])
    axis.plot(
        u, mean[:-1], "o-", markersize=3, color="tab:orange", label="with removal"
    )
    axis.fill_between(
        u,
        (mean - deviation)[:-1],
        (mean + deviation)[:-1],
        color="tab:orange",
        alpha=0.2,
    )
    axis.axhline(
        mean[-1], color="black", linestyle="--", label="no removal (gamma = 1)"
    )
    low, high = mean[-1] - deviation[-1], mean[-1] + deviation[-1]
    axis.axhspan(low, high, color="black", alpha=0.08, linewidth=0)


# Program --------------------------------------------------------------------------


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--fresh", action="store_true", help="measure all runs anew")
    parser.add_argument(
        "--out", type=pathlib.Path, default=switches.RESULTS, help="folder"
    )
    flags = parser.parse_args(arguments)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    path = flags.out / f"{NAME}.json"
    results = switches.opened(path, SETTINGS, flags.fresh)
    for name, relative, initial in SETTINGS["runs"]:
        if run_key(name, relative, initial) in {row["key"] for row in results["rows"]}:
            continue
        results["rows"].append(run(name, relative, initial))
        results["cpu_seconds"] = sum(row["cpu_seconds"] for row in results["rows"])
        switches.save(path, results)
        report(results["rows"][-1])
    draw(results["rows"], path.with_suffix(".png"))


def report(row: dict) -> None:
    """Prints the means of one run."""
    print(f"{row['key']}: {row['check']}, {row['cpu_seconds']:.0f} s of CPU")
    for found in row["gammas"]:
        means = (f"{k} {v['mean']:.4f}" for k, v in found.items() if k != "gamma")
        print(f"  gamma {found['gamma']:.6f}: {', '.join(means)}")


if __name__ == "__main__":
    main()
