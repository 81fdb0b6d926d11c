"""What a conductor hands a method."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Tools:
    """What a conductor hands a method, so that it need not know data or graphs.

    Attributes:
        curvature: `(model, form) -> tfsparse.curvature.Curvature`, the diagonal Hessian of
            the mean loss on a part of the training data, in float precision.
        check_curvature: `(model, form)`, raises a ValueError where that would; before
            anything is trained.
    """

    curvature: Callable
    check_curvature: Callable = lambda model, form: None  # noqa: E731
