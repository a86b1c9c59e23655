"""Tests of stored predictions: reuse, and recomputation after a change of the code."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import Results, load, predictions
from analysis.predictions import predict_cell, predict_settings, theory_fingerprint
from analysis.settings import Setting, group_settings
from analysis.theory_comparison import compare_to_theory
from experiments.sweep.store.plan_file import read_plan
from fanin.theory.network import UnpredictableLayer

Count = Callable[[], int]


@pytest.fixture
def sweep_copy(small: Results, tmp_path: Path) -> Results:
    """Copy the small sweep without its predictions."""
    shutil.copytree(small.folder.root, tmp_path / "sweep_copy", ignore=_no_predictions)
    return load("sweep_copy", tmp_path)


def _no_predictions(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name == "predictions"]


def _settings(results: Results) -> list[Setting]:
    return group_settings(list(read_plan(results.folder).values()))


def _theory(config: dict[str, Any]) -> pd.DataFrame:
    """Return a fast fake prediction: one layer with a value that depends on the config."""
    if config["init"]["_target_"].endswith("Lsuv"):
        raise UnpredictableLayer("conv1", "Lsuv declares no moments")
    value = float(sum(json.dumps(config["init"]).encode()))
    rows = {"image": [-1, 0, 1], "layer": 1, "layer_name": "conv1", "quantity": "preact_m2"}
    numbers = {"theory": "he", "value": value / 3, "log_sd": np.nan, "sampling_se": 0.0}
    return pd.DataFrame(rows | numbers)


@pytest.fixture(autouse=True)
def n_predicted(monkeypatch: pytest.MonkeyPatch) -> Count:
    """Replace theory by a fake; return a function that counts the predicted settings."""
    configs = []

    def predict(config: dict[str, Any], whole_set: bool | None) -> pd.DataFrame:
        configs.append(config)
        return _theory(config)

    monkeypatch.setattr(predictions, "predict_cell", predict)
    return lambda: len(configs)


def test_a_second_check_reuses_stored_predictions(sweep_copy: Results) -> None:
    compare_to_theory(sweep_copy)
    first = load(sweep_copy.name, sweep_copy.folder.root.parent).predictions
    compare_to_theory(sweep_copy)
    second = load(sweep_copy.name, sweep_copy.folder.root.parent).predictions
    pd.testing.assert_frame_equal(first, second)
    assert set(first.columns) == {
        *("cell_id", "image", "layer", "layer_name", "quantity", "theory", "value"),
        *("log_sd", "sampling_se"),
    }
    assert not first.duplicated(["cell_id", "image", "layer", "quantity", "theory"]).any()
    assert first.cell_id.nunique() == 64  # 80 cells, 16 of them LSUV
    assert set(first.cell_id) < set(sweep_copy.cells.cell_id)
    assert isinstance(first.cell_id.dtype, pd.CategoricalDtype)
    assert set(first.image) == {-1, 0, 1}


def test_stored_predictions_equal_fresh_ones(sweep_copy: Results) -> None:
    settings = _settings(sweep_copy)
    fresh = predict_settings(sweep_copy.folder, settings)
    stored = predict_settings(sweep_copy.folder, settings)
    for prediction, reloaded in zip(fresh, stored, strict=True):
        assert prediction.reason == reloaded.reason
        pd.testing.assert_frame_equal(
            prediction.frame, reloaded.frame, check_dtype=False, check_categorical=False
        )


def test_only_missing_predictions_are_computed_again(
    sweep_copy: Results, n_predicted: Count
) -> None:
    settings = _settings(sweep_copy)
    predict_settings(sweep_copy.folder, settings)
    assert n_predicted() == 20
    predict_settings(sweep_copy.folder, settings)
    assert n_predicted() == 20 + 4  # the four LSUV settings have nothing stored
    predict_settings(sweep_copy.folder, settings, recompute=True)
    assert n_predicted() == 24 + 20


def test_a_changed_fingerprint_causes_recomputation(
    sweep_copy: Results, n_predicted: Count, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _settings(sweep_copy)[:2]
    predict_settings(sweep_copy.folder, settings)
    monkeypatch.setattr(predictions, "theory_fingerprint", lambda: "another")
    predict_settings(sweep_copy.folder, settings)
    assert n_predicted() == 4
    predict_settings(sweep_copy.folder, settings)
    assert n_predicted() == 4


def test_any_source_edit_changes_the_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "theory"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "theory.py").write_text("GAIN = 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    theory = importlib.import_module("theory")
    monkeypatch.setattr(predictions, "SOURCES", (theory,))
    before = theory_fingerprint.__wrapped__()
    assert theory_fingerprint.__wrapped__() == before
    (package / "theory.py").write_text("GAIN = 3\n")
    assert theory_fingerprint.__wrapped__() != before


def test_cells_added_to_a_setting_get_predictions(sweep_copy: Results) -> None:
    first, *_ = _settings(sweep_copy)
    fewer = Setting(first.config, first.label, first.axis_values, first.cell_ids[:1])
    predict_settings(sweep_copy.folder, [fewer])
    predict_settings(sweep_copy.folder, [first])
    rows = load(sweep_copy.name, sweep_copy.folder.root.parent).predictions
    assert set(rows.cell_id) == set(first.cell_ids)


def test_predictions_of_removed_settings_are_deleted(sweep_copy: Results) -> None:
    first, second, *_ = _settings(sweep_copy)
    predict_settings(sweep_copy.folder, [first, second])
    predict_settings(sweep_copy.folder, [second])
    rows = load(sweep_copy.name, sweep_copy.folder.root.parent).predictions
    assert set(rows.cell_id) == set(second.cell_ids)


def test_keep_others_keeps_predictions_of_other_settings(sweep_copy: Results) -> None:
    first, second, *_ = _settings(sweep_copy)
    predict_settings(sweep_copy.folder, [first])
    predict_settings(sweep_copy.folder, [second], keep_others=True)
    rows = load(sweep_copy.name, sweep_copy.folder.root.parent).predictions
    assert set(rows.cell_id) == {*first.cell_ids, *second.cell_ids}


def test_an_unpredictable_setting_loses_its_old_rows(
    sweep_copy: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _settings(sweep_copy)[:1]
    predict_settings(sweep_copy.folder, settings)

    def refuse(config: object, whole_set: bool | None) -> pd.DataFrame:
        raise UnpredictableLayer("conv1", "no longer predictable")

    monkeypatch.setattr(predictions, "predict_cell", refuse)
    (refused,) = predict_settings(sweep_copy.folder, settings, recompute=True)
    assert "no longer predictable" in str(refused.reason)
    assert load(sweep_copy.name, sweep_copy.folder.root.parent).predictions.empty


def test_predictions_with_user_code_are_always_recomputed(
    sweep_copy: Results, n_predicted: Count, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fingerprint covers only this project's sources."""
    settings = _settings(sweep_copy)[:1]
    monkeypatch.setattr(predictions, "COVERED_PACKAGES", ("torch.",))
    predict_settings(sweep_copy.folder, settings)
    predict_settings(sweep_copy.folder, settings)
    assert n_predicted() == 2


def test_an_interruption_keeps_finished_predictions(
    sweep_copy: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _settings(sweep_copy)[:3]
    predicted_configs: list[object] = []

    def fail_at_third(config: dict[str, object], whole_set: bool | None) -> pd.DataFrame:
        predicted_configs.append(config)
        if len(predicted_configs) == 3:
            raise KeyboardInterrupt
        return _theory(config)

    monkeypatch.setattr(predictions, "predict_cell", fail_at_third)
    with pytest.raises(KeyboardInterrupt):
        predict_settings(sweep_copy.folder, settings)
    predict_settings(sweep_copy.folder, settings)
    assert len(predicted_configs) == 4


def test_progress_is_reported_up_to_the_end(sweep_copy: Results) -> None:
    calls: list[tuple[int, int]] = []
    settings = _settings(sweep_copy)[:3]
    predict_settings(
        sweep_copy.folder, settings, on_predicted=lambda done, total: calls.append((done, total))
    )
    assert calls == [(0, 3), (1, 3), (2, 3), (3, 3)]


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_workers(
    sweep_copy: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Use the real theory, because the fake does not exist in worker processes."""
    monkeypatch.setattr(predictions, "predict_cell", predict_cell)
    settings = [s for s in _settings(sweep_copy) if s.axis_values["model"] == "two_layer"][:5]
    serial = predict_settings(sweep_copy.folder, settings)
    parallel = predict_settings(sweep_copy.folder, settings, recompute=True, workers=2)
    assert [p.reason is None for p in serial] == [True] * 4 + [False]
    for prediction, reloaded in zip(serial, parallel, strict=True):
        assert prediction.reason == reloaded.reason
        pd.testing.assert_frame_equal(prediction.frame, reloaded.frame, check_exact=True)
