"""The report's numbers and the theory's, each beside what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.dying_relu.reported import reported
from analysis.figures.dying_relu.runs import REMEDIES, Runs
from analysis.figures.study import Headline

HELPS = {
    "none": "a smaller learning rate alone helps (report)",
    "U(-0.1, 0.1)": "helps (report)",
    "tanh": "helps (report)",
    "conv gradient x 1e-3": "helps (report)",
    "conv gradient x 1e-6": "helps (report)",
    "linear layer alone": "classifies both images (report)",
}


def headlines(runs: Runs, criterion: Mapping[str, Any]) -> Iterator[Headline]:
    """Every line of the study, in the order of the page."""
    yield from reported(runs, criterion)
    yield from _remedies(runs)
    yield from _boundary(runs, float(criterion["boundary"]))
    yield from _curvature(runs, float(criterion["factor"]))
    yield from _descent(runs, float(criterion["boundary"]))


def _remedies(runs: Runs) -> Iterator[Headline]:
    trained = runs.kind("remedies")
    for remedy in REMEDIES.values():
        mine = trained[trained["remedy"] == remedy]
        told, holds = [], []
        for scaling, rows in mine.groupby("scaling", observed=True, sort=True):
            right = rows.groupby("optim.lr")["right"].mean()
            works = right.index[right == 1]
            dead = rows[rows["optim.lr"] == rows["optim.lr"].max()]["dead"]
            window = _window(list(works), len(right))
            fastest = rows["optim.lr"].max()
            black = f", black at once at rate {fastest:g}: {dead.sum()} of {len(dead)}"
            black = "" if remedy == "linear layer alone" else black
            told.append(f"{scaling}: {window}{black}")
            holds.append(len(works) > 0)
        if told:
            steps = int(mine["train.steps"].max())
            yield Headline(
                f"{remedy}: learning rates at which all runs classify both images ({steps} steps)",
                HELPS[remedy],
                "; ".join(told),
                all(holds),
            )


def _window(rates: list[float], tried: int) -> str:
    if not rates:
        return f"none of {tried}"
    ends = f"{min(rates):g} to {max(rates):g}" if len(rates) > 1 else f"{rates[0]:g}"
    return f"{len(rates)} of {tried} ({ends})"


def onsets(runs: Runs, cells: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Where one step begins to kill: a row per group.

    Returns
    -------
    pandas.DataFrame
        The group's keys, `spares` (largest rate below the first that kills; 0 where none) and
        `kills` (the smallest that kills; inf where none), `measured` (midway between them, in
        logarithm), `predicted`, and `cell_id` of one of its cells.
    """
    rows = []
    for key, mine in cells.groupby(by, observed=True):
        ordered = mine.sort_values("optim.lr")
        rates, dead = ordered["optim.lr"].to_numpy(float), ordered["dead"].to_numpy(bool)
        at = int(dead.argmax()) if dead.any() else len(rates)
        spares = rates[at - 1] if at else 0.0
        kills = rates[at] if at < len(rates) else np.inf
        rows.append(
            {
                **dict(zip(by, key, strict=True)),
                "spares": spares,
                "kills": kills,
                "measured": float(np.sqrt(spares * kills)) if at else 0.0,
                "predicted": runs.killing_rate(str(ordered.index[0])),
                "cell_id": str(ordered.index[0]),
            }
        )
    return pd.DataFrame(rows)


def _boundary(runs: Runs, allowed: float) -> Iterator[Headline]:
    found = onsets(runs, runs.kind("boundary"), ["scaling", "data.side", "seed"])
    for scaling, mine in found.groupby("scaling", observed=True):
        told = [f"{_between(rows)} (side {side})" for side, rows in mine.groupby("data.side")]
        expected = [
            f"{rows['predicted'].iloc[0]:.1e} ({side})" for side, rows in mine.groupby("data.side")
        ]
        yield Headline(
            f"{scaling}: learning rate from which one step on the cross kills",
            f"{', '.join(expected)}, by theory",
            ", ".join(told),
            _near(mine, allowed),
        )
    trained = runs.kind("remedies")
    shrunk = trained[(trained["remedy"].isin(["none", "conv gradient x 1e-3"]))]
    found = onsets(runs, shrunk, ["scaling", "factor", "seed"])
    pairs = found.pivot_table(index=["scaling", "seed"], columns="factor", values="measured")
    if {1.0, 1e-3} <= set(pairs.columns):
        gained = (pairs[1e-3] / pairs[1.0]).replace(np.inf, np.nan).dropna()
        if len(gained):
            yield Headline(
                "conv gradient x 1e-3: that rate over the one without (rates a factor of 10 apart)",
                "1e3, by theory",
                f"{gained.min():.0e} to {gained.max():.0e} ({len(gained)} pairs of runs)",
                bool(((gained > 0.99e2) & (gained < 1.01e4)).all()),
            )


def _between(rows: pd.DataFrame) -> str:
    low, high = rows["spares"].min(), rows["kills"].max()
    return f"{low:.1e} to {'beyond the grid' if np.isinf(high) else f'{high:.1e}'}"


def _near(found: pd.DataFrame, allowed: float) -> bool:
    """Whether every run's bracket, widened by a factor, holds the predicted rate."""
    predicted = found["predicted"]
    above = predicted * allowed >= found["spares"]
    return bool((above & (predicted <= allowed * found["kills"])).all())


def _curvature(runs: Runs, factor: float) -> Iterator[Headline]:
    cells = runs.kind("curvature")
    for cell_id, row in cells.sort_values(["init.a", "data.side"]).iterrows():
        theory, side = runs.theory(str(cell_id)), int(row["data.side"])
        measured = runs.curvatures(cells.loc[[cell_id]])
        if float(row["init.a"]) == 0:
            for layer in ("filter", "linear"):
                value = float(measured[layer].median())
                told = theory.curvature(layer)
                yield Headline(
                    f"side {side}, inputs 0 to {row['scaling.scale']:g}: curvature of the "
                    f"{layer}{' layer' if layer == 'linear' else ''}, and the step 2 / lambda",
                    f"{told:.2g}, step {2 / told:.3g}, by theory",
                    f"{value:.2g}, step {2 / value:.3g} (median of {len(measured)} draws)",
                    max(value / told, told / value) <= factor,
                )
        ratio = measured["filter"] / measured["linear"]
        told = theory.curvature_ratio()
        centred = float(row["init.a"]) < 0
        holds = max(ratio.median() / told, told / ratio.median()) <= factor
        yield Headline(
            f"side {side}, U({row['init.a']:g}, {row['init.b']:g}): curvature of the filter over "
            "that of the linear layer",
            f"{told:.3g}, by theory" + (" without ReLU" if centred else ""),
            f"{ratio.median():.2g} (median of {len(ratio)} draws; half of them "
            f"{ratio.quantile(0.25):.2g} to {ratio.quantile(0.75):.2g})",
            None if centred else bool(holds),
        )


def _descent(runs: Runs, allowed: float) -> Iterator[Headline]:
    start = runs.kind("report")
    curvature = runs.curvatures(start)
    flat = int((curvature == 0).all(axis=1).sum())
    yield Headline(
        "as reported: curvature of both layers at the start",
        "false: the curvature there tells the step that kills. p rounds to 1, so it is 0",
        f"exactly 0 in {flat} of {len(curvature)} runs, of which {start['dead'].sum()} are black "
        "after the step",
        flat == len(curvature) and bool(start["dead"].all()),
    )
    cells = runs.kind("descent")
    found = onsets(runs, cells, ["data.side", "factor", "seed"])
    layers = runs.curvatures(cells).droplevel("draw")
    stable = 2 / (layers["filter"].reindex(found["cell_id"]).to_numpy() * found["factor"])
    units = found["measured"] / stable
    yield Headline(
        "from unsaturated logits: learning rate from which one step kills, times lambda / 2 "
        "of the filter",
        "false: 1. By theory of the step itself "
        f"{(found['predicted'] / stable).min():.2g} to {(found['predicted'] / stable).max():.2g}",
        f"{units.min():.2g} to {units.max():.2g} ({len(units)} networks, with and without a "
        "shrunk gradient)",
        _near(found, allowed) and not bool(((units > 0.5) & (units < 2)).any()),
    )
