"""Which strategy is better? A sweep's cells compared along one axis, from its tables alone."""

from analysis.compare.comparison import Group, InitComparison, compare
from analysis.compare.spec import ComparisonSpec

__all__ = ["ComparisonSpec", "Group", "InitComparison", "compare"]
