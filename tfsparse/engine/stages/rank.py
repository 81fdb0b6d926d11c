"""One ranking of all units, learned once and cut at a budget."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from typing import Any

import numpy as np

from tfsparse import budgets, files, options, records
from tfsparse.engine import stage
from tfsparse.engine.stages.dense import copied

STATE, RANKING, TRAINED = "rank.json", "ranking.json", "trained.keras"
"""Files of a run's folder: where the search stands, what it found, of which network."""


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
    budgets: str = options.field(
        "",
        "A family: other targets, such as macs=0.8,macs=0.5, at which the same ranking is cut; "
        "each network goes through the stages behind in a folder of its own. Search at the "
        "smallest of them, which is --target.",
    )
    ranking: str = options.field(
        "", "A ranking.json that was learned before: it is cut, nothing is searched."
    )
    workers: int = options.field(
        1,
        "So many candidates are judged at a time, each in a process of its own with its share "
        "of the cores.",
        low=1,
        high=64,
    )
    trained: bool = options.field(
        False, "Whether --model is trained already, so that --dense_epochs may be 0."
    )

    def check(self) -> None:
        """Checks the target and the file."""
        if not budgets.parse(self.target):
            raise ValueError("`target` must say what may remain. Received: nothing.")
        family = [self.target, *options.listed(self.budgets)]
        for one in family:
            budgets.parse(one)
        if len(set(family)) < len(family):
            raise ValueError(
                "`budgets` must be different ones, and others than `target`. Received: "
                f"target={self.target}, budgets={self.budgets}."
            )
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
    _judge = None
    counted: Any = None
    """What the network costs, counted once: the same before it is trained and after, and for
    every budget of a family."""

    def check(self, stages):
        dense = stages.get("dense")
        self._trains = bool(dense and dense.settings.dense_epochs)
        stage.check_workers(self.method, self.settings.workers)
        way, many = self.method.rank_search, self.settings.workers > 1
        if many and (self.settings.ranking or way not in EVOLVED):
            raise ValueError(
                "`workers` must be 1 where no candidates are judged beside each other, which "
                f"{' and '.join(EVOLVED)} do. Received: workers={self.settings.workers}, "
                f"rank_search={way}, ranking={self.settings.ranking!r}."
            )

    def rehearse(self, context, model):
        if not self._trains and not self.settings.trained:
            raise ValueError(
                "`dense_epochs` must be positive, or `trained` true: a ranking is one of a "
                "trained network. Received: dense_epochs=0, trained=false."
            )
        layers, cut, _ = self._parts(context, model)
        if self.settings.ranking:
            self._learned(layers)
        for target in options.listed(self.settings.budgets):
            self._parts(context, model, target)

    def family(self, context):
        path = self.settings.ranking or context.store.path(RANKING)
        fixed = not os.path.exists(path)  # shares are searched anew, for each budget
        found = []
        for target in options.listed(self.settings.budgets):
            given = "" if fixed else path
            other = self.settings.replaced(target=target, budgets="", ranking=given)
            one = Rank(other, self.method)
            one.counted = self.counted
            found.append((target, one))
        return found

    def _parts(self, context, model, target: str | None = None):
        """The layers that are ranked, the cut, and absolute bounds.

        Raises:
            ValueError: Nothing may go, or the target is out of reach.
        """
        from tfsparse.deploy import variables
        from tfsparse.deploy.amounts import amounts
        from tfsparse.graph import groups
        from tfsparse.ranking import Counted, Cut, affine

        analysis = groups.analyse(model)
        target = budgets.parse(target or self.settings.target) or {}
        bounds = budgets.absolute(target, amounts(analysis, {}, target))
        if self.counted is None:
            family = [self.settings.target, *options.listed(self.settings.budgets)]
            names = {name for one in family for name in budgets.parse(one) or {}}
            self.counted = Counted.of_groups(
                analysis.groups,
                functools.partial(amounts, analysis),
                sorted(names),
            )
        cut = Cut.of_counted(self.counted, bounds, self.method.least)
        values = variables.values_of(model)
        return affine.Layers.of_groups(analysis.groups, values), cut, bounds

    def run(self, context, before, dense=None):
        from tfsparse.engine import filling

        model = (dense or before).model
        found = context.latest(self.folder)
        if found is not None:
            return found
        layers, cut, bounds = self._parts(context, model)
        keep, facts = self._found(context, model, layers, cut)
        running = copied(context, model, context.training.learning_rate)
        filling.kill(running, self._groups(running), keep)
        facts |= {"bounds": dict(bounds), "layers": list(layers.names)}
        found = records.Result(running, facts=facts)
        context.store.save(self.folder, 0, found)
        return found

    def _groups(self, model):
        from tfsparse.engine.prunable import prunable

        return prunable(model, self.method.kinds)

    def _learned(self, layers):
        from tfsparse.ranking import affine

        with open(self.settings.ranking, encoding="utf-8") as file:
            return affine.from_json(layers, file.read())

    def _found(self, context, model, layers, cut):
        """The masks; what is told of how they were found."""
        from tfsparse.ranking import affine, ratios

        plain = affine.plain(layers)
        told: dict = {"progress": [], "failed": 0, "seconds": 0.0, "maps": None}
        way = self.method.rank_search
        if self.settings.ranking or way == "magnitude":
            maps = self._learned(layers) if self.settings.ranking else plain
            return cut(layers.scores(maps)), told | {"maps": maps.tolist()}
        if way == "uniform":
            even = dict.fromkeys(cut.sizes, 1.0)
            return ratios.by_shares(cut, even, layers.scores(plain)), told
        return self._searched(context, model, layers, cut)

    def _searched(self, context, model, layers, cut):
        """The masks that a search found, each candidate judged on validation."""
        from tfsparse.ranking import affine, ratios

        method, plain = self.method, affine.plain(layers)
        groups = list(cut.sizes)

        def by_maps(maps):
            return cut(layers.scores(maps))

        def by_shares(actions):
            shares = LEAST + (1 - LEAST) * actions[:, 0]
            own = dict(zip(groups, map(float, shares), strict=True))
            return ratios.by_shares(cut, own, layers.scores(plain))

        decode = by_shares if method.rank_search == "amc" else by_maps
        bar = context.progress.stage("rank", 1, method.evaluations)
        started = time.perf_counter()
        count = 0

        with bar, self._judges(context, model) as (judge, pool):

            def evaluate(one) -> float:
                nonlocal count
                count += 1
                return judge(decode(one))

            if method.rank_search in EVOLVED:
                most = self.settings.workers, pool
                best, losses, failed = _evolved(
                    context, method, layers, evaluate, bar, most
                )
            else:
                best, losses, failed = _acted(
                    context, method, layers, cut, evaluate, bar
                )
        spent = time.perf_counter() - started
        told = [own if own < float("inf") else None for own in losses]
        facts = {"progress": told, "failed": failed, "seconds": spent,
                 "evaluations_per_second": count / spent if spent else None,
                 "maps": None if decode is by_shares else best.tolist()}  # fmt: skip
        if decode is by_maps:
            prices = cut.prices()
            owner = {path: g for g, own in layers.groups.items() for path, _ in own}
            costs = [prices[owner[name]] for name in layers.names]
            facts["follows"] = affine.follows(layers, best, costs)
        if context.store.keeps and decode is by_maps:
            text = affine.to_json(
                layers, best, target=self.settings.target, least=method.least
            )
            files.write_json(context.store.path(RANKING), json.loads(text))
            with files.appears_whole(context.store.path(TRAINED)) as temporary:
                model.save(temporary)
        return decode(best), facts

    @contextlib.contextmanager
    def _judges(self, context, model):
        """What judges masks, and the threads that wait for it where several do."""
        from tfsparse.engine import beside

        if self.settings.workers == 1 or not context.store.keeps:
            yield judge_of(context, model, self.method), None
            return

        def judge(keep) -> float:
            units = {name: np.flatnonzero(~own).tolist() for name, own in keep.items()}
            loss = others.ask(off=units, sizes={k: len(v) for k, v in keep.items()})[
                "loss"
            ]
            return float("inf") if loss is None else loss

        count = self.settings.workers
        with beside.Processes(context.home.workdir, count, self.name) as others:
            context.progress.say(f"Candidates are judged by {count} processes.")
            yield judge, others.pool

    def beside(self, context, before, off, sizes):
        if self._judge is None:
            dense = context.latest("dense")
            model = (dense or before).model
            self._judge = judge_of(context, model, self.method)
        keep = {name: np.ones(size, bool) for name, size in sizes.items()}
        for name, units in off.items():
            keep[name][units] = False
        loss = self._judge(keep)
        return {"loss": loss if np.isfinite(loss) else None}

    def tell(self, context, results):
        result = results[self.name]
        facts = result.facts
        draw = records.sections
        rows = tuple(
            (name.rsplit("/", 1)[0], a, k)
            for name, (a, k) in zip(
                facts["layers"] if facts["maps"] else (),
                facts["maps"] or (),
                strict=True,
            )
        )
        table = draw.Table(
            "The ranking",
            (draw.Column("layer", draw.TEXT), draw.Column("alpha", draw.NUMBER),
             draw.Column("kappa", draw.NUMBER)),
            rows,
            before="A filter's score is alpha times its squared norm plus kappa; the least of "
            "all layers together go." + _told_follows(facts.get("follows"), len(rows)),
        )  # fmt: skip
        sections: list = [table] if rows else []
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
            for key in ("failed", "seconds", "evaluations_per_second", "follows")
        }
        return stage.Told(method={"rank": told}, sections=sections)


def _told_follows(follows: float | None, layers: int) -> str:
    if follows is None or layers < FEW:
        return ""
    return (
        f" Rank correlation of kappa with minus the price of a filter: {follows:+.2f}; the "
        "bound behind such rankings says that it is positive."
    )


FEW = 4
"""Of fewer layers a rank correlation says nothing."""

EVOLVED = ("evolution", "random")

LEAST = 0.2
"""Share of a group that AMC's agent may choose at least, before the budget scales it."""


def _evolved(context, method, layers, evaluate, bar, beside):
    """The best maps of an evolution, or of random ones; the least loss after each candidate."""
    from tfsparse.ranking import evolution

    population = method.population
    if method.rank_search == "random":
        population = method.evaluations
    count, pool = beside
    wanted = evolution.Settings(
        method.evaluations, population, method.sample, beside=count
    )
    path = _state_of(context)
    held = path and os.path.exists(path) and files.read_json(path)
    state = evolution.State.from_json(held) if held else None

    def keep(now) -> None:
        if path:
            files.write_json(path, now.to_json())
        bar.note(
            f"{now.done} of {method.evaluations} candidates, best {now.best[1]:.4g}"
        )

    state = evolution.search(layers, evaluate, wanted, context.seed, state, keep, pool)
    return state.best[0], state.progress, state.failed


def _acted(context, method, layers, cut, evaluate, bar):
    """The best actions of an agent, as maps or as shares; the least loss so far."""
    from tfsparse.ranking import ddpg

    shares = method.rank_search == "amc"
    wanted = ddpg.Settings(method.evaluations, min(100, method.evaluations // 4))
    path = _state_of(context)
    known = files.read_json(path)["losses"] if path and os.path.exists(path) else []
    losses = [float("inf") if own is None else own for own in known]

    def keep(now) -> None:
        if path:
            told = [own if np.isfinite(own) else None for own in now]
            files.write_json(path, {"losses": told})
        bar.note(f"{len(now)} of {method.evaluations} networks, best {min(now):.4g}")

    def decoded(actions):
        return actions if shares else ddpg.maps_of(actions, layers.spreads())

    best, found = ddpg.search(
        features_of(layers, list(cut.sizes) if shares else None),
        1 if shares else 2,
        lambda actions: evaluate(decoded(actions)),
        wanted,
        context.seed,
        losses,
        keep,
    )
    failed = sum(not np.isfinite(own) for own in found)
    finite = np.where(np.isfinite(found), found, np.inf)
    return decoded(best), np.minimum.accumulate(finite).tolist(), failed


def _state_of(context) -> str | None:
    return context.store.path("checkpoints", STATE) if context.store.keeps else None


def features_of(layers, groups=None) -> np.ndarray:
    """What an agent sees of each layer, or of each group by its first one, near 1."""
    names = layers.names if groups is None else [layers.groups[g][0][0] for g in groups]
    rows = []
    for number, name in enumerate(names):
        norms = layers.norms[name]
        rows.append((number / len(names), np.log1p(len(norms)) / 6, np.log1p(norms.mean()),
                     norms.std() / max(norms.mean(), 1e-12)))  # fmt: skip
    return np.array(rows)


def judge_of(context, model, method):
    """What judges cut networks of a run: a fixed part of validation."""
    from tfsparse.engine import judging, scoring

    data = context.dataset
    count = min(method.rank_samples, len(data.x_validation))
    x, y = data.x_validation[:count], data.y_validation
    y = scoring.as_floats(x) if y is None else y[:count]  # what is to be rebuilt
    train, batch = None, context.training.batch_of(context.samples)
    if method.rank_steps:
        train = context.training_samples(method.rank_steps * batch)
    return judging.Judge(
        model, context.task.loss(), x, y, method.rank_steps, method.rank_learning_rate,
        train, batch, method.recalibrates,
    )  # fmt: skip
