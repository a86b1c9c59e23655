"""The interface of a publication's module in `analysis/figures/`, and its score."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pandas as pd
from matplotlib.figure import Figure

from analysis.load import Results
from analysis.scoring.claims import Scoring, parse_scoring
from analysis.scoring.inputs import sweep_definition
from analysis.scoring.null_models import N_SHUFFLES, NullModel, NullResult, score_null_models
from analysis.scoring.summary import CELLS
from analysis.scoring.verdict import Effect, ScoredClaim, score_claims
from fanin.errors import FaninError

Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class ScoredStudy:
    """Functions that summarize, score and draw a publication's sweep: `STUDY` of its module.

    Attributes
    ----------
    summarize
        Returns tables from a sweep's results; `cells` has the design and outcome of each cell.
    outcomes
        Outcome columns of `cells`, which null models replace.
    effects
        Statistics of `cells` by name; each has one value per seed. An effect compares cells of
        the design, so that a constant outcome cannot have it.
    figures
        Draws the figures, by file name, from the tables.
    caption
        Writes the caption, with n and the meaning of error bars, from the tables.
    null_models
        Null models of this study, by name, beside `constant`, `shuffled` and `trend in COLUMN`.
    """

    summarize: Callable[[Results], dict[str, pd.DataFrame]]
    outcomes: tuple[str, ...]
    effects: Mapping[str, Effect]
    figures: Callable[[Tables], dict[str, Figure]]
    caption: Callable[[Tables], str]
    null_models: Mapping[str, NullModel] = field(default_factory=dict)

    def score(self, scoring: Scoring, tables: Tables) -> list[ScoredClaim]:
        """Score the claims on a study's tables."""
        return score_claims(scoring, self.effects, tables[CELLS])

    def score_null_models(
        self, scoring: Scoring, tables: Tables, n_shuffles: int = N_SHUFFLES
    ) -> list[NullResult]:
        """Score the claims on the outcomes of their null models."""
        return score_null_models(
            scoring, self.effects, self.outcomes, tables[CELLS], self.null_models, n_shuffles
        )


def scored_study(name: str) -> ScoredStudy:
    """Return the study of a publication's sweep.

    Raises
    ------
    FaninError
        `analysis/figures/NAME.py` does not define `STUDY`.
    """
    study = getattr(importlib.import_module(f"analysis.figures.{name}"), "STUDY", None)
    if not isinstance(study, ScoredStudy):
        raise FaninError(f"analysis/figures/{name}.py: no STUDY; its sweep has a section 'scoring'")
    return study


def registered_scoring(name: str) -> Scoring:
    """Return the section `scoring` of a sweep's YAML."""
    return parse_scoring(sweep_definition(name).get("scoring") or {}, name)
