"""The untouched network, trained: to compare with, to start from, to follow."""

from __future__ import annotations

from tfsparse import options
from tfsparse.engine import stage, training


@options.record
class DenseSettings(options.Options):
    """Training of the untouched network, beside the run."""

    part = "The dense stage: the untouched network, trained for comparison"

    dense_epochs: int = options.field(
        0,
        "Epochs of the untouched network, trained to compare with; 0 for none.",
        low=0,
    )


class Dense(stage.Stage):
    """Trains a copy of the untouched network; the run goes on from the untouched one."""

    name = "dense"
    settings_class = DenseSettings
    aside = True

    def run(self, context, before, **inputs):
        epochs = self.settings.dense_epochs
        if not epochs:
            return None

        def start():
            return copied(context, before.model, context.training.settle_learning_rate)

        rate = context.training.settle_learning_rate
        return training.train(context, self.name, start, epochs, rate)

    def tell(self, context, results):
        from tfsparse.engine import scoring

        result = results[self.name]
        told = stage.Told(method={"dense_history": result.history if result else []})
        if result is not None:
            what = "the untouched network, trained for comparison"
            told.rows.append(
                scoring.model_row("dense", what, context, result.model, result.seconds)
            )
        return told


def copied(context, model, rate: float, optimizer: str | None = None):
    """A compiled copy of a model, which stays as it is."""
    from tfsparse.graph import rebuild

    with context.scope():
        copy = rebuild.copied(model)
        context.compile(copy, rate, optimizer)
    return copy
