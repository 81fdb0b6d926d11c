"""Reads a Keras model: its calls, its groups of units, its cost."""

from tfsparse.graph.cost import measure
from tfsparse.graph.groups import find_groups
from tfsparse.graph.rules import register_rule

__all__ = ["find_groups", "measure", "register_rule"]
