"""A setting's layers in one table: from the lowest rung to the measurement, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Group, JustifyMethod
from rich.table import Table
from rich.text import Text

from analysis.comparison import Comparison, table
from analysis.gap import closed
from analysis.summary import needed_in_words
from fanin.statistics.agreement import APART, UNDECIDED
from fanin.theory.rungs import RUNGS

LEGEND = (
    "Each layer: the first rung's number, times what each further rung makes of it (x), times "
    "measured/highest, is measured. A verdict holds the layer against the highest rung: `agrees` "
    "within a factor of {margin:g}, `disagrees` (false alarms: {level:g} in the whole sweep), "
    "`needs N`: undecided, about N draws would tell; `theory unsure`: undecided, and theory's own "
    "sampling is too coarse for any number of draws."
)
JUDGED = (
    *("rung", "log_sd", "kind", "test", "log_ratio", "log_ratio_se", "p_holm", "verdict"),
    *("needed", "step", "step_se", "step_p_holm", "step_verdict", "sd_ratio", "spread_p_holm"),
)


def shown(comparison: Comparison, judged: pd.DataFrame, quantity: str, image: int) -> Group:
    """One setting for the terminal: its label, its table, and why there is no prediction.

    Parameters
    ----------
    judged
        The setting's rows of `analysis.verdicts.verdicts`.
    quantity, image
        Of the `layers` table.
    """
    frame = table(comparison, quantity, image)
    title = f"{comparison.setting.label}   ({quantity}, {frame['draws'].max()} draws)"
    reason = [] if comparison.unpredicted is None else [Text(comparison.unpredicted)]
    return Group(Text(title), as_table(frame, _only(judged, quantity, image)), *reason)


def as_table(frame: pd.DataFrame, judged: pd.DataFrame) -> Table:
    """A setting's layers: measured, the rungs, what is left, and the verdict.

    Parameters
    ----------
    frame
        From `analysis.comparison.table`.
    judged
        The verdicts on those layers, if there are any.
    """
    rungs = [rung for rung in RUNGS if frame[rung].notna().any()]
    words = _words(judged)
    layers = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    headings = ["layer", "name", "measured", "se", *rungs[:1]]
    headings += [f"x\n{rung}" for rung in rungs[1:]]
    headings += [f"measured\n/{rung}" for rung in rungs[-1:]]
    headings += ["sd\n/log_sd", "verdict"] if words else []
    for heading in headings:
        justify: JustifyMethod = "left" if heading in ("name", "verdict") else "right"
        layers.add_column(heading, justify=justify, no_wrap=True)
    chain = _chain(frame, rungs)
    for n, row in enumerate(frame.to_dict("records")):
        told = [str(row["layer"]), str(row["layer_name"])]
        told += [f"{row['measured']:.3g}", f"{row['se']:.1g}"]
        told += [f"{number:.3g}" for number in chain[n]]
        layers.add_row(*told, *words.get(row["layer"], ()))
    return layers


def as_frame(
    comparisons: Sequence[Comparison], rows: pd.DataFrame, quantity: str, image: int
) -> pd.DataFrame:
    """All settings in one frame, the setting's words in front.

    Returns
    -------
    pandas.DataFrame
        `setting`, the columns of `analysis.comparison.table`, of `analysis.gap.closed` and, of the
        verdicts, `JUDGED`.
    """
    frames = []
    for n, comparison in enumerate(comparisons):
        frame = table(comparison, quantity, image)
        mine = _only(rows[rows["setting"] == n], quantity, image)
        judged = mine.set_index("layer").reindex(columns=JUDGED).reindex(frame["layer"])
        parts = [frame, closed(frame, list(RUNGS)), judged.reset_index(drop=True)]
        frames.append(pd.concat(parts, axis=1).assign(setting=comparison.setting.label))
    return pd.concat(frames).set_index("setting").reset_index()


def _chain(frame: pd.DataFrame, rungs: Sequence[str]) -> np.ndarray:
    """[layer, factor]: the lowest rung, each next over the one below, measured over the highest."""
    if not rungs:
        return np.empty((len(frame), 0))
    below = frame[list(rungs)].ffill(axis=1).to_numpy(float)
    above = np.column_stack([frame[list(rungs)].to_numpy(float)[:, 1:], frame["measured"]])
    with np.errstate(all="ignore"):
        return np.column_stack([below[:, 0], above / below])


def _words(judged: pd.DataFrame) -> dict[int, tuple[str, str]]:
    """By layer: measured to predicted spread, and the verdict."""
    words = {}
    for row in judged.to_dict("records"):
        told = {UNDECIDED: needed_in_words(row["needed"]), APART: row["kind"]}
        spread = "" if np.isnan(row["sd_ratio"]) else f"{row['sd_ratio']:.2f}"
        words[row["layer"]] = (spread, told.get(row["verdict"], row["verdict"]))
    return words


def _only(rows: pd.DataFrame, quantity: str, image: int) -> pd.DataFrame:
    return rows[(rows["quantity"] == quantity) & (rows["image"] == image)]
