"""NAS-Bench-201: strings both ways, its supernet, what is left of it, tables."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from conformance import models

import tfsparse
from tfsparse.nas import bench201

NAMES = [bench201.NONE, *bench201.OPERATIONS]
FIRST = (
    "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|"
)


def test_strings_both_ways():
    """All that are one operation repeated but for one edge, and some random ones."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        names = [NAMES[n] for n in rng.integers(5, size=6)]
        own = tuple(names[:1]), tuple(names[1:3]), tuple(names[3:])
        assert bench201.parse(bench201.told(own)) == own
    assert bench201.told(bench201.parse(FIRST)) == FIRST
    edges = itertools.chain(*bench201.parse(FIRST))
    assert list(edges).count("none") == 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "must be such as"),
        ("|none~0|", "must be such as"),
        (FIRST.replace("~2", "~3"), "must be such as"),
        (FIRST[1:], "must be such as"),
        (FIRST.replace("nor_conv_1x1", "magic"), "must be one of .* Received: 'magic'"),
    ],
)
def test_malformed_strings(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        bench201.parse(text)


def test_what_is_left_of_the_supernet_is_the_architecture():
    """One operation is kept on every edge, or none, in all cells: exactly, and read off."""
    wanted = bench201.parse(FIRST)
    model = bench201.supernet((16, 16, 1), 10, filters=4, cells=1)
    model = models.randomise(model, seed=3)
    keep = {}
    for group in tfsparse.find_groups(model, ("branch",)):
        if group.name.startswith("cell"):
            node = int(group.name.split("_node")[1][0])
            order = [
                (source, name) for source in range(node) for name in bench201.OPERATIONS
            ]
            assert len(order) == group.size and not group.frozen
            keep[group.name] = np.array([wanted[node - 1][s] == n for s, n in order])
    assert len(keep) == 9
    stripped = tfsparse.strip(model, keep)
    x = np.random.default_rng(0).normal(size=(3, 16, 16, 1)).astype("float32")
    masked = tfsparse.mask(model, keep)
    np.testing.assert_allclose(stripped(x), masked(x), rtol=1e-4, atol=1e-4)
    assert bench201.architecture_of(stripped) == wanted
    with pytest.raises(ValueError, match="one operation at most"):
        bench201.architecture_of(model)


def test_a_network_of_an_architecture():
    one = bench201.parse(FIRST)
    model = bench201.supernet((16, 16, 3), 10, 4, 2, one)
    assert bench201.architecture_of(model) == one
    dead = bench201.parse("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|")
    with pytest.raises(ValueError, match="must lead from a cell's input to its output"):
        bench201.supernet((16, 16, 3), 10, 4, 1, dead)


def test_a_table_is_asked(tmp_path):
    one = bench201.parse(FIRST)
    path = tmp_path / "table.csv"
    path.write_text(f"architecture,cifar10\n{FIRST},91.5\n")
    assert bench201.asked(path, one) == {"cifar10": "91.5"}
    other = bench201.parse(FIRST.replace("nor_conv_1x1", "none"))
    with pytest.raises(
        ValueError, match="must hold the architecture. Received: 1 others"
    ):
        bench201.asked(path, other)
    path.write_text("name,cifar10\na,1\n")
    with pytest.raises(ValueError, match="must have a column `architecture`"):
        bench201.asked(path, one)
    with pytest.raises(ValueError, match="CSV that can be read"):
        bench201.asked(tmp_path / "none.csv", one)
