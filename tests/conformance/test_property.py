"""Random models, random masks: strip equals mask, always.

A long run: `TFSPARSE_EXAMPLES=5000 pytest tests/conformance/test_property.py`.
"""

from __future__ import annotations

import os

import keras
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tfsparse
from conformance import models
from conformance.drawing import draw_model
from tfsparse.deploy import probe, removal, variables
from tfsparse.graph import trace

EXAMPLES = int(os.environ.get("TFSPARSE_EXAMPLES", "40"))
EXACT = 1e-5


def long(examples: int):
    """Settings of a property that is drawn so often."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=EXAMPLES == 40,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def assert_same(expected, received):
    scale = max(float(np.abs(expected[0]).max()), 1e-3)
    assert float(np.abs(expected[0] - received[0]).max()) <= EXACT * scale


@long(EXAMPLES)
@given(data=st.data(), seed=st.integers(0, 2**16))
def test_strip_equals_mask(data, seed):
    model = draw_model(data.draw)
    rng = np.random.default_rng(seed)
    models.randomise(model, seed)
    keep = {}
    for group in tfsparse.find_groups(model):
        if not group.frozen and rng.random() < 0.8:
            keep[group.name] = rng.random(group.size) < 0.6
            keep[group.name][rng.integers(group.size)] = True
    inputs = probe.random_inputs(model, rng)
    expected = probe.run(tfsparse.mask(model, keep), inputs)
    small = tfsparse.strip(model, keep)
    assert_same(expected, probe.run(small, inputs))
    planned = removal.plan(model, keep)
    cost, counted = tfsparse.measure(small), tfsparse.measure(model, planned)
    assert (cost.params, cost.macs) == (counted.params, counted.macs)
    keras.backend.clear_session()


def kill(model, rng) -> None:
    """Zeroes random slices that write, scale or read units."""
    graph = trace.read(model)
    values = variables.values_of(graph)
    for group in tfsparse.find_groups(model):
        if group.frozen or rng.random() < 0.4:
            continue
        dead = rng.random(group.size) < 0.4
        role = rng.choice(["producer", "producer", "consumer", "carrier"])
        for member in group.members:
            scale = member.path.split("/")[-1] in ("gamma", "scale", "depthwise_kernel")
            if member.role == role and (role != "carrier" or scale):
                places = np.zeros(
                    len(variables.rows(values[member.path], member.axis)), bool
                )
                places[member.indices] = dead[member.units]
                value = values[member.path].copy()
                variables.zero(value, member.axis, places)
                values[member.path] = value
    for path, variable in graph.variables.items():
        variable.assign(values[path])


@long(EXAMPLES * 2 // 5)
@given(data=st.data(), seed=st.integers(0, 2**16))
def test_dead_units_leave_and_nothing_changes(data, seed):
    model = draw_model(data.draw)
    rng = np.random.default_rng(seed)
    models.randomise(model, seed)
    kill(model, rng)
    inputs = probe.random_inputs(model, rng)
    expected = probe.run(model, inputs)
    assert_same(expected, probe.run(tfsparse.strip(model), inputs))
    keras.backend.clear_session()
