"""ShrinkNets: learned on/off switches, units removed while the network trains."""

from __future__ import annotations

import numpy as np

from tfsparse import options, records
from tfsparse.methods import base, placing

SUFFIX = "_switch"

NORMS = "norms"
"""The form without switches, to see what they are worth."""

_DECAYS = (
    "kernel_regularizer",
    "wise_regularizer",
    "gamma_regularizer",
    "beta_regularizer",
)
"""What decays beside switches. BatchNorm's two as well: else they grow for nothing."""


@options.record
class ShrinkNets(base.Method):
    """Puts a switch on every unit and lets the loss decide which stay on.

    Minimises L + strength * sum abs(switch) + decay * sum abs(w)^power (draft, eq. 10). All
    units of a group, wherever they are written (residual sums, depthwise stages),
    share one switch, which stands before the non-linearity.

    Raises:
        ValueError: An argument outside its range.

    Example:
        >>> result = tfsparse.fit_shrinking(model, ShrinkNets(4e-3), x, y, epochs=10)

    Reference: ShrinkNets draft, sections 3 and 4; Smallify (arXiv 1806.03723).
    """

    name = "shrinknets"

    strength: float = options.field(
        4e-3,
        "Weight of the penalty on the switches (lambda); larger is sparser.",
        low=0,
    )
    form: str = options.field(
        "relu",
        "How a switch kills its unit: relu as it reaches 0 (the draft), signed as its "
        "sign's variance passes 0.5 (Smallify); or norms for no switches: only a target "
        "then removes anything, units of small weights first.",
        choices=(*records.SWITCH_FORMS, NORMS),
    )
    gamma: float = options.field(
        0.99,
        "Inertia of the sign-variance rule of signed switches; 0 kills at the first change "
        "of sign.",
        low=0,
        high=1,
    )
    decay: float = options.field(
        1e-4,
        "Decay of the kernels and BatchNorm scales (lambda_2), which would else grow as "
        "switches shrink.",
        low=0,
    )
    power: int = options.field(
        2, "Exponent of the decay of the kernels.", choices=(1, 2)
    )
    initial: str = options.field(
        "uniform",
        "Where switches start: uniform, or ones for a model that is trained already.",
        choices=("uniform", "ones"),
    )
    features: bool = options.field(
        False,
        "Also put switches on the inputs of a Dense behind the input or a Flatten.",
    )
    seed: int = options.field(0, "Seed of everything random.", low=0, below=2**32)

    @property
    def kinds(self):
        """Units, and features where they have switches."""
        return ("unit", "feature") if self.features else ("unit",)

    def _filter(self, units: int, name: str, offset: int = 0):
        from tfsparse import layers

        return layers.Filter(
            units,
            form=self.form,
            strength=self.strength,
            gamma=self.gamma,
            initial=self.initial,
            seed=self.seed + offset,
            name=name,
        )

    def prepare(self, model, groups):
        """Inserts the switches. See `Method.prepare`.

        Args:
            model: The model to shrink; it is not changed.
            groups: Its groups, from `find_groups(model, method.kinds)`.

        Returns:
            A model with one Filter for each group that is not frozen; with norms none.

        Raises:
            ValueError: No group can be switched.
        """

        import keras

        from tfsparse import layers

        decay = layers.SwitchDecay(self.decay, self.power)

        def make(group, number):
            name = placing.layer_name(group, SUFFIX)
            return self._filter(group.size, name, number)

        def configure(layer, config):
            for key in config:
                if key.endswith(_DECAYS):
                    if config[key] is None and self.decay > 0:
                        config[key] = keras.regularizers.serialize(decay)
            return config

        placed = {} if self.form == NORMS else placing.at_sites(model, groups, make)
        return placing.place(model, placed, configure)

    def set_strength(self, model, value: float) -> None:
        for switch in switches(model).values():
            switch.strength.assign(value)
            if not value:
                switch.hold()

    def importance(self, model, groups) -> dict[str, np.ndarray] | None:
        """The switches: where a penalty holds its balance, dL/ds = -strength, and a unit's
        removal costs about s * strength.
        """
        if self.form == NORMS:
            return None
        sizes = {
            name: abs(base.array_of(s.scale())) for name, s in switches(model).items()
        }
        found = {}
        for group in groups:
            own = base.factors_of(group, sizes)
            if not group.frozen and own:
                found[group.name] = np.full(group.size, np.inf)
                for name, member in own.items():
                    values = sizes[name][member.indices]
                    np.minimum.at(found[group.name], member.units, values)
        return found

    def keep(self, model, groups, tools=None) -> dict[str, np.ndarray]:
        """Units whose switch is alive, last optimizer step included; with norms all."""
        if self.form == NORMS:
            return {
                group.name: np.ones(group.size, bool)
                for group in groups
                if not group.frozen
            }
        alive = {name: s.alive_units() for name, s in switches(model).items()}
        return base.factored_units(groups, alive)


def switches(model) -> dict:
    """The Filter layers of a model, by name."""
    from tfsparse import layers

    return {x.name: x for x in model.layers if isinstance(x, layers.Filter)}
