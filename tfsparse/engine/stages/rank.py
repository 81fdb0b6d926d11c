"""One ranking of all units, learned once and cut at a budget."""

from __future__ import annotations

import json
import os
import time

from tfsparse import budgets, options, records
from tfsparse.engine import stage
from tfsparse.engine.stages.dense import copied

STATE, RANKING = "rank.json", "ranking.json"
"""Files of a run's folder: where the search stands, and what it found."""


@options.record
class RankSettings(options.Options):
    """The search for a ranking, and where it is cut."""

    part = "The rank stage: one ranking of all units, cut at a budget"

    target: str = options.pairs(
        "macs=0.5",
        "What may remain, fractions up to 1 or absolute numbers, of "
        f"{', '.join(budgets.MEASURES)}: the ranking is searched at that budget.",
        example=budgets.EXAMPLE,
    )
    ranking: str = options.field(
        "", "A ranking.json that was learned before: it is cut, nothing is searched."
    )
    trained: bool = options.field(
        False, "Whether --model is trained already, so that --dense_epochs may be 0."
    )

    def check(self) -> None:
        """Checks the target and the file."""
        if not budgets.parse(self.target):
            raise ValueError("`target` must say what may remain. Received: nothing.")
        if self.ranking and not os.path.isfile(self.ranking):
            raise ValueError(
                f"`ranking` must be a file that exists. Received: {self.ranking!r}."
            )


class Rank(stage.Stage):
    """Ranks the units of the trained network and kills those below the cut."""

    name = "rank"
    settings_class = RankSettings
    inputs = ("dense",)
    folder = "ranked"

    def check(self, stages):
        dense = stages.get("dense")
        self._trains = bool(dense and dense.settings.dense_epochs)

    def rehearse(self, context, model):
        if not self._trains and not self.settings.trained:
            raise ValueError(
                "`dense_epochs` must be positive, or `trained` true: a ranking is one of a "
                "trained network. Received: dense_epochs=0, trained=false."
            )
        layers, cut, _ = self._parts(context, model)
        if self.settings.ranking:
            self._learned(layers)

    def _parts(self, context, model):
        """The layers that are ranked, the cut, and absolute bounds.

        Raises:
            ValueError: Nothing may go, or the target is out of reach.
        """
        from tfsparse import ranking
        from tfsparse.deploy.amounts import amounts
        from tfsparse.graph import groups

        analysis = groups.analyse(model)
        target = budgets.parse(self.settings.target) or {}
        bounds = budgets.absolute(target, amounts(analysis, {}, target))
        counted = ranking.Counted.of_groups(
            analysis.groups,
            lambda keep, names: amounts(analysis, keep, names),
            [*bounds],
        )
        if not counted.sizes:
            raise ValueError(
                "`model` must have units that may go. Received: none; every group is frozen."
            )
        least = {g: round(self.method.least * n) for g, n in counted.sizes.items()}
        cut = ranking.Cut(counted.sizes, least, counted, bounds)
        return layers_of(model, analysis.groups), cut, bounds

    def run(self, context, before, dense=None):
        from tfsparse.engine import filling

        model = (dense or before).model
        found = context.latest(self.folder)
        if found is not None:
            return found
        layers, cut, bounds = self._parts(context, model)
        maps, facts = self._maps(context, model, layers, cut)
        keep = cut(layers.scores(maps))
        running = copied(context, model, context.training.learning_rate)
        filling.kill(running, self._groups(running), keep)
        facts |= {
            "bounds": dict(bounds),
            "layers": list(layers.names),
            "maps": maps.tolist(),
        }
        found = records.Result(running, facts=facts)
        context.store.save(self.folder, 0, found)
        return found

    def _groups(self, model):
        from tfsparse.graph import find_groups

        return find_groups(model, self.method.kinds)

    def _learned(self, layers):
        from tfsparse.ranking import affine

        with open(self.settings.ranking, encoding="utf-8") as file:
            return affine.from_json(layers, file.read())

    def _maps(self, context, model, layers, cut):
        """The maps, read or searched; what is told of it."""
        from tfsparse import files
        from tfsparse.ranking import affine, evolution

        if self.settings.ranking:
            return self._learned(layers), {"progress": [], "failed": 0, "seconds": 0.0}
        method = self.method
        wanted = evolution.Settings(
            method.evaluations, method.population, method.sample
        )
        judge = judge_of(context, model, method)
        path = context.store.path("checkpoints", STATE) if context.store.keeps else None
        state = None
        if path and os.path.exists(path):
            state = evolution.State.from_json(files.read_json(path))
        started = time.perf_counter()
        bar = context.progress.stage("rank", 1, method.evaluations)

        def keep(now) -> None:
            if path:
                files.write_json(path, now.to_json())
            bar.note(
                f"{now.done} of {method.evaluations} candidates, best {now.best[1]:.4g}"
            )

        with bar:
            state = evolution.search(
                layers,
                lambda maps: judge(cut(layers.scores(maps))),
                wanted,
                context.seed,
                state,
                keep,
            )
        spent = time.perf_counter() - started
        maps = state.best[0]
        told = [own if own < float("inf") else None for own in state.progress]
        facts = {"progress": told, "failed": state.failed, "seconds": spent,
                 "evaluations_per_second": judge.count / spent if spent else None}  # fmt: skip
        if context.store.keeps:
            text = affine.to_json(layers, maps, target=self.settings.target)
            files.write_json(context.store.path(RANKING), json.loads(text))
        return maps, facts

    def tell(self, context, results):
        result = results[self.name]
        facts = result.facts
        draw = records.sections
        rows = tuple(
            (name.rsplit("/", 1)[0], a, k)
            for name, (a, k) in zip(facts["layers"], facts["maps"], strict=True)
        )
        table = draw.Table(
            "The ranking",
            (draw.Column("layer", draw.TEXT), draw.Column("alpha", draw.NUMBER),
             draw.Column("kappa", draw.NUMBER)),
            rows,
            before="A filter's score is alpha times its squared norm plus kappa; the least of "
            "all layers together go.",
        )  # fmt: skip
        sections: list = [table]
        if facts["progress"]:
            best = tuple(facts["progress"])  # nothing while no loss was finite
            sections.insert(
                0,
                draw.Curves(
                    "Progress of the search",
                    "rank_progress",
                    draw.Axis("candidates"),
                    draw.Axis("least validation loss", log=True),
                    (draw.Line("best so far", tuple(range(1, len(best) + 1)), best),),
                ),
            )
        told = {
            key: facts.get(key)
            for key in ("failed", "seconds", "evaluations_per_second")
        }
        return stage.Told(method={"rank": told}, sections=sections)


def judge_of(context, model, method):
    """What judges cut networks of a run: a fixed part of validation."""
    from tfsparse.engine import judging

    data = context.dataset
    count = min(method.rank_samples, len(data.x_validation))
    x, y = data.x_validation[:count], data.y_validation
    y = x if y is None else y[:count]
    train, batch = None, context.training.batch_of(context.samples)
    if method.rank_steps:
        train = context.training_samples(method.rank_steps * batch)
    return judging.Judge(
        model, context.task.loss(), x, y, method.rank_steps, method.rank_learning_rate,
        train, batch,
    )  # fmt: skip


def layers_of(model, groups):
    """The layers that write the units of a model's free groups, and their squared norms."""
    from tfsparse.deploy import variables
    from tfsparse.ranking import affine

    values = variables.values_of(model)
    norms, writers, sizes = {}, {}, {}
    for group in groups:
        if group.frozen or group.kind != "unit":
            continue
        sizes[group.name] = group.size
        own = []
        for member in group.members:
            if member.role == records.PRODUCER:
                found = norms_of(values[member.path], member)
                norms[member.path] = found
                own.append((member.path, member.units))
        writers[group.name] = tuple(own)
    return affine.Layers(tuple(norms), norms, writers, sizes)


def norms_of(value, member):
    """Squared norm of each of a kernel's filters that a member counts."""
    import numpy as np

    return np.square(member.slices(value).astype("float64")).sum(axis=1)
