"""LeGR-DDPG and AMC: an actor and a critic choose, layer by layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import keras
import numpy as np


@dataclasses.dataclass(frozen=True)
class Settings:
    """How an agent learns; defaults are AMC's.

    Attributes:
        episodes: Networks that are evaluated; a quarter of them at most explores.
        explores: First episodes, whose actions are uniform.
        actor_rate, critic_rate: Learning rates, Adam.
        follow: Share by which the target networks follow in a step; they do so once an
            episode, by as much as in all its steps.
        noise: Standard deviation on actions after the exploration.
        decay: Of the noise, from one episode to the next.
        batch: Transitions that a step learns from.
        memory: Transitions that are remembered.
        baseline: Of the moving average of rewards that is taken off.
    """

    episodes: int = 400
    explores: int = 100
    actor_rate: float = 1e-4
    critic_rate: float = 1e-3
    follow: float = 0.01
    noise: float = 0.5
    decay: float = 0.95
    batch: int = 64
    memory: int = 6000
    baseline: float = 0.95


class Agent:
    """An actor and a critic, each with a target that follows it.

    Args:
        states: Numbers that describe a layer and the last action.
        actions: Numbers that are chosen for it, in [0, 1].
        settings: How it learns.
        seed: Of everything random.

    Reference: Lillicrap et al. 2016; He et al. 2018 (AMC), section 3; LeGR, appendix B.
    """

    def __init__(self, states: int, actions: int, settings: Settings, seed: int):
        self.settings, self._rng = settings, np.random.default_rng((seed, 2))
        keras.utils.set_random_seed(seed)
        self.actor, self.critic = _actor(states, actions), _critic(states, actions)
        self._actor_target, self._critic_target = (
            keras.models.clone_model(net) for net in (self.actor, self.critic)
        )
        self._follow(1.0)
        self.critic.compile(
            keras.optimizers.Adam(settings.critic_rate), "mse", jit_compile=False
        )
        self.critic.make_train_function()
        self._frozen = keras.models.clone_model(self.critic)
        self._frozen.trainable = False
        inputs = keras.Input((states,))
        worth = self._frozen([inputs, self.actor(inputs)])
        self._both = keras.Model(inputs, worth)
        self._both.compile(
            keras.optimizers.Adam(settings.actor_rate), _less, jit_compile=False
        )
        self._held: list[tuple] = []
        self._mean: float | None = None

    def act(self, state: np.ndarray, episode: int) -> np.ndarray:
        """What is chosen for a layer, noise included. `(actions,)`."""
        if episode < self.settings.explores:
            return self._rng.random(self.actor.output_shape[-1])
        chosen = np.asarray(self.actor(state[None]))[0]
        late = episode - self.settings.explores
        noise = self.settings.noise * self.settings.decay**late
        return np.clip(chosen + noise * self._rng.normal(size=len(chosen)), 0.0, 1.0)

    def learn(
        self, states: np.ndarray, actions: np.ndarray, reward: float, episode: int
    ):
        """Takes in an episode, its reward that of each of its steps, and learns from many.

        Args:
            states: `(layers, states)`.
            actions: `(layers, actions)`.
            reward: Of the whole network.
            episode: Counted from 0; nothing is learned while it explores.
        """
        own = self.settings
        following = np.concatenate([states[1:], states[-1:]])
        last = np.arange(len(states)) == len(states) - 1
        self._held += list(zip(states, actions, [reward] * len(states), following, last,
                               strict=True))  # fmt: skip
        self._held = self._held[-own.memory :]
        before = reward if self._mean is None else self._mean
        self._mean = own.baseline * before + (1 - own.baseline) * reward
        if episode < own.explores:
            return
        for _ in range(len(states)):
            self._step()
        self._follow(1 - (1 - own.follow) ** len(states))  # at once: a weight is a call

    def _step(self) -> None:
        own = self.settings
        chosen = self._rng.integers(len(self._held), size=own.batch)
        s, a, r, following, last = map(
            np.array, zip(*(self._held[n] for n in chosen), strict=True)
        )
        s, a, following = (x.astype("float32") for x in (s, a, following))
        after = keras.ops.convert_to_tensor(following)
        later = self._critic_target([after, self._actor_target(after)])
        worth = (r - self._mean)[:, None] + np.asarray(later) * (~last)[:, None]
        self.critic.train_on_batch([s, a], worth.astype("float32"))
        self._frozen.set_weights(self.critic.get_weights())
        self._both.train_on_batch(s, np.zeros((len(s), 1), "float32"))

    def _follow(self, share: float) -> None:
        pairs = (self.actor, self._actor_target), (self.critic, self._critic_target)
        for net, target in pairs:
            for new, old in zip(net.weights, target.weights, strict=True):
                old.assign((1 - share) * old + share * new)


def _less(_, worth):
    """An actor's loss: what the critic thinks of it, the less the better it is."""
    return -worth


def _hidden(x):
    for units in (400, 300):
        x = keras.layers.Dense(units)(x)
        x = keras.layers.ReLU()(keras.layers.LayerNormalization()(x))
    return x


def _actor(states: int, actions: int) -> keras.Model:
    inputs = keras.Input((states,))
    small = keras.initializers.RandomUniform(-3e-3, 3e-3)  # actions near the middle
    x = keras.layers.Dense(actions, "sigmoid", kernel_initializer=small)(
        _hidden(inputs)
    )
    return keras.Model(inputs, x)


def _critic(states: int, actions: int) -> keras.Model:
    inputs, chosen = keras.Input((states,)), keras.Input((actions,))
    x = _hidden(keras.layers.Concatenate()([inputs, chosen]))
    return keras.Model([inputs, chosen], keras.layers.Dense(1)(x))


def search(
    features: np.ndarray,
    actions: int,
    evaluate: Callable[[np.ndarray], float],
    settings: Settings,
    seed: int,
    known: Sequence[float] = (),
    keep: Callable[[list[float]], None] = lambda losses: None,
) -> tuple[np.ndarray, list[float]]:
    """Episode by episode: actions for every layer in turn, then what the network is worth.

    Args:
        features: `(layers, numbers)` near 1: what describes each layer.
        actions: Numbers that are chosen for each, in [0, 1].
        evaluate: `(layers, actions)` -> loss.
        settings: How it learns.
        seed: Of everything random.
        known: Losses of the first episodes, of a search that was stopped: they are not
            evaluated again, and what follows is the same.
        keep: Called with all losses after each episode.

    Returns:
        The actions of the least loss, and the loss of each episode.

    Raises:
        ValueError: No episode had a finite loss.
    """
    agent = Agent(features.shape[1] + actions, actions, settings, seed)
    best, losses = (np.zeros((len(features), actions)), float("inf")), []
    for episode in range(settings.episodes):
        states, chosen, last = [], [], np.zeros(actions)
        for own in features:
            states.append(np.concatenate([own, last]).astype("float32"))
            last = agent.act(states[-1], episode)
            chosen.append(last)
        taken = np.array(chosen)
        loss = known[episode] if episode < len(known) else float(evaluate(taken))
        losses.append(loss)
        keep(losses)
        if np.isfinite(loss):
            agent.learn(np.array(states), taken, -loss, episode)
            if loss < best[1]:
                best = taken, loss
    if not np.isfinite(best[1]):
        raise ValueError(
            f"A search must have candidates with a finite loss. Received: none of "
            f"{settings.episodes}; look for nan in the weights or the data."
        )
    return best[0], losses


def maps_of(actions: np.ndarray, spreads: np.ndarray) -> np.ndarray:
    """Affine maps of two actions a layer: alpha = e^(6 a - 3), kappa = (6 b - 3) std_l."""
    alpha = np.exp(6 * actions[:, 0] - 3)
    return np.stack([alpha, (6 * actions[:, 1] - 3) * spreads], axis=1)
