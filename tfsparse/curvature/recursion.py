"""The sweep: gradient and curvature side by side, from a graph's output to its weights."""

from __future__ import annotations

import math

import keras
from keras import ops

from tfsparse import gradients
from tfsparse.curvature import rules
from tfsparse.graph import trace


class Sweep:
    """Gradient and curvature of a graph, from its output back to its weights.

    Args:
        graph: Of a model with one output.
        averaged: Whether means over the batch go back, not samples.
        bent: How the loss bends by the output, see `losses.bent`.
    """

    def __init__(self, graph, averaged: bool, bent):
        self._graph, self._averaged, self._bent = graph, averaged, bent
        for call in graph.calls:
            if rules.rule_of(call.operation) is None:
                raise ValueError(
                    "`curvature` must be gauss_newton or hutchinson for a model with layers "
                    f"that the recursion does not know. Received: {call.name!r} of class "
                    f"{type(call.operation).__name__}."
                )
        size = max(1, round(math.sqrt(len(graph.calls))))
        self._parts = [
            graph.calls[start : start + size]
            for start in range(0, len(graph.calls), size)
        ]
        self.held: list[int] = []
        """How many tensors were held at once, at each stretch; for tests."""

    def run(self, x, y):
        graph = self._graph
        tensors = dict(zip(graph.inputs, x, strict=True))
        starts = []
        for number, part in enumerate(self._parts):
            starts.append(tensors)
            inside = self._forward(part, tensors)
            needed = {
                t
                for later in self._parts[number + 1 :]
                for c in later
                for t in c.inputs
            } | set(graph.outputs)
            known = {**tensors, **inside}
            tensors = {t: known[t] for t in known if t in needed}
        outputs = tensors[graph.outputs[0]]
        count = ops.cast(ops.shape(outputs)[0], outputs.dtype)
        slope = self._bent.slope(y, outputs) / count
        bend = self._bent.bend(y, outputs) / count
        if self._averaged:
            bend = ops.sum(bend, axis=0, keepdims=True)  # mean over the batch, of a sum
        back = {graph.outputs[0]: (slope, bend)}
        found: dict[str, object] = {}
        for part, start in zip(reversed(self._parts), reversed(starts), strict=True):
            # Not before the sweep is here: a graph would work everything out at once.
            there = [own for pair in back.values() for own in pair]
            start = dict(
                zip(start, gradients.after(list(start.values()), there), strict=True)
            )
            inside = {**start, **self._forward(part, start)}
            self.held.append(len(inside))
            for call in reversed(part):
                self._backward(call, inside, back, found)
        return found

    def _forward(self, part, tensors) -> dict:
        """What the calls of a stretch put out."""
        inside = dict(tensors)
        made = {}
        for call in part:
            args, kwargs = call.fill([inside[t] for t in call.inputs])
            if trace.takes_training(call.operation):
                kwargs = {**kwargs, "training": False}
            outputs = keras.tree.flatten(call.operation(*args, **kwargs))
            for tensor, own in zip(call.outputs, outputs, strict=True):
                inside[tensor] = made[tensor] = own
        return made

    def _backward(self, call, tensors, back, found) -> None:
        """Takes gradient and curvature from a call's output to its inputs."""
        if call.outputs[0] not in back:
            return
        slope, bend = back.pop(call.outputs[0])
        inputs = [tensors[t] for t in call.inputs]
        last = self._bent.end and call.outputs[0] is self._graph.outputs[0]
        visit = rules.Visit(call, inputs, slope, bend, self._averaged, bool(last))
        sides = rules.rule_of(call.operation)(visit)
        for tensor, own in zip(call.inputs, sides, strict=True):
            if tensor in back:
                own = tuple(a + b for a, b in zip(back[tensor], own, strict=True))
            back[tensor] = own
        for variable, own in visit.found:
            path = self._graph.paths[id(variable)]
            found[path] = found[path] + own if path in found else own
