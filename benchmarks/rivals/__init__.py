"""Baselines: plain scripts under Hydra's launchers, and the arithmetic alone."""
