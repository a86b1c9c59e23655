"""Tests of `fanin check`: summary, tables, CSV, colors and exit status."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from simulated_sweep import simulated

import analysis.check.output
import analysis.coverage
import analysis.summary
from analysis import Results
from analysis.check.__main__ import main
from analysis.check.output import (
    build_csv_frame,
    build_layer_table,
    print_sentence,
    render_setting,
)
from analysis.cli import UNBOUNDED
from analysis.settings import Setting
from analysis.theory_comparison import TheoryComparison, layer_table
from analysis.verdicts import compute_verdicts
from fanin.theory.predict import THEORIES

NO_VERDICTS = pd.DataFrame(columns=["setting", "quantity", "image", "layer", "method", "verdict"])
TITLE = re.compile(r"\(\w+, \d+ draws\)$", re.MULTILINE)  # of a setting's table


def _print(renderable: object, width: int = 80) -> str:
    terminal = io.StringIO()
    Console(file=terminal, width=width, markup=False).print(renderable)
    return terminal.getvalue()


@pytest.fixture(scope="module")
def verdict_rows(comparisons: list[TheoryComparison]) -> pd.DataFrame:
    """Return the verdicts on every layer of `small`."""
    return compute_verdicts(comparisons)


def _status(verdict_rows: pd.DataFrame) -> int:
    return int((verdict_rows.verdict == "disagrees").any())


def _run(*arguments: str) -> int:
    """Run the command; return its exit status."""
    try:
        main(arguments)
    except SystemExit as error:
        return int(str(error.code))
    return 0


@pytest.fixture
def run_check(
    small_results: str, capsys: pytest.CaptureFixture[str], verdict_rows: pd.DataFrame
) -> Callable[..., str]:
    """Return a function `run_check(*flags)` that returns the output."""

    def run(*flags: str) -> str:
        assert _run("small", "--results", small_results, *flags) == _status(verdict_rows)
        return capsys.readouterr().out

    return run


def _refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the single line on stderr of a refused command."""
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_the_output_is_at_most_eight_sentences_without_tables(
    run_check: Callable[..., str],
) -> None:
    lines = run_check().splitlines()
    assert lines[0].startswith("Theory predicts the signal ")
    assert " of 20 settings (" in lines[1]
    assert lines[2].startswith("Best test accuracy ")
    assert lines[3].startswith("Of ")
    assert " are undecided" in lines[3]
    assert len(lines) <= 8
    # Each line is one sentence.
    assert all(line.endswith(".") and ". " not in line for line in lines)
    assert "--tables" in lines[-1]


def test_tables_come_after_the_summary_for_every_setting(
    run_check: Callable[..., str], comparisons: list[TheoryComparison]
) -> None:
    summary, tables = run_check(), run_check("--tables")
    assert not TITLE.search(summary)
    assert tables.splitlines()[:-1][:3] == summary.splitlines()[:3]
    for comparison in comparisons:
        assert f"{comparison.setting.label}   (preact_m2, 8 draws)" in tables
    assert len(TITLE.findall(tables)) == len(comparisons)
    assert "…" not in tables
    assert "Best test accuracy" in tables
    assert "steps from one layer to the next" in tables


def test_colors_appear_on_a_terminal_and_not_in_a_pipe() -> None:
    sentence = (
        "Every layer agrees in 3 of 4 settings, and layers disagree in 1: 3 times as large as "
        "predicted."
    )
    terminal, pipe = io.StringIO(), io.StringIO()
    print_sentence(Console(file=terminal, force_terminal=True, color_system="standard"), sentence)
    print_sentence(Console(file=pipe), sentence)
    assert pipe.getvalue() == f"{sentence}\n"
    green, red = "\x1b[32min 3 of 4 settings", "\x1b[1;31mlayers disagree in 1"
    assert green in terminal.getvalue()
    assert red in terminal.getvalue()


def test_a_sentence_is_wrapped_at_words_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    terminal = io.StringIO()
    words = ["word" * n for n in (1, 2, 3, 4, 5)] * 4
    console = Console(file=terminal, force_terminal=True, width=UNBOUNDED)
    print_sentence(console, " ".join(words))
    lines = terminal.getvalue().splitlines()
    assert max(map(len, lines)) <= 40
    assert " ".join(lines).split() == ["•", *words]


def test_the_factors_of_a_row_multiply_to_the_measured_value(
    by_label: dict[str, TheoryComparison],
    comparisons: list[TheoryComparison],
    verdict_rows: pd.DataFrame,
) -> None:
    comparison = by_label["two_layer channels=4 tanh uniform a=0.0 b=1.0"]
    rows = verdict_rows[verdict_rows.setting == comparisons.index(comparison)]
    rows = rows[(rows.quantity == "preact_m2") & (rows.image == -1)]
    layers = build_layer_table(layer_table(comparison), rows)
    highest = list(THEORIES)[-1]
    headings = [str(column.header).replace("\n", "") for column in layers.columns]
    factors = [f"x{theory}" for theory in list(THEORIES)[1:]]
    assert headings == [
        *("layer", "name", "measured", "se", "he", *factors),
        *(f"measured/{highest}", "spread", "method", "verdict"),
    ]
    lines = _print(layers, 200).splitlines()
    for row in layer_table(comparison).to_dict("records"):
        (line,) = (line for line in lines if row["layer_name"] in line)
        layer, name, measured, se, he, *rest = line.split()
        assert (int(layer), name) == (row["layer"], row["layer_name"])
        assert (measured, se) == (f"{row['measured']:.3g}", f"{row['se']:.1g}")
        assert he == f"{row['he']:.3g}"
        factors_printed = [float(number) for number in rest[: len(THEORIES)]]
        # Numbers are printed with three digits, so rounded by at most 0.5 %.
        assert np.prod([row["he"], *factors_printed]) == pytest.approx(row["measured"], rel=0.03)


def test_each_row_ends_with_its_verdict(comparisons: list[TheoryComparison]) -> None:
    # With eight draws of narrow networks, none agrees within 1.1.
    verdict_rows = compute_verdicts(comparisons, margin=2)
    printed = set()
    for n, comparison in enumerate(comparisons):
        rows = verdict_rows[verdict_rows.setting == n]
        lines = _print(render_setting(comparison, rows, "preact_m2", -1), 200).splitlines()
        rows = rows[(rows.quantity == "preact_m2") & (rows.image == -1)]
        for row in rows.itertuples():
            (line,) = (line for line in lines if f" {row.layer_name} " in line)
            texts = {
                "undecided": r"undecided: (?:needs [\d,]+ draws|prediction error too large)",
                "not_tested": row.kind,
                "agrees": r"agrees \(simulated\)" if row.method == "simulated" else "agrees",
            }
            assert re.search(f"(?:{texts.get(row.verdict, row.verdict)}) *$", line)
            printed.add(row.verdict)
    assert {"agrees", "undecided"} <= printed


def test_wide_numbers_are_not_truncated_and_labels_are_not_markup(
    comparisons: list[TheoryComparison],
) -> None:
    predicted = comparisons[0].predicted
    predicted = predicted[predicted.quantity == "preact_m2"].assign(value=1.234e-300)
    draws = comparisons[0].draws.assign(value=-1.284e300)
    comparison = TheoryComparison(Setting({}, "wide [bold]", {}, ("x",)), draws, predicted, None)
    out = _print(render_setting(comparison, NO_VERDICTS, "preact_m2", -1), 200)
    assert "…" not in out
    assert "wide [bold]" in out
    assert "-1.28e+300" in out
    assert "1.23e-300" in out


def test_an_init_without_moments_has_measurements_and_a_reason(
    by_label: dict[str, TheoryComparison],
) -> None:
    comparison = by_label["two_layer channels=4 relu lsuv"]
    out = _print(render_setting(comparison, NO_VERDICTS, "preact_m2", -1))
    assert "Lsuv declares no moments of the weights" in out
    measured = layer_table(comparison)
    # LSUV scales the variance over a batch (here, the probe set) to 1 with a tolerance of 0.1.
    assert measured.measured.between(0.5, 2).all()
    assert measured.he.isna().all()


def test_quantity_and_image_apply_to_tables_and_csv(
    run_check: Callable[..., str],
    by_label: dict[str, TheoryComparison],
    comparisons: list[TheoryComparison],
    tmp_path: Path,
) -> None:
    flags = ("--quantity", "vjp_m2", "--image", "1")
    out = run_check("--tables", *flags, "--csv", str(tmp_path / "all.csv"))
    label = "plain depth=4 width=4 tanh he_normal"
    section = out.partition(f"{label}   (vjp_m2")[2]
    row = layer_table(by_label[label], "vjp_m2", 1).iloc[0]
    line = next(line for line in section.splitlines() if "conv1" in line)
    assert line.split()[2] == f"{row.measured:.3g}"
    written = pd.read_csv(tmp_path / "all.csv")
    assert written.columns[0] == "setting"
    assert len(written) == sum(len(layer_table(c)) for c in comparisons)
    for comparison in comparisons:
        rows = written[written.setting == comparison.setting.label]
        np.testing.assert_array_equal(rows.measured, layer_table(comparison, "vjp_m2", 1).measured)


def test_csv_contains_the_gap_parts_and_the_verdict(
    comparisons: list[TheoryComparison], verdict_rows: pd.DataFrame
) -> None:
    frame = build_csv_frame(comparisons, verdict_rows, "vjp_m2", 0)
    predicted = frame[frame.he.notna()]
    parts = [*(f"closed/{theory}" for theory in list(THEORIES)[1:]), "residual"]
    finite = predicted[np.isfinite(predicted.gap)]
    assert len(finite) > 20
    np.testing.assert_allclose(finite[parts].sum(axis=1), finite.gap, atol=1e-9)
    np.testing.assert_allclose(finite.gap, np.log(finite.measured / finite.he), atol=1e-9)
    rows = verdict_rows[(verdict_rows.quantity == "vjp_m2") & (verdict_rows.image == 0)]
    assert frame.verdict.value_counts().to_dict() == rows.verdict.value_counts().to_dict()
    assert frame.verdict.isna().sum() == sum(
        len(layer_table(c)) for c in comparisons if c.unpredicted
    )
    assert frame.method.isna().sum() == frame.verdict.isna().sum()


def test_the_method_is_in_the_table_and_in_the_csv() -> None:
    methods = ["exact", "first_order", "sampled", "simulated"]
    sweep = simulated(1, method=methods)
    rows = compute_verdicts(sweep, margin=2)
    assert set(rows.verdict) == {"agrees"}
    frame = build_csv_frame(sweep, rows, "preact_m2", -1)
    assert frame.method.tolist() == methods
    lines = _print(render_setting(sweep[0], rows, "preact_m2", -1), 200).splitlines()
    for n, method in enumerate(methods):
        (line,) = (line for line in lines if f" fc{n + 1} " in line)
        verdict = "agrees (simulated)" if method == "simulated" else "agrees"
        assert re.search(f" {method} +{re.escape(verdict)} *$", line)


@pytest.mark.parametrize("flag", ["--margin=1", "--margin=inf", "--level=0", "--level=1.5"])
def test_an_invalid_margin_or_level_is_refused(
    flag: str, small_results: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["small", "--results", small_results, flag])
    assert exit_info.value.code == 2
    assert "must be " in capsys.readouterr().err


def test_the_exit_status_is_0_if_nothing_disagrees(
    small_results: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["small", "--results", small_results, "--margin", "1e300"])
    assert "layers disagree in 0" in capsys.readouterr().out


def test_an_unknown_quantity_is_refused_with_the_nearest(
    small_results: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = _refused(capsys, "small", "--results", small_results, "--quantity", "preact_m3")
    assert line.startswith("--quantity preact_m3: not measured; did you mean preact_m2")


def test_an_unknown_image_is_refused_with_the_valid_ones(
    small_results: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = _refused(capsys, "small", "--results", small_results, "--image", "9")
    assert line == "--image 9: preact_m2 was not measured on it; valid: -1, 0, 1"


def test_a_quantity_of_the_whole_network_is_refused(
    small: Results, small_results: str, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = small.layers.groupby("quantity", observed=True).layer.max()
    network_quantities = layers[layers < 0].index
    assert "logit_var" in network_quantities
    line = _refused(capsys, "small", "--results", small_results, "--quantity", "logit_var")
    assert line.startswith("--quantity logit_var: not measured")


def test_an_unknown_sweep_is_refused_in_one_line(
    small_results: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "did you mean small?" in _refused(capsys, "smal", "--results", small_results)


def test_an_unwritable_csv_is_refused_in_one_line(
    small_results: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    missing_folder = str(tmp_path / "no" / "folder.csv")
    line = _refused(capsys, "small", "--results", small_results, "--csv", missing_folder)
    assert str(tmp_path / "no") in line


@pytest.mark.parametrize(("off", "status"), [({}, 0), ({(1, "vjp_m2", 2): 3.0}, 1)])
def test_the_exit_status_is_1_if_the_highest_theory_disagrees(
    off: dict[tuple[int, str, int], float],
    status: int,
    small_results: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The quantity that `--quantity` displays and disagreements of lower theories do not count."""
    sweep = simulated(3, off=off)
    monkeypatch.setattr(analysis.check.output, "compare_to_theory", lambda *_, **__: sweep)
    monkeypatch.setattr(analysis.summary, "summarize_training", lambda *_: [])
    monkeypatch.setattr(analysis.coverage, "narrowest_width", lambda config: 64)
    assert _run("small", "--results", small_results, "--quantity", "preact_m2") == status
    assert f"layers disagree in {status}" in capsys.readouterr().out
