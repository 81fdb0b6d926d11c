"""The most activation memory that a graph needs, over the best order of its calls."""

from __future__ import annotations

import math

from tfsparse.graph import trace
from tfsparse.graph.rules import rule_of

BEAM = 64
"""Partial orders that are kept where a graph branches; more is slower and seldom better."""


def in_place(operation) -> bool:
    """Views, and element-wise layers that TFLite fuses into the one before."""
    return bool(rule_of(operation).in_place) or hasattr(operation, "lowered")


FLOAT_BYTES = 4
SLOTS = 3
"""A gradient and two numbers of an optimizer, beside each weight."""


def of_training(model, batch: int) -> int:
    """About what a training step needs at most, in bytes, counted without running it.

    Every tensor between layers is held for the way back, weights with their gradients and
    an optimizer's two numbers; 4 bytes each. Unknown sizes count 1.

    Args:
        model: A built model, or its graph.
        batch: Samples of a step.

    Example:
        >>> of_training(net, 128) > of_training(net, 64)
        True
    """
    graph = trace.read(model)
    shapes = [t.shape for call in graph.calls for t in call.outputs]
    shapes += [t.shape for t in graph.inputs]
    held = sum(math.prod(size or 1 for size in shape[1:]) for shape in shapes)
    weights = sum(math.prod(v.shape) for v in graph.model.variables)
    return FLOAT_BYTES * (batch * held + (1 + SLOTS) * weights)


def peak(graph, left) -> int:
    """Smallest maximum of the sum of live tensors, at 1 byte an element.

    A beam search over the orders in which the calls can run: exact on chains and
    where fewer than `BEAM` partial orders compete.

    Args:
        graph: The graph.
        left: Tells the size of each tensor.
    """
    size = {tensor: left.size(tensor) for tensor in graph.inputs}
    for call in graph.calls:
        size.update((tensor, left.size(tensor)) for tensor in call.outputs)
    number = {call: n for n, call in enumerate(graph.calls)}
    writer = {tensor: number[call] for tensor, call in graph.writers.items()}
    needs = [  # sets of calls are the bits of whole numbers
        _bits(writer[t] for t in call.inputs if t in writer) for call in graph.calls
    ]
    readers = {
        tensor: _bits(number[call] for call in graph.readers.get(tensor, []))
        for tensor in size
    }
    for tensor in graph.outputs:
        readers[tensor] |= 1 << len(graph.calls)  # read at the end
    # Of each call, once: what it puts out, reads, writes over, and what nobody reads.
    new = [sum(size[t] for t in call.outputs) for call in graph.calls]
    read = [
        [(size[t], readers[t]) for t in dict.fromkeys(call.inputs)]
        for call in graph.calls
    ]
    over = [in_place(call.operation) for call in graph.calls]
    unread = [
        sum(size[t] for t in call.outputs if not readers[t]) for call in graph.calls
    ]
    opens = [
        {number[c] for t in call.outputs for c in graph.readers.get(t, [])}
        for call in graph.calls
    ]
    live = sum(size[t] for t in graph.inputs)
    ready = frozenset(n for n, need in enumerate(needs) if not need)
    state = [(live, live, ready, 0)]
    for _ in graph.calls:
        following: dict[frozenset, tuple] = {}
        for most, live, ready, done in state:
            for n in sorted(ready):
                now = done | 1 << n
                freed = sum(own for own, reading in read[n] if not reading & ~now)
                during = live + new[n] - (freed if over[n] else 0)
                opened = {m for m in opens[n] if not needs[m] & ~now}
                key = frozenset((ready - {n}) | opened)
                found = (max(most, during), live + new[n] - freed - unread[n])
                known = following.get(key)
                if known is None or found < known[:2]:
                    following[key] = (*found, key, now)
        state = sorted(following.values(), key=lambda s: s[:2])[:BEAM]
    return state[0][0]


def _bits(numbers) -> int:
    found = 0
    for n in numbers:
        found |= 1 << n
    return found
