"""The stock network without what died."""

from __future__ import annotations

import contextlib
import dataclasses
import os

from tfsparse import files, records
from tfsparse.engine import stage, training

RECALIBRATED = 2048
"""Training samples on which BatchNorm's statistics are taken again."""

GENOTYPE = "genotype.json"
"""File: the cells that a search left, see `nas.genotypes`."""


class Strip(stage.Stage):
    """Lowers the trained network, removes what died, and proves the result.

    Its facts are `reasons` (group name -> why dead units stayed), the method's `trace`, and
    `target`, what is left for each of its measures.
    """

    name = "strip"
    inputs = ("model",)
    folder = "stripped"

    def rehearse(self, context, model):
        from tfsparse.engine import limiting
        from tfsparse.engine.prunable import prunable

        context.limits.check_names(limiting.sizes_of(prunable(model, context.kinds)))

    def run(self, context, before, model=None):
        from tfsparse import nas
        from tfsparse.deploy import recalibrate
        from tfsparse.engine import filling, finishing, limiting
        from tfsparse.engine.prunable import prunable

        method = self.method
        first = before.model if model is None else model.model
        sizes = limiting.sizes_of(prunable(first, context.kinds))
        whole = before.facts.get("bounds", {})
        bounds = filling.by_rank(before.facts)
        found = context.latest(self.folder)
        if found is None:
            facts = {"reasons": {}, "trace": {}}
            with context.scope():
                with training.naming_the_last_checkpoint(context, "sparse"):
                    stripped, facts["reasons"] = finishing.finish(
                        before.model, method, context.limits, sizes, bounds
                    )
                if method is not None and method.recalibrates:
                    x, _ = context.training_samples(RECALIBRATED)
                    recalibrate.recalibrate(stripped, x)
                if method is not None:
                    groups = prunable(before.model, method.kinds)
                    facts["trace"] = method.trace(before.model, groups)
            facts["target"] = filling.shares(stripped, whole)
            found = records.Result(stripped, facts=facts)
            context.store.save(self.folder, 0, found)
        elif method is not None:  # what `finish` did to the model kept before it
            groups = prunable(before.model, method.kinds)
            finishing.decide(
                before.model, method, groups, context.limits, sizes, bounds
            )
        genotype = nas.genotypes.found_in(found.model)
        if context.store.keeps and genotype:
            path = os.path.join(context.store.workdir, GENOTYPE)
            files.write_json(path, genotype)
            context.progress.say(f"The cells that are left stand in {path}")
        with contextlib.suppress(ValueError):  # of any other network
            told = nas.bench201.told(nas.bench201.architecture_of(found.model))
            context.progress.say(f"The architecture that is left is {told}")
        for row in found.facts["target"]:
            context.progress.say(self._told(row))
        if method is not None and "sparse" in method.stages and model is not None:
            self._say_if_nothing_died(context, model.model, found.model)
        return found

    def _told(self, row) -> str:
        """One line on how full a measure of the target is, and what to do if it is not."""
        from tfsparse.engine import filling

        share, what = (
            row["share"],
            f"The target {row['measure']}={row['bound']:,.0f} is",
        )
        left = f"{row['left']:,.0f} left, {share:.1%}."
        if share > 1:
            return f"{what} not met: {left} What had to stay takes more; the report says why."
        if share >= filling.FILLED:
            return f"{what} filled: {left}"
        if "sparse" not in self.method.stages:
            return f"{what} met: {left}"
        return (
            f"{what} met: {left} Lower --{self.method.sparser} for a fuller one, or let "
            "--trials=8 find the strength."
        )

    def _say_if_nothing_died(self, context, dense, stripped) -> None:
        from tfsparse.graph import measure

        all_live = all((v != 0).all() for v in stripped.get_weights() if v.ndim > 1)
        if measure(stripped).params == measure(dense).params and all_live:
            context.progress.say(
                f"Nothing has died. Raise --{self.method.sparser}, or give the penalty more "
                "--epochs: what counts is steps, and small data makes few of them an epoch."
            )

    def tell(self, context, results):
        from tfsparse.engine import scoring, telling
        from tfsparse.graph.cost import layer_costs

        result = results[self.name]
        what = "dead units removed, stock layers only"
        groups = group_rows(context, results["model"].model, result)
        draw = records.sections
        table = draw.Table(
            "Every group and its fate",
            (
                draw.Column("group", draw.TEXT),
                draw.Column("kind", draw.TEXT),
                draw.Column("units"),
                draw.Column("kept"),
                draw.Column("removed"),
                draw.Column("why it stayed", draw.TEXT),
            ),
            tuple(
                (g.name, g.kind, g.size, g.kept, g.size - g.kept, g.reason or "")
                for g in groups
            ),
        )
        more = []
        if self.method is not None:
            loops = next(
                (
                    r.facts["loops"]
                    for r in results.values()
                    if r and "loops" in r.facts
                ),
                [],
            )
            layers = layer_costs(result.model)
            facts = {"loops": loops, "layers": layers, "trace": result.facts["trace"]}
            more = self.method.sections(facts)
        filled = draw.Table(
            "How full the target is",
            (
                draw.Column("measure", draw.TEXT),
                draw.Column("at most"),
                draw.Column("left"),
                draw.Column("filled", draw.PERCENT),
            ),
            tuple(
                (row["measure"], round(row["bound"]), round(row["left"]), row["share"])
                for row in result.facts["target"]
            ),
        )
        return stage.Told(
            [scoring.model_row("stripped", what, context, result.model)],
            {"trace": result.facts["trace"]},
            {
                "groups": [dataclasses.asdict(group) for group in groups],
                "target": result.facts["target"],
            },
            [
                *([filled] if filled.rows else []),
                *telling.cells_of(results["model"].model, result.model),
                *more,
                table,
            ],
        )


def group_rows(context, dense, result: records.Result) -> list[records.GroupReport]:
    """Every group of the untouched model with its fate.

    Args:
        context: Knows the method, and with it the kinds of groups.
        dense: The untouched model.
        result: The stripped model, and why dead units stayed.
    """
    from tfsparse.engine.prunable import prunable
    from tfsparse.graph import find_groups

    kinds = [kind for kind in context.kinds if kind != "branch"]
    left: dict[str, int] = {}
    by_place: dict[tuple, int] = {}
    for group in find_groups(result.model, kinds):
        left[group.name] = group.size
        by_place |= dict.fromkeys(_places(group), group.size)
    rows = []
    for group in prunable(dense, kinds):
        # Where the layer that it is named after went, another one names it.
        others = [by_place[place] for place in _places(group) if place in by_place]
        kept = left.get(group.name, others[0] if others else 0)
        reason = group.frozen or result.facts["reasons"].get(group.name)
        if reason is None and not kept:
            reason = "its whole branch went"
        if reason is None and kept == group.size:
            reason = "every unit stayed useful"
            if context.method is None:
                reason = "no method asked for"
        rows.append(
            records.GroupReport(group.name, group.kind, group.size, kept, reason)
        )
    return rows


def _places(group) -> list[tuple]:
    """Where a group stands, whatever it is called."""
    return [(group.kind, member.path, member.role) for member in group.members]
