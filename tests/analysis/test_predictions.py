"""Predictions are kept in the sweep's folder, and made anew when the theory changes."""

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

Counted = Callable[[], int]


@pytest.fixture
def copied(small: Results, tmp_path: Path) -> Results:
    """The small sweep in a folder of the test's own, with nothing predicted."""
    shutil.copytree(small.folder.root, tmp_path / "copied", ignore=_no_predictions)
    return load("copied", tmp_path)


def _no_predictions(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name == "predictions"]


def _settings(results: Results) -> list[Setting]:
    return group_settings(list(read_plan(results.folder).values()))


def _theory(config: dict[str, Any]) -> pd.DataFrame:
    """As quick as theory gets: one layer, whose moment tells configs apart."""
    if config["init"]["_target_"].endswith("Lsuv"):
        raise UnpredictableLayer("conv1", "Lsuv declares no moments")
    value = float(sum(json.dumps(config["init"]).encode()))
    rows = {"image": [-1, 0, 1], "layer": 1, "layer_name": "conv1", "quantity": "preact_m2"}
    numbers = {"theory": "he", "value": value / 3, "log_sd": np.nan, "sampling_se": 0.0}
    return pd.DataFrame(rows | numbers)


@pytest.fixture(autouse=True)
def predictions_made(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """How many settings theory was asked about."""
    made = []

    def counted(config: dict[str, Any]) -> pd.DataFrame:
        made.append(config)
        return _theory(config)

    monkeypatch.setattr(predictions, "predict_cell", counted)
    return lambda: len(made)


def test_predictions_are_kept_once_however_often_one_checks(copied: Results) -> None:
    compare_to_theory(copied)
    once = load(copied.name, copied.folder.root.parent).predictions
    compare_to_theory(copied)
    twice = load(copied.name, copied.folder.root.parent).predictions
    pd.testing.assert_frame_equal(once, twice)
    assert set(once.columns) == {
        *("cell_id", "image", "layer", "layer_name", "quantity", "theory", "value"),
        *("log_sd", "sampling_se"),
    }
    assert not once.duplicated(["cell_id", "image", "layer", "quantity", "theory"]).any()
    assert once.cell_id.nunique() == 64  # 80 less lsuv's 16
    assert set(once.cell_id) < set(copied.cells.cell_id)
    assert isinstance(once.cell_id.dtype, pd.CategoricalDtype)
    assert set(once.image) == {-1, 0, 1}


def test_what_is_stored_is_what_was_predicted(copied: Results) -> None:
    settings = _settings(copied)
    fresh = predict_settings(copied.folder, settings)
    stored = predict_settings(copied.folder, settings)
    for one, other in zip(fresh, stored, strict=True):
        assert one.reason == other.reason
        pd.testing.assert_frame_equal(
            one.frame, other.frame, check_dtype=False, check_categorical=False
        )


def test_a_second_check_predicts_nothing_but_what_has_no_prediction(
    copied: Results, predictions_made: Counted
) -> None:
    settings = _settings(copied)
    predict_settings(copied.folder, settings)
    assert predictions_made() == 20
    predict_settings(copied.folder, settings)
    assert predictions_made() == 20 + 4  # lsuv's four say so again
    predict_settings(copied.folder, settings, recompute=True)
    assert predictions_made() == 24 + 20


def test_another_theory_predicts_anew(
    copied: Results, predictions_made: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _settings(copied)[:2]
    predict_settings(copied.folder, settings)
    monkeypatch.setattr(predictions, "theory_fingerprint", lambda: "another")
    predict_settings(copied.folder, settings)
    assert predictions_made() == 4
    predict_settings(copied.folder, settings)
    assert predictions_made() == 4


def test_any_edit_of_a_source_is_another_theory(
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


def test_cells_added_to_a_setting_get_its_predictions_too(copied: Results) -> None:
    first, *_ = _settings(copied)
    fewer = Setting(first.config, first.label, first.words, first.cell_ids[:1])
    predict_settings(copied.folder, [fewer])
    predict_settings(copied.folder, [first])
    rows = load(copied.name, copied.folder.root.parent).predictions
    assert set(rows.cell_id) == set(first.cell_ids)


def test_settings_that_left_the_plan_leave_the_table(copied: Results) -> None:
    first, second, *_ = _settings(copied)
    predict_settings(copied.folder, [first, second])
    predict_settings(copied.folder, [second])
    rows = load(copied.name, copied.folder.root.parent).predictions
    assert set(rows.cell_id) == set(second.cell_ids)


def test_who_asks_about_some_settings_can_leave_the_others_there(copied: Results) -> None:
    first, second, *_ = _settings(copied)
    predict_settings(copied.folder, [first])
    predict_settings(copied.folder, [second], keep_others=True)
    rows = load(copied.name, copied.folder.root.parent).predictions
    assert set(rows.cell_id) == {*first.cell_ids, *second.cell_ids}


def test_a_setting_that_can_no_longer_be_predicted_keeps_no_old_rows(
    copied: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _settings(copied)[:1]
    predict_settings(copied.folder, settings)

    def refuse(config: object) -> pd.DataFrame:
        raise UnpredictableLayer("conv1", "not any more")

    monkeypatch.setattr(predictions, "predict_cell", refuse)
    (refused,) = predict_settings(copied.folder, settings, recompute=True)
    assert "not any more" in str(refused.reason)
    assert load(copied.name, copied.folder.root.parent).predictions.empty


def test_code_of_the_users_own_is_never_trusted_to_be_what_it_was(
    copied: Results, predictions_made: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fingerprint covers this project's sources, and no others."""
    settings = _settings(copied)[:1]
    monkeypatch.setattr(predictions, "COVERED_PACKAGES", ("torch.",))
    predict_settings(copied.folder, settings)
    predict_settings(copied.folder, settings)
    assert predictions_made() == 2


def test_a_failure_halfway_keeps_what_was_done(
    copied: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _settings(copied)[:3]
    asked: list[object] = []

    def fail_at_third(config: dict[str, object]) -> pd.DataFrame:
        asked.append(config)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return _theory(config)

    monkeypatch.setattr(predictions, "predict_cell", fail_at_third)
    with pytest.raises(KeyboardInterrupt):
        predict_settings(copied.folder, settings)
    predict_settings(copied.folder, settings)
    assert len(asked) == 4


def test_progress_is_told_up_to_the_end(copied: Results) -> None:
    told: list[tuple[int, int]] = []
    settings = _settings(copied)[:3]
    predict_settings(copied.folder, settings, on_predicted=lambda n, of: told.append((n, of)))
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]


@pytest.mark.slow
def test_workers_change_no_bit(copied: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real theory: another process knows of no stand-in."""
    monkeypatch.setattr(predictions, "predict_cell", predict_cell)
    settings = [s for s in _settings(copied) if s.words["model"] == "two_layer"][:5]
    alone = predict_settings(copied.folder, settings)
    together = predict_settings(copied.folder, settings, recompute=True, workers=2)
    assert [p.reason is None for p in alone] == [True] * 4 + [False]
    for one, other in zip(alone, together, strict=True):
        assert one.reason == other.reason
        pd.testing.assert_frame_equal(one.frame, other.frame, check_exact=True)
