"""Comparison of a sweep's strategies along one axis, computed from its tables."""

from analysis.compare.comparison import Group, InitComparison, compare_strategies
from analysis.compare.spec import ComparisonSpec

__all__ = ["ComparisonSpec", "Group", "InitComparison", "compare_strategies"]
