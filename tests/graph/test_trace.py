"""Guards: the private names of Keras that the library leans on still mean what they did.

A failure here after an update of Keras says where to look: graph/trace.py. Those of the
optimizers are guarded in tests/optimizers/test_private.py.
"""

from __future__ import annotations

import ast
import pathlib

import keras
import numpy as np
import pytest
from conformance import models
from keras import layers, ops

import tfsparse
from tfsparse.graph import trace
from tfsparse.graph.rebuild import rebuild

PACKAGE = pathlib.Path(tfsparse.__file__).parent

GUARDED = {
    "_nodes_by_depth",
    "_inputs_struct",
    "_outputs_struct",
    "_keras_history",
    "_flatten_layers",
    "_path",
    # The method that a joint step extends: tests/optimizers/test_private.py.
    "_backend_update_step",
}
"""Each has a test below, or where it says."""

OTHERS = {
    "children/interpreting.py": {"_get_ops_details"},
    "children/process.py": {"_exit"},
    "engine/beside.py": {"_exit"},
    "search/sampler.py": {"_storage", "_trial_id"},
    "search/study.py": {"_storage", "_trial_id"},
}
"""Private names of LiteRT and of Optuna, which tests/search/test_study.py cannot do without,
and Python's documented `os._exit`."""


def private_names(path: pathlib.Path) -> set[str]:
    """Names with a leading underscore that are read off something else than self."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            mine = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if not mine and not node.attr.startswith("__"):
                found.add(node.attr)
    return found


def test_private_names_stand_in_two_files_and_are_guarded():
    rooms = [PACKAGE / "graph" / "trace.py", PACKAGE / "optimizers" / "joint.py"]
    used = set().union(*(private_names(path) for path in rooms))
    assert used == GUARDED
    elsewhere = {
        str(path.relative_to(PACKAGE)): private_names(path)
        for path in PACKAGE.rglob("*.py")
        if path not in rooms and private_names(path)
    }
    assert elsewhere == OTHERS


def test_a_variable_takes_the_path_that_it_is_given():
    variable = keras.Variable(np.ones(2), name="own")
    trace.set_path(variable, "elsewhere/kernel")
    assert variable.path == "elsewhere/kernel"


def test_nodes_by_depth_hold_every_call():
    model = models.op_layers()
    depths = model._nodes_by_depth
    nodes = [node for depth in sorted(depths, reverse=True) for node in depths[depth]]
    assert [n.operation.name for n in nodes if n.is_input] == [model.layers[0].name]
    assert {id(n.operation) for n in nodes} == {id(op) for op in model.operations}
    assert len(nodes) == len(model.operations) == 12
    assert all(len(n.output_tensors) == 1 for n in nodes)


def test_a_node_tells_its_arguments():
    vector = keras.Input((4,))
    hidden = layers.Dense(3)(vector)
    dropped = layers.Dropout(0.5)(hidden, training=False)
    model = keras.Model(vector, dropped)
    (node,) = model._nodes_by_depth[0]
    assert node.arguments.kwargs["training"] is False
    assert node.input_tensors == [hidden] and node.output_tensors == [dropped]
    other = keras.Input((3,))
    args, kwargs = node.arguments.fill_in({id(hidden): other})
    assert args[0] is other and kwargs["training"] is False


def test_sublayers_are_all_of_them():
    inner = layers.Dense(3)
    sublayers = trace.sublayers([ops.relu, outer := layers.TimeDistributed(inner)])
    assert sublayers == [outer, inner]


def test_keras_history_names_the_operation():
    vector = keras.Input((4,), name="vector")
    hidden = layers.Dense(3, name="hidden")(vector)
    assert hidden._keras_history.operation.name == "hidden"
    assert vector._keras_history.operation.name == "vector"
    assert trace.origin(hidden) == "hidden"
    assert trace.operation_class(ops.relu) is type(
        ops.relu(hidden)._keras_history.operation
    )


def test_structs_keep_the_form_of_inputs_and_outputs():
    assert set(models.multi_input()._inputs_struct) == {"image", "vector"}
    assert set(models.multi_output()._outputs_struct) == {"one", "two"}
    model = models.named_vector()
    assert model._inputs_struct is model.inputs[0]
    assert model._outputs_struct is model.outputs[0]


def nested():
    """A functional model inside another, and a layer inside a layer."""
    x = keras.Input((4, 3), name="x")
    inner = keras.Model(x, layers.TimeDistributed(layers.Dense(5))(x), name="inner")
    y = keras.Input((4, 3), name="y")
    return keras.Model({"y": y}, {"out": layers.Dense(2)(inner(y))})


NEEDS = {
    "_nodes_by_depth": (lambda m: m, lambda m: tfsparse.find_groups(m)),
    "_inputs_struct": (lambda m: m, lambda m: rebuild(m)),
    "_outputs_struct": (lambda m: m, lambda m: rebuild(m)),
    "_keras_history": (lambda m: m.inputs[0], lambda m: tfsparse.find_groups(m)),
    "_flatten_layers": (
        lambda m: keras.layers.Layer,
        lambda m: trace.sublayers(m.layers),
    ),
}
"""Name -> who has it, of a model; and what fails without it."""


@pytest.mark.parametrize("name", NEEDS)
def test_without_a_private_name_nothing_is_guessed(name, monkeypatch):
    owner, use = NEEDS[name]
    model = nested()
    use(model)
    if isinstance(owner(model), type):
        monkeypatch.delattr(owner(model), name)
    else:
        del vars(owner(model))[name]
    vars(model).pop(trace._Reading.name, None)  # what was read is kept
    # Without `_nodes_by_depth` a model looks like one whose call is Python code.
    with pytest.raises(
        (AttributeError, ValueError), match=f"{name}|must be Functional"
    ):
        use(model)


def test_every_private_name_is_taken_away_once():
    assert {*NEEDS, "_backend_update_step", "_path"} == GUARDED


@pytest.mark.parametrize(
    ("optimizer", "slots"),
    [
        (keras.optimizers.Adam(), 2),
        (keras.optimizers.Adam(amsgrad=True), 3),
        (keras.optimizers.SGD(momentum=0.9), 1),
        (keras.optimizers.RMSprop(momentum=0.5, centered=True), 3),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_slots_are_lists_beside_the_trainable_variables(optimizer, slots):
    model = models.named_vector()
    trained = model.trainable_variables
    optimizer.build(trained)
    own = {id(v) for v in optimizer.variables}
    lists = [
        value
        for value in vars(optimizer).values()
        if isinstance(value, list) and value and all(id(v) in own for v in value)
    ]
    beside = [value for value in lists if len(value) == len(trained)]
    assert len(beside) == slots
    for slot in beside:
        assert [v.shape for v in slot] == [v.shape for v in trained]


def test_the_loss_scale_optimizer_wraps_another():
    inner = keras.optimizers.Adam()
    optimizer = keras.optimizers.LossScaleOptimizer(inner)
    optimizer.build(models.named_vector().trainable_variables)
    assert optimizer.inner_optimizer is inner and inner.built
    assert int(optimizer.step_counter) == 0
    assert float(optimizer.dynamic_scale) == 2.0**15


def test_calls_count_the_calls_of_a_shared_layer():
    found = trace.read(models.shared_dense()).calls
    shared = [
        (c.operation.name, c.index) for c in found if c.operation.name == "shared"
    ]
    assert shared == [("shared", 0), ("shared", 1)]
    assert [c.operation.name for c in found][-1] == "out"


@pytest.mark.parametrize("name", ["op_layers", "shared_dense", "multi_output", "prelu"])
def test_rebuild_replays_the_model(name):
    model = models.randomise(models.TABLE[name].build())
    twin, operations = rebuild(model)
    assert [op.name for op in twin.operations][2:] == [
        op.name for op in model.operations
    ][2:]
    assert not {id(layer) for layer in twin.layers} & {id(x) for x in model.layers}
    for layer in model.layers:
        if layer.weights:
            operations[id(layer)].set_weights(layer.get_weights())
    inputs = models.inputs_for(model)
    for a, b in zip(
        models.outputs(model, inputs), models.outputs(twin, inputs), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6)
