"""Every claim of every study can be reproduced, and refuses its null models."""

from __future__ import annotations

import pandas as pd
import pytest
from grids import RECORDS as PUBLICATIONS
from question_grids import RECORDS as QUESTIONS

from analysis.scoring.inputs import scored_sweeps
from analysis.scoring.scored_study import registered_scoring, scored_study
from analysis.scoring.summary import CELLS, read_summary, summaries

RECORDS = {**PUBLICATIONS, **QUESTIONS}


def record(name: str) -> pd.DataFrame:
    """Return the cells of the committed summary, or a record with the study's own grid."""
    return read_summary(name).cells if name in summaries() else RECORDS[name]()


def test_every_scored_sweep_has_a_record() -> None:
    assert set(scored_sweeps()) == set(RECORDS)


@pytest.mark.parametrize("name", scored_sweeps())
def test_every_claim_refuses_its_null_models(name: str) -> None:
    results = scored_study(name).score_null_models(registered_scoring(name), {CELLS: record(name)})
    accepted = [(r.claim, r.null_model) for r in results if not r.is_refused]
    assert accepted == []
    assert len(results) >= len(registered_scoring(name).claims)


@pytest.mark.parametrize("name", scored_sweeps())
def test_every_claim_is_reproduced_if_it_is_true(name: str) -> None:
    scored = scored_study(name).score(registered_scoring(name), {CELLS: RECORDS[name]()})
    others = {claim.name: claim.interval for claim in scored if claim.verdict != "reproduced"}
    assert others == {}


@pytest.mark.parametrize("name", scored_sweeps())
def test_every_claim_tests_a_constant_and_a_shuffled_outcome_and_a_trend(name: str) -> None:
    for claim in registered_scoring(name).claims.values():
        models = {model.split()[0] for model in claim.null_models}
        assert models == {"constant", "shuffled", "trend"}
