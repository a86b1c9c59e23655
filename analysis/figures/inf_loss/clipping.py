"""What gradient clipping does to settings that fail, at step 0 and later."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from analysis.figures.inf_loss.parts import cells_of, share
from analysis.figures.study import Headline
from analysis.load import Results

CLIPS = {"none": "no clipping", "norm": "gradient norm <= 1", "value": "gradient entries <= 1"}
# What a setting is, clipping aside.
SETTING = [
    *("model", "model.depth", "model.width", "activation", "init", "train.dtype", "train.steps"),
    *("scaling", "scaling.scale", "optim.lr", "data.corrupt.kind", "data.corrupt.share"),
    *("data.noise", "loss", "seed"),
]


def by_clip(results: Results) -> pd.DataFrame:
    """Settings that were run with each clipping: a row each, `none`, `norm`, `value` (bad step)."""
    parts = [cells_of(results, part) for part in ("fates", "clipped", "bad data", "regression")]
    cells = pd.concat(parts, ignore_index=True)
    # As objects: of strings, an absent value would stay absent, and its row be dropped.
    keys = [cells[key].astype(object).map(str) for key in SETTING]
    groups = cells.groupby([*keys, cells["clip"].astype(str)])["bad_step"]
    ran = groups.size().unstack().reindex(columns=list(CLIPS))
    return groups.min().unstack().reindex(columns=list(CLIPS))[ran.notna().all(axis=1)]


def headlines(table: pd.DataFrame) -> Iterator[Headline]:
    """What clipping does to settings that fail at step 0, and to those that fail later."""
    start, late = table[table["none"] == 0], table[table["none"] > 0]
    spoilt = late.index.get_level_values("data.corrupt.kind") == "missing"
    spoilt &= late.index.get_level_values("data.corrupt.share").astype(float) > 0
    never = {
        "the loss is inf or NaN at step 0": (start, "the loss comes before the gradient"),
        "a later batch holds a missing value": (late[spoilt], "the loss comes before the gradient"),
    }
    for where, (mine, why) in never.items():
        same = (mine["norm"] == mine["none"]) & (mine["value"] == mine["none"])
        yield Headline(
            f"clipping, where {where}",
            f"can't help: {why}",
            f"the same step with either clip in {share(int(same.sum()), len(same))} settings",
            bool(same.all()) if len(mine) else None,
        )
    longer = late[~spoilt]
    saved = {name: int(longer[name].isna().sum()) for name in ("norm", "value")}
    yield Headline(
        "clipping, where a step too long makes it so later",
        "can help",
        f"finite to the end with clip=norm in {share(saved['norm'], len(longer))} settings, "
        f"with clip=value in {share(saved['value'], len(longer))}",
        bool(max(saved.values()) > 0) if len(longer) else None,
    )
