"""Ways to cut the weights of a model into the groups of a penalty.

Each is a small function that returns a `Partition`. They look at a model's trainable
variables and, for coupled units, at its `UnitGroup`s.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Mapping, Sequence

import numpy as np

from tfsparse import records

SHAPES = {
    "weight": "hwio",
    "kernel": "io",
    "filter": "o",
    "channel": "i",
    "shape": "hwi",
    "row": "hi",
    "column": "wi",
    "stack_shape": "hw",
    "stack_row": "h",
    "stack_column": "w",
}
"""Name -> which axes of a kernel (height, width, input, output) tell groups apart.

`kernel` is an input-output pair; a Dense is a kernel of height and width 1. The eight
from `filter` to `stack_column`, but for `weight` and `kernel`, are BayesNAS's (figure
S5); its two others, rows together with columns, overlap and need two partitions.
"""


def by_shape(model, shape: str, ignore: Sequence[str] = ()) -> records.Partition:
    """Cuts every kernel into groups of one shape.

    Args:
        model: A built model.
        shape: A key of `SHAPES`, such as `filter`; `weight` takes every trainable
            variable of rank 2 or more, so that each of its elements is a group.
        ignore: Patterns of variable paths without a penalty, such as `head*`.

    Returns:
        A Partition over the kernels of Dense and convolutional layers; of single weights
        without names.

    Raises:
        ValueError: `shape` is unknown, or no kernel is left.

    Example:
        >>> by_shape(net, "filter").labels["conv/kernel"].shape   # kernel (5, 5, 1, 20)
        (1, 1, 1, 20)
    """
    if shape not in SHAPES:
        raise ValueError(
            f"`shape` must be among {sorted(SHAPES)}. Received: {shape!r}."
        )
    labels: dict[str, np.ndarray] = {}
    names: list[str] = []
    start = 0
    for path, kernel in kernels(model):
        if named(path, ignore):
            continue
        letters = ["h", "w"][: len(kernel.shape) - 2] + ["i", "o"]
        kept = [
            size if letter in SHAPES[shape] else 1
            for letter, size in zip(letters, kernel.shape, strict=True)
        ]
        count = int(np.prod(kept))
        labels[path] = start + np.arange(count, dtype="int32").reshape(kept)
        start += count
        if shape != "weight":  # too many to name
            names += [f"{path}[{number}]" for number in range(count)]
    _some(labels, ignore)
    return records.Partition(labels, tuple(names))


def units(
    model,
    groups: Sequence[records.UnitGroup],
    carriers: bool = True,
    ignore: Sequence[str] = (),
) -> records.Partition:
    """Coupled units: everything that writes or carries a unit is one group.

    Once such a group is zero, the unit sends on nothing and can be stripped.

    Args:
        model: The model that the groups were found in.
        groups: From `find_groups(model)`; frozen ones are left out.
        carriers: Whether biases, BatchNorm scales and the like belong to the group. If
            not, they follow it: no penalty, but zero once it is.
        ignore: Patterns of group names without a penalty, such as `stem*`.

    Returns:
        A Partition with one label for each unit, in the order of the groups.

    Raises:
        ValueError: No group is left, or a weight belongs to two units.

    Example:
        >>> units(net, tfsparse.find_groups(net)).names[:2]
        ('conv[0]', 'conv[1]')
    """
    variables = {v.path: v for v in model.trainable_variables}
    labels: dict[str, np.ndarray] = {}
    followers: dict[str, np.ndarray] = {}
    names: list[str] = []
    for group in groups:
        if group.frozen or group.kind != "unit" or named(group.name, ignore):
            continue
        start = len(names)
        names += [f"{group.name}[{unit}]" for unit in range(group.size)]
        for member in group.members:
            if member.role == records.CONSUMER or member.path not in variables:
                continue
            within = member.role == records.PRODUCER or carriers
            target = labels if within else followers
            own = _of_member(variables[member.path].shape, member, start)
            target[member.path] = _joined(
                target.get(member.path), own, member.path, group.name
            )
    _some(labels, ignore)
    held = {v.path for v in model.variables} - set(variables)
    _whole(labels, names, groups, held)
    return records.Partition(labels, tuple(names), followers=followers)


def overlapped(model, groups: Sequence[records.UnitGroup]) -> list[str]:
    """Groups whose weights others hold already, fewer and larger units first.

    A head of an attention and a place of its key's width share the query's kernel, say: the
    head is kept, the width is named here.

    Args:
        model, groups: As of `units`.

    Returns:
        Names of groups, to be left out.
    """
    shapes = {v.path: tuple(v.shape) for v in model.trainable_variables}
    held: dict[str, np.ndarray] = {}
    found = []
    free = [g for g in groups if not g.frozen and g.kind == "unit"]
    for number, group in enumerate(sorted(free, key=lambda g: g.size)):
        own: dict[str, np.ndarray] = {}
        for member in group.members:
            if member.role != records.CONSUMER and member.path in shapes:
                taken = _of_member(shapes[member.path], member, 0) >= 0
                own[member.path] = own.get(member.path, False) | taken
        labels = {path: np.where(taken, number, -1) for path, taken in own.items()}
        if any(
            ((held[path] >= 0) & (mine >= 0)).any()
            for path, mine in labels.items()
            if path in held
        ):
            found.append(group.name)
            continue
        for path, mine in labels.items():
            before = held.get(path, np.int64(-1))
            held[path] = np.where(mine >= 0, mine, before)
    return found


def _whole(labels, names: Sequence[str], groups, held: set[str]) -> None:
    """Checks that every unit has weights in the penalty, unless they are not trained.

    Raises:
        ValueError: One has none: it would be told of as prunable, and never go.
    """
    penalised = {int(label) for own in labels.values() for label in np.unique(own)}
    without = {
        name.rpartition("[")[0]
        for number, name in enumerate(names)
        if number not in penalised
    }
    for group in groups:
        written = {m.path for m in group.members if m.role == records.PRODUCER}
        if written and written <= held:
            without.discard(group.name)
    if without:
        raise ValueError(
            "`groups` must hold weights that the model trains. Received: "
            f"{', '.join(sorted(without)[:3])}, of which some units have none."
        )


def operations(
    model, groups: Sequence[records.UnitGroup], ignore: Sequence[str] = ()
) -> records.Partition:
    """Operations: all that only one input of an Add needs is one group.

    Where a branch holds an Add of its own, the inner one's weights are the inner's.

    Args:
        model: The model that the groups were found in, or a copy with layers `Scale`.
        groups: From `find_groups(model, ("branch",))`; frozen ones are left out.
        ignore: Patterns of group names or variable paths without a penalty.

    Returns:
        A Partition with one label for each branch that has weights.

    Raises:
        ValueError: No branch is left.

    Example:
        >>> operations(net, tfsparse.find_groups(net, ("branch",))).names
        ('add:branches[0]', 'add:branches[1]')
    """
    variables = {v.path: v for v in model.trainable_variables}
    owned: dict[str, list[str]] = {}
    for group in groups:
        if group.frozen or group.kind != "branch" or named(group.name, ignore):
            continue
        for number, gate in enumerate(group.gates):
            paths = {m.path for m in group.members if (m.units == number).all()}
            paths.add(f"{scale_name(gate)}/factor")
            own = [p for p in paths if p in variables and not named(p, ignore)]
            owned[f"{group.name}[{number}]"] = own
    inner_last = sorted(owned, key=lambda name: -len(owned[name]))
    owner = {path: name for name in inner_last for path in owned[name]}
    names = [name for name in owned if name in set(owner.values())]
    labels = {
        path: np.full([1] * len(variables[path].shape), names.index(name), "int32")
        for path, name in owner.items()
    }
    _some(labels, ignore)
    return records.Partition(labels, tuple(names))


def shared(partition: records.Partition, prefixes: Sequence[str]) -> records.Partition:
    """One group of each operation over all cells of a kind.

    Variables whose paths are the same once the number behind a prefix is cut out (`normal2_a/x`
    and `normal7_a/x`) are in one group, and with them all that their groups hold.

    Args:
        partition: Groups of whole variables, see `operations`.
        prefixes: How the names of cells begin, a number after each.

    Returns:
        A Partition with a label for each operation.

    Raises:
        ValueError: A prefix fits no variable.

    Example:
        >>> shared(operations(net, groups), ["normal", "reduction"]).groups
        14

    Reference: GSparsity, section 3.2: a group is an operation over all cells of a type.
    """
    first: dict[str, int] = {}
    to = list(
        range(len(partition.names))
    )  # label -> the least label that it is one with
    seen = set()

    def root(label: int) -> int:
        while to[label] != label:
            label = to[label]
        return label

    def told(text: str) -> str:
        for prefix in prefixes:
            cut = re.sub(rf"^{re.escape(prefix)}\d+_", f"{prefix}_", text)
            if cut != text:
                seen.add(prefix)
                return cut
        return text

    for path, labels in partition.labels.items():
        own = root(int(labels.flat[0]))
        other = root(first.setdefault(told(path), own))
        to[max(own, other)] = min(own, other)
    if strange := sorted(set(prefixes) - seen):
        raise ValueError(
            f"`shared` must be prefixes of cells, a number after each. Received: {strange}, "
            f"which fit none of {sorted(partition.labels)[:3]}."
        )
    kept = sorted({root(label) for label in range(len(to))})
    number = {label: place for place, label in enumerate(kept)}
    labels = {
        path: np.full(own.shape, number[root(int(own.flat[0]))], "int32")
        for path, own in partition.labels.items()
    }
    names = tuple(told(partition.names[label]) for label in kept)
    return records.Partition(labels, names)


def live_branches(partition, groups, dead) -> dict[str, np.ndarray]:
    """Masks of the branches whose group lives; what has no group, has no verdict.

    The weights in a branch that no inner branch owns are its own.

    Args:
        partition: Groups of whole variables, see `operations`.
        groups: From `find_groups`, branches among them.
        dead: Which groups of the partition are. `(groups,)` bool.
    """
    found = []
    for group in groups:
        if group.kind == "branch" and not group.frozen:
            for number in range(group.size):
                paths = {m.path for m in group.members if (m.units == number).all()}
                found.append((paths & partition.labels.keys(), group, number))
    keep = {group.name: np.ones(group.size, bool) for _, group, _ in found}
    claimed: set[str] = set()
    for paths, group, number in sorted(found, key=lambda entry: len(entry[0])):
        own = {int(n) for p in paths - claimed for n in partition.labels[p].flat}
        claimed |= paths
        if own := sorted(own - {-1}):
            keep[group.name][number] = not dead[own].all()
    return keep


def weighted(
    partition: records.Partition, factors: Mapping[str, float]
) -> records.Partition:
    """The same groups, the penalty of some of them multiplied.

    Args:
        partition: The groups.
        factors: Pattern of what stands before the bracket in a group's name -> factor;
            of several that fit the last one counts.

    Returns:
        A Partition with multipliers.

    Raises:
        ValueError: A factor is negative, or a pattern fits no group.

    Example:
        >>> weighted(units(net, groups), {"stage2*": 2, "stage3*": 2})

    Reference: GSparsity, appendix B, which doubles two stages.
    """
    if not partition.names:
        raise ValueError("`multipliers` must be for groups with names. Received: none.")
    bases = np.array([name.rsplit("[", 1)[0] for name in partition.names])
    known, inverse = np.unique(bases, return_inverse=True)
    own = np.ones(len(known))
    for pattern, factor in factors.items():
        fits = [fnmatch.fnmatchcase(name, pattern) for name in known]
        if not any(fits) or not factor >= 0:
            raise ValueError(
                f"`multipliers` must map patterns of groups to numbers >= 0. Received: "
                f"{pattern!r}: {factor}; known: {list(map(str, known[:8]))}."
            )
        own[fits] = factor
    return dataclasses.replace(partition, multipliers=own[inverse])


def by_size(partition: records.Partition, model) -> records.Partition:
    """The same groups, the penalty of each times sqrt(its size / the mean size).

    The strength then means the same as of groups that are all alike; what a removal leaves
    of a group keeps its factor.

    Args:
        partition: The groups.
        model: What they were found in.

    Example:
        >>> by_size(operations(net, groups), net).multipliers.round(2)
        array([1.38, 0.3 ])

    Reference: GSparsity, appendix A, where mu_k = mu sqrt(|w_k|).
    """
    shapes = {v.path: tuple(v.shape) for v in model.trainable_variables}
    sizes = partition.sizes(shapes)
    own = (
        np.ones(len(sizes)) if partition.multipliers is None else partition.multipliers
    )
    return dataclasses.replace(
        partition, multipliers=np.asarray(own) * np.sqrt(sizes / sizes.mean())
    )


def scale_name(gate: records.Gate) -> str:
    """The name of the `Scale` that stands where a branch without weights ends."""
    call = f"_{gate.call}" if gate.call else ""
    return f"{gate.layer}{call}_{gate.input}_scale".replace("/", "_")


def kernels(model):
    """`(path, variable)` of the kernels of Dense and convolutional layers.

    Those of transposed convolutions, whose last axis is not the output, are left out.
    """
    import keras

    transposed = keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose
    for layer in model.layers:
        if isinstance(layer, transposed):  # their inputs are on the last axis
            continue
        if isinstance(layer, keras.Model):
            yield from kernels(layer)
        for variable in layer.trainable_variables:
            plain = variable.name == "kernel" and 2 <= len(variable.shape) <= 4
            if plain and not isinstance(layer, keras.Model):
                yield variable.path, variable


def named(name: str, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns fits a name."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _of_member(shape, member: records.Member, start: int) -> np.ndarray:
    """The labels of one member: 1 on every axis that does not count units."""
    axes = member.axis if isinstance(member.axis, tuple) else (member.axis,)
    axes = tuple(axis % len(shape) for axis in axes)
    sizes = [shape[axis] for axis in axes]
    own = np.full(int(np.prod(sizes)), -1, "int32")
    own[member.indices] = start + np.asarray(member.units)
    own = own.reshape(sizes)
    if len(axes) == 2 and axes[0] > axes[1]:
        own = own.T
    return own.reshape([n if a in axes else 1 for a, n in enumerate(shape)])


def _joined(held, own, path: str, name: str) -> np.ndarray:
    """Both labels of one variable; no element may have two."""
    if held is None:
        return own
    if ((held >= 0) & (own >= 0) & (held != own)).any():
        raise ValueError(
            f"Groups must not overlap. Received: weights of {path} that belong to "
            f"{name!r} and to another group; name one of them in `ignore`."
        )
    return np.where(own >= 0, own, held)


def _some(labels, ignore) -> None:
    if not any((own >= 0).any() for own in labels.values()):
        raise ValueError(
            "`model` must have weights to penalise. Received: none that are not frozen "
            f"or ignored (`ignore`={list(ignore)})."
        )
