"""What a search hands over: of every point files, test figures and a report; a page of all."""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfsparse import budgets, checkpoints, data, files, progress, records
from tfsparse.deploy import finished, verify
from tfsparse.engine import candidate, scoring, telling
from tfsparse.engine.context import RunContext, strategy_of
from tfsparse.engine.runner import go
from tfsparse.engine.stages.export import (
    Export,
    ExportSettings,
    artifacts_of,
)
from tfsparse.engine.stages.finetune import FineTune, FineTuneSettings
from tfsparse.engine.stages.verify import Verify
from tfsparse.graph import measure
from tfsparse.graph.cost import layer_costs
from tfsparse.records import sections as draw
from tfsparse.report import write_search
from tfsparse.search import dominance, drawing, front, study

FORMATS = ("keras", "tflite_int8")

DISTILLED = 0.7
"""Share of the loss by which a polished point follows the most accurate network."""

DRAWN = 3
"""So many networks of a front are drawn, from the smallest to the most accurate."""

POINTS = "points"

LOCK, HOW = "hand_over.lock", "polished.json"
"""Files: whoever hands over holds the one; the other says how a point was polished."""

RUNS = 20
"""Validation samples on which every file has to run before the test split is opened."""


@dataclasses.dataclass(frozen=True)
class Chosen:
    """How a front is handed over.

    Attributes:
        objectives: Their names.
        limits: Objective -> bound; points beyond are left out.
        polish: Epochs that every point is trained on for.
        rate: Learning rate of them, falling along a cosine.
        config: The search's settings, as JSON.
    """

    objectives: tuple[str, ...]
    limits: Mapping[str, float]
    polish: int
    rate: float
    config: Mapping[str, Any]


def hand_over(
    own: Any,
    evaluate: candidate.Candidates,
    dataset: data.Dataset,
    chosen: Chosen,
    workdir: str,
) -> dict[str, Any]:
    """Exports, verifies and scores the front; writes `pareto.json` and the pages.

    Every network is fixed before the test split is looked at.

    Args:
        own: The study.
        evaluate: What evaluated its trials.
        dataset: The data, test split included.
        chosen: How.
        workdir: Of the search.

    Returns:
        What is in `pareto.json`.

    Raises:
        ValueError: No trial is within the bounds; it says the least that was found.
    """
    os.makedirs(workdir, exist_ok=True)
    with open(os.path.join(workdir, LOCK), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # workers of several machines end together
        return _handed_over(own, evaluate, dataset, chosen, workdir)


def _handed_over(
    own, evaluate, dataset, chosen: Chosen, workdir: str
) -> dict[str, Any]:
    trials = own.get_trials(deepcopy=False)
    asked = {"config": dict(chosen.config), "trials": len(study.finished(own))}
    path = os.path.join(workdir, "pareto.json")
    if os.path.exists(os.path.join(workdir, "report.html")) and os.path.exists(path):
        held = files.read_json(path)
        if {key: held.get(key) for key in asked} == asked:
            return held
    failed: dict[int, str] = {}
    made = _begun(trials, evaluate, dataset, chosen, workdir, failed)
    values = np.array([list(point.objectives.values()) for point in made])
    begun = [made[number] for number in dominance.front_of(values)]
    for point in begun:
        point.context.door.open()
    found = [point.told(trials) for point in begun]
    document = {
        "objectives": list(chosen.objectives),
        "bounds": dict(chosen.limits),
        "trials": asked["trials"],
        "samples": len(dataset.x_test),
        "config": dict(chosen.config),
        "environment": telling.environment(),
        "points": found,
        "failed": [{"trial": number, "why": why} for number, why in failed.items()],
        "sections": [
            section.to_json()
            for section in (
                *drawing.sections(
                    trials, chosen.objectives, dataset.name, found, bool(chosen.polish)
                ),
                _table(found, chosen.objectives),
                *_networks(begun, found, chosen),
            )
        ],
    }
    write_search(document, workdir)
    ours = {os.path.basename(point.folder) for point in begun}
    for name in os.listdir(os.path.join(workdir, POINTS)):
        if name not in ours:  # of a front before this one
            shutil.rmtree(os.path.join(workdir, POINTS, name))
    for point in begun:
        shutil.rmtree(os.path.join(point.folder, "checkpoints"), ignore_errors=True)
    return document


def _begun(trials, evaluate, dataset, chosen: Chosen, workdir, failed) -> list[_Point]:
    """The points of the front as files. What cannot ship is told in `failed`, and left out:
    another may then be on the front in its place.
    """
    made: dict[int, _Point] = {}
    teacher = _teacher(trials, evaluate, chosen)
    while True:
        left = [trial for trial in trials if trial.number not in failed]
        points = within(front.front_among(left), chosen)
        fresh = [trial for trial in points if trial.number not in made]
        if not fresh:
            return [made[trial.number] for trial in points]
        for trial in fresh:
            point = _Point(trial, evaluate, dataset, chosen, workdir, teacher)
            try:
                point.go()
            except (ValueError, records.StripError, records.TrainingError) as error:
                failed[trial.number] = " ".join(str(error).split())[:300]
                if len(failed) == len([t for t in trials if t.values]):
                    raise ValueError(
                        "A search must have a network that can ship. Received: none of "
                        f"{len(failed)}; the last: {failed[trial.number]}"
                    ) from error
                shutil.rmtree(point.folder, ignore_errors=True)
            else:
                made[trial.number] = point


def _teacher(trials, evaluate, chosen: Chosen) -> int | None:
    """The folder of the most accurate network of all, whatever its size; None where nobody
    knows, or none is wanted.
    """
    if not chosen.polish or candidate.ERROR not in chosen.objectives:
        return None
    at = chosen.objectives.index(candidate.ERROR)
    there = [
        trial
        for trial in trials
        if trial.values
        and np.isfinite(trial.values).all()
        and os.path.exists(evaluate.path(study.folder_of(trial), candidate.SMALL))
    ]
    best = min(there, key=lambda trial: trial.values[at], default=None)
    return None if best is None else study.folder_of(best)


def within(points: Sequence, chosen: Chosen) -> list:
    """The points that meet every bound.

    Raises:
        ValueError: None does.
    """
    if not points:
        raise ValueError(
            "A search must have a trial that ended well. Received: none; what they said stands "
            "above."
        )
    limits = {_place(chosen, name): own for name, own in chosen.limits.items()}
    found = [
        trial
        for trial in points
        if all(trial.values[place] <= own for place, own in limits.items())
    ]
    if found:
        return found
    least = {
        name: min((t.values[_place(chosen, name)] for t in points), default=None)
        for name in chosen.limits
    }
    raise ValueError(
        f"`bounds` must leave what the search can find. Received: {dict(chosen.limits)}; the "
        f"least that was found: {least}. Raise them, or --trials."
    )


def _place(chosen: Chosen, name: str) -> int:
    return chosen.objectives.index(name)


class _Point:
    """One point of the front on its way to files."""

    def __init__(self, trial, evaluate, dataset, chosen: Chosen, workdir, teacher):
        self.trial, self.evaluate, self.chosen = trial, evaluate, chosen
        self.number = study.folder_of(trial)
        self.configuration = trial.user_attrs[study.CONFIGURATION]
        self.folder = os.path.join(workdir, POINTS, f"{self.number:04d}")
        self.teacher = teacher
        network = evaluate.network(self.configuration)
        self.method = candidate.method_of(
            evaluate.method, self.configuration, evaluate.epochs, network, evaluate.seed
        )
        self.context = RunContext(
            self.method,
            dataset,
            checkpoints.Store(self.folder),
            progress.Silent(),  # type: ignore[arg-type]
            evaluate.training,
            budgets.Limits(),
            dict(evaluate.augmentation),
            evaluate.seed,
            strategy_of("none"),
        )
        self.results: dict[str, Any] = {"model": records.Result(network)}
        self.stages: list[Any] = [
            Export(ExportSettings(formats=FORMATS), self.method),
            Verify(Verify.settings_class(), self.method),
        ]
        if chosen.polish:
            settings = FineTuneSettings(
                fine_tune_epochs=chosen.polish,
                fine_tune_learning_rate=chosen.rate,
                distill=0.0 if teacher is None else DISTILLED,
            )
            self.stages.insert(0, FineTune(settings, self.method))

    def _model(self, number: int):
        return keras.saving.load_model(
            self.evaluate.path(number, candidate.SMALL), compile=False
        )

    def go(self) -> None:
        """Polishes, if that is wanted, and exports."""
        how = {
            "polish": self.chosen.polish,
            "rate": self.chosen.rate,
            "teacher": self.teacher,
        }
        note = os.path.join(self.folder, HOW)
        if not os.path.exists(note) or files.read_json(note) != how:
            shutil.rmtree(self.folder, ignore_errors=True)  # polished another way
        os.makedirs(self.folder, exist_ok=True)
        files.write_json(note, how)
        small = records.Result(self._model(self.number))
        if self.teacher is not None:
            self.results["dense"] = records.Result(self._model(self.teacher))
        keras.utils.set_random_seed(self.evaluate.seed)
        first = {"model": small, **_no_model(self.results)}
        self.results |= _no_model(go(self.stages, self.context, first))
        artifacts = artifacts_of(self.results["export"])
        few = scoring.as_floats(self.evaluate.dataset.x_validation[:RUNS])
        verify(self.model, artifacts, few)  # whether they run; more is told later

    @property
    def model(self):
        """The network that ships."""
        return self.results["verify"].model

    @functools.cached_property
    def objectives(self) -> dict[str, float]:
        """The objectives of the network that ships, on validation."""
        if not self.chosen.polish:
            return dict(zip(self.chosen.objectives, self.trial.values, strict=True))
        cost = dataclasses.asdict(measure(self.model)) | finished.sizes(
            self.model, self.chosen.objectives
        )
        cost[candidate.ERROR] = self.evaluate.error_of(self.model)
        return {name: float(cost[name]) for name in self.chosen.objectives}

    def told(self, trials) -> dict[str, Any]:
        """The point's report, written; and its entry of `pareto.json`."""
        config = dict(self.chosen.config)
        report = telling.report(self.stages, self.context, self.results, config)
        last, values = report["stages"][-1], self.objectives
        return {
            "trial": self.trial.number,
            "folder": os.path.join(POINTS, os.path.basename(self.folder)),
            **values,
            "test": {
                "what": last["what"],
                "score": last["score"]["value"],
                "file_bytes": last["file_bytes"],
                "arena_bytes": last["arena_bytes"],
            },
            "cost": dataclasses.asdict(measure(self.model)),
            "configuration": self.configuration,
            "lineage": front.lineage_of(trials, self.trial),
            "parity": report["parity"],
        }


def _no_model(results: Mapping[str, Any]) -> dict[str, Any]:
    return {name: own for name, own in results.items() if name != "model"}


def _table(found: Sequence[Mapping], objectives: Sequence[str]) -> draw.Table:
    """Every point: objectives on validation, and the file that ships on the test split."""
    columns = [draw.Column("trial")]
    for name in objectives:
        columns.append(
            draw.Column("validation error", draw.PERCENT)
            if name == candidate.ERROR
            else draw.Column(name.replace("_", " "))
        )
    columns += [
        draw.Column("test score of the int8 file", draw.PERCENT),
        draw.Column("file, B"),
        draw.Column("arena, B"),
        draw.Column("folder", draw.TEXT),
    ]
    ordered = sorted(found, key=lambda point: [point[name] for name in objectives])
    rows = tuple(
        (
            point["trial"],
            *(
                point[n] if n == candidate.ERROR else round(point[n])
                for n in objectives
            ),
            point["test"]["score"],
            point["test"]["file_bytes"],
            point["test"]["arena_bytes"],
            point["folder"],
        )
        for point in ordered
    )
    return draw.Table("The front", tuple(columns), rows)


def _networks(begun, found, chosen: Chosen) -> list[draw.Network]:
    """Drawings of a few points, from the smallest to the most accurate."""
    order = sorted(range(len(found)), key=lambda n: found[n]["cost"]["weight_bytes"])
    few = sorted(
        {round(n * (len(order) - 1) / max(DRAWN - 1, 1)) for n in range(DRAWN)}
    )
    sections = []
    for number in few:
        point = begun[order[number]]
        built = layer_costs(point.results["model"].model)
        told = found[order[number]]
        sections.append(
            telling.network_of(
                {"dense": built, "final": layer_costs(point.model)},
                f"Trial {told['trial']}: {told['cost']['weight_bytes']:,} bytes of weights",
            )
        )
    return sections
