"""The network that a run begins with, and the data and the task as it takes them."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from tfsparse import data, nas, zoo  # of nas, supernets are networks that --model names
from tfsparse.graph import trace
from tfsparse.graph.ends import activation_at_end
from tfsparse.graph.rebuild import flat


def untouched(
    chosen: zoo.Model, wanted: data.Data, dataset: data.Dataset, seed: int, scope: Any
):
    """The network before anything is removed, initialised by the seed.

    Args:
        chosen: Which network.
        wanted: Settings of the data, of which `normalize` counts.
        dataset: The data.
        seed: Of its first weights.
        scope: Where models are built.

    Returns:
        The model; the data, with an axis of one channel more or less where the network
        wants it so, and the task as the model answers it.

    Raises:
        ValueError: There is no such network, or it does not fit the data or the task.
    """
    reconstructs = dataset.task.kind == "reconstruction"
    name, builder = zoo.named(chosen.model, dataset.shape, reconstructs), None
    if chosen.genotype:
        name, builder = "genotype", nas.genotypes.builder(
            nas.genotypes.load(chosen.genotype),
            chosen.cells, chosen.filters, chosen.stem_strides,
        )  # fmt: skip
    dataset = _shaped(name, dataset)
    task = dataset.task
    house = builder is not None or name in zoo.MODELS
    scaling = _scaling(house, wanted.normalize, dataset)
    if reconstructs and not dataset.scaled:
        statistics = dataset.statistics()
        scale = () if statistics is None else tuple(map(float, statistics[1]))
        task = dataclasses.replace(task, scale=scale)
    keras.utils.set_random_seed(seed)
    with scope:
        model = flat(
            zoo.build(
                name,
                dataset.shape,
                task.shape,
                chosen.width,
                chosen.hidden or None,
                scaling,
                builder,
            )
        )
    graph = trace.read(model)
    whole = not graph.inputs[0].dtype.startswith("float")
    if whole and dataset.statistics() is None:
        raise ValueError(
            "`data` must hold whole numbers as such for a model that looks them up. "
            f"Received: 8-bit pixels of {dataset.name!r}, which are divided by 255, for "
            f"{name!r}. Store them as int32."
        )
    task = task.fitted(model.output_shape[1:], activation_at_end(graph) or "", name)
    about = [] if whole else _about_scaling(graph, scaling, dataset)
    notes = (*dataset.notes, *about)
    return model, dataclasses.replace(dataset, task=task, notes=notes)


SCALES = (
    keras.layers.Normalization,
    keras.layers.BatchNormalization,
    keras.layers.Rescaling,
)
"""Layers that bring columns near 1."""


def _about_scaling(graph, scaling: zoo.Scaling, dataset: data.Dataset) -> list[str]:
    """What is said of columns that are not near 1."""
    if scaling.mean:
        return ["columns are normalised by the network's first layer, adapted on train"]
    readers = [c.operation for t in graph.inputs for c in graph.readers.get(t, [])]
    if dataset.scaled or any(isinstance(one, SCALES) for one in readers):
        return []
    return [
        "columns are not near 1 (mean beyond 1, or deviation outside 0.1 to 3), and nothing "
        "in the model scales them: --normalize=true does"
    ]


def _shaped(name: str, dataset: data.Dataset) -> data.Dataset:
    """The data with or without a last axis of one channel, as the network takes them."""
    shape = dataset.shape
    axes = zoo.axes_of(name)
    if zoo.is_file(name):
        expected = zoo.input_shape_of(zoo.load(name))
        axes = len(expected) or None
        if axes == len(shape) + 1 and expected[-1] not in (1, None):
            axes = None
    if axes == len(shape) + 1:
        dataset = dataset.with_channel()
    elif axes == len(shape) - 1 and shape[-1] == 1 and len(shape) > 1:
        dataset = dataset.without_channel()
    if dataset.task.kind == "reconstruction":
        task = dataclasses.replace(dataset.task, shape=dataset.shape)
        dataset = dataclasses.replace(dataset, task=task)
    return dataset


def _scaling(house: bool, normalize: str, dataset: data.Dataset) -> zoo.Scaling:
    """The constants around a network of the house, or before one's own if asked for.

    Raises:
        ValueError: Pixels are to be normalised.
    """
    statistics, task = dataset.statistics(), dataset.task
    own = not house
    if normalize == "true" and statistics is None:
        raise ValueError(
            "`normalize` must not be true for pixels, which are divided by white. "
            f"Received: data of {dataset.name!r}."
        )
    found: dict[str, Any] = {}
    needed = normalize == "true" or (
        normalize == "auto" and not own and not dataset.scaled
    )
    if statistics is not None and needed:
        found = {"mean": tuple(statistics[0]), "deviation": tuple(statistics[1])}
    if own:
        return zoo.Scaling(**found)
    if task.kind == "regression":
        found |= {"scale": task.scale, "offset": task.offset}
    elif task.kind == "reconstruction" and statistics is not None and needed:
        found |= {"scale": tuple(statistics[1]), "offset": tuple(statistics[0])}
    return zoo.Scaling(**found)
