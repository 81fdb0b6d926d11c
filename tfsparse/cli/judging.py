"""What a trained model is judged by, for subcommands that are given samples and labels."""

from __future__ import annotations

from typing import Any


def task_of(
    path: str, model, x, y, kind: str = "auto", loss: str = ""
) -> tuple[Any, Any]:
    """The task that labels and a model tell of, and the labels as it takes them.

    Args:
        path: Of the data, for errors.
        model: A trained model of one output.
        x, y: Samples and labels.
        kind: What is predicted, or `auto`.
        loss: The user's own, or empty.

    Raises:
        ValueError: Labels and model do not fit.
    """
    import numpy as np

    from tfsparse.data import labels
    from tfsparse.graph import trace
    from tfsparse.graph.ends import activation_at_end

    y, shape = np.asarray(y), tuple(model.output_shape[1:])
    classes: tuple[str, ...] = ()
    whole = y.dtype.kind in "iu" and (y.ndim == 1 or y.shape[1] == 1)
    if kind == "auto" and whole and len(shape) == 1:
        # A few samples may lack classes that the model knows.
        classes = tuple(map(str, range(max(2, shape[0]))))
    told, (found,) = labels.labelled(path, [y], kind, classes, ())
    told = labels.completed(told, path, loss, x, found, None)
    end = activation_at_end(trace.read(model))
    return told.fitted(shape, end or "", model.name), found
