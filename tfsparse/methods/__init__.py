"""Methods: each decides which units go."""

from tfsparse.methods.base import METHODS, Method, build
from tfsparse.methods.gsparsity import GSparsity
from tfsparse.methods.shrinknets import ShrinkNets

__all__ = ["METHODS", "GSparsity", "Method", "ShrinkNets", "build"]
