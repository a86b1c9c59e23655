"""Which strategy is better? A sweep's cells compared along one axis, from its tables alone."""

from analysis.compare.comparison import Compared, Group, compare
from analysis.compare.spec import Question

__all__ = ["Compared", "Group", "Question", "compare"]
