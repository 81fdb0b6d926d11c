"""Guards of the optimizers' private names of Keras: without each, what needs it fails.

Every name is there, means what `optimizers/private.py` says, and taken away gives one
sentence instead of a wrong number or an AttributeError from somewhere deep.
"""

from __future__ import annotations

import ast
import pathlib

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfsparse import optimizers, records
from tfsparse.optimizers import JointOptimizer, ProxDecay, ProxSGD, private

ROOM = pathlib.Path(optimizers.__file__).parent
TENSORFLOW = keras.backend.backend() == "tensorflow"


def net():
    x = keras.Input((3,))
    return keras.Model(x, layers.Dense(2, name="d")(x))


def running(optimizer=None, **arguments):
    """A model after one training step."""
    model = net()
    partition = records.Partition({"d/kernel": np.array([[0, 1]])})
    model.compile(optimizer or ProxSGD(partition, 0.1, **arguments), "mse")
    model.train_on_batch(np.ones((4, 3)), np.ones((4, 2)))
    return model


def step(optimizer) -> None:
    variables = private.trained(optimizer)
    optimizer.apply([ops.ones(v.shape) for v in variables], variables)


def resized(model):
    pairs = {v.path: v.path for v in model.trainable_variables}
    variables = net().trainable_variables
    return optimizers.resize(model.optimizer, variables, pairs, lambda path, x: x)


NEEDS = {
    "_trainable_variables": (lambda m: m.optimizer, resized),
    "_get_variable_index": (lambda m: m.optimizer, lambda m: step(m.optimizer)),
    "_iterations": (lambda m: m.optimizer, lambda m: step(m.optimizer)),
    "_use_weight_decay": (lambda m: m.optimizer, resized),
    "_compile_config": (
        lambda m: m,
        lambda m: optimizers.recompile(net(), m, m.optimizer),
    ),
    "_backend_update_step": (lambda m: JointOptimizer, lambda m: running()),
    "_distributed_tf_update_step": (lambda m: JointOptimizer, lambda m: running()),
}
"""Name -> who has it, of a running model; and what fails without it."""


def take_away(owner, name: str, monkeypatch) -> None:
    """Deletes a name as if Keras had never known it; from Keras's classes alone."""
    if not isinstance(owner, type) and name in vars(owner):
        del vars(owner)[name]
        return
    kind = owner if isinstance(owner, type) else type(owner)
    classes = [c for c in kind.__mro__ if name in vars(c)]
    theirs = [c for c in classes if c.__module__.startswith("keras")]
    assert theirs, f"keras {keras.__version__} has no {name}"
    for one in theirs:
        monkeypatch.delattr(one, name)


@pytest.mark.parametrize("name", NEEDS)
def test_a_name_that_keras_moves_is_told_in_one_sentence(name, monkeypatch):
    if name == "_distributed_tf_update_step" and not TENSORFLOW:
        pytest.skip("only TensorFlow has it")
    owner, use = NEEDS[name]
    model = running(rho=ProxDecay(0.9))
    use(model)  # as long as the name is there nothing fails
    take_away(owner(model), name, monkeypatch)
    sentence = rf"`keras` must have \w+\.{name}, by which tfsparse .* Received: keras 3"
    with pytest.raises(RuntimeError, match=sentence):
        use(model)


def test_every_private_name_is_in_the_table():
    tree = ast.parse((ROOM / "private.py").read_text())
    told = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
    names = {t for t in told if isinstance(t, str) and t.isidentifier() and t[0] == "_"}
    assert names == set(NEEDS)


def test_a_step_of_one_variable_alone_is_refused(monkeypatch):
    """Should Keras go round the hook, groups would be shrunk by wrong norms."""

    def one_by_one(self, gradients, variables):
        for gradient, variable in zip(gradients, variables, strict=True):
            self.update_step(gradient, variable, 0.1)

    optimizer = running().optimizer
    monkeypatch.setattr(
        keras.optimizers.Optimizer, "_backend_apply_gradients", one_by_one
    )
    before = ops.convert_to_numpy(private.trained(optimizer)[0])
    with pytest.raises(RuntimeError, match="by which tfsparse steps them all at once"):
        step(optimizer)
    np.testing.assert_array_equal(before, private.trained(optimizer)[0])


def methods_of(path: pathlib.Path):
    """`(class, method names, names that it sets or reads on self)` of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            used = {
                n.attr: isinstance(n.ctx, ast.Store)
                for n in sorted(
                    (n for n in ast.walk(node) if isinstance(n, ast.Attribute)),
                    key=lambda n: isinstance(n.ctx, ast.Store),
                )
                if isinstance(n.value, ast.Name) and n.value.id == "self"
            }
            defined = {n.name for n in node.body if isinstance(n, ast.FunctionDef)}
            yield node.name, defined, used


def test_classes_read_no_private_name_of_their_bases():
    """`self._x` is ours: set or defined in the room; and hides nothing of Keras's."""
    classes = [found for path in ROOM.glob("*.py") for found in methods_of(path)]
    ours = set().union(*(defined for _, defined, _ in classes))
    ours |= {name for _, _, used in classes for name, stored in used.items() if stored}
    used = set().union(*(used for _, _, used in classes))
    assert {name for name in used - ours if name[0] == "_"} == set()
    theirs = {n for n in dir(running(keras.optimizers.SGD()).optimizer) if n[0] == "_"}
    hooks = {name for name in ours & theirs if not name.startswith("__")}
    assert hooks <= {*private.HOOKS, *private.TENSORFLOW_HOOKS}


def test_trained_variables_and_their_numbers():
    model = running()
    found = private.trained(model.optimizer)
    assert [v.path for v in found] == [v.path for v in model.trainable_variables]
    assert [private.number_of(model.optimizer, v) for v in found] == [0, 1]
    if TENSORFLOW:  # the hook hands over TensorFlow's own variables
        assert [private.number_of(model.optimizer, v.value) for v in found] == [0, 1]


def test_batches_are_counted_also_between_steps():
    model = running(keras.optimizers.SGD(gradient_accumulation_steps=2))
    for seen in (1, 2, 3):
        assert int(private.batches(model.optimizer)) == seen
        assert int(model.optimizer.iterations) == seen // 2
        model.train_on_batch(np.ones((4, 3)), np.ones((4, 2)))


@pytest.mark.parametrize("built", [False, True])
def test_weight_decay_may_be_excluded_before_and_after_building(built):
    """The public method promises it only before; a loaded optimizer is told after."""
    model, optimizer = net(), keras.optimizers.AdamW(0.1, weight_decay=0.5)
    kernel, bias = model.trainable_variables
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    if built:
        optimizer.build(model.trainable_variables)
    assert [private.decays(optimizer, v) for v in (kernel, bias)] == [True, False]
    kernel.undecayed = True
    optimizers.spare_decay(optimizer, model.trainable_variables)
    assert [private.decays(optimizer, v) for v in (kernel, bias)] == [False, False]
    before = [ops.convert_to_numpy(v) for v in (kernel, bias)]
    optimizer.apply([ops.zeros(v.shape) for v in (kernel, bias)], [kernel, bias])
    for old, variable in zip(before, (kernel, bias), strict=True):
        np.testing.assert_array_equal(old, variable)  # decay 0.05 would show


def test_compile_arguments_are_the_objects():
    loss = keras.losses.MeanSquaredError()
    model = net()
    model.compile("sgd", loss, metrics=["mae"], steps_per_execution=3)
    found = private.compile_arguments(model)
    assert found["loss"] is loss and found["optimizer"] is model.optimizer
    assert (found["metrics"], found["steps_per_execution"]) == (["mae"], 3)
    found["loss"] = None
    assert private.compile_arguments(model)["loss"] is loss  # a copy
