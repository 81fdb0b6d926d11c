"""Makes neural networks small enough for microcontrollers, and proves it.

The names below are loaded when first used, so that `import tfsparse` is instant and
starts nothing.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"
"""The one place that says it: setup.cfg and reports read it here."""

_HOMES = {
    "BayesNAS": "tfsparse.methods",
    "BayesNASCompression": "tfsparse.methods",
    "BayesianCompression": "tfsparse.methods",
    "GSparsity": "tfsparse.methods",
    "LeGR": "tfsparse.methods",
    "Limits": "tfsparse.budgets",
    "ProxSGD": "tfsparse.optimizers",
    "ShrinkNets": "tfsparse.methods",
    "SparseVD": "tfsparse.methods",
    "dead_units": "tfsparse.deploy",
    "export": "tfsparse.deploy",
    "find_groups": "tfsparse.graph",
    "fit_shrinking": "tfsparse.fitting",
    "mask": "tfsparse.deploy",
    "measure": "tfsparse.graph",
    "prune": "tfsparse.pruning",
    "register_rule": "tfsparse.graph",
    "sensitivity": "tfsparse.pruning",
    "strip": "tfsparse.deploy",
    "verify": "tfsparse.deploy",
}

__all__ = [
    "BayesNAS",
    "BayesNASCompression",
    "BayesianCompression",
    "GSparsity",
    "LeGR",
    "Limits",
    "ProxSGD",
    "ShrinkNets",
    "SparseVD",
    "__version__",
    "dead_units",
    "export",
    "find_groups",
    "fit_shrinking",
    "mask",
    "measure",
    "prune",
    "register_rule",
    "sensitivity",
    "strip",
    "verify",
]


_ROOMS = ("data", "search", "zoo")
"""Packages whose names are used as tfsparse.data.load is."""


def __getattr__(name: str):
    if name in _ROOMS:
        return importlib.import_module(f"tfsparse.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'tfsparse' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
