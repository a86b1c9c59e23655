"""Tests of the output files of a comparison: CSV round trip and valid LaTeX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from simulated_trials import PEAKED, simulate_trials

from analysis.compare.comparison import InitComparison, compare_trials
from analysis.compare.files import csv_frames, file_name, latex, write_files
from analysis.compare.spec import ComparisonSpec

ODD = {"s0": 'a_b=$5, "x"', "s1": "<i>|{[~^\\", "s2": "ünï & 50%#"}


def make_comparison(**options: float) -> InitComparison:
    planned = simulate_trials(
        np.random.default_rng(0), surface=PEAKED, **{"strategies": 3, **options}
    )
    return compare_trials(planned.replace({"strategy": ODD}), ComparisonSpec())


def test_csv_round_trip(tmp_path: Path) -> None:
    comparison = make_comparison()
    paths = [path for path in write_files(comparison, tmp_path) if path.suffix == ".csv"]
    for path, frame in zip(paths, csv_frames(comparison).values(), strict=True):
        read = pd.read_csv(path, dtype=dict.fromkeys(("seed", "best"), str))
        pd.testing.assert_frame_equal(read, frame, check_dtype=False, rtol=1e-15)
    standings = pd.read_csv(paths[0])
    assert set(standings["strategy"]) == set(ODD.values())
    tried = [list(map(float, text.split())) for text in standings["tried"]]
    assert tried == [[0.001, 0.01, 0.1, 1.0, 10.0]] * 3


def test_latex_is_escaped() -> None:
    latex_text = latex(make_comparison(planted=0.2, settings=2))
    body = "".join(line for line in latex_text.splitlines() if not line.startswith("%"))
    assert r'a\_b=\$5, "x"' in body
    assert r"\textless{}i\textgreater{}\textbar{}\{{[}\textasciitilde{}\textasciicircum{}" in body
    assert r"\textbackslash{}" in body
    assert r"ünï \& 50\%\#" in body
    assert r"\textless{}0.001" in body
    assert not set("<>|~^") & set(body)
    assert "(-" not in body


def test_latex_tables_are_complete() -> None:
    latex_text = latex(make_comparison(settings=2))
    rows = [line for line in latex_text.splitlines() if line.endswith(r"\\")]
    assert {row.count(" & ") for row in rows} == {10, 1}
    for opens, closes in ((r"\begin{table}", r"\end{table}"), (r"\toprule", r"\bottomrule")):
        assert latex_text.count(opens) == latex_text.count(closes) == 2
    assert (
        latex_text.count(r"\resizebox{\linewidth}{!}{%") == latex_text.count(r"\end{tabular}}") == 1
    )


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (ComparisonSpec(), "init-test_accuracy"),
        (ComparisonSpec(within=("model", "data")), "init-test_accuracy-within-model-data"),
        (ComparisonSpec(tune=""), "init-test_accuracy-tune-none"),
        (
            ComparisonSpec(by="a/b", metric="test_loss", tune="optim.beta"),
            "a_b-test_loss-tune-optim.beta",
        ),
    ],
)
def test_file_names_depend_on_the_specification(spec: ComparisonSpec, name: str) -> None:
    planned = simulate_trials(np.random.default_rng(0), surface=PEAKED, strategies=2)
    assert file_name(compare_trials(planned, spec)) == name
