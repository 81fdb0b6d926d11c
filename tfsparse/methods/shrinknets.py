"""ShrinkNets: learned on/off switches, units removed while the network trains."""

from __future__ import annotations

import keras
import numpy as np

from tfsparse.layers import Filter, SwitchDecay
from tfsparse.methods import base, placing

SUFFIX = "_switch"

_DECAYS = (
    "kernel_regularizer",
    "wise_regularizer",
    "gamma_regularizer",
    "beta_regularizer",
)
"""What decays beside switches. BatchNorm's two as well: else they grow for nothing."""


class ShrinkNets(base.Method):
    """Puts a switch on every unit and lets the loss decide which stay on.

    Minimises L + strength * sum |switch| + decay * sum |w|^power (draft, eq. 10). All
    units of a group, wherever they are written (residual sums, depthwise stages),
    share one switch, which stands before the non-linearity.

    Args:
        strength: lambda; larger is sparser.
        form: `relu` (the draft: dead where the switch is <= 0) or `signed` (Smallify:
            dead when the sign's variance passes 0.5).
        gamma: Inertia of the sign-variance rule, in [0, 1]; 0 kills at the first
            change of sign. Signed form only.
        decay: lambda_2, on kernels and BatchNorm scales; without it they would
            grow as switches shrink.
        power: p of the decay, 1 or 2.
        initial: `uniform`, or `ones` for a model that is trained already.
        features: Whether the rows of a Dense behind the input or a Flatten get
            switches as well.
        seed: Seed of the switches' initial values.

    Raises:
        ValueError: An argument outside its range.

    Example:
        >>> result = tfsparse.fit_shrinking(model, ShrinkNets(4e-3), x, y, epochs=10)

    Reference: ShrinkNets draft, sections 3 and 4; Smallify (arXiv 1806.03723).
    """

    name = "shrinknets"
    strength = "lambda"

    def __init__(
        self,
        strength: float = 4e-3,
        form: str = "relu",
        gamma: float = 0.99,
        decay: float = 1e-4,
        power: int = 2,
        initial: str = "uniform",
        features: bool = False,
        seed: int = 0,
    ):
        self._config = {
            "strength": strength,
            "form": form,
            "gamma": gamma,
            "decay": decay,
            "power": power,
            "initial": initial,
            "features": features,
            "seed": seed,
        }
        self.kinds = ("unit", "feature") if features else ("unit",)
        # Both check their arguments, so that a wrong one shows before any work.
        self._filter(1, "check")
        self._decay = SwitchDecay(decay, power)

    def get_config(self) -> dict:
        return dict(self._config)

    def _filter(self, units: int, name: str, offset: int = 0) -> Filter:
        config = self._config
        return Filter(
            units,
            form=config["form"],
            strength=config["strength"],
            gamma=config["gamma"],
            initial=config["initial"],
            seed=config["seed"] + offset,
            name=name,
        )

    def prepare(self, model, groups):
        """Inserts the switches. See `Method.prepare`.

        Args:
            model: The model to shrink; it is not changed.
            groups: Its groups, from `find_groups(model, method.kinds)`.

        Returns:
            A model with one Filter for each group that is not frozen.

        Raises:
            ValueError: No group can be switched.
        """

        def make(group, number):
            name = placing.layer_name(group, SUFFIX)
            return self._filter(group.size, name, number)

        def configure(layer, config):
            for key in config:
                if key.endswith(_DECAYS):
                    if config[key] is None and self._decay.strength > 0:
                        config[key] = keras.regularizers.serialize(self._decay)
            return config

        return placing.place(model, placing.at_sites(model, groups, make), configure)

    def set_strength(self, model, value: float) -> None:
        for switch in switches(model).values():
            switch.strength.assign(value)

    def keep(self, model, groups, tools=None) -> dict[str, np.ndarray]:
        """Units whose switch is alive, last optimizer step included."""
        alive = {name: s.alive_units() for name, s in switches(model).items()}
        return base.factored_units(groups, alive)

    def trace(self, model, groups) -> dict:
        """The values of all switches, sorted, by group."""
        return {
            name.removesuffix(SUFFIX): np.sort(
                keras.ops.convert_to_numpy(switch.scale())
            ).tolist()
            for name, switch in switches(model).items()
        }


def switches(model) -> dict[str, Filter]:
    """The Filter layers of a model, by name."""
    return {layer.name: layer for layer in model.layers if isinstance(layer, Filter)}
