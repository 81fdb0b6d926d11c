"""After a search: a second method prunes the units of what is left, in the same run."""

from __future__ import annotations

import copy
import functools

from tfsparse import budgets, methods, options, records
from tfsparse.engine import stage
from tfsparse.engine.stages.sparse import Sparse, SparseSettings
from tfsparse.engine.stages.strip import Strip


@options.record
class PruneSettings(options.Options):
    """Pruning of the network that a search left."""

    part = "The prune stage: units of what a search left"

    prune: str = options.field(
        "",
        "Another --method, with its defaults, that prunes the units of what the search left; "
        "empty for none.",
    )
    prune_target: str = options.field(
        "params=0.5",
        "What may remain of the network that the search left, as --target says it.",
    )
    prune_epochs: int = options.field(
        12, "Epochs of that pruning; its penalty lasts two thirds of them.", low=3
    )

    def check(self) -> None:
        """Checks the method and its target."""
        if not self.prune and self.chosen():
            raise ValueError(
                "`prune_target` and `prune_epochs` must come with prune. Received: "
                f"{self.prune_target!r} and {self.prune_epochs} without it."
            )
        if self.prune:
            found = methods.find(self.prune)
            if found is None or "sparse" not in found.stages or ":" in self.prune:
                raise ValueError(
                    "`prune` must be a method of the package that shrinks while it "
                    f"trains. Received: {self.prune!r}."
                )
            target = budgets.parse(self.prune_target)
            if not target or budgets.SEARCHED in target:
                raise ValueError(
                    "`prune_target` must name a measure of a network, such as "
                    f"{budgets.EXAMPLE}. Received: {self.prune_target!r}."
                )


class Prune(stage.Stage):
    """Trains what a search left under a second method's penalty, and strips what dies.

    Its facts are those of the strip.
    """

    name = "prune"
    settings_class = PruneSettings

    @functools.cached_property
    def _parts(self) -> tuple[Sparse, Strip]:
        """A sparse stage and a strip of the second method, with folders of their own."""
        settings = self.settings
        found = methods.find(settings.prune)
        method = found() if found else None
        sparse = Sparse(
            SparseSettings(
                epochs=settings.prune_epochs,
                shrink_epochs=2 * settings.prune_epochs // 3,
                target=settings.prune_target,
            ),
            method,
        )
        strip = Strip(Strip.settings_class(), method)
        sparse.folder, strip.folder = "prune", "pruned"
        return sparse, strip

    def _own(self, context):
        """The context of the second method."""
        own = copy.copy(context)
        own.method = self._parts[0].method
        return own

    def check(self, stages):
        if self.settings.prune:
            for part in self._parts:
                part.check(stages)

    def rehearse(self, context, model):
        if self.settings.prune:
            for part in self._parts:
                part.rehearse(self._own(context), model)

    def run(self, context, before, **inputs):
        if not self.settings.prune:
            return None
        own, (sparse, strip) = self._own(context), self._parts
        trained = sparse.run(own, before)
        found = strip.run(own, trained, model=before)
        return records.Result(found.model, trained.history, found.facts)

    def tell(self, context, results):
        from tfsparse.engine import scoring

        result = results[self.name]
        if result is None:
            return stage.Told()
        what = f"units of it removed by {self.settings.prune}"
        row = scoring.model_row("pruned", what, context, result.model, result.seconds)
        return stage.Told([row], {"prune_history": result.history})
