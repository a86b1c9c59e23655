"""Diagnosis of networks that do not train, by measurement on the user's model and batch."""

from fanin.diagnosis.diagnose import diagnose
from fanin.diagnosis.finding import CAUSES, Diagnosis, Finding

__all__ = ["CAUSES", "Diagnosis", "Finding", "diagnose"]
