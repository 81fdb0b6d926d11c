"""Switches against the group lasso: loss at equal sparsity (the draft's figure 1).

Measures, for one linear layer Y = A diag(beta) X + b, how well each of these fits the
training data at a given share of removed inputs:

* `relu`, `signed`: tfsparse.ShrinkNets(features=True), the two forms of the switch, with
  the regularized penalty lambda sum |beta| + lambda_2 ||A||_2^2 (draft, eq. 10), trained
  by compile and fit (Adam, full batch, cosine decay of the rate), several seeds; and
  `relu_from_ones`, where all switches start at 1 instead of at random in (0, 1];
* `group`: the group lasso lambda sum_j ||A_j||_2 (draft, eq. 6; A_j: all weights of one
  input), by accelerated proximal gradient with restarts in float64, on
  tfsparse.numerics.prox_group_l2, until the objective falls by less than 1e-8 of itself.

Data: six problems that scikit-learn ships or makes, nothing is downloaded. The draft's
own four (scm1d, oes97, gina_prior2, gsadd) are not among them.

  made_independent   linear    100 independent inputs, 25 of them informative, 6 targets
  made_correlated    linear    80 inputs of effective rank about 25, 20 informative,
                               8 targets
  digits_completion  linear    the lower half of an 8x8 digit from its upper half
  digits_classes     logistic  the ten digits from their pixels
  made_classes       logistic  80 inputs, 12 informative and 12 mixtures of them, 5 classes
  cancer_probes      logistic  30 measurements of tumours and 30 shuffled copies, 2 classes

Inputs (and linear targets) are standardised by the training part (70 %); inputs that
never vary are left out. The split is one and the same for all seeds: the band in the
plot is the spread over initial values.

Sparsity is the share of columns of A diag(beta) whose entries are all below 1e-3 in
absolute value. Losses (mean squared error, cross-entropy; the penalty is not counted)
are divided by the loss of the best constant predictor of the training part: the mean, or
the class frequencies. `refit_*` is the loss after the columns that are left were fitted
again without a penalty (with a ridge of 1e-4 in the logistic problems, which are
separable): it judges the choice of columns alone, without the shrinkage of the weights.

How far the switches are from an optimum is measured too. For given A diag(beta) the best
split of the weights makes the penalty (3 / 2^(2/3)) lambda^(2/3) lambda_2^(1/3)
sum_j ||A_j beta_j||_2^(2/3): not the group lasso but a group bridge penalty.
`imbalance` is the share of the objective by which the penalty exceeds that, and
`left_to_gain` the share of the objective that L-BFGS, started from the result and kept
to its signs and its live columns, still takes off.

    OMP_NUM_THREADS=1 TF_CPP_MIN_LOG_LEVEL=3 python benchmarks/switches_vs_group_sparsity.py

Rows that are in the JSON file already are not measured again, unless --fresh is given.
All of them take about 9 minutes of one core.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import platform
import time

import keras
import matplotlib
import numpy as np
import scipy
import sklearn
import tensorflow as tf
from keras import ops
from scipy import optimize
from sklearn import datasets

import tfsparse
from tfsparse import numerics

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
NAME = "switches_vs_group_sparsity"
FORMS = {
    "relu": {"form": "relu"},
    "signed": {"form": "signed"},
    "relu_from_ones": {"form": "relu", "initial": "ones"},
}
METHODS = ("group", *FORMS)
MEASURES = ("train_loss", "test_loss", "refit_train_loss", "refit_test_loss")
THRESHOLD = 1e-3
"""Entries below this count as zero (draft, section 5.1)."""

SETTINGS = {
    "group_strengths": [
        *(0.003, 0.006, 0.01, 0.015, 0.022, 0.033, 0.05, 0.075, 0.11, 0.16),
        *(0.23, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    ],
    "switch_strengths": np.logspace(-3.3, 0.22, 12).round(6).tolist(),
    "strength_unit": "the smallest group lasso strength at which all columns are zero",
    "decay": 0.01,
    "decay_unit": "the same",
    "gamma": 0.99,
    "seeds": [0, 1, 2],
    "steps": 1500,
    "learning_rate": 0.01,
    "batch": "all training samples",
    "split_seed": 0,
    "test_share": 0.3,
    "threshold": THRESHOLD,
    "group_tolerance": 1e-8,
    "refit_ridge": 1e-4,
}


# Problems -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Part:
    """Samples: inputs `(samples, inputs)` and targets `(samples, outputs)`, float64."""

    x: np.ndarray
    y: np.ndarray


@dataclasses.dataclass(frozen=True)
class Problem:
    """A standardised data set; `kind` is `linear` or `logistic`."""

    name: str
    kind: str
    train: Part
    test: Part


def made_independent():
    return datasets.make_regression(
        600, 100, n_informative=25, n_targets=6, noise=60.0, random_state=0
    )


def made_correlated():
    x, y = datasets.make_regression(
        600,
        80,
        n_informative=20,
        n_targets=8,
        effective_rank=25,
        tail_strength=0.3,
        random_state=0,
    )
    noise = np.random.default_rng(0).normal(size=y.shape)
    return x, y + 0.3 * y.std(0) * noise


def digits_completion():
    images = datasets.load_digits().data
    return images[:, :32], images[:, 32:]


def digits_classes():
    return datasets.load_digits(return_X_y=True)


def made_classes():
    return datasets.make_classification(
        1000,
        80,
        n_informative=12,
        n_redundant=12,
        n_classes=5,
        n_clusters_per_class=1,
        class_sep=1.0,
        flip_y=0.05,
        random_state=0,
    )


def cancer_probes():
    x, y = datasets.load_breast_cancer(return_X_y=True)
    return np.hstack([x, np.random.default_rng(0).permutation(x, axis=0)]), y


PROBLEMS = {
    "made_independent": (made_independent, "linear"),
    "made_correlated": (made_correlated, "linear"),
    "digits_completion": (digits_completion, "linear"),
    "digits_classes": (digits_classes, "logistic"),
    "made_classes": (made_classes, "logistic"),
    "cancer_probes": (cancer_probes, "logistic"),
}


def load(name: str) -> Problem:
    """Builds, splits and standardises a problem."""
    make, kind = PROBLEMS[name]
    x, y = make()
    y = y.astype("float64") if kind == "linear" else np.eye(y.max() + 1)[y]
    order = np.random.default_rng(SETTINGS["split_seed"]).permutation(len(x))
    tested = round(SETTINGS["test_share"] * len(x))
    test, train = order[:tested], order[tested:]
    x = standardised(x, train)
    if kind == "linear":
        y = standardised(y, train)
    return Problem(name, kind, Part(x[train], y[train]), Part(x[test], y[test]))


def standardised(values, train):
    """Columns with mean 0 and deviation 1 on the training part; constant ones go."""
    values = values[:, values[train].std(0) > 1e-8]
    return (values - values[train].mean(0)) / values[train].std(0)


# The smooth part ------------------------------------------------------------------


def loss_and_gradients(kind: str, part: Part, weights, bias):
    """Data loss of a linear layer, with its gradients.

    Args:
        kind: `linear` (mean squared error) or `logistic` (cross-entropy).
        part: The samples.
        weights: `(inputs, outputs)`.
        bias: `(outputs,)`.

    Returns:
        The loss, `dloss/dweights` and `dloss/dbias`.
    """
    outputs = part.x @ weights + bias
    if kind == "linear":
        difference = outputs - part.y
        loss = np.mean(np.square(difference))
        slope = 2.0 * difference / difference.size
    else:
        logs = outputs - scipy.special.logsumexp(outputs, axis=1, keepdims=True)
        loss = -np.mean(np.sum(part.y * logs, axis=1))
        slope = (np.exp(logs) - part.y) / len(outputs)
    return loss, part.x.T @ slope, slope.sum(0)


def constant(problem: Problem):
    """The bias of the best predictor that ignores its inputs. `(outputs,)`."""
    mean = problem.train.y.mean(0)
    return mean if problem.kind == "linear" else np.log(mean)


def normalised(problem: Problem, weights, bias) -> tuple[float, float]:
    """Training and test loss, divided by those of the constant predictor."""
    found = []
    for part in (problem.train, problem.test):
        nothing = np.zeros_like(weights)
        loss = loss_and_gradients(problem.kind, part, weights, bias)[0]
        zero = loss_and_gradients(problem.kind, part, nothing, constant(problem))[0]
        found.append(float(loss / zero))
    return found[0], found[1]


def largest_strength(problem: Problem) -> float:
    """The smallest group lasso strength at which the solution is all zero."""
    nothing = np.zeros((problem.train.x.shape[1], problem.train.y.shape[1]))
    slope = loss_and_gradients(problem.kind, problem.train, nothing, constant(problem))[
        1
    ]
    return float(np.linalg.norm(slope, axis=1).max())


def refitted(problem: Problem, columns) -> tuple[float, float]:
    """Losses once the chosen columns were fitted without the sparse penalty."""
    train, ridge = problem.train, SETTINGS["refit_ridge"]
    shape = (train.x.shape[1], train.y.shape[1])
    weights, bias = np.zeros(shape), constant(problem)
    if not columns.any():
        return normalised(problem, weights, bias)
    if problem.kind == "linear":
        weights[columns] = np.linalg.lstsq(train.x[:, columns], train.y, rcond=None)[0]
        return normalised(problem, weights, bias)
    chosen, split = Part(train.x[:, columns], train.y), columns.sum() * shape[1]

    def objective(flat):
        inner = flat[:split].reshape(-1, shape[1])
        loss, slope, lean = loss_and_gradients(
            problem.kind, chosen, inner, flat[split:]
        )
        slope = slope + 2.0 * ridge * inner
        return loss + ridge * np.sum(inner**2), np.concatenate([slope.ravel(), lean])

    start = np.concatenate([np.zeros(split), bias])
    found = optimize.minimize(objective, start, jac=True, method="L-BFGS-B").x
    weights[columns] = found[:split].reshape(-1, shape[1])
    return normalised(problem, weights, found[split:])


# The group lasso ------------------------------------------------------------------


def smooth_loss(kind: str, x, y, weights, bias):
    """`loss_and_gradients` without gradients, for tensors."""
    outputs = x @ weights + bias
    if kind == "linear":
        return tf.reduce_mean(tf.square(outputs - y))
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(y, outputs))


def make_descent(problem: Problem, iterations: int = 200):
    """Builds `(strength, weights, bias) -> weights, bias, objective before and after`.

    FISTA for smooth + strength * sum_j ||weights[j]||_2, the bias free; the momentum
    starts again whenever the objective rises.
    """
    x, y = tf.constant(problem.train.x), tf.constant(problem.train.y)
    lipschitz = curvature(problem)

    def objective(strength, weights, bias):
        norms = numerics.safe_norm(weights, axis=1)
        return smooth_loss(problem.kind, x, y, weights, bias) + strength * ops.sum(
            norms
        )

    def proximal_step(strength, weights, bias):
        with tf.GradientTape() as tape:
            tape.watch([weights, bias])
            loss = smooth_loss(problem.kind, x, y, weights, bias)
        slope, lean = tape.gradient(loss, [weights, bias])
        moved = weights - slope / lipschitz
        weights = numerics.prox_group_l2(moved, strength / lipschitz, axis=1)
        return weights, bias - lean / lipschitz

    @tf.function
    def descend(strength, weights, bias):
        first = objective(strength, weights, bias)
        state = (weights, bias, weights, bias, tf.constant(1.0, tf.float64), first)
        for _ in tf.range(iterations):
            weights, bias, ahead, ahead_bias, inertia, last = state
            new, new_bias = proximal_step(strength, ahead, ahead_bias)
            now = objective(strength, new, new_bias)
            if now > last:
                new, new_bias = proximal_step(strength, weights, bias)
                now, inertia = objective(strength, new, new_bias), tf.ones_like(inertia)
            grown = (1.0 + tf.sqrt(1.0 + 4.0 * inertia**2)) / 2.0
            share = (inertia - 1.0) / grown
            ahead = new + share * (new - weights)
            ahead_bias = new_bias + share * (new_bias - bias)
            state = (new, new_bias, ahead, ahead_bias, grown, now)
        return state[0], state[1], first, state[5]

    return descend


def curvature(problem: Problem) -> float:
    """A Lipschitz constant of the smooth part's gradient, bias included."""
    x, y = problem.train.x, problem.train.y
    widest = np.linalg.norm(np.hstack([x, np.ones((len(x), 1))]), 2) ** 2
    return widest * (2.0 / y.size if problem.kind == "linear" else 0.5 / len(x))


def solve_group(descend, strength: float, weights, bias, longest: int = 500) -> dict:
    """Descends until 200 iterations take off less than 1e-8 of the objective."""
    weights, bias, rounds = tf.constant(weights), tf.constant(bias), 0
    while rounds < longest:
        rounds += 1
        weights, bias, before, after = descend(
            tf.constant(strength, tf.float64), weights, bias
        )
        decrease = float((before - after) / after)
        if abs(decrease) < SETTINGS["group_tolerance"]:
            break
    return {
        "weights": weights.numpy(),
        "bias": bias.numpy(),
        "objective": float(after),
        "decrease": decrease,
        "rounds": rounds,
    }


def optimality(problem: Problem, strength: float, weights, bias) -> float:
    """By how much the group lasso's optimality conditions are missed, over `strength`."""
    slope = loss_and_gradients(problem.kind, problem.train, weights, bias)[1]
    norms = np.linalg.norm(weights, axis=1, keepdims=True)
    live = norms > 0
    pull = np.where(live, weights / np.where(live, norms, 1.0), 0.0)
    missed = np.linalg.norm(slope + strength * pull, axis=1)
    missed = np.where(live[:, 0], missed, np.maximum(missed - strength, 0.0))
    return float(missed.max() / strength)


def group_rows(problem: Problem, done) -> list[dict]:
    """The whole path, from all zero on, each solution the start of the next."""
    unit, descend = largest_strength(problem), make_descent(problem)
    weights = np.zeros((problem.train.x.shape[1], problem.train.y.shape[1]))
    bias, rows = constant(problem), []
    wanted = [row_key(problem.name, "group", s, 0) for s in SETTINGS["group_strengths"]]
    if all(key in done for key in wanted):
        return []
    for relative in sorted(SETTINGS["group_strengths"], reverse=True):
        started = time.process_time()
        found = solve_group(descend, relative * unit, weights, bias)
        weights, bias = found["weights"], found["bias"]
        convergence = {
            "objective": found["objective"],
            "last_decrease": found["decrease"],
            "iterations": 200 * found["rounds"],
            "optimality": optimality(problem, relative * unit, weights, bias),
        }
        row = judged(problem, "group", relative, 0, weights, bias, convergence)
        rows.append({**row, "cpu_seconds": time.process_time() - started})
    return rows


# The switches ---------------------------------------------------------------------


def switched(problem: Problem, method, seed: int):
    """A linear layer with a switch on each input: the model, its Filter, its Dense."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((problem.train.x.shape[1],))
    outputs = keras.layers.Dense(problem.train.y.shape[1], name="linear")(inputs)
    plain = keras.Model(inputs, outputs)
    model = method.prepare(plain, tfsparse.find_groups(plain, method.kinds))
    (switch,) = (layer for layer in model.layers if layer.name.endswith("_switch"))
    return model, switch, model.get_layer("linear")


class Trainer:
    """One compiled ShrinkNets model, put back to its start for each strength."""

    def __init__(self, problem: Problem, form: str, seed: int):
        self.problem, self.form = problem, form
        self.unit = largest_strength(problem)
        self.method = tfsparse.ShrinkNets(
            strength=self.unit,
            **FORMS[form],
            gamma=SETTINGS["gamma"],
            decay=SETTINGS["decay"] * self.unit,
            features=True,
            seed=seed,
        )
        self.model, self.switch, self.linear = switched(problem, self.method, seed)
        self.steps = SETTINGS["steps"] // 10
        self.model.compile(
            keras.optimizers.Adam(
                keras.optimizers.schedules.CosineDecay(
                    SETTINGS["learning_rate"], SETTINGS["steps"], alpha=1e-3
                )
            ),
            "mse"
            if problem.kind == "linear"
            else keras.losses.CategoricalCrossentropy(from_logits=True),
            steps_per_execution=self.steps,
            jit_compile=False,
        )
        self.model.optimizer.build(self.model.trainable_variables)
        part = problem.train.x.astype("float32"), problem.train.y.astype("float32")
        self.data = tf.data.Dataset.from_tensors(part).repeat()
        self.states = [*self.model.variables, *self.model.optimizer.variables]
        self.start = [state.numpy() for state in self.states]

    def row(self, relative: float, seed: int) -> dict:
        """Trains from the start at one strength and judges the result."""
        started = time.process_time()
        for state, value in zip(self.states, self.start, strict=True):
            state.assign(value)
        self.method.set_strength(self.model, relative * self.unit)
        self.model.fit(
            self.data, epochs=10, steps_per_epoch=self.steps, shuffle=False, verbose=0
        )
        scale = np.where(self.switch.alive_units(), self.switch.scale().numpy(), 0.0)
        kernel = self.linear.kernel.numpy().astype("float64")
        weights = scale[:, None].astype("float64") * kernel
        bias = self.linear.bias.numpy().astype("float64")
        convergence = switch_convergence(
            self.problem,
            relative * self.unit,
            SETTINGS["decay"] * self.unit,
            (scale.astype("float64"), kernel, bias),
        )
        row = judged(
            self.problem, self.form, relative, seed, weights, bias, convergence
        )
        return {**row, "cpu_seconds": time.process_time() - started}


def switch_convergence(problem: Problem, strength: float, decay: float, found) -> dict:
    """How far from a local minimum of the regularized penalty a result is."""
    scale, kernel, bias = found
    live = scale != 0
    norms = np.linalg.norm(scale[:, None] * kernel, axis=1)
    bridge = 3.0 / 2.0 ** (2.0 / 3.0) * strength ** (2.0 / 3.0) * decay ** (1.0 / 3.0)
    penalty = strength * np.abs(scale).sum() + decay * np.sum(kernel[live] ** 2)
    loss = loss_and_gradients(
        problem.kind, problem.train, scale[:, None] * kernel, bias
    )[0]
    objective = loss + penalty
    best = bridge * np.sum(norms ** (2.0 / 3.0))
    return {
        "objective": float(objective),
        "imbalance": float((penalty - best) / objective),
        "left_to_gain": float(
            1.0 - polished(problem, strength, decay, found, live) / objective
        ),
    }


def polished(problem: Problem, strength: float, decay: float, found, live) -> float:
    """The objective after L-BFGS on the live switches, their kernels and the bias."""
    scale, kernel, bias = found
    part = Part(problem.train.x[:, live], problem.train.y)
    sign, count, outputs = np.sign(scale[live]), int(live.sum()), kernel.shape[1]

    def objective(flat):
        size, inner = flat[:count], flat[count:-outputs].reshape(count, outputs)
        switch = (sign * size)[:, None]
        loss, slope, lean = loss_and_gradients(
            problem.kind, part, switch * inner, flat[-outputs:]
        )
        value = loss + strength * size.sum() + decay * np.sum(inner**2)
        size_slope = sign * np.sum(slope * inner, axis=1) + strength
        inner_slope = slope * switch + 2.0 * decay * inner
        return value, np.concatenate([size_slope, inner_slope.ravel(), lean])

    start = np.concatenate([np.abs(scale[live]), kernel[live].ravel(), bias])
    bounds = [(0.0, None)] * count + [(None, None)] * (len(start) - count)
    result = optimize.minimize(
        objective,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": 300, "maxfun": 400},
    )
    return float(result.fun)


# Rows, summaries ------------------------------------------------------------------


def row_key(problem: str, method: str, relative: float, seed: int) -> str:
    return f"{problem}/{method}/{relative:g}/{seed}"


def judged(problem, method, relative, seed, weights, bias, convergence) -> dict:
    """One row: sparsity and losses of a solution."""
    largest = np.abs(weights).max(axis=1)
    train_loss, test_loss = normalised(problem, weights, bias)
    refit_train, refit_test = refitted(problem, largest >= THRESHOLD)
    return {
        "key": row_key(problem.name, method, relative, seed),
        "problem": problem.name,
        "method": method,
        "relative_strength": relative,
        "seed": seed,
        "sparsity": float(np.mean(largest < THRESHOLD)),
        "zero_share": float(np.mean(largest == 0.0)),
        "train_loss": train_loss,
        "test_loss": test_loss,
        "refit_train_loss": refit_train,
        "refit_test_loss": refit_test,
        "convergence": convergence,
    }


def curves(rows, problem: str, method: str) -> dict[int, list[dict]]:
    """Rows of one method, sparsest last, by seed."""
    found: dict[int, list[dict]] = {}
    for row in rows:
        if (row["problem"], row["method"]) == (problem, method):
            found.setdefault(row["seed"], []).append(row)
    return {
        seed: sorted(rows, key=lambda r: r["sparsity"]) for seed, rows in found.items()
    }


def interpolated(rows, measure: str, grid):
    """A curve at given sparsities; rows of equal sparsity are averaged."""
    levels = sorted({row["sparsity"] for row in rows})
    values = [
        np.mean([row[measure] for row in rows if row["sparsity"] == level])
        for level in levels
    ]
    return np.interp(grid, levels, values)


def front(rows, measure: str, grid):
    """At each sparsity, the row that fits best of those at least as sparse."""
    selector = "refit_train_loss" if measure.startswith("refit") else "train_loss"
    best = [
        min(
            (r for r in rows if r["sparsity"] >= level - 1e-9),
            key=lambda r: r[selector],
        )
        for level in grid
    ]
    return np.array([row[measure] for row in best])


def summary(rows, problem: str, method: str) -> dict:
    """Mean over common sparsities of loss(switches) - loss(group); negative is better."""
    (rival,) = curves(rows, problem, "group").values()
    runs = list(curves(rows, problem, method).values())
    everything = [rival, *runs]
    low = max(min(r["sparsity"] for r in run) for run in everything)
    high = min(max(r["sparsity"] for r in run) for run in everything)
    grid = np.linspace(low, high, 101)
    found = {"sparsity_from": low, "sparsity_to": high}
    for measure in MEASURES:
        for title, curve in (("", interpolated), ("front_", front)):
            gaps = np.array(
                [
                    curve(run, measure, grid) - curve(rival, measure, grid)
                    for run in runs
                ]
            )
            found[f"{title}{measure}"] = {
                "difference": float(gaps.mean()),
                "deviation_over_seeds": float(gaps.mean(1).std()),
                "share_of_sparsities_lower": float((gaps.mean(0) < 0).mean()),
            }
    return found


def convergence_summary(rows, method: str) -> dict:
    """The worst and the median of each measure of convergence."""
    found = [row["convergence"] for row in rows if row["method"] == method]
    return {
        name: {
            "median": float(np.median([abs(c[name]) for c in found])),
            "largest": float(np.max([abs(c[name]) for c in found])),
        }
        for name in found[0]
        if name != "objective"
    }


# Files ----------------------------------------------------------------------------


def environment() -> dict:
    """Versions of what the numbers depend on."""
    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "sklearn": sklearn.__version__,
        "machine": platform.machine(),
        "threads": 1,
    }


def opened(path: pathlib.Path, settings: dict, fresh: bool) -> dict:
    """The results so far.

    Raises:
        ValueError: They were measured with other settings.
    """
    if fresh or not path.exists():
        return {"environment": environment(), "settings": settings, "rows": []}
    results = json.loads(path.read_text())
    if results["settings"] != settings:
        raise ValueError(
            f"{path.name} must hold the settings of this program. Received: others. "
            "Run again with --fresh to measure all rows anew."
        )
    return results


def save(path: pathlib.Path, results: dict) -> None:
    """Writes at once or not at all; one line for each row."""
    head = json.dumps({k: v for k, v in results.items() if k != "rows"}, indent=1)
    rows = ",\n  ".join(json.dumps(row) for row in results["rows"])
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(f'{head[:-2]},\n "rows": [\n  {rows}\n ]\n}}\n')
    partial.replace(path)


STYLES = {
    "group": ("group lasso", "black", "o"),
    "relu": ("switches, relu form", "tab:blue", "s"),
    "signed": ("switches, signed form", "tab:orange", "^"),
    "relu_from_ones": ("switches, relu form from ones", "tab:green", "v"),
}


def draw(rows, path: pathlib.Path) -> None:
    """One panel for each problem: training loss against sparsity."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [name for name in PROBLEMS if any(r["problem"] == name for r in rows)]
    figure, axes = pyplot.subplots(2, 3, figsize=(12.5, 7.2), layout="constrained")
    for axis, name in zip(axes.flat, names, strict=False):
        for method in METHODS:
            _draw_method(axis, curves(rows, name, method), *STYLES[method])
        axis.set_title(f"{name} ({PROBLEMS[name][1]})", fontsize=10)
        axis.set_xlim(-0.02, 1.02)
        axis.set_ylim(-0.03, 1.05)
        axis.grid(alpha=0.25)
    for axis in axes[-1]:
        axis.set_xlabel("sparsity (share of inputs removed)")
    for axis in axes[:, 0]:
        axis.set_ylabel("training loss (1 = constant predictor)")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    axes.flat[0].legend(handles, labels, loc="upper left", fontsize=9)
    figure.suptitle(
        "Loss at equal sparsity. Line: mean over seeds; band: their range; points: runs; "
        "dashed: the same columns, fitted again without a penalty",
        fontsize=11,
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _draw_method(axis, runs, title, colour, marker) -> None:
    low = max(run[0]["sparsity"] for run in runs.values())
    high = min(run[-1]["sparsity"] for run in runs.values())
    grid = np.linspace(low, high, 201)
    lines = np.array([interpolated(run, "train_loss", grid) for run in runs.values()])
    axis.plot(grid, lines.mean(0), color=colour, linewidth=1.6, label=title)
    again = [interpolated(run, "refit_train_loss", grid) for run in runs.values()]
    axis.plot(
        grid, np.mean(again, axis=0), "--", color=colour, linewidth=1.0, alpha=0.8
    )
    if len(lines) > 1:
        axis.fill_between(
            grid, lines.min(0), lines.max(0), color=colour, alpha=0.2, linewidth=0
        )
    for run in runs.values():
        sparsity = [row["sparsity"] for row in run]
        losses = [row["train_loss"] for row in run]
        axis.scatter(sparsity, losses, s=9, color=colour, marker=marker, alpha=0.5)


# Program --------------------------------------------------------------------------


def measure(problem: Problem, results: dict, path: pathlib.Path) -> None:
    """Adds the rows of one problem that are missing."""
    done = {row["key"] for row in results["rows"]}
    results["rows"] += [r for r in group_rows(problem, done) if r["key"] not in done]
    save(path, results)
    for form in FORMS:
        for seed in SETTINGS["seeds"]:
            missing = [
                relative
                for relative in SETTINGS["switch_strengths"]
                if row_key(problem.name, form, relative, seed) not in done
            ]
            if not missing:
                continue
            keras.backend.clear_session()
            trainer = Trainer(problem, form, seed)
            for relative in missing:
                results["rows"].append(trainer.row(relative, seed))
                save(path, results)
            print(f"{problem.name}, {form}, seed {seed}: {len(missing)} strengths")


def report(results: dict) -> None:
    """Adds the summaries to the results and prints them."""
    rows = results["rows"]
    results["summary"] = {
        name: {form: summary(rows, name, form) for form in FORMS} for name in PROBLEMS
    }
    results["convergence"] = {m: convergence_summary(rows, m) for m in METHODS}
    results["cpu_seconds"] = sum(row["cpu_seconds"] for row in rows)
    print("loss(switches) - loss(group), mean over matched sparsities")
    print(f"{'problem':18} {'form':15}" + "".join(f"{m:>17}" for m in MEASURES))
    for name, forms in results["summary"].items():
        for form, found in forms.items():
            gaps = "".join(f"{found[m]['difference']:17.4f}" for m in MEASURES)
            print(f"{name:18} {form:15}{gaps}")


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--fresh", action="store_true", help="measure all rows anew")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS, help="folder")
    flags = parser.parse_args(arguments)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    path = flags.out / f"{NAME}.json"
    results = opened(path, SETTINGS, flags.fresh)
    for name in PROBLEMS:
        measure(load(name), results, path)
    report(results)
    save(path, results)
    draw(results["rows"], path.with_suffix(".png"))


if __name__ == "__main__":
    main()
