"""Heads and losses: valid combinations and their formulas (docs/losses.md)."""

from fanin.losses.custom import CustomLoss
from fanin.losses.objective import Objective, make_objective
from fanin.losses.table import Head, Loss

__all__ = ["CustomLoss", "Head", "Loss", "Objective", "make_objective"]
