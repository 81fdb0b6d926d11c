"""Rankings of units, learned or by rule, and cuts under a budget."""

from tfsparse.ranking.counted import Counted
from tfsparse.ranking.cut import Cut

__all__ = ["Counted", "Cut"]
