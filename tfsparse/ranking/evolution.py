"""LeGR's search: regularised evolution of the affine maps."""

from __future__ import annotations

import collections
import contextvars
import dataclasses
import functools
from collections.abc import Callable
from concurrent import futures

import numpy as np

from tfsparse.ranking.affine import Layers, plain

WORST = float("inf")
"""The loss of a candidate whose loss is not finite: it is counted, and has no children."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How long and how widely is searched.

    Attributes:
        evaluations: In all, the first population included.
        population: How many live; the oldest leaves as a child comes.
        sample: Drawn with replacement, of whom the best is the parent.
        share: Of the layers that a child changes, one at least.
        beside: How many candidates are judged at a time, at most a population. A candidate
            does not know the losses of those that were begun shortly before it.
    """

    evaluations: int = 400
    population: int = 64
    sample: int = 16
    share: float = 0.1
    beside: int = 1


@dataclasses.dataclass
class State:
    """Where a search stands; as JSON it goes on bit for bit.

    Attributes:
        maps: Those that live, the oldest first. Each `(layers, 2)`.
        losses: Of them.
        best: The best that ever was, its maps and its loss.
        done: Evaluations so far.
        failed: Of them, those whose loss was not finite.
        progress: The best loss after each evaluation.
        waiting: Maps that are being judged, in their order.
    """

    maps: list[np.ndarray] = dataclasses.field(default_factory=list)
    losses: list[float] = dataclasses.field(default_factory=list)
    best: tuple[np.ndarray, float] | None = None
    done: int = 0
    failed: int = 0
    progress: list[float] = dataclasses.field(default_factory=list)
    waiting: list[np.ndarray] = dataclasses.field(default_factory=list)

    def to_json(self) -> dict:
        """As JSON, which knows no infinity; numbers come back bit for bit."""
        return {
            "maps": [own.tolist() for own in self.maps],
            "losses": [_told(loss) for loss in self.losses],
            "best": self.best and [self.best[0].tolist(), _told(self.best[1])],
            "done": self.done,
            "failed": self.failed,
            "progress": [_told(loss) for loss in self.progress],
            "waiting": [own.tolist() for own in self.waiting],
        }

    @classmethod
    def from_json(cls, held: dict) -> State:
        """What `to_json` wrote."""
        best = held["best"] and (np.array(held["best"][0]), _loss(held["best"][1]))
        found = {
            **held,
            "maps": [np.array(own) for own in held["maps"]],
            "losses": [_loss(own) for own in held["losses"]],
            "progress": [_loss(own) for own in held["progress"]],
            "waiting": [np.array(own) for own in held["waiting"]],
            "best": best,
        }
        return cls(**found)

    def told(self, maps: np.ndarray, loss: float, population: int) -> None:
        """Takes in an evaluated candidate; the oldest leaves once there are too many."""
        self.done += 1
        if not np.isfinite(loss):
            self.failed, loss = self.failed + 1, WORST
        self.maps.append(maps)
        self.losses.append(loss)
        if len(self.maps) > population:
            del self.maps[0], self.losses[0]
        if self.best is None or loss < self.best[1]:
            self.best = maps, loss
        self.progress.append(self.best[1])


def _told(loss: float) -> float | None:
    return loss if np.isfinite(loss) else None


def _loss(told: float | None) -> float:
    return WORST if told is None else told


def candidate(
    state: State,
    layers: Layers,
    settings: Settings,
    seed: int,
    number: int | None = None,
) -> np.ndarray:
    """The maps to evaluate next; the same state, seed and number draw the same.

    The first population is drawn, alpha = exp(N(0, 1)) and kappa = N(0, std_l) with std_l of
    the layer's squared norms; its last member is global magnitude. A child is the best of a
    sample in which a few layers change: alpha exp(N(0, sigma)) with sigma falling from 1 to
    0.2, kappa + N(0, std_l).

    Args:
        state: What is known.
        layers: Of the network.
        settings: Of the search.
        seed: Of everything random.
        number: Of the candidate; the one after those that are done by default.

    Reference: LeGR, section 3.2; its code, which changes nothing in networks of fewer than
    ten layers: here one layer changes at least.
    """
    number = state.done if number is None else number
    rng = np.random.default_rng((seed, number))
    spreads, count = layers.spreads(), len(layers)
    first = min(settings.population, settings.evaluations)
    if number < first:
        if number == first - 1:
            return plain(layers)
        alpha = np.exp(rng.normal(size=count))
        return np.stack([alpha, rng.normal(size=count) * spreads], axis=1)
    chosen = rng.integers(len(state.maps), size=settings.sample)
    parent = min(chosen, key=lambda place: state.losses[place])
    maps = state.maps[parent].copy()
    changed = rng.integers(count, size=max(1, int(settings.share * count)))
    sigma = 1 - number / (1.25 * settings.evaluations)
    for layer in changed:
        maps[layer, 0] *= np.exp(rng.normal() * sigma)
        maps[layer, 1] += rng.normal() * spreads[layer]
    return maps


def search(
    layers: Layers,
    evaluate: Callable[[np.ndarray], float],
    settings: Settings,
    seed: int,
    state: State | None = None,
    keep: Callable[[State], None] = lambda state: None,
    pool: futures.Executor | None = None,
) -> State:
    """Evaluates candidates until all are done.

    Losses are told in the order of the candidates, whichever is judged first: the search is
    the same every time.

    Args:
        layers: Of the network.
        evaluate: Maps -> loss of the network cut by them.
        settings: Of the search.
        seed: Of everything random.
        state: Where an earlier search stopped; None for a new one.
        keep: Called with the state after each evaluation.
        pool: Of threads that evaluate; needed where several are judged at a time.

    Raises:
        ValueError: No candidate had a finite loss.
    """
    state = State() if state is None else state
    beside = min(settings.beside, settings.population) if pool else 1

    def begun(maps) -> Callable[[], float]:
        if pool is None:
            return functools.partial(evaluate, maps)
        own = contextvars.copy_context()  # what a thread does not have by itself
        return pool.submit(own.run, evaluate, maps).result

    answers = collections.deque(begun(maps) for maps in state.waiting)
    while state.done < settings.evaluations:
        number = state.done + len(answers)
        if len(answers) < beside and number < settings.evaluations:
            maps = candidate(state, layers, settings, seed, number)
            state.waiting.append(maps)
            answers.append(begun(maps))
            continue
        loss = float(answers.popleft()())
        state.told(state.waiting.pop(0), loss, settings.population)
        keep(state)
    if state.best is None or not np.isfinite(state.best[1]):
        raise ValueError(
            f"A search must have candidates with a finite loss. Received: none of "
            f"{state.done}; look for nan in the weights or the data."
        )
    return state
