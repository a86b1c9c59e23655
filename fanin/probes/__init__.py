"""Measurement of the per-layer moments, forward and backward, of any torch network."""
