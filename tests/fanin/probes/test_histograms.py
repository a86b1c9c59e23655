"""Histograms: no value lost, edges that meet."""

import itertools
import math
import sys

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from fanin.probes.measure import histogram, measure

NUMBERS = st.lists(st.floats(allow_subnormal=False), min_size=1, max_size=50)


@given(values=NUMBERS, bins=st.integers(1, 9))
@example(values=[-sys.float_info.max, sys.float_info.max, 0.0], bins=4)
@example(values=[1.0, math.nextafter(1.0, 2.0)], bins=9)
def test_counts_add_up_to_the_number_of_values(values, bins):
    rows = histogram(torch.tensor(values, dtype=torch.float64), bins)
    assert sum(count for *_, count in rows) == len(values)


@given(values=NUMBERS, bins=st.integers(1, 9))
def test_bins_reach_from_the_least_to_the_greatest_finite_value_without_gaps(values, bins):
    rows = histogram(torch.tensor(values, dtype=torch.float64), bins)
    finite = [v for v in values if math.isfinite(v)]
    proper = [(left, right) for left, right, _ in rows if math.isfinite(left)]
    if finite:
        assert (proper[0][0], proper[-1][1]) == (min(finite), max(finite))
    else:
        assert not proper
    for (_, right), (left, _) in itertools.pairwise(proper):
        assert right == left


def test_every_value_is_counted_in_the_bin_that_holds_it():
    rows = histogram(torch.tensor([0.0, 0.1, 1.0, 2.4, 4.0]), 4)
    assert rows == [(0, 1, 2), (1, 2, 1), (2, 3, 1), (3, 4, 1)]


def test_values_that_are_not_finite_have_bins_of_their_own():
    inf, nan = float("inf"), float("nan")
    rows = histogram(torch.tensor([5.0, 5.0, inf, -inf, -inf, nan]), 4)
    assert rows[:3] == [(5, 5, 2), (inf, inf, 1), (-inf, -inf, 2)]
    assert math.isnan(rows[3][0])
    assert rows[3][2] == 1


def test_histograms_are_made_on_request_only():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    images, cotangent = torch.randn(5, 4), torch.ones(5, 3)
    assert measure(model, images, cotangent).histograms["count"] == []
    bars = measure(model, images, cotangent, bins=6).histograms
    totals: dict[tuple[str, str], int] = {}
    for layer, quantity, count in zip(
        bars["layer_name"], bars["quantity"], bars["count"], strict=True
    ):
        totals[layer, quantity] = totals.get((layer, quantity), 0) + count
    hidden, last = 5 * 8, 5 * 3
    assert totals == {
        ("0", "preact"): hidden,
        ("0", "act"): hidden,
        ("0", "vjp"): hidden,
        ("2", "preact"): last,
        ("2", "vjp"): last,
    }


@pytest.mark.parametrize("bins", [1, 64])
def test_there_are_as_many_bins_as_asked_for(bins):
    assert len(histogram(torch.linspace(0, 1, 10), bins)) == bins
