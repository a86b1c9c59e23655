"""Which settings give an inf or NaN loss, when, and whether theory said so (question `inf_loss`).

`study` puts together what the other files find, each in its own part of the sweep.
"""

from analysis.figures.inf_loss.study import study

__all__ = ["study"]
