"""Training under a method's penalty, in which what dies leaves."""

from __future__ import annotations

import dataclasses
import logging

from tfsparse import budgets, options, records
from tfsparse.engine import stage, training

NEAR = 1.5
"""Up to so many times the target ranking takes no more than a penalty's last epoch does."""


@options.record
class SparseSettings(options.Options):
    """Training under a penalty."""

    part = "The sparse stage: training under the method's penalty"

    epochs: int = options.field(
        20, "Epochs of the sparse stage, those without penalty included.", low=1
    )
    shrink_epochs: int = options.field(
        10, "The penalty lasts at most that many epochs.", low=0
    )
    target: str = options.pairs(
        "",
        "What may remain, fractions up to 1 or absolute numbers, of "
        f"{', '.join(budgets.MEASURES)}. Once it is met the penalty ends.",
        example=budgets.EXAMPLE,
    )
    fill: bool = options.field(
        True,
        "Fit what the penalty left to the target: the weakest units go by rank as it ends, "
        "and an epoch that took too much is taken back.",
    )
    ramp: float = options.field(
        1.5,
        "With a target and no trials: the factor by which the strength grows after an epoch "
        "that leaves more of the way to the target than its share; 1 keeps the strength.",
        low=1,
        high=10,
    )
    trials: int = options.field(
        0,
        "Bisect the strength, so that the penalty alone just meets the target, in at most "
        "that many trials of --shrink_epochs (of --epochs, where the penalty stays on to "
        "the end); 0 for none.",
        low=0,
    )
    workers: int = options.field(
        1,
        "So many trials run at a time, each in a process of its own with its share of the "
        "cores; their strengths are chosen together.",
        low=1,
        high=64,
    )
    remove: bool = options.field(
        True, "Remove dead units from the running model, not only at its end."
    )
    from_dense: bool = options.field(
        False, "Start from the weights that the dense stage found."
    )

    def check(self) -> None:
        """Checks the target, and what trials need."""
        target = budgets.parse(self.target)
        if self.trials and target is None:
            raise ValueError(
                "`trials` must come with a target. Received: "
                f"trials={self.trials}, target=''."
            )
        if self.trials and not 1 <= self.shrink_epochs < self.epochs:
            raise ValueError(
                "`shrink_epochs` must be positive and below `epochs` with trials. "
                f"Received: shrink_epochs={self.shrink_epochs}, epochs={self.epochs}."
            )


class Sparse(stage.Stage):
    """Trains with the method's penalty while dead units leave."""

    name = "sparse"
    settings_class = SparseSettings
    inputs = ("dense",)
    folder = name

    def check(self, stages):
        settings, method = self.settings, self.method
        dense = stages.get("dense")
        if settings.from_dense and not (dense and dense.settings.dense_epochs):
            raise ValueError(
                "`from_dense` must be false without --dense_epochs. Received: "
                "from_dense=true."
            )
        if settings.trials and not method.get_config().get(method.sparser):
            raise ValueError(
                f"`{method.sparser}` must be positive with trials. Received: "
                f"{method.sparser}={method.get_config().get(method.sparser)}."
            )
        if settings.trials:
            stage.check_workers(method, settings.workers)
        last = settings.epochs if method.stays else settings.shrink_epochs
        method.check_epochs(min(settings.epochs, last))

    def rehearse(self, context, model):
        from tfsparse.engine import shrinking

        log = logging.getLogger("tfsparse")
        said, log.disabled = log.disabled, True  # what is left plain, `run` says
        try:
            shrinking.prepare(context, self.method, model)
        finally:
            log.disabled = said
        self.job(context, model)  # measures what the target names

    def run(self, context, before, dense=None):
        model = self._first(before, dense)
        job = self.job(context, model)
        self._say_what_is_not_used(context)
        made: list[budgets.Trial] = []
        first = dataclasses.replace(job, bounds={}) if self.settings.trials else job
        if self.settings.trials:
            made = self._trials(context, model, job)

        def start():
            if made:
                return self._best(context, job, budgets.best(made))
            return records.Result(first.prepared(model))

        found = training.carry_on(
            context, self.folder, first.epochs, start, first.epoch, first.done
        )
        if made:
            found.facts["trials"] = [dataclasses.asdict(trial) for trial in made]
            found.facts["strength"] = made[budgets.best(made)].strength
        if job.bounds and (self.settings.fill or budgets.SEARCHED in job.bounds):
            found.facts |= {"bounds": dict(job.bounds), "fills": self.settings.fill}
            self._say_what_rank_took(context, job, found)
        return found

    def _first(self, before: records.Result, dense: records.Result | None):
        """The model that training begins with."""
        from tfsparse.graph.rebuild import copied

        if self.settings.from_dense and dense is not None:
            return copied(dense.model)
        return before.model

    def beside(self, context, before, number, strength, parent):
        """`trial`, in another process than the run's own; its checkpoints are the run's."""
        model = self._first(before, context.latest("dense"))
        job = self.job(context, model)
        cost, steady = self.trial(context, model, job, number, strength, parent)
        return {"cost": float(cost), "steady": bool(steady)}

    def _best(self, context, job, number: int) -> records.Result:
        """The end of the best trial, fitted to the target where its penalty is off."""
        found = self._of_trial(context, number)
        trims = job.fill and not self.method.stays
        return job.trimmed(found) if trims else found

    def _say_what_rank_took(self, context, job, found: records.Result) -> None:
        """A penalty that left far too much has not chosen: a sentence says so."""
        left = found.facts.get("penalty_left")
        if self.method.stays:
            left = budgets.share(job.left(found.model), job.bounds)
        if left is not None and left > NEAR:
            more = "" if self.method.stays else " or --shrink_epochs"
            context.progress.say(
                f"The penalty left {left:.3g} times the target {self.settings.target}; the "
                f"weakest beyond it go by rank. Raise --{self.method.sparser}{more}, or let "
                "--trials=8 find the strength."
            )

    def _say_what_is_not_used(self, context) -> None:
        rate = context.training.learning_rate
        if (
            self.method.learning_rate is not None
            and rate != type(context.training)().learning_rate
        ):
            context.progress.say(
                f"--learning_rate={rate:g} is not used: {self.method.name} brings an "
                "optimizer with a rate of its own."
            )

        decay = context.training.weight_decay
        if self.method.learning_rate is not None and decay:
            context.progress.say(
                f"--weight_decay={decay:g} is not used while the penalty is on: "
                f"{self.method.name} brings an optimizer of its own."
            )

    def job(self, context, model):
        """The training, its target in absolute numbers."""
        from tfsparse.engine import limiting, shrinking
        from tfsparse.engine.prunable import prunable

        settings = self.settings
        job = shrinking.Shrinking(
            context,
            self.method,
            settings.epochs,
            settings.shrink_epochs,
            {},
            limiting.sizes_of(prunable(model, self.method.kinds)),
            settings.remove,
            fill=settings.fill,
            ramp=1.0 if settings.trials else settings.ramp,
        )
        target = budgets.parse(settings.target)
        if target is None:
            return job
        whole = dataclasses.replace(job, bounds=target).amounts_of(model)
        bounds = budgets.absolute(target, whole)
        if budgets.SEARCHED in bounds:  # the penalty alone chooses operations
            if "branch" not in self.method.kinds:
                raise ValueError(budgets.NOT_SEARCHED)
            job = dataclasses.replace(job, fill=False)
        limiting.check_reach(model, bounds, context.limits, job.sizes)
        return dataclasses.replace(job, bounds=bounds)

    def _trials(self, context, model, job) -> list[budgets.Trial]:
        """Bisects the strength; every trial ends with its penalty."""
        from tfsparse.engine import beside

        self._kept: dict[int, records.Result] = {}  # of trials without checkpoints
        start, most = (
            self.method.get_config()[self.method.sparser],
            self.settings.trials,
        )
        if self.settings.workers > 1 and context.store.keeps:
            with beside.Processes(
                context.home.workdir, self.settings.workers, self.name
            ) as others:
                context.progress.say(
                    f"Trials run {self.settings.workers} at a time, each in a process of "
                    "its own."
                )

                def asked(number, strength, parent):
                    told = others.ask(number=number, strength=strength, parent=parent)
                    return told["cost"], told["steady"]

                return budgets.bisect(
                    asked, start, most, self.settings.workers, others.run
                )

        def trial(number, strength, parent):
            return self.trial(context, model, job, number, strength, parent)

        return budgets.bisect(trial, start, most)

    def trial(self, context, model, job, number: int, strength: float, parent):
        """Trains until the penalty ends: `(what is left of the target, steady)`.

        Args:
            context: Of the run.
            model: The untouched model.
            job: The training, its target in absolute numbers.
            number: Of the trial, from 0.
            strength: Of its penalty.
            parent: Number of the trial that it goes on from; None for the model.

        Raises:
            TrainingError: It is too strong.
        """
        from tfsparse.engine import finishing, shrinking

        own = dataclasses.replace(
            job, method=self.method.with_strength(strength), bounds={}, trial=True
        )
        epochs = job.epochs if self.method.stays else job.shrink_epochs

        def start():
            if parent is None:
                return records.Result(own.prepared(model))
            last = self._of_trial(context, parent)
            held = {key: last.facts[key] for key in ("groups", "removals")}
            with (
                context.scope(),
                training.naming_the_last_checkpoint(context, f"trial-{parent + 1}"),
            ):
                smaller, _ = finishing.finish(
                    last.model, own.method, context.limits, job.sizes
                )
            return records.Result(own.prepared(smaller), facts=held)

        found = training.carry_on(
            context, f"trial-{number + 1}", epochs, start, own.epoch, own.done
        )
        if not context.store.keeps:
            self._kept[number] = found
        left = dataclasses.replace(own, bounds=job.bounds).left(found.model)
        steady = own.method.warm and shrinking.steady(found.history)
        return budgets.share(left, job.bounds), steady

    def _of_trial(self, context, number: int) -> records.Result:
        """The end of a trial."""
        return context.latest(f"trial-{number + 1}") or self._kept[number]

    def tell(self, context, results):
        from tfsparse.engine import scoring

        result = results[self.name]
        what = "at the end of training with a penalty, as it was trained"
        row = scoring.model_row("sparse", what, context, result.model, result.seconds)
        told = {"history": result.history, **result.facts}
        return stage.Told([row], told, sections=self._sections(context, results))

    def _sections(self, context, results) -> list[records.sections.Section]:
        from tfsparse.engine import telling
        from tfsparse.engine.prunable import prunable

        result = results[self.name]
        found = prunable(results["model"].model, context.kinds)
        groups = {group.name: group.size for group in found}
        if self.method.kinds == (
            "branch",
        ):  # its sums are those of the prepared network
            groups = {}
        return [
            live_units(result, groups, telling.penalty_off(result)),
            step_time(result),
            *search_of(result),
            *discretisation_of(result, context.task.on_validation),
        ]


def live_units(result: records.Result, sizes: dict[str, int], marks):
    """Units that the method keeps, for each group, over the epochs."""
    draw, history = records.sections, result.history
    epochs = tuple(range(len(history) + 1))
    lines = tuple(
        draw.Line(
            name,
            epochs,
            (
                sizes.get(name, 0) if sizes else None,
                *(entry["live"].get(name) for entry in history),
            ),
        )
        for name in history[0]["live"]
    )
    return draw.Curves(
        "Live units of every layer over the epochs",
        "live_units",
        draw.Axis("epoch"),
        draw.Axis("live units", log=True),
        lines,
        marks=marks,
    )


def step_time(result: records.Result):
    """CPU time of each epoch beside the MACs that are left, removals marked."""
    draw, history = records.sections, result.history
    epochs = tuple(range(1, len(history) + 1))
    marks = tuple(
        draw.Mark(removal["epoch"] + 0.5, "removal" if not number else "")
        for number, removal in enumerate(result.facts["removals"])
    )
    return draw.Curves(
        "Time of an epoch as the network shrinks",
        "step_time",
        draw.Axis("epoch"),
        draw.Axis("CPU seconds an epoch", zero=True),
        (
            draw.Line("CPU seconds", epochs, tuple(e["cpu_seconds"] for e in history)),
            draw.Line(
                "MACs alive", epochs, tuple(e["macs"] for e in history), True, True
            ),
        ),
        draw.Axis("MACs alive", log=True),
        marks,
    )


def search_of(result: records.Result) -> list[records.sections.Section]:
    """What each strength left, as a share of the target, in the order of the trials."""
    draw = records.sections
    made = [t for t in enumerate(result.facts.get("trials", []), 1) if t[1]["cost"] > 0]
    if not made:
        return []
    points = tuple(
        draw.Point(
            trial["strength"],
            trial["cost"],
            str(number),
            trial["strength"] == result.facts["strength"],
        )
        for number, trial in made
    )
    return [
        draw.Points(
            "The search for the strength that meets the target",
            "trials",
            draw.Axis("strength of the penalty", log=True),
            draw.Axis("left, as a share of the target", log=True),
            points,
            joined=True,
            goal=1.0,
        )
    ]


def discretisation_of(result: records.Result, task) -> list[records.sections.Section]:
    """What it costs to set groups up to some norms to zero."""
    draw, rows = records.sections, result.facts["settling"]
    if not rows:
        return []
    scores = [row["score"] for row in rows]
    shares = task.unit == "%"
    sign = 1 if task.higher_is_better else -1
    return [
        draw.Table(
            "What it costs to set the dead to zero",
            (
                draw.Column("norm up to", draw.TEXT),
                draw.Column("dead"),
                draw.Column("of"),
                draw.Column(
                    f"validation {task.score_name}",
                    draw.PERCENT if shares else draw.NUMBER,
                ),
                draw.Column("points lost" if shares else "lost", draw.NUMBER),
            ),
            tuple(
                (
                    "as trained"
                    if row["threshold"] is None
                    else f"{row['threshold']:g}",
                    row["dead"],
                    row["groups"],
                    score,
                    (100 if shares else 1) * sign * (scores[0] - score),
                )
                for row, score in zip(rows, scores, strict=True)
            ),
            note="Groups up to a norm are dead and set to zero, as the penalty ended and "
            "before any training without it. Groups that had left the running model "
            "before count as dead.",
        )
    ]
