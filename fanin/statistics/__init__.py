"""Tests of measured draws against a predicted law; replicates are draws of the weights.

Plain arrays and DataFrames in and out: nothing here knows a network.
"""
