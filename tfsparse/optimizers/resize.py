"""Cuts an optimizer's slots after a removal, so that training simply goes on."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from tfsparse.optimizers import private

Cut = Callable[[str, np.ndarray], np.ndarray]


def resize(optimizer, variables: list, pairs: dict[str, str], cut: Cut):
    """A new optimizer for `variables`, carrying on where the old one stood.

    Momenta, velocities, averages and accumulated gradients are sliced like their
    variables; the step count, the learning rate or its schedule, and scalars go over.

    Args:
        optimizer: A built Keras optimizer.
        variables: Trainable variables of the smaller model.
        pairs: Path of a new variable -> path of the old one that it comes from.
        cut: `(old path, value) -> value` of the new shape.

    Returns:
        An optimizer of the same class and configuration.

    Raises:
        ValueError: The optimizer keeps slots of another shape than its variables.

    Example:
        >>> small_optimizer = resize(model.optimizer, small.trainable_variables,
        ...                          pairs, planned.cut)
    """
    config = optimizer.get_config()
    if hasattr(optimizer, "cut_groups"):  # its groups lie over the variables
        config |= optimizer.cut_groups(pairs, cut)
    new = optimizer.__class__.from_config(config)
    if not optimizer.built:
        return new
    if hasattr(optimizer, "inner_optimizer"):  # loss scaling wraps the real one
        new.build(variables)
        new.inner_optimizer = resize(optimizer.inner_optimizer, variables, pairs, cut)
        for name in ("step_counter", "dynamic_scale"):
            getattr(new, name).assign(getattr(optimizer, name))
        return new
    spare_decay(new, variables, optimizer, private.trained(optimizer), pairs)
    new.build(variables)
    in_slots = _cut_slots(optimizer, new, variables, pairs, cut)
    rest = [v for v in optimizer.variables if id(v) not in in_slots]
    twins = [v for v in new.variables if id(v) not in in_slots]
    for source, target in zip(rest, twins, strict=True):
        if source.shape == target.shape:  # a number a group comes with the config
            target.assign(source)
    return new


def check_slots(optimizer, variables: list) -> None:
    """Checks, before training, that an optimizer's slots can be cut with its variables.

    Args:
        optimizer: A Keras optimizer of these variables; built if it is not.

    Raises:
        ValueError: It keeps slots of another shape than its variables.
    """
    if not optimizer.built:
        optimizer.build(variables)
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    trained = private.trained(optimizer)
    for name, slots in _slot_lists(optimizer).items():
        for slot, variable in zip(slots, trained, strict=False):
            if slot is not None:
                _check_slot(optimizer, name, slot, variable)


def _check_slot(optimizer, name: str, slot, variable) -> None:
    if slot.shape != variable.shape:
        raise ValueError(
            "`optimizer` must keep slots of its variables' shapes to be cut. "
            f"Received: {type(optimizer).__name__}, whose {name!r} of {variable.path} has "
            f"shape {slot.shape}. Train with Adam, SGD or RMSprop."
        )


def _cut_slots(optimizer, new, variables, pairs, cut: Cut) -> set[int]:
    """Fills the slots of `new` from those of `optimizer`; the ids of both."""
    trained = private.trained(optimizer)
    old_index = {v.path: i for i, v in enumerate(trained)}
    in_slots: set[int] = set()
    for name, slots in _slot_lists(optimizer).items():
        targets = getattr(new, name)
        for variable, target in zip(variables, targets, strict=True):
            path = pairs.get(variable.path)
            if path is None:  # a bias that the removal added: a fresh slot
                continue
            source = slots[old_index[path]]
            if source is None or target is None:
                continue
            _check_slot(optimizer, name, source, trained[old_index[path]])
            target.assign(cut(path, ops.convert_to_numpy(source)))
        in_slots.update(id(slot) for slot in (*slots, *targets))
    return in_slots


def spare_decay(optimizer, variables, like=None, trained=(), pairs=None) -> None:
    """Makes weight decay leave alone what it has no business with.

    That is a posterior's own variables (a log variance drawn to 0 is noise, not a smaller
    weight), which say so by an attribute `undecayed`, and what `like` leaves alone.

    Args:
        optimizer: A Keras optimizer; no configuration tells what it leaves alone, so one
            that was made from another's, or read from a file, has to be told again.
        variables: What it will train.
        like: An optimizer of another model, to do as it does.
        trained: What `like` trains.
        pairs: Path of a variable -> path of the one in `trained` that it comes from; None
            for equal paths.

    Example:
        >>> fresh = type(optimizer).from_config(optimizer.get_config())
        >>> spare_decay(fresh, copy.trainable_variables, optimizer,
        ...             model.trainable_variables)
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    like = getattr(like, "inner_optimizer", like)
    decayed = {v.path: private.decays(like, v) for v in trained}
    optimizer.exclude_from_weight_decay(
        var_list=[
            v
            for v in variables
            if getattr(v, "undecayed", False)
            or not private.decays(optimizer, v)  # by a pattern: it would be forgotten
            or not decayed.get(v.path if pairs is None else pairs.get(v.path), True)
        ]
    )


def _slot_lists(optimizer) -> dict[str, list]:
    """Attributes that hold one optimizer variable for each trainable variable."""
    count = len(private.trained(optimizer))
    own = {id(v) for v in optimizer.variables}
    return {
        name: value
        for name, value in vars(optimizer).items()
        if isinstance(value, list)
        and len(value) == count
        and any(id(v) in own for v in value)
        and all(v is None or id(v) in own for v in value)
    }


def recompile(model, like, optimizer) -> None:
    """Compiles `model` with everything that `like` was compiled with.

    Args:
        model: The model to compile.
        like: A compiled model; its loss, metrics and options are taken over.
        optimizer: The optimizer to use instead of `like`'s.
    """
    arguments = private.compile_arguments(like)
    arguments["optimizer"] = optimizer
    for metric in keras.tree.flatten(
        [arguments.get("metrics"), arguments.get("weighted_metrics")]
    ):
        if isinstance(metric, keras.metrics.Metric):
            metric.reset_state()  # Keras does not, on a model that has not run yet
    if like.optimizer is not None and hasattr(like.optimizer, "inner_optimizer"):
        arguments["auto_scale_loss"] = False
    keras.Model.compile(model, **arguments)
