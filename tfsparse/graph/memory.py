"""The most activation memory that a graph needs, over the best order of its calls."""

from __future__ import annotations

from keras import layers

from tfsparse.graph.rules import moves

BEAM = 64
"""Partial orders that are kept where a graph branches; more is slower and seldom better."""

_IN_PLACE = (
    layers.Flatten,
    layers.Reshape,
    layers.Dropout,
    layers.Identity,
    moves.RESHAPE,
    layers.ReLU,
    layers.Activation,
    layers.BatchNormalization,
)


def in_place(operation) -> bool:
    """Views, and element-wise layers that TFLite fuses into the one before."""
    return isinstance(operation, _IN_PLACE) or hasattr(operation, "lowered")


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
    waits = [
        len({t for t in call.inputs if t in graph.writers}) for call in graph.calls
    ]
    outs = set(graph.outputs)
    left_to_read = {
        tensor: len(graph.readers.get(tensor, [])) + (tensor in outs) for tensor in size
    }
    live = sum(size[t] for t in graph.inputs)
    ready = frozenset(n for n, wait in enumerate(waits) if wait == 0)
    state = [(live, live, ready, waits, left_to_read)]
    for _ in graph.calls:
        following: dict[frozenset, tuple] = {}
        for most, live, ready, waits, unread in state:
            single = len(ready) == 1 and len(state) == 1
            for n in sorted(ready):
                new = _step(
                    graph, n, size, number, most, live, ready, waits, unread, single
                )
                known = following.get(new[2])
                if known is None or new[:2] < known[:2]:
                    following[new[2]] = new
        state = sorted(following.values(), key=lambda s: s[:2])[:BEAM]
    return state[0][0]


def _step(graph, n, size, number, most, live, ready, waits, unread, single):
    """The state after call `n`: (peak, live, ready calls, waits, unread readers)."""
    call = graph.calls[n]
    if not single:
        waits, unread = list(waits), dict(unread)
    new = sum(size[t] for t in call.outputs)
    freed = 0
    for tensor in dict.fromkeys(call.inputs):
        unread[tensor] -= 1
        if unread[tensor] == 0:
            freed += size[tensor]
    during = live + new - (freed if in_place(call.operation) else 0)
    ready = set(ready) - {n}
    for tensor in call.outputs:
        if unread[tensor] == 0:  # nobody reads it: gone at once
            freed += size[tensor]
        for reader in graph.readers.get(tensor, []):
            k = number[reader]
            waits[k] -= 1
            if waits[k] == 0:
                ready.add(k)
    return max(most, during), live + new - freed, frozenset(ready), waits, unread
