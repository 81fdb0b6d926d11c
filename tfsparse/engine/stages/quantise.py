"""How the numbers of the shipped file are stored, and training that expects it."""

from __future__ import annotations

import importlib.util

from tfsparse import budgets, options, records
from tfsparse.engine import stage

QAT, LIBRARY = "qat", "tensorflow_model_optimization"

KINDS = ("int8", QAT, *records.QUANTISED[1:], "none")
"""What may be asked for."""


@options.record
class QuantiseSettings(options.Options):
    """Numbers of the shipped file."""

    part = "The quantise stage: numbers of the shipped file"

    quantise: str = options.field(
        "int8",
        "Numbers of the TFLite file: int8, set after training; qat, int8 for which the "
        "network is trained a little more (quantisation-aware, needs tfsparse[qat]); int16x8, "
        "finer activations; float16 or dynamic, which no microcontroller interpreter runs; "
        "none for a float file alone.",
        choices=KINDS,
    )
    qat_epochs: int = options.field(
        5,
        "Epochs of quantisation-aware training, and of training with clusters.",
        low=1,
    )
    qat_learning_rate: float = options.field(
        3e-4, "Learning rate of that training, falling to 0 along a cosine.", above=0
    )
    clusters: str = options.field(
        "none",
        "How many different weights an output channel may have: 2 to 128, auto for the "
        "fewest that cost nothing on validation, none for any. --compress stores them in 1 "
        "to 7 bits each.",
    )

    def check(self) -> None:
        """Checks the number of clusters."""
        if self.clusters not in ("none", "auto") and not (
            self.clusters.isascii()
            and self.clusters.isdigit()
            and 2 <= int(self.clusters) <= 128
        ):
            raise ValueError(
                "`clusters` must be none, auto or a number from 2 to 128, the most that a "
                f"table of TensorFlow Lite Micro holds. Received: {self.clusters!r}."
            )

    @property
    def kind(self) -> str:
        """Of `records.QUANTISED`, or `none`."""
        return "int8" if self.quantise == QAT else self.quantise

    @property
    def trains(self) -> bool:
        """Whether the network is trained once more."""
        return self.quantise == QAT or self.clusters != "none"


class Quantise(stage.Stage):
    """Says which file ships; trains the network for it where that was asked for.

    Its facts are `kind`, and what training led to.
    """

    name = "quantise"
    settings_class = QuantiseSettings
    inputs = ("dense",)

    def check(self, stages):
        settings = self.settings
        own = settings.chosen()
        if not settings.trains and {"qat_epochs", "qat_learning_rate"} & set(own):
            raise ValueError(
                "`qat_epochs` and `qat_learning_rate` must come with quantise=qat or "
                f"clusters. Received: quantise={settings.quantise}."
            )
        if settings.quantise == QAT and importlib.util.find_spec(LIBRARY) is None:
            raise ValueError(
                "`quantise=qat` must have tensorflow-model-optimization. Received: none; "
                "`pip install tfsparse[qat]` brings it."
            )
        tuned = getattr(stages.get("finetune"), "settings", None)
        self._distill = getattr(tuned, "distill", 0.0)
        self._temperature = getattr(tuned, "distill_temperature", 3.0)
        for other in stages.values():
            target = budgets.parse(getattr(other.settings, "target", "") or "")
            finished = [name for name in target or () if name in budgets.FINISHED]
            if finished and settings.kind not in records.ON_MICRO:
                raise ValueError(
                    f"`target` may name {' and '.join(finished)} of a file for "
                    f"microcontrollers. Received: quantise={settings.quantise}."
                )

    def rehearse(self, context, model):
        settings = self.settings
        if settings.kind not in records.ON_MICRO:
            what = (
                "a float file" if settings.kind == "none" else f"a {settings.kind} file"
            )
            context.progress.say(
                f"quantise={settings.quantise}: {what} does not run on TensorFlow Lite "
                "Micro, so no memory is told of and nothing is checked there."
            )
        if settings.quantise == QAT:
            from tfsparse.engine import aware

            aware.check(context, model)

    def run(self, context, before, dense=None):
        facts = {"kind": self.settings.kind}
        if not self.settings.trains:
            return records.Result(before.model, facts=facts)
        from tfsparse.engine import aware

        teacher = dense.model if dense and self._distill else None
        found = aware.train(context, self._plan(), before.model, teacher)
        return records.Result(found.model, found.history, facts | found.facts)

    def _plan(self):
        from tfsparse.engine import aware

        settings = self.settings
        return aware.Plan(
            settings.quantise == QAT,
            settings.clusters,
            settings.qat_epochs,
            settings.qat_learning_rate,
            self._distill,
            self._temperature,
        )

    def beside(self, context, before, *, model, teacher, folder, plan):
        """Quantisation-aware training of a network that lies in a file."""
        import keras

        from tfsparse.engine import aware, simulated

        def load(path):
            return keras.saving.load_model(path, compile=False, safe_mode=True)

        taught = load(teacher) if teacher else None
        return simulated.train(context, aware.Plan(**plan), load(model), taught, folder)

    def tell(self, context, results):
        from tfsparse.engine import scoring
        from tfsparse.engine.stages.export import with_file

        result, settings = results[self.name], self.settings
        if not settings.trains:
            return stage.Told()
        what = " and ".join(
            filter(
                None,
                [
                    "trained with simulated int8" if settings.quantise == QAT else "",
                    "with few different weights" if settings.clusters != "none" else "",
                ],
            )
        )
        if not result.facts.get("qat_kept", True):
            what = (
                "what is exported: as it was before training with simulated int8, which "
                "made the int8 file worse on validation than chance explains"
            )
        row = scoring.model_row(
            "quantised", what, context, result.model, result.seconds
        )
        row = with_file(row, results)
        facts = {"quantise_history": result.history, "quantise": result.facts}
        return stage.Told([row], facts)
