"""Makes a trained model smaller to a target, by a criterion."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np

from tfsparse import budgets, options, records
from tfsparse.deploy import criteria, removal
from tfsparse.deploy.amounts import amounts
from tfsparse.deploy.masked import Masked
from tfsparse.deploy.recalibrate import recalibrate
from tfsparse.deploy.strip import strip
from tfsparse.deploy.variables import values_of
from tfsparse.graph import groups, measure
from tfsparse.ranking import Counted, Cut, affine
from tfsparse.ranking.cut import best

SCOPES = ("global", "layer")

STEPS = 1 << 12
"""Shares of dropped units that are told apart."""


def prune(
    model,
    target: Mapping[str, float] | None,
    data=None,
    fine_tune: Callable | None = None,
    *,
    criterion: str = "l2",
    scope: str = "layer",
    steps: int = 1,
    round_to: int = 1,
    ignore: Sequence[str] = (),
    minimum: int = 1,
    ratios: Mapping[str, float] | None = None,
    limits: budgets.Limits | None = None,
    loss=None,
    seed: int = 0,
    recalibrated: bool = True,
    ranking: str | None = None,
):
    """Removes the units that matter least until the target is met.

    With several steps the target tightens cubically, t of n steps leaving
    `1 - (1 - target) * (1 - (1 - t / n)^3)` (Zhu & Gupta 2017, arXiv:1710.01878,
    eq. 1), with a fine-tuning after each.

    BatchNorm's statistics are those of the whole network, and half a network with them
    is worth little: with `data` they are taken again after each removal. Fine-tune
    before you judge a small model.

    Args:
        model: A trained, built Functional or Sequential model; it is not changed.
        target: Measure -> what remains: a fraction up to 1, or an absolute number. Measures
            are `budgets.MEASURES`; for `file_bytes` and `arena_bytes` int8 files are made
            on the way. None where `ratios` say it all.
        data: `(x, y)` arrays of training samples, some thousand will do: for BatchNorm's
            statistics and the criteria `taylor` and `activation`.
        fine_tune: `model -> None`, trains a small model; None for no training.
        criterion: `l1`, `l2`, `bn_scale`, `taylor`, `fpgm`, `activation` or `random`.
        scope: `layer` keeps the same share of every group; `global` ranks all units
            together, scores divided by their group's mean, which suits `taylor` best
            (benchmarks/criteria.py).
        steps: How many removals the way to the target takes.
        round_to: Kept counts are multiples of it, where a group is that large.
        ignore: Patterns of group names that stay whole, such as `head*`.
        minimum: Units that every group keeps at least.
        ratios: Pattern of group names -> share of their units that remains, whatever the
            target: `{"conv*": 0.5}`.
        limits: The last three as one record, instead of them.
        loss: `(targets, outputs) -> losses` for `taylor`; the model's own by default.
        seed: For the criterion `random`.
        recalibrated: Whether BatchNorm's statistics are taken again on `data`; without,
            what remains computes exactly what it did (`mask`).
        ranking: A `ranking.json` that a run with `--method=legr` learned on this model: it
            is cut at the target, in one step and without limits, instead of a criterion.

    Returns:
        The small model and a `PruneReport`.

    Raises:
        ValueError: An argument is wrong, or the target is out of reach.

    Example:
        >>> small, report = prune(model, {"macs": 0.5}, criterion="l1", round_to=4)
        >>> report.after.macs / report.before.macs                # at most 0.5
    """
    own = budgets.Limits(round_to, minimum, options.as_text(ratios))
    if limits is not None and not own.trivial:
        raise ValueError(
            "`limits` must stand alone, or `round_to`, `minimum` and `ratios` instead. "
            f"Received: {limits} and {own}."
        )
    limits = limits or own
    _check(target, limits, criterion, scope, steps, data)
    loss, ignore = _loss(model, criterion, loss), _patterns(ignore)
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"`seed` must be an int >= 0. Received: {seed!r}.")
    if fine_tune is not None and not callable(fine_tune):
        raise ValueError(f"`fine_tune` must be callable. Received: {fine_tune!r}.")
    original = groups.analyse(model)
    sizes = {g.name: g.size for g in original.groups}
    limits.check_names([g.name for g in original.groups if not g.frozen])
    before = amounts(original, {}, target or {})
    bounds = budgets.absolute(target, before)
    if ranking is not None:
        _check_ranking(bounds, limits, steps, criterion, scope)
    small, reasons = model, {}
    for step in range(1, steps + 1):
        share = 1 - (1 - step / steps) ** 3
        now = {
            k: before[k] - (before[k] - bound) * share for k, bound in bounds.items()
        }
        analysis = groups.analyse(small)
        if ranking is None:
            job = criteria.Job(analysis, data, loss, seed)
            scores, reasons = _scores(job, criterion, ignore)
            wanted = _Limits(limits, sizes, share)
            keep = _search(analysis, scores, now, scope, wanted)
        else:
            keep, reasons = _by_ranking(analysis, ranking, now, ignore)
        reasons |= removal.plan(analysis.graph, keep, analysis).surplus
        small = strip(small, keep)
        if recalibrated and data is not None:
            recalibrate(small, data[0])
        if fine_tune is not None:
            fine_tune(small)
    left = {g.name: g.size for g in groups.find_groups(small)}
    report = records.PruneReport(
        criterion="ranking" if ranking else criterion,
        before=measure(model),
        after=measure(small),
        groups=tuple(
            records.GroupReport(
                g.name, g.kind, sizes[g.name], left.get(g.name, 0),
                g.frozen or reasons.get(g.name),
            )
            for g in original.groups
        ),
    )  # fmt: skip
    return small, report


def sensitivity(
    model,
    evaluate: Callable,
    fractions: Sequence[float] = (0.75, 0.5, 0.25),
    *,
    criterion: str = "l2",
    data=None,
    loss=None,
    ignore: Sequence[str] = (),
) -> list[dict]:
    """What each group loses if it alone is pruned, as `prune` would.

    Args:
        model: A trained, built model.
        evaluate: `model -> float`, such as the accuracy on validation data. It is given one
            model whose units are switched off, again and again; functions that were traced
            of it stay right.
        fractions: Shares of units that remain.
        criterion, data, loss, ignore: As for `prune`.

    Returns:
        Rows `{"group", "size", "fraction", "kept", "value"}`, the whole model's first,
        under the group name `None`.
    """
    _check_criterion(criterion, data)
    loss, ignore = _loss(model, criterion, loss), _patterns(ignore)
    wrong = [f for f in fractions if not isinstance(f, int | float) or not 0 < f <= 1]
    if wrong:
        raise ValueError(
            f"`fractions` must be numbers above 0, up to 1. Received: {wrong}."
        )
    if not callable(evaluate):
        raise ValueError(f"`evaluate` must be callable. Received: {evaluate!r}.")

    def value_of(one) -> float:
        found = evaluate(one)
        try:
            return float(found)
        except (TypeError, ValueError):
            raise ValueError(
                f"`evaluate` must return a number. Received: {found!r}."
            ) from None

    analysis = groups.analyse(model)
    scores, _ = _scores(criteria.Job(analysis, data, loss), criterion, ignore)
    rows = [
        {
            "group": None,
            "size": None,
            "fraction": 1.0,
            "kept": None,
            "value": value_of(model),
        }
    ]
    masked = Masked(model)
    units = {g.name for g in analysis.groups if g.kind == "unit"}
    for name, own in scores.items():
        for fraction in fractions:
            kept = max(1, round(fraction * len(own)))
            if kept < len(own):
                keep = {name: best(own, kept)}
                if name in units:
                    masked.restore()  # what was calibrated before
                    masked.set(keep)
                small = masked.model if name in units else strip(model, keep)
                if data is not None:
                    recalibrate(small, data[0])
                value = value_of(small)
                rows.append(
                    {
                        "group": name,
                        "size": len(own),
                        "fraction": fraction,
                        "kept": kept,
                        "value": value,
                    }
                )
    return rows


def _check(target, limits, criterion, scope, steps, data) -> None:
    if target is not None or not limits.ratios:
        budgets.check({} if target is None else target)
    if scope not in SCOPES:
        raise ValueError(f"`scope` must be among {SCOPES}. Received: {scope!r}.")
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"`steps` must be a positive int. Received: {steps!r}.")
    _check_criterion(criterion, data)


def _check_ranking(bounds, limits, steps, criterion, scope) -> None:
    """A ranking is all there is to say: what it would pass over is an error."""
    strange = [
        name
        for name, used in {
            "ratios, minimum or round_to": not limits.trivial,
            "steps": steps > 1,
            "criterion": criterion != "l2",
            "scope": scope != "layer",
        }.items()
        if used
    ]
    if strange or not bounds:
        told = f"{' and '.join(strange)} as well" if strange else "no target"
        raise ValueError(
            f"`ranking` must come with a target and nothing else that chooses units. "
            f"Received: {told}."
        )


def _by_ranking(analysis, path: str, bounds, ignore):
    """The masks that a learned ranking leaves within the bounds, and why others stay."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise ValueError(
            f"`ranking` must be a file that can be read. Received: {path!r} "
            f"({error.strerror})."
        ) from error
    layers = affine.Layers.of_groups(analysis.groups, values_of(analysis.graph))
    maps = affine.from_json(layers, text)
    spared = {
        g.name: "named in `ignore`"
        for g in analysis.groups
        if any(fnmatch.fnmatchcase(g.name, pattern) for pattern in ignore)
    }
    counted = Counted.of_groups(
        [g for g in analysis.groups if g.name not in spared],
        functools.partial(amounts, analysis),
        [*bounds],
    )
    cut = Cut.of_counted(counted, bounds, affine.least_of(text))
    return cut(layers.scores(maps)), spared


def _check_criterion(criterion, data) -> None:
    if criterion not in criteria.CRITERIA:
        raise ValueError(
            f"`criterion` must be among {sorted(criteria.CRITERIA)}. Received: "
            f"{criterion!r}."
        )
    if data is not None:
        _check_data(data)
    elif criterion in criteria.NEED_DATA:
        raise ValueError(
            f"`data` must be (x, y) arrays for criterion {criterion!r}. Received: None."
        )


def _check_data(data) -> None:
    said = f"Received: {type(data).__name__}"
    if isinstance(data, tuple | list) and len(data) == 2:
        arrays = keras.tree.flatten(data)
        sizes = {np.shape(array)[:1] for array in arrays}
        if len(sizes) == 1 and sizes.pop() not in ((), (0,)):
            if all(isinstance(array, np.ndarray) for array in arrays):
                return
        said = f"Received: {[(type(a).__name__, np.shape(a)) for a in arrays][:4]}"
    raise ValueError(
        f"`data` must be (x, y) NumPy arrays, equally many of each. {said}."
    )


def _loss(model, criterion: str, loss):
    """The loss that `taylor` differentiates: the one given, or the model's own."""
    if criterion != "taylor":
        return None
    if loss is None:
        loss = getattr(model, "loss", None)
    try:
        if loss is not None:
            return keras.losses.get(loss)
        said = "None, and a model that is not compiled"
    except (ValueError, TypeError) as error:
        said = " ".join(str(error).split())[:120]
    raise ValueError(
        f"`loss` must be given for criterion 'taylor', one for the one output. "
        f"Received: {said}."
    )


def _patterns(ignore) -> list[str]:
    """`ignore` as a list; one pattern may stand alone."""
    try:
        found: list = [ignore] if isinstance(ignore, str) else list(ignore)
    except TypeError:
        found = [None]
    if not all(isinstance(pattern, str) for pattern in found):
        raise ValueError(
            f"`ignore` must be patterns of group names. Received: {ignore!r}."
        )
    return found


def _scores(job, criterion: str, ignore):
    """Group name -> scores of its units, and why the others stay."""
    scores, reasons = {}, {}
    for group in job.analysis.groups:
        if group.frozen:
            continue
        if any(fnmatch.fnmatchcase(group.name, pattern) for pattern in ignore):
            reasons[group.name] = "named in `ignore`"
            continue
        own = criteria.CRITERIA[criterion](group, job)
        if own is None:
            reasons[group.name] = (
                f"criterion {criterion!r} finds nothing to judge it by"
            )
        elif not np.isfinite(own).all():
            raise ValueError(
                f"Scores must be finite. Received: nan or inf by {criterion!r} in group "
                f"{group.name!r}; look for nan in the weights or the data."
            )
        else:
            scores[group.name] = own
    return scores, reasons


@dataclasses.dataclass(frozen=True)
class _Limits:
    """Limits on the way to a target: ratios tighten step by step, of the first sizes.

    Attributes:
        limits: Those at the end.
        sizes: Group name -> units of the untouched model.
        share: Which part of the way is gone once this step is done.
    """

    limits: budgets.Limits
    sizes: Mapping[str, int]
    share: float

    def count(self, name: str, here: int, wanted: int) -> int:
        """How many of the units that are `here` a group keeps."""
        whole = self.sizes.get(name, here)
        last = self.limits.count(name, whole, wanted)
        if self.limits.ratio_of(name) is None:
            return min(here, last)
        steps = whole - (whole - last) * self.share
        return min(here, self.limits.rounded(max(1, round(steps)), whole))


def _search(analysis, scores, bounds, scope, limits: _Limits):
    """The masks that drop least and meet every bound, by bisection."""
    masks = _ranked(scores, scope, limits)
    if not bounds:
        return masks(0.0)

    def fits(step: int) -> bool:
        left = amounts(analysis, masks(step / STEPS), bounds)
        return all(left[name] <= bound for name, bound in bounds.items())

    found = budgets.least(fits, STEPS)
    if found is None:
        left = amounts(analysis, masks(1.0), bounds)
        least = {name: left[name] for name in bounds}
        raise ValueError(
            f"`target` must be within reach. Received: {dict(bounds)}; with `minimum` "
            f"units in every group that may be pruned {least} remain."
        )
    return masks(found / STEPS)


def _ranked(scores, scope: str, limits: _Limits) -> Callable:
    """`share dropped in [0, 1] -> keep masks`."""
    scaled = {k: own / (own.mean() or 1.0) for k, own in scores.items()}
    everything = np.sort(np.concatenate([np.zeros(0), *scaled.values()]))

    def masks(share: float):
        keep = {}
        dropped = round(share * len(everything))
        for name, own in scaled.items():
            if scope == "layer":
                kept = len(own) - round(share * len(own))
            elif dropped == len(everything):
                kept = 0
            else:
                kept = int((own >= everything[dropped]).sum())
            keep[name] = best(own, limits.count(name, len(own), kept))
        return keep

    return masks
