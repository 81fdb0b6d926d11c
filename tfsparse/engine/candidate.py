"""Tries a configuration of a search: builds it, trains it small, measures what is left."""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfsparse import (
    budgets,
    checkpoints,
    data,
    files,
    progress,
    records,
    search,
)
from tfsparse.deploy import finished
from tfsparse.engine import filling, finishing, limiting, scoring
from tfsparse.engine.context import RunContext, strategy_of
from tfsparse.engine.prunable import prunable
from tfsparse.engine.runner import go
from tfsparse.engine.stages.dense import Dense, DenseSettings
from tfsparse.engine.stages.sparse import Sparse, SparseSettings
from tfsparse.engine.training import Training
from tfsparse.graph import measure, rebuild
from tfsparse.methods import Method, bayesian
from tfsparse.search.front import ERROR

AFTER = 5
"""Epochs with the whole divergence that a schedule leaves at least."""

THRESHOLDS = "pruning-thresholds-"

POSTERIOR, SMALL, CONFIGURATION = "posterior.keras", "model.keras", "configuration.json"
HALFWAY, INHERITED, OUTCOME = "halfway.json", "inherited.json", "outcome.json"
"""Files of a trial's folder: what children take over, what is left, what was asked for, the
objectives after half of the epochs, what came from the parent, how it ended."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a configuration.

    Attributes:
        objectives: Name -> value, of every objective that was asked for.
        cost: What is left, by measure.
        inherited: What came from the parent; None without one.
        epochs: That it was trained for, pretraining included; 0 where thresholds alone are
            others.
        seconds: Of wall time.
        halfway: The objectives after half of the epochs, where others are measured by them.
        stopped: Whether it ended there; the objectives are then those.
    """

    objectives: dict[str, float]
    cost: dict[str, float]
    inherited: dict | None
    epochs: int
    seconds: float
    halfway: dict[str, float] | None = None
    stopped: bool = False

    def to_json(self) -> dict:
        """As JSON."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Evaluates configurations of one search.

    Args:
        dataset: The data; their test split stays where it is.
        folder: Each trial's folder lies in it, by its number.
        method: A Bayesian one.
        epochs: Of a trial.
        objectives: What is measured, of `search.front.OBJECTIVES`.
        training: How every trial trains.
        seed: Of everything random.
        augmentation: What is done to training samples, see `data.parse_augmentation`.
        build: `(configuration, shape, outputs) -> model`.
        hopeless: Objectives after half of the epochs -> whether to stop there; None never.
        mark: Tells the search: what another one left in the folder is not gone on with.

    Example:
        >>> evaluate = Candidates(dataset, "runs/search/trials", method, 20, ("error",))
        >>> evaluate(0, configuration).objectives
        {'error': 0.021}
    """

    dataset: data.Dataset
    folder: str
    method: type[bayesian.Bayesian]
    epochs: int
    objectives: Sequence[str] = (ERROR, "weight_bytes")
    training: Training = Training()
    seed: int = 0
    augmentation: Mapping[str, float] = dataclasses.field(default_factory=dict)
    build: Any = search.build
    hopeless: Callable[[dict[str, float]], bool] | None = None
    mark: str = ""

    def __call__(
        self,
        number: int,
        configuration: Mapping[str, Any],
        parent: int | None = None,
        shown: Any = None,
        further: Callable[[int], None] = lambda epochs: None,
    ) -> Outcome:
        """Trains a configuration, or goes on where a killed worker stopped.

        Args:
            number: Of the trial.
            configuration: Active parameters.
            parent: Number of the trial whose posterior it takes over; None for none.
            shown: What a person sees; nothing by default.
            further: Called after each epoch with how many there were.

        Returns:
            The outcome; its folder holds the unpruned posterior and the small model.

        Raises:
            TrainingError: It led nowhere.
        """
        started = time.perf_counter()
        values = dict(configuration)
        store = self._folder_of(number, values)
        if os.path.exists(store.path(OUTCOME)):  # killed between its end and telling so
            return Outcome(**files.read_json(store.path(OUTCOME)))
        if parent is not None and not os.path.exists(self.path(parent, POSTERIOR)):
            parent = None  # it lies on another machine, or was removed
        keras.utils.set_random_seed((self.seed * 1_000_003 + number) % 2**32)
        model = self.network(values)
        method = method_of(self.method, values, self.epochs, model, self.seed)
        context = _Context(
            self, method, store, shown or progress.Silent(), parent, further
        )
        sizes = limiting.sizes_of(prunable(model, method.kinds))
        if parent is not None and self._differs_by_thresholds(values, parent):
            trained, epochs = context.parents(), 0
        else:
            context.sizes, epochs = sizes, self.epochs
            pretrains = self._pretrains(values, parent)
            try:
                trained = self._trained(context, method, pretrains, model)
            except _Stopped:
                epochs = self.epochs // 2
            epochs += self.epochs if pretrains else 0
        halfway, inherited = context.kept(HALFWAY), context.kept(INHERITED)
        if context.stopped:
            spent = time.perf_counter() - started
            return _ended(
                store,
                Outcome(halfway or {}, {}, inherited, epochs, spent, halfway, True),
            )
        _save(rebuild.copied(trained), store.path(POSTERIOR))
        small, _ = finishing.finish(trained, method, budgets.Limits(), sizes)
        _save(small, store.path(SMALL))
        cost = dataclasses.asdict(measure(small)) | finished.sizes(
            small, self.objectives
        )
        cost["layers"] = len(small.layers)
        found = self.named({**cost, ERROR: self.error_of(small)})
        spent = time.perf_counter() - started
        cost = {k: float(v) for k, v in cost.items()}
        return _ended(store, Outcome(found, cost, inherited, epochs, spent, halfway))

    def network(self, values: Mapping[str, Any]):
        """The untrained network of a configuration; columns of any range come in scaled."""
        model = self.build(values, self.dataset.shape, self.outputs)
        if self.dataset.scaled:
            return model
        mean, deviation = self.dataset.statistics()
        inputs = keras.Input(self.dataset.shape, name="columns")
        own = keras.layers.Normalization(
            mean=mean.tolist(), variance=np.square(deviation).tolist(), name="scaling"
        )
        return rebuild.flat(keras.Model(inputs, model(own(inputs)), name=model.name))

    @property
    def outputs(self) -> int:
        """Outputs of a network."""
        shape = self.dataset.task.shape
        return shape[0] if shape else 1

    def named(self, found: Mapping[str, float]) -> dict[str, float]:
        """The objectives, in their order."""
        return {name: float(found[name]) for name in self.objectives}

    def error_of(self, model) -> float:
        """What is wrong on validation; smaller is better."""
        score = scoring.score(
            self.dataset.task.on_validation,
            model,
            self.dataset.x_validation,
            self.dataset.y_validation,
        )
        return 1.0 - score.value if score.higher_is_better else score.value

    def _pretrains(self, values: Mapping[str, Any], parent: int | None) -> bool:
        """Whether the network is trained first; what a child takes over is trained already."""
        return bool(values.get("pretraining", False)) and parent is None

    def _trained(self, context, method, pretrains: bool, model):
        """The model with its posterior, nothing removed."""
        dense = Dense(DenseSettings(dense_epochs=self.epochs if pretrains else 0), None)
        sparse = Sparse(
            SparseSettings(
                epochs=self.epochs,
                shrink_epochs=self.epochs,
                remove=False,
                from_dense=pretrains,
            ),
            method,
        )
        results = go([dense, sparse], context, {"model": records.Result(model)})
        found: Any = results["sparse"]
        return found.model

    def _folder_of(self, number: int, values: Mapping[str, Any]) -> checkpoints.Store:
        """A trial's folder; what another search left there is removed."""
        folder = os.path.join(self.folder, f"{number:04d}")
        path = self.path(number, CONFIGURATION)
        if os.path.exists(folder) and not (
            os.path.exists(path) and files.read_json(path) == self._kept(values)
        ):
            shutil.rmtree(folder)
        os.makedirs(folder, exist_ok=True)
        files.write_json(path, self._kept(values))
        return checkpoints.Store(folder)

    def _kept(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {"search": self.mark, "values": dict(values)}

    def _differs_by_thresholds(self, values: Mapping[str, Any], parent: int) -> bool:
        before = files.read_json(self.path(parent, CONFIGURATION))["values"]
        other = {
            name
            for name in values.keys() | before.keys()
            if values.get(name) != before.get(name)
        }
        return all(name.startswith(THRESHOLDS) for name in other)

    def path(self, number: int, name: str) -> str:
        """A file of a trial's folder."""
        return os.path.join(self.folder, f"{number:04d}", name)


class _Stopped(Exception):
    """A trial that is not gone on with."""


class _Context(RunContext):
    """A trial's run: what it begins with is its parent's."""

    def __init__(
        self, own: Candidates, method, store, shown, parent: int | None, further
    ):
        super().__init__(
            method,
            own.dataset,
            store,
            shown,
            own.training,
            budgets.Limits(),
            dict(own.augmentation),
            own.seed,
            strategy_of("none"),
        )
        self._own, self.parent, self._further = own, parent, further
        self.sizes: Mapping[str, int] = {}
        self.stopped = False

    def fit_epoch(self, model, name, epoch, rate, bar, fitted=None):
        found = super().fit_epoch(model, name, epoch, rate, bar, fitted)
        self._further(epoch + 1 + (self._own.epochs if name == "sparse" else 0))
        if (
            self._own.hopeless
            and name == "sparse"
            and epoch + 1 == self._own.epochs // 2
        ):
            self._look(model, self._own.hopeless)
        return found

    def _look(self, model, hopeless) -> None:
        """Measures a trial halfway, and ends it if it leads nowhere.

        Raises:
            _Stopped: It does not.
        """
        method: Any = self.method
        groups = prunable(model, method.kinds)
        keep = budgets.spare_one(method.keep(model, groups))
        wanted = dict.fromkeys((n for n in self._own.objectives if n != ERROR), 1.0)
        try:
            found = filling.left(model, groups, keep, wanted, self.limits, self.sizes)
        except (ValueError, records.StripError):  # it may be better once it has trained
            return
        halfway = self._own.named({**found, ERROR: self._own.error_of(model)})
        files.write_json(self.store.path(HALFWAY), halfway)
        self.stopped = hopeless(halfway)
        if self.stopped:
            raise _Stopped

    def kept(self, name: str) -> Any:
        """What a file of the trial holds, written before it was killed, too; or None."""
        path = self.store.path(name)
        return files.read_json(path) if os.path.exists(path) else None

    def parents(self):
        """The parent's model with its posterior."""
        path = self._own.path(self.parent or 0, POSTERIOR)
        with self.scope():
            return keras.saving.load_model(path, compile=False, safe_mode=True)

    def begin(self, model) -> None:
        if self.parent is not None:
            found = search.inherit(model, self.parents())
            files.write_json(self.store.path(INHERITED), found.to_json())


def _ended(store: checkpoints.Store, outcome: Outcome) -> Outcome:
    """Writes down how a trial ended, then removes what it would have gone on from."""
    files.write_json(store.path(OUTCOME), outcome.to_json())
    shutil.rmtree(store.path("checkpoints"), ignore_errors=True)
    return outcome


def _save(model, path: str) -> None:
    """Writes a model without its optimizer; the file appears whole."""
    with files.appears_whole(path) as temporary:
        model.save(f"{temporary}.keras")
        os.rename(f"{temporary}.keras", temporary)


def method_of(
    cls: type[bayesian.Bayesian],
    values: Mapping[str, Any],
    epochs: int,
    model,
    seed: int = 0,
) -> Method:
    """The method as a configuration has it.

    In trials shorter than N1 + N2 + 5 epochs N1 and N2 shrink in proportion. Thresholds of a
    layer hold for all that stands in its place (a depthwise convolution before it, say).

    Args:
        cls: A Bayesian one.
        values: The configuration.
        epochs: Of the trial.
        model: The network, whose layers and groups thresholds are for.
        seed: Of the noise.
    """
    first = values.get("zero-regularization-epochs", 0)
    second = values.get("annealing-epochs", 0)
    most = max(epochs - AFTER, 0)
    if first + second > most:
        share = most / (first + second)
        first, second = int(share * first), int(share * second)
    names = cls().thresholded(model, prunable(model, cls().kinds))
    wanted = {}
    for name, value in values.items():
        if name.startswith(THRESHOLDS):
            block, number = name.removeprefix(f"{THRESHOLDS}block-").split("-layer-")
            pattern = f"block{block}_conv{number}*"
            if any(fnmatch.fnmatchcase(own, pattern) for own in names):
                wanted[pattern] = value
    thresholds = ",".join(f"{k}={v:g}" for k, v in wanted.items())
    settings: Any = {
        "strength": values.get("alpha", cls().strength),
        "pretrain_epochs": first,
        "warm_up_epochs": second,
        "layer_thresholds": thresholds,
        "seed": seed,
    }
    return cls(**settings)
