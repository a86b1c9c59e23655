"""Benchmarks of speed against common tools; results are in docs/performance.md."""
