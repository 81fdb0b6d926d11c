"""A search, put together: what evaluates and chooses, one worker's life."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfsparse import data, options
from tfsparse.engine.training import Training
from tfsparse.search.admission import Admission
from tfsparse.search.sampler import SAMPLERS
from tfsparse.search.settings import METHODS, TABLE, SearchSettings

STORAGE = "TFSPARSE_SEARCH_STORAGE"
"""The address of the trials, for a worker: no command line shows its password."""

HOPELESS = 5
"""If so many trials were given up and none ended well, the search ends."""


@dataclasses.dataclass(frozen=True)
class Search:
    """A search that has begun.

    Attributes:
        chosen: What is sought.
        study: Where its trials are, see `search.study`.
        space: What configurations are of.
        evaluate: What tries one, an `engine.candidate.Candidates`.
        dataset: The data, test split included.
        config: All settings, as JSON.
    """

    chosen: SearchSettings
    study: Any
    space: Any
    evaluate: Any
    dataset: data.Dataset
    config: dict[str, Any]

    def work(self) -> None:
        """One worker's life: asks, evaluates and tells until all is done."""
        from tfsparse.search import study

        watch = study.Watch(study.GRACE)
        while study.turn(self.study, self.chosen.trials, watch):
            try:
                trial, values = study.asked(self.study, self.space)
            except ValueError as error:
                if not any(t.values for t in study.finished(self.study)):
                    raise
                say(f"The search ends early: {' '.join(str(error).split())}")
                return
            self.tried(trial, values)

    def tried(self, trial, values):
        """Evaluates what was asked for, and tells how it ended.

        Returns:
            The outcome; None of a trial that was given up.

        Raises:
            ValueError: None of the first trials ended well.
            OSError: The disk is full; the trial goes back to the queue.
            Exception: The database failed; so does it.
        """
        import keras

        from tfsparse import meters
        from tfsparse.search import study

        number = study.folder_of(trial)
        parent = study.parent_of(self.study, trial)
        try:
            with study.beating(self.study, trial):
                outcome = self.evaluate(
                    number,
                    values,
                    parent,
                    further=lambda epochs: study.progressed(self.study, trial, epochs),
                )
        except (OSError, *study.faults()):  # no fault of the configuration
            with contextlib.suppress(*study.faults()):
                study.left(self.study, trial)
            raise
        except Exception as error:  # one configuration must not end the search
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            study.given_up(self.study, trial, why)
            say(f"Trial {number} is given up: {why}")
            _check_some_worked(study.finished(self.study), why)
            return None
        finally:
            keras.backend.clear_session()
            meters.release_memory()
        told = [outcome.objectives[name] for name in self.chosen.names()]
        ended = study.stopped if outcome.stopped else study.told
        ended(self.study, trial, told, outcome.to_json())
        shown = ", ".join(f"{k} {v:.4g}" for k, v in outcome.objectives.items())
        after = ", stopped halfway" if outcome.stopped else ""
        say(f"Trial {number}: {shown} ({outcome.seconds:.0f} s{after})")
        if parent is not None and outcome.inherited is None and outcome.epochs:
            say(f"Trial {number} began anew: what trial {parent} left is not here.")
        return outcome

    def hand_over(self) -> dict[str, Any]:
        """Writes the front: files, pages, `pareto.json`; returns what is in it."""
        from tfsparse.engine import searched

        chosen = self.chosen
        wanted = searched.Chosen(
            chosen.names(),
            chosen.limits(),
            chosen.polish,
            chosen.polish_learning_rate,
            self.config,
        )
        return searched.hand_over(
            self.study, self.evaluate, self.dataset, wanted, chosen.workdir
        )


def begun(
    chosen: SearchSettings, source: data.Data, training: Training, hypermodel=None
) -> Search:
    """A search whose study is open.

    Args:
        chosen, source, training: What is searched.
        hypermodel: A user's own space, in place of what `chosen.model` names.

    Raises:
        ValueError: The data are of another task, or the storage holds another search.
    """
    from tfsparse import methods
    from tfsparse.engine import candidate, sealed
    from tfsparse.engine.runner import check
    from tfsparse.search import study

    dataset = data.read(source)
    if dataset.task.kind != "classification":
        raise ValueError(
            "`data` must be of classes: the search knows no other task. Received: "
            f"{dataset.task.kind}."
        )
    check(source, training, dataset)
    names = chosen.names()
    space, build, dataset = _space_of(chosen, dataset, hypermodel)
    evaluate = candidate.Candidates(
        sealed.Door(dataset).dataset,
        os.path.join(chosen.workdir, "trials"),
        methods.METHODS[chosen.method],  # type: ignore[arg-type]
        chosen.epochs,
        names,
        training,
        chosen.seed,
        data.parse_augmentation(source.augment),
        build,
    )
    os.makedirs(chosen.workdir, exist_ok=True)
    held = os.path.abspath(os.path.join(chosen.workdir, "study.db"))
    what = _what(chosen, source, training, space, dataset)
    storage = chosen.storage or os.environ.get(STORAGE) or f"sqlite:///{held}"
    own = _sampler_of(chosen, space, build, dataset.shape, evaluate.outputs)
    opened = study.opened(storage, names, what, own)
    told = json.dumps(what, sort_keys=True).encode()
    evaluate = dataclasses.replace(
        evaluate,
        mark=hashlib.sha256(told).hexdigest()[:16],
        hopeless=_hopeless(opened, names) if chosen.stop_hopeless else None,
    )
    config = {
        key: value
        for part in (chosen, source, training)
        for key, value in part.get_config().items()
    }
    config["storage"] = study.shown(config["storage"])
    if hypermodel is not None:
        config["model"] = f"{type(hypermodel).__module__}:a hyper-model of Python"
    return Search(chosen, opened, space, evaluate, dataset, config)


def _space_of(chosen: SearchSettings, dataset: data.Dataset, hypermodel):
    """The space, what builds a network of it, and the data as its networks answer them."""
    from tfsparse import search

    if chosen.model == TABLE and hypermodel is None:
        structured = METHODS[chosen.method]
        space = search.Space(search.table_7(dataset.shape, structured))
        return space, search.build, dataset
    space, build = search.searched(hypermodel or search.named(chosen.model))
    return space, build, _answered(dataset, space, build, chosen)


def _sampler_of(chosen: SearchSettings, space, build, shape, outputs: int):
    """What chooses the next configuration."""
    from tfsparse import search

    limits = chosen.limits()
    smallest = search.smallest if build is search.build else None
    return SAMPLERS[chosen.sampler](
        space,
        startup=chosen.startup,
        bounds=[limits.get(name) for name in chosen.names()],
        admits=Admission(chosen, build, smallest, shape, outputs),
        seed=chosen.seed,
    )


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
        "seed": chosen.seed,
        "digest": _digest(dataset),
    }


def _digest(dataset: data.Dataset) -> str:
    """Tells data of one place and size apart: of some samples and all labels."""
    found = hashlib.sha256()
    for x, y in (
        (dataset.x_train, dataset.y_train),
        (dataset.x_validation, dataset.y_validation),
    ):
        step = max(1, len(x) // SEEN)
        found.update(np.ascontiguousarray(np.asarray(x[::step])).tobytes())
        found.update(np.ascontiguousarray(np.asarray(y)).tobytes())
    return found.hexdigest()[:16]


SEEN = 100
"""Samples that a digest looks at."""


def _answered(dataset: data.Dataset, space, build, chosen: SearchSettings):
    """The data, their task as a user's networks answer it: logits or probabilities.

    Raises:
        ValueError: The networks do not fit the data or the task.
    """
    from tfsparse.graph import trace
    from tfsparse.graph.ends import activation_at_end

    first = space.sample(np.random.default_rng(chosen.seed))
    model = build(first, dataset.shape, int(np.prod(dataset.task.shape)))
    end = activation_at_end(trace.read(model)) or ""
    task = dataset.task.fitted(model.output_shape[1:], end, chosen.model)
    return dataclasses.replace(dataset, task=task)


def _hopeless(own, names: Sequence[str]):
    """Whether a trial, halfway, is left behind by those before it."""
    from tfsparse.search import dominance, study

    def hopeless(halfway) -> bool:
        told = [
            trial.user_attrs.get(study.OUTCOME, {}).get("halfway")
            for trial in study.finished(own)
        ]
        others = [[held[name] for name in names] for held in told if held]
        return dominance.hopeless([halfway[name] for name in names], others)

    return hopeless


def _json(distribution) -> str:
    from optuna import distributions

    return distributions.distribution_to_json(distribution)


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


def say(text: str) -> None:
    """Tells a person something."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
