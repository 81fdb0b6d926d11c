"""What methods share whose group lasso the evidence re-weighs, loop by loop."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfsparse import options, records
from tfsparse.methods import base
from tfsparse.methods.gsparsity import optimizer_of
from tfsparse.records import GONE


@options.record
class Reweighted(base.Method):
    """A method that minimises L + strength * sum_g omega_g ||w_g|| by proximal steps, and sets
    omega by the evidence every `loop_epochs`. A base class.
    """

    regrows = True

    strength: float = options.field(
        2e-3,
        "Weight of the penalty (lambda); larger is sparser. In the first loop every group's "
        "own factor is 1.",
        low=0,
    )
    loop_epochs: int = options.field(
        3, "Epochs between two updates of the groups' own factors.", low=1
    )
    evidence: bool = options.field(
        True,
        "Whether the evidence re-weighs and prunes the groups; without it they have a "
        "group lasso, every factor 1 for good.",
    )
    curvature: str = options.field(
        "gauss_newton",
        "How the diagonal Hessian of the loss is estimated.",
        choices=records.CURVATURES,
    )
    eps: float = options.field(
        0.5, "Step size of the proximal optimizer.", above=0, high=1
    )
    rho: float = options.field(
        0.1, "Weight of the new gradient in the running average.", above=0, high=1
    )
    threshold: float = options.field(
        1e-6,
        "Norm up to which a group is dead between the loops.",
        low=0,
        below=GONE / 2,
    )

    @property
    def learning_rate(self):
        """The step size."""
        return self.eps

    @property
    def thresholds(self):
        """Norms at which the report tells what discretisation costs."""
        return tuple(sorted({1e-6, 1e-3, self.threshold}))

    def set_strength(self, model, value: float) -> None:
        optimizer_of(model).mu.assign(value)

    def groups(self, model) -> int:
        return sum(p.groups for p in optimizer_of(model).partitions)

    def check_epochs(self, epochs: int) -> None:
        if self.loop_epochs > epochs:
            raise ValueError(
                f"`loop_epochs` must fit into the epochs of the penalty ({epochs}). "
                f"Received: loop_epochs={self.loop_epochs}."
            )

    def check_tools(self, model, tools) -> None:
        """Refuses a model or loss without a known curvature. See `Method.check_tools`."""
        if self.evidence:
            tools.check_curvature(model, self.curvature)

    def begins_loop(self, model, epoch: int) -> bool:
        """Whether the evidence looks after this epoch; without it the dead go then."""
        if (epoch + 1) % self.loop_epochs:
            return False
        if not self.evidence:
            optimizer_of(model).prune(self.threshold)
        return self.evidence

    def bends(self, model, tools) -> tuple[dict[str, np.ndarray], Any]:
        """The curvature of the loss by every weight, as heavy as the prior takes it.

        Returns:
            Path -> the diagonal Hessian over lambda, by which the loss is weighed against the
            prior; and what the tools told.
        """
        found = tools.curvature(model, self.curvature)
        strength = float(base.array_of(optimizer_of(model).mu)) or 1.0
        return {path: own / strength for path, own in found.diagonal.items()}, found

    def settle(self, model, threshold: float | None = None) -> np.ndarray:
        """Prunes for good what has died."""
        threshold = self.threshold if threshold is None else threshold
        return optimizer_of(model).prune(threshold)
