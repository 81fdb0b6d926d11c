"""`python -m tfsparse.search`: searches networks that fit a chip, and hands over the front.

python -m tfsparse.search --data=digits --trials=50
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from tfsparse import budgets, data, flags, options, train
from tfsparse.children import process
from tfsparse.engine.training import Training

USAGE = """Searches architecture, hyper-parameters and pruning together, under bounds.

  python -m tfsparse.search --data=digits --objectives=error,weight_bytes --trials=50

Every trial prunes. What no other trial is better than in everything is exported and
verified; the report is <workdir>/report.html. The same command on several machines, with one
--storage=postgresql+psycopg://... and one --workdir that all of them see, shares the work; a
killed search goes on with the same command."""

METHODS = {"bayesian_compression": True, "sparse_vd": False}
"""Methods that trials prune by -> whether units go, or single weights."""

ERROR = "error"

TABLE = "table_7"


@options.record
class SearchSettings(options.Options):
    """What is sought, and how hard."""

    part = "The search"

    workdir: str = options.field("runs/search", "Folder that every result goes to.")
    method: str = options.field(
        "bayesian_compression",
        "What prunes every trial: units, or single weights.",
        choices=tuple(METHODS),
    )
    objectives: str = options.patterns(
        "error,weight_bytes,working_memory_2",
        f"What is made small: {ERROR} (on validation) and any of "
        f"{', '.join((*budgets.COSTS, *budgets.FINISHED))}.",
        example="error,weight_bytes",
    )
    bounds: str = options.pairs(
        "",
        "Up to where an objective matters, in its own unit.",
        example="weight_bytes=2000,working_memory_2=2000",
        above=0,
    )
    model: str = options.field(
        TABLE,
        "What is searched: table_7, the space of the paper, or package.module:name of a "
        "keras_tuner.HyperModel of your own.",
    )
    trials: int = options.field(60, "How many configurations are tried.", low=1)
    startup: int = options.field(10, "How many of them are random, at first.", low=2)
    sampler: str = options.field(
        "morphs",
        "What comes after them: morphs that Gaussian processes choose; evolution, the "
        "children of good young trials; or random ones.",
        choices=("morphs", "evolution", "random"),
    )
    epochs: int = options.field(20, "Epochs of a trial.", low=1)
    stop_hopeless: bool = options.field(
        True,
        "Whether a trial ends halfway where three others had there at most four fifths of "
        "its value in every objective.",
    )
    polish: int = options.field(
        0,
        "Epochs that every point of the front is trained on for, following the most "
        "accurate one; 0 for none.",
        low=0,
    )
    polish_learning_rate: float = options.field(
        2e-3, "Learning rate of --polish, falling to 0 along a cosine.", above=0
    )
    workers: int = options.field(
        1,
        "So many processes work beside each other, each with its share of the cores.",
        low=1,
        high=256,
    )
    storage: str = options.field(
        "",
        "Database of the trials, such as postgresql+psycopg://user@host/name; by default a "
        "file of the workdir.",
    )
    seed: int = options.field(0, "Seed of everything random.", low=0, below=2**32)

    def names(self) -> tuple[str, ...]:
        """The objectives."""
        return tuple(options.listed(self.objectives))

    def limits(self) -> dict[str, float]:
        """The bounds, by objective."""
        return options.numbers(self.bounds, "bounds", "weight_bytes=2000")

    def check(self) -> None:
        """Checks objectives and bounds."""
        known = (ERROR, *budgets.COSTS, *budgets.FINISHED)
        names = self.names()
        if not names or len(set(names)) < len(names) or set(names) - set(known):
            raise ValueError(
                f"`objectives` must join different names among {', '.join(known)}. "
                f"Received: objectives={self.objectives!r}."
            )
        if strange := sorted(set(self.limits()) - set(names)):
            raise ValueError(
                f"`bounds` must be on objectives ({', '.join(names)}). Received: {strange}."
            )


PARTS = (SearchSettings, data.Data, Training)


def main(arguments: Sequence[str] | None = None) -> int:
    """The program. Returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)

    def job() -> None:
        line = flags.expanded(given)
        if flags.asks_for_help(line):
            sys.stdout.write(flags.page(USAGE, PARTS))
            return
        found, _ = flags.read(line, PARTS, once=True)
        run(
            SearchSettings(**found[SearchSettings]),
            data.Data(**found[data.Data]),
            Training(**found[Training]),
        )

    return train.exit_code(job)


def run(chosen: SearchSettings, source: data.Data, training: Training) -> None:
    """Searches, with the workers that are wanted, then writes what was found.

    Args:
        chosen, source, training: What is searched.
    """
    study, space, evaluate, dataset = _begun(chosen, source, training)
    if WORKER in os.environ or chosen.workers == 1:
        _work(study, space, evaluate, chosen)
    else:
        _beside(chosen, _line_of(chosen, source, training))
    if WORKER in os.environ:
        return
    from tfsparse.engine import searched

    asked = {
        key: value
        for part in (chosen, source, training)
        for key, value in part.get_config().items()
    }
    told = searched.hand_over(
        study,
        evaluate,
        dataset,
        searched.Chosen(
            chosen.names(),
            chosen.limits(),
            chosen.polish,
            chosen.polish_learning_rate,
            asked,
        ),
        chosen.workdir,
    )
    page = os.path.join(chosen.workdir, "report.html")
    _say(f"{len(told['points'])} points are in {chosen.workdir}. The report is {page}")


HOPELESS = 5
"""If so many trials were given up and none ended well, the search ends."""

RESTARTS = 10
"""Workers that a signal ended are replaced so often, for each worker."""

WORKER = "TFSPARSE_SEARCH_WORKER"
"""Says to a process that it works for another, which writes the results."""


def _line_of(*parts: options.Options) -> list[str]:
    """The command line that says what records hold."""
    held = {key: value for part in parts for key, value in part.get_config().items()}
    return [
        f"--{key}={value}".replace("=True", "=true").replace("=False", "=false")
        for key, value in held.items()
        if value is not None and value != ""
    ]


def _beside(chosen: SearchSettings, line: Sequence[str]) -> None:
    """Starts the workers, and another for each that a signal ended.

    Raises:
        ValueError: None could go on; what it said stands above.
    """
    environment = {**os.environ, WORKER: "1", **process.share_of_cores(chosen.workers)}
    command = [sys.executable, "-m", "tfsparse.search", *line]

    def started() -> subprocess.Popen:
        return subprocess.Popen(command, env=environment)

    running, codes = [started() for _ in range(chosen.workers)], []
    again = RESTARTS * chosen.workers
    try:
        while running:
            time.sleep(0.2)
            for ended in [one for one in running if one.poll() is not None]:
                running.remove(ended)
                codes.append(ended.returncode)
                if ended.returncode < 0 and again:
                    again -= 1
                    running.append(started())
    finally:
        for left in running:
            left.terminate()
    if all(codes):
        raise ValueError(
            f"`workers` must be able to work. Received: all ended early, with exit codes {codes}; "
            "what they said stands above."
        )


def _begun(chosen: SearchSettings, source: data.Data, training: Training):
    """The study, its space, what evaluates, and the data."""
    from tfsparse import methods, search
    from tfsparse.engine import candidate, sealed
    from tfsparse.search import sampler, study

    dataset = data.read(source)
    if dataset.task.kind != "classification":
        raise ValueError(
            "`data` must be of classes: the search knows no other task. Received: "
            f"{dataset.task.kind}."
        )
    names, limits = chosen.names(), chosen.limits()
    if chosen.model == TABLE:
        structured = METHODS[chosen.method]
        space, build = search.Space(search.table_7(dataset.shape, structured)), None
    else:
        space, build = search.searched(search.named(chosen.model))
    evaluate = candidate.Candidates(
        sealed.Door(dataset).dataset,
        os.path.join(chosen.workdir, "trials"),
        methods.METHODS[chosen.method],  # type: ignore[arg-type]
        chosen.epochs,
        names,
        training,
        chosen.seed,
        data.parse_augmentation(source.augment),
        build or search.build,
    )
    own = sampler.SAMPLERS[chosen.sampler](
        space,
        startup=chosen.startup,
        bounds=[limits.get(name) for name in names],
        admits=_admits(chosen, dataset.shape, evaluate.outputs),
        seed=chosen.seed,
    )
    os.makedirs(chosen.workdir, exist_ok=True)
    held = os.path.abspath(os.path.join(chosen.workdir, "study.db"))
    what = _what(chosen, source, training, space, dataset)
    opened = study.opened(chosen.storage or f"sqlite:///{held}", names, what, own)
    if chosen.stop_hopeless:
        evaluate = dataclasses.replace(evaluate, hopeless=_hopeless(opened, names))
    return opened, space, evaluate, dataset


def _what(chosen: SearchSettings, source, training, space, dataset) -> dict[str, Any]:
    """What a study is of: another one is refused."""
    apart = {
        one.name
        for one in options.fields_of(data.Data)
        if one.metadata["rule"].location
    }
    return {
        "space": {name: json.loads(_json(d)) for name, d in space.ranges.items()},
        "model": chosen.model,
        "data": {k: v for k, v in source.get_config().items() if k not in apart},
        "training": training.get_config(),
        "shape": list(dataset.shape),
        "samples": len(dataset.x_train),
        "method": chosen.method,
        "sampler": chosen.sampler,
        "epochs": chosen.epochs,
    }


def _admits(chosen: SearchSettings, shape, outputs: int):
    """Whether a configuration can be within the bounds, whatever is pruned."""
    from tfsparse import graph, search

    # Single weights may go one by one; what stands in memory stays.
    known = LEAST if METHODS[chosen.method] else LEAST & IN_MEMORY
    limits = {name: own for name, own in chosen.limits().items() if name in known}
    if not limits or chosen.model != TABLE:
        return lambda values: True

    def admits(values) -> bool:
        least = graph.measure(search.smallest(values, shape, outputs))
        return all(getattr(least, name) <= own for name, own in limits.items())

    return admits


LEAST = {
    "params", "macs", "weight_bytes", "peak_activation_bytes", "working_memory_1",
    "working_memory_2",
}  # fmt: skip
"""Measures whose least is known before training."""

IN_MEMORY = {"peak_activation_bytes", "working_memory_2"}
"""Those that single weights do not make less."""


def _hopeless(own, names: Sequence[str]):
    """Whether a trial, halfway, is left behind by those before it."""
    from tfsparse.search import front, study

    def hopeless(halfway) -> bool:
        told = [
            trial.user_attrs.get(study.OUTCOME, {}).get("halfway")
            for trial in study.finished(own)
        ]
        others = [[held[name] for name in names] for held in told if held]
        return front.hopeless([halfway[name] for name in names], others)

    return hopeless


def _json(distribution) -> str:
    from optuna import distributions

    return distributions.distribution_to_json(distribution)


def _work(study_, space, evaluate, chosen: SearchSettings) -> None:
    """One worker's life: asks, evaluates and tells until all is done."""
    import keras

    from tfsparse import meters
    from tfsparse.search import study

    while study.turn(study_, chosen.trials):
        trial, values = study.asked(study_, space)
        number = study.folder_of(trial)
        try:
            with study.beating(study_, trial):
                outcome = evaluate(number, values, study.parent_of(study_, trial))
        except OSError:  # a full disk is no fault of the configuration
            study.left(study_, trial)
            raise
        except Exception as error:  # one configuration must not end the search
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            study.given_up(study_, trial, why)
            _say(f"Trial {number} is given up: {why}")
            _check_some_worked(study.finished(study_), why)
            continue
        told = [outcome.objectives[name] for name in chosen.names()]
        ended = study.stopped if outcome.stopped else study.told
        ended(study_, trial, told, outcome.to_json())
        shown = ", ".join(f"{k} {v:.4g}" for k, v in outcome.objectives.items())
        after = ", stopped halfway" if outcome.stopped else ""
        _say(f"Trial {number}: {shown} ({outcome.seconds:.0f} s{after})")
        keras.backend.clear_session()
        meters.release_memory()


def _check_some_worked(trials, why: str) -> None:
    """Checks that not all of the first trials were given up.

    Raises:
        ValueError: They were.
    """
    if len(trials) >= HOPELESS and not any(trial.values for trial in trials):
        raise ValueError(
            f"A search must have trials that end well. Received: the first {len(trials)} were "
            f"given up, the last for {why}"
        )


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
