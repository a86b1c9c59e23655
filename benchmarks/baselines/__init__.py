"""Baselines of the benchmarks: plain scripts under Hydra's launchers, and a bare process pool."""
