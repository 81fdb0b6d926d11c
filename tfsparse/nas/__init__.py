"""Search spaces of cells, their supernets, and what a search leaves of them."""

from tfsparse.nas import bench201, genotypes
from tfsparse.nas.genotypes import built, genotype_of
from tfsparse.nas.spaces import SPACES, Space

__all__ = ["SPACES", "Space", "bench201", "built", "genotype_of", "genotypes"]
