"""Analysis of results: theory checks, figures, reports. Reads `results/`; never trains.

`from analysis import load` gives a sweep's tables as DataFrames.
"""

from analysis.load import Results, load

__all__ = ["Results", "load"]
