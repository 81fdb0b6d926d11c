"""One copy of a model in which units are switched off and on again, for many masks in turn."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from tfsparse import records
from tfsparse.deploy import removal, variables
from tfsparse.graph import groups
from tfsparse.graph.rebuild import clone, rebuild


class Masked:
    """A model that computes what `mask(model, keep)` does, for one `keep` after another.

    The copy is made once: a mask changes values of variables alone, so whatever was traced of
    the copy stays traced. Branches are not masked.

    Args:
        model: A built Functional or Sequential model; it is not changed.
        fresh: Whether every BatchNorm takes the statistics of the batch that it sees, as
            those of the whole network are wrong once units are off; it keeps its own.

    Attributes:
        model: The copy.
        analysis: Groups and labels of the model.

    Example:
        >>> masked = Masked(net)
        >>> for keep in candidates:
        ...     masked.set(keep)
        ...     losses.append(loss(y, masked.model(x)))
    """

    def __init__(self, model, fresh: bool = False):
        self.analysis = groups.analyse(model)
        graph = self.analysis.graph
        self._values = variables.values_of(graph)
        self._gates: dict[tuple, Gate] = {}
        places: dict[tuple, dict[int, int]] = {}
        for layer, call, number, axis, labels in self.analysis.walks["unit"].gates:
            places.setdefault((layer, call, number), {})[axis] = len(labels)
        taken = set(graph.names.values())

        def make(operation, name):
            # Of momentum 1, so that a look changes nothing.
            return clone(
                operation, name, {"momentum": 1.0} if _taken(operation) else None
            )

        def _taken(operation):
            norm = isinstance(operation, keras.layers.BatchNormalization)
            return fresh and norm and operation.trainable

        def through(item, operation, args, kwargs):
            if _taken(item.operation):
                kwargs = {**kwargs, "training": True}
            keys = [(item.name, item.index, n) for n in range(len(item.inputs))]
            if not places.keys() & set(keys):
                return operation(*args, **kwargs)
            tensors = [
                x
                for x in keras.tree.flatten((args, kwargs))
                if isinstance(x, keras.KerasTensor)
            ]
            for number, key in enumerate(keys):
                for axis, size in places.get(key, {}).items():
                    name = "_".join(map(str, (*key, axis, "gate"))).replace("/", "_")
                    while name in taken:
                        name += "_"
                    taken.add(name)
                    gate = Gate(axis, size, dtype=tensors[number].dtype, name=name)
                    self._gates[key + (axis,)] = gate
                    tensors[number] = gate(tensors[number])
            args, new = item.fill(tensors)
            return operation(*args, **{**kwargs, **new})

        self.model, operations = rebuild(graph, make, through)
        variables.load(operations, graph, self._values, None)
        self._targets = {
            graph.paths[id(source)]: target
            for old in graph.operations
            if id(old) in operations
            for source, target in variables.pair(old, operations[id(old)])
        }
        self._held = dict(self._values)
        self._closed: set[tuple] = set()
        self._factors: dict[str, keras.Variable] = {}

    def hold(self) -> None:
        """From here on a step of an optimizer leaves at zero what a mask zeroes."""
        for path in sorted(self._read()):
            factor = keras.Variable(np.ones(self._values[path].shape), trainable=False)
            self._factors[path] = factor
            self._targets[path].constraint = functools.partial(_times, factor)

    def _read(self) -> set[str]:
        """Paths of the variables that masks zero."""
        return {
            path
            for walk in self.analysis.walks.values()
            for path, _, role in walk.members
            if role == records.CONSUMER
        }

    def set(self, keep: removal.Keep) -> None:
        """Switches off what `keep` drops, and on what it keeps.

        Args:
            keep: Group name -> bool `(units,)`, True = stays; a group may lose all.

        Raises:
            ValueError: `keep` does not fit the model's groups.
        """
        planned = removal.plan(None, keep, self.analysis, empty=True)
        self._write(variables.masked(self._values, planned))
        if self._factors:
            ones = {
                path: np.ones(f.shape, "float32") for path, f in self._factors.items()
            }
            for path, own in variables.masked(
                {**self._values, **ones}, planned
            ).items():
                if path in ones:
                    self._factors[path].assign(own)
        closed = {
            (*key, axis): stays
            for key, gates in planned.closed(only_surplus=False).items()
            for axis, stays in gates
        }
        for key in self._closed - closed.keys():
            self._gates[key].stays.assign(np.ones(self._gates[key].size))
        for key, stays in closed.items():
            self._gates[key].stays.assign(stays.astype("float32"))
        self._closed = set(closed)

    def restore(self) -> None:
        """Brings back every value, whatever was trained meanwhile, and all units."""
        self._held = {}
        self.set({})

    def _write(self, values: Mapping[str, np.ndarray]) -> None:
        for path, value in values.items():
            if self._held.get(path) is not value:
                self._targets[path].assign(value)
                self._held[path] = value


def _times(factor, value):
    """A constraint: what a mask zeroes stays zero."""
    return value * ops.cast(factor, value.dtype)


@keras.saving.register_keras_serializable("tfsparse")
class Gate(keras.layers.Layer):
    """Multiplies units by what its variable holds for each of them.

    Args:
        axis: On which they lie, batch counted.
        size: How many.
    """

    def __init__(self, axis: int, size: int, **kwargs):
        super().__init__(**kwargs)
        self.axis, self.size = axis, size
        self.stays = self.add_weight(
            shape=(size,), initializer="ones", trainable=False, name="stays"
        )

    def call(self, x):
        """The units, those at 0 switched off."""
        shape = [1] * len(x.shape)
        shape[self.axis] = self.size
        return x * ops.cast(ops.reshape(self.stays, shape), x.dtype)

    def compute_output_shape(self, input_shape):
        """That of the input."""
        return input_shape

    def get_config(self):
        """Its arguments."""
        return {**super().get_config(), "axis": self.axis, "size": self.size}
