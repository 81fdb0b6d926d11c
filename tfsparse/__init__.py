"""Makes neural networks small enough for microcontrollers, and proves it."""

from tfsparse.deploy import dead_units, export, mask, strip, verify
from tfsparse.graph import find_groups, measure, register_rule
from tfsparse.methods import ShrinkNets
from tfsparse.shrinking import fit_shrinking

__all__ = [
    "ShrinkNets",
    "dead_units",
    "export",
    "find_groups",
    "fit_shrinking",
    "mask",
    "measure",
    "register_rule",
    "strip",
    "verify",
]
