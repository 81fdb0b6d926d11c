"""What somebody outside the package writes: a method in one file, and a stage."""

from __future__ import annotations

import dataclasses

import numpy as np

from tfsparse import options, records
from tfsparse.engine import scoring, stage
from tfsparse.methods import Method


@options.record
class Smallest(Method):
    """Drops the units whose weights are smallest, once training under it has ended."""

    name = "smallest"

    strength: float = options.field(
        0.5, "Share of the units of every group that go.", low=0, below=1
    )

    def prepare(self, model, groups):
        """The model as it is."""
        import keras

        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
        return copy

    def keep(self, model, groups, tools=None):
        """All but the smallest, by the L2 norm of what writes them."""
        values = {v.path: np.asarray(v) for v in model.variables}
        found = {}
        for group in groups:
            if not group.frozen:
                norms = np.zeros(group.size)
                for member in group.members:
                    if member.role == records.PRODUCER:
                        own = member.slices(values[member.path])
                        np.add.at(norms, member.units, np.square(own).sum(axis=1))
                last = max(1, round((1 - self.strength) * group.size))
                found[group.name] = np.argsort(np.argsort(-norms)) < last
        return found

    removes = False  # its units work until the strip drops them


class Weigh(stage.Stage):
    """Says how large the weights are: a stage with a row and sections of its own."""

    name = "weigh"

    def run(self, context, before, **inputs):
        largest = max(float(np.abs(w).max()) for w in before.model.get_weights())
        return dataclasses.replace(before, facts={"largest": largest}, history=[])

    def tell(self, context, results):
        result, draw = results[self.name], records.sections
        row = scoring.model_row("weighed", "on the scales", context, result.model)
        table = draw.Table(
            "What the scales say",
            (draw.Column("largest weight", draw.NUMBER),),
            ((result.facts["largest"],),),
        )
        return stage.Told([row], {"largest": result.facts["largest"]}, {}, [table])


@options.record
class SmallestWeighed(Smallest):
    """The same, with a stage of its own."""

    name = "smallest_weighed"
    stages = ("sparse", "strip", Weigh, "finetune", "export", "verify")
