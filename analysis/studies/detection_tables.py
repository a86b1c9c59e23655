"""Sentences and tables of the study of detection power."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import numpy as np
import pandas as pd
from scipy import stats

from analysis.studies.tables import markdown_table
from experiments.sweep.provenance import code_version

REACHED = (0.5, 0.95)
DEFAULT_MARGIN = 1.1  # of `fanin check`


def markdown(detected: pd.DataFrame, layers: Sequence[str]) -> str:
    """Format the detection rates as Markdown.

    Parameters
    ----------
    detected
        Result of `analysis.studies.detection_power.detect`.
    layers
        Label of each setting with its wrong layer.
    """
    margins = list(dict.fromkeys(detected.margin))
    return "\n\n".join(
        [
            f"Settings (wrong layer): {', '.join(layers)}. Commit {code_version()}, "
            f"{datetime.now(UTC).date().isoformat()}.",
            " ".join(_sentences(detected, margins)),
            "By setting, with the largest number of draws that gives several sweeps per setting "
            f"({_by_setting_draws(detected)}): share of checked sweeps in which the wrong layer "
            "disagrees; in parentheses, Wilson's 95 % interval. Moment: change of the wrong "
            "layer's `preact_m2`.",
            _setting_table(detected, margins),
            "All settings together. In parentheses: lowest and highest share of a setting. In the "
            "rows of error 0 %, no layer is wrong, and the share is that of sweeps in which some "
            "layer disagrees, with Wilson's 95 % interval.",
            _pooled_table(detected, margins),
            "Smallest of these numbers of draws at which the wrong layer disagrees in 50 % / in "
            "95 % of the sweeps (-: none of them). This table leaves out settings in which the "
            "error changes the layer's moment by less than half of itself, because biases "
            "dominate the moment.",
            _reached_table(detected, margins),
        ]
    )


def _sentences(detected: pd.DataFrame, margins: Sequence[float]) -> Iterator[str]:
    """Yield the disagreements without an error, and the settings in which each error is found."""
    smallest = detected[(detected.error == 0) & (detected.margin == min(margins))]
    counts = [
        f"{int(group.anywhere.sum())} of {len(group)} sweeps with {draws:,} draws"
        for draws, group in smallest.groupby("draws")
    ]
    yield (
        f"Without an error, some layer disagrees in {_listed(counts)} (margin {min(margins):g})."
    )
    margin = DEFAULT_MARGIN if DEFAULT_MARGIN in margins else margins[0]
    n_draws = _by_setting_draws(detected)
    chosen = detected[(detected.draws == n_draws) & (detected.margin == margin)]
    for error, rows in chosen[chosen.error > 0].groupby("error"):
        shares = rows.groupby("setting", sort=False).at_layer.mean()
        missed = ", ".join(map(str, shares.index[shares == 0]))
        groups = {
            "every sweep": int((shares == 1).sum()),
            "some sweeps": int(((shares > 0) & (shares < 1)).sum()),
            "no sweep": int((shares == 0).sum()),
        }
        parts = [
            f"in {which} of {n} setting{'s' if n > 1 else ''}" for which, n in groups.items() if n
        ]
        yield (
            f"With margin {margin:g} and {n_draws:,} draws, an error of {100 * error:.0f} % is "
            f"found {_listed(parts)}{f' ({missed})' if missed else ''}."
        )


def _listed(parts: Sequence[str]) -> str:
    *others, last = parts
    return f"{', '.join(others)} and {last}" if others else last


def _share(hits: pd.Series) -> str:
    """Format the share of independent sweeps with Wilson's interval."""
    interval = stats.binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    return f"{hits.mean():.0%} ({interval.low:.0%} to {interval.high:.0%})"


def _pooled_share(group: pd.DataFrame, error: float) -> str:
    """Format the share of all sweeps, which are not independent, with the range over settings."""
    if not error:
        return _share(group.anywhere)
    by_setting = group.groupby("setting").at_layer.mean()
    return f"{group.at_layer.mean():.0%} ({by_setting.min():.0%} to {by_setting.max():.0%})"


def _pooled_table(detected: pd.DataFrame, margins: Sequence[float]) -> str:
    rows = []
    for (error, draws), group in detected.groupby(["error", "draws"]):
        n_sweeps = int((group.margin == margins[0]).sum())
        shares = [_pooled_share(group[group.margin == m], error) for m in margins]
        rows.append([f"{error:.0%}", str(draws), str(n_sweeps), *shares])
    header = ["error", "draws", "sweeps", *(f"margin {margin:g}" for margin in margins)]
    return markdown_table(header, rows)


def _reached_table(detected: pd.DataFrame, margins: Sequence[float]) -> str:
    seen = detected[(detected.error > 0) & (detected.change > 1 + detected.error / 2)]
    rates = seen.groupby(["error", "margin", "draws"]).at_layer.mean()
    rows = []
    for error in rates.index.unique("error"):
        cells = []
        for margin in margins:
            by_draws = rates[error, margin]
            reached = [by_draws[by_draws >= share].index.min() for share in REACHED]
            cells.append(" / ".join("-" if np.isnan(n) else f"{n:.0f}" for n in reached))
        rows.append([f"{error:.0%}", *cells])
    return markdown_table(["error", *(f"margin {margin:g}" for margin in margins)], rows)


def _by_setting_draws(detected: pd.DataFrame) -> int:
    sizes = detected[detected.error == 0].groupby("draws").size()
    several = sizes[sizes > sizes.min()]
    return int(several.index.max() if len(several) else sizes.index.max())


def _setting_table(detected: pd.DataFrame, margins: Sequence[float]) -> str:
    rows = []
    selected = detected[(detected.draws == _by_setting_draws(detected)) & (detected.error > 0)]
    for (setting, error), group in selected.groupby(["setting", "error"], sort=False):
        shares = [_share(group[group.margin == m].at_layer) for m in margins]
        rows.append([str(setting), f"{error:.0%}", f"{group.change.iloc[0] - 1:+.1%}", *shares])
    header = ["setting", "error", "moment", *(f"margin {margin:g}" for margin in margins)]
    return markdown_table(header, rows)
