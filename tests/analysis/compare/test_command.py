"""`python -m analysis.compare` on a small real sweep."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from analysis import Results
from analysis.compare.__main__ import main


@pytest.fixture
def copied(seeded: Results, tmp_path: Path) -> Path:
    """The sweep's results, in a folder of the test's own."""
    shutil.copytree(seeded.folder.root, tmp_path / "seeded")
    return tmp_path


def test_tables_sentences_and_files(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["seeded", "--results", str(copied), "--within", "activation"])
    said = capsys.readouterr().out
    assert "a run that diverged scores chance (1 / classes)" in said
    assert said.count("has the highest mean test accuracy") == 1
    assert said.count("share the highest mean test accuracy") == 1  # tanh: all at chance but one
    assert "best lr" in said
    assert "Over 2 settings" in said
    name = "init-test_accuracy-within-activation"
    folder = copied / "seeded" / "compare"
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
    for ends in ("pdf", "svg", "png"):
        assert (folder / f"{name}.{ends}").stat().st_size > 1_000
        assert (folder / f"{name}-by-optim.lr.{ends}").stat().st_size > 1_000


def test_a_loss_is_not_averaged_over_what_diverged(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["seeded", "--results", str(copied), "--metric", "test_loss", "--tune", "none"])
    said = capsys.readouterr().out
    assert "it is counted in `diverged`, not averaged" in said
    assert "is not ranked: no score" in said
    assert "best lr" not in said
    assert not list((copied / "seeded" / "compare").glob("*by-optim.lr*"))


def test_too_few_seeds_are_said(small_results: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["small", "--results", small_results])
    assert ended.value.code == 2
    assert "2 seeds a setting: too few to rank strategies by." in capsys.readouterr().err


def test_no_such_sweep(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["seded", "--results", str(copied)])
    assert ended.value.code == 2
    assert "did you mean seeded?" in capsys.readouterr().err


def test_the_same_sweep_gives_the_same_numbers(copied: Path) -> None:
    for _ in range(2):
        main(["seeded", "--results", str(copied)])
        found = [path.read_bytes() for path in sorted((copied / "seeded/compare").glob("*.csv"))]
    main(["seeded", "--results", str(copied)])
    again = [path.read_bytes() for path in sorted((copied / "seeded/compare").glob("*.csv"))]
    assert found == again
