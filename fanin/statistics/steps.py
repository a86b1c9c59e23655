"""What each layer adds: measured against predicted increments of the log-moment.

One early error shows in the moments of all later layers, and the spread of a late layer's moment is
that of all layers before it together. The step from one layer to the next has the spread of one
layer, and steps are independent of each other up to O(1/width) (THEORY.md, section 5.4): so fewer
draws find an error, and they find where it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fanin.statistics.draws import summarized
from fanin.statistics.log_ratio import LogRatio


def steps(draws: pd.DataFrame, rows: pd.DataFrame, keys: Sequence[str]) -> LogRatio:
    """Compare log(m_l / m_k) with its prediction, k the layer before l.

    Going backward the layer before is the one above: `layer` counts downwards there, as the caller
    has it.

    Parameters
    ----------
    draws
        A row per draw: `keys`, `place`, `draw` (what tells draws of one group apart) and `value`.
    rows
        A row per layer, sorted by nothing in particular: `keys`, `place`, `value`, `log_sd`,
        `sampling_se`, as `fanin.statistics.agreement.verdicts` takes them.
    keys
        What the layers of one network, image and quantity share. `place` is the layer's number in
        the order in which the signal passes.

    Returns
    -------
    LogRatio
        An entry for each of `rows`; NaN for the first layer, where the theory predicts no spread,
        and where some draw is zero or infinite. The spread of a step is the draws' own. Theory's
        errors at both ends are added as if they were independent, though an error is mostly carried
        along: the standard error is rather too large.
    """
    index = [*keys, "place"]
    law = _predicted_steps(rows, keys)
    ordered = draws.sort_values([*keys, "draw", "place"], kind="stable")
    with np.errstate(divide="ignore", invalid="ignore"):
        ordered = ordered.assign(value=np.log(ordered["value"].to_numpy(float)))
        adjacent = (
            ordered[[*keys, "draw"]].ne(ordered[[*keys, "draw"]].shift()).any(axis=1).to_numpy()
        )
        added = ordered["value"].diff().to_numpy()
    added = ordered[~adjacent].assign(value=added[~adjacent])
    found = summarized(added, index).set_index(index)
    found = found.reindex(pd.MultiIndex.from_frame(law[index]))
    usable = (found["overflowed"] == 0).to_numpy() & law["expected"].notna().to_numpy()
    scale = np.where(usable, found["scale"], np.nan)
    return LogRatio(
        value=found["mean"].to_numpy() * scale - law["expected"].to_numpy(),
        draw_sd=found["sd"].to_numpy() * scale,
        draws=found["draws"].to_numpy(float),
        theory_se=law["expected_se"].to_numpy(),
    )


def _predicted_steps(rows: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = rows["sampling_se"] / rows["value"]
        level = np.log(rows["value"].to_numpy(float)) - rows["log_sd"] ** 2 / 2
    law = rows[[*keys, "place"]].assign(level=level, relative=relative)
    before = law.assign(place=law["place"] + 1)
    both = law.merge(before, on=[*keys, "place"], how="left", suffixes=("", "_before"))
    return both.assign(
        expected=(both["level"] - both["level_before"]).to_numpy(),
        expected_se=np.hypot(both["relative"], both["relative_before"]).to_numpy(),
    )
