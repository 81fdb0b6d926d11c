"""Rules of attention: whole heads, and the widths of keys and values inside them."""

from __future__ import annotations

import numpy as np
from keras import layers

from tfsparse.graph.rules import counting
from tfsparse.graph.rules.registry import nothing, register_rule, unknown

MULTI = (layers.MultiHeadAttention, layers.GroupQueryAttention)


def parts(layer) -> dict[str, tuple]:
    """`query`, `key`, `value`, `gate`, `attention_output` -> (kernel, bias or None)."""
    found: dict[str, dict] = {}
    for variable in layer.variables:
        *_, part, name = variable.path.split("/")
        found.setdefault(part, {})[name] = variable
    return {
        part: (own["kernel"], own.get("bias"))
        for part, own in found.items()
        if "kernel" in own
    }


def _multi_sizes(call, left) -> dict:
    own = parts(call.operation)
    heads, width = left.shape(own["query"][0])[-2:]
    if isinstance(call.operation, layers.GroupQueryAttention):
        few = left.shape(own["key"][0])[-2]
        return {"num_query_heads": heads, "num_key_value_heads": few, "head_dim": width}
    out = left.shape(own["attention_output"][0])[2:]
    return {
        "num_heads": heads,
        "key_dim": width,
        "value_dim": left.shape(own["value"][0])[-1],
        "output_shape": list(out),
    }


def _root_of_width(call, left) -> dict:
    """The layer divides by sqrt(key width); the query makes up for its change."""
    kernel, bias = parts(call.operation)["query"]
    factor = float(np.sqrt(left.shape(kernel)[-1] / kernel.shape[-1]))
    return {id(v): factor for v in (kernel, bias) if v is not None}


def _roles(call, axes):
    """Axes of query, value and key; the key is the value where it is not given."""
    query, value, key = (call.numbers(name) for name in ("query", "value", "key"))
    return axes[query[0]], axes[value[0]], axes[(key or value)[0]]


def _multi_macs(call, left) -> int:
    """MACs of the kernels, each at its steps, and of both products of each head."""
    own = {name: kernel for name, (kernel, _) in parts(call.operation).items()}
    size = {name: counting.elements(left, kernel) for name, kernel in own.items()}
    query = left.extent(call.inputs[call.numbers("query")[0]], 1)
    value = left.extent(call.inputs[call.numbers("value")[0]], 1)
    by_query = size["query"] + size["attention_output"] + size.get("gate", 0)
    heads, width = left.shape(own["query"])[-2:]
    scores = heads * query * value * (width + left.shape(own["value"])[-1])
    return query * by_query + value * (size["key"] + size["value"]) + scores


def _takers(call, number: int) -> list:
    """Kernel and bias of every part that reads one input; the key may be the value."""
    own = parts(call.operation)
    numbers = {part: call.numbers(part) for part in ("query", "value", "key")}
    numbers["key"] = numbers["key"] or numbers["value"]
    numbers["gate"] = numbers["query"]
    return [own[part] for part, n in numbers.items() if part in own and number in n]


def _inner_biases(layer) -> list:
    own = parts(layer)
    biases = [own[part][1] for part in ("query", "value", "gate") if part in own]
    return [bias for bias in biases if bias is not None]


@register_rule(
    *MULTI,
    sizes=_multi_sizes,
    factors=_root_of_width,
    macs=_multi_macs,
    folds=_takers,
    multiplies=lambda layer: [kernel for kernel, _ in parts(layer).values()],
    inner_biases=_inner_biases,
)
def _multi_head(walk, call, axes):
    """Query, key, value: (model, heads, width) kernels; output: (heads, width, model).

    A dropped head takes its rows of all four with it. A unit of the key width is one
    column of a head's query and key: their product vanishes with the key's. The heads
    keep equal widths, as the layer stores them so.
    """
    layer, own = call.operation, parts(call.operation)
    query, value, key = _roles(call, axes)
    grouped = isinstance(layer, layers.GroupQueryAttention)
    if len(query) != 3 or len(own["attention_output"][0].shape) != 3:
        return unknown(walk, call, axes)
    for x in (query, value, key):
        walk.freeze(x[1], f"the time axis of {call.name!r}")
    for part, x in (("query", query), ("value", value), ("key", key), ("gate", query)):
        if part in own:
            walk.consume(own[part][0], 0, x[-1])
    out_kernel, out_bias = own["attention_output"]
    out = walk.produce(out_kernel, 2, ":output")
    walk.carry(out_bias, 0, out)
    result = nothing(call)
    if walk.kind == "unit":
        _widths(walk, call, own)
        result[0][-1] = out
        if grouped:  # as many features in its query as in its value, and as it writes
            rows = [query[-1], value[-1], out]
            if any(row is None for row in rows):
                for row in rows:
                    walk.freeze(
                        row, f"{call.name!r} writes as many features as it reads"
                    )
            else:
                walk.lanes(call, [(-1, (row,)) for row in rows])
    return result


def _widths(walk, call, own) -> None:
    """Heads, their key width and their value width, and which rows must be even."""
    few, key_dim = own["key"][0].shape[-2:]
    many, value_dim = own["attention_output"][0].shape[:2]
    heads = walk.new(few)
    if len(call.outputs) > 1:
        walk.freeze(heads, f"{call.name!r} puts out the scores of each head")
    all_heads = np.repeat(heads, many // few)  # several queries may share a key head
    keys = walk.new(few * key_dim).reshape(few, key_dim)
    grouped = isinstance(call.operation, layers.GroupQueryAttention)
    values = walk.new(few * value_dim).reshape(few, value_dim)
    for part in ("query", "key", "value", "gate", "attention_output"):
        if part not in own:
            continue
        kernel, bias = own[part]
        by_query = part in ("query", "gate", "attention_output")
        inside = keys if part in ("query", "key") else values
        if by_query:
            inside = np.repeat(inside, many // few, axis=0)
        whole = all_heads if by_query else heads
        first = 0 if part == "attention_output" else 1
        both = (first, first + 1)
        if part == "value":
            walk.produce(kernel, first, "", whole)
            walk.produce(kernel, both, ":value", inside.reshape(-1))
        elif part == "attention_output":
            walk.consume(kernel, first, whole)
            walk.consume(kernel, both, inside.reshape(-1))
            continue
        else:
            walk.carry(kernel, first, whole)
            if part == "query":
                walk.produce(kernel, both, ":key", inside.reshape(-1))
            elif part == "key":
                walk.consume(kernel, both, inside.reshape(-1))
            else:
                walk.carry(kernel, both, inside.reshape(-1))
        if bias is not None:
            walk.carry(bias, 0, whole)
            if part == "key":
                walk.consume(bias, (0, 1), inside.reshape(-1))
            else:
                walk.carry(bias, (0, 1), inside.reshape(-1))
    if grouped:  # one width for both
        rows = [(heads[h], (own,)) for h in range(few) for own in (keys[h], values[h])]
    else:
        rows = [(heads[h], (keys[h], values[h])) for h in range(few)]
    walk.lanes(call, rows)


def _listed(call, axes):
    """Axes of query, value and key, given as a list; a mask may follow."""
    query, value, *key = [axes[n] for n in call.numbers("inputs")]
    return query, value, key[0] if key else value


def _product_macs(call, left) -> int:
    query, value, *key = [call.inputs[n] for n in call.numbers("inputs")]
    key = key[0] if key else value
    width = left.extent(query, -1) + left.extent(value, -1)
    return left.extent(query, 1) * left.extent(value, 1) * width


@register_rule(layers.Attention, macs=_product_macs)
def _attention(walk, call, axes):
    """Query meets key in a product that is summed; the value's features pass."""
    layer = call.operation
    if layer.score_mode != "dot":
        return unknown(walk, call, axes)
    query, value, key = _listed(call, axes)
    for x in (query, value, key):
        walk.freeze(x[1], f"the time axis of {call.name!r}")
    walk.tie(
        query[-1], key[-1], f"{call.name!r} multiplies them with what has no units"
    )
    walk.gate(call, 0, -1, query[-1])
    result = nothing(call)
    result[0][-1] = value[-1]
    return result


@register_rule(layers.AdditiveAttention)
def _additive(walk, call, axes):
    """Score = sum of scale * tanh(query + key): `scale` reads the units."""
    layer = call.operation
    if not layer.use_scale:
        return unknown(walk, call, axes)
    query, value, key = _listed(call, axes)
    for x in (query, value, key):
        walk.freeze(x[1], f"the time axis of {call.name!r}")
    both = walk.tie(query[-1], key[-1], f"{call.name!r} adds them to what has no units")
    walk.consume(layer.scale, 0, both)
    result = nothing(call)
    result[0][-1] = value[-1]
    return result
