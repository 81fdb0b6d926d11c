"""Training without a method: the network as it is."""

from __future__ import annotations

from tfsparse import options
from tfsparse.engine import stage, training
from tfsparse.engine.stages.dense import copied


@options.record
class PlainSettings(options.Options):
    """Training without a method."""

    part = "The plain stage: training without a method"

    epochs: int = options.field(
        20,
        "Epochs of training without a method; 0 takes the network as it comes, such as a "
        "trained one that --model names.",
        low=0,
    )


class Plain(stage.Stage):
    """Trains the network as it is; what is zero then may still be stripped."""

    name = "plain"
    settings_class = PlainSettings

    def run(self, context, before, **inputs):
        rate = context.training.settle_learning_rate

        return training.train(
            context,
            "sparse",  # under this name such runs have always drawn their numbers
            lambda: copied(context, before.model, rate),
            self.settings.epochs,
            rate,
        )

    def tell(self, context, results):
        from tfsparse.engine import scoring

        result = results[self.name]
        what = "the network as it is, trained without a method"
        if not self.settings.epochs:
            what = "the network as it came"
        row = scoring.model_row("plain", what, context, result.model, result.seconds)
        return stage.Told([row], {"history": result.history})
