"""Tests of the study `de2020`: the reset of the residual stream between stages."""

import numpy as np
import pandas as pd
import pytest

from analysis.figures.de2020 import always_reset, lost_growth, never_reset, reset
from analysis.figures.de2020.cells import NORMALIZED, STREAM, UNNORMALIZED


def streams(**log2: list[float]) -> pd.DataFrame:
    """Return the streams of one seed by norm, from log2 of three stages of two blocks."""
    frames = [
        pd.DataFrame(
            {
                "seed": 0,
                "part": STREAM,
                "norm": norm,
                "layer": range(1, 7),
                "stage": [1, 1, 2, 2, 3, 3],
                "stream": 2.0 ** np.array(values),
            }
        )
        for norm, values in log2.items()
    ]
    return pd.concat(frames, ignore_index=True).iloc[::-1]


GROWS = [0.0, 4.0, 3.0, 7.0, 5.0, 9.0]  # drops by 1 and 2, after growth by 4 and 4


def test_the_smaller_drop_of_the_normalized_stream_counts() -> None:
    assert reset(streams(**{NORMALIZED: [0, 3, 0, 2, 1.5, 3]})) == pytest.approx(0.5)


def test_a_normalized_stream_that_never_drops_is_not_reset() -> None:
    cells = streams(**{NORMALIZED: [0, 1, 1.5, 2, 2.5, 3], UNNORMALIZED: [0, 4, 8, 12, 16, 20]})
    assert reset(cells) < 0
    assert reset(never_reset(streams(**{NORMALIZED: [0, 3, 0, 2, 1.5, 3]}))) == 0


def test_the_larger_loss_of_growth_of_the_unnormalized_stream_counts() -> None:
    assert lost_growth(streams(**{UNNORMALIZED: GROWS})) == pytest.approx(0.5)
    assert lost_growth(always_reset(streams(**{UNNORMALIZED: GROWS}))) == pytest.approx(1)
    assert lost_growth(never_reset(streams(**{UNNORMALIZED: GROWS}))) == 0


def test_a_stream_that_does_not_grow_has_no_growth_to_lose() -> None:
    assert np.isnan(lost_growth(streams(**{UNNORMALIZED: [0, 0, 0, 0, 0, 0]})))
    assert np.isnan(lost_growth(streams(**{UNNORMALIZED: [0, -1, 0, 2, 0, 2]})))
