"""Missing values and outliers: when they show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from analysis.figures.inf_loss.parts import cells_of, share
from analysis.figures.study import Headline
from analysis.load import Results
from experiments.inputs import prepared
from experiments.schema import build_cell
from experiments.sweep.store.plan_file import read_frozen
from experiments.training.loader import BatchOrder


def first_spoilt_step(config: Mapping[str, Any]) -> int | None:
    """The first step whose batch has a value that is no number, by the order of the batches."""
    cell = build_cell(config)
    data, scaling = prepared(cell, torch.device("cpu"))
    spoilt = ~scaling.apply(data.train.x).isfinite().flatten(1).all(1)
    size = cell.train.batch_of(len(data.train))
    batches = BatchOrder(len(data.train), size, cell.seed_data)
    steps = range(cell.train.total_steps(len(data.train)))
    return next((step for step in steps if bool(spoilt[batches.at(step)].any())), None)


def headlines(results: Results) -> Iterator[Headline]:
    """Missing values and outliers: when they show, foretold from the order of the batches."""
    cells, frozen = cells_of(results, "bad data"), read_frozen(results.folder)
    plain = cells[cells["clip"].astype(str) == "none"]
    for scaling in plain["scaling"].astype(str).unique():
        mine = plain[plain["scaling"].astype(str) == scaling]
        missing = mine[mine["data.corrupt.kind"].astype(str) == "missing"]
        told = [first_spoilt_step(frozen[str(cell)]["config"]) for cell in missing["cell_id"]]
        steps = missing["bad_step"].tolist()
        agree = [t == s or (t is None and s != s) for t, s in zip(told, steps, strict=True)]
        shown = ", ".join("never" if s != s else f"{s:.0f}" for s in steps)
        why = {
            "standardize": "0: the mean is NaN, and so is every image",
            "unit": "the first batch that holds a spoilt image",
        }.get(scaling, "")
        yield Headline(
            f"missing values, scaling={scaling}: step of the first NaN loss",
            f"{why} ({', '.join(map(str, told))})",
            shown,
            all(agree) if agree else None,
        )
        outliers = mine[mine["data.corrupt.kind"].astype(str) == "outlier"]
        bad = int(outliers["bad_step"].notna().sum())
        yield Headline(
            f"images times 100, scaling={scaling}: inf or NaN loss",
            "nothing is claimed",
            share(bad, len(outliers)),
            None,
        )
