"""What results mean: theory, checks, figures. Reads `results/`; never trains.

`from analysis import load` gives a sweep's tables as DataFrames.
"""

from analysis.load import Results, load

__all__ = ["Results", "load"]
