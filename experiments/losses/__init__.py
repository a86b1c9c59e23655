"""Heads and losses: which go together, in which form, and what they compute (docs/losses.md)."""

from experiments.losses.objective import Objective, make_objective
from experiments.losses.options import Head, Loss

__all__ = ["Head", "Loss", "Objective", "make_objective"]
