"""Statistical tests of measured draws against a predicted distribution.

The functions take and return arrays and DataFrames. The replicates are draws of the weights.
"""
