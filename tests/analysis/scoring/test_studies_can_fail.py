"""Every claim of every study can be reproduced, and refuses its null models."""

from __future__ import annotations

import pandas as pd
import pytest
from grids import RECORDS as PUBLICATIONS
from question_grids import RECORDS as QUESTIONS

from analysis.scoring.inputs import scored_sweeps
from analysis.scoring.null_models import N_SHUFFLES
from analysis.scoring.scored_study import registered_scoring, scored_study
from analysis.scoring.summary import CELLS, read_summary, summaries

RECORDS = {**PUBLICATIONS, **QUESTIONS}


def record(name: str) -> pd.DataFrame:
    """Return the cells of the committed summary, or a record with the study's own grid."""
    return read_summary(name).cells if name in summaries() else RECORDS[name]()


def test_every_scored_sweep_has_a_record() -> None:
    assert set(scored_sweeps()) == set(RECORDS)


@pytest.mark.parametrize("n_shuffles", [20, pytest.param(N_SHUFFLES, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", scored_sweeps())
def test_every_claim_refuses_its_null_models(name: str, n_shuffles: int) -> None:
    tables, scoring = {CELLS: record(name)}, registered_scoring(name)
    results = scored_study(name).score_null_models(scoring, tables, n_shuffles)
    accepted = [(r.claim, r.null_model) for r in results if not r.is_refused]
    assert accepted == []
    assert len(results) >= len(scoring.claims)


@pytest.mark.parametrize("name", scored_sweeps())
def test_every_claim_is_reproduced_if_it_is_true(name: str) -> None:
    scored = scored_study(name).score(registered_scoring(name), {CELLS: RECORDS[name]()})
    others = {claim.name: claim.interval for claim in scored if claim.verdict != "reproduced"}
    assert others == {}


@pytest.mark.parametrize("name", scored_sweeps())
def test_equal_values_have_no_t_interval(name: str) -> None:
    """Student's interval of equal values has no width; such a claim needs `interval: median`."""
    scored = scored_study(name).score(registered_scoring(name), {CELLS: record(name)})
    widths = {
        claim.name: claim.interval.high - claim.interval.low
        for claim in scored
        if claim.claim.interval == "t"
    }
    assert [claim for claim, width in widths.items() if width == 0] == []


@pytest.mark.parametrize("name", scored_sweeps())
def test_every_claim_tests_a_constant_and_a_shuffled_outcome_and_a_trend(name: str) -> None:
    for claim in registered_scoring(name).claims.values():
        models = {model.split()[0] for model in claim.null_models}
        assert models >= {"constant", "shuffled", "trend"}
