"""Fine-tuning of the stripped network; the better of before and after ships."""

from __future__ import annotations

import functools

from tfsparse import options, records
from tfsparse.engine import stage, training
from tfsparse.engine.stages.dense import copied
from tfsparse.engine.stages.export import with_file


@options.record
class FineTuneSettings(options.Options):
    """Fine-tuning."""

    part = "The finetune stage: training of the stripped network"

    fine_tune_epochs: int = options.field(
        5, "Epochs of training of the stripped network; 0 for none.", low=0
    )
    fine_tune_optimizer: str = options.field(
        "same",
        "Optimizer of fine-tuning; same is --optimizer's.",
        choices=("same", *training.OPTIMIZERS),
    )
    fine_tune_learning_rate: float = options.field(
        1e-3, "Learning rate of fine-tuning, falling to 0 along a cosine.", low=0
    )
    retrain: str = options.field(
        "inherit",
        "Whether fine-tuning goes on from the weights that were found, or trains the same "
        "network from scratch.",
        choices=("inherit", "scratch"),
    )
    drop_path: float = options.field(
        0.0,
        "Probability at the end of fine-tuning that an operation whose output is added to "
        "others is left out of a sample while it trains; it grows from 0. Inputs that are "
        "added as they are always stay.",
        low=0,
        below=1,
    )
    auxiliary: float = options.field(
        0.0,
        "Weight of the loss of a second classifier behind two thirds of the cells, which "
        "fine-tuning has beside the last one; 0 for none. It does not ship.",
        low=0,
    )
    distill: float = options.field(
        0.0,
        "Share of the loss by which fine-tuning follows the dense stage's answers, too; 0 "
        "for the labels alone.",
        low=0,
        high=1,
    )
    distill_temperature: float = options.field(
        3.0,
        "Temperature of the dense stage's answers under --distill; larger tells more of the "
        "classes that it takes for unlikely.",
        low=0.1,  # float32 sees no answers beyond
        high=100,
    )


class FineTune(stage.Stage):
    """Trains the stripped network; it ships as it was if that harmed it beyond chance.

    A few validation samples more or less say nothing: see `scoring.worse`.
    """

    name = "finetune"
    settings_class = FineTuneSettings
    inputs = ("dense",)
    folder = "finetuned"

    def check(self, stages):
        dense = stages.get("dense")
        if self.settings.distill and not (dense and dense.settings.dense_epochs):
            raise ValueError(
                "`distill` must be 0 without --dense_epochs. Received: "
                f"distill={self.settings.distill}."
            )
        asked = {
            "retrain": self.settings.retrain == "scratch",
            "drop_path": self.settings.drop_path,
            "auxiliary": self.settings.auxiliary,
        }
        if not self.settings.fine_tune_epochs and any(asked.values()):
            raise ValueError(
                "`fine_tune_epochs` must be positive with "
                f"{' and '.join(name for name, own in asked.items() if own)}. Received: 0."
            )
        if self.settings.distill and self.settings.auxiliary:
            raise ValueError(
                "`auxiliary` must be 0 with distill. Received: "
                f"auxiliary={self.settings.auxiliary}, distill={self.settings.distill}."
            )

    def rehearse(self, context, model):
        from tfsparse.engine import auxiliary
        from tfsparse.graph import branches

        if self.settings.auxiliary:
            auxiliary.check(model)
        if self.settings.drop_path and not branches.operations(model):
            raise ValueError(
                "`drop_path` must be 0 for a network without operations that are added up. "
                f"Received: drop_path={self.settings.drop_path}."
            )
        if self.settings.retrain == "scratch" and context.training.hold_zeros:
            raise ValueError(
                "`hold_zeros` must be false with retrain=scratch: new weights have none. "
                "Received: hold_zeros=true."
            )

    def run(self, context, before, dense=None):
        from tfsparse.engine import auxiliary, scoring

        settings, stripped = self.settings, before.model
        rate = settings.fine_tune_learning_rate
        tuned = training.train(
            context,
            self.folder,
            lambda: self._start(context, stripped, rate),
            settings.fine_tune_epochs,
            rate,
            lambda model: self._prepare(context, model, dense),
        )
        trained = tuned.model
        if settings.auxiliary:
            trained = auxiliary.without(trained, stripped)
        was, now = context.validated(stripped), context.validated(trained)
        kept = not scoring.worse(was, now)
        facts = {
            "fine_tune_kept": kept,
            "validation_score": abs(float((now if kept else was).mean())),
            "distilled": bool(settings.distill),
        }
        shipped = trained if kept else stripped
        return records.Result(shipped, tuned.history, facts)

    def _start(self, context, stripped, rate: float):
        """The compiled network that training begins with."""
        optimizer = self.settings.fine_tune_optimizer
        if self.settings.retrain == "scratch":
            with context.scope():
                stripped = _fresh(stripped, context.seed)
        model = copied(context, stripped, rate, optimizer)
        if self.settings.auxiliary:
            from tfsparse.engine import auxiliary

            with context.scope():
                model = auxiliary.headed(model)
                context.compile(model, rate, optimizer)
        return model

    def _prepare(self, context, model, dense):
        """Zeros that stay, paths that are dropped, answers that are followed: nothing of it
        is in a checkpoint.
        """
        from tfsparse import distillation

        fresh = self.settings.retrain == "scratch"
        if self.method is not None and self.method.holds_zeros and not fresh:
            training.hold_zeros(model)
        fitted = None
        if self.settings.drop_path:
            with context.scope():
                steps = context.steps * self.settings.fine_tune_epochs
                model = fitted = _dropping(model, self.settings.drop_path, steps)
        if self.settings.auxiliary:
            from tfsparse.engine import auxiliary

            with context.scope():
                return auxiliary.Headed(model, self.settings.auxiliary)
        if not self.settings.distill:
            return fitted
        with context.scope():
            return distillation.Distilled(
                model,
                dense.model,
                self.settings.distill,
                self.settings.distill_temperature,
                distance_of(context.task),
            )

    def tell(self, context, results):
        from tfsparse.engine import scoring

        result = results[self.name]
        what = "what is exported: fine-tuned"
        if not result.facts["fine_tune_kept"]:
            what = (
                "what is exported: the stripped weights, as fine-tuning made the "
                "score on validation worse than chance explains"
            )
        row = scoring.model_row(
            "finetuned", what, context, result.model, result.seconds
        )
        later = results.get("quantise")
        if not (later and later.history):  # nothing trained it once more
            row = with_file(row, results)
        facts = {"fine_tune_history": result.history, **result.facts}
        return stage.Told([row], facts)


def _fresh(model, seed: int):
    """A copy whose trained weights, and statistics with them, are drawn anew.

    Factors that a search left on operations become 1; frozen layers and adapted constants
    stay. Reference: BayesNAS, Algorithms 1 and 2, step 5.
    """
    import keras

    from tfsparse.graph import rebuild

    def configure(layer, config):
        number = isinstance(config.get("scale"), int | float)
        found = isinstance(layer, keras.layers.Rescaling) and number
        if found and layer.name.endswith("_scale"):
            config["scale"] = 1.0
        return config

    copy = rebuild.graft(model, configure)
    keras.utils.set_random_seed(seed)
    new = keras.models.clone_model(copy)
    for old, drawn in zip(copy.layers, new.layers, strict=True):
        norm = isinstance(old, keras.layers.BatchNormalization) and old.trainable
        kind = "variables" if norm else "trainable_variables"
        pairs = zip(getattr(old, kind), getattr(drawn, kind), strict=True)
        for variable, value in pairs:
            variable.assign(value)
    return copy


def _dropping(model, rate: float, steps: int):
    """The compiled model with `DropPath` in front of the inputs of every Add."""
    import keras

    from tfsparse import layers, optimizers
    from tfsparse.graph import branches, rebuild

    iterations, dropped = model.optimizer.iterations, branches.operations(model)

    def share():
        return keras.ops.cast(iterations, "float32") / steps

    def before(item, number, tensor):
        if (item.name, item.index, number) not in dropped:
            return tensor
        return layers.DropPath(rate, share, number)(tensor)

    fitted = rebuild.around(model, before)
    optimizers.recompile(fitted, model, model.optimizer)
    return fitted


def distance_of(task):
    """How far a student's answers are from its teacher's, by what is predicted."""
    from tfsparse import distillation

    if task.kind == "classification":
        return functools.partial(
            distillation.distance_of_classes, probabilities=task.probabilities
        )
    if task.kind in ("binary", "multilabel"):
        return functools.partial(
            distillation.distance_of_labels, probabilities=task.probabilities
        )
    return functools.partial(distillation.distance_of_numbers, scale=task.scale)
