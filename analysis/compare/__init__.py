"""Comparison of a sweep's strategies along one axis, computed from its tables."""
