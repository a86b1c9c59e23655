"""Tests of `fanin compare` on a small real sweep."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from analysis import Results
from analysis.compare.__main__ import main
from analysis.compare.output import TABLE_WIDTH, render_table


@pytest.fixture
def results_copy(seeded: Results, tmp_path: Path) -> Path:
    """Copy the results so that a test may write to them."""
    shutil.copytree(seeded.folder.root, tmp_path / "seeded")
    return tmp_path


def test_tables_sentences_and_files(results_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["seeded", "--results", str(results_copy), "--within", "activation"])
    output = capsys.readouterr().out
    assert "a diverged run counts as an accuracy of 1 / number of classes" in output
    assert output.count("has the highest mean test accuracy") == 1
    assert output.count("share the highest mean test accuracy") == 1  # tanh: all but one at chance
    assert "best lr" in output
    assert "Over 2 settings," in output
    name = "init-test_accuracy-within-activation"
    folder = results_copy / "seeded" / "compare"
    standings = pd.read_csv(folder / f"{name}.csv")
    assert set(standings["group"]) == {"relu", "tanh"}
    assert (standings["runs_all"] == 9).all()
    assert (standings["seeds"] == 3).all()
    pairs = pd.read_csv(folder / f"{name}-pairs.csv")
    assert len(pairs) == 6
    assert (pairs["p_holm"] >= pairs["p"]).all()
    assert len(pd.read_csv(folder / f"{name}-scores.csv")) == 18
    assert len(pd.read_csv(folder / f"{name}-values.csv")) == 18
    tex = (folder / f"{name}.tex").read_text()
    assert tex.count(r"\toprule") == tex.count(r"\bottomrule") == 3
    assert r"he\_normal" in tex
    assert "he_normal" not in tex.replace(r"he\_normal", "")
    for suffix in ("pdf", "svg", "png"):
        assert (folder / f"{name}.{suffix}").stat().st_size > 1_000
        assert (folder / f"{name}-by-optim.lr.{suffix}").stat().st_size > 1_000


def test_sentences_come_before_tables_of_at_most_100_columns(
    results_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["seeded", "--results", str(results_copy), "--within", "activation"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Over 2 settings,")
    titles = [n for n, line in enumerate(lines) if line.strip() == "relu: test accuracy"]
    sentences = [n for n, line in enumerate(lines) if "the highest mean test accuracy" in line]
    assert {lines[n].partition(": ")[0] for n in sentences} == {"relu", "tanh"}
    assert max(sentences) < titles[0]
    end = next(n for n, line in enumerate(lines) if line.startswith("Strategies are the values"))
    assert max(map(len, lines[titles[0] : end])) <= 100
    assert "IQM" not in "".join(lines)


def test_wide_prints_all_columns(results_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["seeded", "--results", str(results_copy), "--wide"])
    output = capsys.readouterr().out
    for column in ("IQM (95 %)", "first - this (95 %)", "P(first beats this)", "cost of lr"):
        assert column in output
    assert max(map(len, output.splitlines())) > 100


def test_long_names_are_wrapped_to_100_columns() -> None:
    standings = pd.DataFrame([["x" * 250, "0.912 (0.905 to 0.919)"]], columns=["init", "mean"])
    output = io.StringIO()
    Console(width=1000, file=output).print(render_table(standings, "title"), width=TABLE_WIDTH)
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= TABLE_WIDTH
    assert sum(line.count("x") for line in lines) == 250


def test_a_loss_is_not_averaged_over_diverged_runs(
    results_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["seeded", "--results", str(results_copy), "--metric", "test_loss", "--tune", "none"])
    output = capsys.readouterr().out
    assert "it is counted in `diverged` and not averaged" in output
    assert "is not ranked: no score" in output
    assert "best lr" not in output
    assert not list((results_copy / "seeded" / "compare").glob("*by-optim.lr*"))


def test_too_few_seeds_are_refused(small_results: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["small", "--results", small_results])
    assert exit_info.value.code == 2
    assert "2 seeds per setting: too few to rank strategies." in capsys.readouterr().err


def test_an_unknown_sweep_is_refused(
    results_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["seded", "--results", str(results_copy)])
    assert exit_info.value.code == 2
    assert "did you mean seeded?" in capsys.readouterr().err


def test_output_is_deterministic(results_copy: Path) -> None:
    for _ in range(2):
        main(["seeded", "--results", str(results_copy)])
        first = [
            path.read_bytes() for path in sorted((results_copy / "seeded/compare").glob("*.csv"))
        ]
    main(["seeded", "--results", str(results_copy)])
    second = [path.read_bytes() for path in sorted((results_copy / "seeded/compare").glob("*.csv"))]
    assert first == second
