"""The search as a keras-tuner tuner: its oracle asks the study."""

from __future__ import annotations

import os
from typing import Any

import keras
import keras_tuner
import numpy as np

from tfsparse import data, files, options
from tfsparse.engine.training import Training
from tfsparse.search import front, job, study
from tfsparse.search.settings import SearchSettings


class StudyOracle(keras_tuner.Oracle):
    """Asks an Optuna study for trials, and tells it how they ended.

    keras-tuner knows one objective: the first one; the others ride along as metrics. The
    front is the tuner's `front`.
    """

    def __init__(self, objective: str, max_trials: int, hyperparameters):
        super().__init__(
            keras_tuner.Objective(objective, "min"),
            max_trials=max_trials,
            hyperparameters=hyperparameters,
            allow_new_entries=False,
        )
        self.search: job.Search | None = None
        self.asked: dict[str, Any] = {}

    def create_trial(self, tuner_id):
        """The next trial of the study, or a stopped one where all are done."""
        own = self.search
        if own is None or not study.turn(own.study, own.chosen.trials):
            return keras_tuner.engine.trial.Trial(
                keras_tuner.HyperParameters(),
                status=keras_tuner.engine.trial.TrialStatus.STOPPED,
            )
        trial, values = study.asked(own.study, own.space)
        hp = self.hyperparameters.copy()
        hp.values = dict(values)
        told = keras_tuner.engine.trial.Trial(
            hp,
            trial_id=f"{study.folder_of(trial):04d}",
            status=keras_tuner.engine.trial.TrialStatus.RUNNING,
        )
        self.ongoing_trials[tuner_id] = told
        self.trials[told.trial_id] = told
        self.start_order.append(told.trial_id)
        self.asked[told.trial_id] = trial, values
        return told

    def end_trial(self, trial):
        """The study knows; keras-tuner's own list is brought up to date."""
        held = self.trials[trial.trial_id]
        held.status = trial.status
        held.message = trial.message
        if trial.status == keras_tuner.engine.trial.TrialStatus.COMPLETED:
            held.score = trial.metrics.get_best_value(self.objective.name)
            held.best_step = trial.best_step or 0
        self.ongoing_trials = {
            tuner: own
            for tuner, own in self.ongoing_trials.items()
            if own.trial_id != trial.trial_id
        }
        self.end_order.append(trial.trial_id)


class Tuner(keras_tuner.Tuner):
    """Searches networks that are pruned, as `python -m tfsparse.search` does, from Python.

    Args:
        hypermodel: A `keras_tuner.HyperModel` or a function of `hp`, whose network takes the
            samples and puts out logits or probabilities; None searches the space of SpArSe.
        objectives: `error` and any measure of a target; all are made small.
        max_trials: How many configurations are tried.
        bounds: Objective -> up to where it matters.
        method: What prunes every trial, `bayesian_compression` or `sparse_vd`.
        epochs: Of a trial.
        learning_rate: Of a trial.
        storage: Database of the trials; a file of the project's folder by default.
        seed: Of everything random.
        directory, project_name: Where all of it lies.
        **settings: Others of `python -m tfsparse.search`: startup, sampler, stop_hopeless.

    Example:
        >>> tuner = tfsparse.search.Tuner(objectives=("error", "weight_bytes"), max_trials=30)
        >>> tuner.search(x, y)
        >>> small = tuner.get_best_models()[0]
        >>> [(point.values, tuner.load_model_of(point)) for point in tuner.front()]
    """

    def __init__(
        self,
        hypermodel=None,
        objectives: tuple[str, ...] = ("error", "weight_bytes", "working_memory_2"),
        max_trials: int = 60,
        bounds: dict[str, float] | None = None,
        method: str = "bayesian_compression",
        epochs: int = 20,
        learning_rate: float | None = None,
        storage: str = "",
        seed: int = 0,
        directory: str = "runs",
        project_name: str = "tuner",
        **settings: Any,
    ):
        self._own_model = hypermodel
        if "workers" in settings:
            raise ValueError(
                "`workers` must be left to the program: run python -m tfsparse.search, or "
                "several of your own processes with one storage and directory. Received: "
                f"workers={settings['workers']}."
            )
        self._chosen = SearchSettings(
            workdir=os.path.join(directory, project_name),
            method=method,
            objectives=",".join(objectives),
            bounds=options.as_text(bounds or {}),
            trials=max_trials,
            epochs=epochs,
            storage=storage,
            seed=seed,
            **settings,
        )
        self._training = (
            Training()
            if learning_rate is None
            else Training(learning_rate=learning_rate)
        )
        self._search: job.Search | None = None
        oracle = StudyOracle(objectives[0], max_trials, keras_tuner.HyperParameters())
        super().__init__(
            oracle=oracle,
            hypermodel=_Nothing(),
            directory=directory,
            project_name=project_name,
        )

    def search(self, x, y=None, validation_data=None, **unknown):
        """Tries configurations on arrays until all are done; a search that was stopped goes on.

        Args:
            x, y: Samples, and their classes.
            validation_data: `(x, y)`; by default a tenth of the samples, every class alike.
                Another part is set aside for `hand_over`, which scores the front on it.

        Raises:
            ValueError: The arrays cannot be used, or the folder holds another search.
        """
        if unknown:
            raise ValueError(
                "`search` must be given x, y and validation_data. Received: "
                f"{sorted(unknown)}; epochs are the tuner's own."
            )
        self._search = job.begun(
            self._chosen,
            self._stored(x, y, validation_data),
            self._training,
            self._own_model,
        )
        self.oracle.search = self._search
        try:
            super().search()
        except keras_tuner.errors.FatalError as error:
            raise error.__cause__ or error from None

    def _stored(self, x, y, validation_data) -> data.Data:
        """The arrays as a file, which a worker on the same machine may read, too."""
        given = {"x": x, "y": y}
        if validation_data is not None:
            names = ("x_train", "y_train", "x_val", "y_val")
            given = dict(zip(names, (x, y, *validation_data), strict=True))
        arrays = {name: np.asarray(own) for name, own in given.items()}
        shapes = {name: own.shape for name, own in arrays.items()}
        pairs = list(arrays.values())
        if any(own.ndim == 0 for own in pairs) or any(
            len(a) != len(b) for a, b in zip(pairs[::2], pairs[1::2], strict=True)
        ):
            raise ValueError(
                "`search` must be given x and y, one class for each sample. Received arrays of "
                f"shapes {shapes}."
            )
        os.makedirs(self._chosen.workdir, exist_ok=True)
        path = os.path.join(self._chosen.workdir, "data.npz")
        with files.appears_whole(path) as temporary, open(temporary, "wb") as file:
            np.savez(
                file, allow_pickle=False, **arrays
            )  # others than before are another search: refused
        return data.Data(data=path)

    def run_trial(self, trial, *args, **kwargs):
        """Trains and prunes one configuration; its objectives as metrics."""
        own, values = self.oracle.asked.pop(trial.trial_id)
        try:
            outcome = self._begun().tried(own, values)
        except Exception as error:  # of the search: keras-tuner would only note it
            raise keras_tuner.errors.FatalError(str(error)) from error
        if outcome is None or outcome.stopped:
            raise keras_tuner.errors.FailedTrialError("It was stopped, or given up.")
        return dict(outcome.objectives)

    def _begun(self) -> job.Search:
        if self._search is None:
            raise ValueError("`search` must have been called. Received: no search yet.")
        return self._search

    def front(self) -> list:
        """Trials that no other is better than in everything, of Optuna's study."""
        return front.front(self._begun().study)

    def load_model_of(self, trial):
        """The pruned network of a trial of the front."""
        return self._loaded(study.folder_of(trial))

    def load_model(self, trial):
        """The pruned network of a trial of keras-tuner's."""
        return self._loaded(int(trial.trial_id))

    def _loaded(self, number: int):
        path = self._begun().evaluate.path(number, "model.keras")
        return keras.saving.load_model(path, compile=False)

    def hand_over(self) -> dict[str, Any]:
        """Exports, verifies and scores the front, see `python -m tfsparse.search`."""
        return self._begun().hand_over()


class _Nothing(keras_tuner.HyperModel):
    """keras-tuner builds nothing here: a trial's network comes from its configuration."""

    def build(self, hp):
        inputs = keras.Input((1,))
        return keras.Model(inputs, inputs)
