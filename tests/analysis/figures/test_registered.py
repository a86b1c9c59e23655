"""A study of a sweep that is not the registered one names the differences and gives no verdict."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from small_sweep import run_sweep

from analysis import Results
from analysis.figures import registered
from analysis.figures.__main__ import main as figures
from analysis.figures.registered import CELLS, differences
from analysis.figures.study import launch_record, study_factory
from analysis.report.figures import build_study_section
from analysis.studies import summarize

SWEEP = ("sweep=glorot2010", "sweep.size=small", "runner=inline")
SMALL = "sweep.size"  # the size gives no verdict


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Run glorot2010 with narrower networks and another seed."""
    root = tmp_path_factory.mktemp("registered")
    return run_sweep(root, "glorot2010", *SWEEP, "model.width=40", "seed=range(3)", small=[])


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Run the registered sweep at size `small`."""
    return run_sweep(tmp_path_factory.mktemp("registered"), "glorot2010", *SWEEP, small=[])


def test_the_registered_sweep_differs_only_in_its_size(planned: Results) -> None:
    record = launch_record(planned)
    assert differences(planned, record) == (SMALL,)
    compute_study = study_factory(planned)
    assert compute_study is not None
    study = compute_study()
    assert study.differs == (SMALL,)
    assert study.conclusion == "no verdict"


def test_the_differing_keys_are_named(small: Results) -> None:
    assert differences(small, launch_record(small)) == (SMALL, "model.width", "seed")


def test_a_group_is_named_without_its_keys_and_seeds_without_those_that_follow() -> None:
    rows = [{"init": "a", "init.std": 1, "model.width": 1, "seed": 0, "seed_data": 0}]
    other = [{"init": "b", "init.a": 2, "model.width": 1, "seed": 1, "seed_data": 1}]
    assert registered._differing(rows, other) == ["init", "seed"]
    assert registered._differing(rows, [{**rows[0], "seed_data": 1}]) == ["seed_data"]


def test_other_combinations_of_the_same_values_differ() -> None:
    rows = [{"x": x, "y": y} for x in (0, 1) for y in (0, 1)]
    assert registered._differing(rows, [rows[0], rows[3]]) == [CELLS]


def test_other_criteria_differ(planned: Results) -> None:
    record = launch_record(planned)
    other = record | {"scoring": {**record["scoring"], "seeds": 3}}
    assert differences(planned, other) == (SMALL, "scoring")


def test_no_claim_has_a_verdict_and_every_output_says_why(
    small: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compute_study = study_factory(small)
    assert compute_study is not None
    study = compute_study()
    assert {line.verdict for line in study.claim_results} == {""}
    statement = "the run differs from the registered sweep in: sweep.size, model.width, seed"
    folder = ["--results", str(small.folder.root.parent)]
    figures(["glorot2010", *folder])
    out = capsys.readouterr().out
    assert statement in out
    assert "eproduced" not in out
    assert "threshold" in out
    assert all(line.threshold.startswith("above") for line in study.claim_results)
    section = build_study_section(small, "")
    assert section is not None
    assert statement in section.statement
    with pytest.raises(SystemExit):
        summarize.main(["glorot2010", *folder, "--output", str(tmp_path)])
    assert "differs from it in: sweep.size, model.width, seed" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_cells_of_another_request_differ(planned: Results) -> None:
    """As if only some cells were in the last request."""
    request = frozenset(list(planned.plan)[:-1])
    assert len(differences(replace(planned, request=request), launch_record(planned))) > 1
