"""Which strategy is better? A sweep's cells compared along one axis, from its tables alone."""

from analysis.compare.compared import Compared, Group, compare
from analysis.compare.question import Question

__all__ = ["Compared", "Group", "Question", "compare"]
