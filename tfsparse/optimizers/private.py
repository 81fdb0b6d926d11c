"""What Keras has no public name for: the optimizers read it here and nowhere else.

`tests/test_private.py` takes each name away and sees what depends on it fail.
"""

from __future__ import annotations

import keras

TESTED = "3.15"
"""The version of Keras in which all these names mean what is said here."""

HOOKS = ("_backend_update_step",)
TENSORFLOW_HOOKS = ("_distributed_tf_update_step",)
"""Methods by which Keras hands an optimizer the gradients of all variables at once."""


def moved(name: str, use: str) -> RuntimeError:
    """The error for a name that this version of Keras does not have."""
    return RuntimeError(
        f"`keras` must have {name}, by which tfsparse {use}. Received: keras "
        f"{keras.__version__}, which has moved it. Install keras {TESTED}."
    )


def _read(owner, name: str, use: str):
    try:
        return getattr(owner, name)
    except AttributeError:
        raise moved(f"{type(owner).__name__}.{name}", use) from None


def check_hooks() -> None:
    """Raises a RuntimeError if Keras does not know the methods that a step overrides."""
    on_tensorflow = keras.backend.backend() == "tensorflow"
    for name in (*HOOKS, *(TENSORFLOW_HOOKS if on_tensorflow else ())):
        if not hasattr(keras.optimizers.Optimizer, name):
            raise moved(f"Optimizer.{name}", "steps all variables at once")


def trained(optimizer) -> list:
    """The variables that an optimizer was built with, in its order."""
    return _read(optimizer, "_trainable_variables", "matches slots with variables")


def number_of(optimizer, variable) -> int:
    """Where a variable, or its copy on a replica, stands among those."""
    find = _read(optimizer, "_get_variable_index", "matches gradients with variables")
    return find(variable)


def batches(optimizer):
    """How many batches an optimizer has seen; `iterations` counts the steps alone.

    Keras's schedules count batches too, where gradients of several make up a step.
    """
    return _read(optimizer, "_iterations", "knows where a schedule stands")


def decays(optimizer, variable) -> bool:
    """Whether weight decay applies to a variable."""
    asked = _read(
        optimizer, "_use_weight_decay", "keeps what weight decay leaves alone"
    )
    return asked(variable)


def compile_arguments(model) -> dict:
    """What a model was compiled with, the objects themselves."""
    return dict(
        _read(model, "_compile_config", "compiles a smaller model alike").config
    )
