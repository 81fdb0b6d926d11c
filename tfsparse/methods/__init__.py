"""Methods: each decides which units go. One file a method; a new file is found by itself."""

import importlib
import pkgutil

from tfsparse.methods.base import (
    METHODS,
    NO_METHOD,
    Method,
    check_class,
    find,
    title_of,
)

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

BayesNAS = METHODS["bayesnas"]
BayesNASCompression = METHODS["bayesnas_compression"]
BayesianCompression = METHODS["bayesian_compression"]
GSparsity = METHODS["gsparsity"]
LeGR = METHODS["legr"]
ShrinkNets = METHODS["shrinknets"]
SparseVD = METHODS["sparse_vd"]

DEFAULT = ShrinkNets.name
"""The method of a run that names none."""

__all__ = [
    "DEFAULT",
    "METHODS",
    "NO_METHOD",
    "BayesNAS",
    "BayesNASCompression",
    "BayesianCompression",
    "GSparsity",
    "LeGR",
    "Method",
    "ShrinkNets",
    "SparseVD",
    "check_class",
    "find",
    "title_of",
]
