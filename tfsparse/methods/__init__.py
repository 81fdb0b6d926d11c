"""Methods: each decides which units go."""

from tfsparse.methods.base import METHODS, Method, build
from tfsparse.methods.bayesian_compression import BayesianCompression
from tfsparse.methods.bayesnas_compression import BayesNASCompression
from tfsparse.methods.gsparsity import GSparsity
from tfsparse.methods.shrinknets import ShrinkNets
from tfsparse.methods.sparse_vd import SparseVD

__all__ = [
    "METHODS",
    "BayesNASCompression",
    "BayesianCompression",
    "GSparsity",
    "Method",
    "ShrinkNets",
    "SparseVD",
    "build",
]
