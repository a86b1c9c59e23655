"""Tables of the study of residual networks: coverage, worst ratios and costs."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial

import numpy as np
import pytest
import torch

from analysis.studies import graph_networks
from analysis.studies.graph_draws import interval_hits
from analysis.studies.graph_networks import CASES, Case, CaseResult, Cost, Entry, evaluate, markdown
from fanin.inits import HeNormal
from fanin.models import ResNet

TITLE = "ResNet-20 v1, batch norm, one image"


def _draws(log_moments: np.ndarray) -> dict[str, np.ndarray]:
    return {"preact_m2": np.exp(log_moments)[:, None]}


def test_95_percent_of_log_normal_draws_are_inside_their_interval():
    n = 4000
    rng = np.random.default_rng(0)
    hits = interval_hits(["a", "b"], _draws(rng.normal(0.0, [0.01, 1.0], (n, 2))))
    se = (0.95 * 0.05 / n) ** 0.5  # the error of the fitted bounds is of the same size
    for name in "ab":
        assert abs(hits["preact_m2", name] / n - 0.95) < 4 * 2**0.5 * se


def test_intervals_of_half_the_spread_cover_fewer_draws():
    """Half of the draws, the even ones, have half the spread of the others."""
    n = 4000
    scale = np.where(np.arange(n) % 2, 1.0, 0.5)[:, None]
    hits = interval_hits(["a"], _draws(np.random.default_rng(0).normal(size=(n, 1)) * scale))
    # P(|Z| < 0.98) and P(|Z| < 3.92)
    assert abs(hits["preact_m2", "a"] / n - (0.6729 + 0.9999) / 2) < 0.02


def test_equal_draws_are_inside_and_unknown_moments_are_left_out():
    draws = {"preact_m2": np.ones((10, 2, 1)), "weight_vjp_m2": np.full((10, 2, 1), np.nan)}
    assert interval_hits(["a"], draws) == {("preact_m2", "a"): 10}


def _result() -> CaseResult:
    entries = [
        Entry(16, "preact_m2", "narrow", 16, 0.5, 0.01, 80),
        Entry(16, "preact_m2", "wide", 64, 1.25, 0.02, 90),
        Entry(16, "vjp_m2", "wide", 64, 0.9, 0.03, 95),
        Entry(64, "vjp_m2", "wide", 256, 1.01, 0.04, 97),
    ]
    return CaseResult(
        TITLE, "12ab", 100, Cost("sampled", 2, 4096, 61.2, 75.0, 3.21), (*entries,), 0
    )


def test_the_table_has_the_worst_ratio_of_wide_and_of_all_tensors():
    assert CASES[TITLE].widths == (16, 64)
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in markdown([_result()]).split("\n")
    ]
    wide, complete = (
        {(row[1], row[2]): row[3:] for row in rows if row and row[0] == TITLE and len(row) == n}
        for n in (6, 7)
    )
    assert wide["16", "forward"] == ["1", "1.250 (0.020)", "wide"]
    assert complete["16", "forward"] == ["2", "0.500 (0.010)", "narrow", "85.0%"]
    assert wide["16", "backward"] == ["1", "0.900 (0.030)", "wide"]
    assert complete["16", "backward"] == ["1", "0.900 (0.030)", "wide", "95.0%"]
    assert complete["64", "backward"][-1] == "97.0%"
    assert wide["64", "forward"] == ["0", "-", "-"]
    assert complete["64", "forward"] == ["0", "-", "-", "-"]
    costs = [row for row in rows if row and row[0] == TITLE and len(row) == 9]
    assert costs == [[TITLE, "1", "4096", "sampled", "2", "61", "75", "3.2", "12ab"]]


def test_a_stored_result_is_read_again():
    assert CaseResult.from_json(json.dumps(asdict(_result()))) == _result()


def test_each_width_is_compared_with_its_own_prediction(monkeypatch: pytest.MonkeyPatch):
    """The cotangents of a layer of twice the channels have half the second moment."""
    model = partial(ResNet, 8, norm="none", scalars="multiplier")
    case = Case("tiny", model, HeNormal(), widths=(16, 32), images=1)
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    monkeypatch.setitem(CASES, "tiny", case)
    monkeypatch.setattr(graph_networks, "load_images", lambda count, root: images)
    monkeypatch.setattr(graph_networks, "_in_process", lambda function, *args: function(*args))
    entries = evaluate("tiny", draws=40, root=None, max_repeats=2).entries
    for width in case.widths:
        (ratio,) = [
            (e.value, e.se)
            for e in entries
            if (e.width, e.quantity, e.tensor) == (width, "vjp_m2", "conv1")
        ]
        assert abs(ratio[0] - 1) < 4 * ratio[1] < 0.5
