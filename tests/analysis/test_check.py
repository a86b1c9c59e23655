"""`python -m analysis.check` prints, keeps and explains the comparison."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from analysis import Results, load
from analysis.check import as_table, check, main
from analysis.measured import Comparison, table
from analysis.settings import Setting

COLUMNS = ["layer", "name", "measured", "se", "he", "measured/he"]
COLUMNS += ["mean_field", "measured/mean_field"]


def _printed(shown: object, width: int = 80) -> str:
    terminal = io.StringIO()
    Console(file=terminal, width=width, markup=False).print(shown)
    return terminal.getvalue()


@pytest.fixture
def run_check(
    small_results: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """`run_check(*flags)` gives what is printed on eighty columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*flags: str) -> str:
        main(["small", "--results", small_results, *flags])
        return capsys.readouterr().out

    return run


def _refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr with which the command gives up."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_every_setting_has_a_table_of_its_layers(
    run_check: Callable[..., str], comparisons: list[Comparison]
) -> None:
    out = run_check()
    for comparison in comparisons:
        assert f"{comparison.setting.label}   (preact_m2, 8 draws)" in out
    assert "…" not in out
    tables, _, _ = out.partition("The He/Glorot")
    assert max(map(len, tables.splitlines())) <= 80


def test_a_table_has_a_column_for_each_number(comparisons: list[Comparison]) -> None:
    shown = as_table(comparisons[0], "preact_m2", -1)
    headings = [str(column.header).replace("\n", "") for column in shown.columns]
    assert headings == COLUMNS


def test_printed_numbers_are_those_of_the_table(by_label: dict[str, Comparison]) -> None:
    comparison = by_label["two_layer channels=4 tanh uniform a=0.0 b=1.0"]
    lines = _printed(as_table(comparison, "preact_m2", -1)).splitlines()
    for row in table(comparison).to_dict("records"):
        (line,) = (line for line in lines if row["layer_name"] in line)
        layer, name, measured, se, *theory = line.split()
        assert (int(layer), name) == (row["layer"], row["layer_name"])
        assert (measured, se) == (f"{row['measured']:.3g}", f"{row['se']:.1g}")
        keys = ("he", "measured/he", "mean_field", "measured/mean_field")
        assert theory == [f"{row[key]:.3g}" for key in keys]


def test_the_widest_numbers_fit_eighty_columns() -> None:
    draws = pd.DataFrame(
        {
            "layer": 30,
            "layer_name": "conv30",
            "quantity": "preact_mean",
            "image": -1,
            "value": [-1.234e300, -1.334e300],
        }
    )
    predicted = pd.DataFrame(
        {
            "layer": 30,
            "quantity": "preact_mean",
            "image": -1,
            "rung": ["he", "mean_field"],
            "value": [1.234e-300, -1.234e-150],
        }
    )
    comparison = Comparison(Setting({}, "wide [bold]", {}, ("x",)), draws, predicted, None)
    out = _printed(as_table(comparison, "preact_mean", -1))
    assert "…" not in out
    assert "wide [bold]" in out  # a label's brackets are no markup
    assert "-1.28e+300" in out
    assert "-1.23e-150" in out
    assert max(map(len, out.splitlines())) <= 80


def test_an_init_without_declared_moments_is_measured_and_says_why_it_is_not_predicted(
    by_label: dict[str, Comparison],
) -> None:
    comparison = by_label["two_layer channels=4 relu lsuv"]
    out = " ".join(_printed(as_table(comparison, "preact_m2", -1)).split())
    assert "Lsuv declares no moments; only data tells them" in out
    measured = table(comparison)
    # LSUV makes the variance over a batch 1; this batch is the probe set, and its tolerance 0.1.
    assert measured.measured.between(0.5, 2).all()
    assert measured.he.isna().all()


def test_another_quantity_and_image(
    run_check: Callable[..., str], by_label: dict[str, Comparison]
) -> None:
    out = run_check("--quantity", "vjp_m2", "--image", "1")
    label = "plain depth=4 width=4 tanh he_normal"
    section = out.partition(f"{label}   (vjp_m2")[2]
    row = table(by_label[label], "vjp_m2", 1).iloc[0]
    line = next(line for line in section.splitlines() if "conv1" in line)
    assert line.split()[2] == f"{row.measured:.3g}"


def test_csv_holds_every_setting(
    run_check: Callable[..., str], comparisons: list[Comparison], tmp_path: Path
) -> None:
    run_check("--csv", str(tmp_path / "all.csv"))
    written = pd.read_csv(tmp_path / "all.csv")
    assert written.columns[0] == "setting"
    assert len(written) == sum(len(table(c)) for c in comparisons)
    for comparison in comparisons:
        mine = written[written.setting == comparison.setting.label]
        np.testing.assert_array_equal(mine.measured, table(comparison).measured)


def test_predictions_are_kept_once_however_often_one_checks(small: Results) -> None:
    check(small)
    once = load(small.name, small.folder.root.parent).predictions
    check(small)
    twice = load(small.name, small.folder.root.parent).predictions
    pd.testing.assert_frame_equal(once, twice)
    assert set(once.columns) == {
        *("cell_id", "image", "layer", "layer_name", "quantity", "rung", "value"),
        *("log_sd", "sampling_se"),
    }
    assert set(once.rung) == {"he", "mean_field"}
    assert set(once.cell_id) < set(small.cells.cell_id)
    assert isinstance(once.cell_id.dtype, pd.CategoricalDtype)
    assert (once.sampling_se >= 0).all()
    # Only weights of non-zero mean need the theory to sample.
    sampled = set(once[once.sampling_se > 0].cell_id)
    uniform = set(small.cells[small.cells.init == "uniform"].cell_id)
    assert sampled <= uniform


def test_predictions_join_measurements_by_the_words_of_both(small: Results) -> None:
    check(small)
    results = load(small.name, small.folder.root.parent)
    keys = ["cell_id", "image", "layer", "layer_name", "quantity"]
    he = results.predictions[results.predictions.rung == "he"]
    joined = results.layers.merge(he, on=keys, suffixes=("", "_predicted"))
    assert len(joined) == 4 * len(he)  # each predicted number has the cell's four draws beside it


def test_an_unknown_quantity_names_the_nearest(
    small_results: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = _refused(capsys, "small", "--results", small_results, "--quantity", "preact_m3")
    assert line.startswith("--quantity preact_m3: not measured; did you mean preact_m2")


def test_an_image_that_was_not_probed_names_those_that_were(
    small_results: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = _refused(capsys, "small", "--results", small_results, "--image", "9")
    assert line == "--image 9: preact_m2 was not measured for it; valid: -1, 0, 1"


def test_a_quantity_of_the_whole_net_has_no_layers_to_show(
    small: Results, small_results: str, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = small.layers.groupby("quantity", observed=True).layer.max()
    whole_net = layers[layers < 0].index
    assert "logit_var" in whole_net
    line = _refused(capsys, "small", "--results", small_results, "--quantity", "logit_var")
    assert line.startswith("--quantity logit_var: not measured")


def test_a_sweep_that_is_not_there_is_one_line(
    small_results: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "did you mean small?" in _refused(capsys, "smal", "--results", small_results)


def test_a_csv_that_cannot_be_written_is_one_line(
    small_results: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    nowhere = str(tmp_path / "no" / "folder.csv")
    line = _refused(capsys, "small", "--results", small_results, "--csv", nowhere)
    assert str(tmp_path / "no") in line


def test_the_command_reports_and_exits_with_0(small_results: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "analysis.check", "small", "--results", small_results],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "80"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "…" not in done.stdout
    assert "Best test accuracy" in done.stdout
