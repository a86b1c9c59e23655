"""Images that are predicted: those of `probe.images`, or a small probe set as a whole."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console
from small_sweep import run_sweep

from analysis import load
from analysis.check.__main__ import main as check
from analysis.check.output import build_csv_frame, render_setting
from analysis.figures.variance_by_layer import figures
from analysis.predictions import MAX_WHOLE_SET, main_image, predict_cell, predict_settings
from analysis.settings import measured_settings
from analysis.theory_comparison import compare_to_theory
from analysis.verdicts import compute_verdicts

LARGE = MAX_WHOLE_SET + 1
NETWORK = (
    "model=two_layer",
    "model.channels=4",
    "data.side=8",
    "data.n_train=20",
    "data.n_test=10",
)
CellConfig = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(
    ("size", "reported", "predicted"),
    [
        (LARGE, "[5,2]", {2, 5}),
        (LARGE, "[]", {-1}),
        (MAX_WHOLE_SET, "[5,2]", {-1, 2, 5}),
        (1, "[0]", {-1, 0}),
    ],
)
def test_the_mean_is_predicted_for_small_sets_and_without_reported_images(
    cell_config: CellConfig, size: int, reported: str, predicted: set[int]
) -> None:
    config = cell_config(*NETWORK, f"probe.size={size}", f"probe.images={reported}")
    assert set(predict_cell(config, ("mean_field", "field")).image) == predicted


@pytest.mark.parametrize("init", ["he_normal", "uniform"])
def test_predictions_of_reported_images_are_those_of_the_whole_set(
    cell_config: CellConfig, init: str
) -> None:
    config = cell_config(*NETWORK, f"init={init}", f"probe.size={LARGE}", "probe.images=[5,2]")
    theories = ("he", "mean_field", "field")
    keys = ["theory", "quantity", "image", "layer"]
    whole = predict_cell(config, theories, whole_set=True)
    assert set(whole.image) == {-1, 2, 5}
    expected = whole[whole.image >= 0].sort_values(keys, ignore_index=True)
    actual = predict_cell(config, theories).sort_values(keys, ignore_index=True)
    assert (actual[keys] == expected[keys]).all(axis=None)
    # Images whose errors are small need fewer repeats of theory `field`, and fewer samples.
    error = (actual.sampling_se**2 + expected.sampling_se**2) ** 0.5
    assert ((actual.value - expected.value).abs() <= 5 * error + 1e-9 * expected.value.abs()).all()


def test_a_batch_that_is_normalized_together_is_predicted_as_a_whole(
    cell_config: CellConfig,
) -> None:
    network = (*NETWORK, "model.norm=mean_only")
    config = cell_config(*network, f"probe.size={LARGE}", "probe.images=[5,2]")
    whole = predict_cell(config, ("field",), whole_set=True)
    expected = whole[whole.image >= 0].reset_index(drop=True)
    pd.testing.assert_frame_equal(predict_cell(config, ("field",)), expected)


@pytest.fixture(scope="module")
def results_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run a sweep whose probe set is too large to be predicted as a whole."""
    root = tmp_path_factory.mktemp("large_set")
    probe = (f"probe.size={LARGE}", "probe.images=[3,1]", "probe.draws=3", "train.steps=0")
    network = ("model=mlp", "model.width=8", "model.depth=2", *NETWORK[2:])
    run_sweep(root, "large_set", *network, *probe, "init=he_normal,xavier_normal")
    return root


def test_check_tests_and_shows_reported_images(
    results_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    comparisons = compare_to_theory(load("large_set", results_root))
    rows = compute_verdicts(comparisons)
    assert set(rows.image) == {1, 3}
    assert main_image(comparisons[0].predicted) == 1
    frame = build_csv_frame(comparisons, rows, "preact_m2")
    assert set(frame.image) == {1}
    assert frame.verdict.notna().all()
    table = Console(width=200)
    with table.capture() as capture:
        table.print(render_setting(comparisons[0], rows[rows.setting == 0], "preact_m2"))
    assert "(preact_m2, image 1, 3 draws)" in capture.get()
    with contextlib.suppress(SystemExit):  # exit status 1 if a layer disagrees
        check(["large_set", "--results", str(results_root), "--tables"])
    assert "(preact_m2, image 1, 3 draws)" in capsys.readouterr().out


def test_figure_shows_predictions_of_a_reported_image(results_root: Path) -> None:
    comparisons = compare_to_theory(load("large_set", results_root))
    ((_, figure),) = figures(comparisons)
    layers = pd.Series(comparisons[0].predicted.layer.unique())
    assert any(len(line.get_xdata()) == len(layers) for line in figure.axes[0].lines)


def test_stored_predictions_without_the_mean_are_replaced_if_it_is_needed(
    results_root: Path,
) -> None:
    results = load("large_set", results_root)
    settings = [setting for setting, _ in measured_settings(results)][:1]
    (few,) = predict_settings(results.folder, settings, keep_others=True)
    assert main_image(few.frame) == 1
    (whole,) = predict_settings(results.folder, settings, keep_others=True, whole_set=True)
    assert main_image(whole.frame) == -1
    (stored,) = predict_settings(results.folder, settings, keep_others=True)
    assert main_image(stored.frame) == 1  # a check does not depend on earlier figures
    (again,) = predict_settings(results.folder, settings, keep_others=True, whole_set=True)
    pd.testing.assert_frame_equal(
        again.frame, whole.frame, check_dtype=False, check_categorical=False
    )
