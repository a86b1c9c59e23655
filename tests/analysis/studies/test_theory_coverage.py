"""Tests of the coverage tables, on draws of a known distribution."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import Results
from analysis.settings import Setting
from analysis.studies.theory_coverage import evaluate_coverage, main, markdown
from analysis.theory_comparison import TheoryComparison

CellConfig = Callable[..., dict[str, Any]]
QUANTITIES = ("preact_m2", "vjp_m2")
LAYERS = ("fc1", "fc2", "fc3")
LOG_SD = 0.3
DRAWS = 64


def lognormal(
    config: dict[str, Any],
    init: str,
    seed: int,
    ratio: float = 1.0,
    spread: float = 1.0,
    draws: int = DRAWS,
) -> TheoryComparison:
    """Return draws that agree with theory, except for a factor from fc2 on and one of the spread.

    The layers of one draw are correlated, as in a network.
    """
    rng = np.random.default_rng([1, seed])
    rows, theory = [], []
    for quantity in QUANTITIES:
        common = rng.normal(size=draws)
        for n, name in enumerate(LAYERS):
            at = {"layer": n + 1, "layer_name": name, "quantity": quantity, "image": -1}
            theory.append(
                {**at, "theory": "finite_width", "value": 2.0, "log_sd": LOG_SD, "sampling_se": 0.0}
            )
            z = (common + rng.normal(size=draws)) / 2**0.5
            factor = ratio if n > 0 and quantity == "preact_m2" else 1.0
            values = 2 * factor * np.exp(spread * LOG_SD * z - LOG_SD**2 / 2)
            rows += [
                {**at, "draw": draw, "seed_weights": seed, "value": value}
                for draw, value in enumerate(values)
            ]
    axis_values = {"model": "mlp", "init": init}
    setting = Setting(config, f"mlp {init}", axis_values, (f"{init}-{seed}",))
    return TheoryComparison(setting, pd.DataFrame(rows), pd.DataFrame(theory), None)


@pytest.fixture(scope="module")
def config(cell_config: CellConfig) -> dict[str, Any]:
    return cell_config("model=mlp", "model.width=64", "activation=relu")


def test_draws_that_agree_with_theory_are_covered_and_explained(config: dict[str, Any]) -> None:
    result = evaluate_coverage([lognormal(config, "he_normal", seed) for seed in range(20)])
    text = markdown(result)
    counts = re.search(r"20 cells of 64 draws: (\d+) explained .*, (\d+) not rejected", text)
    assert counts is not None
    assert int(counts[1]) + int(counts[2]) == 20
    assert "No cell disagrees." in text
    share = result.hits["hit"].mean()
    # 20 cells with 2 independent sequences of 64 draws each; the 3 layers are correlated.
    assert abs(share - 0.95) < 4 * (0.95 * 0.05 / (20 * 2 * 64)) ** 0.5
    forward = result.hits["hit"][result.hits["quantity"] == "preact_m2"].mean()
    assert f"| not simulated | forward | 20 | 60 | {forward:.1%}" in text
    # exp(1.96 * 0.3)
    assert "x 1.80" in text


def test_a_disagreeing_cell_is_listed_with_its_first_layer(config: dict[str, Any]) -> None:
    good = [lognormal(config, "he_normal", seed) for seed in range(3)]
    text = markdown(evaluate_coverage([*good, lognormal(config, "uniform", 3, ratio=1.5)]))
    outcomes = re.search(r"draws: (\d+) explained .*, (\d+) not rejected .*, (\d+) disagree,", text)
    assert outcomes is not None
    explained, not_rejected, disagree = map(int, outcomes.groups())
    assert (explained + not_rejected, disagree) == (3, 1)
    assert "**Disagreeing cells**" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| mlp uniform |")]
    assert "fc2 preact_m2 (moment)" in row
    ratio = float(row.split("|")[4])
    assert abs(np.log(ratio / 1.5)) < 4 * LOG_SD / DRAWS**0.5


def test_a_larger_spread_than_predicted_lowers_the_coverage(config: dict[str, Any]) -> None:
    result = evaluate_coverage(
        [lognormal(config, "he_normal", seed, spread=2.0) for seed in range(20)]
    )
    assert result.hits["hit"].mean() < 0.75  # P(|z| < 1.96 / 2) = 0.673


def test_a_simulated_cell_is_not_explained(config: dict[str, Any]) -> None:
    """At 1024 draws every layer agrees within the margin of 10 %: standard error 0.3/32."""
    cells = [lognormal(config, "he_normal", seed, draws=1024) for seed in range(2)]
    cells[0].predicted["method"] = "first_order"
    cells[1].predicted["method"] = "simulated"
    text = markdown(evaluate_coverage(cells))
    assert "2 cells of 1024 draws: 1 explained" in text
    assert ", 1 not rejected" in text


def test_coverage_is_given_by_method_and_depth(config: dict[str, Any]) -> None:
    right = [lognormal(config, "he_normal", seed) for seed in range(10)]
    wide = [lognormal(config, "he_normal", seed, spread=0.5) for seed in range(10, 20)]
    for cells, method in ((right, "first_order"), (wide, "simulated")):
        for comparison in cells:
            comparison.predicted["method"] = method
    text = markdown(evaluate_coverage([*right, *wide]))
    table = {
        tuple(cells[1:3]): (int(cells[4]), float(cells[7]))
        for line in text.partition("**By method**")[2].splitlines()
        if len(cells := [cell.strip() for cell in line.split("|")]) == 11 and cells[3].isdigit()
    }
    # Ten cells of three layers. Four standard errors of a median over 10 independent cells.
    error = 4 * 1.25 / (2 * 63 * 10) ** 0.5
    for direction in ("forward", "backward"):
        for method, ratio in (("first_order", 1.0), ("simulated", 2.0)):
            layers, measured_ratio = table[method, direction]
            assert layers == 30
            assert measured_ratio == pytest.approx(ratio, rel=error)
        # Depth counts in the direction of propagation; each has one of the three layers of each
        # cell whose prediction is not simulated.
        assert [table[depth, direction][0] for depth in ("1", "2", "3 to 4")] == [10, 10, 10]
        assert table["at least 64", direction][0] == 30


def test_shares_of_methods_are_given_by_the_mean_of_the_weights(cell_config: CellConfig) -> None:
    uniform = cell_config("model=mlp", "model.width=64", "init=uniform", "init.a=0", "init.b=1")
    cells = [
        lognormal(cell_config("model=mlp", "model.width=64"), "he_normal", 0),
        lognormal(cell_config("model=mlp", "model.width=64"), "he_normal", 1),
        lognormal(uniform, "uniform", 2),
    ]
    for comparison, method in zip(cells, ("first_order", "sampled", "simulated"), strict=True):
        comparison.predicted["method"] = method
    result = evaluate_coverage(cells)
    text = markdown(result)
    # 2 quantities of 3 layers in each cell; columns exact, first_order, sampled, simulated
    shares = "0 (0.0%) | 6 (50.0%) | 6 (50.0%) | 0 (0.0%)"
    assert f"| zero mean | 12 | 12 (100.0%) | {shares} |" in text
    shares = "0 (0.0%) | 0 (0.0%) | 0 (0.0%) | 6 (100.0%)"
    assert f"| non-zero mean | 6 | 0 (0.0%) | {shares} |" in text
    assert set(result.hits.setting) == {0, 1}
    by_init = text.partition("**By init**")[2]
    assert "| he_normal | forward | 2 | 6 |" in by_init
    assert "| uniform |" not in by_init


def test_zero_overflowed_and_unpredicted_layers_are_counted(config: dict[str, Any]) -> None:
    dead, hot = lognormal(config, "a", 1), lognormal(config, "b", 2)
    dead.draws.loc[dead.draws.layer == 3, "value"] = 0.0
    hot.draws.loc[hot.draws.layer == 2, "value"] = np.inf
    unknown = lognormal(config, "lsuv", 3)
    without = TheoryComparison(unknown.setting, unknown.draws, pd.DataFrame(), "only data tells")
    text = markdown(evaluate_coverage([lognormal(config, "he_normal", 0), dead, hot, without]))
    counts = {
        cells[1].strip().split(" ")[0]: cells[2].strip()
        for line in text.splitlines()
        if len(cells := line.split("|")) == 4
    }
    assert counts["zero"] == "2"
    assert counts["overflowed"] == "2"
    assert counts["tested"] == str(3 * 6 - 4)
    assert "1 not tested" in text
    assert "mlp lsuv: only data tells" in text


def test_the_command_writes_into_a_page(
    sweep: Callable[..., Results], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ("model=mlp", "model.depth=2", "model.width=64", "train.steps=0", "init=he_normal")
    results = sweep("tiny", *model, "probe.draws=24", "probe.size=1", "probe.images=[0]")
    page = tmp_path / "page.md"
    page.write_text("<!-- begin tiny -->\n<!-- end tiny -->\n")
    main(["tiny", "--results", str(results.folder.root.parent), "--write", str(page)])
    text = page.read_text()
    capsys.readouterr()
    assert "1 cells of 24 draws: " in text
    assert ", 0 disagree, 0 not tested." in text
    assert "**By method**" in text
    assert "| preact_m2 |" in text
    main(["tiny", "--results", str(results.folder.root.parent)])
    assert capsys.readouterr().out.strip() in text


def test_a_missing_sweep_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["nothing", "--results", str(tmp_path)])
    assert error.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
