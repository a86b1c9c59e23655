"""Tests of the histograms of the probes."""

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
def test_bins_cover_the_finite_range_without_gaps(values, bins):
    rows = histogram(torch.tensor(values, dtype=torch.float64), bins)
    finite = [v for v in values if math.isfinite(v)]
    edges = [(left, right) for left, right, _ in rows if math.isfinite(left)]
    if finite:
        assert (edges[0][0], edges[-1][1]) == (min(finite), max(finite))
    else:
        assert not edges
    for (_, right), (left, _) in itertools.pairwise(edges):
        assert right == left


def test_values_are_counted_in_their_bins():
    rows = histogram(torch.tensor([0.0, 0.1, 1.0, 2.4, 4.0]), 4)
    assert rows == [(0, 1, 2), (1, 2, 1), (2, 3, 1), (3, 4, 1)]


def test_non_finite_values_have_separate_bins():
    inf, nan = float("inf"), float("nan")
    rows = histogram(torch.tensor([5.0, 5.0, inf, -inf, -inf, nan]), 4)
    assert rows[:3] == [(5, 5, 2), (inf, inf, 1), (-inf, -inf, 2)]
    assert math.isnan(rows[3][0])
    assert rows[3][2] == 1


def test_histograms_are_recorded_only_on_request():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    images, cotangent = torch.randn(5, 4), torch.ones(5, 3)
    assert measure(model, images, cotangent).histograms["count"] == []
    histograms = measure(model, images, cotangent, bins=6).histograms
    totals: dict[tuple[str, str], int] = {}
    for layer, quantity, count in zip(
        *(histograms[column] for column in ("layer_name", "quantity", "count")), strict=True
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
def test_histogram_has_the_requested_number_of_bins(bins):
    assert len(histogram(torch.linspace(0, 1, 10), bins)) == bins
