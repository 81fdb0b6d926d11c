"""Diagonal of the Hessian of a classifier's loss, for every weight."""

from tfsparse.curvature.estimate import (
    FORMS,
    Curvature,
    batches,
    check,
    diagonal,
    relative_error,
)

__all__ = ["FORMS", "Curvature", "batches", "check", "diagonal", "relative_error"]
