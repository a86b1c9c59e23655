"""The report's numbers and the theory's, each beside what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from analysis.figures.dying_relu.cells import CIRCLE, CROSS, KERNEL, REMEDIES, Layer, SweepCells
from analysis.figures.query import bracket, select
from analysis.figures.study import ClaimResult

LAYERS: dict[Layer, str] = {"filter": "filter", "linear": "linear layer"}
TAPS = 3 * KERNEL**2  # of the filter, over three colours
HELPS = {
    "none": "a smaller learning rate alone helps (report)",
    "U(-0.1, 0.1)": "helps (report)",
    "tanh": "helps (report)",
    "conv gradient x 1e-3": "helps (report)",
    "conv gradient x 1e-6": "helps (report)",
    "linear layer alone": "classifies both images (report)",
}


def claim_results(runs: SweepCells, criterion: Mapping[str, Any]) -> Iterator[ClaimResult]:
    """Every line of the study, in the order of the page."""
    yield from reported(runs, criterion)
    yield from _remedies(runs)
    yield from _boundary(runs, float(criterion["boundary"]))
    yield from _curvature(runs, float(criterion["factor"]))
    yield from _descent(runs, float(criterion["boundary"]))


def _remedies(runs: SweepCells) -> Iterator[ClaimResult]:
    trained, long = runs.part("remedies"), runs.part("long")
    for remedy in REMEDIES.values():
        mine = trained[trained["remedy"] == remedy]
        if len(mine):
            yield _remedy(remedy, HELPS[remedy], mine)
    for rule, rows in long.groupby("clip.bias", observed=True, sort=True):
        own = rule == "own"
        name = "none, each bias with its own gradient" if own else "none"
        line = _remedy(name, "not in the report" if own else HELPS["none"], rows)
        yield replace(line, holds=None) if own else line
    yield _cross_alone(long[long["clip.bias"] == "mean_of_weights"])


def _cross_alone(cells: pd.DataFrame) -> ClaimResult:
    """Say what a smaller learning rate leaves."""
    alive = cells[~cells["dead_at_end"]]
    return ClaimResult(
        f"none: map of the cross after {int(cells['train.steps'].max())} steps, where that of the "
        "circle is not black",
        "nothing is claimed. Where it is black the cross's logit is the classifier's bias, which "
        "the average of gradients that are all 0 never moves",
        f"black in {alive['cross_dead_at_end'].sum()} of {len(alive)} runs, of which "
        f"{(alive['cross_dead_at_end'] & alive['both_correct']).sum()} classify both images",
        None,
    )


def _remedy(remedy: str, claim: str, cells: pd.DataFrame) -> ClaimResult:
    told, holds = [], []
    for inputs, rows in cells.groupby("inputs"):
        both_correct = rows.groupby("optim.lr")["both_correct"]
        window = _window(both_correct.sum(), both_correct.size())
        fastest = rows[rows["optim.lr"] == rows["optim.lr"].max()]
        black = (
            f", black after the step at rate {fastest['optim.lr'].iloc[0]:g}: "
            f"{fastest['dead'].sum()} of {len(fastest)}"
        )
        dead_at_start = f", black from the start: {rows['dead_at_start'].sum()} of {len(rows)}"
        has_map = rows["model"].iloc[0] != "linear"
        told.append(f"{inputs}: {window}{black * has_map}{dead_at_start *
        bool(rows['dead_at_start'].any())}") holds.append(bool((both_correct.mean() == 1).any()))
    return ClaimResult(
        f"{remedy}: learning rates at which all runs classify both images "
        f"({int(cells['train.steps'].max())} steps)",
        claim,
        "; ".join(told),
        all(holds),
    )


def _window(both_correct: pd.Series, runs: pd.Series) -> str:
    """At which of the rates all runs do, in words; by rate, how many do and how many there are."""
    works = both_correct.index[both_correct == runs]
    if len(works):
        ends = f"{works.min():g} to {works.max():g}" if len(works) > 1 else f"{works[0]:g}"
        return f"{len(works)} of {len(runs)} ({ends})"
    if both_correct.max() == 0:
        return f"none of {len(runs)}, and no run at any"
    best = both_correct.idxmax()
    return f"none of {len(runs)}, at best {both_correct.max():g} of {runs[best]:g} runs (at {best:g})"


def killing_thresholds(runs: SweepCells, cells: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Find the learning rate from which one step smallest_dead: a row per group.

    Returns
    -------
    pandas.DataFrame
        The group's keys, `largest_alive` (largest rate below the first that smallest_dead; 0 where
        none) and `smallest_dead` (the smallest that smallest_dead; inf where none), `measured`
        (midway between them, in logarithm), `predicted`, and `cell_id` of one of its cells.
    """
    rows = []
    for key, mine in cells.groupby(by, observed=True):
        ordered = mine.sort_values("optim.lr")
        rates, dead = ordered["optim.lr"].to_numpy(float), ordered["dead"].to_numpy(bool)
        largest_alive, smallest_dead = bracket(rates, dead)
        rows.append(
            {
                **dict(zip(by, key, strict=True)),
                "largest_alive": largest_alive,
                "smallest_dead": smallest_dead,
                "measured": float(np.sqrt(largest_alive * smallest_dead)),
                "predicted": runs.killing_rate(str(ordered.index[0])),
                "cell_id": str(ordered.index[0]),
            }
        )
    return pd.DataFrame(rows)


def _boundary(runs: SweepCells, allowed: float) -> Iterator[ClaimResult]:
    found = killing_thresholds(runs, runs.part("boundary"), ["inputs", "data.side", "seed"])
    for inputs, mine in found.groupby("inputs"):
        told = [f"{_between(rows)} (side {side})" for side, rows in mine.groupby("data.side")]
        expected = [
            f"{rows['predicted'].iloc[0]:.1e} ({side})" for side, rows in mine.groupby("data.side")
        ]
        yield ClaimResult(
            f"{inputs}: learning rate from which one step on the cross smallest_dead",
            f"{', '.join(expected)}, by theory",
            ", ".join(told),
            _near(mine, allowed),
        )
    trained = runs.part("remedies")
    shrunk = trained[(trained["remedy"].isin(["none", "conv gradient x 1e-3"]))]
    found = killing_thresholds(runs, shrunk, ["inputs", "factor", "seed"])
    pairs = found.pivot_table(index=["inputs", "seed"], columns="factor", values="measured")
    if {1.0, 1e-3} <= set(pairs.columns):
        gained = (pairs[1e-3] / pairs[1.0]).replace(np.inf, np.nan).dropna()
        if len(gained):
            yield ClaimResult(
                "conv gradient x 1e-3: that rate over the one without (rates a factor of 10 apart)",
                "1e3, by theory",
                f"{gained.min():.0e} to {gained.max():.0e} ({len(gained)} pairs of runs)",
                bool(((gained > 0.99e2) & (gained < 1.01e4)).all()),
            )


def _between(rows: pd.DataFrame) -> str:
    low, high = rows["largest_alive"].min(), rows["smallest_dead"].max()
    return f"{low:.1e} to {'beyond the grid' if np.isinf(high) else f'{high:.1e}'}"


def _near(found: pd.DataFrame, allowed: float) -> bool:
    """Return True if every run's bracket, widened by a factor, holds the predicted rate."""
    predicted = found["predicted"]
    above = predicted * allowed >= found["largest_alive"]
    return bool((above & (predicted <= allowed * found["smallest_dead"])).all())


def _curvature(runs: SweepCells, factor: float) -> Iterator[ClaimResult]:
    every = runs.part("curvature")
    told = {name: runs.curvatures(every.loc[[name]]) for name in every.index}
    uniform = every[every["init.a"] == 0].sort_values("data.side")
    centred = every[every["init.a"] < 0].sort_values("data.side")
    for layer, words in LAYERS.items():
        measured = [float(told[name][layer].median()) for name in uniform.index]
        expected = [runs.theory(str(name)).curvature(layer) for name in uniform.index]
        for what, turn in (("curvature lambda", False), ("largest stable step, 2 / lambda,", True)):
            pair = [[_stable(v) if turn else v for v in values] for values in (expected, measured)]
            yield ClaimResult(
                f"U(0, 1), unsaturated: {what} of the {words}, sides {_sides(uniform)}",
                f"{_listed(pair[0])}, by theory",
                f"{_listed(pair[1])} (medians of {uniform['probe.draws'].min():g} draws)",
                _alike(expected, measured, factor),
            )
    for cells, words in ((uniform, "U(0, 1)"), (centred, "U(-0.1, 0.1)")):
        ratios = [told[name]["filter"] / told[name]["linear"] for name in cells.index]
        measured = [float(ratio.median()) for ratio in ratios]
        expected = [runs.theory(str(name)).curvature_ratio() for name in cells.index]
        by_hand = [side**2 / TAPS for side in cells["data.side"]]
        mean_rules = cells is uniform
        yield ClaimResult(
            f"{words}: curvature of the filter over that of the linear layer, sides "
            f"{_sides(cells)}",
            f"{_listed(expected)}, by theory"
            + (
                f"; positions / taps: {_listed(by_hand)}"
                if mean_rules
                else ", which leaves out the ReLU and is of the mean curvatures"
            ),
            f"{_listed(measured)} (medians)",
            _alike(expected, measured, factor) if mean_rules else None,
        )
    yield from _no_boundary(runs)


def _no_boundary(runs: SweepCells) -> Iterator[ClaimResult]:
    """The linear layer alone: the rates that work, in units of 2 / lambda at its max_curvature."""
    trained = runs.part("remedies")
    alone = trained[trained["model"] == "linear"]
    for inputs, rows in alone.groupby("inputs"):
        both_correct = rows.groupby("optim.lr")["both_correct"].mean()
        works = both_correct.index[both_correct == 1]
        if not len(works):
            continue
        stable = 2 / runs.max_curvature(str(rows.index[0]))
        yield ClaimResult(
            f"{inputs}, the linear layer alone: largest rate at which all runs classify both, "
            "times lambda / 2 where p = 1/2",
            f"false: at most 1 (cross entropy has no such boundary). 2 / lambda = {stable:.1e}",
            f"{works.max() / stable:.1e}",
            bool(works.max() > 2 * stable),
        )


def _stable(curvature: float) -> float:
    """The largest stable step; infinite where there is no curvature."""
    return 2 / curvature if curvature else float("inf")


def _sides(cells: pd.DataFrame) -> str:
    return ", ".join(f"{side:g}" for side in cells["data.side"])


def _listed(values: list[float]) -> str:
    return ", ".join(f"{value:.2g}" if value < 100 else f"{value:.0f}" for value in values)


def _alike(expected: list[float], measured: list[float], factor: float) -> bool:
    pairs = zip(expected, measured, strict=True)
    return all(one <= factor * other and other <= factor * one for one, other in pairs)


def _descent(runs: SweepCells, allowed: float) -> Iterator[ClaimResult]:
    start = runs.part("report")
    curvature = runs.curvatures(start)
    flat = int((curvature == 0).all(axis=1).sum())
    yield ClaimResult(
        "as reported: curvature of both layers at the start",
        "false: the curvature there tells the step that smallest_dead. p rounds to 1, so it is 0",
        f"exactly 0 in {flat} of {len(curvature)} runs, of which {start['dead'].sum()} are black "
        "after the step",
        flat == len(curvature) and bool(start["dead"].all()),
    )
    cells = runs.part("descent")
    found = killing_thresholds(runs, cells, ["data.side", "factor", "seed"])
    layers = runs.curvatures(cells).droplevel("draw")
    stable = 2 / (layers["filter"].reindex(found["cell_id"]).to_numpy() * found["factor"])
    low, high = found["largest_alive"] / stable, found["smallest_dead"] / stable
    told = found["predicted"] / stable
    yield ClaimResult(
        "from unsaturated logits, no biases: learning rate from which one step smallest_dead, times
        " "lambda / 2 of the filter", f"false: 1. Theory of the step itself: {told.min():.2g} to
        {told.max():.2g}", f"between {low.min():.2g} and {high.max():.2g} ({len(found)} networks,
        half of them with " "a shrunk gradient)", _near(found, allowed) and bool((high < 1).all()),
    )


def reported(runs: SweepCells, criterion: Mapping[str, Any]) -> Iterator[ClaimResult]:
    """Hold what the report says of the network after the step against what is there."""
    cells = runs.part("report")
    yield ClaimResult(
        "feature map of both images after the first step on the cross, learning rate 1",
        "black (report)",
        ", ".join(
            f"{inputs}: black in {rows['dead'].sum()} of {len(rows)} runs"
            for inputs, rows in cells.groupby("inputs")
        ),
        bool(cells["dead"].all()),
    )
    yield _filters(runs, cells, float(criterion["filter"]), float(criterion["factor"]))
    yield from _gradients(runs, cells, criterion)


def _filters(runs: SweepCells, cells: pd.DataFrame, reported: float, factor: float) -> ClaimResult:
    told, expected, holds = [], [], []
    for (inputs, side), rows in cells.groupby(["inputs", "data.side"]):
        means = [
            float(runs.values(str(cell_id), "conv1", "weight", int(row["cross_step"]), -1).mean())
            for cell_id, row in rows.iterrows()
        ]
        cell_id = str(rows.index[0])
        theory = runs.theory(cell_id)
        cross = runs.labels(cell_id).tolist().index(CROSS)
        gradient = theory.mean * theory.patches[cross].sum(0)
        told.append(f"{inputs}, side {side}: {min(means):.1e} to {max(means):.1e}")
        predicted = theory.mean - float(rows["optim.lr"].iloc[0]) * float(gradient.mean())
        expected.append(f"{predicted:.1e}")
        holds.append(all(reported * factor <= mean <= reported / factor for mean in means))
    where = [words.partition(":")[0] for words, holding in zip(told, holds, strict=True) if holding]
    return ClaimResult(
        "mean weight of the filter after it",
        f"{reported:.0e} (report); by theory, in the order on the both_correct, {',
        '.join(expected)}", "; ".join(told) + f". Within a factor of {factor:g}: {', '.join(where)
        or 'none'}", any(holds),
    )


def _gradients(runs: SweepCells, cells: pd.DataFrame, criterion: Mapping[str, Any]) ->
Iterator[ClaimResult]:
    """At any step after the first one on the cross, in any of the runs."""
    medians = _medians(runs, cells)
    circle, cross = (criterion[name] for name in ("circle", "cross"))
    inside = _inside(medians[CIRCLE], circle) & _inside(medians[CROSS], cross)
    turned = _inside(-medians[CIRCLE], circle) & _inside(-medians[CROSS], cross)
    large = medians[_inside(medians[CIRCLE], cross)]
    where = ", ".join(sorted(cells.loc[large["cell_id"], "inputs"].unique()))
    widest = cells[cells["data.side"] == cells["data.side"].max()]
    raw = widest[widest["scaling"] == "raw"]
    like = raw if len(raw) else widest
    shown = medians[medians["cell_id"].isin(like.index) & medians["first"]]
    yield ClaimResult(
        "median gradient with respect to the classifier's inputs, on the circle and on the cross",
        f"{_range(circle)} and {_range(cross)} (report)",
        f"both so in {int(inside.sum())} of {len(medians)} styles at {len(cells)} runs, with the "
        f"other sign in {int(turned.sum())}. {_range(cross)} on the *circle* in {len(large)} "
        f"({where or 'nowhere'}). After the step, {like['inputs'].iloc[0]}, side "
        f"{like['data.side'].iloc[0]}: circle {_spread(shown[CIRCLE])}, cross "
        f"{_spread(shown[CROSS])}",
        bool(inside.any()),
    )
    # A black map gives both images one logit: gradients (p - 1) v and p v, v the weights.
    odds = -np.mean(cross) / np.mean(circle)  # p / (1 - p)
    sure = _logits(runs, cells)
    yield ClaimResult(
        "logit that both images share once the maps are black",
        f"{np.log(odds):.1f}, were it as reported: the two gradients are (p - 1) v "
        "and p v with the same weights v, of which then v > 0",
        f"{sure.min():.3g} to {sure.max():.3g}; median v after the step: {_readouts(runs, cells)}",
        None,
    )


def _medians(runs: SweepCells, cells: pd.DataFrame) -> pd.DataFrame:
    """By cell and step since the cross was cross_step: median gradient on circle and cross."""
    mine = select(runs.results.tensors, layer_name="fc1", quantity="input_grad")
    mine = mine[mine["cell_id"].isin(cells.index)]
    keys = [mine["cell_id"].astype(str), mine["step"], mine["image"]]
    by_image = mine["value"].groupby(keys).median().unstack("image").reset_index()
    cross_step = by_image["cell_id"].map(cells["cross_step"])
    by_image = by_image[by_image["step"] >= cross_step].assign(first=by_image["step"] == cross_step)
    labels = runs.labels(str(cells.index[0])).tolist()
    return by_image.rename(columns=dict(enumerate(labels)))


def _inside(values: pd.Series, bounds: list[float]) -> pd.Series:
    return values.between(*bounds)


def _logits(runs: SweepCells, cells: pd.DataFrame) -> pd.Series:
    mine = select(runs.results.layers, layer_name="fc1", quantity="preact_mean", image=0)
    mine = mine[mine["cell_id"].isin(cells.index[cells["dead"]])]
    cross_step = mine["cell_id"].astype(str).map(cells["cross_step"])
    return mine["value"][mine["step"] >= cross_step]


def _readouts(runs: SweepCells, cells: pd.DataFrame) -> str:
    told = []
    for inputs, rows in cells.groupby("inputs"):
        medians = [
            float(runs.values(str(name), "fc1", "weight", int(row["cross_step"]), -1).median())
            for name, row in rows.iterrows()
        ]
        told.append(f"{inputs} {min(medians):.3g} to {max(medians):.3g}")
    return ", ".join(told)


def _range(bounds: list[float]) -> str:
    return f"{bounds[0]:+g} to {bounds[1]:+g}"


def _spread(values: pd.Series) -> str:
    found = torch.tensor(values.to_numpy()) + 0.0  # no -0
    return f"{float(found.min()):+.3g} to {float(found.max()):+.3g}"
